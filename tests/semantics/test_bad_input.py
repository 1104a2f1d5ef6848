"""Bytes that no peer of ours sends, end to end: what each of them comes to at a server and at a client."""

from __future__ import annotations

import math
import random
import struct
import tracemalloc

import msgpack
import pytest
import trio
import trio.testing
from semantics.peers import SIDES, under_test
from support import client_of_raw_peer, connection_of, joined, settle, start_call

import trpc
from trpc._exceptions import Code
from trpc._frames import PREAMBLE, encode_frame, pack_header
from trpc._messages import Kind, encode_request

LIMITS = trpc.Limits(max_message_size=2**20, keepalive_interval=math.inf)

both_sides = pytest.mark.parametrize("side", SIDES)


class Service:
    def __init__(self):
        self.log = []

    @trpc.method
    def echo(self, value: object) -> object:
        self.log.append(value)
        return value

    @trpc.method
    def take(self, value: object) -> None:
        pass

    @trpc.method
    def number(self, value: int) -> int:
        self.log.append(value)
        return value

    @trpc.method
    async def sleep(self, seconds: float) -> float:
        deadline = trpc.current_call().deadline
        self.log.append(deadline - trio.current_time())
        await trio.sleep(seconds)
        return seconds


def encoded(call_id, method, *args, time_left=None):
    body = joined(encode_request(f"Service.{method}", list(args), None, time_left, None, max_depth=64))
    return encode_frame(Kind.REQUEST, call_id, body)


async def refused(peer, connection, code=Code.PROTOCOL_ERROR):
    """The connection is over, and nothing but the GOAWAY is sent."""
    kinds = []
    status = None
    try:
        while (frame := await peer.receive()) is not None:
            kinds.append(frame.kind)
            if frame.kind == Kind.GOAWAY:
                status = msgpack.unpackb(frame.body)
    except trio.BrokenResourceError:
        assert connection._lost
    assert [kind for kind in kinds if kind != Kind.HELLO] == [Kind.GOAWAY]
    assert status["code"] == code
    await settle()
    assert connection._lost
    assert not connection.calls
    return status["message"]


async def still_works(peer, call_id):
    await peer.stream.send_all(encoded(call_id, "echo", call_id))
    frame = await peer.receive()
    assert (frame.kind, frame.id, msgpack.unpackb(frame.body)) == (Kind.RESULT, call_id, call_id)


# --- the length of a frame ---

LENGTHS = {"0": 0, "11": 11, "over the limit by 1": 12 + 2**20 + 1, "2^31": 2**31, "2^32-1": 2**32 - 1}


@both_sides
@pytest.mark.parametrize("when", ["for a hello", "behind it"])
@pytest.mark.parametrize("length", LENGTHS)
async def test_a_length_that_cannot_be_is_closed_on_the_header_and_allocates_nothing(side, when, length):
    is_open = when == "behind it"
    async with under_test(side, Service(), limits=LIMITS, is_open=is_open) as (peer, connection):
        data = (b"" if is_open else PREAMBLE) + struct.pack(">IBBHQ", LENGTHS[length], Kind.REQUEST, 0, 0, 1)
        made = connection()
        await settle()
        tracemalloc.start()
        try:
            await peer.stream.send_all(data)
            message = await refused(peer, made)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert f"a frame of length {LENGTHS[length]}" in message
        assert peak < 2**20


@both_sides
async def test_a_length_that_may_be_and_does_not_come_allocates_nothing(side):
    async with under_test(side, Service(), limits=LIMITS) as (peer, connection):
        tracemalloc.start()
        try:
            await peer.stream.send_all(pack_header(12 + 2**20, Kind.REQUEST, 0, 0, 1) + b"x")
            await settle()
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert not connection()._lost
        assert peak < 2**19


# --- not trpc ---

