"""Limits of time, by a mock clock: each is met not before its time, and not much later."""

from __future__ import annotations

import contextlib
import dataclasses
import math

import msgpack
import pytest
import trio
import trio.testing
from semantics.peers import SIDES, serving, under_test
from support import client_of_raw_peer, connected, joined, settle, start_call

import trpc
from trpc._exceptions import Code
from trpc._frames import PREAMBLE, encode_frame
from trpc._messages import Kind, encode_request

both_sides = pytest.mark.parametrize("side", SIDES)

# Those that a test is not about.
NONE = trpc.Limits(
    hello_timeout=math.inf,
    write_timeout=math.inf,
    frame_timeout=math.inf,
    keepalive_interval=math.inf,
    keepalive_timeout=math.inf,
)


def limits(**times):
    return dataclasses.replace(NONE, **times)


class Service:
    def __init__(self):
        self.release = trio.Event()
        self.ended = []

    @trpc.method
    def blob(self, size: int) -> bytes:
        return bytes(size)

    @trpc.method
    async def sleep(self, seconds: float) -> str:
        try:
            await trio.sleep(seconds)
        finally:
            self.ended.append(trio.current_time())
        return "slept"

    @trpc.method
    async def shield(self, seconds: float) -> str:
        with trio.CancelScope(shield=True):
            await trio.sleep(seconds)
        return "late"


def encoded(call_id, method, *args):
    body = joined(encode_request(f"Service.{method}", list(args), None, None, None, max_depth=64))
    return encode_frame(Kind.REQUEST, call_id, body)


async def lost_after(connection, at_most):
    """Seconds until this side has given the connection up."""
    start = trio.current_time()
    with trio.fail_after(at_most):
        while not connection._lost:
            await trio.sleep(0.25)
    return trio.current_time() - start


async def end_of(peer):
    """What comes until the end of the stream, and when that is."""
    frames = []
    # A socket that is closed with unread bytes in it may break instead of ending.
    with contextlib.suppress(trio.BrokenResourceError):
        while (frame := await peer.receive()) is not None:
            frames.append(frame)
    return frames, trio.current_time()


def code_of(frame):
    assert frame.kind == Kind.GOAWAY
    return msgpack.unpackb(frame.body)["code"]


# --- hello_timeout ---


@both_sides
@pytest.mark.parametrize("dribbles", [False, True])
async def test_hello_timeout_of_a_peer_that_does_not_say_who_it_is(autojump_clock, side, dribbles):
    async with under_test(side, Service(), limits=limits(hello_timeout=5), is_open=False) as (peer, _):
        async with trio.open_nursery() as nursery:
            start = trio.current_time()

            async def dribble():
                opening = PREAMBLE + encode_frame(Kind.HELLO, 0, peer.hello.encode())
                for i in range(len(opening) - 1):
                    await peer.stream.send_all(opening[i : i + 1])
                    await trio.sleep(0.9)

            if dribbles:
                nursery.start_soon(dribble)
            frames, end = await end_of(peer)
            nursery.cancel_scope.cancel()
        assert [frame.kind for frame in frames] == [Kind.HELLO, Kind.GOAWAY]
        assert code_of(frames[1]) == Code.UNAVAILABLE
        assert 5 <= end - start <= 6.1


@both_sides
async def test_hello_timeout_a_hello_just_in_time(autojump_clock, side):
    async with under_test(side, Service(), limits=limits(hello_timeout=5), is_open=False) as (peer, _):
        await trio.sleep(4.9)
        await peer.open()
        await trio.sleep(100)
        await peer.stream.send_all(encoded(1, "blob", 3))
        assert (await peer.receive()).kind == Kind.RESULT


# --- write_timeout ---


@both_sides
async def test_write_timeout_of_a_peer_that_never_reads(autojump_clock, side, transport):
    lockstep = transport == "memory"
    async with under_test(side, Service(), limits=limits(write_timeout=10), lockstep=lockstep, is_open=False) as (
        peer,
        connection,
    ):
        await peer.stream.send_all(PREAMBLE + encode_frame(Kind.HELLO, 0, peer.hello.encode()))
        if not lockstep:
            await peer.stream.send_all(encoded(1, "blob", 1_000_000))
        await settle()
        made = connection()
        assert made._outbox.is_waiting
        assert 10 <= await lost_after(made, 20) <= 12.25


