"""Calls on their way: how they end, whatever comes first."""

import pytest
import trio
import trio.testing
from support import Scripted, client_of_raw_peer, connected, settle, start_call

import trpc
from trpc import _codec
from trpc._connection import Connection
from trpc._frames import PREAMBLE, encode_frame
from trpc._host import Host
from trpc._messages import Hello, Kind, encode_credit
from trpc._stream_call import call_with_streams

STREAMS = {"features": ("fragments", "streams"), "stream_credit": 10_000}


@pytest.mark.parametrize("how", ["call", "notify", "ping"])
async def test_a_write_that_fails_at_once(nursery, how):
    transport = Scripted()
    connection = Connection(transport, Host({}))
    caller = connection.caller
    nursery.start_soon(connection.run)
    await settle()
    transport.send_error = error = trio.BrokenResourceError("reset")
    with pytest.raises(trpc.ConnectionLost) as caught:
        await (caller.ping() if how == "ping" else getattr(caller, how)("A.b", [1], None))
    assert caught.value.__cause__ is error
    # No byte of it has left.
    assert not caught.value.maybe_executed
    await settle()
    assert transport.closed


# --- what comes first after a cancel ---


class Cancelled:
    """A call that was cancelled and waits for its acknowledgement."""

    def __init__(self, nursery, client):
        self.scope = trio.CancelScope()
        self.outcome = None
        nursery.start_soon(self._run, client)

    async def _run(self, client):
        try:
            with self.scope:
                self.outcome = await client.call("A.b")
        except Exception as exc:
            self.outcome = exc
        if self.scope.cancelled_caught:
            self.outcome = "cancelled"


async def cancelled(nursery, client, peer):
    call = Cancelled(nursery, client)
    assert (await peer.receive()).kind == Kind.REQUEST
    call.scope.cancel()
    assert (await peer.receive()).kind == Kind.CANCEL
    await settle()
    assert call.outcome is None
    return call


@pytest.mark.parametrize("kind", [Kind.CANCELLED, Kind.EXPIRED])
async def test_the_acknowledgement(nursery, kind):
    async with client_of_raw_peer() as (client, peer):
        await peer.open()
        call = await cancelled(nursery, client, peer)
        await peer.send(kind, 1)
        await settle()
        assert call.outcome == "cancelled"
        assert client.late_replies == 0


@pytest.mark.parametrize("kind", [Kind.RESULT, Kind.ERROR])
async def test_a_reply_that_has_won_the_race(nursery, kind):
    async with client_of_raw_peer() as (client, peer):
        await peer.open()
        call = await cancelled(nursery, client, peer)
        if kind == Kind.RESULT:
            await peer.send_result(1, "won")
            await settle()
            assert call.outcome == "won"
        else:
            await peer.send(Kind.ERROR, 1, _codec.pack({"code": 17, "type": "KeyError", "args": ["k"]}, max_depth=5))
            await settle()
            assert isinstance(call.outcome, KeyError)
        # Who calls in a loop, and is cancelled too late each time, hears of it by the next call.
        with trio.CancelScope() as scope:
            scope.cancel()
            await client.call("A.b")
        assert scope.cancelled_caught
        assert not peer.frames


async def test_the_grace_is_over_first(nursery, autojump_clock):
    async with client_of_raw_peer(cancel_grace=2) as (client, peer):
        await peer.open()
        start = trio.current_time()
        call = await cancelled(nursery, client, peer)
        while call.outcome is None:
            await trio.sleep(0.25)
        assert call.outcome == "cancelled"
        assert trio.current_time() - start == pytest.approx(2, abs=0.3)
        await peer.send_result(1, "late")
        await settle()
        assert client.late_replies == 1


@pytest.mark.parametrize("how", ["goaway", "closed"])
async def test_the_connection_ends_first(nursery, how):
    async with client_of_raw_peer(cancel_grace=1000) as (client, peer):
        await peer.open()
        call = await cancelled(nursery, client, peer)
        if how == "goaway":
            await peer.send(Kind.GOAWAY, 0, _codec.pack({"code": 6, "message": "no more"}, max_depth=5))
        else:
            await peer.stream.aclose()
        await settle()
        assert call.outcome == "cancelled"


# --- messages of streams that belong to nothing ---