STRAY = {
    "HTTP": b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200),
    "SSH": b"SSH-2.0-OpenSSH_9.6\r\n",
    "a line end that was translated": b"\x93trpc\n\x01",
    "another version": b"\x93trpc\r\n\x02",
    "zeros": bytes(100),
    "random 1": random.Random(1).randbytes(100),
    "random 2": random.Random(2).randbytes(100),
    "random 3": random.Random(3).randbytes(100),
}


@both_sides
@pytest.mark.parametrize("what", STRAY)
@pytest.mark.parametrize("bytewise", [False, True])
async def test_what_is_not_trpc_is_refused_within_the_first_bytes(side, what, bytewise):
    data = STRAY[what]
    same = next(i for i, (one, other) in enumerate(zip(data, PREAMBLE, strict=False)) if one != other)
    async with under_test(side, Service(), limits=LIMITS, is_open=False) as (peer, connection):
        made = connection()
        if bytewise:
            for i in range(same):
                await peer.stream.send_all(data[i : i + 1])
                await settle()
                assert not made._lost
            await peer.stream.send_all(data[same : same + 1])
        else:
            await peer.stream.send_all(data)
        message = await refused(peer, made)
        assert "does not speak trpc" in message or "version 2 of the protocol" in message


async def test_what_is_not_trpc_is_an_error_that_a_client_does_not_take_for_a_lost_connection():
    async with client_of_raw_peer() as (client, peer):
        await peer.stream.send_all(STRAY["HTTP"])
        with pytest.raises(trpc.ProtocolError, match="a text protocol, such as HTTP"):
            await client.call("A.b")


# --- the end of the stream ---


@both_sides
@pytest.mark.parametrize("left", [1, 12, 16, 17, 20])
async def test_an_end_inside_a_frame_is_a_truncation_and_calls_fail(side, left, caplog):
    caplog.set_level("DEBUG", "trpc.connections")
    async with under_test(side, Service(), limits=LIMITS) as (peer, connection):
        await peer.stream.send_all(encoded(1, "sleep", 1000.0))
        await settle()
        assert connection().calls
        await peer.stream.send_all(encoded(2, "echo", "x" * 100)[:left])
        await peer.stream.send_eof()
        assert await peer.receive() is None
        await settle()
        assert connection()._lost
        assert not connection().calls
        assert "the stream ended inside a frame" in caplog.text


async def test_an_end_inside_a_frame_at_a_client_with_a_call_is_a_lost_connection():
    async with client_of_raw_peer() as (client, peer), trio.open_nursery() as nursery:
        await peer.open()
        outcomes = {}
        start_call(nursery, outcomes, "call", client.call, "A.b")
        request = await peer.receive()
        await peer.stream.send_all(encode_frame(Kind.RESULT, request.id, b"\xc0")[:-1])
        await peer.stream.send_eof()
        await settle()
        assert isinstance(outcomes["call"], trpc.ConnectionLost)
        assert outcomes["call"].maybe_executed


@both_sides
@pytest.mark.parametrize("when", ["at once", "in the preamble", "behind the preamble", "behind the hello", "later"])
async def test_an_end_between_frames_is_a_normal_close(side, when, caplog):
    caplog.set_level("DEBUG", "trpc.connections")
    async with under_test(side, Service(), limits=LIMITS, is_open=False) as (peer, connection):
        made = connection()
        opening = PREAMBLE + encode_frame(Kind.HELLO, 0, peer.hello.encode())
        sent = {"at once": 0, "in the preamble": 3, "behind the preamble": len(PREAMBLE)}.get(when, len(opening))
        await peer.stream.send_all(opening[:sent]) if sent else None
        if when == "later":
            await peer.stream.send_all(encoded(1, "echo", 1))
            await settle()
        await peer.stream.send_eof()
        kinds = []
        while (frame := await peer.receive()) is not None:
            kinds.append(frame.kind)
        assert Kind.GOAWAY not in kinds
        await settle()
        assert made._lost
        assert ("the peer closed it" in caplog.text) is (when != "in the preamble")
        assert [record.levelname for record in caplog.records if record.name == "trpc"] == []


# --- bodies ---

