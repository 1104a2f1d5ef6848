"""Something happens at each step of a session with streams both ways: whatever it is, nothing hangs and nothing is left.

What happens: either side is cancelled, the connection is cut, a producer raises, or a consumer leaves. The sessions are
short, and have all kinds of streams and calls back together. After every single step of any task one of these
happens, in turns; ``TRPC_EVERY_STEP=1`` has each of them happen after each.
"""

from __future__ import annotations

import contextlib
import gc
import itertools
import signal
import socket
from collections.abc import AsyncIterable, AsyncIterator

import pytest
import trio
import trio.testing
from injection import EVERY, AtStep, in_order
from support import assert_nothing_left, connection_of, open_generators, settle

import trpc


class Injected(Exception):
    """What a producer raises when its time has come."""


trpc.exception(name="semantics.Injected")(Injected)


class Session:
    """What both sides of one run have in common.

    Attributes:
        open: generators and handlers that have begun and not ended.
        raises: whether each producer raises at its next item.
        leaves: whether each consumer leaves at its next item.
    """

    def __init__(self):
        self.open = 0
        self.raises = False
        self.leaves = False

    @contextlib.asynccontextmanager
    async def running(self):
        self.open += 1
        try:
            yield
        finally:
            # A clean-up takes its time.
            with trio.CancelScope(shield=True):
                await trio.lowlevel.checkpoint()
            self.open -= 1

    async def numbers(self, count, pause=None):
        async with self.running():
            for number in range(count):
                if self.raises:
                    raise Injected
                yield number
                if pause is not None:
                    await trio.sleep(pause)

    async def take(self, items, most=1000):
        """What it gets from a stream; each has to be the next one."""
        taken = 0
        async for item in items:
            assert item == taken
            taken += 1
            if self.leaves or taken >= most:
                break
        return taken


class Service:
    def __init__(self, session):
        self.session = session

    @trpc.method
    async def numbers(self, count: int, pause: float | None = None) -> AsyncIterator[int]:
        async with contextlib.aclosing(self.session.numbers(count, pause)) as items:
            async for item in items:
                yield item

    @trpc.method
    async def blobs(self, count: int) -> AsyncIterator[bytes]:
        async with self.session.running():
            for _ in range(count):
                if self.session.raises:
                    raise Injected
                yield b"x" * 3000

    @trpc.method
    async def total(self, numbers: AsyncIterable[int], most: int = 1000) -> int:
        async with self.session.running():
            return await self.session.take(numbers, most)

    @trpc.method
    async def zip(self, first: AsyncIterable[int], *, second: AsyncIterable[int]) -> AsyncIterator[tuple[int, int]]:
        async with self.session.running():
            async for number in first:
                if self.session.raises:
                    raise Injected
                yield number, await second.receive()

    @trpc.method
    async def back(self, count: int) -> int:
        """Calls back with a stream, and for one."""
        async with self.session.running():
            client = trpc.current_call().client
            own = client.proxy("Own")
            async with own.numbers(count) as items:
                taken = await self.session.take(items)
            return taken + await client.call("Own.total", self.session.numbers(count))

    @trpc.method
    async def lengths(self, blobs: AsyncIterable[bytes]) -> int:
        async with self.session.running():
            total = 0
            async for blob in blobs:
                total += len(blob)
                if self.session.leaves:
                    break
            return total

    @trpc.method
    async def echo(self, value: object) -> object:
        return value


@trpc.service(name="Own")
class Own(Service):
    """What the client serves."""


# --- sessions ---


async def from_the_server(session, client):
    service = client.proxy(Service)
    async with service.numbers(3) as items:
        taken = await session.take(items)
    assert taken == 3 or session.leaves
    async with service.numbers(1000, 0.01) as items:
        assert await items.receive() == 0
        assert await service.echo(5) == 5
    # More than there is credit for, so that the producer waits for the consumer.
    async with service.numbers(300) as items:
        await session.take(items, 200)


async def from_the_client(session, client):
    service = client.proxy(Service)
    taken = await service.total(session.numbers(3))
    assert taken == 3 or session.leaves
    taken = await service.total(session.numbers(1000, 0.01), 2)
    assert taken == 2 or session.leaves
    await service.total(session.numbers(300), 250)


async def both_ways(session, client):
    service = client.proxy(Service)
    async with service.zip(session.numbers(40, 0.001), second=session.numbers(1000)) as items:
        expected = 0
        async for pair in items:
            assert pair == (expected, expected)
            expected += 1
            if session.leaves or expected == 5:
                break
        await items.aclose()


async def called_back(session, client):
    taken = await client.proxy(Service).back(4)
    assert taken == 8 or session.leaves


async def large_messages(session, client):
    """Each leaves in many fragments."""
    service = client.proxy(Service)

    async def blobs():
        async with session.running():
            for _ in range(3):
                if session.raises:
                    raise Injected
                yield b"y" * 3000

    async def read():
        async with service.blobs(3) as items:
            async for blob in items:
                assert blob == b"x" * 3000
                if session.leaves:
                    break

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read)
        nursery.start_soon(service.lengths, blobs())
        assert await service.echo(b"z" * 5000) == b"z" * 5000
        assert await service.echo(7) == 7


async def stalled(session, client):
    """Nobody reads, in either direction, until a deadline."""
    service = client.proxy(Service)
    with trio.move_on_after(0.1):
        async with service.numbers(1000):
            await service.total(session.numbers(1000, 0.03))


