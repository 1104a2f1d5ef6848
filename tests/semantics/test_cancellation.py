"""Cancelling a call: the rows of the outcome table about cancel, each from both sides."""

from __future__ import annotations

import threading

import pytest
import trio
from support import client_of_raw_peer, connected, raw_client_of, settle, start_call

import trpc
from trpc._messages import Kind


class Slow:
    def __init__(self):
        self.log = []
        self.started = trio.Event()

    @trpc.method
    async def with_children(self) -> None:
        async def child(name):
            try:
                await trio.sleep_forever()
            finally:
                self.log.append(f"{name} ended")

        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(child, "child 1")
                nursery.start_soon(child, "child 2")
                await trio.testing.wait_all_tasks_blocked()
                self.started.set()
        finally:
            self.log.append("handler ended")

    @trpc.method
    async def clean_up(self, seconds: float) -> str:
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(seconds)
            self.log.append("cleaned up")
        return "never"

    @trpc.method
    async def finish_anyway(self, seconds: float) -> str:
        with trio.CancelScope(shield=True):
            await trio.sleep(seconds)
        return "done"

    @trpc.method
    async def fail_on_cancel(self) -> None:
        try:
            await trio.sleep_forever()
        except trio.Cancelled:
            raise ValueError("while cleaning up") from None

    @trpc.method
    async def fail_beside_cancel(self) -> None:
        async def child():
            try:
                await trio.sleep_forever()
            finally:
                raise ValueError("child")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(child)
            await trio.sleep_forever()

    @trpc.method
    async def cancelled_group(self) -> None:
        try:
            await trio.sleep_forever()
        except trio.Cancelled as exc:
            raise BaseExceptionGroup("only that", [exc]) from None

    @trpc.method
    async def add(self, a: int, b: int) -> int:
        return a + b


async def test_handler_and_its_children_are_gone_when_the_scope_has_exited(autojump_clock):
    service = Slow()
    async with connected(service) as (client, server):
        with trio.move_on_after(1) as scope:
            await client.proxy(Slow).with_children()
        assert scope.cancelled_caught
        assert sorted(service.log) == ["child 1 ended", "child 2 ended", "handler ended"]
        assert service.log[-1] == "handler ended"
        assert server.calls == ()


async def test_caller_waits_for_the_acknowledgement(autojump_clock):
    service = Slow()
    async with connected(service) as (client, _):
        start = trio.current_time()
        with trio.move_on_after(1):
            await client.proxy(Slow).clean_up(0.5)
        assert trio.current_time() - start == pytest.approx(1.5)
        assert service.log == ["cleaned up"]


@pytest.mark.parametrize("grace", [0, 0.25, 1])
async def test_the_wait_is_bounded_by_the_grace_and_the_late_reply_is_dropped(autojump_clock, grace):
    service = Slow()
    async with connected(service, cancel_grace=grace) as (client, server):
        start = trio.current_time()
        with trio.move_on_after(1) as scope:
            await client.proxy(Slow).clean_up(5)
        assert scope.cancelled_caught
        assert trio.current_time() - start == pytest.approx(1 + grace)
        assert len(server.calls) == 1, "the slot is held until the handler has ended"
        await trio.sleep(10)
        assert server.calls == ()
        assert client.late_replies == 1
        assert await client.proxy(Slow).add(1, 2) == 3, "the reader goes on"


@pytest.mark.parametrize("grace", [0, 1])
async def test_a_call_that_was_given_up_holds_its_slot(autojump_clock, grace):
    service = Slow()
    async with connected(service, serve={"limits": trpc.Limits(max_calls=1)}, cancel_grace=grace) as (client, _):
        proxy = client.proxy(Slow)
        await proxy.add(1, 1)
        with trio.move_on_after(1):
            await proxy.clean_up(5)
        start = trio.current_time()
        assert await proxy.add(1, 2) == 3
        assert trio.current_time() - start == pytest.approx(5 - grace)


async def test_a_value_that_won_the_race_is_delivered(autojump_clock):
    async with connected(Slow()) as (client, _):
        with trio.move_on_after(1) as scope:
            value = await client.proxy(Slow).finish_anyway(1.5)
        assert value == "done"
        assert not scope.cancelled_caught


async def test_an_error_that_won_the_race_is_delivered(autojump_clock):
    async with connected(Slow()) as (client, _):
        with trio.move_on_after(1) as scope, pytest.raises(ValueError, match="while cleaning up"):
            await client.proxy(Slow).fail_on_cancel()
        assert not scope.cancelled_caught
        with trio.move_on_after(1), pytest.raises(ExceptionGroup) as group:
            await client.proxy(Slow).fail_beside_cancel()
        assert [type(e).__mro__[2:4] for e in group.value.exceptions] == [(trpc.RPCError, ValueError)]


