"""Short sessions between a client and a server, which can be played over a line that is cut behind any byte."""

from __future__ import annotations

import contextlib
import dataclasses
from collections import Counter
from collections.abc import AsyncIterable, AsyncIterator

import trio
import trio.testing
from support import assert_nothing_left, connection_of, cut_into, open_generators, settle

import trpc
from trpc._frames import CONTINUED, MORE, FrameReader
from trpc._messages import Kind
from trpc.testing import Faults, Link

from .deterministic import deterministic
from .watching import recorded

HANGS = 1_000
# In this file only, so that large messages are small.
FRAGMENT = 200


class Stage:
    """What happens in one session.

    Attributes:
        executions: how often the handler of each call began.
        running: handlers that have begun and not ended.
        outcomes: how the client's calls ended, in the order in which they began.
        calls_back: the same of those of handlers.
        late: those that began when the connection was known to be lost.
        left: those that are left before their reply.
    """

    def __init__(self):
        self.executions = Counter()
        self.running = 0
        self.outcomes = {}
        self.calls_back = {}
        self.late = set()
        self.left = set()

    @contextlib.asynccontextmanager
    async def handler(self, key):
        self.executions[key] += 1
        self.running += 1
        try:
            yield
        finally:
            with trio.CancelScope(shield=True):
                await trio.lowlevel.checkpoint()
            self.running -= 1

    @contextlib.contextmanager
    def call(self, key, outcomes=None):
        """Notes how a call ends: whoever makes it puts its value into the list that this gives."""
        outcomes = self.outcomes if outcomes is None else outcomes
        assert key not in outcomes
        if any(isinstance(outcome, trpc.ConnectionLost) for outcome in outcomes.values()):
            self.late.add(key)
        outcomes[key] = "never ended"
        values = []
        try:
            with trio.CancelScope() as scope:
                yield values, scope
            outcomes[key] = "cancelled" if scope.cancelled_caught else values[0]
        except trio.Cancelled:
            outcomes[key] = "cancelled"
            raise
        except Exception as exc:
            outcomes[key] = exc


class Service:
    """The first argument of every method is the key of the call."""

    def __init__(self, stage):
        self._stage = stage

    @trpc.method
    async def echo(self, key: str, value: object) -> object:
        async with self._stage.handler(key):
            return value

    @trpc.method
    async def wait(self, key: str, seconds: float) -> str:
        async with self._stage.handler(key):
            await trio.sleep(seconds)
            return "waited"

    @trpc.method
    async def fail(self, key: str) -> None:
        async with self._stage.handler(key):
            raise ValueError("planned")

    @trpc.method
    async def numbers(self, key: str, count: int) -> AsyncIterator[int]:
        async with self._stage.handler(key):
            for number in range(count):
                yield number
                await trio.sleep(0.01)

    @trpc.method
    async def total(self, key: str, numbers: AsyncIterable[int]) -> int:
        async with self._stage.handler(key):
            return sum([number async for number in numbers])

    @trpc.method
    async def back(self, key: str) -> str:
        async with self._stage.handler(key):
            with self._stage.call("nested", self._stage.calls_back) as (values, _):
                values.append(await trpc.current_call().client.call("Own.wait", "nested", 0.1))
            return "called back"


@trpc.service(name="Own")
class Own(Service):
    """What the client serves."""


# --- the sessions ---


async def simple(stage, client):
    with stage.call("a") as (values, _):
        values.append(await client.call("Service.echo", "a", 1))
    with stage.call("b") as (values, _):
        values.append(await client.call("Service.wait", "b", 0.1))


async def at_once(stage, client):
    async def one(key):
        with stage.call(key) as (values, _):
            values.append(await client.call("Service.wait", key, 0.1))

    async with trio.open_nursery() as nursery:
        for key in "abc":
            nursery.start_soon(one, key)


async def cancelled(stage, client):
    async with trio.open_nursery() as nursery:
        with stage.call("a") as (values, scope):
            nursery.start_soon(_cancel_later, scope)
            values.append(await client.call("Service.wait", "a", 1000))
        nursery.cancel_scope.cancel()
    with stage.call("b") as (values, _):
        values.append(await client.call("Service.echo", "b", 1))


async def _cancel_later(scope):
    await trio.sleep(1)
    scope.cancel()


async def expired(stage, client):
    with stage.call("a") as (values, scope):
        scope.deadline = trio.current_time() + 1
        values.append(await client.call("Service.wait", "a", 1000))
    with stage.call("b") as (values, _):
        values.append(await client.call("Service.echo", "b", 1))


