"""How a stream can end, and what each side sees of it."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import AsyncIterable, AsyncIterator

import pytest
import trio
import trio.testing
from support import (
    RawPeer,
    assert_nothing_left,
    client_of_raw_peer,
    connected,
    connection_of,
    open_generators,
    raw_client_of,
    settle,
    start_call,
)

import trpc
from trpc import _codec
from trpc._exceptions import encode_status
from trpc._frames import encode_frame
from trpc._messages import Kind

MANY = 10**9


@trpc.exception(name="stream_ends.Jammed")
class Jammed(Exception):
    tray: int

    def __init__(self, tray):
        super().__init__(f"tray {tray}")
        self.tray = tray


class Odd(Exception):
    """Not registered."""


class BadText(Exception):
    def __str__(self):
        raise RuntimeError("no text")


@dataclasses.dataclass
class Point:
    x: int


ERRORS = {
    "builtin": lambda: KeyError("k"),
    "registered": lambda: Jammed(3),
    "unknown": lambda: Odd("odd"),
    "group": lambda: ExceptionGroup("two", [ValueError("v"), ExceptionGroup("inner", [Jammed(4)])]),
    "bad text": BadText,
    "exit": SystemExit,
    "interrupt": KeyboardInterrupt,
}


def fail_by(name):
    error = ERRORS[name]()
    raise error


ITEMS = {
    "object": object(),
    "set of objects": {object()},
    "deep": [[[[[[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]]]]]],
    "huge number": 2**70,
    "bad text": "\ud800",
}


class Service:
    def __init__(self):
        self.log = []
        self.stop = trio.Event()
        self.taken = None

    @contextlib.contextmanager
    def running(self, what):
        self.log.append(f"{what} begins")
        try:
            yield
        except BaseException as exc:
            self.log.append(f"{what} ends by {type(exc).__name__}")
            raise
        else:
            self.log.append(f"{what} ends")

    # --- results ---

    @trpc.method
    async def count(self, n: int, error: str | None = None) -> AsyncIterator[int]:
        with self.running("count"):
            for number in range(n):
                yield number
            if error is not None:
                fail_by(error)

    @trpc.method
    async def waits(self, n: int, cleaning: float = 0) -> AsyncIterator[int]:
        """So many items, and then none and no end."""
        with self.running("waits"):
            try:
                for number in range(n):
                    yield number
                await trio.sleep_forever()
            finally:
                with trio.CancelScope(shield=True):
                    await trio.sleep(cleaning)
                self.log.append("cleaned")

    @trpc.method
    async def endless(self, cleaning: float = 0) -> AsyncIterator[int]:
        """Items as long as there is credit."""
        with self.running("endless"):
            try:
                number = 0
                while True:
                    yield number
                    number += 1
            finally:
                with trio.CancelScope(shield=True):
                    await trio.sleep(cleaning)
                self.log.append("cleaned")

    @trpc.method
    async def shielded(self, seconds: float) -> AsyncIterator[int]:
        with self.running("shielded"):
            yield 1
            with trio.CancelScope(shield=True):
                await trio.sleep(seconds)
            yield 2

    @trpc.method
    async def fails_cleaning(self, error: str, busy: bool) -> AsyncIterator[int]:
        try:
            while True:
                yield 1
                if not busy:
                    await trio.sleep_forever()
        finally:
            fail_by(error)

    @trpc.method
    async def fails_cleaning_in_a_shield(self) -> AsyncIterator[int]:
        try:
            yield 1
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(0.5)
            raise KeyError("late")

    @trpc.method
    async def limits_itself(self, seconds: float) -> AsyncIterator[str]:
        number = 0
        with trio.move_on_after(seconds) as scope:
            while True:
                yield "x" * 100
                number += 1
        yield f"stopped: {scope.cancelled_caught}"
        self.log.append(number > 0)

    @trpc.method
    async def fails_itself(self, seconds: float) -> AsyncIterator[str]:
        with trio.fail_after(seconds):
            while True:
                yield "x" * 100

    @trpc.method
    async def swallows(self) -> AsyncIterator[int]:
        """Takes the cancel for itself, as nobody should, and goes on."""
        number = 0
        while number < 10:
            try:
                while True:
                    yield number
                    number += 1
            except BaseException:
                number += 1

    @trpc.method
    async def with_children(self) -> AsyncIterator[int]:
        with self.running("with_children"):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.child)
                while True:
                    yield 1

    async def child(self):
        with self.running("child"):
            await trio.sleep_forever()

    @trpc.method
    async def cannot_be_sent(self, what: str) -> AsyncIterator[object]:
        with self.running("cannot_be_sent"):
            yield 0
            yield 1
            yield ITEMS[what]
            yield 2

    @trpc.method
    async def sizes(self, sizes: list[int], in_nursery: bool = False) -> AsyncIterator[bytes]:
        with self.running("sizes"):
            async with trio.open_nursery() if in_nursery else contextlib.nullcontext():
                for size in sizes:
                    yield b"x" * size

    @trpc.method
    async def lies(self) -> AsyncIterator[int]:
        yield 1
        yield 2
        yield "three"
        yield 4

    @trpc.method
    async def lies_and_waits(self) -> AsyncIterator[int]:
        with self.running("lies_and_waits"):
            await self.stop.wait()
            yield "one"
            await trio.sleep_forever()

    # --- arguments ---

    @trpc.method
    async def total(self, numbers: AsyncIterable[int]) -> int:
        with self.running("total"):
            self.taken = []
            async for number in numbers:
                self.taken.append(number)
            return sum(self.taken)

    @trpc.method
    async def points(self, first: AsyncIterable[int], points: AsyncIterable[Point]) -> int:
        with self.running("points"):
            self.taken = []
            async for point in points:
                self.taken.append(point)
            return len(self.taken)

    @trpc.method
    async def first(self, n: int, numbers: AsyncIterable[int]) -> list[int]:
        """Leaves the rest to itself."""
        self.taken = [await numbers.receive() for _ in range(n)]
        return self.taken

    @trpc.method
    async def closes(self, numbers: AsyncIterable[int]) -> str:
        """Wants no more after one item, and goes on with something else."""
        await numbers.receive()
        await numbers.aclose()
        self.log.append("closed")
        for call in (numbers.receive, numbers.__anext__):
            with pytest.raises(trio.ClosedResourceError):
                await call()
        with pytest.raises(trio.ClosedResourceError):
            numbers.receive_nowait()
        await numbers.aclose()
        await trio.sleep(1)
        return "closed"

    @trpc.method
    async def keeps(self, numbers: AsyncIterable[int]) -> None:
        """Leaves with the stream in its hand."""
        self.taken = numbers

    @trpc.method
    async def raises_between(self, numbers: AsyncIterable[int]) -> None:
        async for number in numbers:
            if number == 2:
                raise LookupError("enough")

    @trpc.method
    async def catches(self, numbers: AsyncIterable[int]) -> str:
        got = []
        try:
            async for number in numbers:
                got = [*got, number]
        except* Exception as group:
            got.append(sorted(type(exc).__name__ for exc in group.exceptions))
        return str(got)

    @trpc.method
    async def stall(self, numbers: AsyncIterable[int]) -> None:
        with self.running("stall"):
            await trio.sleep_forever()

    @trpc.method
    async def chat(self, numbers: AsyncIterable[int]) -> AsyncIterator[int]:
        with self.running("chat"):
            async for number in numbers:
                yield number

    @trpc.method
    def echo(self, value: int) -> int:
        return value


class Source:
    """Generators of this side's, with what becomes of them."""

    def __init__(self):
        self.log = []

    async def numbers(self, n=MANY, *, error=None, cleaning=0.0, pause=None, final=None):
        self.log.append("begins")
        try:
            for number in range(n):
                yield number
                if pause is not None:
                    await trio.sleep(pause)
            if error is not None:
                raise error
        except BaseException as exc:
            self.log.append(type(exc).__name__)
            raise
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(cleaning)
            self.log.append("cleaned")
            if final is not None:
                raise final