@pytest.mark.transports("memory", reason="lockstep: a write waits until the peer reads")
async def test_cancelled_before_written_means_never_sent():
    async with client_of_raw_peer(lockstep=True) as (client, peer):
        await settle()  # the hello is being written, and the peer does not read
        with trio.move_on_after(5):
            async with trio.open_nursery() as nursery:
                outcomes = {}
                start_call(nursery, outcomes, "call", client.call, "A.b")
                start_call(nursery, outcomes, "notify", client.notify, "A.c")
                await settle()
                nursery.cancel_scope.cancel()
        assert outcomes == {"call": "cancelled", "notify": "cancelled"}
        async with trio.open_nursery() as nursery:
            start_call(nursery, outcomes, "next", client.call, "A.d")
            await peer.open()
            request = await peer.receive()
            assert request.kind == Kind.REQUEST
            assert request.id > 1, "an id that was taken back is not used again"
            await peer.send_result(request.id, 5)
        assert outcomes["next"] == 5
        assert not peer.frames


async def test_cancelled_while_waiting_for_a_slot_means_never_sent(autojump_clock):
    async with client_of_raw_peer(hello={"max_calls": 1}) as (client, peer):
        await peer.open()
        async with trio.open_nursery() as nursery:
            outcomes = {}
            start_call(nursery, outcomes, "first", client.call, "A.b")
            first = await peer.receive()
            with trio.move_on_after(1) as scope:
                await client.call("A.c")
            assert scope.cancelled_caught
            await peer.send_result(first.id, 1)
        assert outcomes == {"first": 1}
        with trio.move_on_after(1):
            assert await peer.receive() is None, "something was sent"


async def test_cancel_is_sent_once_and_a_second_one_is_ignored():
    service = Slow()
    async with raw_client_of(service) as peer:
        await peer.open()
        await peer.send_request(1, "Slow.with_children")
        await service.started.wait()
        await peer.send(Kind.CANCEL, 1)
        await peer.send(Kind.CANCEL, 1)
        assert (await peer.receive())[:2] == (Kind.CANCELLED, 1)
        await peer.send(Kind.CANCEL, 1)
        await peer.send_request(2, "Slow.add", 1, 2)
        assert await peer.receive_value() == 3


async def test_a_cancel_right_behind_its_request_finds_the_call():
    """The call is registered before its handler begins."""
    service = Slow()
    async with raw_client_of(service) as peer:
        await peer.open()
        from trpc._frames import encode_frame
        from trpc._messages import encode_request

        body = encode_request("Slow.with_children", [], None, None, None, max_depth=64)
        await peer.stream.send_all(encode_frame(Kind.REQUEST, 1, body) + encode_frame(Kind.CANCEL, 1))
        assert (await peer.receive())[:2] == (Kind.CANCELLED, 1)
        assert "handler ended" in service.log


async def test_cancelling_does_not_make_room_for_more_calls(autojump_clock):
    """Rapid reset: the slot is held until the handler has ended."""
    service = Slow()
    async with raw_client_of(service, limits=trpc.Limits(max_calls=2)) as peer:
        await peer.open()
        for call_id in (1, 2):
            await peer.send_request(call_id, "Slow.clean_up", 5)
            await settle()
            await peer.send(Kind.CANCEL, call_id)
        await peer.send_request(3, "Slow.add", 1, 2)
        assert (await peer.receive_error(3))["code"] == 5
        assert {(await peer.receive())[:2] for _ in range(2)} == {(Kind.CANCELLED, 1), (Kind.CANCELLED, 2)}
        await peer.send_request(4, "Slow.add", 1, 2)
        assert await peer.receive_value() == 3


async def test_cancel_inside_a_thread_waits_for_the_thread():
    started, gate = trio.Event(), threading.Event()

    class Threads:
        @trpc.method(in_thread=True)
        def work(self) -> str:
            trio.from_thread.run_sync(started.set)
            return "worked" if gate.wait(timeout=60) else "not let go"

    async with connected(Threads(), cancel_grace=60) as (client, server):
        async with trio.open_nursery() as nursery:
            outcomes = {}
            start_call(nursery, outcomes, "call", client.proxy(Threads).work)
            await started.wait()
            nursery.cancel_scope.cancel()
            with trio.CancelScope(shield=True):
                await settle()
                assert len(server.calls) == 1, "the thread is still there, and so is its call"
                assert outcomes == {}
                gate.set()
        assert outcomes == {"call": "worked"}, "a value that won the race"
        assert server.calls == ()


