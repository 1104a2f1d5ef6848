"""A cancel after each step of a session that drains, pings, authenticates or has cancels wait for their turn.

Whoever is cancelled, and whenever: nothing hangs, nothing is left on either side, no handler runs twice, and each call
ends once, and with what may have happened to it. ``TRPC_EVERY_STEP=1`` has each of the events happen after each step, and
not one of them in turns.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import itertools
from collections import Counter
from collections.abc import AsyncIterable, AsyncIterator

import pytest
import trio
import trio.testing
from certificates import client_context, server_context
from injection import EVERY, AtStep, in_order
from semantics.peers import Listener
from simulation.faulty_stream import Faults, faulty_stream_pair
from simulation.watching import recorded
from support import assert_nothing_left, connection_of, open_generators, settle

import trpc
from trpc import _connection

TOKEN = "secret"  # noqa: S105

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
        event: the scope of these that is cancelled: ``client``, ``other`` (client), ``drain`` or ``server``.
        happened: when it was, or None.
        runs: how often the handler of each call began.
        outcomes: what each call has given or raised, or "cancelled".
        connections: all of both sides.
        server: None if it was cancelled before there was one.
    """

    def __init__(self, event):
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

    async def client(self, play, name="client", *, faults=None, **options):
        """Plays something with a client; nothing if the server is gone."""
        with self.scope(name):
            try:
                if faults is None:
                    stream = await self.listener.connect()
                else:
                    stream, theirs = faulty_stream_pair(1, there=faults)
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
                case trpc.Unavailable() | trpc.Unauthenticated():
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
    over = 0
    for turn in itertools.count():
        step = 1 + stride * turn
        ended = [run(session, event, step) for event in (events if EVERY else [events[turn % len(events)]])]
        # It takes some steps more or less, depending on the event.
        over = over + 1 if all(ended) else 0
        if over == len(events):
            break
    assert step > 50, "the session is longer than that"
    gc.collect()


# --- the soft stop of a server ---


async def at_work(scene, client, name):
    """Calls and streams that take half a second, and a call that comes later."""

    async def down(key):
        async with client.stream("Service.numbers", key, 5) as numbers:
            assert [number async for number in numbers] == [0, 1, 2, 3, 4]
        return key

    async def up(key):
        async def numbers():
            for number in range(3):
                yield number
                await trio.sleep(0.1)

        return await client.call("Service.total", key, numbers())

    async with trio.open_nursery() as nursery:

        def start(kind, function, *args):
            nursery.start_soon(scene.call, f"{name} {kind}", function, *args)

        start("quick", client.call, "Service.wait", f"{name} quick", 0.01)
        start("slow", client.call, "Service.wait", f"{name} slow", 0.5, 0.05)
        start("back", client.call, "Service.back", f"{name} back", 2)
        start("down", down, f"{name} down")
        start("up", up, f"{name} up")
        await trio.sleep(0.2)
        await scene.call(f"{name} late", client.call, "Service.plain", f"{name} late")


async def drained(scene, grace, clients=("client", "other"), *, client_options=None, **options):
    """A server is drained while its clients are at work."""

    async def drain():
        await scene.listens.wait()
        await trio.sleep(0.15)
        if scene.server is None:
            return
        with scene.scope("drain"):
            await scene.server.drain(grace)
        # Who drains may be cancelled, and may begin again.
        await scene.server.drain(grace)
        await scene.stopped.wait()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: scene.serve(**options))
        nursery.start_soon(drain)
        for name in clients:
            play = functools.partial(at_work, name=name)
            nursery.start_soon(lambda play=play, name=name: scene.client(play, name, **(client_options or {})))
    for name in clients:
        if not scene.has_happened("server", name):
            check_drained(scene, name, grace)


def check_drained(scene, name, grace):
    """A client that nothing has happened to."""
    seen = {kind: scene.outcomes[f"{name} {kind}"] for kind in ("quick", "slow", "back", "down", "up", "late")}
    assert isinstance(seen.pop("late"), trpc.Unavailable)
    for kind, outcome in seen.items():
        is_lost = isinstance(outcome, trpc.ConnectionLost) and kind != "quick" and grace < 1
        assert is_lost or outcome == f"{name} {kind}"


async def drained_in_order(scene):
    await drained(scene, 60)


async def drained_with_short_grace(scene):
    await drained(scene, 0.1)


async def drained_over_tls(scene):
    client_options = {"ssl_context": client_context(), "server_hostname": "localhost"}
    await drained(scene, 60, ("client",), client_options=client_options, ssl_context=server_context())


@pytest.mark.parametrize("session", [drained_in_order, drained_with_short_grace], ids=lambda play: play.__name__)
def test_a_server_is_drained(session, transport):
    run_at_every_step(session, ["client", "drain", "server"], 1 if transport == "memory" else 5)


def test_a_server_is_drained_over_tls(transport):
    run_at_every_step(drained_over_tls, ["client", "drain", "server"], 2 if transport == "memory" else 11)


# --- time limits ---

SHORT = trpc.Limits(
    keepalive_interval=0.5, keepalive_timeout=0.5, frame_timeout=0.5, write_timeout=0.5, idle_timeout=3, hello_timeout=1
)


