"""100,000 calls over 100 connections with random cancels and deadlines; afterwards everything is as before."""

from __future__ import annotations

import collections
import gc
import os
import random

import pytest
import trio
from busy_service import Busy
from support import connection_of

import trpc
from trpc import _dispatcher
from trpc._socket_transport import SocketTransport

CONNECTIONS = 100
CALLS = 1000  # on each connection
PAYLOAD = bytes(range(256)) * 400


class Tally:
    """Makes random calls, and counts each way out of them once."""

    def __init__(self):
        self.outcomes = collections.Counter()
        self.ended = 0

    async def call(self, client, number, rng):
        proxy = client.proxy(Busy)
        kind = rng.random()
        with trio.CancelScope() as scope:
            try:
                if kind < 0.15:
                    assert await proxy.at_once(number) == number
                elif kind < 0.3:
                    assert await proxy.plain(number) == number
                elif kind < 0.5:
                    assert await proxy.work(number % 4, number) == number
                elif kind < 0.502:
                    assert await proxy.in_thread(number) == number
                elif kind < 0.507:
                    assert await proxy.echo(PAYLOAD) == PAYLOAD
                elif kind < 0.6:
                    assert await proxy.maybe_fail(number) == number
                elif kind < 0.75:
                    scope.deadline = trio.current_time() + kind / 100
                    await proxy.wait()
                elif kind < 0.85:
                    scope.deadline = trio.current_time() + (kind - 0.75) / 20
                    assert await proxy.work(20, number) == number
                elif kind < 0.95:
                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(_cancel_soon, scope, number % 5)
                        if number % 20:
                            assert await proxy.work(number % 7, number) == number
                        else:
                            assert await proxy.echo(PAYLOAD) == PAYLOAD
                else:
                    with trio.fail_after(kind / 500):
                        await proxy.maybe_fail(number)
                outcome = "value"
            except ValueError:
                outcome = "error"
            except trio.TooSlowError:
                outcome = "too slow"
            finally:
                self.ended += 1
        self.outcomes["cancelled" if scope.cancelled_caught else outcome] += 1


async def _cancel_soon(scope, passes):
    for _ in range(passes):
        await trio.lowlevel.checkpoint()
    scope.cancel()


def assert_nothing_in_flight(client):
    assert type(connection_of(client)._transport) is SocketTransport
    assert not client._caller._in_flight
    assert not client._caller._acknowledgements._waiting
    assert client._caller._slots.taken == 0
    assert not connection_of(client)._protocol._open_outgoing
    assert connection_of(client)._outbox.unsent == 0


@pytest.fixture
def resumed(monkeypatch):
    """How many handlers were begun by a reader or worker, and went on in it when they had waited."""

    def resume(*args):
        count[0] += 1
        return original(*args)

    count, original = [0], _dispatcher.resume
    monkeypatch.setattr(_dispatcher, "resume", resume)
    return count


async def until_over(server):
    assert server.calls == ()
    with trio.fail_after(10):
        while server.connections:
            await trio.lowlevel.checkpoint()


@pytest.mark.timeout(300)
async def test_every_call_ends_exactly_once_and_nothing_is_left(resumed):
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    service, tally = Busy(), Tally()
    files_before = len(os.listdir("/proc/self/fd"))
    tasks_before = trio.lowlevel.current_statistics().tasks_living

    async def one_connection(url, rng):
        async with trpc.connect(url) as client:
            for batch in range(CALLS // 25):
                async with trio.open_nursery() as nursery:
                    for number in range(25):
                        nursery.start_soon(tally.call, client, batch * 25 + number, rng)
            assert_nothing_in_flight(client)

    async with trio.open_nursery() as nursery:
        server = await nursery.start(trpc.serve_tcp, service, 0)
        async with trio.open_nursery() as clients:
            for _ in range(CONNECTIONS):
                clients.start_soon(one_connection, server.url, random.Random(rng.random()))
        await until_over(server)
        nursery.cancel_scope.cancel()

    print(dict(tally.outcomes), resumed)
    assert tally.ended == tally.outcomes.total() == CONNECTIONS * CALLS
    assert min(tally.outcomes[kind] for kind in ("value", "error", "cancelled", "too slow")) > 100
    assert resumed[0] > 0.3 * CONNECTIONS * CALLS
    assert service.running == service.children == 0
    assert trio.lowlevel.current_statistics().tasks_living == tasks_before
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) == files_before


async def test_a_hundred_callers_of_one_connection():
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    service, tally = Busy(), Tally()
    tasks_before = trio.lowlevel.current_statistics().tasks_living

    async def caller(client, rng):
        for _ in range(200):
            await tally.call(client, rng.randrange(10_000), rng)

    async with trio.open_nursery() as nursery:
        server = await nursery.start(trpc.serve_tcp, service, 0)
        async with trpc.connect(server.url) as client:
            async with trio.open_nursery() as callers:
                for _ in range(100):
                    callers.start_soon(caller, client, random.Random(rng.random()))
            assert_nothing_in_flight(client)
            assert server.calls == ()
        await until_over(server)
        nursery.cancel_scope.cancel()

    print(dict(tally.outcomes))
    assert tally.ended == tally.outcomes.total() == 20_000
    assert service.running == service.children == 0
    assert trio.lowlevel.current_statistics().tasks_living == tasks_before
