"""The cells of docs/comparison.md on trpc, in the same order as for the others. More on each is in tests/semantics."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio

import trpc

ITEM = bytes(2**16)
NUMBER_OF_ITEMS = 1000


class Peer:
    @trpc.method
    async def add(self, a: int, b: int) -> int:
        return a + b


class Work:
    def __init__(self, nursery=None):
        self.nursery = nursery
        self.begun = trio.Event()
        self.ended = []
        self.produced = 0
        self.remaining = None

    @trpc.method
    async def wait(self) -> None:
        """Waits in a task of its own, and takes some time to end."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.wait_in_a_task)
            self.begun.set()

    async def wait_in_a_task(self):
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                for _ in range(20):
                    await trio.lowlevel.checkpoint()
            self.ended.append("task")

    @trpc.method
    async def wait_beside_a_task(self) -> None:
        """Waits, and has begun a task in a nursery that it has not opened."""
        self.nursery.start_soon(self.wait_in_a_task)
        self.begun.set()
        await trio.sleep_forever()

    @trpc.method
    async def inner(self) -> None:
        self.remaining = trio.current_effective_deadline() - trio.current_time()

    @trpc.method
    async def nested(self, url: str) -> None:
        async with trpc.connect(url) as client:
            await client.proxy(Work).inner()

    @trpc.method
    async def fail(self) -> None:
        raise ExceptionGroup("several", [KeyError("k"), ValueError("v")])

    @trpc.method
    async def items(self) -> AsyncIterator[bytes]:
        for _ in range(NUMBER_OF_ITEMS):
            self.produced += 1
            yield ITEM

    @trpc.method
    async def first(self, numbers: AsyncIterable[bytes]) -> int:
        async for item in numbers:
            return len(item)
        return 0

    @trpc.method
    async def call_back(self) -> int:
        return await trpc.current_call().client.proxy(Peer).add(1, 2)


@asynccontextmanager
async def serving(work):
    async with trio.open_nursery() as nursery:
        server = await nursery.start(trpc.serve_tcp, work, 0)
        with trio.fail_after(30):
            async with trpc.connect(server.url, service=Peer()) as client:
                yield client.proxy(Work), server
        nursery.cancel_scope.cancel()


async def test_cancel_reaches_the_handler_and_its_tasks_and_the_caller_waits_for_their_end():
    work = Work()
    async with serving(work) as (proxy, server):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(proxy.wait)
            await work.begun.wait()
            nursery.cancel_scope.cancel()
        assert work.ended == ["task"]
        assert server.calls == ()


async def test_a_task_in_a_nursery_of_the_service_goes_on():
    async with trio.open_nursery() as nursery:
        work = Work(nursery)
        async with serving(work) as (proxy, server):
            async with trio.open_nursery() as calls:
                calls.start_soon(proxy.wait_beside_a_task)
                await work.begun.wait()
                calls.cancel_scope.cancel()
            assert server.calls == ()
        # Even the server has ended, and the task has not been cancelled.
        assert work.ended == []
        nursery.cancel_scope.cancel()
    assert work.ended == ["task"]


async def test_a_deadline_reaches_the_handler_and_the_caller_waits_for_its_end():
    work = Work()
    async with serving(work) as (proxy, server):
        with pytest.raises(trio.TooSlowError), trio.fail_after(0.2):
            await proxy.wait()
        assert work.ended == ["task"]
        assert server.calls == ()


async def test_a_deadline_is_passed_on_to_nested_calls():
    work = Work()
    async with serving(work) as (proxy, server):
        with trio.fail_after(20):
            await proxy.nested(server.url)
        assert 0 < work.remaining <= 20


async def test_groups_arrive():
    async with serving(Work()) as (proxy, _):
        with pytest.raises(ExceptionGroup) as caught:
            await proxy.fail()
    one, other = caught.value.exceptions
    assert isinstance(one, KeyError)
    assert isinstance(other, ValueError)


async def test_a_stream_waits_for_its_consumer():
    work = Work()
    async with serving(work) as (proxy, _), proxy.items() as items:
        await items.receive()
        for _ in range(200):
            await proxy.inner()
        assert work.produced < NUMBER_OF_ITEMS / 2
        assert len([item async for item in items]) == NUMBER_OF_ITEMS - 1


async def test_an_argument_waits_for_its_consumer():
    produced = 0

    async def items():
        nonlocal produced
        for _ in range(NUMBER_OF_ITEMS):
            produced += 1
            yield ITEM

    async with serving(Work()) as (proxy, _):
        assert await proxy.first(items()) == len(ITEM)
    assert produced < NUMBER_OF_ITEMS / 2


async def test_calls_back():
    async with serving(Work()) as (proxy, _):
        assert await proxy.call_back() == 3


async def test_the_handler_is_cancelled_when_the_connection_is_lost():
    work = Work()

    async def wait(client):
        with pytest.raises(trpc.ConnectionLost):
            await client.proxy(Work).wait()

    async with trio.open_nursery() as nursery:
        server = await nursery.start(trpc.serve_tcp, work, 0)
        stream = await trio.open_tcp_stream("127.0.0.1", int(server.url.rpartition(":")[2]))
        with trio.fail_after(30):
            async with trpc.connect_stream(stream) as client, trio.open_nursery() as calls:
                calls.start_soon(wait, client)
                await work.begun.wait()
                stream.socket.shutdown(trio.socket.SHUT_RDWR)
            while not work.ended:
                await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()


async def test_it_does_not_connect_again():
    async with trio.open_nursery() as nursery:
        server = await nursery.start(trpc.serve_tcp, Work(), 0)
        stream = await trio.open_tcp_stream("127.0.0.1", int(server.url.rpartition(":")[2]))
        async with trpc.connect_stream(stream) as client:
            await client.proxy(Work).inner()
            stream.socket.shutdown(trio.socket.SHUT_RDWR)
            for _ in range(2):
                with pytest.raises(trpc.ConnectionLost):
                    await client.proxy(Work).inner()
        nursery.cancel_scope.cancel()
