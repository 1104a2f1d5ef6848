"""An asyncio ``Protocol``, the quickest that asyncio has: what its event loop costs, without RPC."""

import asyncio
import platform

import _protocol
from _messages import REPLY, REQUEST


class Answerer(asyncio.Protocol):
    """The server's side: every request has its answer at once."""

    def connection_made(self, transport):
        self._transport = transport

    def data_received(self, data):
        self._transport.write(REPLY)


class Caller(asyncio.Protocol):
    """The client's side: a call waits for a future that the reply completes."""

    def connection_made(self, transport):
        self._transport = transport

    def data_received(self, data):
        self._reply.set_result(data)

    def connection_lost(self, exc):
        self._reply.cancel()

    async def call(self):
        self._reply = asyncio.get_running_loop().create_future()
        self._transport.write(REQUEST)
        return await self._reply


def serve():
    asyncio.run(listen())


async def listen():
    server = await asyncio.get_running_loop().create_server(Answerer, "127.0.0.1", 0)
    _protocol.announce(str(server.sockets[0].getsockname()[1]))
    await server.serve_forever()


async def run_client(port):
    _, caller = await asyncio.get_running_loop().create_connection(Caller, "127.0.0.1", port)
    await caller.call()
    _protocol.ready()
    while (order := await asyncio.to_thread(_protocol.next_order)) is not None:
        with _protocol.Stopwatch() as watch:
            for _ in range(order["count"]):
                assert len(await caller.call()) == len(REPLY)
        _protocol.answer(watch)


def call(address):
    asyncio.run(run_client(int(address)))


if __name__ == "__main__":
    work = ["sequential_plain", "sequential_async"]
    _protocol.run({"name": "asyncio protocol, no RPC", "version": platform.python_version(), "work": work}, serve, call)
