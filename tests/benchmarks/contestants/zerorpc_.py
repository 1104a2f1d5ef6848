"""zerorpc: gevent, ZeroMQ and msgpack.

Its documentation says nothing about speed. Of what it offers: a client used again and again, by as many greenlets as
there are calls in flight, without a heartbeat, which would be one more greenlet for each call on either side. Its
handlers are plain functions, each call in a greenlet of its own: ``sequential_plain`` and ``flight_async`` have such.
There is no ``cancel``: a call that the client gives up is not cancelled in the server. It streams from the server to the
client only.
"""

from importlib.metadata import version

import _protocol
import gevent
import gevent.queue
import zerorpc

# ZeroMQ's limit is just above the 1,000 connections of an order.
zerorpc.Context.get_instance().max_sockets = 4096

ITEM = bytes(_protocol.ITEM_SIZE)


class Servicer:
    def add(self, a, b):
        return a + b

    def add_checkpoint(self, a, b):
        gevent.sleep(0)
        return a + b

    def add_thread(self, a, b):
        return gevent.get_hub().threadpool.apply(self.add, (a, b))

    def echo(self, data):
        return data

    @zerorpc.stream
    def count(self, n):
        yield from range(n)

    @zerorpc.stream
    def chunks(self, n):
        for _ in range(n):
            yield ITEM


def serve():
    server = zerorpc.Server(Servicer(), heartbeat=None)
    (bound,) = server.bind("tcp://127.0.0.1:*")
    _protocol.announce(bound.addr)
    server.run()


def connect(url):
    client = zerorpc.Client(url, heartbeat=None)
    client.add(1, 2)
    return client


def call(url):
    """Reads the orders (in a thread, so that the event loop goes on), and ends with stdin even if the server has died.

    Without a heartbeat the library would wait for it for ever.
    """
    orders, reader = gevent.queue.Queue(), gevent.getcurrent()
    worker = gevent.spawn(work_off, orders, url)
    worker.link_exception(lambda worker: gevent.kill(reader, worker.exception))
    while (order := gevent.get_hub().threadpool.apply(_protocol.next_order)) is not None:
        orders.put(order)


def work_off(orders, url):
    client, others = connect(url), []
    _protocol.ready()
    for order in orders:
        prepare(order, others, url)
        with _protocol.Stopwatch() as watch:
            carry_out(order, client, others)
        _protocol.answer(watch)


def prepare(order, others, url):
    """The clients beside the first, as many as the order says, each of which has made a call."""
    if order["work"] == "idle" or (order["work"] == "busy" and order["connections"] != len(others)):
        while others:
            others.pop().close()
        for _ in range(order["connections"]):
            others.append(connect(url))


def carry_out(order, client, others):
    work, count = order["work"], order.get("count", 0)
    match work:
        case "sequential_plain":
            share(count, [client.add])
        case "flight_async":
            share(count, [client.add] * _protocol.IN_FLIGHT)
        case "flight_checkpoint":
            share(count, [client.add_checkpoint] * _protocol.IN_FLIGHT)
        case "flight_thread":
            share(count, [client.add_thread] * _protocol.IN_FLIGHT)
        case "busy":
            share(count, [other.add for other in others])
        case "stream_down":
            assert sum(1 for _ in client.count(count)) == count
        case "stream_down_64k":
            assert sum(1 for _ in client.chunks(count)) == count
        case size if size in _protocol.ECHO_SIZES:
            data = bytes(_protocol.ECHO_SIZES[size])
            for _ in range(count):
                assert len(client.echo(data)) == len(data)


def share(count, methods):
    """Makes ``count`` calls in all: a greenlet for each of ``methods``, which makes one after the other."""
    left = iter(range(count))

    def make_calls(method):
        for _ in left:
            assert method(1, 2) == 3

    gevent.joinall([gevent.spawn(make_calls, method) for method in methods], raise_error=True)


if __name__ == "__main__":
    work = [name for name in _protocol.WORK if name not in ("sequential_async", "cancel")]
    work += ["stream_down", "stream_down_64k"]
    _protocol.run({"name": "zerorpc", "version": version("zerorpc"), "work": work}, serve, call)
