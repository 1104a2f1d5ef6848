"""pycapnp: Cap'n Proto for asyncio, in C++ beneath.

As its documentation has it: ``AsyncIoStream`` inside ``kj_loop`` (here by ``capnp.run``), one connection used again and
again. Of the ways to write a handler and a call that it has, these are the quickest: ``NAME_context`` and
``NAME_request``. It has async handlers only, so ``sequential_plain`` has one too.
"""

import asyncio
import pathlib
import tempfile

import _protocol
import capnp

SCHEMA = """
@0xd4a2b0c6e8f01357;

interface Bench {
  add @0 (a :Int64, b :Int64) -> (sum :Int64);
  addCheckpoint @1 (a :Int64, b :Int64) -> (sum :Int64);
  addThread @2 (a :Int64, b :Int64) -> (sum :Int64);
  echo @3 (data :Data) -> (data :Data);
  wait @4 ();
}
"""


def load_interface():
    with tempfile.TemporaryDirectory() as directory:
        file = pathlib.Path(directory, "bench.capnp")
        file.write_text(SCHEMA)
        return capnp.load(str(file)).Bench


Bench = load_interface()


class Servicer(Bench.Server):
    async def add_context(self, context):
        params = context.params
        context.results.sum = params.a + params.b

    async def addCheckpoint_context(self, context):
        params = context.params
        await asyncio.sleep(0)
        context.results.sum = params.a + params.b

    async def addThread_context(self, context):
        params = context.params
        a, b = params.a, params.b
        context.results.sum = await asyncio.to_thread(lambda: a + b)

    async def echo_context(self, context):
        context.results.data = context.params.data

    async def wait_context(self, context):
        await asyncio.Event().wait()


async def serve_connection(stream):
    await capnp.TwoPartyServer(stream, bootstrap=Servicer()).on_disconnect()


async def listen():
    server = await capnp.AsyncIoStream.create_server(serve_connection, "127.0.0.1", 0)
    _protocol.announce(str(server.sockets[0].getsockname()[1]))
    await server.serve_forever()


class Connection:
    @classmethod
    async def open(cls, port):
        self = cls()
        self.stream = await capnp.AsyncIoStream.create_connection("127.0.0.1", int(port))
        self.bench = capnp.TwoPartyClient(self.stream).bootstrap().cast_as(Bench)
        await self.bench.add_request(a=1, b=2).send()
        return self


async def run_client(port):
    bench, others = (await Connection.open(port)).bench, []
    _protocol.ready()
    while (order := await asyncio.to_thread(_protocol.next_order)) is not None:
        await prepare(order, others, port)
        with _protocol.Stopwatch() as watch:
            await carry_out(order, bench, others)
        _protocol.answer(watch)


async def prepare(order, others, port):
    """The connections beside the first, as many as the order says, each of which has made a call."""
    if order["work"] == "idle" or (order["work"] == "busy" and order["connections"] != len(others)):
        while others:
            others.pop().stream.close()
        for _ in range(order["connections"]):
            others.append(await Connection.open(port))


async def carry_out(order, bench, others):
    work, count = order["work"], order.get("count", 0)
    match work:
        case "sequential_plain" | "sequential_async":
            await share(count, [bench.add_request])
        case "flight_async":
            await share(count, [bench.add_request] * _protocol.IN_FLIGHT)
        case "flight_checkpoint":
            await share(count, [bench.addCheckpoint_request] * _protocol.IN_FLIGHT)
        case "flight_thread":
            await share(count, [bench.addThread_request] * _protocol.IN_FLIGHT)
        case "busy":
            await share(count, [other.bench.add_request for other in others])
        case "cancel":
            for _ in range(count):
                await cancel_one(bench)
        case echo if echo in _protocol.ECHO_SIZES:
            data = bytes(_protocol.ECHO_SIZES[echo])
            for _ in range(count):
                assert len((await bench.echo_request(data=data).send()).data) == len(data)


async def share(count, methods):
    """Makes ``count`` calls in all: a task for each of ``methods``, which makes one after the other."""
    left = iter(range(count))

    async def make_calls(method):
        for _ in left:
            assert (await method(a=1, b=2).send()).sum == 3

    await asyncio.gather(*map(make_calls, methods))


async def cancel_one(bench):
    call = asyncio.ensure_future(bench.wait_request().send())
    await asyncio.sleep(0)  # the request is sent
    call.cancel()
    try:
        await call
    except asyncio.CancelledError:
        assert call.cancelled()


if __name__ == "__main__":
    about = {"name": "pycapnp", "version": capnp.__version__, "work": list(_protocol.WORK)}
    _protocol.run(
        about, lambda: asyncio.run(capnp.run(listen())), lambda address: asyncio.run(capnp.run(run_client(address)))
    )
