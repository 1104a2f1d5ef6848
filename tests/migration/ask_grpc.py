"""The cells of docs/comparison.md on gRPC, asked of gRPC itself (``grpc.aio``). Run by ``test_comparison.py``."""

from __future__ import annotations

import asyncio
import contextlib

import grpc
import pytest
import trio

ITEM = bytes(2**16)
NUMBER_OF_ITEMS = 1000


@contextlib.asynccontextmanager
async def serving(**handlers):
    """A channel to a server with these handlers: bytes to bytes, so that no code has to be generated."""
    server = grpc.aio.server()
    table = {
        name: grpc.unary_unary_rpc_method_handler(handler)
        if asyncio.iscoroutinefunction(handler)
        else grpc.unary_stream_rpc_method_handler(handler)
        for name, handler in handlers.items()
    }
    server.add_registered_method_handlers("Service", table)
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("Service", table)])
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield channel
    finally:
        await server.stop(None)


def call(channel, name, **options):
    return channel.unary_unary(f"/Service/{name}")(b"", **options)


class Handler:
    """One that waits until it is cancelled, and then until it may end."""

    def __init__(self):
        self.begun = asyncio.Event()
        self.cancelled = asyncio.Event()
        self.may_end = asyncio.Event()
        self.ended = asyncio.Event()

    async def __call__(self, request, context):
        self.begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            await self.may_end.wait()
            self.ended.set()
            raise

    async def method(self, request, context):
        return await self(request, context)


def test_cancel_reaches_the_handler_and_the_caller_does_not_wait_for_its_end():
    async def main():
        handler = Handler()
        async with serving(wait=handler.method) as channel:
            waiting = call(channel, "wait")
            await handler.begun.wait()
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            assert not handler.ended.is_set()
            await handler.cancelled.wait()
            handler.may_end.set()
            await handler.ended.wait()

    asyncio.run(asyncio.wait_for(main(), 30))


def test_a_deadline_reaches_the_handler_and_the_caller_does_not_wait_for_its_end():
    async def main():
        handler = Handler()
        async with serving(wait=handler.method) as channel:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call(channel, "wait", timeout=0.2)
            assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            assert not handler.ended.is_set()
            await handler.cancelled.wait()
            handler.may_end.set()
            await handler.ended.wait()

    asyncio.run(asyncio.wait_for(main(), 30))


def test_tasks_that_a_handler_has_created_go_on():
    async def main():
        handler, tasks = Handler(), []

        async def method_that_leaves_one(request, context):
            tasks.append(asyncio.create_task(handler(request, context)))
            await asyncio.Event().wait()

        async with serving(wait=method_that_leaves_one) as channel:
            waiting = call(channel, "wait")
            await handler.begun.wait()
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
        # Even the server has ended, and the task has not been cancelled.
        assert not handler.cancelled.is_set()
        tasks[0].cancel()
        await handler.cancelled.wait()
        handler.may_end.set()
        await asyncio.wait(tasks)

    asyncio.run(asyncio.wait_for(main(), 30))


def test_tasks_in_a_task_group_are_cancelled():
    async def main():
        handler = Handler()

        async def method(request, context):
            async with asyncio.TaskGroup() as group:
                group.create_task(handler(request, context))

        async with serving(wait=method) as channel:
            waiting = call(channel, "wait")
            await handler.begun.wait()
            handler.may_end.set()
            waiting.cancel()
            await handler.ended.wait()

    asyncio.run(asyncio.wait_for(main(), 30))


def test_a_deadline_is_not_passed_on_to_nested_calls_but_a_cancel_is():
    async def main():
        handler, remaining = Handler(), {}

        async def inner(request, context):
            remaining["inner"] = context.time_remaining()
            await handler(request, context)

        async def outer(request, context):
            remaining["outer"] = context.time_remaining()
            return await call(channel, "inner")

        async with serving(outer=outer, inner=inner) as channel:
            waiting = call(channel, "outer", timeout=60)
            await handler.begun.wait()
            assert 0 < remaining["outer"] < 61
            assert remaining["inner"] is None
            handler.may_end.set()
            waiting.cancel()
            await handler.ended.wait()

    asyncio.run(asyncio.wait_for(main(), 30))


