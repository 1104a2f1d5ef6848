"""gRPC's own asyncio API: ``grpc.aio`` of grpcio, with protobuf messages.

Of gRPC's performance guide: asyncio rather than the synchronous stack, unary calls rather than streams (in Python), one
channel and its stubs used again and again. Plain handlers run on the server's ``migration_thread_pool``: they are what
``flight_thread`` asks for, and ``sequential_plain`` has the async handler, which is quicker.

A unary call that is cancelled at once never leaves the client, and nothing says when it has left. So ``cancel`` is a
call that streams its answer: its initial metadata says that the handler sleeps.
"""

import asyncio
import contextlib
from concurrent.futures import ThreadPoolExecutor

import _protocol
import grpc
from _grpc_client import DOWN, ITEM, UNARY, UP, Blob, Number, Pair, Sum, run_client

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

    async def large(self, request, context):
        return Blob(data=bytes(request.n))

    async def wait(self, request, context):
        await context.send_initial_metadata(())
        await asyncio.Event().wait()
        yield Sum()

    async def count(self, request, context):
        for n in range(request.n):
            yield Number(n=n)

    async def chunks(self, request, context):
        for _ in range(request.n):
            yield Blob(data=ITEM)

    async def total(self, requests, context):
        return Sum(sum=sum([request.n async for request in requests]))

    async def length(self, requests, context):
        return Sum(sum=sum([len(request.data) async for request in requests]))


def handlers(make, methods):
    servicer = Servicer()
    return {
        name: make(getattr(servicer, name), request.FromString, reply.SerializeToString)
        for name, (request, reply) in methods.items()
    }


async def listen():
    server = grpc.aio.server(migration_thread_pool=ThreadPoolExecutor(), options=NO_LIMIT)
    methods = {
        **handlers(grpc.unary_unary_rpc_method_handler, UNARY),
        **handlers(grpc.unary_stream_rpc_method_handler, DOWN),
        **handlers(grpc.stream_unary_rpc_method_handler, UP),
    }
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("bench.Bench", methods)])
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    _protocol.announce(f"127.0.0.1:{port}")
    await server.wait_for_termination()


class Stub:
    def __init__(self, address):
        self.channel = grpc.aio.insecure_channel(address, options=[*NO_LIMIT, OWN_CONNECTION])
        for make, methods in (
            (self.channel.unary_unary, UNARY),
            (self.channel.unary_stream, DOWN),
            (self.channel.stream_unary, UP),
        ):
            for name, (request, reply) in methods.items():
                setattr(self, name, make(f"/bench.Bench/{name}", request.SerializeToString, reply.FromString))

    @contextlib.asynccontextmanager
    async def receive(self, name, request):
        call = getattr(self, name)(request)
        try:
            yield call
        finally:
            call.cancel()

    async def send(self, name, messages):
        return await getattr(self, name)(messages)

    async def cancel_one(self):
        call = self.wait(Pair())
        await call.initial_metadata()
        call.cancel()
        try:
            await call.read()
        except asyncio.CancelledError:
            assert call.cancelled()

    async def close(self):
        await self.channel.close()


if __name__ == "__main__":
    work = [*_protocol.WORK, *_protocol.STREAMS, "latency"]
    about = {"name": "gRPC (asyncio)", "version": grpc.__version__, "work": work}
    _protocol.run(about, lambda: asyncio.run(listen()), lambda address: asyncio.run(run_client(Stub, address)))
