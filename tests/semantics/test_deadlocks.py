"""Peers that call each other back, and stream to each other both ways, with little room for anything: nothing hangs.

A seed chooses two or three peers, their limits, how their bytes travel, and what each of their tasks does: a tree of
operations, each of which is carried out by the peer that it says. See :class:`Plans` for what may be in one.

    python tests/semantics/test_deadlocks.py --seeds 5000

runs more of them; a seed that fails is printed, and ``--first SEED --seeds 1`` runs it again.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import os
import pathlib
import random
import socket
import sys
import traceback
from collections.abc import AsyncIterable

if __name__ == "__main__":
    sys.path[:0] = [str(pathlib.Path(__file__).parents[2]), str(pathlib.Path(__file__).parents[1])]

import pytest
import trio
import trio.testing
from support import assert_nothing_left, connection_of, cut_into, open_generators, settle

import trpc

SEEDS = 60

# Seconds of virtual time after which a seed hangs. All that its tasks sleep together is far less.
HANGS = 10_000

# How an operation may end beside its value: these are what a limit says, or what was planned.
ALLOWED = (trpc.Overloaded, trpc.MessageTooLarge, ZeroDivisionError)
PASSED_ON = {cls.__name__ for cls in ALLOWED}
# And if the connection is cut: to a handler of another peer that is told of it by this one, too.
LOST = (trpc.ConnectionLost, trpc.RemoteError)


class World:
    """What the peers of one seed have in common."""

    def __init__(self, rng):
        self.rng = rng
        self.running = 0
        self.is_cut = False
        self.done = 0
        """Operations that ended as they should."""
        self.ends = {}
        """How many ended in which other way."""

    @contextlib.contextmanager
    def handler(self):
        self.running += 1
        try:
            yield
        finally:
            self.running -= 1

    @contextlib.contextmanager
    def operation(self):
        try:
            yield
            self.done += 1
        except Exception as exc:
            # In a group: what another task of the operation raises has cancelled it. With a lambda: before Python 3.13
            # no method will do.
            ours, rest = ExceptionGroup("", [exc]).split(lambda error: self.is_allowed(error))
            if rest is not None:
                raise
            self.note(ours.exceptions[0])

    def is_allowed(self, exc):
        # Of a handler that was cancelled by then, what it would have kept to itself can come through.
        passed_on = isinstance(exc, trpc.RemoteError) and exc.type_name in PASSED_ON
        return isinstance(exc, ALLOWED) or passed_on or (self.is_cut and isinstance(exc, LOST))

    def note(self, exc):
        self.ends[type(exc).__name__] = self.ends.get(type(exc).__name__, 0) + 1


class Node:
    """One peer: its service, and what its own tasks do."""

    def __init__(self, index, world):
        self.index = index
        self.world = world
        self.clients = {}

    # --- what others call ---

    @trpc.method
    async def hello(self, index: int) -> int:
        self.clients[index] = trpc.current_call().client
        return self.index

    @trpc.method
    async def run(self, operations: list, payload: bytes) -> bytes:
        with self.world.handler():
            await self.do(operations)
        return payload

    @trpc.method
    async def produce(self, operations: list, count: int, size: int):
        with self.world.handler():
            async with contextlib.aclosing(self.items(operations, count, size)) as items:
                async for item in items:
                    yield item

    @trpc.method
    async def consume(self, operations: list, items: AsyncIterable[list], stop: int) -> int:
        with self.world.handler():
            return await self.take(items, operations, stop)

    @trpc.method
    async def exchange(self, operations: list, first: AsyncIterable[list], second: AsyncIterable[list], count: int):
        """Gives back what it gets from the first; reads the second beside it."""
        with self.world.handler():
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.take, second, operations, 1000)
                expected = 0
                async for number, payload in first:
                    assert number == expected
                    expected += 1
                    yield [number, payload]
                    if expected == count:
                        break
                nursery.cancel_scope.cancel()

    # --- streams ---

    async def items(self, operations, count, size):
        for number in range(count):
            if number == count // 2:
                await self.do(operations)
            yield [number, b"x" * size]

    async def take(self, items, operations, stop):
        """Reads so many items at most."""
        expected = 0
        async for number, payload in items:
            assert number == expected, f"item {number} instead of {expected}"
            expected += 1
            if expected == 2:
                await self.do(operations)
            if len(payload) % 10 == 1:
                # A slow one.
                await trio.sleep(0.001)
            if expected >= stop:
                break
        return expected

    # --- operations ---

    async def do(self, operations):
        for name, *args in operations:
            with self.world.operation():
                await getattr(self, f"do_{name}")(*args)

    def client(self, target):
        return trpc.current_call().client if target == "back" else self.clients[target]

    async def do_call(self, target, operations, size):
        payload = b"y" * size
        assert await self.client(target).call("Node.run", operations, payload) == payload

    async def do_notify(self, target, size):
        await self.client(target).notify("Node.run", [], b"z" * size)

    async def do_ping(self, target):
        await self.client(target).ping()

    async def do_stream(self, target, theirs, ours, count, size, stop):
        async with self.client(target).stream("Node.produce", theirs, count, size) as items:
            taken = await self.take(items, ours, stop)
        assert taken == min(count, stop)

    async def do_send(self, target, theirs, ours, count, size, stop):
        taken = await self.client(target).call("Node.consume", theirs, self.items(ours, count, size), stop)
        assert taken == min(count, stop)

    async def do_exchange(self, target, theirs, ours, count, size, stop):
        """Sends each item when the one before it is back, beside a stream that somebody else there reads."""
        turn = trio.Semaphore(1)

        async def first():
            for number in range(count):
                await turn.acquire()
                yield [number, b"f" * size]

        second = self.items(ours, count, size)
        async with self.client(target).stream("Node.exchange", theirs, first(), second, stop) as items:
            expected = 0
            async for number, payload in items:
                assert (number, payload) == (expected, b"f" * size)
                expected += 1
                turn.release()
            assert expected == min(stop, count)

    async def do_parallel(self, branches):
        async with trio.open_nursery() as nursery:
            for branch in branches:
                nursery.start_soon(self.do, branch)

    async def do_cancel(self, seconds, passes, operations):
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_cancel_later, scope, seconds, passes)
                await self.do(operations)
                nursery.cancel_scope.cancel()

    async def do_within(self, seconds, operations):
        with trio.move_on_after(seconds):
            await self.do(operations)

    async def do_sleep(self, seconds):
        await trio.sleep(seconds)

    async def do_fail(self):
        await trio.lowlevel.checkpoint()
        raise ZeroDivisionError("planned")


async def _cancel_later(scope, seconds, passes):
    if seconds:
        await trio.sleep(seconds)
    for _ in range(passes):
        await trio.lowlevel.checkpoint()
    scope.cancel()


class Plans:
    """Makes trees of operations.

    What would hang whatever the library does is not in them: a task which holds one of a limited number of calls, and
    waits for another one that others hold who do the same. Handlers are never made to wait by the library for calls back
    to their caller. So only calls back are made while a call is held, if there are few of them; and a handler calls only
    peers that are behind all that the call has passed through.
    """

    def __init__(self, rng, peers, *, many_calls):
        self.rng = rng
        self.peers = peers
        self.many_calls = many_calls

    def operations(self, path, depth, *, held=False):
        return [self.operation(path, depth, held) for _ in range(self.rng.choice([0, 1, 1, 1, 2, 3]))]

    def target(self, path, held):
        """Whom a task of the last one in ``path`` may call; None: nobody."""
        onward = [] if held and not self.many_calls else list(range(max(path) + 1, self.peers))
        if len(path) == 1 and not (held and not self.many_calls):
            onward = [index for index in range(self.peers) if index != path[0]]
        return self.rng.choice(onward + ["back"] * (len(path) > 1) or [None])

    def operation(self, path, depth, held):
        rng = self.rng
        target = self.target(path, held)
        if depth <= 0 or target is None or rng.random() < 0.15:
            return rng.choice([["sleep", rng.choice([0, 0.001, 0.01])], ["sleep", 0], ["fail"]])
        there = [*path, path[-2] if target == "back" else target]
        size = rng.choice([0, 0, 1, 10, 51, 100, 1000, 3001])
        count = rng.choice([0, 1, 2, 3, 10, 30, 200])
        stop = rng.choice([1, 2, 5, 1000, 1000])
        kind = rng.random()
        if kind < 0.25:
            return ["call", target, self.operations(there, depth - 1), size]
        if kind < 0.42:
            theirs, ours = self.operations(there, depth - 1), self.operations(path, depth - 1, held=True)
            return ["stream", target, theirs, ours, count, size, stop]
        if kind < 0.59:
            theirs, ours = self.operations(there, depth - 1), self.operations(path, depth - 1, held=True)
            return ["send", target, theirs, ours, count, size, stop]
        if kind < 0.7:
            theirs, ours = self.operations(there, depth - 1), self.operations(path, depth - 1, held=True)
            return ["exchange", target, theirs, ours, min(count, 30), min(size, 100), stop]
        if kind < 0.8:
            branches = [self.operations(path, depth - 1, held=held) for _ in range(rng.randrange(2, 4))]
            return ["parallel", branches]
        if kind < 0.9:
            operations = self.operations(path, depth, held=held)
            return ["cancel", rng.choice([0, 0, 0.001, 0.01]), rng.randrange(20), operations]
        if kind < 0.95:
            return ["within", rng.choice([0, 0.001, 0.01]), self.operations(path, depth, held=held)]
        return rng.choice([["ping", target], ["notify", target, size]])


# --- the peers of a seed ---


def small_socket_pair():
    """Sockets that take little until the other end reads."""
    pair = socket.socketpair()
    streams = []
    for end in pair:
        end.setblocking(False)
        for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
            end.setsockopt(socket.SOL_SOCKET, option, 1)
        streams.append(trio.SocketStream(trio.socket.from_stdlib_socket(end)))
    return streams


PAIRS = [trio.testing.memory_stream_pair, trio.testing.lockstep_stream_pair, small_socket_pair]


def limits(rng, *, many_calls):
    return trpc.Limits(
        stream_credit=rng.choice([1, 10, 50, 200, 5000, 256 * 1024]),
        max_unsent=rng.choice([1, 100, 1000, 5000, 4 * 2**20]),
        max_calls=1000 if many_calls else rng.choice([2, 3, 5, 10]),
        max_message_size=rng.choice([1000, 20_000, 2**24]),
        max_streams=rng.choice([2, 256, 256]),
        max_bytes_in_flight=rng.choice([5000, 2**24]),
    )


@contextlib.contextmanager
def small_pieces(rng):
    """Large messages, and batches, are small ones, so that what is done with large ones is done often."""
    with pytest.MonkeyPatch.context() as patch:
        cut_into(patch, *rng.choice([(50, 200), (500, 1000), (128 * 1024, 64 * 1024)]))
        yield


async def connect_all(stack, nursery, rng, nodes, *, many_calls):
    """Connects each two of them; gives both ends of all connections."""
    ends = []
    for one, other in itertools.combinations(nodes, 2):
        ours, theirs = rng.choice(PAIRS)()
        options = {"limits": limits(rng, many_calls=many_calls)}
        server = await nursery.start(_serve, other, theirs, options)
        client = await stack.enter_async_context(
            trpc.connect_stream(
                ours, service=one, limits=limits(rng, many_calls=many_calls), cancel_grace=rng.choice([0, 0.01, 1])
            )
        )
        (connection,) = server._connections
        ends += [connection_of(client), connection]
        one.clients[other.index] = client
        assert await client.call("Node.hello", one.index) == other.index
    return ends


async def _serve(node, stream, options, task_status):
    await trpc.serve_stream(node, stream, **options, task_status=task_status)


async def _cut_later(world, ends, seconds, passes):
    await trio.sleep(seconds)
    for _ in range(passes):
        await trio.lowlevel.checkpoint()
    world.is_cut = True
    world.rng.choice(ends)._lose(trpc.ConnectionLost("cut"))


async def _watch(seed):
    """Says what hangs, also if nothing can cancel it."""
    await trio.sleep(2 * HANGS)
    print(f"seed {seed} hangs:", file=sys.__stderr__)
    for task in _tasks(trio.lowlevel.current_root_task()):
        print(task, file=sys.__stderr__)
        for frame, line in task.iter_await_frames():
            print(f"    {frame.f_code.co_filename}:{line} {frame.f_code.co_qualname}", file=sys.__stderr__)
    sys.__stderr__.flush()
    os._exit(1)


def _tasks(task):
    yield task
    for nursery in task.child_nurseries:
        for child in nursery.child_tasks:
            yield from _tasks(child)


async def live(seed, world):
    """One seed, from the first connection until nothing is left."""
    rng = world.rng
    tasks = trio.lowlevel.current_statistics().tasks_living
    peers = rng.choice([2, 2, 3])
    many_calls = rng.random() < 0.5
    nodes = [Node(index, world) for index in range(peers)]
    plans = Plans(rng, peers, many_calls=many_calls)
    with trio.move_on_after(HANGS) as hangs:
        async with trio.open_nursery() as servers:
            async with contextlib.AsyncExitStack() as stack:
                ends = await connect_all(stack, servers, rng, nodes, many_calls=many_calls)
                async with trio.open_nursery() as nursery:
                    if rng.random() < 0.15:
                        cut = (rng.choice([0, 0.001, 0.01]), rng.randrange(100))
                        servers.start_soon(_cut_later, world, ends, *cut)
                    for _ in range(rng.choice([1, 2, 4, 8])):
                        node = rng.choice(nodes)
                        nursery.start_soon(node.do, plans.operations([node.index], rng.choice([2, 3, 4])))
                # Those that were cancelled without a grace, and one-way calls, may be running.
                while world.running or any(end._dispatcher._calls for end in ends if not end._lost):
                    await trio.sleep(1)
                for node in nodes:
                    for client in node.clients.values():
                        with world.operation():
                            await client.ping()
                            assert await client.call("Node.run", [], b"still here") == b"still here"
                await settle()
                assert world.running == 0
                for connection in ends:
                    assert world.is_cut or not connection._lost
                    assert_nothing_left(connection)
            servers.cancel_scope.cancel()
        assert_nothing_left(*ends)
    assert not hangs.cancelled_caught, "it hangs"
    assert world.running == 0
    assert open_generators() == []
    assert trio.lowlevel.current_statistics().tasks_living == tasks


def run_seed(seed):
    rng = random.Random(seed)
    world = World(rng)

    async def main():
        trio.lowlevel.spawn_system_task(_watch, seed)
        try:
            await live(seed, world)
        except BaseException as exc:
            exc.add_note(f"seed {seed}")
            raise

    with small_pieces(rng), pytest.MonkeyPatch.context() as patch:
        # The order of tasks in a pass.
        patch.setattr(trio._core._run._r, "random", random.Random(seed).random)
        trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
    return world


@pytest.mark.transports("memory", reason="chooses its own")
@pytest.mark.parametrize("seed", range(int(os.environ.get("TRPC_SEEDS", SEEDS))))
def test_nothing_hangs(seed):
    run_seed(seed)


def _main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=1000, help="how many")
    parser.add_argument("--first", type=int, default=0)
    args = parser.parse_args()
    failed, done, ends = [], 0, {}
    for seed in range(args.first, args.first + args.seeds):
        try:
            world = run_seed(seed)
        except Exception:
            traceback.print_exc()
            print("FAILED: seed", seed, flush=True)
            failed.append(seed)
        else:
            done += world.done
            for name, count in world.ends.items():
                ends[name] = ends.get(name, 0) + count
        if seed % 500 == 499:
            print(f"{seed + 1 - args.first} seeds, {done} operations, {ends}, failed: {failed}", flush=True)
    print(f"{args.seeds} seeds, {done} operations, {ends}, failed: {failed}")
    sys.exit(bool(failed))


if __name__ == "__main__":
    _main()
