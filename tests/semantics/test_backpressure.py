"""A consumer that does not read stops its producer, and nothing else; and what was granted to a stream is not lost."""

from __future__ import annotations

import dataclasses
import gc
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
from trpc._frames import MORE, encode_frame
from trpc._incoming_call import IncomingCall
from trpc._incoming_stream import IncomingStream
from trpc._messages import ITEMS_COST, Kind
from trpc._outgoing_call import OutgoingCall
from trpc._outgoing_stream import OutgoingStream

CREDIT = 1000
SMALL = trpc.Limits(stream_credit=CREDIT)

# Items that are made at most before they are sent: those that a producer gathers.
GATHERED = 64


class Service:
    def __init__(self):
        self.made = 0
        self.go_on = trio.Event()
        self.taken = []
        self.streams = []

    @trpc.method
    async def items(self, size: int) -> AsyncIterator[bytes]:
        while True:
            self.made += 1
            yield b"x" * size

    @trpc.method
    async def count(self, n: int) -> AsyncIterator[int]:
        for number in range(n):
            yield number

    @trpc.method
    async def stall(self, items: AsyncIterable[bytes], most: int = 0) -> int:
        """Reads so many, and goes on when it is told to."""
        self.streams.append(items)
        taken = 0
        while taken < most:
            await items.receive()
            taken += 1
        await self.go_on.wait()
        async for _ in items:
            taken += 1
        return taken

    @trpc.method
    async def first_of_each(self, first: AsyncIterable[int], second: AsyncIterable[int]) -> int:
        """Leaves the first, reads the second to its end."""
        number = await first.receive()
        await first.aclose()
        return number + sum([item async for item in second])

    @trpc.method
    async def first(self, items: AsyncIterable[int]) -> int:
        return await items.receive()

    @trpc.method
    async def total(self, items: AsyncIterable[int]) -> int:
        return sum([item async for item in items])

    @trpc.method
    def echo(self, value: object) -> object:
        return value


class Source:
    """A generator that says how far it has got."""

    def __init__(self, size=0):
        self.made = 0
        self.size = size

    async def items(self, n=10**9):
        for number in range(n):
            self.made += 1
            yield b"x" * self.size if self.size else number


def held(stream):
    """Bytes that a stream holds for its consumer."""
    return sum(cost for _, cost in stream._messages) + sum(len(item) for item in stream._items)


def most_held(size):
    """The credit, and one message that is being taken: of one item, or within the credit."""
    return CREDIT + max(CREDIT, size + ITEMS_COST + 10)


@pytest.mark.parametrize("size", [1, 100, 5000])
async def test_a_consumer_that_does_not_read_stops_its_producer(size):
    served = Service()
    async with connected(served, limits=SMALL) as (client, server):
        async with client.stream("Service.items", size) as items:
            await settle()
            made = served.made
            assert 0 < made <= CREDIT / size + GATHERED + 2
            assert held(items) <= most_held(size)
            await settle()
            assert served.made == made
            (connection,) = server._connections
            assert connection._outbox.unsent == 0, "it waits where it is made"
            # And goes on as far as it is read.
            for _ in range(1000):
                assert await items.receive() == b"x" * size
            await settle()
            assert 1000 <= served.made <= 1000 + 2 * (CREDIT / size + GATHERED + 2)
            assert held(items) <= most_held(size)


@pytest.mark.parametrize("size", [1, 100, 5000])
async def test_a_handler_that_does_not_read_stops_the_producer_of_its_argument(size):
    served, source = Service(), Source(size)
    async with connected(served, serve={"limits": SMALL}) as (client, _), trio.open_nursery() as nursery:
        outcomes = {}
        start_call(nursery, outcomes, "call", client.call, "Service.stall", source.items(2000), 10)
        await settle()
        made = source.made
        assert 10 < made <= 10 + 2 * (CREDIT / size + GATHERED + 2)
        assert held(served.streams[0]) <= most_held(size)
        assert connection_of(client)._outbox.unsent == 0
        await settle()
        assert source.made == made
        served.go_on.set()
        with trio.fail_after(10):
            while not outcomes:
                await trio.lowlevel.checkpoint()
        assert outcomes == {"call": 2000}


