"""What a stream is to those who produce and consume it: both directions, all ways to pass one, and its items' types."""

from __future__ import annotations

import contextlib
import contextvars
import dataclasses
import datetime as dt
import enum
from collections.abc import AsyncIterable, AsyncIterator
from typing import NamedTuple

import pytest
import trio
import trio.testing
from support import (
    assert_nothing_left,
    client_of_raw_peer,
    connected,
    connection_of,
    open_generators,
    settle,
    start_call,
)

import trpc
from trpc import _codec
from trpc._messages import Kind


@dataclasses.dataclass
class Point:
    x: int
    y: float


class Color(enum.Enum):
    RED = "red"


class Named(NamedTuple):
    name: str
    points: list[Point]


class Countdown:
    """An async iterable that is no generator."""

    def __init__(self, start):
        self.start = start

    def __aiter__(self):
        return self

    async def __anext__(self):
        if self.start == 0:
            raise StopAsyncIteration
        self.start -= 1
        await trio.lowlevel.checkpoint()
        return self.start + 1


class Restarts:
    """One whose iterators are generators, which nobody else can close."""

    def __init__(self, n):
        self.n = n
        self.closed = 0

    async def __aiter__(self):
        try:
            for number in range(self.n):
                yield number
        finally:
            self.closed += 1


class Service:
    def __init__(self):
        self.open = 0
        self.got = []
        self.event = trio.Event()

    # --- to the client ---

    @trpc.method
    async def count(self, n: int) -> AsyncIterator[int]:
        self.open += 1
        try:
            for number in range(n):
                yield number
        finally:
            self.open -= 1

    @trpc.method
    async def untyped(self, n):
        for number in range(n):
            yield {"number": number}

    @trpc.method
    async def points(self) -> AsyncIterator[Point]:
        yield Point(1, 2.5)
        yield Point(3, 4.0)

    @trpc.method
    async def names(self) -> AsyncIterator[dict[int, str]]:
        yield {1: "one", 2: "two"}
        yield {}

    @trpc.method
    async def times(self) -> AsyncIterator[dt.datetime]:
        yield dt.datetime(2024, 2, 29, 12, tzinfo=dt.UTC)

    @trpc.method
    async def mixed(self) -> AsyncIterator[Named | None]:
        yield Named("a", [Point(0, 0.0)])
        yield None

    @trpc.method
    async def object_of_its_own(self, start: int) -> AsyncIterator[int]:
        await trio.lowlevel.checkpoint()
        return Countdown(start)

    @trpc.method
    def from_a_plain_method(self, start: int) -> AsyncIterable[int]:
        return Countdown(start)

    @trpc.method
    async def from_a_channel(self) -> trio.abc.ReceiveChannel[int]:
        send, receive = trio.open_memory_channel(10)
        for number in range(5):
            send.send_nowait(number)
        send.close()
        return receive

    @trpc.method
    async def defaults(self, n: int = 2, *, text: str = "x") -> AsyncIterator[str]:
        for _ in range(n):
            yield text

    @trpc.method
    async def slowly(self) -> AsyncIterator[int]:
        """Each item only when somebody asks for it."""
        for number in range(3):
            yield number
            await self.event.wait()
            self.event = trio.Event()

    # --- from the client ---

    @trpc.method
    async def total(self, numbers: AsyncIterable[int]) -> int:
        return sum([number async for number in numbers])

    @trpc.method
    async def collect(self, items: AsyncIterable[object]) -> list:
        return [item async for item in items]

    @trpc.method
    async def collect_untyped(self, items: AsyncIterable) -> list:
        return [item async for item in items]

    @trpc.method
    async def take_points(self, points: AsyncIterable[Point]) -> float:
        self.got = [point async for point in points]
        return sum(point.x + point.y for point in self.got)

    @trpc.method
    async def take_names(self, names: AsyncIterable[dict[int, str]]) -> int:
        self.got = [name async for name in names]
        return len(self.got)

    @trpc.method
    async def take_times(self, times: trio.abc.ReceiveChannel[dt.datetime]) -> int:
        self.got = [time async for time in times]
        return len(self.got)

    @trpc.method
    async def join(
        self,
        first: AsyncIterable[str],
        between: str,
        second: AsyncIterator[str],
        *,
        third: trio.abc.ReceiveChannel[str] | None = None,
    ) -> str:
        text = between.join(["".join([part async for part in first]), "".join([part async for part in second])])
        return text if third is None else text + between + "".join([part async for part in third])

    @trpc.method
    async def join_all(self, *parts: AsyncIterable[str], **named: AsyncIterable[str]) -> list[str]:
        texts = ["".join([text async for text in part]) for part in parts]
        return texts + [name + "".join([text async for text in part]) for name, part in named.items()]

    @trpc.method
    async def maybe(self, numbers: AsyncIterable[int] | None = None) -> str:
        return "none" if numbers is None else str([number async for number in numbers])

    # --- both ---

    @trpc.method
    async def doubles(self, numbers: AsyncIterable[int]) -> AsyncIterator[int]:
        async for number in numbers:
            yield 2 * number

    @trpc.method
    async def pairs(self, first: AsyncIterable[int], second: AsyncIterable[str]) -> AsyncIterator[tuple[int, str]]:
        async for number in first:
            yield number, await anext(second)

    @trpc.method
    def echo(self, value: object) -> object:
        return value


