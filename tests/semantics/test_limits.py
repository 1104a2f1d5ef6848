"""Limits of sizes and numbers: at the limit, just above and far beyond. Those of time are in test_time_limits.py."""

from __future__ import annotations

import dataclasses
import math
import tracemalloc
from collections.abc import AsyncIterable, AsyncIterator

import msgpack
import pytest
import trio
from semantics.peers import SIDES, serving, under_test
from support import client_of_raw_peer, connected, joined, settle, start_call

import trpc
from trpc._exceptions import Code
from trpc._frames import PREAMBLE, encode_frame, pack_header
from trpc._messages import ITEMS_COST, Kind, encode_request

KiB = 1024
MORE, CONTINUED = 1, 2

both_sides = pytest.mark.parametrize("side", SIDES)


class Service:
    def __init__(self):
        self.release = trio.Event()
        self.running = 0
        self.handled = 0

    @trpc.method
    def echo(self, value: object) -> object:
        self.handled += 1
        return value

    @trpc.method
    def size(self, value: bytes) -> int:
        self.handled += 1
        return len(value)

    @trpc.method
    def blob(self, size: int) -> bytes:
        self.handled += 1
        return bytes(size)

    @trpc.method
    async def hold(self, value: object = None) -> None:
        self.running += 1
        try:
            await self.release.wait()
        finally:
            self.running -= 1

    @trpc.method
    async def nap(self, value: object, seconds: float) -> str:
        await trio.sleep(seconds)
        return "slept"

    @trpc.method
    async def shield(self) -> None:
        self.running += 1
        with trio.CancelScope(shield=True):
            await self.release.wait()
        self.running -= 1

    @trpc.method
    async def total(self, items: AsyncIterable[int], hold: bool = False) -> int:
        if hold:
            await self.release.wait()
        return sum([item async for item in items])

    @trpc.method
    async def count(self, number: int) -> AsyncIterator[int]:
        for i in range(number):
            yield i


def request(method, *args, streams=None):
    return joined(encode_request(f"Service.{method}", list(args), None, None, None, streams, max_depth=200_000))


def request_of(size, method="size"):
    """The body of a request that has this many bytes."""
    for overhead in range(40):
        body = request(method, bytes(size - overhead))
        if len(body) == size:
            return body
    raise AssertionError(f"there is none of {size} bytes")


def result_of(size):
    body = msgpack.packb(bytes(size - 3))
    assert len(body) == size
    return body


async def refused_with(peer, code):
    """The peer gets a GOAWAY with this code, and then the end."""
    while (frame := await peer.receive()).kind != Kind.GOAWAY:
        pass
    assert msgpack.unpackb(frame.body)["code"] == code
    assert await peer.receive() is None
    return frame


async def still_works(peer, call_id):
    await peer.send(Kind.REQUEST, call_id, request("echo", call_id))
    frame = await peer.receive()
    assert (frame.kind, frame.id, msgpack.unpackb(frame.body)) == (Kind.RESULT, call_id, call_id)


async def no_bytes_left(connection):
    await settle()
    assert connection._protocol.share.taken == 0
    assert connection._host.pool.taken == 0


# --- max_message_size ---

LARGE = trpc.Limits(max_message_size=20_000)


@both_sides
async def test_max_message_size_of_a_request_at_the_limit(side):
    async with under_test(side, Service(), limits=LARGE) as (peer, connection):
        await peer.send(Kind.REQUEST, 1, request_of(20_000))
        assert (await peer.receive_value()) > 19_000
        await no_bytes_left(connection())


@both_sides
@pytest.mark.parametrize("size", [20_001, 16 * 2**20, 2**32 - 13], ids=["limit + 1", "16 MiB", "all that can be said"])
async def test_max_message_size_of_a_request_above_the_limit_closes_on_the_header(side, size):
    async with under_test(side, Service(), limits=LARGE) as (peer, _):
        await peer.stream.send_all(pack_header(12 + size, Kind.REQUEST, 0, 0, 1))
        await refused_with(peer, Code.PROTOCOL_ERROR)


@both_sides
@pytest.mark.parametrize("size", [101, 16_384])
async def test_max_message_size_of_a_request_that_is_small_anyway_fails_that_call_only(side, size):
    async with under_test(side, Service(), limits=trpc.Limits(max_message_size=100)) as (peer, _):
        await peer.send(Kind.REQUEST, 1, request_of(size))
        assert (await peer.receive_error(1))["code"] == Code.MESSAGE_TOO_LARGE
        await still_works(peer, 2)