async def failing(stage, client):
    with stage.call("a") as (values, _):
        values.append(await client.call("Service.fail", "a"))
    with stage.call("b") as (values, _):
        values.append(await client.call("Service.nothing", "b"))


async def stream_down(stage, client):
    with stage.call("a") as (values, _):
        async with client.stream("Service.numbers", "a", 3) as numbers:
            values.append([number async for number in numbers])
    with stage.call("b") as (values, _):
        async with client.stream("Service.numbers", "b", 1000) as numbers:
            values.append(await numbers.receive())
            stage.left.add("b")


async def stream_up(stage, client):
    async def numbers():
        for number in range(3):
            yield number
            await trio.sleep(0.01)

    with stage.call("a") as (values, _):
        values.append(await client.call("Service.total", "a", numbers()))


async def called_back(stage, client):
    with stage.call("a") as (values, _):
        values.append(await client.call("Service.back", "a"))


async def large(stage, client):
    """Both messages leave in fragments, beside a small one."""

    async def small():
        with stage.call("b") as (values, _):
            values.append(await client.call("Service.echo", "b", 1))

    async with trio.open_nursery() as nursery:
        with stage.call("a") as (values, _):
            nursery.start_soon(small)
            values.append(await client.call("Service.echo", "a", bytes(1000)))


SMALL = [simple, at_once, cancelled, expired, failing, stream_down, stream_up, called_back]
ALL = [*SMALL, large]


# --- how they are played ---


@dataclasses.dataclass
class Message:
    """Where one message lies in what was sent: its kind, its call, from which byte to which, and its body."""

    kind: int
    id: int
    start: int
    end: int = 0
    body: bytes = b""


@dataclasses.dataclass
class Played:
    """One session that has been played.

    Attributes:
        stage: what happened.
        up, down: what was sent, from the client and to it.
        seconds: how long it took, on the mock clock.
    """

    stage: Stage
    up: bytes
    down: bytes
    seconds: float


def messages_of(data):
    """The messages in the bytes of one direction, those in fragments as one each."""
    reader, open_ones, messages = FrameReader(max_body=1 << 24), {}, []
    for position in range(len(data)):
        start = messages[-1].end if messages else 0
        for frame in reader.feed(data[position : position + 1]):
            key = (frame.kind, frame.id)
            if frame.flags & CONTINUED:
                message = open_ones[key]
            else:
                message = open_ones[key] = Message(*key, start)
                messages.append(message)
            message.end = position + 1
            message.body += bytes(frame.body)
            assert frame.flags & MORE or open_ones.pop(key)
    return messages


TERMINAL = (Kind.RESULT, Kind.ERROR, Kind.CANCELLED, Kind.EXPIRED)


def play(session, *, there=None, back=None, seed=0):
    """Plays a session; sees to it that it ends, on both sides and by itself, and that nothing is left."""
    stage = Stage()
    sent = {"up": bytearray(), "down": bytearray()}

    async def main():
        living = trio.lowlevel.current_statistics().tasks_living
        link = Link(seed, there=there or Faults(), back=back or Faults())
        link.there.on_sent = sent["up"].extend
        link.back.on_sent = sent["down"].extend
        ours, theirs = link.streams()
        connections = []
        with trio.fail_after(HANGS):
            async with trio.open_nursery() as nursery:

                async def serve(task_status):
                    await trpc.serve_stream(Service(stage), theirs, task_status=task_status)

                server = await nursery.start(serve)
                connections += server._connections
                async with trpc.connect_stream(ours, service=Own(stage), cancel_grace=30) as client:
                    connections.append(connection_of(client))
                    await session(stage, client)
                assert_nothing_left(connections[-1])
        await settle(3)
        assert_nothing_left(*connections)
        assert stage.running == 0
        assert open_generators() == []
        assert server.connections == ()
        assert trio.lowlevel.current_statistics().tasks_living == living
        return trio.current_time()

    problems = []
    with deterministic(seed) as patch, recorded(patch, lambda text: None, problems):
        cut_into(patch, FRAGMENT, 2 * FRAGMENT)
        seconds = trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
    assert not problems, problems
    return Played(stage, bytes(sent["up"]), bytes(sent["down"]), seconds)


def same(one, other):
    """Whether two calls ended alike."""
    if isinstance(one, Exception):
        return type(one) is type(other) and str(one) == str(other)
    return one == other


def faults_of_lines():
    """Lines that are bad, and lose nothing."""
    slow = Faults(latency=0.1, jitter=0.2)
    return {
        "bytes": Faults(slices=1),
        "latency and jitter": slow,
        "bandwidth": Faults(bandwidth=5_000),
        "window": Faults(window=50),
        "all": dataclasses.replace(slow, slices=1, bandwidth=5_000, window=500),
    }