async def test_all_else_goes_on_beside_streams_that_stall():
    served, sources = Service(), [Source(10) for _ in range(5)]
    async with connected(served, limits=SMALL, serve={"limits": SMALL}) as (client, _), trio.open_nursery() as nursery:
        for source in sources:
            nursery.start_soon(client.call, "Service.stall", source.items())
        async with (
            client.stream("Service.items", 10),
            client.stream("Service.items", 100),
            client.stream("Service.items", 9000),
        ):
            await settle()
            made = [source.made for source in sources]
            assert all(made)
            for number in range(50):
                assert await client.call("Service.echo", number) == number
                assert await client.ping() >= 0
            await client.notify("Service.echo", 1)
            async with client.stream("Service.count", 500) as items:
                assert [item async for item in items] == list(range(500))
            assert await client.call("Service.total", Source().items(500)) == sum(range(500))
            large = b"z" * 3_000_000
            assert await client.call("Service.echo", large) == large
            assert [source.made for source in sources] == made
        nursery.cancel_scope.cancel()


async def test_one_of_two_arguments_stalls():
    class Two:
        @trpc.method
        async def second_first(self, first: AsyncIterable[int], second: AsyncIterable[int]) -> list[int]:
            total = sum([item async for item in second])
            assert held(first) <= CREDIT + ITEMS_COST + 10
            return [total, sum([item async for item in first])]

    async with connected(Two(), serve={"limits": SMALL}) as (client, _):
        assert await client.call("Two.second_first", Source().items(3000), Source().items(2000)) == [
            sum(range(2000)),
            sum(range(3000)),
        ]


async def test_a_channel_is_not_read_further_than_its_items_are_wanted():
    served = Service()
    send, receive = trio.open_memory_channel(10_000)
    for number in range(10_000):
        send.send_nowait(number)
    send.close()
    async with connected(served, serve={"limits": SMALL}) as (client, _):
        assert await client.call("Service.first", receive) == 0
        left = receive.statistics().current_buffer_used
        assert left >= 10_000 - CREDIT - 2 * GATHERED
        # What was not sent is still there for somebody else.
        assert await client.call("Service.total", receive) == sum(range(10_000 - left, 10_000))


def living():
    """What there is of calls and streams, on whichever connection."""
    gc.collect()
    kinds = (IncomingStream, OutgoingStream, IncomingCall, OutgoingCall)
    return [thing for thing in gc.get_objects() if isinstance(thing, kinds)]


@pytest.mark.parametrize(("credit", "times"), [(300, 250), (1, 50), (256 * 1024, 10)])
async def test_many_streams_that_are_left_early(credit, times):
    """On one connection; none keeps anything, and the last works as the first did."""
    served = Service()
    before = len(living())
    limits = trpc.Limits(stream_credit=credit, max_calls=2, max_streams=2)
    async with connected(served, limits=limits, serve={"limits": limits}) as (client, server):
        (connection,) = server._connections
        ends = (connection_of(client), connection)
        for number in range(times):
            async with client.stream("Service.count", 10**9) as items:
                if number % 2:
                    assert await items.receive() == 0
            assert await client.call("Service.first", Source().items()) == 0
            assert await client.call("Service.first_of_each", Source().items(), Source().items(30)) == sum(range(30))
        await client.ping()
        await settle()
        assert_nothing_left(*ends)
        assert len(living()) < before + 10
        async with client.stream("Service.count", 500) as items:
            assert [item async for item in items] == list(range(500))
        assert await client.call("Service.total", Source().items(500)) == sum(range(500))


async def test_no_more_argument_streams_than_allowed():
    served = Service()
    limits = trpc.Limits(max_streams=3)
    async with connected(served, serve={"limits": limits}) as (client, _), trio.open_nursery() as nursery:
        outcomes = {}
        for key in range(4):
            source = Source(1)
            start_call(nursery, outcomes, key, client.call, "Service.stall", source.items(5))
            await settle()
        assert {key: type(outcome) for key, outcome in outcomes.items()} == {3: trpc.Overloaded}
        # Results of calls are none of them.
        async with client.stream("Service.count", 3) as items:
            assert [item async for item in items] == [0, 1, 2]
        served.go_on.set()
        await settle()
        assert outcomes.pop(3)
        assert outcomes == {0: 5, 1: 5, 2: 5}
        assert await client.call("Service.total", Source().items(3)) == 3


# --- a peer that grants more than it reads ---

MAX_UNSENT = 100_000
GENEROUS = {"features": ("streams", "fragments"), "stream_credit": 2**31, "max_message_size": 2**24}
only_sockets = pytest.mark.transports("socket", reason="a memory stream takes any number of bytes")


