"""Pyro5, with msgpack, with which it is quicker than with the serializer that it has by default.

As its documentation has it: a proxy used again and again (to connect is very costly), the threaded server, which is the
default, with a thread pool (``THREADPOOL_SIZE``) as large as there are connections, built-in types as arguments. A
proxy has one call at a time, so there is no ``flight_*``, and no call can be cancelled.
"""

from concurrent.futures import ThreadPoolExecutor

import _protocol
import Pyro5.api

Pyro5.api.config.SERIALIZER = "msgpack"
Pyro5.api.config.THREADPOOL_SIZE = 2000

# The callers in `busy`.
THREADS = ThreadPoolExecutor(max_workers=2000)


class Servicer:
    @Pyro5.api.expose
    def add(self, a, b):
        return a + b

    @Pyro5.api.expose
    def echo(self, data):
        return data


def serve():
    with Pyro5.api.Daemon(host="127.0.0.1") as daemon:
        uri = daemon.register(Servicer())
        _protocol.announce(str(uri))
        daemon.requestLoop()


def connect(uri):
    proxy = Pyro5.api.Proxy(uri)
    proxy.add(1, 2)
    return proxy


def call(uri):
    proxy, others = connect(uri), []
    _protocol.ready()
    while (order := _protocol.next_order()) is not None:
        prepare(order, others, uri)
        with _protocol.Stopwatch() as watch:
            carry_out(order, proxy, others)
        _protocol.answer(watch)


def prepare(order, others, uri):
    """The connections beside the first, as many as the order says, each of which has made a call."""
    if order["work"] == "idle" or (order["work"] == "busy" and order["connections"] != len(others)):
        while others:
            other = others.pop()
            other._pyroClaimOwnership()
            other._pyroRelease()
        for _ in range(order["connections"]):
            others.append(connect(uri))


def carry_out(order, proxy, others):
    work, count = order["work"], order.get("count", 0)
    match work:
        case "sequential_plain":
            make_calls(proxy, iter(range(count)))
        case "busy":
            share(count, others)
        case size if size in _protocol.ECHO_SIZES:
            data = bytes(_protocol.ECHO_SIZES[size])
            for _ in range(count):
                assert len(proxy.echo(data)) == len(data)


def make_calls(proxy, left):
    proxy._pyroClaimOwnership()  # it belongs to one thread at a time
    for _ in left:
        assert proxy.add(1, 2) == 3


def share(count, proxies):
    """Makes ``count`` calls in all: a thread for each of ``proxies``, which makes one after the other."""
    left = iter(range(count))
    list(THREADS.map(lambda proxy: make_calls(proxy, left), proxies))


if __name__ == "__main__":
    work = ["sequential_plain", *_protocol.ECHO_SIZES, "idle", "busy"]
    _protocol.run({"name": "Pyro5", "version": Pyro5.__version__, "work": work}, serve, call)
