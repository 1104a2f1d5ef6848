"""100,000 calls over 100 connections with random cancels and deadlines; afterwards everything is as before."""

from __future__ import annotations

import collections
import gc
import os
import random

import pytest
import trio
from busy_service import Busy

import trpc

CONNECTIONS = 100
CALLS = 1000  # on each connection


@pytest.mark.timeout(300)
async def test_every_call_ends_exactly_once_and_nothing_is_left():
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    service = Busy()
    outcomes = collections.Counter()
    files_before = len(os.listdir("/proc/self/fd"))
    tasks_before = trio.lowlevel.current_statistics().tasks_living
    connections = []

    async def one(client, number, kind):
        """One call; each way out of it is counted once."""
        proxy = client.proxy(Busy)
        with trio.CancelScope() as scope:
            try:
                if kind < 0.5:
                    assert await proxy.work(number % 4, number) == number
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
                        nursery.start_soon(cancel_soon, scope, number % 5)
                        assert await proxy.work(number % 7, number) == number
                else:
                    with trio.fail_after(kind / 500):
                        await proxy.maybe_fail(number)
                outcome = "value"
            except ValueError:
                outcome = "error"
            except trio.TooSlowError:
                outcome = "too slow"
            finally:
                ended.append(number)
        outcomes["cancelled" if scope.cancelled_caught else outcome] += 1

    async def cancel_soon(scope, passes):
        for _ in range(passes):
            await trio.lowlevel.checkpoint()
        scope.cancel()

    async def one_connection(url, rng):
        async with trpc.connect(url) as client:
            connections.append(client)
            for batch in range(CALLS // 25):
                async with trio.open_nursery() as nursery:
                    for number in range(25):
                        nursery.start_soon(one, client, batch * 25 + number, rng.random())
            assert not client._caller._in_flight
            assert client._caller._slots.taken == 0
            assert not client._connection._protocol._open_outgoing
            assert client._connection._outbox.unsent == 0

    ended = []
    async with trio.open_nursery() as nursery:
        server = await nursery.start(trpc.serve_tcp, service, 0)
        async with trio.open_nursery() as clients:
            for _ in range(CONNECTIONS):
                clients.start_soon(one_connection, server.url, random.Random(rng.random()))
        assert server.calls == ()
        with trio.fail_after(10):
            while server.connections:
                await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()

    print(dict(outcomes))
    assert len(ended) == CONNECTIONS * CALLS
    assert outcomes.total() == CONNECTIONS * CALLS
    assert min(outcomes[kind] for kind in ("value", "error", "cancelled", "too slow")) > 100
    assert service.running == service.children == 0
    assert trio.lowlevel.current_statistics().tasks_living == tasks_before
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) == files_before