@both_sides
@pytest.mark.parametrize("last", [0, 1])
async def test_max_message_size_counts_all_fragments_together(side, last):
    async with under_test(side, Service(), limits=LARGE) as (peer, _):
        body = request_of(20_000)
        await peer.send(Kind.REQUEST, 1, body[:10_000], flags=MORE)
        await peer.send(Kind.REQUEST, 1, body[10_000:] + bytes(last), flags=CONTINUED)
        if last:
            await refused_with(peer, Code.PROTOCOL_ERROR)
        else:
            assert (await peer.receive()).kind == Kind.RESULT


async def test_max_message_size_of_a_result_at_the_limit_and_above():
    async with client_of_raw_peer(limits=LARGE) as (client, peer), trio.open_nursery() as nursery:
        await peer.open()
        outcomes = {}
        start_call(nursery, outcomes, "at", client.call, "A.b")
        await peer.send(Kind.RESULT, (await peer.receive()).id, result_of(20_000))
        await settle()
        assert len(outcomes["at"]) > 19_000
        start_call(nursery, outcomes, "above", client.call, "A.b")
        request = await peer.receive()
        await peer.stream.send_all(pack_header(12 + 20_001, Kind.RESULT, 0, 0, request.id))
        await refused_with(peer, Code.PROTOCOL_ERROR)
        await settle()
        assert isinstance(outcomes["above"], trpc.ConnectionLost)


async def test_max_message_size_of_the_peer_is_obeyed_before_anything_is_sent():
    service = Service()
    async with connected(service, serve={"limits": LARGE}) as (client, _):
        await client.ping()  # its limits are known
        size = 20_000
        fits = size - (len(request("size", bytes(size))) - size)
        assert await client.call("Service.size", bytes(fits)) == fits
        for too_many in (fits + 1, 10 * fits):
            with pytest.raises(trpc.MessageTooLarge):
                await client.call("Service.size", bytes(too_many))
        assert service.handled == 1


async def test_max_message_size_of_the_caller_is_obeyed_in_results():
    async with connected(Service(), limits=LARGE) as (client, _):
        assert len(await client.call("Service.blob", 20_000 - 3)) == 20_000 - 3
        with pytest.raises(trpc.MessageTooLarge):
            await client.call("Service.blob", 20_000 - 2)


# --- max_hello_size ---


def hello_of(size):
    hello = {"max_message_size": 1 << 20, "max_calls": 100, "max_depth": 64}
    hello["later"] = "x" * (size - len(msgpack.packb({**hello, "later": "x" * 300})) + 300)
    body = msgpack.packb(hello)
    assert len(body) == size
    return body


@both_sides
@pytest.mark.parametrize("limit", [1000, 16 * KiB])
async def test_max_hello_size_at_the_limit(side, limit):
    async with under_test(side, Service(), limits=trpc.Limits(max_hello_size=limit), is_open=False) as (peer, _):
        await peer.stream.send_all(PREAMBLE + encode_frame(Kind.HELLO, 0, hello_of(limit)))
        assert (await peer.receive()).kind == Kind.HELLO
        await still_works(peer, 1)


@both_sides
@pytest.mark.parametrize("limit", [1000, 16 * KiB])
@pytest.mark.parametrize("above", [1, 2**31])
async def test_max_hello_size_above_the_limit_closes_on_the_header(side, limit, above):
    async with under_test(side, Service(), limits=trpc.Limits(max_hello_size=limit), is_open=False) as (peer, _):
        await peer.stream.send_all(PREAMBLE + pack_header(12 + limit + above, Kind.HELLO, 0, 0, 0))
        await refused_with(peer, Code.PROTOCOL_ERROR)


# --- max_depth ---


@both_sides
async def test_max_depth_of_a_request(side):
    async with under_test(side, Service(), limits=trpc.Limits(max_depth=5)) as (peer, _):
        # Two of them are of the request itself.
        for call_id, depth in enumerate((3, 4, 100_000, 3), 1):
            args = b"\x91" * depth + b"\xc0"
            await peer.send(Kind.REQUEST, call_id, b"\x92\xac" + b"Service.echo" + b"\x91" + args)
            if depth == 3:
                assert (await peer.receive()).kind == Kind.RESULT
            else:
                assert (await peer.receive_error(call_id))["code"] == Code.INVALID_ARGUMENTS