async def test_items_for_a_call_that_was_given_up(nursery):
    async with client_of_raw_peer(hello=STREAMS, cancel_grace=0) as (client, peer):
        await peer.open()
        call = Cancelled(nursery, client)
        await peer.receive()
        call.scope.cancel()
        await settle()
        assert call.outcome == "cancelled"
        for flags in (0, 1):
            await peer.send(Kind.RESULT_ITEMS, 1, b"\x91\x01", flags=flags)
        await peer.send(Kind.CANCELLED, 1)
        await settle()
        assert client.late_replies == 1


@pytest.mark.parametrize("kind", [Kind.RESULT_ITEMS, Kind.ARGUMENT_CREDIT, Kind.ARGUMENT_STOP])
async def test_a_message_behind_the_goaway_that_has_ended_its_call(nursery, kind):
    async with client_of_raw_peer(hello=STREAMS) as (client, peer):
        await peer.open()
        start_call(nursery, outcomes := {}, "call", client.call, "A.b")
        frame = await peer.receive()
        goaway = _codec.pack({"code": 6, "message": "no more"}, max_depth=5)
        # Read together: the call has ended when the second is handled.
        body = encode_credit(5) if kind == Kind.ARGUMENT_CREDIT else b"\x91\x01" if kind == Kind.RESULT_ITEMS else b""
        stream = 0 if kind == Kind.RESULT_ITEMS else 1
        data = [frame_of(Kind.GOAWAY, 0, goaway), frame_of(kind, frame.id, body, stream)]
        await peer.stream.send_all(b"".join(data))
        await settle()
        assert isinstance(outcomes["call"], trpc.Unavailable)
        assert await ping_is_answered(nursery, client, peer)


def frame_of(kind, call_id, body, stream=0):
    head = (12 + len(body)).to_bytes(4, "big") + bytes([kind, 0]) + stream.to_bytes(2, "big")
    return head + call_id.to_bytes(8, "big") + body


async def ping_is_answered(nursery, client, peer):
    """Whether the connection is still there."""
    caller = client._caller
    start_call(nursery, outcomes := {}, "ping", caller._pings.ping)
    frame = await peer.receive()
    await peer.send(Kind.PONG, frame.id)
    await settle()
    return isinstance(outcomes["ping"], float)


@pytest.mark.parametrize("kind", [Kind.ARGUMENT_CREDIT, Kind.ARGUMENT_STOP])
@pytest.mark.parametrize("has_streams", [False, True])
async def test_a_consumer_of_an_argument_that_is_not_there(nursery, kind, has_streams, caplog):
    async def items():
        yield 1
        await trio.sleep_forever()

    async with client_of_raw_peer(hello=STREAMS) as (client, peer):
        await peer.open()
        await settle()
        start_call(nursery, outcomes := {}, "call", client.call, "A.b", items() if has_streams else 1)
        await peer.receive()
        await peer.send(kind, 1, encode_credit(5) if kind == Kind.ARGUMENT_CREDIT else b"", stream=2)
        while (frame := await peer.receive()).kind != Kind.GOAWAY:
            pass
        assert "call 1 has no stream 2" in _codec.unpack(frame.body, max_depth=5)["message"]
        await settle()
        assert isinstance(outcomes["call"], trpc.ConnectionLost)


@pytest.mark.parametrize("body", [b"", b"\x00", b"\xc1"])
async def test_a_credit_that_cannot_be(nursery, body, caplog):
    async def items():
        yield 1
        await trio.sleep_forever()

    async with client_of_raw_peer(hello=STREAMS) as (client, peer):
        await peer.open()
        await settle()
        start_call(nursery, outcomes := {}, "call", client.call, "A.b", items())
        await peer.receive()
        await peer.send(Kind.ARGUMENT_CREDIT, 1, body, stream=1)
        while (await peer.receive()).kind != Kind.GOAWAY:
            pass
        await settle()
        assert isinstance(outcomes["call"], trpc.ConnectionLost)


# --- the end ---


async def test_a_call_of_a_producer_ends_with_the_call_that_it_is_an_argument_of(nursery):
    """Both are in flight when the connection is lost."""
    seen = []

    async with client_of_raw_peer(hello=STREAMS) as (client, peer):
        await peer.open()
        await settle()

        async def items():
            try:
                yield await client.call("A.inner")
            except trpc.ConnectionLost as exc:
                seen.append(exc)
                raise

        start_call(nursery, outcomes := {}, "call", client.call, "A.outer", items())
        for _ in range(2):
            assert (await peer.receive()).kind == Kind.REQUEST
        await peer.stream.aclose()
        await settle()
        assert isinstance(outcomes["call"], trpc.ConnectionLost)


