"""One run of a session in which somebody is cancelled after a step; see ``test_cancel_points``."""

from __future__ import annotations

import contextlib
import gc
import itertools
from collections import Counter
from collections.abc import AsyncIterable, AsyncIterator

import trio
import trio.testing
from injection import EVERY, AtStep, in_order
from semantics.peers import Listener
from simulation.watching import recorded
from support import assert_nothing_left, open_generators, settle

import trpc
from trpc import _connection

# What each of these says of a call. The first one comes from a side that gives up a peer which is silent.
NOT_EXECUTED = (trpc.RPCError, trpc.Unavailable, trpc.Unauthenticated)

# Seconds in which whoever is cancelled has to be gone: the grace of a client and two more, or the clean-up of a handler.
SOON = 4


class Service:
    """The first argument of every method is the key of the call."""

    def __init__(self, scene):
        self.scene = scene

    @trpc.method
    def plain(self, key: str) -> str:
        self.scene.runs[key] += 1
        return key

    @trpc.method
    async def wait(self, key: str, seconds: float, clean_up: float = 0) -> str:
        with self.scene.handler(key):
            try:
                await trio.sleep(seconds)
            finally:
                with trio.CancelScope(shield=True):
                    await trio.sleep(clean_up)
        return key

    @trpc.method
    async def blob(self, key: str, data: bytes) -> str:
        with self.scene.handler(key):
            return key

    @trpc.method
    async def numbers(self, key: str, count: int) -> AsyncIterator[int]:
        with self.scene.handler(key):
            for number in range(count):
                yield number
                await trio.sleep(0.1)

    @trpc.method
    async def total(self, key: str, numbers: AsyncIterable[int]) -> str:
        with self.scene.handler(key):
            assert [number async for number in numbers] == [0, 1, 2]
        return key

    @trpc.method
    async def back(self, key: str, number: int) -> str:
        """Calls back, and cancels that."""
        with self.scene.handler(key):
            client = trpc.current_call().client
            with trio.move_on_after(0.1):
                async with trio.open_nursery() as nursery:
                    for n in range(number):
                        nursery.start_soon(client.call, "Own.wait", f"{key} {n}", 100)
            assert await client.call("Own.plain", f"{key} last") == f"{key} last"
        return key


@trpc.service(name="Own")
class Own(Service):
    """What the clients serve."""


class Scene:
    """One run.

    Attributes:
        event: the scope of these that is cancelled: ``client``, ``other`` (client), ``drain`` or ``server``; None: the test does it.
        happened: when it was, or None.
        runs: how often the handler of each call began.
        outcomes: what each call has given or raised, or "cancelled".
        connections: all of both sides.
        server: None if it was cancelled before there was one.
    """

    def __init__(self, event=None):
        self.event = event
        self.happened = None
        self.scopes = {name: trio.CancelScope() for name in ("client", "other", "drain", "server")}
        self.runs = Counter()
        self.running = 0
        self.outcomes = {}
        self.connections = []
        self.listener = Listener()
        self.server = None
        self.listens = trio.Event()
        self.stopped = trio.Event()

    def inject(self):
        self.happened = trio.current_time()
        self.scopes[self.event].cancel()

    def has_happened(self, *events):
        return self.happened is not None and self.event in events

    @contextlib.contextmanager
    def scope(self, name):
        """What is cancelled is gone soon."""
        with self.scopes[name] as scope:
            yield
        if scope.cancelled_caught and self.has_happened(name):
            assert trio.current_time() - self.happened < SOON

    @contextlib.contextmanager
    def handler(self, key):
        self.runs[key] += 1
        self.running += 1
        try:
            yield
        finally:
            self.running -= 1

    async def serve(self, **options):
        with self.scope("server"):
            async with trio.open_nursery() as nursery:
                services = Service(self)
                self.server = await nursery.start(
                    lambda task_status: trpc.serve_listeners(
                        services, [self.listener], task_status=task_status, **options
                    )
                )
                self.listens.set()
        self.listens.set()
        self.stopped.set()

    async def client(self, play, name="client", *, link=None, **options):
        """Plays something with a client; nothing if the server is gone."""
        with self.scope(name):
            try:
                if link is None:
                    stream = await self.listener.connect()
                else:
                    stream, theirs = link.streams()
                    await self.listener._give.send(theirs)
                connecting = trpc.connect_stream(stream, service=Own(self), **options)
                async with connecting as client:
                    await play(self, client)
            except (trio.BrokenResourceError, trpc.Unavailable):
                assert self.has_happened("server")

    async def call(self, key, function, *args):
        """Gives how it ends, an error as well."""
        assert key not in self.outcomes
        self.outcomes[key] = outcome = "never ended"
        try:
            outcome = await function(*args)
        except trio.Cancelled:
            outcome = "cancelled"
            raise
        except Exception as exc:
            outcome = exc
        finally:
            assert self.outcomes[key] == "never ended"
            self.outcomes[key] = outcome
        return outcome

    def check_calls(self):
        """What each call says is what has happened."""
        assert all(number == 1 for number in self.runs.values()), self.runs
        for key, outcome in self.outcomes.items():
            runs = self.runs[key]
            match outcome:
                case str() if outcome == key:
                    assert runs == 1, key
                case "cancelled" | float():
                    pass
                case trpc.ConnectionLost():
                    assert outcome.maybe_executed or not runs, key
                case trpc.RPCError() if type(outcome) in NOT_EXECUTED:
                    assert not runs, key
                case _:
                    raise AssertionError(f"{key}: {outcome!r}")


def run(session, event, step, seed=0):
    """One run, with an event after a step; says whether the session ended before."""
    instrument = AtStep(step)
    scene = None

    async def main():
        nonlocal scene
        scene = Scene(event)
        living = trio.lowlevel.current_statistics().tasks_living
        instrument.do = scene.inject
        with trio.fail_after(1000):
            await session(scene)
        instrument.do = None
        await settle()
        scene.check_calls()
        assert_nothing_left(*scene.connections)
        assert scene.running == 0
        assert open_generators() == []
        assert scene.server is None or scene.server.connections == ()
        assert trio.lowlevel.current_statistics().tasks_living == living

    init, problems = _connection.Connection.__init__, []

    def noting(connection, *args, **kwargs):
        init(connection, *args, **kwargs)
        scene.connections.append(connection)

    with in_order(seed) as patch, recorded(patch, lambda text: None, problems):
        patch.setattr(_connection.Connection, "__init__", noting)
        try:
            trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0), instruments=[instrument])
            assert not problems
        except BaseException as exc:
            exc.add_note(f"{session}: {event} is cancelled after step {step}; {problems}")
            raise
    return instrument.steps_left > 0


def run_at_every_step(session, events, stride=1):
    over, stride = 0, 1 if EVERY else stride
    for turn in itertools.count():
        step = 1 + stride * turn
        ended = [run(session, event, step) for event in (events if EVERY else [events[turn % len(events)]])]
        # It takes some steps more or less, depending on the event.
        over = over + 1 if all(ended) else 0
        if over == len(events):
            break
    assert step > 50, "the session is longer than that"
    gc.collect()