def most_unsent(streams, size):
    """Each stream may add one message more than there is room for."""
    return MAX_UNSENT + streams * (64 * size + 64 * 1024)


@only_sockets
@pytest.mark.parametrize(("streams", "size"), [(1, 1000), (1, 100_000), (20, 1000)])
async def test_results_for_a_peer_that_does_not_read(autojump_clock, streams, size):
    served = Service()
    async with raw_client_of(served, limits=trpc.Limits(max_unsent=MAX_UNSENT)) as peer:
        peer.hello = type(peer.hello)(max_calls=100, max_depth=64, **GENEROUS)
        await peer.open()
        for call_id in range(1, streams + 1):
            await peer.send_request(call_id, "Service.items", size)
        await settle()
        made = served.made
        assert 0 < made * size < 3_000_000 + most_unsent(streams, size)
        await settle()
        assert served.made == made
        # It goes on when it is read.
        with trio.fail_after(20):
            while served.made < made + 100 * streams:
                assert (await peer.receive()).kind == Kind.RESULT_ITEMS


@only_sockets
async def test_arguments_for_a_peer_that_does_not_read(autojump_clock):
    limits = trpc.Limits(max_unsent=MAX_UNSENT)
    async with client_of_raw_peer(hello=GENEROUS, limits=limits, cancel_grace=0) as (client, peer):
        await peer.open()
        await settle()
        sources = [Source(1000) for _ in range(10)]
        outcomes = {}
        async with trio.open_nursery() as nursery:
            for source in sources:
                nursery.start_soon(client.call, "A.b", source.items())
            await settle()
            outbox = connection_of(client)._outbox
            unsent = outbox.unsent
            assert unsent <= most_unsent(len(sources), 1000)
            assert all(source.made for source in sources)
            await settle()
            assert outbox.unsent == unsent
            # A call beside them does not wait for their room, nor behind what waits there.
            start_call(nursery, outcomes, "call", client.call, "A.small", 5)
            await settle()
            received = 0
            with trio.fail_after(20):
                while True:
                    frame = await peer.receive()
                    if frame.kind == Kind.REQUEST and _codec.unpack(frame.body, max_depth=8)[0] == "A.small":
                        break
                    received += len(frame.body)
            assert received < 3_000_000
            await peer.send_result(frame.id, 6)
            await settle()
            assert outcomes == {"call": 6}
            nursery.cancel_scope.cancel()
        await peer.stream.aclose()
        await settle()
        assert_nothing_left(connection_of(client))


@pytest.mark.transports("memory", reason="one write for each batch")
async def test_a_stream_beside_a_flood_of_small_calls(monkeypatch):
    """It has its share of each batch, and is not put off until the calls end."""
    cut_into(monkeypatch, 10_000, 500)
    hello = {"features": ("streams",), "stream_credit": 2**20, "max_calls": 1000}
    async with client_of_raw_peer(hello=hello, cancel_grace=0) as (client, peer):
        await peer.open()
        await settle()
        begin = trio.Event()

        async def items():
            await begin.wait()
            for _ in range(5):
                yield b"x" * 100
                await trio.lowlevel.checkpoint()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.call, "A.b", items())
            assert (await peer.receive()).kind == Kind.REQUEST
            await settle()
            for _ in range(400):
                nursery.start_soon(client.call, "A.small", b"y" * 100)
            begin.set()
            kinds = [(await peer.receive()).kind for _ in range(300)]
            assert kinds.count(Kind.ARGUMENT_ITEMS) > 0
            nursery.cancel_scope.cancel()


# --- to the byte, with a peer that keeps count ---


async def test_what_a_producer_sends_is_within_its_credit():
    async with client_of_raw_peer(hello={"features": ("streams",), "stream_credit": 100}) as (client, peer):
        await peer.open()
        await settle()

        async def items():
            for number in range(1000):
                yield number % 100

        async with trio.open_nursery() as nursery:
            outcomes = {}
            start_call(nursery, outcomes, "call", client.call, "A.b", items())
            request = await peer.receive()
            got, credit = [], 100
            for _ in range(20):
                frame = await peer.receive()
                assert (frame.kind, frame.id, frame.stream) == (Kind.ARGUMENT_ITEMS, request.id, 1)
                some = _codec.unpack(frame.body, max_depth=8)
                cost = len(frame.body) + ITEMS_COST
                assert credit > 0
                assert cost <= credit or len(some) == 1
                got += some
                credit -= cost
                await settle()
                if credit <= 0:
                    # Nothing comes until there is more.
                    with trio.move_on_after(0):
                        await peer.receive()
                        pytest.fail("an item without credit")
                    await peer.send(Kind.ARGUMENT_CREDIT, request.id, _codec.pack(50, max_depth=0), stream=1)
                    credit += 50
            assert got == [number % 100 for number in range(len(got))]
            await peer.send_result(request.id, None)
        assert outcomes == {"call": None}


