"""RPyC: a service behind ``ThreadedServer``, which has a thread for each connection.

As its documentation has it: the netref of a remote function is kept (to look it up is a call of its own), and
``async_`` makes requests that are in flight at once, here 100. For large data, no compression and larger chunks, as in
its own tests of that (``test_service_pickle.py``); and TCP_NODELAY. The server answers the requests of a connection one
after the other, so there is no ``flight_thread``, and no call can be cancelled.
"""

import collections
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import _protocol
import rpyc
from rpyc.core.channel import Channel
from rpyc.utils.server import ThreadedServer

Channel.COMPRESSION_THRESHOLD = 2 * _protocol.ECHO_SIZES["echo_16m"]
rpyc.SocketStream.MAX_IO_CHUNK = 2**20

# The callers in `busy`.
THREADS = ThreadPoolExecutor(max_workers=2000)


class Servicer(rpyc.Service):
    def exposed_add(self, a, b):
        return a + b

    def exposed_echo(self, data):
        return data


def serve():
    server = ThreadedServer(Servicer(), hostname="127.0.0.1")
    server.listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # what it accepts has it too
    threading.Thread(target=server.start, daemon=True).start()
    while not server.active:
        time.sleep(0.001)
    _protocol.announce(str(server.port))
    threading.Event().wait()


class Connection:
    def __init__(self, port):
        self.connection = rpyc.connect_stream(rpyc.SocketStream.connect("127.0.0.1", int(port), nodelay=True))
        self.add = self.connection.root.add
        self.echo = self.connection.root.echo
        self.add_async = rpyc.async_(self.add)
        self.add(1, 2)


def call(port):
    client, others = Connection(port), []
    _protocol.ready()
    while (order := _protocol.next_order()) is not None:
        prepare(order, others, port)
        with _protocol.Stopwatch() as watch:
            carry_out(order, client, others)
        _protocol.answer(watch)


def prepare(order, others, port):
    """The connections beside the first, as many as the order says, each of which has made a call."""
    if order["work"] == "idle" or (order["work"] == "busy" and order["connections"] != len(others)):
        while others:
            others.pop().connection.close()
        for _ in range(order["connections"]):
            others.append(Connection(port))


def carry_out(order, client, others):
    work, count = order["work"], order.get("count", 0)
    match work:
        case "sequential_plain":
            make_calls(client, iter(range(count)))
        case "flight_async":
            fly(client, count)
        case "busy":
            share(count, others)
        case size if size in _protocol.ECHO_SIZES:
            data = bytes(_protocol.ECHO_SIZES[size])
            for _ in range(count):
                assert len(client.echo(data)) == len(data)


def make_calls(client, left):
    for _ in left:
        assert client.add(1, 2) == 3


def fly(client, count):
    """Makes ``count`` calls. The replies come in order, so the next call is due when the eldest has its reply."""
    pending = collections.deque()
    for _ in range(count):
        if len(pending) == _protocol.IN_FLIGHT:
            assert pending.popleft().value == 3
        pending.append(client.add_async(1, 2))
    for result in pending:
        assert result.value == 3


def share(count, clients):
    """Makes ``count`` calls in all: a thread for each of ``clients``, which makes one after the other."""
    left = iter(range(count))
    list(THREADS.map(lambda client: make_calls(client, left), clients))


if __name__ == "__main__":
    work = ["sequential_plain", "flight_async", *_protocol.ECHO_SIZES, "idle", "busy"]
    version = ".".join(map(str, rpyc.version.version))
    _protocol.run({"name": "RPyC", "version": version, "work": work}, serve, call)