@contextlib.asynccontextmanager
async def serving(service, *, may_end=False, **options):
    """A client, with nothing left at the end."""
    before = open_generators()
    tasks = trio.lowlevel.current_statistics().tasks_living
    async with connected(service, **options) as (client, server):
        (connection,) = server._connections
        yield client
        ours = connection_of(client)
        if not (may_end and ours._lost):
            await client.ping()
        await settle()
        assert_nothing_left(ours, connection)
    assert [generator for generator in open_generators() if generator not in before] == []
    assert trio.lowlevel.current_statistics().tasks_living == tasks


async def drain(items):
    """All items, and the error behind them."""
    got = []
    try:
        while True:
            got.append(await items.receive())
    except trio.EndOfChannel:
        return got, None
    except Exception as exc:
        return got, exc


# --- the producer raises ---


@pytest.mark.parametrize("n", [0, 3, 200])
@pytest.mark.parametrize(
    ("error", "expected"),
    [("builtin", KeyError), ("registered", Jammed), ("unknown", trpc.RemoteError), ("group", ExceptionGroup)],
)
async def test_the_error_of_a_result_comes_behind_its_items(n, error, expected):
    async with serving(Service()) as client, client.proxy(Service).count(n, error) as items:
        got, exc = await drain(items)
        assert got == list(range(n))
        assert isinstance(exc, expected)
        # And again for who asks again.
        with pytest.raises(expected):
            await items.receive()


async def test_the_error_of_a_result_is_whole():
    async with serving(Service()) as client:
        service = client.proxy(Service)
        with pytest.raises(KeyError) as error:
            async with service.count(1, "builtin") as items:
                await drain_or_raise(items)
        assert isinstance(error.value, trpc.RemoteError)
        assert error.value.message == "'k'"
        with pytest.raises(Jammed) as error:
            async with service.count(1, "registered") as items:
                await drain_or_raise(items)
        assert error.value.tray == 3
        caught = []
        try:
            async with service.count(1, "group") as items:
                await drain_or_raise(items)
        except* ValueError as group:
            caught += group.exceptions
        except* Jammed as group:
            caught.append(group.exceptions[0].exceptions[0].tray)
        assert [str(caught[0]), caught[1]] == ["v", 4]


async def drain_or_raise(items):
    async for _ in items:
        pass


async def test_an_error_that_cannot_be_sent_is_an_internal_error_behind_the_items():
    async with serving(Service()) as client, client.stream("Service.count", 2, "bad text") as items:
        got, exc = await drain(items)
        assert got == [0, 1]
        assert type(exc) is trpc.RemoteError
        assert "BadText, which cannot be sent" in exc.message


@pytest.mark.parametrize("n", [0, 3, 200])
@pytest.mark.parametrize(
    ("error", "names"),
    [("builtin", "KeyError"), ("registered", "Jammed"), ("unknown", "RemoteError"), ("bad text", "RemoteError")],
)
async def test_the_error_of_an_argument_is_raised_in_the_handler_behind_its_items(n, error, names):
    source = Source()
    async with serving(Service()) as client:
        got = await client.call("Service.catches", source.numbers(n, error=ERRORS[error]()))
        assert got == str([*range(n), [names]])
    assert source.log[-1] == "cleaned"


async def test_a_group_that_an_argument_raises_can_be_caught_in_parts():
    async with serving(Service()) as client:
        got = await client.call("Service.catches", Source().numbers(1, error=ERRORS["group"]()))
        assert got == str([0, ["ExceptionGroup", "ValueError"]])


async def test_the_error_of_an_argument_comes_back_if_the_handler_lets_it():
    served = Service()
    async with serving(served) as client:
        with pytest.raises(Jammed) as error:
            await client.proxy(Service).total(Source().numbers(3, error=Jammed(7)))
        assert error.value.tray == 7
        assert served.taken == [0, 1, 2]
        # Through both, in a chat.
        with pytest.raises(Jammed):
            async with client.proxy(Service).chat(Source().numbers(3, error=Jammed(8))) as items:
                for number in range(3):
                    assert await items.receive() == number
                await items.receive()


