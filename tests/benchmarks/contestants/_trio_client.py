"""What the clients that run on Trio have in common: orders, calls in flight, and many connections."""

import _protocol
import trio

OPENING_AT_ONCE = 50
"""So many connections are opened at the same time; more would overflow the server's queue of new ones."""


async def orders():
    """The orders, one after the other. They are read in a thread, so that the program goes on while it waits."""
    while (order := await trio.to_thread.run_sync(_protocol.next_order)) is not None:
        yield order


async def share(count, callers):
    """Makes ``count`` calls in all: a task for each of ``callers``, which makes one after the other."""
    left = iter(range(count))

    async def make_calls(call):
        for _ in left:
            await call()

    async with trio.open_nursery() as nursery:
        for call in callers:
            nursery.start_soon(make_calls, call)


class Connections:
    """Connections that stay open between orders, each in a task of its own.

    Args:
        nursery: where the tasks run.
        open_caller: makes an async context manager that connects, and gives an async function that makes one call.
    """

    def __init__(self, nursery, open_caller):
        self._nursery = nursery
        self._open_caller = open_caller
        self._closing = self._closed = None
        self.callers = []

    async def open(self, count):
        """Closes those that are open, and opens ``count``. One call is made on each."""
        await self.close()
        self._closing, self._closed = trio.Event(), trio.Event()
        limiter = trio.CapacityLimiter(OPENING_AT_ONCE)
        await self._nursery.start(self._hold_all, count, limiter)

    async def close(self):
        if self._closing is not None:
            self._closing.set()
            await self._closed.wait()
        self.callers = []

    async def _hold_all(self, count, limiter, task_status):
        async with trio.open_nursery() as nursery:
            async with trio.open_nursery() as opening:
                for _ in range(count):
                    opening.start_soon(nursery.start, self._hold, limiter)
            task_status.started()
        self._closed.set()

    async def _hold(self, limiter, task_status):
        await limiter.acquire()
        try:
            manager = self._open_caller()
            call = await manager.__aenter__()
            await call()
        finally:
            limiter.release()
        self.callers.append(call)
        task_status.started()
        await self._closing.wait()
        await manager.__aexit__(None, None, None)
