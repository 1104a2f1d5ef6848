"""A plain Trio stream, as its tutorial uses one: ``send_all`` and ``receive_some``, and no RPC.

Its streams are a ``send_all`` for each item, without a header, and the receiver only counts the bytes: nothing that
delivers items can do less. Small items have as many bytes as a small reply.
"""

import contextlib
import struct
from functools import partial

import _protocol
import trio
from _messages import HEADER, REPLY, REQUEST, frame, missing
from _trio_client import Connections, orders, share

RECEIVE_SIZE = 2**16

STREAM = struct.Struct(">I?IQ")
"""A frame that begins a stream: its length, whether the client sends, bytes of an item, number of items."""

ITEM_SIZES = {
    "stream_down": len(REPLY),
    "stream_up": len(REPLY),
    "stream_down_64k": _protocol.ITEM_SIZE,
    "stream_up_64k": _protocol.ITEM_SIZE,
}


def serve():
    trio.run(listen)


async def listen():
    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, answer, 0, host="127.0.0.1"))
        _protocol.announce(str(listeners[0].socket.getsockname()[1]))


async def answer(stream):
    while received := await receive(stream):
        if len(received) == len(REQUEST):
            await stream.send_all(REPLY)
        elif len(received) == STREAM.size:
            await answer_stream(stream, *STREAM.unpack(received)[1:])
        else:
            await stream.send_all(received)


async def answer_stream(stream, upwards, size, count):
    await stream.send_all(REPLY)
    if upwards:
        await receive_exactly(stream, size * count)
        await stream.send_all(REPLY)
    else:
        await send_items(stream, size, count)


async def send_items(stream, size, count):
    item = bytes(size)
    for _ in range(count):
        await stream.send_all(item)


async def receive_exactly(stream, left):
    while left:
        data = await stream.receive_some(min(left, RECEIVE_SIZE))
        assert data
        left -= len(data)


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


async def open_stream(stream, upwards, size, count):
    await stream.send_all(STREAM.pack(STREAM.size - HEADER.size, upwards, size, count))
    await receive_exactly(stream, len(REPLY))


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
        case "stream_down" | "stream_down_64k" as work:
            await open_stream(stream, False, ITEM_SIZES[work], count)
            await receive_exactly(stream, ITEM_SIZES[work] * count)
        case "stream_up" | "stream_up_64k" as work:
            await open_stream(stream, True, ITEM_SIZES[work], count)
            await send_items(stream, ITEM_SIZES[work], count)
            await receive_exactly(stream, len(REPLY))
        case echo if echo in _protocol.ECHO_SIZES:
            request = frame(_protocol.ECHO_SIZES[echo])
            for _ in range(count):
                await ask(stream, request, len(request))


def call(address):
    trio.run(run_client, int(address))


if __name__ == "__main__":
    work = ["sequential_plain", "sequential_async", *_protocol.ECHO_SIZES, "idle", "busy", *_protocol.STREAMS]
    _protocol.run({"name": "Trio stream, no RPC", "version": trio.__version__, "work": work}, serve, call)