@both_sides
async def test_write_timeout_of_a_peer_that_reads_and_stops(autojump_clock, side, transport):
    lockstep = transport == "memory"
    async with under_test(side, Service(), limits=limits(write_timeout=10), lockstep=lockstep, is_open=False) as (
        peer,
        connection,
    ):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(peer.open)
        await peer.stream.send_all(encoded(1, "blob", 1_000_000))
        for _ in range(5):
            await peer.stream.receive_some(65_536)
        made = connection()
        assert 10 <= await lost_after(made, 20) <= 12.25
        # What is left is not waited for, but a moment.
        assert await closed_after(made) <= 1.25


async def closed_after(connection):
    start = trio.current_time()
    while not connection._outbox.is_empty:
        await trio.sleep(0.25)
    return trio.current_time() - start


@both_sides
async def test_write_timeout_a_slow_reader_that_makes_progress_is_not_closed(autojump_clock, side, transport):
    lockstep = transport == "memory"
    size = 1_000_000
    async with under_test(side, Service(), limits=limits(write_timeout=10), lockstep=lockstep, is_open=False) as (
        peer,
        connection,
    ):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(peer.open)
        await peer.stream.send_all(encoded(1, "blob", size))
        start = trio.current_time()
        received = 0
        while received < size:
            received += len(await peer.stream.receive_some(16 * 1024))
            await trio.sleep(2)
        assert trio.current_time() - start > 100
        assert not connection()._lost


# --- frame_timeout ---


@both_sides
@pytest.mark.parametrize("skips", [False, True])
@pytest.mark.parametrize("seconds", [1, 5, 29])
async def test_frame_timeout_a_byte_now_and_then_does_not_help(autojump_clock, side, skips, seconds):
    # With no bytes to be had, the frame is not kept; that makes no difference.
    given = limits(frame_timeout=30, max_server_bytes_in_flight=1 if skips else 2**29)
    async with under_test(side, Service(), limits=given) as (peer, connection):
        await peer.stream.send_all(encode_frame(Kind.REQUEST, 1, bytes(1_000_000))[:100_000])
        start = trio.current_time()
        async with trio.open_nursery() as nursery:

            async def dribble():
                with contextlib.suppress(trio.BrokenResourceError):
                    while True:
                        await trio.sleep(seconds)
                        await peer.stream.send_all(b"\0")

            nursery.start_soon(dribble)
            frames, end = await end_of(peer)
            nursery.cancel_scope.cancel()
        assert 30 <= end - start <= 33
        assert code_of(frames[-1]) == Code.INTERNAL
        await peer.stream.aclose()
        await settle()
        assert connection()._protocol.share.taken == 0


@both_sides
async def test_frame_timeout_of_a_header(autojump_clock, side):
    async with under_test(side, Service(), limits=limits(frame_timeout=30)) as (peer, _):
        await peer.stream.send_all(b"\0")
        start = trio.current_time()
        _, end = await end_of(peer)
        assert 30 <= end - start <= 33


@both_sides
@pytest.mark.parametrize("size", [1, 64 * 1024])
async def test_frame_timeout_of_a_message_in_fragments(autojump_clock, side, size):
    """Some of the oldest has to come in ten times that time, as they go in turns with others; a byte now and then is not enough."""
    async with under_test(side, Service(), limits=limits(frame_timeout=30)) as (peer, connection):
        body = encoded(1, "blob", 10)[16:]
        await peer.stream.send_all(encode_frame(Kind.REQUEST, 1, body, flags=1))
        for _ in range(10):
            await trio.sleep(29.9)
            if not connection()._lost:
                await peer.stream.send_all(encode_frame(Kind.REQUEST, 1, bytes(size), flags=3))
        await trio.sleep(20)
        assert connection()._lost is (size == 1)
        if size == 1:
            frames, _ = await end_of(peer)
            assert code_of(frames[-1]) == Code.INTERNAL
            await peer.stream.aclose()
            await settle()
            assert connection()._host.pool.taken == 0
        else:
            # Other messages that are completed do not help.
            await peer.send(Kind.REQUEST, 2, body[:10], flags=1)
            await peer.send(Kind.REQUEST, 2, body[10:], flags=2)
            await trio.sleep(270)
            assert not connection()._lost
            await peer.send(Kind.REQUEST, 3, body[:10], flags=1)
            await peer.send(Kind.REQUEST, 3, body[10:], flags=2)
            await trio.sleep(40)
            assert connection()._lost


