"""thriftpy2: Apache Thrift, with blocking sockets.

As its documentation has it: the binary protocol and the buffered transport, both in Cython, and a threaded server. A
connection has one call at a time, so there is no ``flight_*``, and no call can be cancelled. Timeouts are switched off,
because the server's would end an idle connection.
"""

import io
import socket
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version

import _protocol
from thriftpy2.parser import load_fp
from thriftpy2.protocol import TCyBinaryProtocolFactory
from thriftpy2.rpc import make_client
from thriftpy2.server import TThreadedServer
from thriftpy2.thrift import TProcessor
from thriftpy2.transport import TCyBufferedTransportFactory, TServerSocket

SCHEMA = """
service Bench {
    i64 add(1: i64 a, 2: i64 b),
    binary echo(1: binary data),
}
"""
Bench = load_fp(io.StringIO(SCHEMA), "bench_thrift").Bench

# The callers in `busy`.
THREADS = ThreadPoolExecutor(max_workers=2000)


class Servicer:
    def add(self, a, b):
        return a + b

    def echo(self, data):
        return data


class Listener(TServerSocket):
    def listen(self):
        super().listen()
        # What it accepts has this too. The client has it by itself.
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        _protocol.announce(str(self.sock.getsockname()[1]))


def serve():
    server = TThreadedServer(
        TProcessor(Bench, Servicer()),
        Listener("127.0.0.1", 0, client_timeout=None),
        iprot_factory=TCyBinaryProtocolFactory(),
        itrans_factory=TCyBufferedTransportFactory(),
        daemon=True,
    )
    server.serve()


def connect(port):
    client = make_client(
        Bench,
        "127.0.0.1",
        int(port),
        proto_factory=TCyBinaryProtocolFactory(),
        trans_factory=TCyBufferedTransportFactory(),
        timeout=None,
    )
    client.add(1, 2)
    return client


def call(port):
    client, others = connect(port), []
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
            others.pop().close()
        for _ in range(order["connections"]):
            others.append(connect(port))


def carry_out(order, client, others):
    work, count = order["work"], order.get("count", 0)
    match work:
        case "sequential_plain":
            make_calls(client, iter(range(count)))
        case "busy":
            share(count, others)
        case size if size in _protocol.ECHO_SIZES:
            data = bytes(_protocol.ECHO_SIZES[size])
            for _ in range(count):
                assert len(client.echo(data)) == len(data)


def make_calls(client, left):
    for _ in left:
        assert client.add(1, 2) == 3


def share(count, clients):
    """Makes ``count`` calls in all: a thread for each of ``clients``, which makes one after the other."""
    left = iter(range(count))
    list(THREADS.map(lambda client: make_calls(client, left), clients))


if __name__ == "__main__":
    work = ["sequential_plain", *_protocol.ECHO_SIZES, "idle", "busy"]
    _protocol.run({"name": "thriftpy2", "version": version("thriftpy2"), "work": work}, serve, call)
