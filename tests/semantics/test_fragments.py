"""Large messages leave in pieces: they arrive whole, small ones go between the pieces, and what is not wanted is not sent to its end."""

from __future__ import annotations

import contextlib
import random
from collections.abc import AsyncIterable, AsyncIterator

import pytest
import trio
import trio.testing
from support import (
    assert_nothing_left,
    client_of_raw_peer,
    connected,
    connection_of,
    cut_into,
    raw_client_of,
    settle,
    start_call,
)

import trpc
from trpc import _codec
from trpc._frames import CONTINUED, MORE
from trpc._messages import Hello, Kind

# The most that a message may have by default, less what is around the value.
LARGE = 16 * 1024 * 1024 - 100
BOTH = ("fragments", "streams")


@trpc.exception(name="fragments.Verbose")
class Verbose(Exception):
    """Its text is large."""


def blob(seed, size):
    return random.Random(seed).randbytes(size)


class Service:
    def __init__(self):
        self.running = 0
        self.event = trio.Event()

    @contextlib.contextmanager
    def handling(self):
        self.running += 1
        try:
            yield
        finally:
            self.running -= 1

    @trpc.method
    async def echo(self, value: object) -> object:
        with self.handling():
            return value

    @trpc.method
    async def blob(self, seed: int, size: int) -> bytes:
        with self.handling():
            return blob(seed, size)

    @trpc.method
    async def text(self, size: int) -> str:
        return "t" * size

    @trpc.method
    async def size(self, value: bytes) -> int:
        return len(value)

    @trpc.method
    async def fail(self, size: int) -> None:
        raise Verbose("e" * size)

    @trpc.method
    async def blobs(self, seed: int, count: int, size: int) -> AsyncIterator[bytes]:
        with self.handling():
            for number in range(count):
                yield blob(seed + number, size)

    @trpc.method
    async def check(self, seed: int, size: int, blobs: AsyncIterable[bytes]) -> int:
        with self.handling():
            count = 0
            async for item in blobs:
                assert item == blob(seed + count, size)
                count += 1
            return count

    @trpc.method
    async def first(self, blobs: AsyncIterable[bytes]) -> bytes:
        with self.handling():
            return await blobs.receive()

    @trpc.method
    async def beside(self, value: bytes, blobs: AsyncIterable[bytes]) -> int:
        return len(value) + sum([len(item) async for item in blobs])

    @trpc.method
    async def wait(self) -> None:
        with self.handling():
            await self.event.wait()


async def blobs(seed, count, size):
    for number in range(count):
        yield blob(seed + number, size)


@contextlib.asynccontextmanager
async def serving(service, **options):
    async with connected(service, **options) as (client, server):
        (connection,) = server._connections
        yield client
        await client.ping()
        await settle()
        assert_nothing_left(connection_of(client), connection)


# --- whole ---


@pytest.mark.parametrize(
    ("fragment", "batch"), [(300, 400), (1000, 500), (1000, 64 * 1024), (50_000, 1000)], ids=lambda n: f"{n}"
)
async def test_large_messages_of_every_kind_at_once(monkeypatch, fragment, batch):
    cut_into(monkeypatch, fragment, batch)
    limits = trpc.Limits(stream_credit=10_000)
    done = []
    async with serving(Service(), limits=limits, serve={"limits": limits}) as client:
        await client.ping()

        async def echo(seed):
            data = blob(seed, 20_000 + seed)
            assert await client.call("Service.echo", data) == data
            assert await client.call("Service.echo", {"a": [data, "x" * 30_000]}) == {"a": [data, "x" * 30_000]}

        async def fail():
            with pytest.raises(Verbose) as error:
                await client.call("Service.fail", 40_000)
            assert str(error.value) == "e" * 40_000

        async def read(seed):
            async with client.stream("Service.blobs", seed, 5, 9_000 + seed) as items:
                number = 0
                async for item in items:
                    assert item == blob(seed + number, 9_000 + seed)
                    number += 1
            assert number == 5

        async def send(seed):
            assert await client.call("Service.check", seed, 8_000 + seed, blobs(seed, 5, 8_000 + seed)) == 5
            assert await client.call("Service.beside", bytes(30_000), blobs(seed, 2, 8_000)) == 46_000

        async def fail_in_an_argument():
            async def fails():
                yield b"x" * 20_000
                raise Verbose("f")

            with pytest.raises(Verbose) as error:
                await client.call("Service.beside", b"", fails())
            assert str(error.value) == "f"

        async def small(number):
            for _ in range(20):
                assert await client.call("Service.echo", number) == number

        async def note(function, *args):
            await function(*args)
            done.append(function)

        async with trio.open_nursery() as nursery:
            for seed in range(4):
                nursery.start_soon(note, echo, seed)
                nursery.start_soon(note, read, seed)
                nursery.start_soon(note, send, seed)
                nursery.start_soon(note, small, seed)
            nursery.start_soon(note, fail)
            nursery.start_soon(note, fail_in_an_argument)
            nursery.start_soon(client.notify, "Service.size", bytes(20_000))
    assert len(done) == 18