async def test_a_shielded_call_is_not_cancelled(autojump_clock):
    async with connected(Slow()) as (client, _):
        with trio.move_on_after(1):
            with trio.CancelScope(shield=True):
                assert await client.proxy(Slow).finish_anyway(3) == "done"


async def test_cancelling_one_call_leaves_the_others(autojump_clock):
    service = Slow()
    async with connected(service) as (client, _):
        async with trio.open_nursery() as nursery:
            outcomes = {}
            start_call(nursery, outcomes, "other", client.proxy(Slow).finish_anyway, 3)
            with trio.move_on_after(1):
                await client.proxy(Slow).with_children()
        assert outcomes == {"other": "done"}


async def test_when_the_body_of_connect_is_cancelled_its_calls_are_acknowledged(autojump_clock):
    """The connection outlives the scope around the ``async with`` for as long as that takes."""
    service = Slow()
    async with trio.open_nursery() as nursery:
        ours, theirs = trio.testing.memory_stream_pair()
        nursery.start_soon(trpc.serve_stream, service, theirs)
        with trio.move_on_after(1) as scope:
            async with trpc.connect_stream(ours) as client:
                await client.proxy(Slow).clean_up(0.5)
        assert scope.cancelled_caught
        assert service.log == ["cleaned up"]


@pytest.mark.transports("memory", reason="lockstep: a write waits until the peer reads")
async def test_a_cancel_goes_ahead_of_what_is_queued():
    service = Slow()
    async with client_of_raw_peer(lockstep=True) as (client, peer):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(peer.open)
            await settle()
            async with trio.open_nursery() as calls:
                start_call(calls, {}, "call", client.call, "A.b")
                first = await peer.receive()
                # The writer is stuck in the first of these, and the others are queued behind it.
                for _ in range(5):
                    start_call(nursery, {}, "notify", client.notify, "A.c", "x" * 100_000)
                    await settle()
                calls.cancel_scope.cancel()
                with trio.CancelScope(shield=True):
                    await settle()
                    assert (await peer.receive()).kind == Kind.NOTIFY
                    assert (await peer.receive())[:2] == (Kind.CANCEL, first.id)
                    await peer.send(Kind.CANCELLED, first.id)
                    for _ in range(4):
                        assert (await peer.receive()).kind == Kind.NOTIFY
    assert service.log == []


async def test_cancelled_alone_in_a_group_is_a_cancel():
    service = Slow()
    async with connected(service) as (client, server):
        with trio.move_on_after(0.1) as scope:
            await client.proxy(Slow).cancelled_group()
        assert scope.cancelled_caught
    # And when it is the connection that ends.
    async with raw_client_of(service) as peer:
        await peer.open()
        await peer.send_request(1, "Slow.cancelled_group")
        await settle()


async def test_when_a_cancelled_body_leaves_calls_of_other_tasks_are_acknowledged(autojump_clock):
    service = Slow()
    outcomes = {}
    async with trio.open_nursery() as others:
        async with trio.open_nursery() as nursery:
            ours, theirs = trio.testing.memory_stream_pair()
            nursery.start_soon(trpc.serve_stream, service, theirs)
            with trio.move_on_after(1) as scope:
                async with trpc.connect_stream(ours) as client:
                    start_call(others, outcomes, "other", client.proxy(Slow).clean_up, 0.5)
                    await trio.sleep_forever()
            assert scope.cancelled_caught
            assert service.log == ["cleaned up"]
            nursery.cancel_scope.cancel()
    assert isinstance(outcomes["other"], trio.ClosedResourceError)


async def test_closing_does_not_wait_for_calls_that_were_given_up(autojump_clock):
    service = Slow()
    async with trio.open_nursery() as nursery:
        ours, theirs = trio.testing.memory_stream_pair()
        nursery.start_soon(trpc.serve_stream, service, theirs)
        async with trpc.connect_stream(ours, cancel_grace=5) as client:
            with trio.move_on_after(1):
                await client.proxy(Slow).clean_up(100)
            start = trio.current_time()
        # For the peer to close its side, and not for the calls.
        assert trio.current_time() - start <= 1
        nursery.cancel_scope.cancel()


async def test_a_notification_carries_no_deadline(autojump_clock):
    async with client_of_raw_peer() as (client, peer):
        await peer.open()
        with trio.fail_after(5):
            await client.notify("A.b")
        assert (await peer.receive()).body == b"\x92\xa3A.b\x90"


async def test_nothing_is_kept_of_a_call_that_was_cancelled_and_acknowledged(autojump_clock):
    service = Slow()
    async with connected(service, cancel_grace=float("inf")) as (client, _):
        for _ in range(3):
            with trio.move_on_after(0.1):
                await client.proxy(Slow).clean_up(0)
        assert not client._caller._acknowledgements._waiting
        assert not client._caller._in_flight