async def numbers(n):
    for number in range(n):
        yield number


async def letters(text):
    for letter in text:
        await trio.lowlevel.checkpoint()
        yield letter


@contextlib.asynccontextmanager
async def serving(service=None, **options):
    """A proxy and its client; at the end nothing is left."""
    before = open_generators()
    async with connected(service or Service(), **options) as (client, server):
        yield client.proxy(Service), client
        await client.ping()
        await settle()
        (connection,) = server._connections
        assert_nothing_left(connection_of(client), connection)
    assert [generator for generator in open_generators() if generator not in before] == []


# --- from server to client ---


@pytest.mark.parametrize("n", [0, 1, 2, 64, 65, 1000])
async def test_a_stream_of_numbers(n):
    async with serving() as (service, _), service.count(n) as items:
        assert [item async for item in items] == list(range(n))


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        ("points", [Point(1, 2.5), Point(3, 4.0)]),
        ("names", [{1: "one", 2: "two"}, {}]),
        ("times", [dt.datetime(2024, 2, 29, 12, tzinfo=dt.UTC)]),
        ("mixed", [Named("a", [Point(0, 0.0)]), None]),
        ("defaults", ["x", "x"]),
        ("from_a_channel", [0, 1, 2, 3, 4]),
    ],
)
async def test_items_are_what_their_hint_says(method, expected):
    async with serving() as (service, _), getattr(service, method)() as items:
        got = [item async for item in items]
        assert got == expected
        assert [type(item) for item in got] == [type(item) for item in expected]


@pytest.mark.parametrize("method", ["object_of_its_own", "from_a_plain_method"])
async def test_a_method_that_returns_an_iterator(method):
    async with serving() as (service, _), getattr(service, method)(3) as items:
        assert [item async for item in items] == [3, 2, 1]


async def test_arguments_and_defaults_of_a_method_that_streams():
    async with serving() as (service, _):
        async with service.defaults(1, text="y") as items:
            assert [item async for item in items] == ["y"]
        with pytest.raises(trpc.InvalidArguments, match="'n'"):
            async with service.defaults("many") as items:
                await items.receive()


async def test_by_name_items_are_plain():
    async with serving() as (_, client):
        async with client.stream("Service.points") as items:
            assert [item async for item in items] == [{"x": 1, "y": 2.5}, {"x": 3, "y": 4.0}]
        async with client.stream("Service.names") as items:
            assert [item async for item in items] == [{"1": "one", "2": "two"}, {}]
        async with client.stream("Service.defaults", 1, text="z") as items:
            assert await items.receive() == "z"
        async with client.stream("Service.untyped", 2) as items:
            assert [item async for item in items] == [{"number": 0}, {"number": 1}]


async def test_by_an_untyped_proxy():
    async with serving() as (_, client):
        service = client.proxy("Service")
        async with service.count(3) as items:
            assert [item async for item in items] == [0, 1, 2]
        assert await service.echo(5) == 5
        assert await service.total(numbers(4)) == 6
        async with service.doubles(numbers(3)) as items:
            assert [item async for item in items] == [0, 2, 4]