async def test_max_depth_of_a_result():
    async with client_of_raw_peer(limits=trpc.Limits(max_depth=5)) as (client, peer):
        await peer.open()
        for depth in (5, 6, 100_000, 5):
            async with trio.open_nursery() as nursery:
                outcomes = {}
                start_call(nursery, outcomes, "call", client.call, "A.b")
                await peer.send(Kind.RESULT, (await peer.receive()).id, b"\x91" * depth + b"\xc0")
            assert isinstance(outcomes["call"], list if depth == 5 else trpc.ProtocolError)


# --- max_calls ---


@both_sides
@pytest.mark.parametrize("method", ["hold", "shield"])
async def test_max_calls_counts_until_the_handler_has_ended(side, method):
    service = Service()
    async with under_test(side, service, limits=trpc.Limits(max_calls=3)) as (peer, _):
        for call_id in range(1, 21):
            await peer.send(Kind.REQUEST, call_id, request(method))
        for call_id in range(4, 21):
            assert (await peer.receive_error(call_id))["code"] == Code.OVERLOADED
        assert service.running == 3
        for call_id in (1, 2, 3):
            await peer.send(Kind.CANCEL, call_id)
        await settle()
        await peer.send(Kind.REQUEST, 21, request("echo", 1))
        if method == "shield":
            assert (await peer.receive_error(21))["code"] == Code.OVERLOADED, "they are cancelled, and not ended"
            service.release.set()
        kinds = [(await peer.receive()).kind for _ in range(3 if method == "shield" else 4)]
        assert kinds[:3] == [Kind.RESULT if method == "shield" else Kind.CANCELLED] * 3
        assert service.running == 0
        await still_works(peer, 22)


@both_sides
async def test_max_calls_of_one_way_calls(side):
    service = Service()
    async with under_test(side, service, limits=trpc.Limits(max_calls=3)) as (peer, _):
        for call_id in range(1, 21):
            await peer.send(Kind.NOTIFY, call_id, request("hold"))
        await settle()
        assert service.running == 3
        await peer.send(Kind.REQUEST, 21, request("echo", 1))
        assert (await peer.receive_error(21))["code"] == Code.OVERLOADED
        service.release.set()
        await settle()
        await still_works(peer, 22)


async def test_max_calls_of_the_peer_is_obeyed_and_those_above_wait():
    service = Service()
    async with connected(service, serve={"limits": trpc.Limits(max_calls=3)}) as (client, _):
        await client.ping()
        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(client.call, "Service.hold")
            await settle()
            assert service.running == 3
            service.release.set()


# --- max_bytes_in_flight ---

# The room is not below that for one message, and a KiB for each call.
BYTES = trpc.Limits(max_bytes_in_flight=200 * KiB, max_message_size=100 * KiB, max_calls=20)


@both_sides
@pytest.mark.parametrize("above", [0, 1])
async def test_max_bytes_in_flight_of_requests_whose_handlers_run(side, above):
    service = Service()
    async with under_test(side, service, limits=BYTES) as (peer, connection):
        for call_id in (1, 2):
            await peer.send(Kind.REQUEST, call_id, request_of(75 * KiB, "hold"))
        await settle()
        await peer.send(Kind.REQUEST, 3, request_of(50 * KiB + above))
        if above:
            assert (await peer.receive_error(3))["code"] == Code.OVERLOADED
        else:
            assert (await peer.receive()).kind == Kind.RESULT
        for call_id in range(4, 10):
            await peer.send(Kind.REQUEST, call_id, request_of(100 * KiB))
            assert (await peer.receive_error(call_id))["code"] == Code.OVERLOADED
        assert connection()._protocol.share.taken == 150 * KiB
        await still_works(peer, 10)
        await peer.send(Kind.CANCEL, 1)
        assert (await peer.receive()).kind == Kind.CANCELLED
        assert connection()._protocol.share.taken == 75 * KiB
        await peer.send(Kind.REQUEST, 11, request_of(100 * KiB))
        assert (await peer.receive()).kind == Kind.RESULT
        service.release.set()
        assert (await peer.receive()).kind == Kind.RESULT
        await no_bytes_left(connection())


