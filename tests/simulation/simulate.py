"""One seed is one world: a server, clients, what they do and what goes wrong between them.

For a time everything goes wrong that the seed says; then all lines are healed, and everything has to end. What must
hold, whatever happened: see :class:`tests.simulation.judge.Judge` for the calls, :meth:`World.check` for the rest.
"""

from __future__ import annotations

import functools
import math
import random
import zlib

import trio
import trio.testing
from support import assert_nothing_left, connection_of, cut_into, open_generators, settle

import trpc
from trpc import _connection, testing
from trpc.testing import Faults

from .choices import Choices
from .deterministic import deterministic
from .guards import Guards
from .judge import Judge
from .links import Generation, Link, Listener
from .watching import recorded, watch
from .workload import Attempt, Book, Operations, Own, Service

# Seconds of virtual time in which every world has ended. All that its tasks sleep together is far less.
HANGS = 2_000

# What says of a connection that it is of no use any more.
_GONE = (trpc.ConnectionLost, trpc.Unavailable, trpc.Unauthenticated)


class WorldError(AssertionError):
    """What must hold does not."""


class World(Choices):
    """One seed.

    Attributes:
        trace: a number that is another one if anything happens otherwise.
        problems: what did not hold.
    """

    def __init__(self, seed, *, verbose=False):
        rng = random.Random(seed)
        super().__init__(rng)
        self.seed = seed
        self.trace = 0
        self.problems = []
        self.book = Book()
        self.book.on_event = self.event
        self.links: list[Link] = []
        self.connections = []
        self._verbose = verbose
        self.guards = Guards(self)
        pauses = [0, 0, 0.001, 0.01, 0.1, 1] if not self.is_slow else [0, 0.01, 0.1, 1, 5]
        sizes = [0, 10, 100, 100, 1_000, 5_000, 20_000] if not self.is_in_bytes else [0, 10, 50]
        self.operations = Operations(
            rng, sizes, pauses, lambda: rng.choice([0, 1, 3, 3, 10, 30 if self.is_large else 5])
        )

    def event(self, text):
        line = f"{trio.current_time():.9f} {text}"
        self.trace = zlib.crc32(line.encode(), self.trace)
        if self._verbose:
            print(line)

    def _travelled(self, direction, data):
        self.event(f"{direction} {len(data)} {zlib.crc32(data):x}")

    # --- the server ---

    async def serve(self):
        """Another generation of the server."""
        listener = Listener()

        async def run(task_status):
            await trpc.serve_listeners(
                Service(self),
                [listener],
                limits=self.server_limits,
                task_status=task_status,
                **self.guards.of_server(),
            )

        self.generation = Generation(listener, await self.servers.start(run))
        self.event("server listens")
        self.listens.set()

    async def drain(self, generation):
        self.event(f"drain, grace {generation.grace}")
        await generation.server.drain(grace=generation.grace)
        self.event("drained")

    async def drain_and_restart(self):
        await trio.sleep(self.drain_at)
        async with trio.open_nursery() as nursery:
            self.listens = trio.Event()
            self.generation.grace = self.drain_grace
            nursery.start_soon(self.drain, self.generation)
            await trio.sleep(self.restarts_after)
            await self.serve()
        self.has_restarted.set()

    # --- the clients ---

    async def connect(self, faults, *, is_last_try):
        """A new link, once there is a server."""
        while True:
            await self.listens.wait()
            there, back = faults()
            line = testing.Link(self.rng, there=there, back=back, half_closeable=self.rng.random() < 0.7)
            ours, theirs = line.streams()
            generation = self.generation
            link = Link(len(self.links), line, ours, theirs, generation, self._limits(), self.server_limits)
            link.is_cut = there.cut_after is not None or back.cut_after is not None
            link.has_timeouts = self.has_timeouts
            link.token = self.guards.token(is_right=is_last_try)
            link.is_refused = self.authenticates and not self.guards.is_right(link.token)
            self.links.append(link)
            line.there.on_received = functools.partial(self._travelled, f"{link.name} up")
            line.back.on_received = functools.partial(self._travelled, f"{link.name} down")
            self.event(f"{link.name}: {there} {back}")
            try:
                await generation.listener.connect(theirs)
            except trio.BrokenResourceError:
                self.event(f"{link.name}: nobody listens")
            else:
                return link

    async def client(self, sessions, tasks, operations):
        for _ in range(sessions - 1):
            await self.session(self.faults, tasks, operations, is_last=False)
        if not await self.session(self.faults, tasks, operations, is_last=True):
            # That may have been the faults' doing, but now there are none.
            while not await self.session(lambda: (Faults(), Faults()), 0, 0, is_last=True):
                await trio.sleep(1)

    async def session(self, faults, tasks, operations, *, is_last):
        """One connection. The last one is used until the end: says whether it was there by then."""
        rng = self.rng
        # Without anything to do, it only shows that there is a connection.
        link = await self.connect(faults, is_last_try=tasks == 0)
        grace = rng.choice([0, 0.01, 1, 30])
        leaves = not is_last and rng.random() < 0.3
        self.event(f"{link.name}: connects, {grace=} {leaves=}")
        async with trpc.connect_stream(
            link.ours,
            service=Own(self),
            limits=link.client_limits,
            cancel_grace=grace,
            token=link.token,
            interceptors=self.guards.of_client(),
        ) as client:
            if leaves:
                for _ in range(tasks):
                    self.nursery.start_soon(self.task, client, link, operations)
                await trio.sleep(rng.choice([0, 0.001, 0.1, 1]))
                link.is_left = True
            else:
                async with trio.open_nursery() as nursery:
                    for _ in range(tasks):
                        nursery.start_soon(self.task, client, link, operations)
            if is_last:
                await self.healed.wait()
                if not await self.is_alive(client, link):
                    return False
                self.live.append(link)
                self.one_is_idle.set()
                await self.release.wait()
                # Nobody has anything to do any more, so that this is for good.
        self.event(f"{link.name}: closed")
        return True

    async def task(self, client, link, operations):
        rng = self.rng
        for _ in range(operations):
            call = await self.operate(client, link)
            if isinstance(call.outcome, _GONE) and rng.random() < 0.7:
                break
            if rng.random() < 0.3:
                await trio.sleep(rng.choice([0, 0.001, 0.1]))

    async def is_alive(self, client, link):
        while True:
            call = await self.operate(client, link, kind="wait", gently=True)
            if call.outcome == call.value:
                return True
            if isinstance(call.outcome, _GONE) or link.is_refused or connection_of(client)._lost:
                return False
            if not isinstance(call.outcome, trpc.Overloaded | trpc.DeadlineExceeded):
                raise WorldError(f"{call}: although nothing is wrong any more")
            # What was cancelled without a grace may be running still.
            await trio.sleep(1)

    async def operate(self, client, link, *, depth=0, kind=None, gently=False):
        """One call, of any kind."""
        rng, now = self.rng, trio.current_time()
        kind = kind or self.operations.choose(depth=depth)
        call = Attempt(f"{link.number}.{len(self.book.calls)}", kind, link, depth=depth)
        self.book.calls.append(call)
        self.event(f"{call.key} begins: {kind}")
        function = getattr(self.operations, kind)
        service = "Own" if depth % 2 else "Service"
        try:
            with trio.CancelScope() as scope:
                if not gently:
                    if rng.random() < 0.2:
                        call.may_be_cancelled = True
                        scope.deadline = now + rng.choice([0, 0.001, 0.01, 0.1, 1])
                    if rng.random() < 0.2:
                        call.may_be_cancelled = True
                        self.nursery.start_soon(
                            self._cancel, scope, rng.choice([0, 0, 0.001, 0.05, 1]), rng.randrange(8)
                        )
                call.outcome = await function(client, service, call, depth)
            if scope.cancelled_caught:
                call.outcome = "cancelled"
        except Exception as exc:
            call.outcome = exc
        except BaseException as exc:
            if BaseExceptionGroup("", [exc]).split(trio.Cancelled)[0] is None:
                raise
            call.outcome = "cancelled"
            raise
        finally:
            call.endings += 1
            self.event(f"{call.key} ends: {type(call.outcome).__name__}")
        return call

    @staticmethod
    async def _cancel(scope, seconds, passes):
        if seconds:
            await trio.sleep(seconds)
        for _ in range(passes):
            await trio.lowlevel.checkpoint()
        scope.cancel()

    # --- what goes wrong ---

    async def break_things(self):
        """Until it is cancelled."""
        rng = self.rng
        while True:
            await trio.sleep(rng.expovariate(1) * self.fault_time / rng.choice([2, 5]))
            if not self.links:
                continue
            link = rng.choice(self.links[-6:])
            direction = rng.choice([link.line.there, link.line.back])
            seconds = rng.choice([0.01, 0.3, 3, 30, math.inf])
            what = rng.choice(["stall both", "stall one", "stall one", "reset", "end"])
            self.event(f"{link.name}: {what}, {seconds}, {'there' if direction is link.line.there else 'back'}")
            link.is_cut = link.is_cut or seconds > 0.3 or what in {"reset", "end"}
            match what:
                case "stall both":
                    link.line.stall(seconds)
                case "stall one":
                    direction.stall(seconds)
                case "reset":
                    link.line.reset()
                case "end":
                    direction.cut("eof")

    def heal(self):
        self.event("heal")
        for link in self.links:
            link.line.heal()
        self.healed.set()

    # --- from the beginning to the end ---

    async def run(self):
        rng = self.rng
        living = trio.lowlevel.current_statistics().tasks_living
        self.healed, self.release, self.listens, self.has_restarted = (trio.Event() for _ in range(4))
        self.live = []
        with trio.move_on_after(HANGS) as hangs:
            async with trio.open_nursery() as self.servers, trio.open_nursery() as self.nursery:
                await self.serve()
                if self.drain_at is not None:
                    self.nursery.start_soon(self.drain_and_restart)
                async with trio.open_nursery() as clients:
                    self.one_is_idle = trio.Event()
                    for _ in range(self.clients):
                        most = 5 if self.is_large else 3
                        shape = (rng.randint(1, 2), rng.randint(1, most), rng.randint(1, most))
                        clients.start_soon(self.client, *shape)
                    with trio.move_on_after(self.fault_time):
                        if not self.is_calm:
                            await self.break_things()
                    self.heal()
                    while len(self.live) < self.clients:
                        await self.one_is_idle.wait()
                        self.one_is_idle = trio.Event()
                    await self.until_idle()
                    self.release.set()
                await self.end_server()
        if hangs.cancelled_caught:
            raise WorldError("it hangs")
        await settle(3)
        self.check(living)

    async def until_idle(self):
        """Handlers that were cancelled without a grace, one-way calls, and tasks whose client is closed may go on."""
        while self.book.running or any(call.endings == 0 for call in self.book.calls):
            await trio.sleep(1)
        # What is on its way arrives. Not a time at which a ping is sent.
        for link in self.links:
            link.line.heal()
        await trio.sleep(20.0123)
        assert_nothing_left(*self.connections)

    async def end_server(self):
        if self.drain_at is not None:
            await self.has_restarted.wait()
        if self.ends_by_drain:
            self.generation.grace = self.drain_grace
            await self.drain(self.generation)
        else:
            self.servers.cancel_scope.cancel()

    def check(self, living):
        """What must hold when all is over."""
        assert_nothing_left(*self.connections)
        judge = Judge(self)
        for call in self.book.calls:
            if (problem := judge(call)) is not None:
                self.problems.append(f"{call}: {problem}")
        unknown = set(self.book.executions) - {call.key for call in self.book.calls}
        if unknown:
            self.problems.append(f"nobody has called {unknown}")
        if self.book.running:
            self.problems.append(f"{self.book.running} handlers are running")
        if open_generators():
            self.problems.append(f"generators are open: {open_generators()}")
        if self.generation.server.connections:
            self.problems.append("the server has connections")
        tasks = trio.lowlevel.current_statistics().tasks_living
        if tasks != living:
            self.problems.append(f"{tasks - living} tasks are left")
        if self.problems:
            raise WorldError("\n".join(self.problems))


def run_seed(seed, *, verbose=False):
    """One world, from the first connection until nothing is left.

    Raises:
        Exception: something did not hold; its note says which seed, and what it has chosen.
    """
    world = World(seed, verbose=verbose)
    init_connection = _connection.Connection.__init__

    def init(connection, *args, **kwargs):
        init_connection(connection, *args, **kwargs)
        world.connections.append(connection)

    async def main():
        trio.lowlevel.spawn_system_task(watch, seed, HANGS)
        await world.run()

    with deterministic(seed) as patch, recorded(patch, world.event, world.problems):
        patch.setattr(_connection.Connection, "__init__", init)
        if world.fragment is not None:
            cut_into(patch, world.fragment, 2 * world.fragment)
        try:
            trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
        except Exception as exc:
            exc.add_note(f"python -m tests.simulation --seed {seed} --verbose\n{world.options()}")
            raise
    return world