async def test_a_stream_is_a_receive_channel():
    async with serving() as (service, _), service.count(3) as items:
        assert isinstance(items, trio.abc.ReceiveChannel)
        assert await items.receive() == 0
        async for item in items:
            assert item == 1
            break
        assert await anext(items) == 2
        for _ in range(2):
            with pytest.raises(trio.EndOfChannel):
                await items.receive()
        assert [item async for item in items] == []


async def test_receive_nowait():
    service = Service()
    async with serving(service) as (proxy, _), proxy.slowly() as items:
        with pytest.raises(trio.WouldBlock):
            items.receive_nowait()
        for number in range(3):
            await settle()
            assert items.receive_nowait() == number
            with pytest.raises(trio.WouldBlock):
                items.receive_nowait()
            service.event.set()
        await settle()
        with pytest.raises(trio.WouldBlock):
            items.receive_nowait()
        with pytest.raises(trio.EndOfChannel):
            await items.receive()


async def test_an_item_leaves_while_its_producer_waits_for_the_next():
    service = Service()
    async with serving(service) as (proxy, _), proxy.slowly() as items:
        for number in range(3):
            assert await items.receive() == number
            service.event.set()


async def test_a_generator_is_in_its_call_from_its_first_step_to_its_last():
    """Whoever takes the items, and although others call meanwhile."""
    var = contextvars.ContextVar("var", default="unset")
    seen = []

    class Surroundings:
        @trpc.method
        async def look(self, key: int) -> AsyncIterator[list]:
            var.set(key)
            try:
                for _ in range(3):
                    call = trpc.current_call()
                    deadline = trio.current_effective_deadline()
                    yield [call.method, call.metadata["key"], var.get(), call.deadline == deadline != float("inf")]
                    await trio.lowlevel.checkpoint()
            finally:
                seen.append((trpc.current_call().metadata["key"], var.get()))

    async with connected(Surroundings()) as (client, _):
        expected = {key: ["Surroundings.look", key, key, True] for key in range(2)}
        with trpc.metadata(key=0), trio.fail_after(50):
            async with client.stream("Surroundings.look", 0) as first:
                with trpc.metadata(key=1):
                    async with client.stream("Surroundings.look", 1) as second:
                        for _ in range(2):
                            assert await first.receive() == expected[0]
                            assert await second.receive() == expected[1]
    assert sorted(seen) == [(0, 0), (1, 1)]


async def test_a_producer_of_an_argument_is_in_its_callers_surroundings():
    var = contextvars.ContextVar("var", default="unset")
    var.set("mine")
    seen = []

    async def items():
        seen.append((var.get(), trio.current_effective_deadline()))
        yield 1

    async with serving() as (service, _):
        with trio.fail_after(50) as scope:
            await service.total(items())
        assert seen == [("mine", scope.deadline)]


# --- from client to server ---


@pytest.mark.parametrize("n", [0, 1, 2, 64, 65, 1000])
async def test_a_stream_as_an_argument(n):
    async with serving() as (service, _):
        assert await service.total(numbers(n)) == sum(range(n))


async def test_whatever_is_async_iterable_can_be_an_argument():
    async with serving() as (service, client):
        assert await service.total(Countdown(4)) == 10
        send, receive = trio.open_memory_channel(3)
        async with trio.open_nursery() as nursery:

            async def feed():
                async with send:
                    for number in range(100):
                        await send.send(number)

            nursery.start_soon(feed)
            assert await service.total(receive) == 4950
        # A stream of trpc's own goes on to another call.
        async with service.count(50) as items:
            assert await service.total(items) == sum(range(50))
        async with service.count(5) as items, service.doubles(items) as doubled:
            assert [item async for item in doubled] == [0, 2, 4, 6, 8]
        assert await client.call("Service.total", Countdown(3)) == 6


async def test_any_awaitable_gives_the_next_item():
    class Polls:
        def __init__(self, proxy):
            self.proxy = proxy
            self.left = 3

        def __aiter__(self):
            return self

        def __anext__(self):
            if self.left == 0:
                return self.stop()
            self.left -= 1
            # The call of an untyped proxy: an awaitable, and no coroutine.
            return self.proxy.echo(self.left)

        async def stop(self):
            raise StopAsyncIteration

    async with serving() as (service, client):
        assert await service.total(Polls(client.proxy("Service"))) == 3


async def test_an_iterable_with_generators_of_its_own():
    async with serving() as (service, _):
        source = Restarts(4)
        for closed in range(1, 4):
            assert await service.total(source) == 6
            assert source.closed == closed


