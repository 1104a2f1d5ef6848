"""Deadlines: taken from the caller's scopes, sent as time left, enforced on both sides."""

from __future__ import annotations

import math

import pytest
import trio
from support import client_of_raw_peer, connected, raw_client_of, start_call

import trpc
from trpc import _codec
from trpc._messages import MAX_TIME_LEFT, Kind


class Timed:
    def __init__(self):
        self.seen = []

    @trpc.method
    async def sleep(self, seconds: float) -> str:
        self.seen.append(trio.current_effective_deadline() - trio.current_time())
        try:
            await trio.sleep(seconds)
        except trio.Cancelled:
            self.seen.append("cancelled")
            raise
        return "slept"

    @trpc.method
    async def time_left(self) -> float | None:
        left = trpc.current_call().deadline - trio.current_time()
        assert trio.current_effective_deadline() == trpc.current_call().deadline
        return None if left == math.inf else left

    @trpc.method
    async def own_timeout(self) -> None:
        with trio.fail_after(1):
            await trio.sleep_forever()

    @trpc.method
    def finish_late(self) -> str:
        return "finished"


async def test_the_deadline_travels_as_time_left(autojump_clock):
    async with connected(Timed()) as (client, _):
        proxy = client.proxy(Timed)
        assert await proxy.time_left() is None
        with trio.fail_after(7):
            assert await proxy.time_left() == pytest.approx(7)
            await trio.sleep(2)
            assert await proxy.time_left() == pytest.approx(5)
            with trio.move_on_after(60):
                assert await proxy.time_left() == pytest.approx(5), "the nearest deadline counts"
            with trio.CancelScope(shield=True):
                assert await proxy.time_left() is None, "a shield hides it"


async def test_on_the_wire_it_is_a_duration_and_absent_if_there_is_none(autojump_clock):
    # The peer answers no pings.
    limits = trpc.Limits(keepalive_interval=math.inf)
    async with client_of_raw_peer(limits=limits) as (client, peer):
        await peer.open()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.call, "A.b")
            request = await peer.receive()
            assert _codec.unpack(request.body, max_depth=8) == ["A.b", []]
            await peer.send_result(request.id, None)
        await trio.sleep(1000)
        async with trio.open_nursery() as nursery:
            with trio.fail_after(3):
                nursery.start_soon(client.call, "A.b")
                request = await peer.receive()
                assert _codec.unpack(request.body, max_depth=8) == ["A.b", []], "the nursery is outside the scope"
                await peer.send_result(request.id, None)
            nursery.cancel_scope.deadline = trio.current_time() + 3
            nursery.start_soon(client.call, "A.b")
            request = await peer.receive()
            assert _codec.unpack(request.body, max_depth=8)[3] == pytest.approx(3)
            await peer.send_result(request.id, None)


async def test_a_deadline_that_is_past_fails_locally_and_sends_nothing(autojump_clock):
    async with client_of_raw_peer() as (client, peer):
        await peer.open()
        with pytest.raises(trio.TooSlowError) as error, trio.fail_after(0):
            await client.call("A.b")
        assert not isinstance(error.value, trpc.RPCError)
        with trio.move_on_after(0) as scope:
            await client.notify("A.b")
        assert scope.cancelled_caught
        cancelled = trio.CancelScope()
        cancelled.cancel()
        with cancelled:
            await client.call("A.b")
        assert cancelled.cancelled_caught
        with trio.move_on_after(1):
            assert await peer.receive() is None, "something was sent"


async def test_both_sides_end_at_the_deadline(autojump_clock):
    service = Timed()
    async with connected(service) as (client, server):
        start = trio.current_time()
        with pytest.raises(trio.TooSlowError) as error, trio.fail_after(2):
            await client.proxy(Timed).sleep(100)
        assert not isinstance(error.value, trpc.RPCError), "the caller's own fail_after fires"
        assert trio.current_time() - start == pytest.approx(2)
        assert service.seen == [pytest.approx(2), "cancelled"]
        assert server.calls == ()


async def test_the_callers_scope_fires_even_if_the_servers_word_comes_earlier(autojump_clock):
    async with client_of_raw_peer() as (client, peer):
        await peer.open()

        async def serve():
            request = await peer.receive()
            await trio.sleep(1.9)
            await peer.send(Kind.EXPIRED, request.id)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve)
            start = trio.current_time()
            with pytest.raises(trio.TooSlowError) as error, trio.fail_after(2):
                await client.call("A.b")
            assert not isinstance(error.value, trpc.RPCError)
            assert trio.current_time() - start == pytest.approx(2)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve)
            with trio.move_on_after(2) as scope:
                await client.call("A.b")
            assert scope.cancelled_caught