@both_sides
async def test_frame_timeout_progress_of_whole_frames_helps(autojump_clock, side):
    async with under_test(side, Service(), limits=limits(frame_timeout=30)) as (peer, connection):
        data = b"".join(encoded(call_id, "blob", 10) for call_id in range(1, 21))
        step = len(data) // 20
        # There is always one that has begun.
        await peer.stream.send_all(data[: step // 2])
        for begin in range(step // 2, len(data), step):
            await trio.sleep(29)
            await peer.stream.send_all(data[begin : begin + step])
        assert not connection()._lost
        for call_id in range(1, 21):
            assert (await peer.receive()).id == call_id


# --- keepalive_interval, keepalive_timeout ---


@both_sides
async def test_keepalive_silence_then_a_ping_then_closed_in_the_bound(autojump_clock, side):
    given = limits(keepalive_interval=20, keepalive_timeout=20)
    async with under_test(side, Service(), limits=given) as (peer, _):
        start = trio.current_time()
        assert (await peer.receive()).kind == Kind.PING
        assert 20 <= trio.current_time() - start <= 21
        assert await peer.receive() is None
        assert 40 <= trio.current_time() - start <= 43


@both_sides
@pytest.mark.parametrize("late", [0, 10, 19])
async def test_keepalive_an_answer_in_time_keeps_it_open(autojump_clock, side, late):
    given = limits(keepalive_interval=20, keepalive_timeout=20)
    async with under_test(side, Service(), limits=given) as (peer, connection):
        for number in range(1, 11):
            ping = await peer.receive()
            assert (ping.kind, ping.id) == (Kind.PING, number)
            await trio.sleep(late)
            await peer.send(Kind.PONG, ping.id)
        assert trio.current_time() >= 10 * (20 + late)
        assert not connection()._lost


@both_sides
@pytest.mark.parametrize("what", ["ping", "unknown kind", "a byte of a frame"])
async def test_keepalive_anything_that_comes_counts(autojump_clock, side, what):
    given = limits(keepalive_interval=20, keepalive_timeout=20)
    data = {
        "ping": encode_frame(Kind.PING, 1) * 30,
        "unknown kind": encode_frame(0xC1, 1) * 30,
        "a byte of a frame": encode_frame(Kind.REQUEST, 1, bytes(1000)),
    }[what]
    step = 1 if what == "a byte of a frame" else 16
    async with under_test(side, Service(), limits=given) as (peer, connection):
        for begin in range(0, 30 * step, step):
            await peer.stream.send_all(data[begin : begin + step])
            await trio.sleep(19)
        assert not connection()._lost
        await peer.stream.send_eof()
        frames, _ = await end_of(peer)
        assert Kind.PING not in {frame.kind for frame in frames}


@pytest.mark.transports("memory", reason="lockstep: a write waits until the peer reads")
@both_sides
async def test_keepalive_a_peer_that_is_not_read_as_it_does_not_read_is_not_silent(autojump_clock, side):
    given = limits(keepalive_interval=2, keepalive_timeout=2, max_unsent=1000)
    async with under_test(side, Service(), limits=given, lockstep=True, is_open=False) as (peer, connection):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(peer.open)
        async with trio.open_nursery() as nursery:

            async def send():
                for call_id in range(1, 31):
                    await peer.stream.send_all(encoded(call_id, "blob", 500))

            nursery.start_soon(send)
            await trio.sleep(1000)
            assert connection()._outbox.is_full_of_answers
            assert not connection()._lost
            results = 0
            while results < 30:
                results += (await peer.receive()).kind == Kind.RESULT


async def test_keepalive_two_that_have_nothing_to_say_stay_connected(autojump_clock):
    given = limits(keepalive_interval=5, keepalive_timeout=1)
    async with connected(Service(), limits=given, serve={"limits": given}) as (client, _):
        await trio.sleep(1_000)
        assert await client.call("Service.blob", 1) == b"\0"


async def test_keepalive_calls_in_flight_end_when_nothing_comes(autojump_clock):
    given = limits(keepalive_interval=20, keepalive_timeout=20)
    async with client_of_raw_peer(limits=given) as (client, peer):
        await peer.open()
        start = trio.current_time()
        with pytest.raises(trpc.ConnectionLost, match=r"nothing has come for 40.* s") as caught:
            await client.call("A.b")
        assert caught.value.maybe_executed
        assert 40 <= trio.current_time() - start <= 43


# --- idle_timeout ---


@both_sides
async def test_idle_timeout_without_a_call(autojump_clock, side):
    async with under_test(side, Service(), limits=limits(idle_timeout=60)) as (peer, _):
        start = trio.current_time()
        await trio.sleep(30)
        await peer.send(Kind.PING, 1)  # which is none
        frames, end = await end_of(peer)
        assert [frame.kind for frame in frames] == [Kind.PONG, Kind.GOAWAY]
        assert 60 <= end - start <= 63


@both_sides
async def test_idle_timeout_counts_from_the_end_of_the_last_call(autojump_clock, side):
    async with under_test(side, Service(), limits=limits(idle_timeout=60)) as (peer, _):
        await peer.stream.send_all(encoded(1, "sleep", 1000))
        assert (await peer.receive()).kind == Kind.RESULT
        start = trio.current_time()
        assert start >= 1000
        frames, end = await end_of(peer)
        assert [frame.kind for frame in frames] == [Kind.GOAWAY]
        assert 60 <= end - start <= 63


async def test_idle_timeout_calls_of_this_side_count(autojump_clock):
    async with client_of_raw_peer(limits=limits(idle_timeout=60)) as (client, peer), trio.open_nursery() as nursery:
        await peer.open()
        outcomes = {}
        start_call(nursery, outcomes, "call", client.call, "A.b")
        call = await peer.receive()
        await trio.sleep(1000)
        await peer.send_result(call.id, 1)
        await settle()
        assert outcomes == {"call": 1}
        await trio.sleep(70)
        with pytest.raises(trpc.ConnectionLost, match=r"no call for 60.* s"):
            await client.call("A.b")


# --- max_call_time ---


@both_sides
@pytest.mark.parametrize("seconds", [10, 10.1, 1000])
async def test_max_call_time(autojump_clock, side, seconds):
    service = Service()
    async with under_test(side, service, limits=limits(max_call_time=10.05)) as (peer, _):
        start = trio.current_time()
        await peer.stream.send_all(encoded(1, "sleep", seconds))
        frame = await peer.receive()
        if seconds == 10:
            assert frame.kind == Kind.RESULT
        else:
            assert frame.kind == Kind.ERROR
            assert msgpack.unpackb(frame.body)["code"] == Code.DEADLINE_EXCEEDED
            assert trio.current_time() - start == pytest.approx(10.05)
        assert service.ended == [trio.current_time()]


@both_sides
async def test_max_call_time_does_not_lengthen_a_deadline(autojump_clock, side):
    async with under_test(side, Service(), limits=limits(max_call_time=10)) as (peer, _):
        await peer.send_request(1, "Service.sleep", 100, time_left=3)
        assert (await peer.receive()).kind == Kind.EXPIRED
        await peer.send_request(2, "Service.sleep", 100, time_left=30)
        assert (await peer.receive_error(2))["code"] == Code.DEADLINE_EXCEEDED
        assert trio.current_time() == pytest.approx(13)


# --- drain_grace ---


@pytest.mark.parametrize("seconds", [9, 11, 1000])
async def test_drain_grace_of_calls_in_flight(autojump_clock, seconds):
    service = Service()
    async with serving(service, limits=limits(drain_grace=10)) as site, trio.open_nursery() as nursery:
        async with trpc.connect_stream(await site.stream()) as client:
            outcomes = {}
            start_call(nursery, outcomes, "call", client.call, "Service.sleep", seconds)
            await settle()
            start = trio.current_time()
            await site.server.drain()
            assert min(seconds, 10) <= trio.current_time() - start <= min(seconds, 10) + 2
            await settle()
            if seconds < 10:
                assert outcomes == {"call": "slept"}
            else:
                assert isinstance(outcomes["call"], trpc.ConnectionLost)
            assert len(service.ended) == 1
            with pytest.raises((trpc.Unavailable, trpc.ConnectionLost)):
                await client.call("Service.blob", 1)


async def test_drain_grace_a_handler_that_shields_itself_does_not_keep_drain(autojump_clock):
    async with serving(Service(), limits=limits(drain_grace=10)) as site:
        peer = await site.connect()
        await peer.stream.send_all(encoded(1, "shield", 1000))
        await settle()
        start = trio.current_time()
        await site.server.drain()
        assert 10 <= trio.current_time() - start <= 14
        assert (await peer.receive()).kind == Kind.GOAWAY
        assert await peer.receive() is None