BODIES = {
    "empty": b"",
    "c1": b"\xc1",
    "truncated": b"\x92\xacService.echo",
    "truncated string": b"\x92\xacServ",
    "trailing bytes": b"\x92\xacService.echo\x91\x01\x00",
    "2^32-1 elements": b"\xdd\xff\xff\xff\xff",
    "2^32-1 entries": b"\xdf\xff\xff\xff\xff",
    "2^32-1 bytes": b"\x92\xacService.echo\x91\xc6\xff\xff\xff\xff",
    "2^32-1 elements inside": b"\x92\xacService.echo\x91\xdd\xff\xff\xff\xff",
    "depth 65": b"\x92\xacService.echo\x91" + b"\x91" * 63 + b"\xc0",
    "depth 100,000": b"\x92\xacService.echo\x91" + b"\x91" * 99_998 + b"\xc0",
    "depth 100,000 of maps": b"\x92\xacService.echo\x91" + b"\x81\xa0" * 99_998 + b"\xc0",
    "bad UTF-8": b"\x92\xacService.echo\x91\xa2\xff\xfe",
    "bad UTF-8 in the name": b"\x92\xa2\xff\xfe\x90",
    "bad UTF-8 in a key": b"\x92\xacService.echo\x91\x81\xa1\xff\xc0",
    "unknown ext": b"\x92\xacService.echo\x91\xd4\x63\x00",
    "unknown ext of 2^32-1 bytes": b"\x92\xacService.echo\x91\xc9\xff\xff\xff\xff\x63",
    "an integer as key": b"\x92\xacService.echo\x91\x81\x01\x01",
    "a map as key": b"\x92\xacService.echo\x91\x81\x80\x01",
    "a map": b"\x80",
    "nil": b"\xc0",
    "an array of nothing": b"\x90",
    "a name alone": b"\x91\xacService.echo",
    "a number for a name": b"\x92\x01\x90",
    "bytes for a name": b"\x92\xc4\x01a\x90",
    "a map for the arguments": b"\x92\xacService.echo\x80",
    "an array for the keywords": b"\x93\xacService.echo\x91\x01\x90",
    "bytes as a keyword": b"\x93\xacService.echo\x91\x01\x81\xc4\x01a\x01",
    "metadata that is an array": b"\x95\xacService.echo\x91\x01\xc0\xc0\x90",
    "metadata with a map in it": b"\x95\xacService.echo\x91\x01\xc0\xc0\x81\xa1a\x80",
    "streams that are an array": b"\x96\xacService.echo\x91\xc0\xc0\xc0\xc0\x90",
    "an argument of another type": b"\x92\xaeService.number\x91\xa11",
    "too many arguments": b"\x92\xacService.echo\x92\x01\x02",
    "too few arguments": b"\x92\xacService.echo\x90",
    "an unknown keyword": b"\x93\xacService.echo\x91\x01\x81\xa1x\x01",
}


@both_sides
@pytest.mark.parametrize("what", BODIES)
async def test_a_request_that_cannot_be_read_fails_that_call_and_no_other(side, what):
    service = Service()
    async with under_test(side, service, limits=LIMITS) as (peer, connection):
        await peer.send(Kind.REQUEST, 1, BODIES[what])
        assert (await peer.receive_error(1))["code"] == Code.INVALID_ARGUMENTS
        # Nobody would hear of it.
        await peer.send(Kind.NOTIFY, 2, BODIES[what])
        await still_works(peer, 3)
        assert service.log == [3]
        assert connection()._protocol.share.taken == 0


NOT_VALUES = [name for name in BODIES if list(BODIES).index(name) < list(BODIES).index("a map")]