async def alone(scene, play, *, faults=None, client_options=None, **options):
    """A server with one client."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: scene.serve(**options))
        await scene.client(play, faults=faults, **(client_options or {}))
        await scene.listens.wait()
        scene.scopes["server"].cancel()


async def kept_alive(scene):
    """Pings of both sides cross calls and silences, until there has been no call for too long."""

    async def play(scene, client):
        await scene.call("first", client.call, "Service.wait", "first", 0.1)
        await trio.sleep(2)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(scene.call, "ping", client.ping)
            nursery.start_soon(scene.call, "long", client.call, "Service.wait", "long", 4)
        await trio.sleep(5)
        await scene.call("idle", client.call, "Service.plain", "idle")

    await alone(scene, play, client_options={"limits": SHORT}, limits=SHORT)
    if scene.happened is None:
        assert (scene.outcomes["first"], scene.outcomes["long"]) == ("first", "long")
        assert isinstance(scene.outcomes["ping"], float)
        assert isinstance(scene.outcomes["idle"], trpc.RPCError)


async def silent(scene, how):
    """One side, or both, hears nothing any more while calls are in flight."""

    async def play(scene, client):
        stream = connection_of(client)._transport._stream
        async with trio.open_nursery() as nursery:
            for key in ("a", "b"):
                nursery.start_soon(scene.call, key, client.call, "Service.wait", key, 100)
            nursery.start_soon(scene.call, "ping", client.ping)
            # It is on its way for a second, in fragments.
            nursery.start_soon(scene.call, "blob", client.call, "Service.blob", "blob", bytes(4000))
            await trio.sleep(0.25)
            {"up": stream.sending, "down": stream.receiving, "both": stream}[how].stall()
        await scene.call("late", client.call, "Service.plain", "late")

    await alone(scene, play, faults=Faults(bandwidth=4000), client_options={"limits": SHORT}, limits=SHORT)
    if scene.happened is None:
        assert all(isinstance(scene.outcomes[key], trpc.ConnectionLost) for key in ("a", "b", "late"))


@pytest.mark.parametrize("session", [kept_alive], ids=lambda play: play.__name__)
def test_pings_and_time_limits(session, transport):
    run_at_every_step(session, ["client", "server"], 1 if transport == "memory" else 3)


@pytest.mark.transports("memory", reason="over a line that it can stop")
@pytest.mark.parametrize("how", ["up", "down", "both"])
def test_a_silent_peer(how):
    session = functools.partial(silent, how=how)
    run_at_every_step(session, ["client", "server"])


# --- who a client is ---


async def authenticated(scene, token, *, expected):
    """All kinds of calls on their way while the server finds out who it is; two of them are cancelled meanwhile."""

    async def authenticate(credentials):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep, 0.05)
            await trio.sleep(0.1)
        if credentials.token == "raises":  # noqa: S105
            raise trpc.Unauthenticated("not any more")
        if credentials.token == "late":  # noqa: S105
            await trio.sleep(100)
        return "ann" if credentials.has_token(TOKEN) else None

    async def down(client):
        async with client.stream("Service.numbers", "down", 5) as numbers:
            async for _ in numbers:
                pass
        return "down"

    async def cancelled(client, key, seconds):
        with trio.move_on_after(seconds):
            await scene.call(key, client.call, "Service.wait", key, 100)

    async def play(scene, client):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(scene.call, "plain", client.call, "Service.plain", "plain")
            nursery.start_soon(scene.call, "wait", client.call, "Service.wait", "wait", 0.1)
            nursery.start_soon(scene.call, "down", down, client)
            nursery.start_soon(scene.call, "ping", client.ping)
            nursery.start_soon(cancelled, client, "early", 0.02)
            nursery.start_soon(cancelled, client, "later", 0.2)
        await scene.call("last", client.call, "Service.plain", "last")

    options = {"cancel_grace": 0.5, "token": token}
    await alone(scene, play, client_options=options, limits=SHORT, authenticate=authenticate)
    if scene.happened is None:
        assert (scene.outcomes["early"], scene.outcomes["ping"]) == ("cancelled", pytest.approx(0.1))
        for key in ("plain", "wait", "down", "last"):
            outcome = scene.outcomes[key]
            assert outcome == key if expected is None else isinstance(outcome, expected), outcome


@pytest.mark.parametrize("token", [TOKEN, "wrong", "raises", "late"])
def test_a_client_is_authenticated(token, transport):
    session = functools.partial(authenticated, token=token)
    run_at_every_step(session, ["client", "server"], 1 if transport == "memory" else 5)


# --- cancels that wait for their turn ---

FEW = trpc.Limits(control_burst=4, control_rate=4)


async def many_cancelled(scene, passes):
    """More cancels than the peer takes at once, on both sides, and pings behind them.

    They come so many passes of the event loop after their calls, when the connection may not have begun.
    """

    async def play(scene, client):
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                for n in range(5):
                    nursery.start_soon(scene.call, f"held {n}", client.call, "Service.wait", f"held {n}", 100)
                for _ in range(passes):
                    await trio.lowlevel.checkpoint()
                scope.cancel()
        async with trio.open_nursery() as nursery:
            for n in range(2):
                nursery.start_soon(scene.call, f"ping {n}", client.ping)
            nursery.start_soon(scene.call, "back", client.call, "Service.back", "back", 4)
        await scene.call("last", client.call, "Service.plain", "last")

    grace = passes % 2
    await alone(scene, play, client_options={"limits": FEW, "cancel_grace": grace}, limits=FEW)
    if scene.happened is None:
        assert [scene.outcomes[f"held {n}"] for n in range(5)] == ["cancelled"] * 5
        assert (scene.outcomes["back"], scene.outcomes["last"]) == ("back", "last")
        assert all(isinstance(scene.outcomes[f"ping {n}"], float) for n in range(2))


@pytest.mark.parametrize("passes", [*range(8), 20])
def test_cancels_that_wait_for_their_turn(passes, transport):
    session = functools.partial(many_cancelled, passes=passes)
    run_at_every_step(session, ["client", "server"], 1 if transport == "memory" else 5)
