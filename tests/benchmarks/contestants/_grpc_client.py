"""What the two contestants that speak gRPC have in common: the messages, the methods, and how orders are carried out.

Each brings a class of stubs, of which one is a connection: ``Stub(address)`` has the unary methods as attributes, and

- ``receive(name, request)``: a call of a method in ``DOWN``, an async context manager that gives an async iterator;
- ``await send(name, messages)``: one of a method in ``UP``, with its reply;
- ``await cancel_one()``: a call that is cancelled when its handler sleeps;
- ``await close()``.
"""

import asyncio
import contextlib

import _protocol
from google.protobuf.descriptor_pb2 import FieldDescriptorProto
from google.protobuf.proto_builder import MakeSimpleProtoClass

INT64, BYTES = FieldDescriptorProto.TYPE_INT64, FieldDescriptorProto.TYPE_BYTES
Pair = MakeSimpleProtoClass({"a": INT64, "b": INT64}, "bench.Pair")
Sum = MakeSimpleProtoClass({"sum": INT64}, "bench.Sum")
Blob = MakeSimpleProtoClass({"data": BYTES}, "bench.Blob")
Number = MakeSimpleProtoClass({"n": INT64}, "bench.Number")

UNARY = {
    "add": (Pair, Sum),
    "add_checkpoint": (Pair, Sum),
    "add_thread": (Pair, Sum),
    "echo": (Blob, Blob),
    "large": (Number, Blob),
}
DOWN = {"count": (Number, Number), "chunks": (Number, Blob), "wait": (Pair, Sum)}
UP = {"total": (Number, Sum), "length": (Blob, Sum)}

ITEM = bytes(_protocol.ITEM_SIZE)


async def run_client(open_stub, address):
    stub, others = open_stub(address), []
    await stub.add(Pair(a=1, b=2))
    _protocol.ready()
    while (order := await asyncio.to_thread(_protocol.next_order)) is not None:
        await prepare(order, others, open_stub, address)
        watch = _protocol.Stopwatch()
        async with load(order.get("load"), stub, watch):
            with watch:
                await carry_out(order, stub, others, watch)
        _protocol.answer(watch)
    for each in [stub, *others]:
        await each.close()


async def prepare(order, others, open_stub, address):
    """The connections beside the first, as many as the order says, each of which has made a call."""
    if order["work"] == "idle" or (order["work"] == "busy" and order["connections"] != len(others)):
        while others:
            await others.pop().close()
        for _ in range(order["connections"]):
            others.append(open_stub(address))
            await others[-1].add(Pair(a=1, b=2))


async def carry_out(order, stub, others, watch):
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
                await stub.cancel_one()
        case "stream_down":
            await read(stub.receive("count", Number(n=count)), watch)
            assert watch.moved == count
        case "stream_down_64k":
            await read(stub.receive("chunks", Number(n=count)), watch)
            assert watch.moved == count
        case "stream_up":
            assert (await stub.send("total", (Number(n=1) for _ in range(count)))).sum == count
        case "stream_up_64k":
            assert (await stub.send("length", (Blob(data=ITEM) for _ in range(count)))).sum == count * len(ITEM)
        case "latency":
            for _ in watch.laps(count):
                await stub.add(Pair(a=1, b=2))
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


async def read(stream, watch):
    """Counts the items of a stream."""
    async with stream as items:
        async for _ in items:
            watch.moved += 1


@contextlib.asynccontextmanager
async def load(name, stub, watch):
    """What runs beside the calls of ``latency``."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(task) for task in load_tasks(name, stub, watch)]
        if tasks:
            await asyncio.sleep(_protocol.SETTLE)
        yield
        for task in tasks:
            task.cancel()


def load_tasks(name, stub, watch):
    endless = Number(n=_protocol.WITHOUT_END)
    match name:
        case "streams_small":
            return [read(stub.receive("count", endless), watch) for _ in range(_protocol.STREAMS_AT_ONCE)]
        case "streams_64k":
            return [read(stub.receive("chunks", endless), watch) for _ in range(_protocol.STREAMS_AT_ONCE)]
        case "reply_64m":
            return [fetch(stub, watch)]
        case "unread":
            return [leave_unread(stub.receive("chunks", endless))]
    return []


async def fetch(stub, watch):
    while True:
        await stub.large(Number(n=_protocol.REPLY_SIZE))
        watch.moved += 1


async def leave_unread(stream):
    async with stream as items:
        await anext(aiter(items))
        await asyncio.Event().wait()