async def test_items_of_arguments_are_what_their_hint_says():
    points = [Point(1, 2.0), Point(3, 4.5)]
    names = [{1: "a"}, {2: "b", 3: "c"}]
    times = [dt.datetime(2020, 1, 1, tzinfo=dt.UTC)]

    async def each(items):
        for item in items:
            yield item

    served = Service()
    async with serving(served) as (service, client):
        assert await service.take_points(each(points)) == 10.5
        assert served.got == points
        assert await client.call("Service.take_points", each([{"x": 1, "y": 2.0}])) == 3
        assert served.got == [Point(1, 2.0)]
        assert await service.take_names(each(names)) == 2
        assert served.got == names
        # Who does not know the hint sends keys as the wire has them.
        assert await client.call("Service.take_names", each([{"7": "x"}])) == 1
        assert served.got == [{7: "x"}]
        assert await service.take_times(each(times)) == 1
        assert served.got == times
        assert await service.collect(each([1, "a", None, [1, {"b": b"c"}]])) == [1, "a", None, [1, {"b": b"c"}]]
        assert await service.collect_untyped(each([None, None])) == [None, None]


async def test_several_in_one_call_by_position_and_by_keyword():
    async with serving() as (service, client):
        assert await service.join(letters("ab"), "-", letters("cd")) == "ab-cd"
        assert await service.join(letters("ab"), "-", second=letters("cd"), third=letters("ef")) == "ab-cd-ef"
        assert await service.join(second=letters("cd"), first=letters("ab"), between="+", third=None) == "ab+cd"
        assert await client.call("Service.join", letters("ab"), "-", second=letters("cd")) == "ab-cd"
        by_name = client.proxy("Service")
        assert await by_name.join(letters("ab"), "-", letters("cd"), third=letters("")) == "ab-cd-"


async def test_streams_as_variadic_arguments():
    async with serving() as (service, client):
        assert await service.join_all() == []
        assert await service.join_all(letters("a"), letters("bc"), x=letters("d")) == ["a", "bc", "xd"]
        assert await client.call("Service.join_all", letters("a"), y=letters("e")) == ["a", "ye"]


async def test_an_optional_stream():
    async with serving() as (service, client):
        for method in (service.maybe, client.proxy("Service").maybe):
            assert await method() == "none"
            assert await method(None) == "none"
            assert await method(numbers=None) == "none"
            assert await method(numbers(2)) == "[0, 1]"
            assert await method(numbers=numbers(1)) == "[0]"


async def test_a_generator_that_was_begun_goes_on_where_it_is():
    async with serving() as (service, _):
        items = numbers(5)
        assert await anext(items) == 0
        assert await anext(items) == 1
        assert await service.collect(items) == [2, 3, 4]


# --- both at once ---


async def test_both_directions_at_once():
    async with serving() as (service, client):
        async with service.doubles(numbers(200)) as items:
            assert [item async for item in items] == [2 * number for number in range(200)]
        async with service.pairs(numbers(3), letters("abcdef")) as items:
            assert [item async for item in items] == [(0, "a"), (1, "b"), (2, "c")]
        async with client.stream("Service.pairs", numbers(2), second=letters("xy")) as items:
            assert [item async for item in items] == [[0, "x"], [1, "y"]]


async def test_a_chat_in_which_each_side_waits_for_the_other():
    async with serving() as (service, _):
        send, receive = trio.open_memory_channel(0)
        async with service.doubles(receive) as items:
            for number in range(200):
                await send.send(number)
                assert await items.receive() == 2 * number
            await send.aclose()
            with pytest.raises(trio.EndOfChannel):
                await items.receive()


async def test_many_streams_beside_each_other():
    async with serving() as (service, _):
        results = {}

        async def one(key):
            async with service.doubles(letters_of(key)) as items:
                results[key] = [item async for item in items]

        async def letters_of(key):
            for number in range(20):
                if number % 3 == key % 3:
                    await trio.lowlevel.checkpoint()
                yield key * 100 + number

        async with trio.open_nursery() as nursery:
            for key in range(50):
                nursery.start_soon(one, key)
        assert results == {key: [2 * (key * 100 + number) for number in range(20)] for key in range(50)}


# --- several consumers ---


