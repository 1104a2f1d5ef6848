"""trpc itself, as a user would write it, over its public names only."""

import contextlib
from functools import partial

import _protocol
import trio
from _trio_client import Connections, orders, share

import trpc

LIMITS = trpc.Limits(max_message_size=2 * _protocol.ECHO_SIZES["echo_16m"])


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
    async def wait(self) -> None:
        await trio.sleep_forever()


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
            with _protocol.Stopwatch() as watch:
                await carry_out(order, client, bench, connections)
            _protocol.answer(watch)
        await connections.close()


async def prepare(order, connections):
    """What an order needs and does not measure."""
    match order:
        case {"work": "idle", "connections": number}:
            await connections.open(number)
        case {"work": "busy", "connections": number} if number != len(connections.callers):
            await connections.open(number)


async def carry_out(order, client, bench, connections):
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


def call(url):
    trio.run(run_client, url)


def run(name):
    about = {"name": name, "version": trpc.__version__, "work": list(_protocol.WORK)}
    _protocol.run(about, serve, call)


if __name__ == "__main__":
    run("trpc")
