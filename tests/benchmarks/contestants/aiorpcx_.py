"""aiorpcX: JSON-RPC 2.0 over TCP, for asyncio.

Its documentation says nothing about speed. Of what it offers: a connection used again and again, its defences against
strangers switched off (``cost_hard_limit``, ``max_size``), as many requests at once as come in
(``initial_concurrent``), ``run_in_thread`` for what blocks. The client begins with 50 requests in flight, and allows
itself more than 100 after some hundred. JSON has no bytes: they travel as base64, which is part of ``echo_*``. There is
no ``cancel``: the server does not hear of a request that the client gives up, and goes on with it.
"""

import asyncio
import base64
import contextlib
from importlib.metadata import version

import _protocol
import aiorpcx


def unlimited_framer():
    return aiorpcx.NewlineFramer(max_size=0)


def add_plain(a, b):
    return a + b


async def add(a, b):
    return a + b


async def add_checkpoint(a, b):
    await asyncio.sleep(0)
    return a + b


async def add_thread(a, b):
    return await aiorpcx.run_in_thread(add_plain, a, b)


async def echo(data):
    return base64.b64encode(base64.b64decode(data)).decode("ascii")


ASYNC_HANDLERS = {"add": add, "add_checkpoint": add_checkpoint, "add_thread": add_thread, "echo": echo}
PLAIN_HANDLERS = {"add_plain": add_plain}


class Servicer(aiorpcx.RPCSession):
    cost_hard_limit = 0
    initial_concurrent = _protocol.IN_FLIGHT

    async def handle_request(self, request):
        if handler := PLAIN_HANDLERS.get(request.method):
            return aiorpcx.handler_invocation(handler, request)()
        return await aiorpcx.handler_invocation(ASYNC_HANDLERS.get(request.method), request)()

    def default_framer(self):
        return unlimited_framer()


async def listen():
    server = await aiorpcx.serve_rs(Servicer, "127.0.0.1", 0)
    _protocol.announce(str(server.sockets[0].getsockname()[1]))
    await server.serve_forever()


async def open_client(stack, port):
    client = await stack.enter_async_context(aiorpcx.connect_rs("127.0.0.1", int(port), framer=unlimited_framer()))
    await client.send_request("add", (1, 2))
    return client


async def run_client(port):
    async with contextlib.AsyncExitStack() as stack, contextlib.AsyncExitStack() as others_stack:
        client, others = await open_client(stack, port), []
        _protocol.ready()
        while (order := await asyncio.to_thread(_protocol.next_order)) is not None:
            await prepare(order, others, others_stack, port)
            with _protocol.Stopwatch() as watch:
                await carry_out(order, client, others)
            _protocol.answer(watch)


async def prepare(order, others, others_stack, port):
    """The connections beside the first, as many as the order says, each of which has made a call."""
    if order["work"] == "idle" or (order["work"] == "busy" and order["connections"] != len(others)):
        await others_stack.aclose()
        others[:] = [await open_client(others_stack, port) for _ in range(order["connections"])]


async def carry_out(order, client, others):
    work, count = order["work"], order.get("count", 0)
    match work:
        case "sequential_plain":
            await share(count, "add_plain", [client])
        case "sequential_async":
            await share(count, "add", [client])
        case "flight_async":
            await share(count, "add", [client] * _protocol.IN_FLIGHT)
        case "flight_checkpoint":
            await share(count, "add_checkpoint", [client] * _protocol.IN_FLIGHT)
        case "flight_thread":
            await share(count, "add_thread", [client] * _protocol.IN_FLIGHT)
        case "busy":
            await share(count, "add", others)
        case size if size in _protocol.ECHO_SIZES:
            data = bytes(_protocol.ECHO_SIZES[size])
            for _ in range(count):
                reply = await client.send_request("echo", [base64.b64encode(data).decode("ascii")])
                assert len(base64.b64decode(reply)) == len(data)


async def share(count, method, clients):
    """Makes ``count`` calls in all: a task for each of ``clients``, which makes one after the other."""
    left = iter(range(count))

    async def make_calls(client):
        for _ in left:
            assert await client.send_request(method, (1, 2)) == 3

    await asyncio.gather(*map(make_calls, clients))


if __name__ == "__main__":
    work = [name for name in _protocol.WORK if name != "cancel"]
    about = {"name": "aiorpcX", "version": version("aiorpcX"), "work": work}
    _protocol.run(about, lambda: asyncio.run(listen()), lambda address: asyncio.run(run_client(address)))