@pytest.mark.parametrize("size", [999, 1000, 1001, 1999, 2000, 2001, 3000])
async def test_sizes_around_those_of_fragments(monkeypatch, size):
    """Of the bodies, which are some bytes larger than the values."""
    cut_into(monkeypatch, 1000)
    async with serving(Service()) as client:
        for less in range(40):
            data = blob(less, size - less)
            assert await client.call("Service.echo", data) == data
        async with client.stream("Service.blobs", 1, 5, size - 8) as items:
            assert [item async for item in items] == [blob(1 + number, size - 8) for number in range(5)]


# --- small ones between the pieces ---


@pytest.mark.parametrize("large", ["request", "reply", "text", "result item", "argument item", "request with a stream"])
async def test_small_calls_overtake_a_large_message(monkeypatch, large):
    """In many small pieces, as the small calls take a few passes of the event loop each."""
    cut_into(monkeypatch, 10_000, 10_000)
    size = 5_000_000
    service = Service()
    async with serving(service) as client, trio.open_nursery() as nursery:
        await client.ping()
        order = []

        async def call():
            if large == "request":
                assert await client.call("Service.size", bytes(size)) == size
            elif large == "reply":
                assert len(await client.call("Service.blob", 1, size)) == size
            elif large == "text":
                assert len(await client.call("Service.text", size)) == size
            elif large == "result item":
                async with client.stream("Service.blobs", 1, 1, size) as items:
                    assert len(await items.receive()) == size
            elif large == "argument item":
                assert len(await client.call("Service.first", blobs(1, 1, size))) == size
            else:
                assert await client.call("Service.beside", bytes(size - 100), blobs(1, 1, 100)) == size
            order.append("large")

        nursery.start_soon(call)
        # Until it is on its way.
        with trio.fail_after(50):
            while not (connection_of(client)._protocol._fragments or connection_of(client)._outbox.unsent):
                await trio.lowlevel.checkpoint()
        for number in range(3):
            assert await client.call("Service.echo", number) == number
            await client.ping()
            async with client.stream("Service.blobs", 1, 2, 10) as items:
                assert [len(item) async for item in items] == [10, 10]
            order.append(number)
    # One after the other, a call, a ping and a stream.
    assert order[0] == 0
    assert len(order) == 4