async def test_a_deadline_moved_after_the_call_was_sent(autojump_clock):
    """The server knows only the old one; the scope does not fire, so the call says what happened."""
    async with connected(Timed()) as (client, _):

        async def extend(scope):
            await trio.sleep(1)
            scope.deadline += 100

        async with trio.open_nursery() as nursery:
            with trio.move_on_after(2) as scope:
                nursery.start_soon(extend, scope)
                with pytest.raises(trpc.DeadlineExceeded, match="deadline of the call has passed"):
                    await client.proxy(Timed).sleep(50)
            assert not scope.cancelled_caught


async def test_a_stricter_limit_of_the_server_is_deadline_exceeded(autojump_clock):
    async with connected(Timed(), serve={"limits": trpc.Limits(max_call_time=3)}) as (client, _):
        start = trio.current_time()
        with pytest.raises(trpc.DeadlineExceeded, match="3 s, the server's limit") as error, trio.fail_after(10):
            await client.proxy(Timed).sleep(100)
        assert isinstance(error.value, trio.TooSlowError)
        assert trio.current_time() - start == pytest.approx(3)
        with pytest.raises(trio.TooSlowError) as own, trio.fail_after(2):
            await client.proxy(Timed).sleep(100)
        assert not isinstance(own.value, trpc.RPCError), "the caller's limit was the stricter one"


async def test_a_timeout_inside_the_handler_is_caught_as_locally(autojump_clock):
    async with connected(Timed()) as (client, _):
        with pytest.raises(trio.TooSlowError) as error:
            await client.proxy(Timed).own_timeout()
        assert isinstance(error.value, trpc.DeadlineExceeded)
        assert isinstance(error.value, trpc.RemoteError)


async def test_a_chain_of_three_hops_under_one_fail_after(autojump_clock):
    """No argument carries it: each hop reads what is left from its own scopes."""
    log = []

    class Hop:
        def __init__(self, name, next_client):
            self.name, self.next_client = name, next_client

        @trpc.method
        async def run(self) -> None:
            log.append((self.name, round(trpc.current_call().deadline - trio.current_time(), 3)))
            await trio.sleep(0.25)
            try:
                if self.next_client is None:
                    await trio.sleep_forever()
                await self.next_client.proxy(Hop).run()
            finally:
                log.append((self.name, "ended"))

    async with connected(Hop("back", None)) as (to_back, _):
        async with connected(Hop("middle", to_back)) as (to_middle, _):
            async with connected(Hop("front", to_middle)) as (to_front, _):
                start = trio.current_time()
                with pytest.raises(trio.TooSlowError), trio.fail_after(1):
                    await to_front.proxy(Hop).run()
                assert trio.current_time() - start == pytest.approx(1)
    assert log[:3] == [("front", 1.0), ("middle", 0.75), ("back", 0.5)]
    assert sorted(log[3:]) == [("back", "ended"), ("front", "ended"), ("middle", "ended")]


@pytest.mark.parametrize(
    ("time_left", "code"),
    [(0, None), (-1, None), (-1e300, None), (math.nan, 3), (math.inf, 3), (-math.inf, 3), ("soon", 3), (True, 3)],
)
async def test_odd_times_from_a_peer(time_left, code):
    service = Timed()
    async with raw_client_of(service) as peer:
        await peer.open()
        await peer.send_request(1, "Timed.sleep", 0.0, time_left=time_left)
        if code is None:
            assert (await peer.receive())[:2] == (Kind.EXPIRED, 1)
        else:
            assert (await peer.receive_error(1))["code"] == code
        assert service.seen == [], "the handler did not run"
        await peer.send_request(2, "Timed.finish_late")
        assert await peer.receive_value() == "finished"


async def test_a_huge_time_is_clamped(autojump_clock):
    async with raw_client_of(Timed()) as peer:
        await peer.open()
        await peer.send_request(1, "Timed.time_left", time_left=1e300)
        assert await peer.receive_value() == pytest.approx(MAX_TIME_LEFT)


async def test_a_result_that_is_ready_is_delivered_although_the_time_is_over(autojump_clock):
    """A handler that never waits cannot be interrupted, here as locally."""
    async with client_of_raw_peer() as (client, peer):
        await peer.open()

        async def serve():
            request = await peer.receive()
            assert (await peer.receive())[:2] == (Kind.CANCEL, request.id)
            await peer.send_result(request.id, "ready")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve)
            with trio.fail_after(1):
                assert await client.call("A.b") == "ready"


async def test_the_time_left_is_taken_after_the_wait_for_a_slot(autojump_clock):
    async with client_of_raw_peer(hello={"max_calls": 1}) as (client, peer):
        await peer.open()
        async with trio.open_nursery() as nursery:
            outcomes = {}
            start_call(nursery, outcomes, "first", client.call, "A.b")
            first = await peer.receive()
            nursery.cancel_scope.deadline = trio.current_time() + 10
            start_call(nursery, outcomes, "second", client.call, "A.b")
            await trio.sleep(4)
            await peer.send_result(first.id, 1)
            second = await peer.receive()
            assert _codec.unpack(second.body, max_depth=8)[3] == pytest.approx(6)
            await peer.send_result(second.id, 2)
        assert outcomes == {"first": 1, "second": 2}