@pytest.mark.parametrize("error", [KeyError("k"), ExceptionGroup("several", [KeyError("k"), ValueError("v")])])
def test_exceptions_arrive_as_a_status(error):
    async def fail(request, context):
        raise error

    async def main():
        async with serving(fail=fail) as channel:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call(channel, "fail")
        assert caught.value.code() is grpc.StatusCode.UNKNOWN
        assert type(error).__name__ in caught.value.details()
        assert not isinstance(caught.value, type(error))

    asyncio.run(asyncio.wait_for(main(), 30))


def test_a_stream_waits_for_its_consumer():
    async def main():
        produced = 0

        async def items(request, context):
            nonlocal produced
            for _ in range(NUMBER_OF_ITEMS):
                produced += 1
                yield ITEM

        async def nothing(request, context):
            return b""

        async with serving(items=items, nothing=nothing) as channel:
            stream = aiter(channel.unary_stream("/Service/items")(b""))
            assert await anext(stream) == ITEM
            # Meanwhile it could have sent them all.
            for _ in range(200):
                await call(channel, "nothing")
            assert produced < NUMBER_OF_ITEMS / 2
            assert len([item async for item in stream]) == NUMBER_OF_ITEMS - 1

    asyncio.run(asyncio.wait_for(main(), 30))


@contextlib.asynccontextmanager
async def relay(port):
    """Stands between client and server; gives its port, and a function that breaks all connections."""
    writers, tasks = [], set()

    async def pump(reader, writer):
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(2**16):
                writer.write(data)

    async def connected(reader, writer):
        there, back = await asyncio.open_connection("127.0.0.1", port)
        writers.extend([writer, back])
        tasks.update([asyncio.create_task(pump(reader, back)), asyncio.create_task(pump(there, writer))])

    def cut():
        for writer in writers:
            writer.transport.abort()

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1], cut
    finally:
        cut()
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def test_the_handler_is_cancelled_when_the_connection_is_lost():
    async def main():
        handler = Handler()
        server = grpc.aio.server()
        server.add_registered_method_handlers("Service", {"wait": grpc.unary_unary_rpc_method_handler(handler.method)})
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        async with relay(port) as (way, cut), grpc.aio.insecure_channel(f"127.0.0.1:{way}") as channel:
            waiting = asyncio.ensure_future(call(channel, "wait"))
            await handler.begun.wait()
            cut()
            await handler.cancelled.wait()
            handler.may_end.set()
            await handler.ended.wait()
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await waiting
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        await server.stop(None)

    asyncio.run(asyncio.wait_for(main(), 30))


def test_it_connects_again():
    async def main():
        async def nothing(request, context):
            return b""

        async def serve(port):
            server = grpc.aio.server(options=[("grpc.so_reuseport", 1)])
            table = {"nothing": grpc.unary_unary_rpc_method_handler(nothing)}
            server.add_registered_method_handlers("Service", table)
            port = server.add_insecure_port(f"127.0.0.1:{port}")
            await server.start()
            return server, port

        server, port = await serve(0)
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            await call(channel, "nothing")
            await server.stop(None)
            server, _ = await serve(port)
            await call(channel, "nothing", wait_for_ready=True)
            await server.stop(None)

    asyncio.run(asyncio.wait_for(main(), 30))


def test_a_soft_stop_finishes_calls():
    async def main():
        handler = Handler()

        async def wait(request, context):
            handler.begun.set()
            await handler.may_end.wait()
            return b"done"

        server = grpc.aio.server()
        server.add_registered_method_handlers("Service", {"wait": grpc.unary_unary_rpc_method_handler(wait)})
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            waiting = asyncio.ensure_future(call(channel, "wait"))
            await handler.begun.wait()
            stopping = asyncio.ensure_future(server.stop(20))
            await asyncio.sleep(0)
            handler.may_end.set()
            assert await waiting == b"done"
            await stopping

    asyncio.run(asyncio.wait_for(main(), 30))


def test_it_needs_asyncio():
    async def main():
        async with grpc.aio.insecure_channel("127.0.0.1:1") as channel:
            await call(channel, "nothing")

    with pytest.raises(RuntimeError, match="event loop"):
        trio.run(main)
