"""Where ``trpc serve`` listens: its URL, as sockets."""

from __future__ import annotations

import dataclasses
import errno
import socket
from typing import Final
from urllib.parse import unquote, urlsplit

from ._exits import CommandError

_FORMS: Final = "tcp://host:port, tls://host:port or unix:///path"


@dataclasses.dataclass(frozen=True, slots=True)
class Place:
    """Where to listen.

    Attributes:
        host: an address of this machine; empty for a Unix socket.
        port: 0 is any that is free.
        path: of a Unix socket; empty for TCP.
        is_tls: whether to speak TLS.
    """

    host: str = ""
    port: int = 0
    path: str = ""
    is_tls: bool = False


def place_of(url: str) -> Place:
    """Where a URL says.

    Raises:
        CommandError: it is wrong.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as exc:
        raise CommandError(f"{url!r} is not a URL: {exc}", hint=_FORMS) from None
    if parts.scheme == "unix" and parts.path and not parts.netloc:
        return Place(path=unquote(parts.path))
    if parts.scheme not in {"tcp", "tls"}:
        raise CommandError(f"{url!r} is nowhere to listen", hint=_FORMS)
    if not parts.hostname or parts.username or parts.path.removeprefix("/") or parts.query or parts.fragment:
        raise CommandError(
            f"{url!r} is not of the form {parts.scheme}://host:port",
            hint="0.0.0.0 is all addresses of this machine, port 0 any that is free",
        )
    return Place(host=parts.hostname, port=port or 0, is_tls=parts.scheme == "tls")


def listening_sockets(place: Place) -> list[socket.socket]:
    """Sockets that listen, for a server that is started again and again.

    Raises:
        CommandError: they cannot be had.
    """
    sockets: list[socket.socket] = []
    port = place.port
    try:
        for family, _, _, _, address in socket.getaddrinfo(
            place.host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        ):
            # The same port for all addresses, if the system has chosen one.
            sockets.append(socket.create_server((str(address[0]), port), family=family, backlog=1024))
            port = sockets[0].getsockname()[1]
    except OSError as exc:
        for listening in sockets:
            listening.close()
        if exc.errno == errno.EADDRINUSE:
            raise CommandError(
                f"port {port} on {place.host} is in use: another program, or another instance of this one, listens there",
                hint=f"`ss -ltnp 'sport = :{port}'` shows which; port 0 takes any free port",
            ) from None
        # Without what Python puts behind it, which says the address once more.
        reason = str(exc.strerror).partition(" (while attempting")[0]
        raise CommandError(f"cannot listen on {place.host}:{port}: {reason}") from None
    return sockets