@pytest.mark.transports("memory", reason="a socket takes many at once before others are there")
async def test_large_requests_leave_one_after_the_other_once_they_have_begun(monkeypatch):
    """So that the peer has few of them in pieces; small ones do not wait for that."""
    cut_into(monkeypatch, 1000, 500)
    async with client_of_raw_peer(hello={"features": BOTH, "stream_credit": 1000}) as (client, peer):
        await peer.open()
        await settle()
        async with trio.open_nursery() as nursery:
            for letter in (b"a", b"b", b"c"):
                start_call(nursery, {}, letter, client.call, "A.b", letter * 20_000)
            start_call(nursery, {}, "small", client.call, "A.small")
            parts, order, left = {}, [], 4
            while left:
                frame = await peer.receive()
                assert frame.kind == Kind.REQUEST
                parts.setdefault(frame.id, []).append(frame)
                order.append(frame.id)
                left -= not frame.flags & MORE
            whole = [frames for frames in parts.values() if len(frames) > 1]
            assert sorted(map(len, parts.values())) == [1, 21, 21, 21]
            for frames in whole:
                assert [frame.flags for frame in frames] == [MORE, *[MORE | CONTINUED] * 19, CONTINUED]
                assert all(len(frame.body) == 1000 for frame in frames[:-1])
                _, args = _codec.unpack(b"".join(frame.body for frame in frames), max_depth=8)
                assert args == [args[0][:1] * 20_000]
            assert sorted(set(order[:10])) == [1, 2, 3, 4], "all have begun, in the order of their ids"
            begun = list(dict.fromkeys(order))
            assert begun == sorted(begun)
            ends = [len(order) - 1 - order[::-1].index(call_id) for call_id in begun if len(parts[call_id]) > 1]
            assert ends[1] - ends[0] > 15
            assert ends[2] - ends[1] > 15
            for call_id in parts:
                await peer.send_result(call_id, None)


@pytest.mark.transports("memory", reason="a socket takes many at once before others are there")
@pytest.mark.parametrize("what", ["replies", "items"])
async def test_large_replies_and_items_take_turns(monkeypatch, what):
    cut_into(monkeypatch, 1000, 500)
    async with raw_client_of(Service()) as peer:
        peer.hello = Hello(2**20, 100, 64, BOTH, 10**6)
        await peer.open()
        kind = Kind.RESULT if what == "replies" else Kind.RESULT_ITEMS
        for call_id in (1, 2, 3):
            args = ("Service.blob", call_id, 20_000) if what == "replies" else ("Service.blobs", call_id, 1, 20_000)
            await peer.send_request(call_id, *args)
        parts, order, left = {}, [], 3
        while left:
            frame = await peer.receive()
            if frame.kind == kind:
                parts.setdefault(frame.id, []).append(bytes(frame.body))
                order.append(frame.id)
                left -= not frame.flags & MORE
        for call_id in (1, 2, 3):
            value = _codec.unpack(b"".join(parts[call_id]), max_depth=8)
            assert value == (blob(call_id, 20_000) if what == "replies" else [blob(call_id, 20_000)])
        middle = order[10:50]
        assert all(one != other for one, other in zip(middle, middle[1:], strict=False))


# --- peers without the feature ---


async def test_a_peer_without_fragments_gets_large_messages_whole(monkeypatch):
    cut_into(monkeypatch, 1000)
    async with client_of_raw_peer(hello={"features": ("streams",), "stream_credit": 1000}) as (client, peer):
        await peer.open()
        await settle()
        outcomes = {}
        async with trio.open_nursery() as nursery:
            start_call(nursery, outcomes, "call", client.call, "A.b", bytes(100_000))
            request = await peer.receive()
            assert (request.kind, request.flags) == (Kind.REQUEST, 0)
            assert len(request.body) > 100_000
            await peer.send_result(request.id, bytes(200_000))
            start_call(nursery, outcomes, "send", client.call, "A.b", blobs(1, 1, 50_000))
            request = await peer.receive()
            item = await peer.receive()
            assert (item.kind, item.flags) == (Kind.ARGUMENT_ITEMS, 0)
            assert _codec.unpack(item.body, max_depth=8) == [blob(1, 50_000)]
            assert (await peer.receive()).kind == Kind.ARGUMENT_END
            await peer.send_result(request.id, 1)
        assert outcomes == {"call": bytes(200_000), "send": 1}