@both_sides
@pytest.mark.parametrize("above", [0, 1])
async def test_max_bytes_in_flight_of_fragments(side, above):
    async with under_test(side, Service(), limits=BYTES) as (peer, connection):
        body = request_of(100 * KiB)
        for call_id in (1, 2):
            await peer.send(Kind.REQUEST, call_id, body[: 75 * KiB], flags=MORE)
        await peer.send(Kind.REQUEST, 3, body[: 50 * KiB + above], flags=MORE)
        if above:
            assert (await peer.receive_error(3))["code"] == Code.OVERLOADED
        else:
            await settle()
            assert connection()._protocol.share.taken == 200 * KiB
            await peer.send(Kind.CANCEL, 3)
            assert (await peer.receive()).kind == Kind.CANCELLED
        assert connection()._protocol.share.taken == 150 * KiB
        await peer.send(Kind.REQUEST, 3, body[50 * KiB + above :], flags=CONTINUED)
        await peer.send(Kind.CANCEL, 1)
        assert (await peer.receive()).kind == Kind.CANCELLED
        await peer.send(Kind.REQUEST, 2, body[75 * KiB :], flags=CONTINUED)
        assert (await peer.receive()).kind == Kind.RESULT
        await no_bytes_left(connection())


@both_sides
async def test_max_bytes_in_flight_of_a_frame_that_is_being_received(side):
    service = Service()
    async with under_test(side, service, limits=BYTES) as (peer, connection):
        for call_id in (1, 2):
            await peer.send(Kind.REQUEST, call_id, request_of(75 * KiB, "hold"))
        frame = encode_frame(Kind.REQUEST, 3, request_of(100 * KiB))
        await peer.stream.send_all(frame[:20])
        await settle()
        await peer.stream.send_all(frame[20:50_000])
        await settle()
        assert connection()._protocol.share.taken == 150 * KiB, "it is not kept"
        await peer.stream.send_all(frame[50_000:])
        assert (await peer.receive_error(3))["code"] == Code.OVERLOADED
        await still_works(peer, 4)
        service.release.set()
        for _ in range(2):
            assert (await peer.receive()).kind == Kind.RESULT
        frame = encode_frame(Kind.REQUEST, 5, request_of(100 * KiB))
        await peer.stream.send_all(frame[:20])
        await settle()
        await peer.stream.send_all(frame[20:50_000])
        await settle()
        assert connection()._protocol.share.taken == 100 * KiB, "all of it, as it will come"
        await peer.stream.send_all(frame[50_000:])
        assert (await peer.receive()).kind == Kind.RESULT
        await no_bytes_left(connection())


@both_sides
@pytest.mark.parametrize("what", ["calls", "fragments", "frame"])
async def test_max_bytes_in_flight_come_back_when_the_connection_ends(side, what):
    async with under_test(side, Service(), limits=BYTES) as (peer, connection):
        frame = encode_frame(Kind.REQUEST, 1, request_of(100 * KiB, "hold"))
        if what == "fragments":
            frame = encode_frame(Kind.REQUEST, 1, bytes(90 * KiB), flags=MORE)
        for part in (frame[:20], frame[20:50_000], frame[50_000:-1] if what == "frame" else frame[50_000:]):
            await peer.stream.send_all(part)
            await settle()
        made = connection()
        assert made._host.pool.taken >= 90 * KiB
        await peer.stream.aclose()
        await settle()
        assert made._lost
        assert made._host.pool.taken == 0


async def test_max_server_bytes_in_flight_of_all_connections_of_a_server():
    service = Service()
    limits = dataclasses.replace(BYTES, max_server_bytes_in_flight=250 * KiB)
    async with serving(service, limits=limits) as site:
        one, two, three = [await site.connect() for _ in range(3)]
        for call_id in (1, 2):
            await one.send(Kind.REQUEST, call_id, request_of(100 * KiB, "hold"))
        await settle()
        await two.send(Kind.REQUEST, 1, request_of(50 * KiB, "hold"))
        await settle()
        assert service.running == 3
        # All is taken. Each connection has 64 KiB in any case.
        await two.send(Kind.REQUEST, 2, request_of(14 * KiB, "hold"))
        await three.send(Kind.REQUEST, 1, request_of(64 * KiB, "hold"))
        await settle()
        assert service.running == 5
        await two.send(Kind.REQUEST, 3, request_of(100))
        assert (await two.receive_error(3))["code"] == Code.OVERLOADED
        await three.send(Kind.REQUEST, 2, request_of(100))
        assert (await three.receive_error(2))["code"] == Code.OVERLOADED
        (first, *_) = sorted(site.connections, key=lambda connection: -connection._protocol.share.taken)
        assert first._host.pool.taken == (200 + 50 + 14 + 64) * KiB
        # They come back with the end of a connection.
        await one.stream.aclose()
        await settle()
        assert first._host.pool.taken == (50 + 14 + 64) * KiB
        await two.send(Kind.REQUEST, 4, request_of(100 * KiB))
        assert (await two.receive()).kind == Kind.RESULT
        service.release.set()
        await settle()
        assert first._host.pool.taken == 0