async def test_an_error_of_an_argument_that_nobody_reads_any_more_is_nobodys():
    source = Source()
    async with serving(Service()) as client:
        assert await client.call("Service.first", 1, source.numbers(2, error=KeyError("unread"))) == [0]


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt()])
async def test_what_ends_the_process_out_of_a_producer_here_ends_this_task(error):
    """As it would out of a local generator; the call is cancelled."""
    served, source = Service(), Source()
    before = open_generators()
    with pytest.raises(BaseExceptionGroup) as group:
        async with connected(served) as (client, _):
            try:
                await client.call("Service.total", source.numbers(3, error=error))
            finally:
                assert_nothing_left(connection_of(client))
                assert served.log[-1] == "total ends by Cancelled"
    found = group.value
    while isinstance(found, BaseExceptionGroup):
        (found,) = found.exceptions
    assert found is error
    assert [generator for generator in open_generators() if generator not in before] == []


@pytest.mark.parametrize(("error", "cls"), [("exit", SystemExit), ("interrupt", KeyboardInterrupt)])
async def test_what_ends_the_process_out_of_a_handlers_generator_ends_the_server_and_the_consumer_hears(error, cls):
    served = Service()
    outcome = {}
    with pytest.raises(BaseExceptionGroup) as group:
        async with connected(served) as (client, _):
            async with client.stream("Service.count", 2, error) as items:
                outcome["got"], outcome["error"] = await drain(items)
            await trio.sleep_forever()
    assert group.value.subgroup(cls)
    assert outcome["got"] == [0, 1][: len(outcome["got"])]
    assert f"{cls.__name__}, which ends the server" in str(outcome["error"])


# --- the consumer leaves ---


@pytest.mark.parametrize("how", ["leave", "aclose", "raise", "cancel"])
@pytest.mark.parametrize("method", ["waits", "endless"])
async def test_the_generator_is_cancelled_and_waited_for(autojump_clock, method, how):
    served = Service()
    args = (1, 0.5) if method == "waits" else (0.5,)
    async with serving(served) as client:
        start = trio.current_time()
        stream = client.stream(f"Service.{method}", *args)
        if how == "raise":
            with pytest.raises(ZeroDivisionError):
                async with stream as items:
                    assert await items.receive() == 0
                    raise ZeroDivisionError
        elif how == "cancel":
            with trio.CancelScope() as scope:
                async with stream as items:
                    assert await items.receive() == 0
                    scope.cancel()
                    await trio.sleep_forever()
        else:
            async with stream as items:
                assert await items.receive() == 0
                if how == "aclose":
                    await items.aclose()
                    assert "cleaned" in served.log
                    assert trio.current_time() - start == pytest.approx(0.5)
        assert served.log == [f"{method} begins", "cleaned", f"{method} ends by Cancelled"]
        assert trio.current_time() - start == pytest.approx(0.5)
        for call in (items.receive, items.__anext__):
            with pytest.raises(trio.ClosedResourceError):
                await call()
        with pytest.raises(trio.ClosedResourceError):
            items.receive_nowait()
        await items.aclose()


@pytest.mark.parametrize("grace", [0, 0.2])
async def test_a_generator_that_does_not_end_is_given_up_after_the_grace(autojump_clock, grace):
    served = Service()
    async with serving(served, cancel_grace=grace) as client:
        start = trio.current_time()
        async with client.stream("Service.shielded", 5) as items:
            assert await items.receive() == 1
        assert trio.current_time() - start == pytest.approx(grace)
        assert connection_of(client)._caller._slots.taken == 1, "its handler is still there"
        assert served.log == ["shielded begins"]
        await trio.sleep(10)
        assert served.log == ["shielded begins", "shielded ends by Cancelled"]
        assert client.late_replies == 1


async def test_a_generator_that_swallows_the_cancel_is_given_up_or_ends(autojump_clock):
    async with serving(Service(), cancel_grace=1) as client:
        with trio.fail_after(5):
            async with client.stream("Service.swallows") as items:
                assert await items.receive() == 0
        await trio.sleep(5)


async def test_the_children_of_a_generator_end_with_it():
    served = Service()
    async with serving(served) as client:
        async with client.stream("Service.with_children") as items:
            assert await items.receive() == 1
            assert await items.receive() == 1
        assert served.log[-2:] == ["child ends by Cancelled", "with_children ends by BaseExceptionGroup"]


async def test_leaving_is_not_shortened_by_a_cancel(autojump_clock):
    """As for a call: what is below has ended when the scope is left."""
    served = Service()
    async with serving(served, cancel_grace=1) as client:
        start = trio.current_time()
        with trio.move_on_after(0.1):
            async with client.stream("Service.waits", 1, 0.5):
                await trio.sleep_forever()
        assert trio.current_time() - start == pytest.approx(0.6)
        with trio.CancelScope() as scope:
            async with client.stream("Service.waits", 1, 0.5) as items:
                await items.receive()
                scope.cancel()
        assert scope.cancelled_caught is False, "nothing in the block has waited"
        assert trio.current_time() - start == pytest.approx(1.1)


@pytest.mark.parametrize("ways", [("aclose", "aclose"), ("aclose", "leave"), ("leave", "aclose")], ids="-".join)
@pytest.mark.parametrize("event", ["ends", "is lost", "grace"])
async def test_two_tasks_leave_at_once(autojump_clock, ways, event):
    served = Service()
    cleaning = {"ends": 0.5, "is lost": 100, "grace": 100}[event]
    async with serving(served, may_end=True, cancel_grace=2) as client, trio.open_nursery() as nursery:
        start = trio.current_time()
        times = []
        begin = trio.Event()

        async def close():
            await begin.wait()
            if ways[0] == "leave":
                await trio.sleep(0.01)
            await items.aclose()
            times.append(trio.current_time() - start)

        async with client.stream("Service.endless", cleaning) as items:
            await items.receive()
            nursery.start_soon(close)
            begin.set()
            if ways == ("aclose", "leave"):
                await trio.sleep(0.01)
            elif ways[1] == "aclose" and ways[0] == "aclose":
                await items.aclose()
                times.append(trio.current_time() - start)
            if event == "is lost":
                nursery.start_soon(_lose_later, client, 0.3)
        times.append(trio.current_time() - start)
        with trio.fail_after(1):
            while len(times) < (3 if ways == ("aclose", "aclose") else 2):
                await trio.sleep(0.001)
        expected = {"ends": 0.5, "is lost": 0.3, "grace": 2}[event]
        if ways == ("aclose", "aclose") and event == "is lost":
            expected = 2  # it is lost behind that
        assert times == pytest.approx([expected] * len(times), abs=0.02)
        await trio.sleep(200)


