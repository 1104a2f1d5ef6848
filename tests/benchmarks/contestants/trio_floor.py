"""The Trio floor: the least that a round trip costs two Trio programs. One task a side, and no stream between."""

import socket

import _protocol
import trio
from _messages import REPLY, REQUEST
from _trio_client import orders


def serve():
    trio.run(listen)


async def listen():
    with trio.socket.socket() as listener:
        await listener.bind(("127.0.0.1", 0))
        listener.listen()
        _protocol.announce(str(listener.getsockname()[1]))
        async with trio.open_nursery() as nursery:
            while True:
                peer, _ = await listener.accept()
                nursery.start_soon(answer, non_blocking(peer))


def non_blocking(trio_socket):
    """The same connection as a socket of the standard library's."""
    sock = socket.socket(fileno=trio_socket.detach())
    sock.setblocking(False)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


async def answer(sock):
    with sock:
        while True:
            await trio.lowlevel.wait_readable(sock)
            if not sock.recv(65536):
                return
            sock.send(REPLY)


async def run_client(port):
    trio_socket = trio.socket.socket()
    await trio_socket.connect(("127.0.0.1", port))
    with non_blocking(trio_socket) as sock:
        _protocol.ready()
        async for order in orders():
            with _protocol.Stopwatch() as watch:
                for _ in range(order["count"]):
                    sock.send(REQUEST)
                    await trio.lowlevel.wait_readable(sock)
                    assert len(sock.recv(65536)) == len(REPLY)
            _protocol.answer(watch)


def call(address):
    trio.run(run_client, int(address))


if __name__ == "__main__":
    about = {
        "name": "Trio floor, no RPC",
        "version": trio.__version__,
        "work": ["sequential_plain", "sequential_async"],
    }
    _protocol.run(about, serve, call)