@both_sides
@pytest.mark.parametrize("in_fragments", [False, True])
async def test_max_bytes_in_flight_a_frame_of_16_mib_that_is_skipped_costs_no_memory(side, in_fragments):
    limits = trpc.Limits(max_server_bytes_in_flight=256 * KiB)
    async with under_test(side, Service(), limits=limits) as (peer, connection):
        size = 16 * 2**20
        header = pack_header(12 + size, Kind.REQUEST, MORE if in_fragments else 0, 0, 1)
        zeros = bytes(32 * KiB)
        await peer.stream.send_all(header)
        await settle()
        tracemalloc.start()
        try:
            for _ in range(size // len(zeros)):
                await peer.stream.send_all(zeros)
                await trio.testing.wait_all_tasks_blocked()
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert peak < 512 * KiB
        assert (await peer.receive_error(1))["code"] == Code.OVERLOADED
        if in_fragments:
            await peer.send(Kind.REQUEST, 1, b"rest", flags=CONTINUED)
        await still_works(peer, 2)
        await no_bytes_left(connection())


# --- max_unsent ---


@pytest.mark.transports("memory", reason="lockstep: a write waits until the peer reads")
@both_sides
async def test_max_unsent_above_it_the_peer_is_not_read(side):
    service = Service()
    limits = trpc.Limits(max_unsent=50_000)
    async with under_test(side, service, limits=limits, lockstep=True, is_open=False) as (peer, connection):
        number = 100

        async def send():
            await peer.stream.send_all(PREAMBLE + encode_frame(Kind.HELLO, 0, peer.hello.encode()))
            for call_id in range(1, number + 1):
                await peer.send(Kind.REQUEST, call_id, request("blob", 9_900))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(send)
            await settle(100)
            # So many fit, one is being written, and one is above it.
            assert 5 <= service.handled <= 8
            assert 50_000 < connection()._outbox.unsent_answers < 90_000
            assert (await peer.receive()).kind == Kind.HELLO
            for call_id in range(1, number + 1):
                assert (await peer.receive()).id == call_id
        assert service.handled == number


# --- stream_credit, max_streams ---


@both_sides
@pytest.mark.parametrize("above", [0, 1])
async def test_stream_credit_of_an_argument(side, above):
    limits = trpc.Limits(stream_credit=10 * (ITEMS_COST + 2))
    service = Service()
    features = {"features": ("fragments", "streams"), "stream_credit": 1000}
    async with under_test(side, service, limits=limits, **features) as (peer, _):
        await peer.send(Kind.REQUEST, 1, request("total", None, True, streams={1: 0}))
        for _ in range(10 + above):
            await peer.send(Kind.ARGUMENT_ITEMS, 1, b"\x91\x01", stream=1)
        if above:
            await refused_with(peer, Code.PROTOCOL_ERROR)
            return
        await peer.send(Kind.ARGUMENT_END, 1, b"\xc0", stream=1)
        service.release.set()
        while (frame := await peer.receive()).kind == Kind.ARGUMENT_CREDIT:
            pass
        assert (frame.kind, msgpack.unpackb(frame.body)) == (Kind.RESULT, 10)


@pytest.mark.parametrize("above", [0, 1])
async def test_stream_credit_of_a_result(above):
    limits = trpc.Limits(stream_credit=10 * (ITEMS_COST + 2))
    hello = {"features": ("fragments", "streams"), "stream_credit": 1000}
    async with client_of_raw_peer(limits=limits, hello=hello) as (client, peer):
        await peer.open()
        outcome = None
        async with trio.open_nursery() as nursery:

            async def consume():
                nonlocal outcome
                try:
                    async with client.stream("A.b") as items:
                        await settle()
                        outcome = [item async for item in items]
                except trpc.RPCError as exc:
                    outcome = exc

            nursery.start_soon(consume)
            call = await peer.receive()
            for _ in range(10 + above):
                await peer.send(Kind.RESULT_ITEMS, call.id, b"\x91\x01")
            if not above:
                await peer.send(Kind.RESULT, call.id, b"\xc0")
        if above:
            assert isinstance(outcome, trpc.RPCError)
        else:
            assert outcome == [1] * 10


@both_sides
async def test_max_streams_of_all_calls_until_their_handlers_have_ended(side):
    service = Service()
    features = {"features": ("fragments", "streams"), "stream_credit": 1000}
    async with under_test(side, service, limits=trpc.Limits(max_streams=3), **features) as (peer, _):
        for call_id in range(1, 11):
            await peer.send(Kind.REQUEST, call_id, request("total", None, True, streams={1: 0}))
            await peer.send(Kind.ARGUMENT_END, call_id, b"\xc0", stream=1)
            if call_id > 3:
                assert (await peer.receive_error(call_id))["code"] == Code.OVERLOADED
        await still_works(peer, 11)
        service.release.set()
        assert sorted([(await peer.receive()).id for _ in range(3)]) == [1, 2, 3]
        await peer.send(Kind.REQUEST, 12, request("total", None, True, streams={1: 0}))
        await peer.send(Kind.ARGUMENT_END, 12, b"\xc0", stream=1)
        assert (await peer.receive()).kind == Kind.RESULT


# --- max_connections ---


async def test_max_connections_the_newcomer_is_told_and_the_others_are_unaffected(autojump_clock):
    service = Service()
    async with serving(service, limits=trpc.Limits(max_connections=2)) as site:
        old = [await site.connect() for _ in range(2)]
        for peer in old:
            await peer.send(Kind.REQUEST, 1, request("hold"))
        for _ in range(5):
            newcomer = await site.connect()
            await newcomer.send(Kind.REQUEST, 1, request("echo", 1))
            frame = await refused_with(newcomer, Code.UNAVAILABLE)
            assert frame.id == 0, "none of its calls is executed"
            await newcomer.stream.aclose()
        await settle()
        assert len(site.server.connections) == 2
        async with trpc.connect_stream(await site.stream()) as client:
            with pytest.raises(trpc.Unavailable, match="2 connections are open, the most that are served"):
                await client.call("Service.echo", 1)
        assert (service.handled, service.running) == (0, 2)
        for peer in old:
            await still_works(peer, 2)
        await old.pop().stream.aclose()
        await settle()
        await still_works(await site.connect(), 1)
        service.release.set()
        assert (await old[0].receive()).kind == Kind.RESULT


async def test_max_connections_hundreds_of_newcomers_that_do_not_read_are_closed_at_once(autojump_clock):
    async with serving(Service(), limits=trpc.Limits(max_connections=1)) as site:
        old = await site.connect()
        start = trio.current_time()
        newcomers = [await site.stream() for _ in range(150)]
        await settle()
        await still_works(old, 1)
        await trio.sleep(10)
        for newcomer in newcomers:
            while await newcomer.receive_some():
                pass
        assert trio.current_time() - start < 20
        await still_works(old, 2)
        assert math.isfinite(site.server.connections[0].opened)


async def test_max_bytes_in_flight_of_the_peer_is_obeyed_and_those_above_wait():
    service, outcomes = Service(), {}
    limits = trpc.Limits(max_message_size=100 * KiB, max_calls=10, max_bytes_in_flight=250 * KiB)
    async with connected(service, serve={"limits": limits}) as (client, _), trio.open_nursery() as nursery:
        assert await client.call("Service.echo", 1) == 1
        for key in range(5):
            start_call(nursery, outcomes, key, client.call, "Service.hold", bytes(90 * KiB))
        await settle()
        assert service.running == 2, "each has more than a third of it"
        # What is small is not kept behind them.
        assert await client.call("Service.echo", 2) == 2
        with trio.move_on_after(0) as scope:
            scope.deadline = -math.inf
            await client.call("Service.hold", bytes(90 * KiB))
        assert scope.cancelled_caught
        service.release.set()
        await settle()
        assert outcomes == dict.fromkeys(range(5))


async def test_max_bytes_in_flight_who_waits_for_them_hears_of_the_end():
    service, outcomes = Service(), {}
    limits = trpc.Limits(max_message_size=100 * KiB, max_calls=10, max_bytes_in_flight=1)
    async with trio.open_nursery() as outer:
        async with connected(service, serve={"limits": limits}) as (client, server):
            await client.call("Service.echo", 1)
            for key in range(4):
                start_call(outer, outcomes, key, client.call, "Service.hold", bytes(90 * KiB))
            await settle()
            (connection,) = server._connections
            connection.cut("for the test")
            await settle()
            assert [type(outcomes[key]) for key in range(4)] == [trpc.ConnectionLost] * 4
            assert sorted(outcomes[key].maybe_executed for key in range(4)) == [False, False, False, True]


async def test_max_bytes_in_flight_who_gives_up_lets_the_next_one_go(autojump_clock):
    """Its turn and its deadline come at the same time."""
    service, outcomes = Service(), {}
    limits = trpc.Limits(max_message_size=100 * KiB, max_calls=10, max_bytes_in_flight=1)

    async def call(timeout):
        with trio.move_on_after(timeout):
            return await client.call("Service.nap", bytes(90 * KiB), 1.0)

    async with connected(service, serve={"limits": limits}) as (client, _), trio.open_nursery() as nursery:
        await client.call("Service.echo", 1)
        for key, timeout in enumerate((5, 1, 1.0, 1, 60)):
            start_call(nursery, outcomes, key, call, timeout)
            await settle()
        await trio.sleep(10)
        assert outcomes == {0: "slept", 1: None, 2: None, 3: None, 4: "slept"}


async def test_max_bytes_in_flight_a_handler_does_not_wait_for_those_of_its_callers():
    class Site:
        @trpc.method
        async def back(self) -> str:
            client = trpc.current_call().client
            async with trio.open_nursery() as nursery:
                nursery.start_soon(client.call, "Service.hold", bytes(90 * KiB))
                await settle()
                try:
                    await client.call("Service.hold", bytes(90 * KiB))
                except trpc.Overloaded as exc:
                    service.release.set()
                    return str(exc)

    service = Service()
    limits = trpc.Limits(max_message_size=100 * KiB, max_calls=10, max_bytes_in_flight=1)
    async with connected(Site(), service=service, limits=limits) as (client, _):
        assert "must not wait for them" in await client.call("Site.back")


@pytest.mark.parametrize("waits", ["in a queue", "in fragments"])
async def test_max_server_bytes_in_flight_counts_items_of_streams(waits):
    service = Service()
    limits = trpc.Limits(max_server_bytes_in_flight=200 * KiB, max_message_size=2**20)
    async with serving(service, limits=limits) as site:
        hello = {"features": ("streams", "fragments"), "stream_credit": 1000}
        one, two = await site.connect(**hello), await site.connect(**hello)
        body = joined(encode_request("Service.total", [None, True], None, None, None, {1: 0}, max_depth=64))
        await one.send(Kind.REQUEST, 1, body)
        items = msgpack.packb([bytes(150 * KiB)])
        fields = {"stream": 1, "flags": MORE if waits == "in fragments" else 0}
        await one.send(Kind.ARGUMENT_ITEMS, 1, items, **fields)
        await settle()
        (pool,) = {connection._host.pool for connection in site.connections}
        assert 150 * KiB < pool.taken < 152 * KiB
        # Another one has room for what is small, and for no more.
        await two.send(Kind.REQUEST, 1, request_of(60 * KiB))
        assert (await two.receive()).kind == Kind.RESULT
        await two.send(Kind.REQUEST, 2, request_of(100 * KiB))
        assert (await two.receive_error(2))["code"] == Code.OVERLOADED
        if waits == "in fragments":
            # What has begun when there is no more room is given up: the handler is told.
            await one.send(Kind.ARGUMENT_ITEMS, 1, bytes(60 * KiB), stream=1, flags=MORE | CONTINUED)
            await settle()
            assert pool.taken < 2 * KiB
            service.release.set()
            error = await _error_behind_credit(one)
            assert "there was no room for it here" in error["message"]
        else:
            await one.send(Kind.CANCEL, 1)
            assert (await one.receive()).kind == Kind.CANCELLED
        await settle()
        assert pool.taken == 0


async def _error_behind_credit(peer):
    while (frame := await peer.receive()).kind != Kind.ERROR:
        assert frame.kind in {Kind.ARGUMENT_CREDIT, Kind.ARGUMENT_STOP}
    return msgpack.unpackb(frame.body)
