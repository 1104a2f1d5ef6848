"""Calls whose result is a stream: how they are entered, read, left and what is raised on each occasion."""

import contextlib
import gc
import inspect
import types
import warnings
from collections.abc import AsyncIterable, AsyncIterator, Coroutine

import pytest
import trio
import trio.testing
from support import client_of_raw_peer, connected, settle, start_call

import trpc
from trpc import _codec
from trpc._messages import ITEMS_COST, Kind, decode_credit, decode_request

STREAMS = {"features": ("fragments", "streams"), "stream_credit": 10_000}


class Service:
    @trpc.method
    async def count(self, number: int) -> AsyncIterator[int]:
        for i in range(number):
            yield i

    @trpc.method
    async def value(self) -> int:
        return 5

    @trpc.method
    async def wait(self) -> None:
        await trio.sleep_forever()

    @trpc.method
    async def double(self, items: AsyncIterable[int]) -> AsyncIterator[int]:
        async for item in items:
            yield 2 * item


@contextlib.asynccontextmanager
async def open_peer(**options):
    async with client_of_raw_peer(hello=STREAMS, **options) as (client, peer):
        await peer.open()
        await settle()
        yield client, peer


class Streams:
    """Enters a stream in a task of its own, and reads it as it is told."""

    def __init__(self, nursery, call):
        self.call = call
        self.items = None
        self.scope = trio.CancelScope()
        self.leave = trio.Event()
        self.raises = None
        self.outcome = None
        nursery.start_soon(self._run)

    async def _run(self):
        try:
            with self.scope:
                async with self.call as self.items:
                    await self.leave.wait()
                    if self.raises is not None:
                        raise self.raises
                self.outcome = "left"
        except Exception as exc:
            self.outcome = exc
        if self.scope.cancelled_caught:
            self.outcome = "cancelled"


async def send_items(peer, *items, call_id=1):
    await peer.send(Kind.RESULT_ITEMS, call_id, _codec.pack(list(items), max_depth=5))


async def send_error(peer, call_id=1, **fields):
    error = {"code": 17, "type": "ValueError", "message": "m", "args": ["m"], **fields}
    await peer.send(Kind.ERROR, call_id, _codec.pack(error, max_depth=5))


# --- entering ---


async def test_the_call_is_made_when_it_is_entered(nursery):
    async with open_peer() as (client, peer):
        call = client.stream("A.b", 1, x=2)
        await settle()
        assert not peer.frames
        stream = Streams(nursery, call)
        request = decode_request((await peer.receive()).body, max_depth=64)
        assert (request.method, request.args, request.kwargs, request.streams) == ("A.b", [1], {"x": 2}, None)
        await settle()
        assert isinstance(stream.items, trio.abc.ReceiveChannel)
        await peer.send_result(1, None)
        stream.leave.set()
        await settle()
        assert stream.outcome == "left"


async def test_it_is_entered_once():
    async with connected(Service()) as (client, _):
        call = client.stream("Service.count", 1)
        async with call as items:
            assert [item async for item in items] == [0]
            with pytest.raises(
                RuntimeError, match=r"Service\.count: a stream can be entered once; make the call again"
            ):
                await call.__aenter__()
        with pytest.raises(RuntimeError, match="can be entered once"):
            await call.__aenter__()


@pytest.mark.parametrize("make", [lambda c: c.stream("Service.count", 1), lambda c: c.proxy(Service).count(1)])
async def test_it_is_neither_awaited_nor_iterated(make):
    async with connected(Service()) as (client, _):
        with pytest.raises(TypeError, match=r"Service\.count gives a stream: `async with \.\.\. as items`, instead of"):
            await make(client)
        with pytest.raises(TypeError, match=r"Service\.count gives a stream: first `async with \.\.\. as items`, then"):
            async for _ in make(client):
                pass


async def test_nothing_is_left_of_a_call_that_is_not_entered():
    async with open_peer() as (client, peer):
        call = client.stream("A.b")
        assert not inspect.iscoroutine(call)
        del call
        assert not peer.frames


async def test_to_enter_it_is_a_checkpoint():
    async with connected(Service()) as (client, _):
        with trio.CancelScope() as scope:
            scope.cancel()
            async with client.stream("Service.count", 1):
                pytest.fail("the block was entered")
        assert scope.cancelled_caught


async def test_what_cannot_be_sent_is_raised_by_entering():
    async with connected(Service()) as (client, _):
        with pytest.raises(trpc.InvalidArguments, match="argument 1 cannot be sent"):
            async with client.stream("Service.count", object()):
                pytest.fail("the block was entered")
        with pytest.raises(trpc.InvalidArguments, match="argument 'items': Expected an async iterable"):
            async with client.proxy(Service).double([1]):
                pytest.fail("the block was entered")


