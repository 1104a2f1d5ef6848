"""Accepting connections, and what becomes of those that nobody has accepted when this is stopped."""

import contextlib
import os
import socket

import pytest
import trio
from support import RawPeer, joined, settle

import trpc
from trpc import _listening
from trpc._frames import PREAMBLE, encode_frame
from trpc._listening import Listening
from trpc._messages import Hello, Kind, encode_request


class Fixture:
    """Listens in a nursery, and keeps what it accepts."""

    def __init__(self, nursery, listeners, **options):
        self.streams = []
        self.listening = Listening(listeners, self.serve, nursery, **options)

    async def serve(self, stream):
        async with stream:
            self.streams.append(stream)
            await trio.sleep_forever()


def connect(listener):
    """A client that does not wait for anybody."""
    sock = socket.socket(listener.socket.family)
    sock.connect(listener.socket.getsockname())
    return sock


@pytest.fixture(params=["tcp", "unix"])
async def listener(request, tmp_path_factory):
    if request.param == "tcp":
        (made,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    else:
        sock = trio.socket.socket(socket.AF_UNIX)
        await sock.bind(str(tmp_path_factory.mktemp("s") / "socket"))
        sock.listen(10)
        made = trio.SocketListener(sock)
    async with made:
        yield made


async def test_it_accepts_until_it_is_cancelled(listener):
    async with trio.open_nursery() as nursery:
        fixture = Fixture(nursery, [listener])
        await nursery.start(fixture.listening.run)
        with connect(listener), connect(listener):
            while len(fixture.streams) < 2:
                await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()
    assert listener.socket.fileno() == -1


async def test_stopped_it_serves_those_that_wait(listener):
    async with trio.open_nursery() as nursery:
        fixture = Fixture(nursery, [listener])
        await nursery.start(fixture.listening.run)
        address, family = listener.socket.getsockname(), listener.socket.family
        before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else None
        with connect(listener), connect(listener), connect(listener):
            # The event loop has not run since.
            fixture.listening.stop()
            fixture.listening.stop()
            await settle()
            assert len(fixture.streams) == 3
            assert listener.socket.fileno() == -1
            with socket.socket(family) as late, pytest.raises(ConnectionRefusedError):
                late.connect(address)
        assert len(nursery.child_tasks) == 3
        nursery.cancel_scope.cancel()
    if before is not None:
        assert len(os.listdir("/proc/self/fd")) == before - 1


async def test_stopped_and_cancelled(listener):
    """Before it could accept the rest."""
    async with trio.open_nursery() as nursery:
        fixture = Fixture(nursery, [listener])
        await nursery.start(fixture.listening.run)
        with connect(listener):
            fixture.listening.stop()
            nursery.cancel_scope.cancel()
    assert fixture.streams == []


async def test_who_wants_to_know_is_told_once(listener, nursery):
    told = []
    fixture = Fixture(nursery, [listener], on_stop=lambda: told.append(True))
    await nursery.start(fixture.listening.run)
    for _ in range(2):
        fixture.listening.stop()
    assert told == [True]


class OtherListener(trio.abc.Listener[trio.abc.Stream]):
    """One that is no socket."""

    closed = False

    async def accept(self):
        await trio.sleep_forever()

    async def aclose(self):
        self.closed = True
        await trio.lowlevel.checkpoint()


async def test_listeners_of_other_kinds(nursery):
    other = OtherListener()
    fixture = Fixture(nursery, [other])
    await nursery.start(fixture.listening.run)
    fixture.listening.stop()
    await settle()
    assert other.closed


async def test_where_sockets_cannot_be_kept(listener, nursery, monkeypatch):
    fixture = Fixture(nursery, [listener])
    await nursery.start(fixture.listening.run)
    monkeypatch.setattr(_listening.os, "name", "nt")
    with connect(listener):
        fixture.listening.stop()
        monkeypatch.undo()
        await settle()
    assert fixture.streams == []
    assert listener.socket.fileno() == -1


class Service:
    def __init__(self):
        self.ran = 0

    @trpc.method
    def echo(self, text: str) -> str:
        self.ran += 1
        return text


@pytest.mark.parametrize("grace", [0, 10])
@pytest.mark.parametrize("others", [0, 1])
async def test_clients_that_nobody_has_accepted_are_told(nursery, others, grace, autojump_clock):
    """Their calls have been sent, and are not executed; also if there is nobody else."""
    service = Service()
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    server = await nursery.start(trpc.serve_listeners, service, listeners)
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(others):
            other = await stack.enter_async_context(trpc.connect(server.url))
            await other.ping()
        sock = connect(listeners[0])
        sock.sendall(PREAMBLE + encode_frame(Kind.HELLO, 0, Hello.of(trpc.Limits()).encode()))
        sock.sendall(
            encode_frame(Kind.REQUEST, 1, joined(encode_request("Service.echo", ["x"], {}, None, None, max_depth=64)))
        )
        # The event loop has not run since.
        await server.drain(grace)
        sock.setblocking(False)
        async with trio.SocketStream(trio.socket.from_stdlib_socket(sock)) as stream:
            peer = RawPeer(stream)
            assert (await peer.receive()).kind == Kind.HELLO
            goaway = await peer.receive()
            assert (goaway.kind, goaway.id) == (Kind.GOAWAY, 0)
            assert await peer.receive() is None
    assert service.ran == 0
