"""The cells of docs/comparison.md on RPyC and Pyro5, asked of these libraries themselves. Run by ``test_comparison.py``."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import threading
from pathlib import Path

import Pyro5
import pytest
import rpyc
from Pyro5 import api, errors, serializers
from rpyc.core.protocol import DEFAULT_CONFIG
from rpyc.utils.server import ThreadedServer

TIMEOUT = 30

# Threads of RPyC's server end with an exception when their sockets are shut.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")


class NotRegisteredError(Exception):
    pass


class Work:
    """What both serve: a call that takes until it is let go, and some that tell how things are passed."""

    def __init__(self):
        self.begun = threading.Event()
        self.may_end = threading.Event()
        self.ended = threading.Event()
        self.produced = 0

    def wait(self):
        self.begun.set()
        self.may_end.wait(TIMEOUT)
        self.ended.set()

    def items(self):
        for number in range(1000):
            self.produced += 1
            yield number

    def fail(self, kind):
        match kind:
            case "builtin":
                raise KeyError("k")
            case "own":
                raise NotRegisteredError("text")
            case _:
                raise ExceptionGroup("several", [KeyError("k"), ValueError("v")])

    def same(self, number: int) -> int:
        return number

    def call_back(self, callback):
        return callback.add(1, 2)


def test_neither_imports_asyncio_or_trio():
    for package in rpyc, Pyro5:
        folder = Path(package.__file__).parent
        for file in folder.rglob("*.py"):
            assert not re.search(r"^\s*(import|from) (asyncio|trio)\b", file.read_text(encoding="utf-8"), re.MULTILINE)


# --- RPyC ---


@contextlib.contextmanager
def rpyc_serving(work):
    """Connects to a server of ``work``, any number of times."""

    class Service(rpyc.Service):
        exposed_wait = staticmethod(work.wait)
        exposed_items = staticmethod(work.items)
        exposed_fail = staticmethod(work.fail)
        exposed_same = staticmethod(work.same)
        exposed_call_back = staticmethod(work.call_back)

        def exposed_nothing(self):
            pass

    server = ThreadedServer(Service, hostname="127.0.0.1", port=0)
    thread = server._start_in_thread()
    connections = []

    def connect(**options):
        connections.append(rpyc.connect("127.0.0.1", server.port, **options))
        return connections[-1]

    connect.server = server
    try:
        yield connect
    finally:
        work.may_end.set()
        for connection in connections:
            connection.close()
        server.close()
        thread.join(TIMEOUT)


@contextlib.contextmanager
def rpyc_proxy(work):
    with rpyc_serving(work) as connect:
        yield connect().root


def test_rpyc_a_timeout_leaves_the_handler_running_and_its_connection_busy():
    work = Work()
    with rpyc_serving(work) as connect:
        root = connect().root
        wait, nothing = rpyc.timed(root.wait, 0.2), rpyc.timed(root.nothing, 0.2)
        nothing().wait()
        with pytest.raises(rpyc.AsyncResultTimeout):
            wait().wait()
        assert not work.ended.is_set()
        # Neither is there anything else of this connection executed meanwhile.
        with pytest.raises(rpyc.AsyncResultTimeout):
            nothing().wait()
        connect().root.nothing()
        work.may_end.set()
        assert work.ended.wait(TIMEOUT)
        assert not hasattr(rpyc.AsyncResult, "cancel")


def test_rpyc_a_handler_goes_on_when_its_connection_is_lost():
    work = Work()
    with rpyc_serving(work) as connect:
        connection = connect()
        wait = rpyc.async_(connection.root.wait)
        wait()
        assert work.begun.wait(TIMEOUT)
        # Not close(): that waits for the handler's end.
        with socket.socket(fileno=os.dup(connection.fileno())) as sock:
            sock.shutdown(socket.SHUT_RDWR)
        connect().root.nothing()
        assert not work.ended.is_set()
        work.may_end.set()
        assert work.ended.wait(TIMEOUT)


def test_rpyc_exceptions():
    work = Work()
    with rpyc_serving(work) as connect:
        root = connect().root
        with pytest.raises(KeyError):
            root.fail("builtin")
        with pytest.raises(Exception, match="text") as caught:
            root.fail("own")
        assert not isinstance(caught.value, NotRegisteredError)
        assert "NotRegisteredError" in type(caught.value).__name__
        # A group does not arrive: to make it again fails.
        with pytest.raises(TypeError):
            root.fail("group")
        trusting = connect(config={"import_custom_exceptions": True, "instantiate_custom_exceptions": True})
        with pytest.raises(NotRegisteredError):
            trusting.root.fail("own")


def test_rpyc_a_stream_is_fetched_item_by_item():
    work = Work()
    with rpyc_serving(work) as connect:
        items = connect().root.items()
        assert next(items) == 0
        assert work.produced == 1
        assert len(list(items)) == 999


def test_rpyc_calls_back():
    class Callback:
        def exposed_add(self, a, b):
            return a + b

    with rpyc_serving(Work()) as connect:
        assert connect().root.call_back(Callback()) == 3


def test_rpyc_an_argument_is_read_item_by_item():
    consumed = []

    def items():
        for number in range(1000):
            consumed.append(number)
            yield number

    work = Work()
    work.call_back = next
    with rpyc_serving(work) as connect:
        assert connect().root.call_back(items()) == 0
        assert consumed == [0]


def test_rpyc_does_not_connect_again():
    with rpyc_serving(Work()) as connect:
        connection = connect()
        root = connection.root
        root.nothing()
        with socket.socket(fileno=os.dup(connection.fileno())) as sock:
            sock.shutdown(socket.SHUT_RDWR)
        for _ in range(2):
            with pytest.raises(EOFError):
                root.nothing()


def test_rpyc_a_server_that_is_closed_cuts_calls():
    work = Work()
    with rpyc_serving(work) as connect:
        wait = rpyc.async_(connect().root.wait)
        waiting = wait()
        assert work.begun.wait(TIMEOUT)
        connect.server.close()
        with pytest.raises(EOFError):
            waiting.wait()
        assert not work.ended.is_set()


def test_rpyc_does_not_unpickle_by_default():
    assert DEFAULT_CONFIG["allow_pickle"] is False


# --- Pyro5 ---


@contextlib.contextmanager
def pyro_serving(work):
    """The URI of ``work``, and the daemon that has it."""
    api.expose(Work)
    with api.Daemon(host="127.0.0.1") as daemon:
        uri = daemon.register(work)
        thread = threading.Thread(target=daemon.requestLoop)
        thread.start()
        try:
            yield uri, daemon
        finally:
            work.may_end.set()
            daemon.shutdown()
            thread.join(TIMEOUT)


@contextlib.contextmanager
def pyro(work):
    """A proxy of ``work``."""
    with pyro_serving(work) as (uri, _), api.Proxy(uri) as proxy:
        yield proxy


def test_pyro_a_timeout_leaves_the_handler_running():
    work = Work()
    with pyro(work) as proxy:
        proxy._pyroTimeout = 0.2
        with pytest.raises(errors.TimeoutError):
            proxy.wait()
        assert work.begun.is_set()
        # That has also closed the connection: the handler goes on without it.
        assert proxy._pyroConnection is None
        assert not work.ended.is_set()
        work.may_end.set()
        assert work.ended.wait(TIMEOUT)


def test_pyro_exceptions():
    work = Work()
    with pyro(work) as proxy:
        with pytest.raises(KeyError):
            proxy.fail("builtin")
        with pytest.raises(errors.SerializeError):
            proxy.fail("own")
        # A group does not arrive: to make it again fails.
        with pytest.raises(ValueError, match="not an exception"):
            proxy.fail("group")


def test_pyro_a_stream_is_fetched_item_by_item():
    work = Work()
    with pyro(work) as proxy:
        items = proxy.items()
        assert next(items) == 0
        assert work.produced == 1
        assert len(list(items)) == 999


def test_pyro_no_stream_is_an_argument():
    with pyro(Work()) as proxy, pytest.raises(TypeError, match="generator"):
        proxy.call_back(n for n in range(3))


def test_pyro_calls_back():

    @api.expose
    class Callback:
        def add(self, a, b):
            return a + b

    # The client has to have a server of its own for that: a daemon.
    with pyro(Work()) as proxy, api.Daemon(host="127.0.0.1") as daemon:
        callback = Callback()
        daemon.register(callback)
        thread = threading.Thread(target=daemon.requestLoop)
        thread.start()
        try:
            assert proxy.call_back(callback) == 3
        finally:
            daemon.shutdown()
            thread.join(TIMEOUT)


def test_pyro_a_proxy_belongs_to_one_thread():
    caught = []

    def call(proxy):
        try:
            proxy.fail("builtin")
        except errors.PyroError as exc:
            caught.append(str(exc))

    with pyro(Work()) as proxy:
        thread = threading.Thread(target=call, args=[proxy])
        with pytest.raises(KeyError):
            proxy.fail("builtin")
        thread.start()
        thread.join(TIMEOUT)
    (text,) = caught
    assert "owner" in text


def test_pyro_connects_again():
    with pyro(Work()) as proxy:
        assert proxy.same(1) == 1
        proxy._pyroConnection.sock.shutdown(socket.SHUT_RDWR)
        # It is found out by a call, and the next one goes over another connection.
        with pytest.raises(errors.ConnectionClosedError):
            proxy.same(2)
        assert proxy.same(3) == 3


def test_pyro_a_daemon_that_is_shut_down_finishes_calls():
    work, results = Work(), []

    def wait(uri):
        with api.Proxy(uri) as proxy:
            results.append(proxy.wait())

    with pyro_serving(work) as (uri, daemon):
        thread = threading.Thread(target=wait, args=[uri])
        thread.start()
        assert work.begun.wait(TIMEOUT)
        daemon.shutdown()
        assert not work.ended.is_set()
        work.may_end.set()
        thread.join(TIMEOUT)
        assert results == [None]


def test_arguments_are_not_checked():
    """Whatever it is, it arrives: hints mean nothing."""
    for serving in rpyc_proxy, pyro:
        with serving(Work()) as proxy:
            assert proxy.same("no int") == "no int"


def test_pyro_has_no_pickle():
    assert set(serializers.serializers) == {"serpent", "marshal", "json", "msgpack"}
    assert api.config.SERIALIZER == "serpent"