async def test_a_call_of_a_producer_that_has_not_left_ends_with_the_call_that_it_is_an_argument_of(nursery):
    """That one is ended first, and takes the other one back."""
    transport = Scripted()
    connection = Connection(transport, Host({}))
    caller = connection.caller
    nursery.start_soon(connection.run)
    hello = Hello(1 << 20, 10, 64, ("streams",), 10_000)
    transport.give(PREAMBLE + encode_frame(Kind.HELLO, 0, hello.encode()))
    await settle()
    go_on, outcomes = trio.Event(), {}

    async def items():
        await go_on.wait()
        try:
            yield await caller.call("A.inner", [], None)
        finally:
            outcomes["closed"] = True

    start_call(nursery, outcomes, "outer", call_with_streams, caller, "A.outer", [items()], {})
    await settle()
    # From now on nothing is taken: the ping is being written, and what comes behind it is queued.
    transport.send_nowait = lambda chunks: 0
    transport.send = lambda chunks: trio.sleep_forever()
    start_call(nursery, outcomes, "ping", caller.ping)
    await settle()
    go_on.set()
    await settle()
    assert len(caller._in_flight) == 2
    transport.give(b"")
    await settle()
    assert outcomes["closed"]
    assert isinstance(outcomes["outer"], trpc.ConnectionLost)
    assert caller._in_flight == {}
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize("lost", [False, True])
async def test_a_call_that_was_given_up_when_the_connection_ends(nursery, lost):
    async with client_of_raw_peer(cancel_grace=0) as (client, peer):
        await peer.open()
        call = Cancelled(nursery, client)
        assert (await peer.receive()).kind == Kind.REQUEST
        call.scope.cancel()
        await settle()
        assert call.outcome == "cancelled"
        if lost:
            await peer.stream.aclose()
        else:
            # Nobody waits for it.
            await client._caller.close()


async def test_closing_cancels_once(nursery):
    async with client_of_raw_peer(cancel_grace=100) as (client, peer):
        await peer.open()
        call = await cancelled(nursery, client, peer)
        nursery.start_soon(client._caller.close)
        await settle()
        assert not peer.frames
        await peer.send(Kind.CANCELLED, 1)
        await settle()
        assert call.outcome == "cancelled"


@pytest.mark.parametrize("number", [0, 1, 3])
async def test_closing_waits_for_the_calls_of_others(number):
    outcomes = {}
    async with trio.open_nursery() as nursery:
        async with client_of_raw_peer() as (client, peer):
            await peer.open()
            await settle()
            for key in range(number):
                start_call(nursery, outcomes, key, client.call, "A.b")
            await settle()
            closed = []

            async def close():
                await client._caller.close()
                closed.append(True)

            nursery.start_soon(close)
            frames = [await peer.receive() for _ in range(2 * number)]
            assert sorted(frame.kind for frame in frames) == [Kind.REQUEST] * number + [Kind.CANCEL] * number
            await settle()
            assert bool(closed) is not bool(number)
            for call_id in range(1, number + 1):
                await peer.send(Kind.CANCELLED, call_id)
            await settle()
            assert closed
            assert all(isinstance(outcome, trpc.ConnectionLost) for outcome in outcomes.values())
            for ask in (client.ping, lambda: client.call("A.b"), lambda: client.notify("A.b")):
                with pytest.raises(trio.ClosedResourceError):
                    await ask()


class Nothing:
    @trpc.method
    def nothing(self) -> None: ...


async def test_a_one_way_call_that_is_written():
    async with connected(Nothing()) as (client, _):
        with trio.testing.assert_checkpoints():
            await client.notify("Nothing.nothing")


async def test_a_one_way_call_while_the_connection_is_lost(nursery):
    async with client_of_raw_peer(lockstep=True) as (client, peer):
        async with trio.open_nursery() as opening:
            opening.start_soon(peer.open)
        outcomes = {}
        for key in range(2):
            start_call(nursery, outcomes, key, client.notify, "A.b", bytes(100_000))
            await settle()
        await peer.stream.aclose()
        await settle()
        assert [type(outcome) for outcome in outcomes.values()] == [trpc.ConnectionLost] * 2
        assert [outcomes[key].maybe_executed for key in range(2)] == [True, False]