async def test_a_caller_without_fragments_gets_large_replies_whole(monkeypatch):
    cut_into(monkeypatch, 1000)
    async with raw_client_of(Service()) as peer:
        peer.hello = Hello(2**20, 100, 64, ("streams",), 10**6)
        await peer.open()
        await peer.send_request(1, "Service.blob", 3, 100_000)
        reply = await peer.receive()
        assert (reply.kind, reply.flags) == (Kind.RESULT, 0)
        assert _codec.unpack(reply.body, max_depth=8) == blob(3, 100_000)
        await peer.send_request(2, "Service.blobs", 3, 1, 100_000)
        items = await peer.receive()
        assert (items.kind, items.flags) == (Kind.RESULT_ITEMS, 0)
        assert _codec.unpack(items.body, max_depth=8) == [blob(3, 100_000)]
        assert (await peer.receive()).kind == Kind.RESULT
        # Nor may it send any.
        await peer.send(Kind.REQUEST, 3, b"\x92", flags=MORE)
        await settle()


# --- taken back, in the middle ---

only_sockets = pytest.mark.transports("socket", reason="a memory stream takes any number of bytes")


@only_sockets
@pytest.mark.parametrize("what", ["request", "argument item"])
async def test_a_large_message_that_is_taken_back_is_not_sent_to_its_end(monkeypatch, what):
    cut_into(monkeypatch, 10_000, 10_000)
    size = 10_000_000
    hello = {"features": BOTH, "stream_credit": 1000, "max_message_size": 2**24}
    async with client_of_raw_peer(hello=hello) as (client, peer):
        await peer.open()
        await settle()
        outcomes = {}
        async with trio.open_nursery() as nursery:

            async def call():
                args = [bytes(size)] if what == "request" else [blobs(1, 1, size)]
                with trio.CancelScope() as scope:
                    outcomes["scope"] = scope
                    await client.call("A.b", *args)
                outcomes["cancelled"] = scope.cancelled_caught

            nursery.start_soon(call)
            kind = Kind.REQUEST if what == "request" else Kind.ARGUMENT_ITEMS
            while (frame := await peer.receive()).kind != kind:
                pass
            await settle()
            outcomes["scope"].cancel()
            await settle()
            received = len(frame.body)
            was_cancelled = False
            start_call(nursery, outcomes, "next", client.call, "A.c", 5)
            # What had been written before goes on, and what is small overtakes it.
            while (request := await peer.receive()).kind == kind and request.id == frame.id or not was_cancelled:
                if request.kind == Kind.CANCEL:
                    assert request.id == 1
                    was_cancelled = True
                    await peer.send(Kind.CANCELLED, request.id)
                else:
                    assert request.flags & MORE
                    received += len(request.body)
            assert request.kind == Kind.REQUEST
            assert received < size / 2
            await settle()
            assert outcomes["cancelled"]
            await peer.send_result(request.id, 6)
        assert outcomes["next"] == 6
        assert_nothing_left(connection_of(client))


@only_sockets
async def test_a_scope_of_the_generators_own_while_a_large_item_waits_to_be_written(autojump_clock, monkeypatch):
    """The item was yielded, so it arrives, although the scope around the yield ends meanwhile."""
    cut_into(monkeypatch, 10_000, 10_000)

    class Limited:
        @trpc.method
        async def items(self) -> AsyncIterator[bytes]:
            yield b"begin"
            with trio.move_on_after(1):
                for number in range(5):
                    yield bytes([number]) * 2_000_000
            yield b"end"

        @trpc.method
        def blob(self) -> bytes:
            return bytes(3_000_000)

    async with raw_client_of(Limited()) as peer:
        peer.hello = Hello(2**24, 100, 64, BOTH, 2**31)
        await peer.open()
        for call_id in range(2, 6):
            await peer.send_request(call_id, "Limited.blob")
        await peer.send_request(6, "Limited.items")
        # It does not read, until that is over.
        await trio.sleep(10)
        items, parts = [], []
        while True:
            frame = await peer.receive()
            if frame.id == 6 and frame.kind == Kind.RESULT:
                break
            if frame.kind == Kind.RESULT_ITEMS:
                parts.append(frame.body)
                if not frame.flags & MORE:
                    items += _codec.unpack(b"".join(parts), max_depth=8)
                    parts = []
        assert items == [b"begin", bytes(2_000_000), b"end"]


