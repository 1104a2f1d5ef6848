"""A plain Trio stream, as its tutorial uses one: ``send_all`` and ``receive_some``, and no RPC."""

import contextlib
from functools import partial

import _protocol
import trio
from _messages import REPLY, REQUEST, frame, missing
from _trio_client import Connections, orders, share


def serve():
    trio.run(listen)


async def listen():
    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, answer, 0, host="127.0.0.1"))
        _protocol.announce(str(listeners[0].socket.getsockname()[1]))


async def answer(stream):
    while received := await receive(stream):
        await stream.send_all(REPLY if len(received) == len(REQUEST) else received)


async def receive(stream):
    """One frame, header and all; nothing at the end of the stream."""
    received = await stream.receive_some()
    if not received or not missing(received):
        return received
    received = bytearray(received)
    while missing(received):
        data = await stream.receive_some()
        if not data:
            return b""
        received += data
    return received


async def ask(stream, request, reply_length):
    await stream.send_all(request)
    reply = await receive(stream)
    assert len(reply) == reply_length


@contextlib.asynccontextmanager
async def open_caller(port):
    async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
        yield partial(ask, stream, REQUEST, len(REPLY))


async def run_client(port):
    async with trio.open_nursery() as nursery, await trio.open_tcp_stream("127.0.0.1", port) as stream:
        connections = Connections(nursery, partial(open_caller, port))
        _protocol.ready()
        async for order in orders():
            match order:
                case {"work": "idle", "connections": number}:
                    await connections.open(number)
                case {"work": "busy", "connections": number} if number != len(connections.callers):
                    await connections.open(number)
            with _protocol.Stopwatch() as watch:
                await carry_out(order, stream, connections)
            _protocol.answer(watch)
        await connections.close()


async def carry_out(order, stream, connections):
    count = order["count"]
    match order["work"]:
        case "sequential_plain" | "sequential_async":
            for _ in range(count):
                await ask(stream, REQUEST, len(REPLY))
        case "busy":
            await share(count, connections.callers)
        case echo if echo in _protocol.ECHO_SIZES:
            request = frame(_protocol.ECHO_SIZES[echo])
            for _ in range(count):
                await ask(stream, request, len(request))


def call(address):
    trio.run(run_client, int(address))


if __name__ == "__main__":
    work = ["sequential_plain", "sequential_async", *_protocol.ECHO_SIZES, "idle", "busy"]
    _protocol.run({"name": "Trio stream, no RPC", "version": trio.__version__, "work": work}, serve, call)
