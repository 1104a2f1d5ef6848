"""gRPC's own asyncio API: ``grpc.aio`` of grpcio, with protobuf messages.

Of gRPC's performance guide: asyncio rather than the synchronous stack, unary calls rather than streams (in Python), one
channel and its stubs used again and again. Plain handlers run on the server's ``migration_thread_pool``: they are what
``flight_thread`` asks for, and ``sequential_plain`` has the async handler, which is quicker.

A unary call that is cancelled at once never leaves the client, and nothing says when it has left. So ``cancel`` is a
call that streams its answer: its initial metadata says that the handler sleeps.
"""

import asyncio
from concurrent.futures import ThreadPoolExecutor

import _protocol
import grpc
from google.protobuf.descriptor_pb2 import FieldDescriptorProto
from google.protobuf.proto_builder import MakeSimpleProtoClass

INT64, BYTES = FieldDescriptorProto.TYPE_INT64, FieldDescriptorProto.TYPE_BYTES
Pair = MakeSimpleProtoClass({"a": INT64, "b": INT64}, "bench.Pair")
Sum = MakeSimpleProtoClass({"sum": INT64}, "bench.Sum")
Blob = MakeSimpleProtoClass({"data": BYTES}, "bench.Blob")

UNARY = {"add": (Pair, Sum), "add_checkpoint": (Pair, Sum), "add_thread": (Pair, Sum), "echo": (Blob, Blob)}
NO_LIMIT = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
# Channels with the same address share a connection unless they have pools of their own.
OWN_CONNECTION = ("grpc.use_local_subchannel_pool", 1)


class Servicer:
    async def add(self, request, context):
        return Sum(sum=request.a + request.b)

    async def add_checkpoint(self, request, context):
        await asyncio.sleep(0)
        return Sum(sum=request.a + request.b)

    def add_thread(self, request, context):
        return Sum(sum=request.a + request.b)

    async def echo(self, request, context):
        return request

    async def wait(self, request, context):
        await context.send_initial_metadata(())
        await asyncio.Event().wait()
        yield Sum()


async def listen():
    server = grpc.aio.server(migration_thread_pool=ThreadPoolExecutor(), options=NO_LIMIT)
    servicer = Servicer()
    handlers = {
        name: grpc.unary_unary_rpc_method_handler(getattr(servicer, name), request.FromString, reply.SerializeToString)
        for name, (request, reply) in UNARY.items()
    }
    handlers["wait"] = grpc.unary_stream_rpc_method_handler(servicer.wait, Pair.FromString, Sum.SerializeToString)
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("bench.Bench", handlers)])
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    _protocol.announce(f"127.0.0.1:{port}")
    await server.wait_for_termination()


class Stub:
    def __init__(self, address):
        self.channel = grpc.aio.insecure_channel(address, options=[*NO_LIMIT, OWN_CONNECTION])
        for name, (request, reply) in UNARY.items():
            method = self.channel.unary_unary(f"/bench.Bench/{name}", request.SerializeToString, reply.FromString)
            setattr(self, name, method)
        self.wait = self.channel.unary_stream("/bench.Bench/wait", Pair.SerializeToString, Sum.FromString)


async def run_client(address):
    stub, others = Stub(address), []
    await stub.add(Pair(a=1, b=2))
    _protocol.ready()
    while (order := await asyncio.to_thread(_protocol.next_order)) is not None:
        await prepare(order, others, address)
        with _protocol.Stopwatch() as watch:
            await carry_out(order, stub, others)
        _protocol.answer(watch)


async def prepare(order, others, address):
    """The connections beside the first, as many as the order says, each of which has made a call."""
    if order["work"] == "idle" or (order["work"] == "busy" and order["connections"] != len(others)):
        while others:
            await others.pop().channel.close()
        for _ in range(order["connections"]):
            others.append(Stub(address))
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
    call = stub.wait(Pair())
    await call.initial_metadata()
    call.cancel()
    try:
        await call.read()
    except asyncio.CancelledError:
        assert call.cancelled()


if __name__ == "__main__":
    about = {"name": "gRPC (asyncio)", "version": grpc.__version__, "work": list(_protocol.WORK)}
    _protocol.run(about, lambda: asyncio.run(listen()), lambda address: asyncio.run(run_client(address)))