async def test_credit_that_comes_while_a_producer_waits_for_something_else():
    """What it has made before leaves then, although it makes nothing."""
    async with client_of_raw_peer(hello={"features": ("streams",), "stream_credit": 1}) as (client, peer):
        await peer.open()
        await settle()

        async def items():
            for number in range(5):
                yield number
            await trio.sleep_forever()

        async with trio.open_nursery() as nursery:
            start_call(nursery, {}, "call", client.call, "A.b", items())
            request = await peer.receive()
            got = []
            with trio.fail_after(5):
                while len(got) < 5:
                    got += await peer.receive_value()
                    await peer.send(Kind.ARGUMENT_CREDIT, request.id, _codec.pack(20, max_depth=0), stream=1)
            assert got == [0, 1, 2, 3, 4]
            await peer.send_result(request.id, None)


async def test_a_consumer_grants_what_it_has_taken_and_no_more():
    limits = trpc.Limits(stream_credit=1000)
    hello = {"features": ("streams",), "stream_credit": 1000}
    async with client_of_raw_peer(hello=hello, limits=limits) as (client, peer):
        await peer.open()
        async with client.stream("A.b") as items:
            request = await peer.receive()
            body = _codec.pack([b"x" * 80], max_depth=8)
            cost = len(body) + ITEMS_COST
            sent = granted = 0
            for _ in range(10):
                await peer.send(Kind.RESULT_ITEMS, request.id, body)
                sent += cost
            await settle()
            with trio.move_on_after(0):
                await peer.receive()
                pytest.fail("credit for what nobody has taken")
            for _ in range(10):
                await items.receive()
            await settle()
            while granted < 500:
                frame = await peer.receive()
                assert (frame.kind, frame.id) == (Kind.RESULT_CREDIT, request.id)
                granted += _codec.unpack(frame.body, max_depth=0)
            assert granted <= sent
            await peer.send_result(request.id, None)
            with pytest.raises(trio.EndOfChannel):
                await items.receive()


@pytest.mark.parametrize("messages", ["many", "large", "in fragments"])
async def test_a_peer_that_sends_without_credit_is_closed(messages):
    limits = trpc.Limits(stream_credit=1000)
    hello = {"features": ("streams", "fragments"), "stream_credit": 1000}
    async with client_of_raw_peer(hello=hello, limits=limits) as (client, peer):
        await peer.open()
        async with client.stream("A.b") as items:
            request = await peer.receive()
            if messages == "many":
                one = encode_frame(Kind.RESULT_ITEMS, request.id, _codec.pack([b"x" * 80], max_depth=8))
                await peer.stream.send_all(100 * one)
            elif messages == "large":
                await peer.send(Kind.RESULT_ITEMS, request.id, _codec.pack([b"x" * 800, b"y" * 800], max_depth=8))
            else:
                body = _codec.pack([b"x" * 800, b"y" * 800], max_depth=8)
                await peer.send(Kind.RESULT_ITEMS, request.id, body[:500], flags=MORE)
                await peer.send(Kind.RESULT_ITEMS, request.id, body[500:], flags=2)
            await settle()
            with pytest.raises(trpc.ConnectionLost, match="credit"):
                while True:
                    await items.receive()
            goaway = await peer.receive()
            assert goaway.kind == Kind.GOAWAY


class Counting:
    def __init__(self):
        self.made = 0

    @trpc.method
    async def count(self) -> AsyncIterator[int]:
        while True:
            self.made += 1
            yield self.made


@pytest.mark.parametrize(("credit", "most"), [(1, 2), (100, 110), (10_000, 10_010)])
async def test_no_more_items_are_made_than_there_is_credit_for(credit, most):
    service = Counting()
    async with raw_client_of(service) as peer:
        peer.hello = dataclasses.replace(peer.hello, features=("streams",), stream_credit=credit)
        await peer.open()
        await peer.send_request(1, "Counting.count")
        await settle()
        # Each takes a byte or more, and one is on its way to wait.
        assert 1 <= service.made <= most
