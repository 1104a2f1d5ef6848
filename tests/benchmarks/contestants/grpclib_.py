"""grpclib: gRPC for asyncio in Python alone, over h2, with protobuf messages.

Its documentation says nothing about speed. Of what it offers: one channel and its methods used again and again, and a
window for each stream (``Configuration``) with which it is quick in all workloads. With a smaller one large messages
wait for acknowledgements; larger ones were no quicker, and what is in them is what small calls wait for beside streams.
The connection's window, by default, has room for sixteen of them: a stream that is not read stops no other. It has
async handlers only, so ``sequential_plain`` has one too. In ``cancel`` the initial metadata says that the handler sleeps.
"""

import asyncio
import contextlib
import socket
from importlib.metadata import version

import _protocol
from _grpc_client import DOWN, ITEM, UNARY, UP, Blob, Number, Pair, Sum, run_client
from grpclib.client import Channel, StreamUnaryMethod, UnaryStreamMethod, UnaryUnaryMethod
from grpclib.config import Configuration
from grpclib.const import Cardinality, Handler
from grpclib.server import Server

KINDS = (
    (UNARY, UnaryUnaryMethod, Cardinality.UNARY_UNARY),
    (DOWN, UnaryStreamMethod, Cardinality.UNARY_STREAM),
    (UP, StreamUnaryMethod, Cardinality.STREAM_UNARY),
)
CONFIG = Configuration(http2_stream_window_size=2**18)


class Servicer:
    async def add(self, stream):
        request = await stream.recv_message()
        await stream.send_message(Sum(sum=request.a + request.b))

    async def add_checkpoint(self, stream):
        request = await stream.recv_message()
        await asyncio.sleep(0)
        await stream.send_message(Sum(sum=request.a + request.b))

    async def add_thread(self, stream):
        request = await stream.recv_message()
        await stream.send_message(Sum(sum=await asyncio.to_thread(lambda: request.a + request.b)))

    async def echo(self, stream):
        await stream.send_message(await stream.recv_message())

    async def large(self, stream):
        request = await stream.recv_message()
        await stream.send_message(Blob(data=bytes(request.n)))

    async def wait(self, stream):
        await stream.recv_message()
        await stream.send_initial_metadata()
        await asyncio.Event().wait()

    async def count(self, stream):
        request = await stream.recv_message()
        for n in range(request.n):
            await stream.send_message(Number(n=n))

    async def chunks(self, stream):
        request = await stream.recv_message()
        for _ in range(request.n):
            await stream.send_message(Blob(data=ITEM))

    async def total(self, stream):
        await stream.send_message(Sum(sum=sum([request.n async for request in stream])))

    async def length(self, stream):
        await stream.send_message(Sum(sum=sum([len(request.data) async for request in stream])))

    def __mapping__(self):
        return {
            f"/bench.Bench/{name}": Handler(getattr(self, name), cardinality, request, reply)
            for methods, _, cardinality in KINDS
            for name, (request, reply) in methods.items()
        }


async def listen():
    server = Server([Servicer()], config=CONFIG)
    # asyncio sets TCP_NODELAY if it sees that it is TCP.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.bind(("127.0.0.1", 0))
    await server.start(sock=listener)
    _protocol.announce(str(listener.getsockname()[1]))
    await server.wait_closed()


class Stub:
    def __init__(self, port):
        self.channel = Channel("127.0.0.1", int(port), config=CONFIG)
        for methods, method_type, _ in KINDS:
            for name, (request, reply) in methods.items():
                setattr(self, name, method_type(self.channel, f"/bench.Bench/{name}", request, reply))

    @contextlib.asynccontextmanager
    async def receive(self, name, request):
        async with getattr(self, name).open() as stream:
            await stream.send_message(request, end=True)
            yield stream

    async def send(self, name, messages):
        async with getattr(self, name).open() as stream:
            for message in messages:
                await stream.send_message(message)
            await stream.end()
            return await stream.recv_message()

    async def cancel_one(self):
        async with self.wait.open() as stream:
            await stream.send_message(Pair(), end=True)
            await stream.recv_initial_metadata()
            await stream.cancel()

    async def close(self):
        self.channel.close()


if __name__ == "__main__":
    work = [*_protocol.WORK, *_protocol.STREAMS, "latency"]
    about = {"name": "grpclib", "version": version("grpclib"), "work": work}
    _protocol.run(about, lambda: asyncio.run(listen()), lambda port: asyncio.run(run_client(Stub, port)))