# --- reading ---


async def test_items_until_the_end(nursery):
    async with open_peer() as (client, peer):
        stream = Streams(nursery, client.stream("A.b"))
        await peer.receive()
        await send_items(peer, 1, 2)
        assert await stream.items.receive() == 1
        await send_items(peer, 3)
        await peer.send_result(1, None)
        await settle()
        assert [stream.items.receive_nowait() for _ in range(2)] == [2, 3]
        for _ in range(2):
            with pytest.raises(trio.EndOfChannel):
                await stream.items.receive()
        stream.leave.set()
        await settle()
        assert stream.outcome == "left"


async def test_what_is_consumed_is_granted(nursery):
    async with open_peer(limits=trpc.Limits(stream_credit=100)) as (client, peer):
        stream = Streams(nursery, client.stream("A.b"))
        await peer.receive()
        for _ in range(3):
            await send_items(peer, 1, 2)
        await settle()
        for _ in range(5):
            await stream.items.receive()
        credit = await peer.receive()
        assert (credit.kind, credit.id, credit.stream) == (Kind.RESULT_CREDIT, 1, 0)
        assert decode_credit(credit.body) == 3 * (3 + ITEMS_COST)
        await peer.send_result(1, None)
        stream.leave.set()


async def test_items_over_the_credit_end_the_connection(nursery, caplog):
    async with open_peer(limits=trpc.Limits(stream_credit=10)) as (client, peer):
        stream = Streams(nursery, client.stream("A.b"))
        await peer.receive()
        await send_items(peer, 1)
        await send_items(peer, 2)
        assert (await peer.receive()).kind == Kind.GOAWAY
        await settle()
        # What has arrived in time is there.
        assert await stream.items.receive() == 1
        with pytest.raises(trpc.ConnectionLost):
            await stream.items.receive()
        stream.leave.set()
        await settle()
        assert stream.outcome == "left"


async def test_a_message_in_fragments_needs_credit_from_its_first_on(nursery, caplog):
    async with open_peer(limits=trpc.Limits(stream_credit=10)) as (client, peer):
        stream = Streams(nursery, client.stream("A.b"))
        await peer.receive()
        await peer.send(Kind.RESULT_ITEMS, 1, b"\x91", flags=1)
        await peer.send(Kind.RESULT_ITEMS, 1, b"\x05", flags=2)
        await settle()
        assert await stream.items.receive() == 5
        credit = await peer.receive()
        assert credit.kind == Kind.RESULT_CREDIT
        await send_items(peer, bytes(100))
        await peer.send(Kind.RESULT_ITEMS, 1, b"\x91", flags=1)
        assert (await peer.receive()).kind == Kind.GOAWAY
        stream.leave.set()
        await settle()


async def test_an_error_is_behind_the_items(nursery):
    async with open_peer() as (client, peer):
        stream = Streams(nursery, client.stream("A.b"))
        await peer.receive()
        await send_items(peer, 1)
        await send_error(peer)
        await settle()
        assert await stream.items.receive() == 1
        for _ in range(2):
            with pytest.raises(ValueError, match="m"):
                await stream.items.receive()
        stream.leave.set()
        await settle()
        assert stream.outcome == "left", "who has not read as far does not hear of it"


@pytest.mark.parametrize("read", [False, True])
async def test_a_value_in_place_of_a_stream(nursery, read):
    async with connected(Service()) as (client, _):
        async with client.stream("Service.value") as items:
            if read:
                with pytest.raises(
                    trpc.ProtocolError, match=r"Service\.value gives no stream, but one value: await it"
                ):
                    await items.receive()


@pytest.mark.parametrize("call", [lambda c: c.call("Service.count", 3), lambda c: c.proxy("Service").count(3)])
async def test_a_stream_in_place_of_a_value(call):
    async with connected(Service()) as (client, server):
        with pytest.raises(trpc.ProtocolError, match=r"Service\.count gives a stream: enter it with `async with`"):
            await call(client)
        await settle()
        assert server.calls == (), "it was cancelled"
        assert await client.call("Service.value") == 5


