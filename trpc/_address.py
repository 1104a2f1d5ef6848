"""URLs and what is behind them: opening streams and listeners, with errors that say what to do."""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import os
import socket
import stat
import struct
import sys
from typing import TYPE_CHECKING, Any, Final, cast
from urllib.parse import SplitResult, unquote, urlsplit

import trio

from ._errors import UnavailableOSError, UnavailableRefusedError
from ._peer import UnixPeer

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Generator, Sequence

_SCHEMES: Final = "tcp://host:port, tls://host:port or unix:///path/to/socket"

# struct ucred: pid, uid, gid.
_UCRED: Final = struct.Struct("3i")

# Connections that wait to be accepted; the kernel lowers it to what it allows.
_BACKLOG: Final = 1024


def tls_host_of(url: str, *, has_context: bool) -> str | None:
    """The host whose certificate is to be checked; None: without TLS. An URL that is wrong has none.

    Args:
        url: as users have written it.
        has_context: whether they have given an ``ssl_context`` with it.

    Raises:
        ValueError: they have, although it is not for TLS.
    """
    try:
        parts = urlsplit(url)
    except ValueError:
        return None
    if parts.scheme == "tls":
        return parts.hostname
    if has_context:
        hint = f"tls://{parts.netloc}" if parts.scheme == "tcp" else "a URL of the form tls://host:port"
        raise ValueError(f"{url!r} is without TLS, and has no use for an ssl_context: connect to {hint}")
    return None


async def open_stream(url: str) -> trio.SocketStream:
    """Connects to ``url``; if that is for TLS, the handshake is still to be made.

    Raises:
        ValueError: the URL is not one of trpc's; the message says what is wrong with it.
        Unavailable: nobody is there or it cannot be reached; it is an OSError too.
    """
    try:
        parts = urlsplit(url)
    except ValueError as exc:
        raise ValueError(f"{url!r} is not a URL: {exc}") from None
    try:
        if parts.scheme in {"tcp", "tls"}:
            return await trio.open_tcp_stream(*_host_and_port(url, parts))
        if parts.scheme == "unix":
            return await trio.open_unix_socket(_path(url, parts))
    except UnicodeError as exc:
        raise ValueError(f"{url!r} has no possible host name: {exc}") from exc
    except OSError as exc:
        raise _cannot_connect(url, exc) from exc
    raise ValueError(f"{url!r} has the scheme {parts.scheme!r}, which is not known; use {_SCHEMES}")


def _host_and_port(url: str, parts: SplitResult) -> tuple[str, int]:
    try:
        port = parts.port
    except ValueError:  # from urllib: not a number, or out of range
        port = -1
    # A part that means nothing here is a mistake, and not passed over.
    rest = parts.username or parts.password or parts.path.removeprefix("/") or parts.query or parts.fragment
    if not parts.hostname or not port or port < 0 or rest:
        raise ValueError(f"{url!r} is not of the form {parts.scheme}://host:port, with a port from 1 to 65535")
    return parts.hostname, port


def _path(url: str, parts: SplitResult) -> str:
    if parts.netloc or not parts.path or parts.query or parts.fragment:
        raise ValueError(
            f"{url!r} is not of the form unix:///path/to/socket, with three slashes, and ? and # written as %3F and %23"
        )
    return unquote(parts.path)


def _cannot_connect(url: str, exc: OSError) -> OSError:
    # Trio gives one OSError for all addresses of a host, from the group of what happened with each.
    cause = exc.__cause__
    is_group = isinstance(cause, ExceptionGroup)
    causes = cast("ExceptionGroup[OSError]", cause).exceptions if is_group else (cause or exc,)
    if all(isinstance(cause, ConnectionRefusedError | FileNotFoundError) for cause in causes):
        return UnavailableRefusedError(
            errno.ECONNREFUSED, f"nothing listens at {url}: is the server running, and is this its address?"
        )
    return UnavailableOSError(exc.errno, f"cannot connect to {url}: {'; '.join(str(cause) for cause in causes)}")


async def open_tcp_listeners(port: int, host: str | None) -> Sequence[trio.SocketListener]:
    """Listens on a TCP port; 0 takes any free one.

    Raises:
        TypeError: the port is not an integer.
        ValueError: the port is not from 0 to 65535.
        OSError: it is in use, needs privileges, or the host is not one of this machine.
    """
    if type(port) is not int:
        raise TypeError(f"a port is an integer, not {port!r}")
    if not 0 <= port <= 65535:
        raise ValueError(f"port {port} is not from 0 to 65535 (0: any free port)")
    try:
        return await trio.open_tcp_listeners(port, host=host)
    except PermissionError as exc:
        raise PermissionError(
            exc.errno,
            f"not permitted to listen on port {port}: ports below 1024 need privileges; take a higher one",
        ) from exc
    except OSError as exc:
        if exc.errno == errno.EADDRINUSE:
            raise OSError(
                exc.errno,
                f"port {port} on {host} is in use: another program, or another instance of this one, listens"
                f" there; `ss -ltnp 'sport = :{port}'` shows which. Port 0 takes any free port",
            ) from exc
        if exc.errno == errno.EADDRNOTAVAIL or isinstance(exc, socket.gaierror):
            raise OSError(exc.errno, f"{host!r} is not an address of this machine: {exc}") from exc
        raise


