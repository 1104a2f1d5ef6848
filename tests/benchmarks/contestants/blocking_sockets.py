"""Blocking sockets of the standard library: the least that these bytes cost in Python. No RPC, no event loop."""

import platform
import socket
import threading

import _protocol
from _messages import REPLY, REQUEST, frame, missing

BUFFER_SIZE = max(_protocol.ECHO_SIZES.values())


def serve():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        _protocol.announce(str(listener.getsockname()[1]))
        while True:
            sock, _ = listener.accept()
            threading.Thread(target=answer, args=(sock,), daemon=True).start()


def answer(sock):
    with sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        buffer = memoryview(bytearray(BUFFER_SIZE))
        while length := receive(sock, buffer):
            sock.sendall(REPLY if length == len(REQUEST) else buffer[:length])


def receive(sock, buffer):
    """Reads a frame into ``buffer``. Its length, header and all; nothing at the end of the connection."""
    length = 0
    while missing(buffer[:length]):
        received = sock.recv_into(buffer[length:])
        if not received:
            return 0
        length += received
    return length


def call(address):
    with socket.create_connection(("127.0.0.1", int(address))) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        _protocol.ready()
        while (order := _protocol.next_order()) is not None:
            with _protocol.Stopwatch() as watch:
                carry_out(order, sock)
            _protocol.answer(watch)


def carry_out(order, sock):
    size = _protocol.ECHO_SIZES.get(order["work"])
    request = frame(size) if size else REQUEST
    reply_length = size or len(REPLY)
    buffer = memoryview(bytearray(reply_length))
    for _ in range(order["count"]):
        sock.sendall(request)
        assert receive(sock, buffer) == reply_length


if __name__ == "__main__":
    work = ["sequential_plain", "sequential_async", *_protocol.ECHO_SIZES]
    _protocol.run({"name": "blocking sockets, no RPC", "version": platform.python_version(), "work": work}, serve, call)