async def test_more_items_of_a_call_that_has_been_told_so(nursery):
    async with open_peer() as (client, peer):
        start_call(nursery, outcomes := {}, "call", client.call, "A.b")
        await peer.receive()
        for _ in range(3):
            await send_items(peer, 1)
        assert (await peer.receive()).kind == Kind.CANCEL
        await settle()
        assert isinstance(outcomes["call"], trpc.ProtocolError)
        await peer.send(Kind.CANCELLED, 1)
        await settle()
        assert not peer.frames, "once is enough"


async def test_items_for_a_call_that_is_cancelled(nursery):
    """It waits for its acknowledgement; nothing is to be read any more."""
    async with open_peer() as (client, peer):
        scope = trio.CancelScope()

        async def call():
            with scope:
                await client.call("A.b")

        nursery.start_soon(call)
        await peer.receive()
        scope.cancel()
        assert (await peer.receive()).kind == Kind.CANCEL
        await send_items(peer, 1)
        await settle()
        assert not scope.cancelled_caught
        await peer.send(Kind.CANCELLED, 1)
        await settle()
        assert scope.cancelled_caught


@pytest.mark.parametrize("leaves", [False, True])
async def test_an_item_of_the_wrong_type_ends_the_stream(nursery, leaves):
    async with open_peer() as (client, peer):
        stream = Streams(nursery, client.proxy(Service).count(3))
        await peer.receive()
        await send_items(peer, 1, "x")
        await settle()
        assert await stream.items.receive() == 1
        start_call(nursery, outcomes := {}, "receive", stream.items.receive)
        assert (await peer.receive()).kind == Kind.CANCEL
        if leaves:
            stream.leave.set()
        await settle()
        assert outcomes == {}
        assert stream.outcome is None
        await peer.send(Kind.CANCELLED, 1)
        await settle()
        assert isinstance(outcomes["receive"], trpc.ProtocolError)
        assert str(outcomes["receive"]).startswith(
            "Service.count: an item is not what the method gives: Expected `int`"
        )
        stream.leave.set()
        await settle()
        assert stream.outcome == "left"


async def test_the_connection_is_lost(nursery):
    async with open_peer() as (client, peer):
        stream = Streams(nursery, client.stream("A.b"))
        await peer.receive()
        await send_items(peer, 1, 2)
        await peer.stream.aclose()
        await settle()
        assert [await stream.items.receive() for _ in range(2)] == [1, 2]
        with pytest.raises(trpc.ConnectionLost):
            await stream.items.receive()
        stream.leave.set()
        await settle()
        assert stream.outcome == "left"


# --- leaving ---


@pytest.mark.parametrize("how", ["leave", "aclose", "cancel", "raise"])
async def test_who_leaves_early_waits_for_the_end_of_the_producer(nursery, how):
    async with open_peer() as (client, peer):
        stream = Streams(nursery, client.stream("A.b"))
        await peer.receive()
        await send_items(peer, 1)
        await settle()
        outcomes = {}
        if how == "raise":
            stream.raises = KeyError("its own")
        if how == "cancel":
            stream.scope.cancel()
        elif how == "aclose":
            start_call(nursery, outcomes, "aclose", stream.items.aclose)
        else:
            stream.leave.set()
        assert (await peer.receive()).kind == Kind.CANCEL
        # What has crossed it.
        await send_items(peer, 2)
        await settle()
        assert (stream.outcome, outcomes) == (None, {})
        with pytest.raises(trio.ClosedResourceError):
            await stream.items.receive()
        await peer.send(Kind.CANCELLED, 1)
        stream.leave.set()
        await settle()
        expected = {"cancel": "cancelled", "raise": stream.raises}.get(how, "left")
        assert stream.outcome is expected or stream.outcome == expected
        assert outcomes == ({"aclose": None} if how == "aclose" else {})


async def test_who_leaves_waits_no_longer_than_the_grace(nursery, autojump_clock):
    async with open_peer(cancel_grace=3) as (client, peer):
        stream = Streams(nursery, client.stream("A.b"))
        await peer.receive()
        await settle()
        start = trio.current_time()
        stream.leave.set()
        while stream.outcome is None:
            await trio.sleep(0.1)
        assert trio.current_time() - start == pytest.approx(3, abs=0.2)
        # The late reply is dropped.
        assert (await peer.receive()).kind == Kind.CANCEL
        await peer.send(Kind.CANCELLED, 1)
        await settle()
        assert client.late_replies == 1


async def test_without_a_grace_nobody_waits(nursery):
    async with open_peer(cancel_grace=0) as (client, peer):
        stream = Streams(nursery, client.stream("A.b"))
        await peer.receive()
        await settle()
        stream.leave.set()
        await settle()
        assert stream.outcome == "left"
        assert (await peer.receive()).kind == Kind.CANCEL
        await send_items(peer, 1)
        await peer.send(Kind.CANCELLED, 1)
        await settle()
        assert client.late_replies == 1