async def _lose_later(client, seconds):
    await trio.sleep(seconds)
    connection_of(client)._lose(trpc.ConnectionLost("cut"))


async def test_who_waits_for_an_item_hears_that_another_task_has_closed_the_stream():
    served = Service()
    async with serving(served) as client, trio.open_nursery() as nursery:
        outcomes = {}
        async with client.stream("Service.waits", 0) as items:
            for key in range(3):
                start_call(nursery, outcomes, key, items.receive)
            await settle()
            assert outcomes == {}
            await items.aclose()
            await settle()
            assert [type(outcome) for outcome in outcomes.values()] == [trio.ClosedResourceError] * 3
        # And if it is left.
        async with client.stream("Service.waits", 0) as items:
            start_call(nursery, outcomes, "left", items.receive)
            await settle()
        await settle()
        assert type(outcomes["left"]) is trio.ClosedResourceError


async def test_in_a_handler_who_waits_for_an_item_hears_that_another_task_has_closed_the_stream():
    outcomes = {}

    class Closing:
        @trpc.method
        async def close(self, numbers: AsyncIterable[int]) -> None:
            async with trio.open_nursery() as nursery:
                for key in range(3):
                    start_call(nursery, outcomes, key, numbers.receive)
                await settle()
                await numbers.aclose()

    async def nothing():
        await trio.sleep_forever()
        yield

    async with connected(Closing()) as (client, _):
        await client.call("Closing.close", nothing())
    assert [type(outcome) for outcome in outcomes.values()] == [trio.ClosedResourceError] * 3


async def test_leaving_before_the_request_has_left(autojump_clock):
    """Nothing of it is sent."""
    async with client_of_raw_peer(lockstep=True, hello={"features": ("streams",), "stream_credit": 1000}) as (
        client,
        peer,
    ):
        await peer.open()
        async with trio.open_nursery() as nursery:
            # It is being written as long as the peer does not read.
            start_call(nursery, {}, "first", client.call, "A.b")
            await settle()
            with trio.fail_after(0.5):
                async with client.stream("A.c"):
                    pass
            assert (await peer.receive()).kind == Kind.REQUEST
            await peer.send_result(1, None)
            nursery.start_soon(client.ping)
            ping = await peer.receive()
            assert ping.kind == Kind.PING
            await peer.send(Kind.PONG, ping.id)


@pytest.mark.parametrize("how", ["leave", "aclose"])
@pytest.mark.parametrize("busy", [False, True])
@pytest.mark.parametrize(
    ("error", "cls"), [("builtin", KeyError), ("registered", Jammed), ("unknown", trpc.RemoteError)]
)
async def test_an_error_of_the_clean_up_is_raised_at_the_end(error, cls, busy, how):
    async with serving(Service()) as client:
        with pytest.raises(cls):
            async with client.stream("Service.fails_cleaning", error, busy) as items:
                assert await items.receive() == 1
                if how == "aclose":
                    await items.aclose()


async def test_an_error_of_a_clean_up_that_takes_time(autojump_clock):
    async with serving(Service()) as client:
        with pytest.raises(KeyError, match="late"):
            async with client.stream("Service.fails_cleaning_in_a_shield") as items:
                assert await items.receive() == 1


async def test_a_group_of_the_clean_up():
    async with serving(Service()) as client:
        try:
            async with client.stream("Service.fails_cleaning", "group", True) as items:
                await items.receive()
        except* Jammed as group:
            assert group.exceptions[0].exceptions[0].tray == 4
        except* ValueError:
            pass
        else:
            pytest.fail("nothing was raised")


async def test_an_error_of_the_block_goes_before_that_of_the_clean_up():
    async with serving(Service()) as client:
        with pytest.raises(ZeroDivisionError):
            async with client.stream("Service.fails_cleaning", "builtin", False) as items:
                await items.receive()
                raise ZeroDivisionError
        with trio.CancelScope() as scope:
            async with client.stream("Service.fails_cleaning", "builtin", False) as items:
                await items.receive()
                scope.cancel()
                await trio.sleep_forever()
        assert scope.cancelled_caught


async def test_an_error_that_was_raised_before_the_leaving_is_not_raised_by_it():
    """The items before it were not read either."""
    async with serving(Service()) as client:
        async with client.stream("Service.count", 5, "builtin") as items:
            assert await items.receive() == 0
            await settle()
        async with client.stream("Service.count", 5, "builtin") as items:
            await settle()
            await items.aclose()


# --- a handler leaves an argument ---


async def test_a_handler_that_returns_before_the_end_of_its_argument():
    served, source = Service(), Source()
    async with serving(served) as client:
        assert await client.proxy(Service).first(3, source.numbers()) == [0, 1, 2]
        assert source.log[-1] == "cleaned"
        assert "Cancelled" in source.log or "GeneratorExit" in source.log


async def test_the_call_ends_when_its_producers_have_cleaned_up(autojump_clock):
    source = Source()
    async with serving(Service()) as client:
        start = trio.current_time()
        assert await client.proxy(Service).first(1, source.numbers(cleaning=0.5)) == [0]
        assert source.log[-1] == "cleaned"
        assert trio.current_time() - start == pytest.approx(0.5)


async def test_a_handler_that_closes_its_argument(autojump_clock):
    served, source = Service(), Source()
    async with serving(served) as client, trio.open_nursery() as nursery:
        outcomes = {}
        start_call(nursery, outcomes, "call", client.call, "Service.closes", source.numbers(cleaning=0.2))
        await trio.sleep(0.1)
        assert source.log[-1] != "cleaned"
        assert served.log == [], "it waits for the producer's end"
        await trio.sleep(0.2)
        assert source.log[-1] == "cleaned"
        assert served.log == ["closed"]
        assert outcomes == {}
        await trio.sleep(1)
        assert outcomes == {"call": "closed"}