async def beside_each_other(session, client):
    async def read(count):
        async with client.stream("Service.numbers", count, 0.01) as items:
            await session.take(items)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read, 3)
        nursery.start_soon(read, 100)
        nursery.start_soon(client.call, "Service.total", session.numbers(100, 0.01))
        await trio.sleep(0.05)
        await client.ping()
        nursery.cancel_scope.cancel()


SESSIONS = [
    from_the_server,
    from_the_client,
    both_ways,
    called_back,
    large_messages,
    stalled,
    beside_each_other,
]


# --- what happens ---


def cut(stream):
    """Ends the connection from below, as a fault does."""
    if isinstance(stream, trio.SocketStream):
        stream.socket._sock.shutdown(socket.SHUT_RDWR)
    else:
        stream.send_stream.close()
        stream.receive_stream.close()


EVENTS = ["cancel client", "cancel server", "cut at client", "cut at server", "raise", "leave"]


def run_session(play, event, step, *, grace, seed=0):
    """One session in which something happens; says whether it ended before."""
    instrument = AtStep(step)
    limits = trpc.Limits(stream_credit=400)

    async def main():
        tasks = trio.lowlevel.current_statistics().tasks_living
        session = Session()
        client_scope, server_scope = trio.CancelScope(), trio.CancelScope()
        ours, theirs = trio.testing.memory_stream_pair()
        events = {
            "cancel client": client_scope.cancel,
            "cancel server": server_scope.cancel,
            "cut at client": lambda: cut(ours),
            "cut at server": lambda: cut(theirs),
            "raise": lambda: setattr(session, "raises", True),
            "leave": lambda: setattr(session, "leaves", True),
        }
        allowed = {
            "cancel server": (trpc.ConnectionLost,),
            "cut at client": (trpc.ConnectionLost,),
            "cut at server": (trpc.ConnectionLost,),
            "raise": (Injected,),
        }
        connections = []

        async def serve(task_status):
            with server_scope:
                await trpc.serve_stream(Service(session), theirs, limits=limits, task_status=task_status)

        with trio.fail_after(1000):
            async with trio.open_nursery() as nursery:
                server = await nursery.start(serve)
                connections += server._connections
                instrument.do = events[event]
                try:
                    with client_scope:
                        async with trpc.connect_stream(
                            ours, service=Own(session), limits=limits, cancel_grace=grace
                        ) as client:
                            connections.append(connection_of(client))
                            await play(session, client)
                except* allowed.get(event, ()) as group:
                    # Else it has not come from what happened.
                    assert instrument.steps_left <= 0, group
                instrument.do = None
                assert_nothing_left(connections[-1])
                server_scope.cancel()
        await settle()
        assert_nothing_left(*connections)
        assert session.open == 0
        assert open_generators() == []
        assert server.connections == ()
        assert trio.lowlevel.current_statistics().tasks_living == tasks

    with in_order(seed):
        trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0), instruments=[instrument])
    return instrument.steps_left > 0


CASES = list(itertools.product(EVENTS, [0, 1]))


@pytest.mark.parametrize("play", SESSIONS, ids=lambda play: play.__name__)
def test_at_every_step(transport, play):
    over = 0
    # Sockets see the same steps, so that fewer of them do.
    stride = 1 if EVERY or transport == "memory" else 3
    for turn in itertools.count():
        step = 1 + stride * turn
        cases = CASES if EVERY else [CASES[turn % len(CASES)]]
        ended = [run_session(play, event, step, grace=grace) for event, grace in cases]
        over = over + 1 if all(ended) else 0
        # It takes some steps more or less, depending on the case.
        if over == len(CASES):
            break
    assert step > 50, "the session is longer than that"
    gc.collect()


# --- Ctrl-C ---


def run_interrupted(play, step, *, grace):
    """One session that is interrupted; says whether it ended before."""
    instrument = AtStep(step)
    limits = trpc.Limits(stream_credit=400)
    session, connections, pressed = Session(), [], []

    def press():
        pressed.append(True)
        signal.raise_signal(signal.SIGINT)

    async def main():
        ours, theirs = trio.testing.memory_stream_pair()

        async def serve(task_status):
            await trpc.serve_stream(Service(session), theirs, limits=limits, task_status=task_status)

        async with trio.open_nursery() as nursery:
            server = await nursery.start(serve)
            connections.extend(server._connections)
            instrument.do = press
            async with trpc.connect_stream(ours, service=Own(session), limits=limits, cancel_grace=grace) as client:
                connections.append(connection_of(client))
                await play(session, client)
            instrument.do = None
            nursery.cancel_scope.cancel()

    interrupted = False
    with in_order(0):
        try:
            trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0), instruments=[instrument])
        except BaseException as exc:
            _, rest = BaseExceptionGroup("", [exc]).split(KeyboardInterrupt)
            if rest is not None:
                raise
            interrupted = True
    assert interrupted == bool(pressed)
    assert_nothing_left(*connections)
    assert session.open == 0
    return not pressed


@pytest.mark.parametrize("play", SESSIONS, ids=lambda play: play.__name__)
def test_an_interrupt_at_many_steps(play):
    for turn in itertools.count():
        if run_interrupted(play, 1 + turn * (1 if EVERY else 7), grace=turn % 2):
            break
    assert turn > 5
    gc.collect()