async def test_a_request_that_has_not_left_is_taken_back(nursery):
    async with client_of_raw_peer(lockstep=True, hello=STREAMS) as (client, peer):
        async with trio.open_nursery() as opening:
            opening.start_soon(peer.open)
        start_call(nursery, {}, "large", client.call, "A.large", bytes(100_000))
        await settle()
        stream = Streams(nursery, client.stream("A.b"))
        await settle()
        stream.leave.set()
        await settle()
        assert stream.outcome == "left"
        assert decode_request((await peer.receive()).body, max_depth=64).method == "A.large"
        await peer.send_result(1, None)
        await settle()
        start_call(nursery, {}, "next", client.call, "A.next")
        frame = await peer.receive()
        assert decode_request(frame.body, max_depth=64).method == "A.next"
        await peer.send_result(frame.id, None)
        await settle()


@pytest.mark.parametrize("how", ["aclose, aclose", "aclose, leave", "leave, aclose"])
@pytest.mark.parametrize("lost", [False, True])
async def test_several_tasks_leave_at_once(nursery, how, lost):
    async with open_peer(cancel_grace=100) as (client, peer):
        stream = Streams(nursery, client.stream("A.b"))
        await peer.receive()
        await settle()
        outcomes = {}
        for number, step in enumerate(how.split(", ")):
            if step == "leave":
                stream.leave.set()
            else:
                start_call(nursery, outcomes, number, stream.items.aclose)
            await settle()
        assert (await peer.receive()).kind == Kind.CANCEL
        assert not peer.frames
        assert (stream.outcome, outcomes) == (None, {})
        if lost:
            await peer.stream.aclose()
        else:
            await peer.send(Kind.CANCELLED, 1)
        await settle()
        stream.leave.set()
        await settle()
        assert stream.outcome == "left"
        assert set(outcomes.values()) == {None}


async def test_who_leaves_what_has_ended_does_not_wait(nursery):
    async with open_peer() as (client, peer):
        stream = Streams(nursery, client.stream("A.b"))
        await peer.receive()
        await send_items(peer, 1)
        await peer.send_result(1, None)
        await settle()
        stream.leave.set()
        await settle()
        assert stream.outcome == "left"
        assert not peer.frames


async def test_who_closes_it_behind_the_block_does_not_wait(nursery):
    async with open_peer() as (client, peer):
        stream = Streams(nursery, client.stream("A.b"))
        await peer.receive()
        await settle()
        items = stream.items
        stream.leave.set()
        assert (await peer.receive()).kind == Kind.CANCEL
        await peer.send(Kind.CANCELLED, 1)
        await settle()
        assert stream.outcome == "left"
        with trio.testing.assert_checkpoints():
            await items.aclose()
        with pytest.raises(trio.ClosedResourceError):
            await items.receive()
        assert not peer.frames


# --- what the producer raises when it is left ---


@pytest.mark.parametrize("how", ["leave", "aclose", "cancel", "raise"])
async def test_what_the_clean_up_raises_is_raised_at_the_end_of_the_block(nursery, how):
    async with open_peer() as (client, peer):
        stream = Streams(nursery, client.stream("A.b"))
        await peer.receive()
        await settle()
        if how == "raise":
            stream.raises = KeyError("its own")
        if how == "cancel":
            stream.scope.cancel()
        elif how == "aclose":
            nursery.start_soon(stream.items.aclose)
        else:
            stream.leave.set()
        assert (await peer.receive()).kind == Kind.CANCEL
        await send_error(peer, after_cancel=True)
        await settle()
        stream.leave.set()
        await settle()
        if how == "raise":
            assert stream.outcome is stream.raises
        elif how == "cancel":
            assert stream.outcome == "cancelled"
        else:
            assert isinstance(stream.outcome, ValueError)


@pytest.mark.parametrize("fields", [{}, {"after_cancel": False}, {"after_cancel": 1}, {"after_cancel": None}])
async def test_what_it_had_raised_before_is_not(nursery, fields):
    """It is behind items that nobody has read."""
    async with open_peer() as (client, peer):
        stream = Streams(nursery, client.stream("A.b"))
        await peer.receive()
        await settle()
        stream.leave.set()
        await peer.receive()
        await send_error(peer, **fields)
        await settle()
        assert stream.outcome == "left"