@pytest.mark.parametrize("kind", [Kind.RESULT, Kind.ERROR])
@pytest.mark.parametrize("what", NOT_VALUES)
async def test_a_reply_that_cannot_be_read_fails_that_call_and_no_other(kind, what):
    async with client_of_raw_peer(limits=LIMITS) as (client, peer):
        await peer.open()
        outcomes = {}
        async with trio.open_nursery() as nursery:
            start_call(nursery, outcomes, "bad", client.call, "A.b")
            await peer.send(kind, (await peer.receive()).id, BODIES[what])
        assert isinstance(outcomes["bad"], trpc.ProtocolError)
        async with trio.open_nursery() as nursery:
            start_call(nursery, outcomes, "good", client.call, "A.b")
            await peer.send_result((await peer.receive()).id, 1)
        assert outcomes["good"] == 1


@both_sides
@pytest.mark.parametrize("what", BODIES)
async def test_a_hello_that_cannot_be_read_is_an_error_and_closed(side, what):
    async with under_test(side, Service(), limits=LIMITS, is_open=False) as (peer, connection):
        body = BODIES[what]
        if len(body) > 16_384:
            body = body[:14] + body[14:8_000] + b"\xc0"
        await peer.stream.send_all(PREAMBLE + encode_frame(Kind.HELLO, 0, body))
        assert "hello" in await refused(peer, connection())


@both_sides
@pytest.mark.parametrize("body", [b"", b"\xc1", b"\x00", b"\xff", b"\xcf" + bytes(8), b"\xa11", b"\x01\x01"])
async def test_what_names_a_stream_and_cannot_be_read_is_an_error_and_closed(side, body):
    async with under_test(side, Service(), limits=LIMITS) as (peer, connection):
        await peer.stream.send_all(encoded(1, "sleep", 1000.0))
        await peer.send(Kind.RESULT_CREDIT, 1, body)
        await refused(peer, connection())


# --- bombs ---

# Empty maps: a byte each on the wire.
GROWTH = 73