async def test_several_tasks_receive_from_one_stream():
    async with serving() as (service, _):
        got = []

        async def consume():
            mine = []
            async for item in items:
                mine.append(item)
                await trio.lowlevel.checkpoint()
            got.append(mine)

        async with service.count(300) as items, trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(consume)
        assert sorted(item for mine in got for item in mine) == list(range(300))
        assert all(mine == sorted(mine) for mine in got)
        assert sum(1 for mine in got if mine) > 1


async def test_each_consumer_that_waits_gets_an_item_or_the_end():
    service = Service()
    async with serving(service) as (proxy, _):
        got = []

        async def consume():
            try:
                got.append(await items.receive())
            except trio.EndOfChannel:
                got.append("end")

        async with proxy.slowly() as items, trio.open_nursery() as nursery:
            for _ in range(6):
                nursery.start_soon(consume)
            for _ in range(3):
                await settle()
                service.event.set()
        assert sorted(map(str, got)) == ["0", "1", "2", "end", "end", "end"]


async def test_a_consumer_that_is_cancelled_takes_nothing(autojump_clock):
    service = Service()
    async with serving(service) as (proxy, _), proxy.slowly() as items:
        assert await items.receive() == 0
        for _ in range(3):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(items.receive)
                await settle()
                nursery.cancel_scope.cancel()
        service.event.set()
        await settle()
        with trio.CancelScope() as scope:
            scope.cancel()
            await items.receive()
        assert scope.cancelled_caught
        assert await items.receive() == 1


async def test_each_item_of_a_message_wakes_a_consumer():
    async with client_of_raw_peer(hello={"features": ("streams",), "stream_credit": 1000}) as (client, peer):
        await peer.open()
        async with client.stream("A.b") as items, trio.open_nursery() as nursery:
            request = await peer.receive()
            outcomes = {}
            for key in range(5):
                start_call(nursery, outcomes, key, items.receive)
            await settle()
            await peer.send(Kind.RESULT_ITEMS, request.id, _codec.pack([10, 11, 12], max_depth=2))
            await settle()
            assert sorted(outcomes.values()) == [10, 11, 12]
            await peer.send(Kind.RESULT_ITEMS, request.id, _codec.pack([13, 14, 15], max_depth=2))
            await settle()
            assert sorted(outcomes.values()) == [10, 11, 12, 13, 14]
            assert items.receive_nowait() == 15
            await peer.send_result(request.id, None)


async def test_a_consumer_with_many_items_at_hand_leaves_others_their_turns(autojump_clock):
    async with serving() as (service, _), service.count(2000) as items:
        await settle()
        passes = 0

        async def count_passes():
            nonlocal passes
            while True:
                await trio.lowlevel.checkpoint()
                passes += 1

        async with trio.open_nursery() as nursery:
            nursery.start_soon(count_passes)
            assert [item async for item in items] == list(range(2000))
            assert passes >= 2000 // 64
            nursery.cancel_scope.cancel()


async def test_in_a_handler_several_tasks_receive_from_an_argument():
    class Taker:
        @trpc.method
        async def split(self, items: AsyncIterable[int], ways: int) -> list[int]:
            got = []

            async def consume():
                async for item in items:
                    got.append(item)
                    await trio.lowlevel.checkpoint()

            async with trio.open_nursery() as nursery:
                for _ in range(ways):
                    nursery.start_soon(consume)
            return sorted(got)

    async with connected(Taker()) as (client, _):
        assert await client.proxy(Taker).split(numbers(200), 4) == list(range(200))


# --- wrong uses ---


async def test_a_stream_is_entered_once():
    async with serving() as (service, _):
        stream = service.count(2)
        async with stream as items:
            assert await items.receive() == 0
            with pytest.raises(RuntimeError, match=r"Service.count: a stream can be entered once"):
                await stream.__aenter__()
            assert await items.receive() == 1
        with pytest.raises(RuntimeError, match="entered once"):
            async with stream:
                pass


async def test_a_stream_that_was_not_entered_sends_nothing():
    served = Service()
    async with serving(served) as (service, client):
        service.count(3)
        client.stream("Service.count", 3)
        await client.ping()
        assert not connection_of(client)._caller._in_flight


async def test_a_stream_cannot_be_awaited():
    async with serving() as (service, client):
        with pytest.raises(TypeError, match=r"Service.count gives a stream: `async with"):
            await service.count(3)
        with pytest.raises(TypeError, match=r"Service.count gives a stream"):
            await client.stream("Service.count", 3)