@pytest.mark.parametrize("kind", [Kind.RESULT, Kind.ERROR, Kind.RESULT_ITEMS])
async def test_a_call_that_is_cancelled_in_the_middle_of_its_reply(kind):
    async with client_of_raw_peer(hello={"features": BOTH, "stream_credit": 1000}) as (client, peer):
        await peer.open()
        for reply in (Kind.CANCELLED, Kind.RESULT):
            with trio.CancelScope() as scope:
                async with trio.open_nursery() as nursery:

                    async def call():
                        if kind == Kind.RESULT_ITEMS:
                            async with client.stream("A.b") as items:
                                await items.receive()
                        else:
                            await client.call("A.b")

                    nursery.start_soon(call)
                    request = await peer.receive()
                    await peer.send(kind, request.id, b"\xc5\xff\xff" + bytes(1000), flags=MORE)
                    await peer.send(kind, request.id, bytes(1000), flags=MORE | CONTINUED)
                    await settle()
                    assert len(connection_of(client)._protocol._fragments) == 1
                    scope.cancel()
                    with trio.CancelScope(shield=True):
                        assert (await peer.receive())[:2] == (Kind.CANCEL, request.id)
                        await peer.send(reply, request.id, b"" if reply == Kind.CANCELLED else b"\xc0")
                        await settle()
            assert_nothing_left(connection_of(client))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.ping)
            ping = await peer.receive()
            await peer.send(Kind.PONG, ping.id)


@pytest.mark.parametrize("grace", [0, 1])
@pytest.mark.parametrize("what", ["request", "reply", "result item", "argument item", "request with a stream"])
async def test_a_cancel_at_any_time_of_a_large_message(autojump_clock, monkeypatch, what, grace):
    cut_into(monkeypatch, 1000, 2000)
    service = Service()
    async with serving(service, cancel_grace=grace) as client:
        await client.ping()
        cancelled = 0
        for passes in range(60):
            with trio.CancelScope() as scope:
                async with trio.open_nursery() as nursery:

                    async def call():
                        if what == "request":
                            await client.call("Service.size", bytes(30_000))
                        elif what == "reply":
                            await client.call("Service.blob", 1, 30_000)
                        elif what == "result item":
                            async with client.stream("Service.blobs", 1, 3, 30_000) as items:
                                await items.receive()
                        elif what == "argument item":
                            await client.call("Service.check", 1, 30_000, blobs(1, 3, 30_000))
                        else:
                            await client.call("Service.beside", bytes(20_000), blobs(1, 1, 20_000))
                        nursery.cancel_scope.cancel()

                    nursery.start_soon(call)
                    for _ in range(passes):
                        await trio.lowlevel.checkpoint()
                    scope.cancel()
            cancelled += scope.cancelled_caught
            assert await client.call("Service.echo", passes) == passes
        assert cancelled > 0
        await settle()
        assert service.running == 0


@pytest.mark.parametrize("what", ["request", "reply", "result item", "argument item"])
async def test_a_deadline_in_the_middle_of_a_large_message(autojump_clock, what):
    """The other end does not read on, or does not send on."""
    hello = {"features": BOTH, "stream_credit": 1000, "max_message_size": 2**24}
    async with client_of_raw_peer(hello=hello, cancel_grace=0.5) as (client, peer):
        await peer.open()
        await settle()
        start = trio.current_time()
        async with trio.open_nursery() as nursery:

            async def call():
                with trio.move_on_after(2):
                    if what == "request":
                        await client.call("A.b", bytes(LARGE))
                    elif what == "argument item":
                        await client.call("A.b", blobs(1, 1, LARGE))
                    elif what == "reply":
                        await client.call("A.b")
                    else:
                        async with client.stream("A.b") as items:
                            await items.receive()

            nursery.start_soon(call)
            request = await peer.receive()
            if what == "reply":
                await peer.send(Kind.RESULT, request.id, bytes(1000), flags=MORE)
            elif what == "result item":
                await peer.send(Kind.RESULT_ITEMS, request.id, bytes(1000), flags=MORE)
        assert trio.current_time() - start == pytest.approx(2.5)
        await peer.stream.aclose()


