"""URLs: what they may be, what is behind them, and errors that say what to do."""

import errno
import os
import pathlib
import re
import socket
import stat
import types

import pytest
import trio
import trio.testing

import trpc
from trpc import _address
from trpc._address import (
    address_of,
    open_stream,
    open_tcp_listeners,
    tls_host_of,
    unix_listener,
    unix_peer_of,
    url_of,
)


async def accepts_and_echoes(listener, nursery):
    async def echo(stream):
        async with stream:
            async for data in stream:
                await stream.send_all(data)

    await nursery.start(trio.serve_listeners, echo, [listener])


async def check_echo(url):
    async with await open_stream(url) as stream:
        await stream.send_all(b"hello")
        assert await stream.receive_some() == b"hello"


@pytest.fixture
def short_path(tmp_path_factory):
    """A place for Unix sockets: their paths have to be short."""
    return tmp_path_factory.mktemp("s")


# --- URLs ---


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("", "has the scheme ''"),
        ("127.0.0.1:80", "has the scheme"),
        ("localhost:80", "has the scheme 'localhost'"),
        ("http://host:80", "has the scheme 'http'"),
        ("//host:80", "has the scheme ''"),
        ("tcp:", "is not of the form tcp://host:port"),
        ("tcp://", "is not of the form tcp://host:port"),
        ("tcp://host", "is not of the form tcp://host:port"),
        ("tcp://host:", "is not of the form tcp://host:port"),
        ("tcp://:80", "is not of the form tcp://host:port"),
        ("tcp://host:0", "is not of the form tcp://host:port"),
        ("tcp://host:65536", "is not of the form tcp://host:port"),
        ("tcp://host:-1", "is not of the form tcp://host:port"),
        ("tcp://host:http", "is not of the form tcp://host:port"),
        ("tcp://host:80/path", "is not of the form tcp://host:port"),
        ("tcp:host:80", "is not of the form tcp://host:port"),
        ("unix:", "is not of the form unix:///path"),
        ("unix://", "is not of the form unix:///path"),
        ("unix://relative/path", "is not of the form unix:///path"),
        ("tcp://[::1", "tcp://[::1"),
    ],
)
async def test_urls_that_are_wrong(url, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        await open_stream(url)


@pytest.mark.parametrize("url", ["tcp://user@host:80", "tcp://host:80?timeout=5", "tcp://host:80#fragment"])
async def test_parts_of_a_url_that_mean_nothing_are_refused(url, monkeypatch):
    async def open_tcp_stream(*_):
        raise AssertionError("a part of the URL was dropped without a word")

    monkeypatch.setattr(trio, "open_tcp_stream", open_tcp_stream)
    with pytest.raises(ValueError, match="is not of the form tcp://host:port"):
        await open_stream(url)


async def test_the_error_names_the_forms_that_are_known():
    with pytest.raises(ValueError, match="use tcp://host:port, tls://host:port or unix:///path"):
        await open_stream("ftp://x")


# --- TCP ---


@pytest.mark.parametrize("slash", ["", "/"])
async def test_tcp(nursery, slash):
    (listener,) = await open_tcp_listeners(0, "127.0.0.1")
    await accepts_and_echoes(listener, nursery)
    url = url_of(listener)
    port = listener.socket.getsockname()[1]
    assert url == f"tcp://127.0.0.1:{port}"
    await check_echo(url + slash)
    await check_echo(url.replace("tcp", "TCP"))
    nursery.cancel_scope.cancel()


def has_ipv6():
    try:
        with socket.socket(socket.AF_INET6) as sock:
            sock.bind(("::1", 0))
    except OSError:
        return False
    return True


@pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")
async def test_tcp_over_ipv6(nursery):
    (listener,) = await open_tcp_listeners(0, "::1")
    await accepts_and_echoes(listener, nursery)
    url = url_of(listener)
    assert re.fullmatch(r"tcp://\[::1\]:\d+", url)
    await check_echo(url)
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize("port", [-1, 65536])
async def test_ports_out_of_range(port):
    with pytest.raises(ValueError, match=f"port {port} is not from 0 to 65535"):
        await open_tcp_listeners(port, "127.0.0.1")


async def test_a_port_in_use():
    (listener,) = await open_tcp_listeners(0, "127.0.0.1")
    async with listener:
        port = listener.socket.getsockname()[1]
        with pytest.raises(OSError, match=f"port {port} on 127.0.0.1 is in use.*`ss -ltnp.*Port 0") as caught:
            await open_tcp_listeners(port, "127.0.0.1")
        assert caught.value.errno == errno.EADDRINUSE


@pytest.mark.parametrize("host", ["192.0.2.1", "no-such-host.invalid"])
async def test_a_host_that_is_not_this_machine(host, monkeypatch):
    if host.endswith(".invalid"):

        async def getaddrinfo(*_, **__):
            raise socket.gaierror(socket.EAI_NONAME, "unknown")

        monkeypatch.setattr(trio.socket, "getaddrinfo", getaddrinfo)
    with pytest.raises(OSError, match=f"'{host}' is not an address of this machine"):
        await open_tcp_listeners(0, host)


@pytest.mark.parametrize(
    ("error", "cls", "message"),
    [
        (PermissionError(errno.EACCES, "denied"), PermissionError, "port 80: ports below 1024 need privileges"),
        (OSError(errno.EMFILE, "too many files"), OSError, "too many files"),
    ],
)
async def test_other_errors_of_listening(error, cls, message, monkeypatch):
    async def fails(*_, **__):
        raise error

    monkeypatch.setattr(trio, "open_tcp_listeners", fails)
    with pytest.raises(cls, match=message) as caught:
        await open_tcp_listeners(80, "127.0.0.1")
    assert caught.value.errno == error.errno


async def test_nobody_listens():
    with socket.socket() as sock:
        # Bound and not listening: nobody else can take the port meanwhile.
        sock.bind(("127.0.0.1", 0))
        url = f"tcp://127.0.0.1:{sock.getsockname()[1]}"
        with pytest.raises(trpc.Unavailable, match=f"nothing listens at {url}: is the server running") as caught:
            await open_stream(url)
    assert isinstance(caught.value, ConnectionRefusedError)
    assert caught.value.errno == errno.ECONNREFUSED


def fails_with(error):
    async def open_tcp_stream(*_):
        raise error

    return open_tcp_stream


def caused_by(cause):
    error = OSError("all attempts to connect failed")
    error.__cause__ = cause
    return error


REFUSED = ConnectionRefusedError(errno.ECONNREFUSED, "refused")
UNREACHABLE = OSError(errno.ENETUNREACH, "unreachable")


@pytest.mark.parametrize(
    ("error", "refused", "message"),
    [
        (caused_by(ExceptionGroup("", [REFUSED, REFUSED])), True, "nothing listens"),
        (caused_by(REFUSED), True, "nothing listens"),
        (caused_by(ExceptionGroup("", [REFUSED, UNREACHABLE])), False, "refused; .*unreachable"),
        (caused_by(UNREACHABLE), False, "unreachable"),
        (socket.gaierror(socket.EAI_NONAME, "name not known"), False, "name not known"),
    ],
)
async def test_connecting_fails(error, refused, message, monkeypatch):
    monkeypatch.setattr(trio, "open_tcp_stream", fails_with(error))
    with pytest.raises(trpc.Unavailable, match=message) as caught:
        await open_stream("tcp://host:80")
    assert "tcp://host:80" in str(caught.value)
    assert isinstance(caught.value, OSError)
    assert isinstance(caught.value, ConnectionRefusedError) is refused
    assert caught.value.__cause__ is error


# --- Unix sockets ---


@pytest.mark.parametrize("convert", [str, pathlib.Path, os.fsencode])
async def test_unix(nursery, short_path, convert):
    path = short_path / "sock"
    async with unix_listener(convert(path)) as (listener, _):
        await accepts_and_echoes(listener, nursery)
        assert url_of(listener) == f"unix://{path}"
        await check_echo(url_of(listener))
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("name", ["a b", "a#b", "a?b", "a%b", "a%20b", "ü", ";=&", "a:b@c"])
async def test_the_url_of_any_path_leads_to_it(nursery, short_path, name):
    async with unix_listener(short_path / name) as (listener, _):
        await accepts_and_echoes(listener, nursery)
        await check_echo(url_of(listener))
        nursery.cancel_scope.cancel()


async def test_the_url_of_a_relative_path_is_absolute(short_path, monkeypatch):
    monkeypatch.chdir(short_path)
    async with unix_listener("sock") as (listener, _):
        assert url_of(listener) == f"unix://{short_path}/sock"


async def test_only_this_user_may_connect(short_path):
    async with unix_listener(short_path / "sock"):
        assert stat.S_IMODE((short_path / "sock").stat().st_mode) == 0o600


@pytest.mark.parametrize("how", ["normally", "by an error", "by a cancel", "removed by somebody else"])
async def test_the_socket_is_removed_at_the_end(short_path, how):
    path = short_path / "sock"
    with trio.CancelScope() as scope:
        try:
            async with unix_listener(path):
                assert path.exists()
                if how == "by an error":
                    raise KeyError
                if how == "by a cancel":
                    scope.cancel()
                    await trio.lowlevel.checkpoint()
                if how == "removed by somebody else":
                    path.unlink()
        except KeyError:
            pass
    assert not path.exists()


async def test_nobody_listens_at_a_unix_socket(short_path):
    path = short_path / "sock"
    with pytest.raises(trpc.Unavailable, match=f"nothing listens at unix://{path}") as caught:
        await open_stream(f"unix://{path}")
    assert isinstance(caught.value, ConnectionRefusedError)
    left_behind(path)
    with pytest.raises(trpc.Unavailable, match="nothing listens at"):
        await open_stream(f"unix://{path}")


def left_behind(path):
    """A socket whose process was killed."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))


async def test_a_socket_that_nobody_listens_on_is_replaced(nursery, short_path):
    left_behind(short_path / "sock")
    async with unix_listener(short_path / "sock") as (listener, _):
        await accepts_and_echoes(listener, nursery)
        await check_echo(url_of(listener))
        nursery.cancel_scope.cancel()


async def test_a_socket_that_somebody_listens_on_is_left_alone(nursery, short_path):
    path = short_path / "sock"
    async with unix_listener(path) as (listener, _):
        await accepts_and_echoes(listener, nursery)
        with pytest.raises(
            OSError, match=f"cannot listen on the Unix socket '{path}': another process listens"
        ) as caught:
            async with unix_listener(path):
                pytest.fail("two listeners at one path")
        assert caught.value.errno == errno.EADDRINUSE
        await check_echo(url_of(listener))
        nursery.cancel_scope.cancel()


async def test_another_file_is_left_alone(short_path):
    path = short_path / "file"
    path.write_text("precious")
    with pytest.raises(OSError, match="or it is another file"):
        async with unix_listener(path):
            pytest.fail("it replaced a file")
    assert path.read_text() == "precious"


@pytest.mark.parametrize("name", ["missing/sock", "x" * 200, "file/sock"])
async def test_paths_that_cannot_be(short_path, name):
    (short_path / "file").touch()
    with pytest.raises(OSError, match=re.escape(str(short_path / name))):
        async with unix_listener(short_path / name):
            pytest.fail("it listens")
    assert [path.name for path in short_path.iterdir()] == ["file"]


async def test_listeners_that_are_no_sockets_have_no_url():
    class Listener(trio.abc.Listener):
        async def accept(self): ...

        async def aclose(self): ...

    assert url_of(Listener()) is None


async def test_the_address_of_a_peer_that_has_gone():
    with trio.socket.socket() as unconnected:
        assert address_of(trio.SocketStream(unconnected)) == "a peer that has gone"
    assert address_of(trio.testing.memory_stream_pair()[0]) == "StapledStream"


@pytest.mark.parametrize("port", ["80", 80.0, None, True, [80]])
async def test_a_port_is_an_integer(port):
    with pytest.raises(TypeError, match="a port is an integer, not"):
        await open_tcp_listeners(port, "127.0.0.1")


@pytest.mark.parametrize("host", ["a" * 64, "a" * 300, "x..y"])
async def test_a_host_name_that_cannot_be_one(host):
    with pytest.raises(ValueError, match="has no possible host name"):
        await open_stream(f"tcp://{host}.invalid:80")


# --- permissions, who listens next, and who connects ---


@pytest.mark.parametrize("mode", [0o600, 0o660, 0o777])
async def test_permissions(short_path, mode):
    async with unix_listener(short_path / "sock", mode):
        assert stat.S_IMODE((short_path / "sock").stat().st_mode) == mode


@pytest.mark.parametrize(
    ("mode", "error"), [("600", TypeError), (True, TypeError), (-1, ValueError), (0o1000, ValueError)]
)
async def test_what_are_no_permissions(short_path, mode, error):
    with pytest.raises(error, match="mode"):
        async with unix_listener(short_path / "sock", mode):
            pytest.fail("it listens")
    assert not (short_path / "sock").exists()


async def test_the_socket_of_who_listens_next_is_left_alone(nursery, short_path):
    path = short_path / "sock"
    async with unix_listener(path) as (one, remove):
        remove()
        assert not path.exists()
        # As after a drain: the old one is still there.
        async with unix_listener(path) as (two, _):
            await accepts_and_echoes(two, nursery)
            remove()
            await check_echo(url_of(two))
            await one.aclose()
            await check_echo(url_of(two))
            nursery.cancel_scope.cancel()
    assert not path.exists()


@pytest.mark.parametrize("how", ["chmod", "chown", "link"])
@pytest.mark.parametrize("when", ["open", "closed"])
async def test_a_socket_that_was_changed_is_still_removed(short_path, how, when):
    path = short_path / "sock"
    async with unix_listener(path) as (listener, remove):
        if how == "chmod":
            path.chmod(0o660)
        elif how == "chown":
            os.chown(path, os.getuid(), os.getgid())
        else:
            os.link(path, short_path / "other")
        if when == "closed":
            await listener.aclose()
        remove()
        assert not path.exists()


async def test_a_socket_that_was_replaced_is_left_alone(short_path):
    path = short_path / "sock"
    with socket.socket(socket.AF_UNIX) as other:
        async with unix_listener(path) as (listener, _):
            made = path.stat().st_ino
            # While handlers end, nobody listens any more; whoever comes next must not get the number of the file.
            await listener.aclose()
            path.unlink()
            other.bind(str(path))
            assert path.stat().st_ino != made
        assert path.exists()


async def test_without_a_descriptor_to_keep_the_socket_it_is_removed_as_well(short_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.EMFILE, "no descriptor is left")

    path = short_path / "sock"
    with monkeypatch.context() as patch:
        patch.setattr(os, "open", refuse)
        async with unix_listener(path):
            assert path.exists()
    assert not path.exists()


async def test_permissions_that_cannot_be_set(short_path, monkeypatch):
    def refuse(*_):
        raise PermissionError

    monkeypatch.setattr(os, "chmod", refuse)
    with pytest.raises(PermissionError):
        async with unix_listener(short_path / "sock"):
            pytest.fail("it listens")
    assert not (short_path / "sock").exists()


async def test_the_process_at_the_other_end(short_path):
    async with unix_listener(short_path / "sock") as (listener, _):
        async with await open_stream(url_of(listener)) as ours, await listener.accept() as theirs:
            expected = (os.getpid(), os.getuid(), os.getgid())
            assert unix_peer_of(ours) == unix_peer_of(theirs) == expected
    assert unix_peer_of(theirs) is None, "closed"
    assert unix_peer_of(trio.testing.memory_stream_pair()[0]) is None
    with trio.socket.socket() as tcp:
        assert unix_peer_of(trio.SocketStream(tcp)) is None


async def test_where_the_kernel_does_not_tell(monkeypatch):
    ours, theirs = trio.socket.socketpair()
    with ours, theirs:
        assert unix_peer_of(trio.SocketStream(ours)) is not None
        # There is the option as well, with another order of the numbers.
        monkeypatch.setattr(_address, "sys", types.SimpleNamespace(platform="openbsd7"))
        assert unix_peer_of(trio.SocketStream(ours)) is None


# --- TLS ---


@pytest.mark.parametrize(
    ("url", "host"),
    [("tls://Host:1", "host"), ("tls://[::1]:1", "::1"), ("tcp://host:1", None), ("tls://[x", None), ("tls:", None)],
)
def test_the_host_of_a_tls_url(url, host):
    assert tls_host_of(url, has_context=False) == host


@pytest.mark.parametrize("url", ["tls://localhost", "tls://:1", "tls://host:0", "tls://host:1/path"])
async def test_the_form_of_a_tls_url(url):
    with pytest.raises(ValueError, match="not of the form tls://host:port"):
        await open_stream(url)


async def test_the_url_of_a_listener_with_tls(nursery):
    (listener,) = await open_tcp_listeners(0, "127.0.0.1")
    await accepts_and_echoes(listener, nursery)
    assert url_of(listener, tls=True) == url_of(listener).replace("tcp:", "tls:")
    await check_echo(url_of(listener, tls=True))
    nursery.cancel_scope.cancel()
