"""What the peers of a simulated world do: a service, and operations of its callers."""

from __future__ import annotations

import contextlib
import dataclasses
import reprlib
from collections import Counter
from collections.abc import AsyncIterable, AsyncIterator
from typing import Any

import trio

import trpc


class Planned(Exception):
    """What handlers and producers raise here."""


trpc.exception(name="simulation.Planned")(Planned)


class Book:
    """What has run, and how each call ended.

    Attributes:
        executions: how often the handler of each call began.
        running: handlers that have begun and not ended.
        calls: every call, in the order in which they began.
        on_event: told what happens, as text.
    """

    def __init__(self):
        self.executions = Counter()
        self.running = 0
        self.calls: list[Attempt] = []
        self.on_event = lambda text: None

    @contextlib.contextmanager
    def execution(self, key):
        self.executions[key] += 1
        self.running += 1
        self.on_event(f"{key} runs")
        try:
            yield
        finally:
            self.running -= 1
            self.on_event(f"{key} has run")


class Service:
    """Handlers of all kinds. The first argument of each is the key of the call."""

    def __init__(self, world):
        self._world = world
        self._book = world.book

    @trpc.method
    def plain(self, key: str, payload: bytes) -> bytes:
        with self._book.execution(key):
            return payload

    @trpc.method
    async def echo(self, key: str, payload: bytes) -> bytes:
        with self._book.execution(key):
            return payload

    @trpc.method
    async def wait(self, key: str, seconds: float) -> str:
        with self._book.execution(key):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(trio.sleep, seconds / 2)
                await trio.sleep(seconds)
        return key

    @trpc.method
    async def fail(self, key: str, seconds: float) -> None:
        with self._book.execution(key):
            if seconds:
                await trio.sleep(seconds)
            raise Planned(key)

    @trpc.method
    async def group(self, key: str) -> None:
        with self._book.execution(key):
            raise ExceptionGroup("planned", [Planned(key), ExceptionGroup("inner", [KeyError(key)])])

    @trpc.method
    async def stubborn(self, key: str, seconds: float) -> str:
        with self._book.execution(key):
            with trio.CancelScope(shield=True):
                await trio.sleep(seconds)
            return key

    @trpc.method
    async def clean_up(self, key: str, seconds: float) -> None:
        with self._book.execution(key):
            try:
                await trio.sleep_forever()
            finally:
                with trio.CancelScope(shield=True):
                    await trio.sleep(seconds)

    @trpc.method
    async def numbers(self, key: str, count: int, pause: float, payload: bytes, fails: bool) -> AsyncIterator[list]:
        with self._book.execution(key):
            for number in range(count):
                yield [number, payload]
                if pause:
                    await trio.sleep(pause)
            if fails:
                raise Planned(key)

    @trpc.method
    async def total(self, key: str, items: AsyncIterable[list], most: int, pause: float) -> int:
        with self._book.execution(key):
            return len(await take(items, most, pause))

    @trpc.method
    async def both(self, key: str, items: AsyncIterable[list]) -> AsyncIterator[list]:
        with self._book.execution(key):
            async for item in items:
                yield item

    @trpc.method
    async def back(self, key: str, link: int, depth: int) -> str:
        with self._book.execution(key):
            await self._world.operate(trpc.current_call().client, self._world.links[link], depth=depth)
        return key


@trpc.service(name="Own")
class Own(Service):
    """What the clients serve."""


async def take(items, most, pause):
    """Up to so many items, each of which has to be the next one."""
    taken = []
    if most == 0:
        return taken
    async for number, _ in items:
        if number != len(taken):
            raise AssertionError(f"item {number} came as number {len(taken)}")
        taken.append(number)
        if len(taken) >= most:
            break
        if pause:
            await trio.sleep(pause)
    return taken


# --- operations ---


@dataclasses.dataclass
class Attempt:
    """One call, how it may end, and how it ended.

    Attributes:
        key, method: which one.
        link: the connection that it was made over.
        value: what it gives; ``...`` if that is not known.
        raises: whether the handler raises what was planned.
        may_raise: whether it may, or a producer, when the call is left or lost at that time.
        runs: False if no handler is to run; None: it may be left before it does, or it is not known.
        bytes_up, bytes_down: of its largest message, about.
        streams_up: whether these are items of a stream, and not its request.
        depth: 0, or how many handlers are around it, each of which may be cancelled at any time.
        may_be_cancelled: whether its caller has a deadline, or is cancelled.
        outcome: a value, an exception, or "cancelled".
        endings: how often it ended.
    """

    key: str
    method: str
    link: Any
    value: Any = ...
    raises: bool = False
    may_raise: bool = False
    runs: bool | None = True
    error: type[Exception] | None = None
    bytes_up: int = 0
    bytes_down: int = 0
    streams_up: bool = False
    depth: int = 0
    may_be_cancelled: bool = False
    outcome: Any = None
    endings: int = 0

    def __str__(self):
        return f"{self.key} {self.method} on {self.link.name}: {_show(self.outcome)}"


def leaves_of(exc):
    """The exceptions in a group, or the one."""
    if isinstance(exc, BaseExceptionGroup):
        return [leaf for inner in exc.exceptions for leaf in leaves_of(inner)]
    return [exc]


