"""TLS over real sockets: who is let in, what those who are not are told, and how it ends."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
from collections.abc import AsyncIterator

import pytest
import trio
import trio.testing
from certificates import certificate, client_context, name_in, server_context

import trpc
from trpc import _connect
from trpc._handshakes import default_context


class Service:
    @trpc.method
    async def echo(self, value: bytes) -> bytes:
        return value

    @trpc.method
    async def wait(self) -> str:
        await trpc.current_call().draining.wait()
        return "drained"

    @trpc.method
    def who(self) -> str:
        shown = trpc.current_call().peer.certificate
        return "nobody" if shown is None else name_in(shown)

    @trpc.method
    async def double(self, items: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        async for item in items:
            yield item * 2


@contextlib.asynccontextmanager
async def serving(context, **options):
    async with trio.open_nursery() as nursery:

        async def start(task_status):
            await trpc.serve_tcp(Service(), 0, ssl_context=context, task_status=task_status, **options)

        yield await nursery.start(start)
        nursery.cancel_scope.cancel()


async def who(url, context=None, **options):
    async with trpc.connect(url, ssl_context=context, **options) as client:
        return await client.call("Service.who")


async def fails(url, error, match, context=None, **options):
    with pytest.raises(error, match=match) as caught:
        await who(url, context, **options)
    return caught.value


def port_of(server):
    return int(server.url.rpartition(":")[2])


async def test_calls_payloads_and_streams():
    async with serving(server_context()) as server:
        assert server.url.startswith("tls://127.0.0.1:")
        async with trpc.connect(server.url, ssl_context=client_context()) as client:
            assert "127.0.0.1" in str(client.peer.certificate)
            assert await client.call("Service.who") == "nobody"
            for size in (0, 1, 20_000, 1 << 20, 9_000_000):
                data = os.urandom(size)
                assert await client.call("Service.echo", data) == data
            large = os.urandom(1 << 20)

            async def items():
                for number in range(200):
                    yield bytes([number]) * 10_000

            async with trio.open_nursery() as nursery:
                for _ in range(5):

                    @nursery.start_soon
                    async def call():
                        for _ in range(5):
                            assert await client.call("Service.echo", large) == large

                async with client.stream("Service.double", items()) as doubled:
                    assert [len(item) async for item in doubled] == [20_000] * 200


async def test_a_certificate_on_both_sides():
    async with serving(server_context(client_ca="ours")) as server:
        context = client_context("ann@example.org", authority="theirs")
        with pytest.raises(trpc.ConnectionLost, match="alert"):
            # Of a CA that the server does not know.
            await who(server.url, context)
        ours = client_context()
        certificate("ann@example.org", authority="ours").configure_cert(ours)
        assert await who(server.url, ours) == "ann@example.org"


async def test_the_certificate_is_a_credential():
    def authenticate(credentials):
        return name_in(credentials.certificate)

    async with serving(server_context(client_ca="theirs"), authenticate=authenticate) as server:
        context = client_context("ann@example.org")
        async with trpc.connect(server.url, ssl_context=context) as client:
            await client.call("Service.who")
            assert server.connections[0].peer.identity == "ann@example.org"


async def test_no_client_certificate(caplog):
    caplog.set_level(logging.INFO, "trpc")
    async with serving(server_context(client_ca="theirs")) as server:
        await fails(
            server.url, trpc.ConnectionLost, "TLS alert 'certificate required'.*load_cert_chain", client_context()
        )
        while server._number:
            await trio.sleep(0.01)
    assert "did not return a certificate" in caplog.text


@pytest.mark.parametrize(
    ("name", "options", "match"),
    [
        (
            "another.example.org",
            {},
            "not accepted for '127.0.0.1': IP address mismatch.*Connect by a name that is in it",
        ),
        ("127.0.0.1", {"authority": "other"}, r"not accepted .*unable to get local issuer.*cafile='ca.pem'"),
        ("127.0.0.1", {"expired": True}, "certificate has expired"),
    ],
)
async def test_a_server_that_is_not_trusted(name, options, match, caplog):
    caplog.set_level(logging.INFO, "trpc")
    async with serving(server_context(name, **options)) as server:
        error = await fails(
            server.url, trpc.Unavailable, f"cannot connect to {server.url}: .*{match}", client_context()
        )
        assert isinstance(error, OSError)
        while server._number:
            await trio.sleep(0.01)
    assert "TLS handshake with 127.0.0.1:" in caplog.text
    assert "TLS alert" in caplog.text


async def test_a_host_name_that_is_not_in_the_certificate():
    async with serving(server_context("example.org")) as server:
        url = f"tls://localhost:{port_of(server)}"
        await fails(url, trpc.Unavailable, "for 'localhost': Hostname mismatch", client_context())
        stream = await trio.open_tcp_stream("127.0.0.1", port_of(server))
        async with trpc.connect_stream(stream, ssl_context=client_context(), server_hostname="example.org") as client:
            assert await client.call("Service.who") == "nobody"


async def test_the_systems_authorities_are_the_default(monkeypatch):
    async with serving(server_context()) as server:
        await fails(server.url, trpc.Unavailable, "ssl.create_default_context")
        context = client_context()
        monkeypatch.setattr(_connect, "default_context", lambda: context)
        assert await who(server.url) == "nobody"
    assert default_context() is default_context()


async def test_a_client_without_tls(caplog):
    caplog.set_level(logging.INFO, "trpc")
    async with serving(server_context()) as server:
        url = f"tcp://127.0.0.1:{port_of(server)}"
        await fails(url, trpc.ProtocolError, "does not speak trpc but TLS")
        assert await who(server.url, client_context()) == "nobody"
        while server._number:
            await trio.sleep(0.01)
    assert "it speaks trpc without TLS" in caplog.text


async def test_a_server_without_tls(caplog):
    async with serving(None) as server:
        url = f"tls://127.0.0.1:{port_of(server)}"
        await fails(url, trpc.Unavailable, "the server speaks trpc without TLS", client_context())
        while server.connections:
            await trio.sleep(0.01)
    assert "but TLS" in caplog.text


async def test_a_server_of_something_else(nursery):
    listener = (await trio.open_tcp_listeners(0, host="127.0.0.1"))[0]
    port = listener.socket.getsockname()[1]
    answers = [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"SSH-2.0-x\r\n", b""]

    @nursery.start_soon
    async def serve():
        for answer in answers:
            async with await listener.accept() as stream:
                await stream.receive_some()
                await stream.send_all(answer)
                await stream.send_eof()
                while await stream.receive_some():
                    pass

    for match in ("does not speak TLS", "does not speak TLS", "cut off"):
        await fails(f"tls://127.0.0.1:{port}", trpc.Unavailable, match, client_context())
    await listener.aclose()


async def test_a_client_that_is_no_client(caplog):
    caplog.set_level(logging.INFO, "trpc")
    async with serving(server_context()) as server:
        for data in (b"GET / HTTP/1.1\r\n\r\n", b"\0" * 100, b"\x16\x03\x01\x00\x05hello", b""):
            async with await trio.open_tcp_stream("127.0.0.1", port_of(server)) as stream:
                await stream.send_all(data)
                await stream.send_eof()
                with contextlib.suppress(trio.BrokenResourceError):
                    while await stream.receive_some():
                        pass
        # And one that breaks off.
        stream = await trio.open_tcp_stream("127.0.0.1", port_of(server))
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        await stream.aclose()
        assert await who(server.url, client_context()) == "nobody"
        while server._number:
            await trio.sleep(0.01)
    assert len([r for r in caplog.records if "TLS handshake" in r.getMessage()]) == 5


# --- time ---


async def test_a_client_that_stalls_in_its_handshake(autojump_clock, caplog):
    caplog.set_level(logging.INFO, "trpc")
    ours, theirs = trio.testing.memory_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: trpc.serve_stream(Service(), theirs, ssl_context=server_context()))
        await ours.send_all(b"\x16\x03\x01")
        assert await ours.receive_some() == b""
    assert "it was not done in time" in caplog.text


async def test_a_server_that_stalls_in_its_handshake(autojump_clock):
    ours, theirs = trio.testing.memory_stream_pair()
    with pytest.raises(trpc.Unavailable, match="has not completed the TLS handshake within 3 s"):
        async with trpc.connect_stream(
            ours, ssl_context=client_context(), server_hostname="localhost", limits=trpc.Limits(tls_timeout=3)
        ):
            pass
    assert await theirs.receive_some()


async def test_connecting_is_cancelled_in_the_handshake(autojump_clock):
    ours, theirs = trio.testing.memory_stream_pair()
    with trio.move_on_after(1) as scope:
        async with trpc.connect_stream(ours, ssl_context=client_context(), server_hostname="localhost"):
            pass
    assert scope.cancelled_caught
    with pytest.raises(trio.BrokenResourceError):
        await theirs.send_all(b"x")


async def test_handshakes_count_as_connections():
    limits = trpc.Limits(max_connections=2)
    async with serving(server_context(), limits=limits) as server:
        stalled = await trio.open_tcp_stream("127.0.0.1", port_of(server))
        while server._number < 1:
            await trio.sleep(0.01)
        async with trpc.connect(server.url, ssl_context=client_context()) as client:
            assert await client.call("Service.who") == "nobody"
            with pytest.raises(trpc.Unavailable, match="2 connections are open"):
                await who(server.url, client_context())
            # The one that is turned away may also fail before it is told.
            await fails(f"tcp://127.0.0.1:{port_of(server)}", trpc.ProtocolError, "but TLS")
            assert await client.call("Service.who") == "nobody"
        await stalled.aclose()


# --- the end ---


async def test_a_connection_that_is_cut_at_the_client():
    async with serving(server_context()) as server:
        async with trpc.connect(server.url, ssl_context=client_context()) as client:
            assert await client.call("Service.who") == "nobody"
            (connection,) = server._connections
            with pytest.raises(trpc.ConnectionLost, match="cut off: TLS was not ended by the peer"):
                async with trio.open_nursery() as nursery:

                    @nursery.start_soon
                    async def cut():
                        while not server.calls:
                            await trio.sleep(0.01)
                        connection._transport._inner._stream.socket.shutdown(socket.SHUT_WR)

                    try:
                        await client.call("Service.wait")
                    except trpc.ConnectionLost as exc:
                        error = exc
                raise error


async def test_a_connection_that_is_cut_at_the_server(caplog):
    caplog.set_level(logging.INFO, "trpc")
    async with serving(server_context()) as server:
        stream = await trio.open_tcp_stream("127.0.0.1", port_of(server))
        tls = trio.SSLStream(stream, client_context(), server_hostname="localhost")
        async with trpc.connect_stream(tls) as client:
            assert await client.call("Service.who") == "nobody"
            stream.socket.shutdown(socket.SHUT_WR)
            while server.connections:
                await trio.sleep(0.01)
    assert "cut off: TLS was not ended by the peer" in caplog.text


async def test_either_side_ends_it_in_order(caplog):
    caplog.set_level(logging.DEBUG, "trpc")
    async with serving(server_context()) as server:
        assert await who(server.url, client_context()) == "nobody"
        while server.connections:
            await trio.sleep(0.01)
        stream = await trio.open_tcp_stream("127.0.0.1", port_of(server))
        tls = trio.SSLStream(stream, client_context(), server_hostname="localhost")
        await tls.do_handshake()
        assert await tls.receive_some()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.drain)
            # As an SSLStream takes it: not as if it were cut off.
            while await tls.receive_some():
                pass
            await tls.aclose()
    assert "cut off" not in caplog.text


async def test_a_drain():
    async with serving(server_context()) as server, trpc.connect(server.url, ssl_context=client_context()) as client:
        stalled = await trio.open_tcp_stream("127.0.0.1", port_of(server))
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def call():
                assert await client.call("Service.wait") == "drained"

            while not server.calls or server._number < 2:
                await trio.sleep(0.01)
            await server.drain()
        with pytest.raises(trpc.Unavailable, match="about to stop"):
            await client.call("Service.who")
        assert server.connections == ()
        await stalled.aclose()


async def test_a_client_that_comes_while_the_server_stops(autojump_clock):
    """Its handshake is done, and then it is told."""
    ours, theirs = trio.testing.memory_stream_pair()
    async with trio.open_nursery() as nursery:

        async def start(task_status):
            await trpc.serve_stream(Service(), theirs, ssl_context=server_context(), task_status=task_status)

        server = await nursery.start(start)
        nursery.start_soon(server.drain)
        async with trpc.connect_stream(ours, ssl_context=client_context(), server_hostname="localhost") as client:
            with pytest.raises(trpc.Unavailable, match="about to stop"):
                await client.call("Service.who")


# --- certificates that are renewed ---


async def test_a_certificate_that_is_loaded_anew_is_for_those_who_connect_then(tmp_path):
    context = server_context("localhost", "127.0.0.1", authority="old")
    file = tmp_path / "server.pem"
    certificate("localhost", "127.0.0.1", authority="theirs").private_key_and_cert_chain_pem.write_to_path(file)
    async with serving(context) as server:
        async with trpc.connect(server.url, ssl_context=client_context(authority="old")) as client:
            await fails(server.url, trpc.Unavailable, "not accepted", client_context())
            context.load_cert_chain(file)
            assert await who(server.url, client_context()) == "nobody"
            assert await client.call("Service.who") == "nobody", "who is connected already notices nothing"


# --- mistakes ---


@pytest.mark.parametrize(
    ("url", "context", "error", "match"),
    [
        ("tcp://host:1", client_context, ValueError, "connect to tls://host:1"),
        ("unix:///path", client_context, ValueError, "of the form tls://host:port"),
        ("tls://host:1", server_context, ValueError, r"a client's is made by ssl.create_default_context\(\)"),
        ("tls://host:1", str, TypeError, "ssl_context is an ssl.SSLContext, not ''"),
        ("tls://host", client_context, ValueError, "form tls://host:port"),
        ("tls://[x", client_context, ValueError, "is not a URL"),
    ],
)
async def test_options_of_clients(url, context, error, match):
    with pytest.raises(error, match=match):
        async with trpc.connect(url, ssl_context=context()):
            pass


async def test_options_of_streams(nursery):
    stream, other = trio.testing.memory_stream_pair()
    with pytest.raises(ValueError, match="server_hostname is of no use"):
        trpc.connect_stream(stream, server_hostname="x")
    with pytest.raises(ValueError, match="server_hostname= has to say"):
        trpc.connect_stream(stream, ssl_context=client_context())
    unchecked = client_context()
    unchecked.check_hostname = False
    nursery.start_soon(lambda: trpc.serve_stream(Service(), other, ssl_context=server_context()))
    async with trpc.connect_stream(stream, ssl_context=unchecked) as client:
        assert await client.call("Service.who") == "nobody"


async def test_options_of_servers():
    with pytest.raises(
        ValueError, match=r"a server's is made by ssl.create_default_context\(ssl.Purpose.CLIENT_AUTH\)"
    ):
        await trpc.serve_tcp(Service(), 0, ssl_context=client_context())
    with pytest.raises(TypeError, match="is an ssl.SSLContext"):
        await trpc.serve_tcp(Service(), 0, ssl_context="server.pem")
