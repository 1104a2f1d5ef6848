"""docs/migration/trpc/threads.py, by which an old server's threads call the new service."""

from __future__ import annotations

import importlib.util
import threading
from collections.abc import AsyncIterator

import pytest
import trio

import trpc

from .processes import PROGRAMS


@pytest.fixture
def threads(nursery):
    spec = importlib.util.spec_from_file_location("threads", PROGRAMS / "trpc" / "threads.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.Threads(nursery)


class Numbers:
    def __init__(self):
        self.ended = trio.Event()

    @trpc.method
    async def count(self, stop: int) -> AsyncIterator[int]:
        """Counts, and then fails, or waits for ever if it is to stop at 0."""
        try:
            with trio.CancelScope():  # wants one task from its beginning to its end
                for number in range(stop):
                    yield number
                if not stop:
                    yield 0
                    await trio.sleep_forever()
                raise KeyError(stop)
        finally:
            self.ended.set()

    @trpc.method
    async def wait(self) -> str:
        await trio.sleep_forever()
        return "never"


@pytest.fixture
def in_thread():
    """Runs a function in a thread that Trio knows nothing of, and gives what it returns or raises."""

    async def run(function):
        done, token, results = trio.Event(), trio.lowlevel.current_trio_token(), []

        def target():
            try:
                results.append(function())
            except Exception as exc:
                results.append(exc)
            token.run_sync_soon(done.set)

        thread = threading.Thread(target=target)
        thread.start()
        with trio.fail_after(30):
            await done.wait()
        thread.join()
        return results[0]

    return run


async def test_items_and_the_error_behind_them(threads, in_thread):
    numbers, got = Numbers(), []

    def consume():
        items = threads.items(numbers.count(2))
        got.extend([next(items), next(items)])
        next(items)

    assert isinstance(await in_thread(consume), KeyError)
    assert got == [0, 1]
    assert numbers.ended.is_set()


async def test_a_stream_that_is_left_early_ends(threads, in_thread):
    numbers = Numbers()
    assert await in_thread(lambda: next(threads.items(numbers.count(0)))) == 0
    with trio.fail_after(30):
        await numbers.ended.wait()


async def test_a_stream_that_is_cancelled_is_no_stream_that_has_ended(threads, in_thread):
    numbers, scope = Numbers(), trio.CancelScope()

    def consume():
        items = threads.items(numbers.count(0), scope)
        next(items)
        threads.cancel(scope)
        return next(items, "ended")

    assert isinstance(await in_thread(consume), (trio.EndOfChannel, trio.ClosedResourceError))
    assert numbers.ended.is_set()


async def test_a_call_whose_scope_is_cancelled_before_it_begins(threads, in_thread):
    """As with gRPC, where the call may have ended before it is known whom to tell."""
    scope = trio.CancelScope()

    def call():
        threads.cancel(scope)
        return threads.call(Numbers().wait, scope=scope)

    assert await in_thread(call) is None