async def test_the_connection_is_lost_in_the_middle_of_a_large_message():
    async with client_of_raw_peer(hello={"features": BOTH, "stream_credit": 1000}) as (client, peer):
        await peer.open()
        await settle()
        outcomes = {}
        async with trio.open_nursery() as nursery:
            start_call(nursery, outcomes, "reply", client.call, "A.b")
            start_call(nursery, outcomes, "request", client.call, "A.c", bytes(900_000))
            start_call(nursery, outcomes, "item", client.call, "A.d", blobs(1, 1, 900_000))
            request = await peer.receive()
            await peer.send(Kind.RESULT, request.id, bytes(1000), flags=MORE)
            await settle()
            await peer.stream.aclose()
        assert {type(outcome) for outcome in outcomes.values()} == {trpc.ConnectionLost}
        assert_nothing_left(connection_of(client))


@pytest.mark.parametrize("limit", ["max_bytes_in_flight", "max_calls"])
async def test_requests_that_are_refused_before_they_are_whole(monkeypatch, limit):
    cut_into(monkeypatch, 1000, 2000)
    service = Service()
    limits = trpc.Limits(
        max_message_size=25_000, max_bytes_in_flight=50_000, max_calls=4 if limit == "max_calls" else 20
    )
    async with raw_client_of(service, limits=limits) as peer:
        peer.hello = Hello(2**20, 100, 64, BOTH, 1000)
        await peer.open()
        body = _codec.pack(["Service.size", [bytes(20_000)]], max_depth=8)
        parts = [body[start : start + 1000] for start in range(0, len(body), 1000)]
        for position, part in enumerate(parts):
            flags = (MORE if position < len(parts) - 1 else 0) | (CONTINUED if position else 0)
            for call_id in range(1, 11):
                await peer.send(Kind.REQUEST, call_id, part, flags=flags)
        replies = {}
        while len(replies) < 10:
            frame = await peer.receive()
            replies[frame.id] = frame
        kinds = [replies[call_id].kind for call_id in range(1, 11)]
        assert Kind.RESULT in kinds
        assert Kind.ERROR in kinds
        for frame in replies.values():
            value = _codec.unpack(frame.body, max_depth=8)
            assert value == 20_000 if frame.kind == Kind.RESULT else value["code"] == 5
        await peer.send_request(11, "Service.echo", 5)
        assert await peer.receive_value() == 5


@only_sockets
async def test_what_is_refused_while_it_is_being_sent_is_not_sent_to_its_end(monkeypatch):
    cut_into(monkeypatch, 10_000, 10_000)
    size = 10_000_000
    hello = {"features": BOTH, "stream_credit": 1000, "max_message_size": 2**24}
    async with client_of_raw_peer(hello=hello) as (client, peer):
        await peer.open()
        await settle()
        outcomes = {}
        async with trio.open_nursery() as nursery:
            start_call(nursery, outcomes, "call", client.call, "A.b", bytes(size))
            frame = await peer.receive()
            await peer.send(Kind.ERROR, frame.id, _codec.pack({"code": 5, "message": "no"}, max_depth=2))
            await settle()
            assert type(outcomes["call"]) is trpc.Overloaded
            start_call(nursery, outcomes, "ping", client.ping)
            received = 0
            while (frame := await peer.receive()).kind == Kind.REQUEST:
                received += len(frame.body)
            assert frame.kind == Kind.PING
            assert received < size / 2
            await peer.send(Kind.PONG, frame.id)
        assert_nothing_left(connection_of(client))