@pytest.mark.parametrize("body", [b"\xc1", b"", b"\x90", b"\x81"])
async def test_an_error_that_cannot_be_read_is_none_to_who_has_left(nursery, body):
    async with open_peer() as (client, peer):
        stream = Streams(nursery, client.stream("A.b"))
        await peer.receive()
        await settle()
        stream.leave.set()
        await peer.receive()
        await peer.send(Kind.ERROR, 1, body)
        await settle()
        assert stream.outcome == "left"


# --- with arguments that are streams ---


async def numbers(number=3):
    for i in range(number):
        yield i


@pytest.mark.parametrize(
    "call", [lambda c: c.proxy(Service).double(numbers()), lambda c: c.stream("Service.double", numbers())]
)
async def test_streams_in_both_directions(call):
    async with connected(Service()) as (client, _):
        async with call(client) as doubles:
            assert [double async for double in doubles] == [0, 2, 4]


async def test_items_go_to_and_fro():
    send, receive = trio.open_memory_channel(0)
    async with connected(Service()) as (client, _):
        async with client.proxy(Service).double(receive) as doubles:
            for i in range(5):
                await send.send(i)
                assert await doubles.receive() == 2 * i
            await send.aclose()
            with pytest.raises(trio.EndOfChannel):
                await doubles.receive()


async def test_who_leaves_early_ends_the_producer_of_an_argument():
    ends = []

    async def endless():
        try:
            while True:
                yield 1
        finally:
            ends.append("closed")

    async with connected(Service()) as (client, server):
        async with client.proxy(Service).double(endless()) as doubles:
            assert await doubles.receive() == 2
            assert ends == []
        assert ends == ["closed"]
        assert server.calls == ()


async def test_an_item_of_an_argument_that_cannot_be_sent_ends_the_block():
    async def bad():
        yield 1
        yield object()

    async with connected(Service()) as (client, server):
        with pytest.raises(trpc.InvalidArguments, match="argument 'items': an item cannot be sent"):
            async with client.proxy(Service).double(bad()) as doubles:
                await doubles.receive()
                await trio.sleep_forever()
        assert server.calls == ()


# --- not known what it gives ---


async def test_an_untyped_call_is_awaited_or_entered():
    async with connected(Service()) as (client, _):
        proxy = client.proxy("Service")
        assert await proxy.value() == 5
        async with proxy.count(2) as items:
            assert [item async for item in items] == [0, 1]
        async with proxy.double(numbers()) as items:
            assert [item async for item in items] == [0, 2, 4]


async def test_an_untyped_call_is_a_coroutine():
    async with connected(Service()) as (client, _):
        call = client.proxy("Service").value()
        assert isinstance(call, Coroutine)
        assert await call == 5
        with pytest.raises(RuntimeError, match="cannot reuse already awaited coroutine"):
            await call
        async with trio.open_nursery() as nursery:
            # Trio wants a coroutine, and drives it itself.
            nursery.start_soon(client.proxy("Service").value)
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(client.proxy("Service").wait)
                await settle()
                scope.cancel()
        assert scope.cancelled_caught


async def test_what_is_thrown_into_an_untyped_call():
    async with connected(Service()) as (client, _):
        for args in ((KeyError("k"),), (KeyError, KeyError("k")), (KeyError, KeyError("k"), None)):
            call = client.proxy("Service").value()
            with pytest.raises(KeyError):
                call.throw(*args)
        call = client.proxy("Service").value()
        with pytest.raises(KeyError) as caught:
            call.throw(KeyError, KeyError("k"), traceback_of(ValueError()))
        assert "traceback_of" in [entry.name for entry in caught.traceback]
        call = client.proxy("Service").value()
        call.close()
        with pytest.raises(RuntimeError):
            await call


async def test_an_untyped_call_may_be_driven_by_hand():
    async with connected(Service()) as (client, _):
        call = client.proxy("Service").value(object())

        @types.coroutine
        def drive():
            answer = None
            while True:
                answer = yield call.send(answer)

        with pytest.raises(trpc.InvalidArguments):
            await drive()


def traceback_of(exc):
    try:
        raise exc
    except type(exc) as caught:
        return caught.__traceback__


async def test_an_untyped_call_that_is_forgotten_is_told_of():
    async with connected(Service()) as (client, _):
        with pytest.warns(RuntimeWarning, match=r"a call of Service\.value was never awaited"):
            client.proxy("Service").value()
            gc.collect()
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            await client.proxy("Service").value()
            async with client.proxy("Service").count(1):
                pass
            with pytest.raises(TypeError):
                async for _ in client.proxy("Service").count(1):
                    pass
            gc.collect()
        assert not seen
