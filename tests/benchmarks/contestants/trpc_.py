"""trpc itself, as a user would write it, over its public names only."""

import contextlib
from collections.abc import AsyncIterable, AsyncIterator
from functools import partial

import _protocol
import trio
from _trio_client import Connections, orders, share

import trpc

LIMITS = trpc.Limits(max_message_size=2 * _protocol.REPLY_SIZE)
ITEM = bytes(_protocol.ITEM_SIZE)


class Bench:
    """The service, and the type of the client's proxy."""

    @trpc.method
    def add_plain(self, a: int, b: int) -> int:
        return a + b

    @trpc.method
    async def add(self, a: int, b: int) -> int:
        return a + b

    @trpc.method
    async def add_checkpoint(self, a: int, b: int) -> int:
        await trio.lowlevel.checkpoint()
        return a + b

    @trpc.method(in_thread=True)
    def add_thread(self, a: int, b: int) -> int:
        return a + b

    @trpc.method
    async def echo(self, data: bytes) -> bytes:
        return data

    @trpc.method
    async def large(self, size: int) -> bytes:
        return bytes(size)

    @trpc.method
    async def wait(self) -> None:
        await trio.sleep_forever()

    @trpc.method
    async def count(self, n: int) -> AsyncIterator[int]:
        for i in range(n):
            yield i

    @trpc.method
    async def chunks(self, n: int) -> AsyncIterator[bytes]:
        for _ in range(n):
            yield ITEM

    @trpc.method
    async def total(self, numbers: AsyncIterable[int]) -> int:
        return sum([n async for n in numbers])

    @trpc.method
    async def length(self, chunks: AsyncIterable[bytes]) -> int:
        return sum([len(chunk) async for chunk in chunks])


def serve():
    trio.run(listen)


async def listen():
    async with trio.open_nursery() as nursery:
        server = await nursery.start(partial(trpc.serve_tcp, Bench(), 0, limits=LIMITS))
        _protocol.announce(server.url)


@contextlib.asynccontextmanager
async def open_caller(url):
    async with trpc.connect(url, limits=LIMITS) as client:
        yield partial(client.proxy(Bench).add, 1, 2)


async def run_client(url):
    async with trio.open_nursery() as nursery, trpc.connect(url, limits=LIMITS) as client:
        connections = Connections(nursery, partial(open_caller, url))
        bench = client.proxy(Bench)
        await bench.add(1, 2)
        _protocol.ready()
        async for order in orders():
            await prepare(order, connections)
            watch = _protocol.Stopwatch()
            async with load(order.get("load"), bench, watch):
                with watch:
                    await carry_out(order, client, bench, connections, watch)
            _protocol.answer(watch)
        await connections.close()


async def prepare(order, connections):
    """What an order needs and does not measure."""
    match order:
        case {"work": "idle", "connections": number}:
            await connections.open(number)
        case {"work": "busy", "connections": number} if number != len(connections.callers):
            await connections.open(number)


async def carry_out(order, client, bench, connections, watch):
    count = order["count"]
    match order["work"]:
        case "sequential_plain":
            for _ in range(count):
                await bench.add_plain(1, 2)
        case "sequential_async":
            for _ in range(count):
                await bench.add(1, 2)
        case "flight_async":
            await share(count, [partial(bench.add, 1, 2)] * _protocol.IN_FLIGHT)
        case "flight_checkpoint":
            await share(count, [partial(bench.add_checkpoint, 1, 2)] * _protocol.IN_FLIGHT)
        case "flight_thread":
            await share(count, [partial(bench.add_thread, 1, 2)] * _protocol.IN_FLIGHT)
        case "cancel":
            await cancel(count, client, bench)
        case "busy":
            await share(count, connections.callers)
        case "stream_down":
            await read(bench.count(count), watch)
            assert watch.moved == count
        case "stream_down_64k":
            await read(bench.chunks(count), watch)
            assert watch.moved == count
        case "stream_up":
            assert await bench.total(items(count, 1)) == count
        case "stream_up_64k":
            assert await bench.length(items(count, ITEM)) == count * len(ITEM)
        case "latency":
            for _ in watch.laps(count):
                await bench.add(1, 2)
        case echo if echo in _protocol.ECHO_SIZES:
            data = bytes(_protocol.ECHO_SIZES[echo])
            for _ in range(count):
                assert len(await bench.echo(data)) == len(data)


async def cancel(count, client, bench):
    async with trio.open_nursery() as nursery:
        for _ in range(count):
            with trio.CancelScope() as scope:
                nursery.start_soon(cancel_when_it_sleeps, client, scope)
                await bench.wait()


async def cancel_when_it_sleeps(client, scope):
    # It runs when the caller waits already, and messages are handled in their order: the handler has started when
    # the server answers. A cancel that comes before that costs less.
    await client.ping()
    scope.cancel()


async def read(stream, watch):
    """Counts the items of a stream."""
    async with stream as received:
        async for _ in received:
            watch.moved += 1


async def items(count, item):
    for _ in range(count):
        yield item


@contextlib.asynccontextmanager
async def load(name, bench, watch):
    """What runs beside the calls of ``latency``."""
    async with trio.open_nursery() as nursery:
        for task in load_tasks(name, bench, watch):
            nursery.start_soon(task)
        if nursery.child_tasks:
            await trio.sleep(_protocol.SETTLE)
        yield
        nursery.cancel_scope.cancel()


def load_tasks(name, bench, watch):
    endless = _protocol.WITHOUT_END
    match name:
        case "streams_small":
            return [partial(read, bench.count(endless), watch) for _ in range(_protocol.STREAMS_AT_ONCE)]
        case "streams_64k":
            return [partial(read, bench.chunks(endless), watch) for _ in range(_protocol.STREAMS_AT_ONCE)]
        case "reply_64m":
            return [partial(fetch, bench, watch)]
        case "unread":
            return [partial(leave_unread, bench.chunks(endless))]
    return []


async def fetch(bench, watch):
    while True:
        await bench.large(_protocol.REPLY_SIZE)
        watch.moved += 1


async def leave_unread(stream):
    async with stream:
        await trio.sleep_forever()


def call(url):
    trio.run(run_client, url)


def run(name):
    about = {"name": name, "version": trpc.__version__, "work": [*_protocol.WORK, *_protocol.STREAMS, "latency"]}
    _protocol.run(about, serve, call)


if __name__ == "__main__":
    run("trpc")