async def test_a_handler_does_not_wait_for_ever_for_the_end_of_an_argument(autojump_clock):
    served, source = Service(), Source()
    async with serving(served) as client, trio.open_nursery() as nursery:
        outcomes = {}
        start = trio.current_time()
        start_call(nursery, outcomes, "call", client.call, "Service.closes", source.numbers(cleaning=100))
        await trio.sleep(3)
        assert served.log == ["closed"], "after the grace of the server"
        await trio.sleep(200)
        assert outcomes == {"call": "closed"}
        assert trio.current_time() - start > 100


@pytest.mark.parametrize("error", [False, True])
async def test_a_handler_that_closes_its_argument_while_it_is_cancelled(autojump_clock, error):
    """The producer hears of it, although nobody waits for its end."""
    ended = []

    class Closing:
        @trpc.method
        async def close(self, numbers: AsyncIterable[int]) -> str:
            await numbers.receive()
            with trio.CancelScope() as scope:
                scope.cancel()
                await numbers.aclose()
            await trio.sleep(100)
            return "closed"

    async def numbers():
        try:
            yield 1
            await trio.sleep_forever()
        finally:
            ended.append(trio.current_time())
            if error:
                raise KeyError("nobody reads this any more")

    async with connected(Closing()) as (client, _):
        start = trio.current_time()
        assert await client.call("Closing.close", numbers()) == "closed"
        assert ended == [start]


async def test_an_argument_that_a_handler_keeps_is_closed():
    served, source = Service(), Source()
    async with serving(served) as client:
        await client.call("Service.keeps", source.numbers())
        # If it had begun when the handler returned.
        assert source.log[-1:] in ([], ["cleaned"])
        for call in (served.taken.receive, served.taken.__anext__):
            with pytest.raises(trio.ClosedResourceError):
                await call()
        await served.taken.aclose()


async def test_an_error_of_the_handler_between_the_items_of_its_argument():
    source = Source()
    async with serving(Service()) as client:
        with pytest.raises(LookupError, match="enough"):
            await client.call("Service.raises_between", source.numbers())
        assert source.log[-1] == "cleaned"


async def test_an_error_of_a_producers_clean_up_when_the_call_is_over_is_raised_to_the_caller():
    """Nobody else is left to hear of it."""
    async with serving(Service()) as client:
        with pytest.raises(LookupError, match="clean-up"):
            await client.call("Service.first", 1, Source().numbers(final=LookupError("clean-up")))


# --- the caller is cancelled ---


@pytest.mark.parametrize("method", ["total", "stall"])
async def test_a_cancelled_call_ends_its_handler_and_its_producers(autojump_clock, method):
    served, source = Service(), Source()
    async with serving(served) as client:
        with trio.move_on_after(0.5) as scope:
            await client.call(f"Service.{method}", source.numbers(pause=0.01, cleaning=0.2))
        assert scope.cancelled_caught
        assert source.log == ["begins", "Cancelled", "cleaned"]
        assert served.log == [f"{method} begins", f"{method} ends by Cancelled"]


async def test_a_cancelled_chat_ends_on_both_sides(autojump_clock):
    served, source = Service(), Source()
    async with serving(served) as client:
        with trio.move_on_after(0.5):
            async with client.stream("Service.chat", source.numbers(pause=0.01)) as items:
                await drain_or_raise(items)
        assert source.log == ["begins", "Cancelled", "cleaned"]
        assert served.log == ["chat begins", "chat ends by Cancelled"]


# --- deadlines ---


@pytest.mark.parametrize("reads", [True, False])
async def test_the_callers_deadline_is_that_of_the_whole_stream(autojump_clock, reads):
    served = Service()
    async with serving(served) as client:
        start = trio.current_time()
        with pytest.raises(trio.TooSlowError), trio.fail_after(1):
            async with client.stream("Service.waits", 100) as items:
                if reads:
                    await drain_or_raise(items)
                else:
                    await trio.sleep_forever()
        assert trio.current_time() - start == pytest.approx(1)
        assert served.log == ["waits begins", "cleaned", "waits ends by Cancelled"]


async def test_a_handler_ends_at_the_deadline_although_its_caller_is_shielded(autojump_clock):
    """The deadline that was in effect at the beginning has travelled with the call."""
    served = Service()
    async with serving(served) as client:
        with trio.move_on_after(1) as scope:
            async with client.stream("Service.waits", 3) as items:
                with trio.CancelScope(shield=True):
                    await trio.sleep(2)
                    assert served.log[-1] == "waits ends by Cancelled"
                scope.deadline = math.inf
                got, exc = await drain(items)
                assert got == [0, 1, 2]
                assert isinstance(exc, trpc.DeadlineExceeded)


async def test_the_servers_own_limit(autojump_clock):
    served = Service()
    async with serving(served, serve={"limits": trpc.Limits(max_call_time=1)}) as client:
        async with client.stream("Service.waits", 3) as items:
            got, exc = await drain(items)
        assert got == [0, 1, 2]
        assert isinstance(exc, trpc.DeadlineExceeded)
        assert isinstance(exc, trio.TooSlowError)


@pytest.mark.parametrize("credit", [1, 1000, 256 * 1024])
async def test_a_scope_around_the_yield_ends_a_stream_that_is_not_read(autojump_clock, credit):
    served = Service()
    async with serving(served, limits=trpc.Limits(stream_credit=credit)) as client:
        start = trio.current_time()
        async with client.stream("Service.limits_itself", 1) as items:
            assert await items.receive() == "x" * 100
            await trio.sleep(5)
            got, exc = await drain(items)
        assert exc is None
        assert got[-1] == "stopped: True"
        assert set(got[:-1]) == {"x" * 100}
        assert trio.current_time() - start == pytest.approx(5), "it had ended before it was read on"


async def test_a_failing_scope_around_the_yield(autojump_clock):
    async with serving(Service(), limits=trpc.Limits(stream_credit=1000)) as client:
        async with client.stream("Service.fails_itself", 1) as items:
            await trio.sleep(5)
            got, exc = await drain(items)
        assert len(got) >= 1
        assert isinstance(exc, trio.TooSlowError)