@both_sides
@pytest.mark.parametrize("what", ["empty maps", "empty arrays", "nested headers", "nested headers of maps"])
async def test_a_bomb_takes_memory_within_the_documented_factor(side, what):
    size = 2**18 - 10
    head = b"\x92\xacService.take\x91"
    body = {
        "empty maps": head + b"\xdd" + struct.pack(">I", size) + b"\x80" * size,
        "empty arrays": head + b"\xdd" + struct.pack(">I", size) + b"\x90" * size,
        "nested headers": head + b"\xdd\x00\x0f\xff\xff" * (size // 5),
        "nested headers of maps": head + b"\xdf\x00\x0f\xff\xff\xa0" * (size // 6),
    }[what]
    async with under_test(side, Service(), limits=LIMITS) as (peer, _):
        await settle()
        tracemalloc.start()
        try:
            await peer.send(Kind.REQUEST, 1, body)
            frame = await peer.receive()
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert (frame.kind == Kind.RESULT) is what.startswith("empty"), bytes(frame.body[:200])
        # The bytes themselves are here several times: sent, received and put together; and once more the list of them.
        assert peak < (GROWTH + 8 + 8) * size
        await still_works(peer, 2)


# --- ids and kinds ---


@both_sides
@pytest.mark.parametrize("second", [1, 4, 5], ids=["lower", "just below", "the same"])
@pytest.mark.parametrize("kind", [Kind.REQUEST, Kind.NOTIFY])
async def test_an_id_that_is_reused_or_decreases_is_an_error_and_closed(side, second, kind):
    service = Service()
    async with under_test(side, service, limits=LIMITS) as (peer, connection):
        await still_works(peer, 5)
        await peer.send(kind, second, b"\x92\xacService.echo\x91\x01")
        assert "ids must increase" in await refused(peer, connection())
        assert service.log == [5]


@both_sides
async def test_the_id_0_is_an_error_and_closed(side):
    async with under_test(side, Service(), limits=LIMITS) as (peer, connection):
        await peer.stream.send_all(encoded(0, "echo", 1))
        await refused(peer, connection())


@both_sides
@pytest.mark.parametrize("kind", [0x00, 0x05, 0x16, 0x25, 0x7F])
async def test_an_unknown_kind_without_the_ignorable_bit_is_an_error_and_closed(side, kind):
    async with under_test(side, Service(), limits=LIMITS) as (peer, connection):
        await peer.send(kind, 1, b"x")
        assert "unknown kind" in await refused(peer, connection())


@both_sides
@pytest.mark.parametrize("kind", [0x80, 0x90, 0xFF])
@pytest.mark.parametrize("fields", [{}, {"stream": 7}, {"flags": 3}])
async def test_an_unknown_kind_with_the_ignorable_bit_is_ignored(side, kind, fields):
    async with under_test(side, Service(), limits=LIMITS) as (peer, _):
        for body in (b"", b"\xc1", bytes(100_000)):
            await peer.send(kind, 2**64 - 1, body, **fields)
        await still_works(peer, 1)


@both_sides
@pytest.mark.parametrize("call_id", [6, 2**64 - 1])
async def test_a_cancel_for_a_future_id_is_an_error_and_closed(side, call_id):
    async with under_test(side, Service(), limits=LIMITS) as (peer, connection):
        await still_works(peer, 5)
        await peer.send(Kind.CANCEL, call_id)
        assert "which has not been made" in await refused(peer, connection())


@both_sides
async def test_a_cancel_for_a_finished_call_and_a_second_one_are_ignored_and_cost_a_token(side):
    limits = trpc.Limits(control_burst=6, control_rate=1e-6)
    async with under_test(side, Service(), limits=limits) as (peer, connection):
        await still_works(peer, 5)
        for call_id in (5, 5, 3):
            await peer.send(Kind.CANCEL, call_id)
        await peer.stream.send_all(encoded(6, "sleep", 1000.0) + encode_frame(Kind.CANCEL, 6) * 2)
        assert (await peer.receive())[:2] == (Kind.CANCELLED, 6)
        await peer.send(Kind.CANCEL, 6)
        await still_works(peer, 7)
        # These were six.
        await peer.send(Kind.CANCEL, 7)
        await refused(peer, connection(), Code.UNAVAILABLE)


# --- deadlines ---


@both_sides
@pytest.mark.parametrize("time_left", [0, -1, -0.0, -1e300, -(2**63)])
async def test_a_deadline_that_is_not_above_0_has_expired(autojump_clock, side, time_left):
    service = Service()
    async with under_test(side, service, limits=LIMITS) as (peer, _):
        await peer.stream.send_all(encoded(1, "sleep", 1.0, time_left=time_left))
        assert (await peer.receive())[:2] == (Kind.EXPIRED, 1)
        assert service.log == [], "the handler has not run"


@both_sides
@pytest.mark.parametrize("time_left", [math.nan, math.inf, -math.inf, True, "1", [], {}, b"1"])
async def test_a_deadline_that_is_not_a_finite_number_is_refused(side, time_left):
    service = Service()
    async with under_test(side, service, limits=LIMITS) as (peer, _):
        body = msgpack.packb(["Service.sleep", [0.0], None, time_left])
        await peer.send(Kind.REQUEST, 1, body)
        assert (await peer.receive_error(1))["code"] == Code.INVALID_ARGUMENTS
        assert service.log == []
        await still_works(peer, 2)


@both_sides
@pytest.mark.parametrize("time_left", [31_536_001, 2**63, 1e300, 1.7e308])
async def test_a_deadline_that_is_huge_is_clamped(autojump_clock, side, time_left):
    service = Service()
    async with under_test(side, service, limits=LIMITS) as (peer, _):
        await peer.stream.send_all(encoded(1, "sleep", 1.0, time_left=time_left))
        assert (await peer.receive())[:2] == (Kind.RESULT, 1)
        assert service.log == [pytest.approx(31_536_000)]


async def test_nothing_of_this_side_is_left_behind():
    """Of a peer that sends all of it, one connection after the other."""
    for body in BODIES.values():
        async with client_of_raw_peer(limits=LIMITS, service=Service()) as (client, peer):
            await peer.open()
            await peer.send(Kind.REQUEST, 1, body)
            await peer.receive()
            assert connection_of(client)._host.pool.taken == 0