@contextlib.asynccontextmanager
async def unix_listener(
    path: str | os.PathLike[str], mode: int = 0o600
) -> AsyncGenerator[tuple[trio.SocketListener, Callable[[], None]], None]:
    """Listens on a Unix socket that only this user can connect to; removes it at the end.

    A socket that nobody listens on any more, left by a process that was killed, is replaced.

    Args:
        path: where.
        mode: permissions; to connect takes that of writing.

    Yields:
        The listener, and a function that removes the socket before the end: another process may then listen there.

    Raises:
        TypeError, ValueError: these are no permissions.
        OSError: another process listens there, there is another file of that name, or it cannot be made.
    """
    if type(mode) is not int:
        raise TypeError(f"a mode is an integer, as 0o660, not {mode!r}")
    if not 0 <= mode <= 0o777:
        raise ValueError(f"mode {mode:#o} is not from 0 to 0o777")
    name = os.fspath(path)
    with trio.socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        if await _is_stale(name):
            os.unlink(name)
        try:
            await sock.bind(name)
        except OSError as exc:
            hint = "another process listens there, or it is another file" if exc.errno == errno.EADDRINUSE else str(exc)
            raise OSError(exc.errno, f"cannot listen on the Unix socket {name!r}: {hint}") from exc
        with _kept(name) as made:
            is_removed = False

            def remove() -> None:
                nonlocal is_removed
                # Not one that somebody else has made there since.
                with contextlib.suppress(FileNotFoundError):
                    if not is_removed and _identity(name) == made:
                        os.unlink(name)
                is_removed = True

            try:
                # Between bind and listen nobody can connect, so there is no moment with other permissions.
                os.chmod(name, mode)
                sock.listen(_BACKLOG)
                yield trio.SocketListener(sock), remove
            finally:
                remove()


def _identity(name: str) -> tuple[int, int]:
    """What no two files have in common that are there at the same time."""
    found = os.lstat(name)
    return found.st_dev, found.st_ino


@contextlib.contextmanager
def _kept(name: str) -> Generator[tuple[int, int], None, None]:
    """The identity of a file, which no other gets meanwhile, although it may be removed and its socket closed."""
    with contextlib.ExitStack() as stack:
        # The socket itself keeps it only while it is open, and a server whose handlers take time to end closes it before.
        with contextlib.suppress(OSError):  # not on this system, or there is no descriptor left
            stack.callback(os.close, os.open(name, getattr(os, "O_PATH", os.O_RDONLY) | os.O_NOFOLLOW | os.O_CLOEXEC))
        yield _identity(name)


async def _is_stale(name: str) -> bool:
    """Whether ``name`` is a socket that refuses connections."""
    try:
        if not stat.S_ISSOCK(os.lstat(name).st_mode):
            return False
        stream = await trio.open_unix_socket(name)
    except FileNotFoundError:
        return False
    except ConnectionRefusedError:
        return True
    await stream.aclose()
    return False


def url_of(listener: trio.abc.Listener[trio.abc.Stream], *, tls: bool = False) -> str | None:
    """Where a listener can be reached, with TLS or without; None if it is not a socket."""
    if not isinstance(listener, trio.SocketListener):
        return None
    name = listener.socket.getsockname()
    if not isinstance(name, str | bytes):
        return f"{'tls' if tls else 'tcp'}://{_host_and_port_of(name)}"
    path = os.path.abspath(os.fsdecode(name))
    # Only what would end the path or be taken for an escape: people read it.
    return "unix://" + path.replace("%", "%25").replace("#", "%23").replace("?", "%3F")


def is_local(sock: trio.socket.SocketType) -> bool:
    """Whether only this machine can reach a socket: it is a Unix socket, or bound to the loopback."""
    if sock.family == socket.AF_UNIX:
        return True
    if sock.family not in {socket.AF_INET, socket.AF_INET6}:
        return False
    address = ipaddress.ip_address(str(sock.getsockname()[0]).partition("%")[0])
    # A socket of both families that is bound to an IPv4 address has it inside of an IPv6 one.
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback


def address_of(stream: trio.abc.Stream) -> str:
    """Where the peer of a stream is, for people to read."""
    if not isinstance(stream, trio.SocketStream):
        return type(stream).__name__
    try:
        peer = stream.socket.getpeername()
        name = peer or stream.socket.getsockname()
    except OSError:  # the peer has gone already
        return "a peer that has gone"
    if isinstance(name, str | bytes):
        return f"unix:{os.fsdecode(name)}"
    return _host_and_port_of(name)


def unix_peer_of(stream: trio.abc.Stream) -> UnixPeer | None:
    """The process at the other end of a Unix socket, where the kernel tells."""
    # OpenBSD has an option of that name, with another order of the numbers.
    if sys.platform != "linux":
        return None
    if not isinstance(stream, trio.SocketStream) or stream.socket.family != socket.AF_UNIX:
        return None
    try:
        data = stream.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    except OSError:  # the peer has gone already
        return None
    return UnixPeer(*_UCRED.unpack(data))


def _host_and_port_of(name: tuple[Any, ...]) -> str:
    """A TCP socket's address, as it stands in a URL."""
    host, port = str(name[0]), name[1]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