async def test_a_stream_cannot_be_iterated_without_being_entered():
    async with serving() as (service, client):
        for stream in (service.count(3), client.stream("Service.count", 3), client.proxy("Service").count(3)):
            with pytest.raises(TypeError, match=r"first `async with"):
                async for _ in stream:
                    pass


async def test_a_stream_that_is_awaited_by_name():
    served = Service()
    async with serving(served) as (_, client):
        for awaitable in (client.call("Service.count", 10**6), client.proxy("Service").count(10**6)):
            with pytest.raises(trpc.ProtocolError, match=r"Service.count gives a stream: enter it with `async with`"):
                await awaitable
        await client.ping()
        await settle()
        assert served.open == 0
        assert await client.call("Service.echo", 1) == 1


async def test_an_empty_stream_that_is_awaited_by_name_gives_none():
    """Nothing tells it from a method that returns None."""
    async with serving() as (_, client):
        assert await client.call("Service.count", 0) is None


@pytest.mark.parametrize("untyped", [False, True])
async def test_a_method_without_a_stream_is_entered(untyped):
    async with serving() as (_, client):
        stream = client.proxy("Service").echo(5) if untyped else client.stream("Service.echo", 5)
        async with stream as items:
            for _ in range(2):
                with pytest.raises(trpc.ProtocolError, match=r"Service.echo gives no stream, but one value: await it"):
                    await items.receive()


@pytest.mark.parametrize("bad", [5, [1, 2], "text", iter([1])])
async def test_what_is_no_stream_is_refused_here(bad):
    async with serving() as (service, client):
        with pytest.raises(
            trpc.InvalidArguments, match=r"Service.total: argument 'numbers': Expected an async iterable"
        ):
            await service.total(bad)
        with pytest.raises(trpc.InvalidArguments, match=r"argument 'second'"):
            await service.join(letters("a"), "-", bad)
        if not isinstance(bad, type(iter([]))):
            with pytest.raises(trpc.InvalidArguments, match=r"argument 'numbers': Expected a stream"):
                await client.call("Service.total", bad)


async def test_none_is_no_stream_unless_the_hint_says_so():
    async with serving() as (service, client):
        with pytest.raises(trpc.InvalidArguments, match="'numbers'"):
            await service.total(None)
        with pytest.raises(trpc.InvalidArguments, match="'numbers'"):
            await client.call("Service.total", None)


async def test_a_stream_where_none_is_taken():
    async with serving() as (service, client):
        with pytest.raises(trpc.InvalidArguments, match=r"argument 'value' cannot be sent"):
            await service.echo(numbers(3))
        with pytest.raises(
            trpc.InvalidArguments, match=r"argument 'value' is a stream, which the method does not take"
        ):
            await client.call("Service.echo", numbers(3))
        with pytest.raises(
            trpc.InvalidArguments, match=r"Service.total: argument 'numbers': Expected a stream|missing"
        ):
            await client.call("Service.total")
        with pytest.raises(trpc.InvalidArguments):
            await client.call("Service.total", numbers(1), numbers(1))
        with pytest.raises(trpc.MethodNotFound):
            await client.call("Service.nothing", numbers(3))
        with pytest.raises(trpc.MethodNotFound):
            async with client.stream("Service.nothing", numbers(3)) as items:
                await items.receive()
        assert await client.call("Service.echo", 1) == 1


async def test_one_generator_for_two_arguments():
    async with serving() as (service, _):
        same = letters("abc")
        with pytest.raises(RuntimeError, match="already running"), trio.fail_after(5):
            await service.join(same, "-", same)


async def test_no_streams_in_one_way_calls(caplog):
    served = Service()
    async with serving(served) as (_, client):
        with pytest.raises(trpc.InvalidArguments, match="cannot be sent"):
            await client.notify("Service.total", numbers(3))
        await client.notify("Service.count", 3)
        await client.ping()
        await settle()
    assert served.open == 0
    (record,) = caplog.records
    assert "Service.count: a one-way call cannot have streams" in record.getMessage()


async def test_a_local_call_is_a_stream_as_well():
    """The service can be used without a connection."""
    service = Service()
    async with service.count(3) as items:
        assert [item async for item in items] == [0, 1, 2]
    assert await service.total(numbers(3)) == 3