async def test_a_scope_around_the_yield_of_an_argument_that_is_not_read(autojump_clock):
    served = Service()
    log = []

    async def limited():
        with trio.move_on_after(1) as scope:
            while True:
                yield 1
        log.append(scope.cancelled_caught)
        yield 2

    class Slow:
        @trpc.method
        async def take(self, numbers: AsyncIterable[int]) -> list[int]:
            await trio.sleep(5)
            assert log == [True]
            got = [number async for number in numbers]
            return [got.count(1) + got.count(2) - len(got), got[-1], got.count(2)]

    async with connected([served, Slow()], serve={"limits": trpc.Limits(stream_credit=500)}) as (client, _):
        assert await client.call("Slow.take", limited()) == [0, 2, 1]


# --- the connection ends ---


def _cut(client, server):
    return connection_of(client)._lose(trpc.ConnectionLost("cut"))


async def test_items_that_had_arrived_come_before_the_loss():
    async with client_of_raw_peer(hello={"features": ("streams",), "stream_credit": 1000}) as (client, peer):
        await peer.open()
        async with client.stream("A.b") as items:
            request = await peer.receive()
            for number in range(3):
                await peer.send(Kind.RESULT_ITEMS, request.id, _codec.pack([number, -number], max_depth=8))
            await peer.stream.aclose()
            await settle()
            got, exc = await drain(items)
            assert got == [0, 0, 1, -1, 2, -2]
            assert type(exc) is trpc.ConnectionLost
            assert exc.maybe_executed
            with pytest.raises(trpc.ConnectionLost):
                await items.receive()
        with pytest.raises(trpc.ConnectionLost):
            async with client.stream("A.b"):
                pass


async def test_a_consumer_that_waits_hears_of_the_loss():
    async with client_of_raw_peer(hello={"features": ("streams",), "stream_credit": 1000}) as (client, peer):
        await peer.open()
        outcomes = {}
        async with client.stream("A.b") as items, trio.open_nursery() as nursery:
            for key in range(3):
                start_call(nursery, outcomes, key, items.receive)
            await settle()
            await peer.stream.aclose()
        assert [type(outcome) for outcome in outcomes.values()] == [trpc.ConnectionLost] * 3


async def test_producers_end_when_the_server_is_lost(autojump_clock):
    async with client_of_raw_peer(hello={"features": ("streams",), "stream_credit": 1000}) as (client, peer):
        await peer.open()
        waiting, busy = Source(), Source()
        async with trio.open_nursery() as nursery:
            outcomes = {}
            start_call(
                nursery,
                outcomes,
                "call",
                client.call,
                "A.b",
                waiting.numbers(1, pause=math.inf),
                busy.numbers(cleaning=1),
            )
            await trio.sleep(1)
            await peer.stream.aclose()
        assert type(outcomes["call"]) is trpc.ConnectionLost
        assert waiting.log == ["begins", "Cancelled", "cleaned"]
        # This one was where it had yielded.
        assert busy.log in (["begins", "Cancelled", "cleaned"], ["begins", "GeneratorExit", "cleaned"])


async def test_a_handler_that_reads_an_argument_is_cancelled_when_the_client_is_lost(autojump_clock):
    served = Service()
    async with raw_client_of(served) as peer:
        peer.hello = type(peer.hello)(2**20, 100, 64, ("streams",), 1000)
        await peer.open()
        for number, method in enumerate(["total", "stall", "chat"], 1):
            body = [f"Service.{method}", [None], None, None, None, {"1": 0}]
            await peer.send(Kind.REQUEST, number, _codec.pack(body, max_depth=8))
            await peer.send(Kind.ARGUMENT_ITEMS, number, _codec.pack([5, 6], max_depth=8), stream=1)
        await trio.sleep(1)
        await peer.stream.aclose()
        await trio.sleep(1)
    ends = sorted(line for line in served.log if "ends" in line)
    assert ends == ["chat ends by Cancelled", "stall ends by Cancelled", "total ends by Cancelled"]
    assert served.taken == [5, 6]


async def test_a_generator_is_cancelled_when_the_client_is_lost(autojump_clock):
    served = Service()
    before = open_generators()
    async with raw_client_of(served) as peer:
        peer.hello = type(peer.hello)(2**20, 100, 64, ("streams",), 1000)
        await peer.open()
        await peer.send_request(1, "Service.endless")
        await peer.send_request(2, "Service.waits", 3)
        await trio.sleep(1)
        await peer.stream.aclose()
        await trio.sleep(1)
        assert served.log.count("cleaned") == 2
    assert [generator for generator in open_generators() if generator not in before] == []


@pytest.mark.transports("socket", reason="a memory stream takes any number of bytes")
async def test_producers_with_calls_of_their_own_when_the_server_is_lost(caplog):
    """These calls end with their producer, which ends with the call that it produces for."""
    hello = {"features": ("streams",), "stream_credit": 1000, "max_message_size": 2**24}
    async with client_of_raw_peer(hello=hello, limits=trpc.Limits(max_unsent=2**30)) as (client, peer):
        await peer.open()
        await settle()
        outcomes, ended = {}, []
        go_on = trio.Event()

        async def calls():
            try:
                yield 1
                await go_on.wait()
                await client.call("A.c")
            finally:
                ended.append(True)

        async with trio.open_nursery() as nursery:
            for key in range(3):
                start_call(nursery, outcomes, key, client.call, "A.b", calls())
            await settle()
            # More than leaves while nobody reads; the others' requests wait behind it.
            start_call(nursery, outcomes, "large", client.call, "A.d", bytes(10_000_000))
            await settle()
            go_on.set()
            await settle()
            assert len(connection_of(client)._caller._in_flight) == 7
            await peer.stream.aclose()
        assert [type(outcome) for outcome in outcomes.values()] == [trpc.ConnectionLost] * 4
        assert len(ended) == 3
        assert_nothing_left(connection_of(client))
    assert not [record for record in caplog.records if record.name == "trpc"]


@pytest.mark.parametrize("ending", ["goaway", "left"])
async def test_items_behind_the_end_that_this_side_has_made_of_a_call(ending):
    hello = {"features": ("streams",), "stream_credit": 1000}
    async with client_of_raw_peer(hello=hello, cancel_grace=0) as (client, peer):
        await peer.open()
        async with client.stream("A.b") as items:
            request = await peer.receive()
            late = encode_frame(Kind.RESULT_ITEMS, request.id, _codec.pack([1, 2], max_depth=2))
            if ending == "goaway":
                body = encode_status(trpc.Unavailable("restarting"))
                # In one segment: the items are for a call that is open when they are read.
                await peer.stream.send_all(encode_frame(Kind.GOAWAY, 0, body) + late)
                assert type((await drain(items))[1]) is trpc.Unavailable
        if ending == "left":
            assert (await peer.receive()).kind == Kind.CANCEL
            await peer.stream.send_all(5 * late + encode_frame(Kind.CANCELLED, request.id))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.ping)
            ping = await peer.receive()
            await peer.send(Kind.PONG, ping.id)
        assert_nothing_left(connection_of(client))


