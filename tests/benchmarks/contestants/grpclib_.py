"""grpclib: gRPC for asyncio in Python alone, over h2, with protobuf messages.

Its documentation says nothing about speed. Of what it offers: one channel and its methods used again and again, and
windows (``Configuration``) that a large message fits into, so that it does not wait for flow control. It has async
handlers only, so ``sequential_plain`` has one too. In ``cancel`` the initial metadata says that the handler sleeps.
"""

import asyncio
import socket
from importlib.metadata import version

import _protocol
from google.protobuf.descriptor_pb2 import FieldDescriptorProto
from google.protobuf.proto_builder import MakeSimpleProtoClass
from grpclib.client import Channel, UnaryUnaryMethod
from grpclib.config import Configuration
from grpclib.const import Cardinality, Handler
from grpclib.server import Server

INT64, BYTES = FieldDescriptorProto.TYPE_INT64, FieldDescriptorProto.TYPE_BYTES
Pair = MakeSimpleProtoClass({"a": INT64, "b": INT64}, "bench.Pair")
Sum = MakeSimpleProtoClass({"sum": INT64}, "bench.Sum")
Blob = MakeSimpleProtoClass({"data": BYTES}, "bench.Blob")

METHODS = {
    "add": (Pair, Sum),
    "add_checkpoint": (Pair, Sum),
    "add_thread": (Pair, Sum),
    "echo": (Blob, Blob),
    "wait": (Pair, Sum),
}
WINDOW = 2 * _protocol.ECHO_SIZES["echo_16m"]
CONFIG = Configuration(http2_connection_window_size=WINDOW, http2_stream_window_size=WINDOW)


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

    async def wait(self, stream):
        await stream.recv_message()
        await stream.send_initial_metadata()
        await asyncio.Event().wait()

    def __mapping__(self):
        return {
            f"/bench.Bench/{name}": Handler(getattr(self, name), Cardinality.UNARY_UNARY, request, reply)
            for name, (request, reply) in METHODS.items()
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
        for name, (request, reply) in METHODS.items():
            setattr(self, name, UnaryUnaryMethod(self.channel, f"/bench.Bench/{name}", request, reply))


async def run_client(port):
    stub, others = Stub(port), []
    await stub.add(Pair(a=1, b=2))
    _protocol.ready()
    while (order := await asyncio.to_thread(_protocol.next_order)) is not None:
        await prepare(order, others, port)
        with _protocol.Stopwatch() as watch:
            await carry_out(order, stub, others)
        _protocol.answer(watch)
    for each in [stub, *others]:
        each.channel.close()


async def prepare(order, others, port):
    """The connections beside the first, as many as the order says, each of which has made a call."""
    if order["work"] == "idle" or (order["work"] == "busy" and order["connections"] != len(others)):
        while others:
            others.pop().channel.close()
        for _ in range(order["connections"]):
            others.append(Stub(port))
            await others[-1].add(Pair(a=1, b=2))


async def carry_out(order, stub, others):
    work, count = order["work"], order.get("count", 0)
    match work:
        case "sequential_plain" | "sequential_async":
            await share(count, [stub.add])
        case "flight_async":
            await share(count, [stub.add] * _protocol.IN_FLIGHT)
        case "flight_checkpoint":
            await share(count, [stub.add_checkpoint] * _protocol.IN_FLIGHT)
        case "flight_thread":
            await share(count, [stub.add_thread] * _protocol.IN_FLIGHT)
        case "busy":
            await share(count, [other.add for other in others])
        case "cancel":
            for _ in range(count):
                await cancel_one(stub)
        case echo if echo in _protocol.ECHO_SIZES:
            data = bytes(_protocol.ECHO_SIZES[echo])
            for _ in range(count):
                assert len((await stub.echo(Blob(data=data))).data) == len(data)


async def share(count, methods):
    """Makes ``count`` calls in all: a task for each of ``methods``, which makes one after the other."""
    left = iter(range(count))

    async def make_calls(method):
        for _ in left:
            assert (await method(Pair(a=1, b=2))).sum == 3

    await asyncio.gather(*map(make_calls, methods))


async def cancel_one(stub):
    async with stub.wait.open() as stream:
        await stream.send_message(Pair(), end=True)
        await stream.recv_initial_metadata()
        await stream.cancel()


if __name__ == "__main__":
    about = {"name": "grpclib", "version": version("grpclib"), "work": list(_protocol.WORK)}
    _protocol.run(about, lambda: asyncio.run(listen()), lambda port: asyncio.run(run_client(port)))