def _show(outcome):
    if isinstance(outcome, BaseExceptionGroup):
        return f"{type(outcome).__name__}({', '.join(map(_show, leaves_of(outcome)))})"
    return f"{type(outcome).__name__}: {outcome}" if isinstance(outcome, Exception) else reprlib.repr(outcome)


class Operations:
    """Makes the calls of one kind each; all of them are told the :class:`Attempt` that they are."""

    kinds = {
        "plain": 3, "echo": 3, "wait": 3, "fail": 1, "group": 1, "stubborn": 1, "clean_up": 1,
        "stream_down": 3, "stream_up": 2, "both": 2, "back": 2, "notify": 1, "ping": 1, "missing": 1, "wrong": 1,
    }  # fmt: skip

    def __init__(self, rng, sizes, pauses, counts):
        self._rng = rng
        self._sizes, self._pauses, self._counts = sizes, pauses, counts
        self._names, self._weights = list(self.kinds), list(self.kinds.values())

    def choose(self, *, depth):
        name = self._rng.choices(self._names, self._weights)[0]
        return "wait" if name == "back" and depth >= 2 else name

    def _payload(self):
        return bytes(self._rng.choice(self._sizes))

    def _pause(self):
        return self._rng.choice(self._pauses)

    async def plain(self, client, service, call, depth):
        return await self._echo(client, service, call, "plain")

    async def echo(self, client, service, call, depth):
        return await self._echo(client, service, call, "echo")

    async def _echo(self, client, service, call, method):
        call.value = self._payload()
        call.bytes_up = call.bytes_down = len(call.value)
        return await client.call(f"{service}.{method}", call.key, call.value)

    async def wait(self, client, service, call, depth):
        call.value = call.key
        return await client.call(f"{service}.wait", call.key, self._pause())

    async def fail(self, client, service, call, depth):
        call.raises = True
        return await client.call(f"{service}.fail", call.key, self._rng.choice([0, self._pause()]))

    async def group(self, client, service, call, depth):
        call.raises = True
        return await client.call(f"{service}.group", call.key)

    async def stubborn(self, client, service, call, depth):
        call.value = call.key
        return await client.call(f"{service}.stubborn", call.key, self._pause())

    async def clean_up(self, client, service, call, depth):
        """Ends by a deadline only."""
        call.may_be_cancelled = True
        with trio.fail_after(self._pause()):
            return await client.call(f"{service}.clean_up", call.key, self._pause())

    async def stream_down(self, client, service, call, depth):
        count, pause, payload, fails = self._counts(), self._pause(), self._payload(), self._rng.random() < 0.2
        most = self._rng.choice([count + 1, count + 1, count // 2, 0])
        call.bytes_down = len(payload)
        call.bytes_up = len(payload)
        call.raises, call.may_raise = fails and most > count, fails
        call.value = list(range(min(most, count)))
        call.runs = True if most > count else None
        args = (call.key, count, pause, payload, fails)
        async with client.stream(f"{service}.numbers", *args) as items:
            return await take(items, most, self._rng.choice([0, 0, self._pause()]))

    async def stream_up(self, client, service, call, depth):
        count, payload, fails = self._counts(), self._payload(), self._rng.random() < 0.2
        most = self._rng.choice([count + 1, max(1, count // 2)])
        call.raises, call.may_raise = fails and most > count, fails
        call.value = min(most, count)
        call.streams_up = True
        call.bytes_up = len(payload)
        items = self._produce(call, count, payload, self._rng.choice([0, self._pause()]), fails)
        return await client.call(f"{service}.total", call.key, items, most, self._rng.choice([0, self._pause()]))

    async def both(self, client, service, call, depth):
        count, payload = self._counts(), self._payload()
        most = self._rng.choice([count + 1, count // 2])
        call.runs = True if most > count else None
        call.value = list(range(min(most, count)))
        call.bytes_up = call.bytes_down = len(payload)
        call.streams_up = True
        items = self._produce(call, count, payload, self._rng.choice([0, self._pause()]), False)
        async with client.stream(f"{service}.both", call.key, items) as echoed:
            return await take(echoed, most, 0)

    async def _produce(self, call, count, payload, pause, fails):
        for number in range(count):
            yield [number, payload]
            if pause:
                await trio.sleep(pause)
        if fails:
            raise Planned(call.key)

    async def back(self, client, service, call, depth):
        call.value = call.key
        return await client.call(f"{service}.back", call.key, call.link.number, depth + 1)

    async def notify(self, client, service, call, depth):
        call.runs, call.value = None, None
        await client.notify(f"{service}.wait", call.key, self._pause())

    async def ping(self, client, service, call, depth):
        call.runs = False
        await client.ping()

    async def missing(self, client, service, call, depth):
        call.runs, call.error = False, trpc.MethodNotFound
        await client.call(f"{service}.{self._rng.choice(['execution', '_book', 'nothing'])}", call.key)

    async def wrong(self, client, service, call, depth):
        call.runs, call.error = False, trpc.InvalidArguments
        await client.call(f"{service}.wait", call.key, "soon")