@pytest.mark.parametrize("method", ["Service.nothing", "Service.echo", "Service.keeps"])
async def test_messages_of_streams_in_one_segment_with_a_call_that_ends_before_them(method):
    """They cross its reply, so that nobody has made a mistake."""
    async with raw_client_of(Service()) as peer:
        peer.hello = type(peer.hello)(2**20, 100, 64, ("streams",), 1000)
        await peer.open()
        request = _codec.pack([method, [None], None, None, None, {"1": 0}], max_depth=8)
        items = _codec.pack([1, 2], max_depth=8)
        frames = [
            encode_frame(Kind.REQUEST, 1, request),
            encode_frame(Kind.ARGUMENT_ITEMS, 1, items, stream=1),
            encode_frame(Kind.RESULT_CREDIT, 1, b"\x05"),
            encode_frame(Kind.ARGUMENT_END, 1, b"\xc0", stream=1),
            encode_frame(Kind.REQUEST, 2, _codec.pack(["Service.echo", [5]], max_depth=8)),
        ]
        if method == "Service.keeps":
            # It is open, and gives no stream: no credit for that.
            del frames[2]
        await peer.stream.send_all(b"".join(frames))
        replies = {}
        while len(replies) < 2:
            frame = await peer.receive()
            assert frame.kind in {Kind.RESULT, Kind.ERROR, Kind.ARGUMENT_CREDIT, Kind.ARGUMENT_STOP}
            if frame.kind in {Kind.RESULT, Kind.ERROR}:
                replies[frame.id] = frame.kind
        assert replies == {1: Kind.RESULT if method == "Service.keeps" else Kind.ERROR, 2: Kind.RESULT}


async def test_the_end_of_the_client_with_streams_open(autojump_clock):
    served, source = Service(), Source()
    outcomes = {}
    before = open_generators()
    small = {"limits": trpc.Limits(stream_credit=1000)}

    async def read(client):
        async with client.stream("Service.waits", 3) as items:
            outcomes["read"] = await drain(items)

    async def chat(client):
        async with client.stream("Service.chat", source.numbers(3, pause=0.1)) as items:
            outcomes["chat"] = await drain(items)

    async with trio.open_nursery() as nursery:
        async with connected(served, serve=small) as (client, _):
            nursery.start_soon(read, client)
            nursery.start_soon(chat, client)
            start_call(nursery, outcomes, "call", client.call, "Service.stall", source.numbers())
            await trio.sleep(0.05)
    for key, expected in [("read", [0, 1, 2]), ("chat", [0])]:
        got, exc = outcomes[key]
        assert got == expected
        assert isinstance(exc, trio.ClosedResourceError)
        assert isinstance(exc, trpc.ConnectionLost)
    assert isinstance(outcomes["call"], trio.ClosedResourceError)
    assert sorted(line for line in served.log if "ends" in line) == [
        "chat ends by Cancelled",
        "stall ends by Cancelled",
        "waits ends by Cancelled",
    ]
    assert source.log.count("cleaned") == 2
    assert [generator for generator in open_generators() if generator not in before] == []


async def test_the_end_of_the_servers_nursery_with_streams_open(autojump_clock):
    served, source = Service(), Source()
    outcomes = {}
    async with trio.open_nursery() as nursery:
        ours, theirs = trio.testing.memory_stream_pair()
        async with trio.open_nursery() as servers:
            await servers.start(_serve, served, theirs)

            async def use():
                async with trpc.connect_stream(ours) as client, trio.open_nursery() as inner:
                    start_call(inner, outcomes, "call", client.call, "Service.stall", source.numbers())
                    async with client.stream("Service.waits", 3) as items:
                        outcomes["read"] = await drain(items)

            nursery.start_soon(use)
            await trio.sleep(1)
            servers.cancel_scope.cancel()
        assert sorted(line for line in served.log if "ends" in line) == [
            "stall ends by Cancelled",
            "waits ends by Cancelled",
        ]
    got, exc = outcomes["read"]
    assert got == [0, 1, 2]
    # It hears that, or that it is over, whichever leaves first.
    assert isinstance(exc, trpc.RPCError)
    assert isinstance(outcomes["call"], trpc.RPCError)
    assert source.log[-1] == "cleaned"


async def _serve(service, stream, task_status):
    limits = trpc.Limits(stream_credit=1000)
    await trpc.serve_stream(service, stream, limits=limits, task_status=task_status)


# --- items that are not as they should be ---


@pytest.mark.parametrize("what", ITEMS)
async def test_a_result_item_that_cannot_be_sent(caplog, what):
    served = Service()
    async with serving(served, limits=trpc.Limits(max_depth=16)) as client:
        async with client.stream("Service.cannot_be_sent", what) as items:
            got, exc = await drain(items)
        assert got == [0, 1]
        assert type(exc) is trpc.RemoteError
        assert exc.type_name == "InternalError"
        assert "an item cannot be sent" in exc.message
        assert served.log[-1].startswith("cannot_be_sent ends by")
        assert await client.call("Service.echo", 1) == 1
    assert any("an item cannot be sent" in record.getMessage() for record in caplog.records)


@pytest.mark.parametrize("what", ITEMS)
@pytest.mark.parametrize("typed", [True, False])
async def test_an_argument_item_that_cannot_be_sent(what, typed):
    served = Service()
    log = []

    async def items():
        try:
            yield 0
            yield ITEMS[what]
            yield 1
        finally:
            log.append("cleaned")

    async with serving(served, serve={"limits": trpc.Limits(max_depth=16)}) as client:
        call = client.proxy(Service).total if typed else lambda stream: client.call("Service.total", stream)
        name = "'numbers'" if typed else "1"
        with pytest.raises(trpc.InvalidArguments, match=f"Service.total: argument {name}: an item cannot be sent"):
            await call(items())
        assert log == ["cleaned"]
        assert served.log == ["total begins", "total ends by Cancelled"]
        assert await client.call("Service.echo", 1) == 1


@pytest.mark.parametrize("in_nursery", [False, True])
async def test_a_result_item_that_is_too_large(in_nursery):
    served = Service()
    async with serving(served, limits=trpc.Limits(max_message_size=20_000)) as client:
        async with client.stream("Service.sizes", [5, 19_990, 25_000, 5], in_nursery) as items:
            got, exc = await drain(items)
        assert [len(item) for item in got] == [5, 19_990]
        assert type(exc) is trpc.MessageTooLarge
        assert served.log[-1].startswith("sizes ends by")
        assert await client.call("Service.echo", 1) == 1


@pytest.mark.parametrize("in_nursery", [False, True])
async def test_an_argument_item_that_is_too_large(in_nursery):
    served = Service()
    log = []

    async def items():
        try:
            async with trio.open_nursery() if in_nursery else contextlib.nullcontext():
                yield b"x" * 19_990
                yield b"x" * 25_000
        finally:
            log.append("cleaned")

    async with serving(served, serve={"limits": trpc.Limits(max_message_size=20_000)}) as client:
        with pytest.raises(trpc.MessageTooLarge, match="Service.total: argument 1: an item has 25003 bytes"):
            await client.call("Service.total", items())
        assert log == ["cleaned"]
        assert await client.call("Service.echo", 1) == 1


async def test_many_items_that_are_too_large_together_are_not_too_large():
    async with serving(Service(), limits=trpc.Limits(max_message_size=1000)) as client:
        async with client.stream("Service.sizes", [300] * 50) as items:
            assert await drain(items) == ([b"x" * 300] * 50, None)


async def test_a_result_item_of_the_wrong_type():
    async with serving(Service()) as client:
        async with client.proxy(Service).lies() as items:
            got, exc = await drain(items)
            assert got == [1, 2]
            assert type(exc) is trpc.ProtocolError
            assert "Service.lies: an item is not what the method gives: Expected `int`, got `str`" in str(exc)
            with pytest.raises(trpc.ProtocolError):
                await items.receive()
        assert await client.call("Service.echo", 1) == 1


@pytest.mark.parametrize("grace", [0, 1])
async def test_each_consumer_hears_of_a_result_item_of_the_wrong_type(autojump_clock, grace):
    served = Service()
    async with serving(served, cancel_grace=grace) as client:
        outcomes = {}
        with trio.fail_after(100):
            async with client.proxy(Service).lies_and_waits() as items, trio.open_nursery() as nursery:
                for key in range(3):
                    start_call(nursery, outcomes, key, items.receive)
                await settle()
                served.stop.set()
        assert [type(outcome) for outcome in outcomes.values()] == [trpc.ProtocolError] * 3
        await settle()
        assert served.log == ["lies_and_waits begins", "lies_and_waits ends by Cancelled"]


async def test_an_argument_item_of_the_wrong_type():
    served = Service()
    source = Source()

    async def points(items):
        for item in items:
            yield item

    async with serving(served) as client:
        expected = r"Service.points: an item of argument 'points': Expected `int`, got `str` - at `\$.x`"
        for call in (client.proxy(Service).points, client.proxy("Service").points):
            with pytest.raises(trpc.InvalidArguments, match=expected):
                await call(source.numbers(), points([{"x": 1}, {"x": 2}, {"x": "three"}, {"x": 4}]))
            assert served.taken == [Point(1), Point(2)]
            assert served.log[-1] == "points ends by InvalidArguments"
            assert source.log[-1] == "cleaned"


async def test_a_handler_may_catch_an_item_of_the_wrong_type():
    async def items():
        yield 1
        yield "two"

    async with serving(Service()) as client:
        assert await client.call("Service.catches", items()) == "[1, ['InvalidArguments']]"


# --- a peer without streams ---


async def test_a_peer_without_streams_gets_none():
    async with client_of_raw_peer() as (client, peer):
        await peer.open()
        await settle()
        source = Source()
        with pytest.raises(trpc.InvalidArguments, match="the peer does not support arguments that are streams"):
            await client.call("A.b", source.numbers(3))
        assert source.log == []
        assert not connection_of(client)._caller._in_flight


async def test_a_caller_without_streams_is_refused():
    served = Service()
    async with raw_client_of(served) as peer:
        await peer.open()
        await peer.send_request(1, "Service.count", 3)
        error = await peer.receive_error(1)
        assert "Service.count: a caller that has not announced streams cannot have streams" in error["message"]
        await peer.send_request(2, "Service.echo", 3)
        assert await peer.receive_value() == 3
    assert served.log == []


async def test_a_call_with_a_stream_that_is_cancelled_before_the_peer_is_known(autojump_clock):
    ours, theirs = trio.testing.memory_stream_pair()
    source = Source()
    async with trpc.connect_stream(ours) as client:
        with trio.move_on_after(1):
            await client.call("A.b", source.numbers(1))
        with trio.move_on_after(1):
            async with client.stream("A.b", source.numbers(1)):
                pytest.fail("entered")
        assert source.log == []
        assert_nothing_left(connection_of(client))
        await theirs.aclose()


async def test_a_stream_over_a_peer_that_is_not_known_yet():
    """The call waits for its hello, as it cannot know whether there are streams."""
    ours, theirs = trio.testing.memory_stream_pair()
    peer = RawPeer(theirs, features=("streams",), stream_credit=1000)
    source = Source()
    async with trpc.connect_stream(ours) as client, trio.open_nursery() as nursery:
        outcomes = {}
        start_call(nursery, outcomes, "call", client.call, "A.b", source.numbers(1))
        await settle()
        assert source.log == []
        await peer.open()
        request = await peer.receive()
        assert request.kind == Kind.REQUEST
        assert (await peer.receive()).kind == Kind.ARGUMENT_ITEMS
        assert (await peer.receive()).kind == Kind.ARGUMENT_END
        await peer.send_result(request.id, 5)
        await settle()
        assert outcomes == {"call": 5}
        await theirs.aclose()
