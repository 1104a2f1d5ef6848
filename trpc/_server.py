"""Serving: listeners and streams, each connection in a task of its own."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import trio

from ._address import address_of, open_tcp_listeners, unix_listener, url_of
from ._connection import Connection
from ._limits import Limits
from ._service import Services, table_of
from ._transport import transport_of

if TYPE_CHECKING:
    import os
    from collections.abc import Coroutine, Sequence

    from ._incoming_call import CallInfo
    from ._peer import Peer


@dataclasses.dataclass(frozen=True, slots=True)
class ConnectionInfo:
    """A connection of a server, as it was when it was looked at.

    Attributes:
        peer: who is connected.
        opened: since when, in ``trio.current_time()`` seconds.
        calls: what it has in flight.
    """

    peer: Peer
    opened: float
    calls: tuple[CallInfo, ...]


class Server:
    """The handle of a running server. It is stopped by cancelling the nursery that it was started in."""

    def __init__(self, services: Services, *, limits: Limits | None, send_tracebacks: bool) -> None:
        self._table = table_of(services)
        self._limits = limits or Limits()
        self._send_tracebacks = send_tracebacks
        self._connections: set[Connection] = set()
        self._forget = self._connections.discard
        self._urls: list[str] = []

    @property
    def url(self) -> str:
        """Where it listens, as clients write it; the first of :attr:`urls`.

        Raises:
            RuntimeError: it does not listen on a socket.
        """
        if not self._urls:
            raise RuntimeError("this server has no URL: it does not listen on a TCP or Unix socket")
        return self._urls[0]

    @property
    def urls(self) -> list[str]:
        """All addresses that it listens on."""
        return list(self._urls)

    @property
    def connections(self) -> tuple[ConnectionInfo, ...]:
        """The connections that are open now."""
        return tuple(ConnectionInfo(c.peer, c.opened, tuple(c.calls)) for c in self._connections)

    @property
    def calls(self) -> tuple[CallInfo, ...]:
        """The calls that are in flight now, on all connections."""
        return tuple(call for connection in self._connections for call in connection.calls)

    async def serve_listeners(
        self, listeners: Sequence[trio.abc.Listener[trio.abc.Stream]], task_status: trio.TaskStatus[Server]
    ) -> None:
        """Accepts connections until it is cancelled."""
        self._urls = [url for listener in listeners if (url := url_of(listener)) is not None]
        async with trio.open_nursery() as nursery:
            await nursery.start(trio.serve_listeners, self.serve_stream, listeners)
            task_status.started(self)

    def serve_stream(self, stream: trio.abc.Stream) -> Coroutine[Any, Any, None]:
        """Serves one connection until it ends. A failure in it concerns no other."""
        # The coroutine itself, without one around it that would take memory for each idle connection.
        connection = Connection(
            transport_of(stream, address_of(stream)),
            limits=self._limits,
            table=self._table,
            send_tracebacks=self._send_tracebacks,
            on_end=self._forget,
        )
        self._connections.add(connection)
        return connection.run()


async def serve_tcp(
    services: Services,
    port: int,
    *,
    host: str | None = "127.0.0.1",
    limits: Limits | None = None,
    send_tracebacks: bool = False,
    task_status: trio.TaskStatus[Server] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serves on a TCP port until cancelled: ``server = await nursery.start(trpc.serve_tcp, Calculator(), 0)``.

    Cancelled: it stops listening, every handler is cancelled, and all of them have ended when it returns.

    Args:
        services: one service object, several in a list, or a mapping of names to objects.
        port: 0 takes any free port; see ``server.url``.
        host: the address to listen on; None: all of this machine's.
        limits: what this side accepts.
        send_tracebacks: let errors carry the handler's traceback; it shows the server's code to callers.
        task_status: gets the :class:`Server` once it listens.

    Raises:
        TypeError, ValueError: a service cannot be served, or the port is out of range.
        OSError: the port is in use or needs privileges; the message says what to do.
    """
    server = Server(services, limits=limits, send_tracebacks=send_tracebacks)
    await server.serve_listeners(await open_tcp_listeners(port, host), task_status)


async def serve_unix(
    services: Services,
    path: str | os.PathLike[str],
    *,
    limits: Limits | None = None,
    send_tracebacks: bool = False,
    task_status: trio.TaskStatus[Server] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serves on a Unix socket, which only this user can connect to and which is removed at the end.

    As :func:`serve_tcp`, but for ``path``, where there may be no file yet, or a socket that a killed
    process has left.
    """
    server = Server(services, limits=limits, send_tracebacks=send_tracebacks)
    async with unix_listener(path) as listener:
        await server.serve_listeners([listener], task_status)


async def serve_listeners(
    services: Services,
    listeners: Sequence[trio.abc.Listener[trio.abc.Stream]],
    *,
    limits: Limits | None = None,
    send_tracebacks: bool = False,
    task_status: trio.TaskStatus[Server] = trio.TASK_STATUS_IGNORED,
) -> None:
    """As :func:`serve_tcp`, on listeners that are open already, and that it closes at the end."""
    server = Server(services, limits=limits, send_tracebacks=send_tracebacks)
    await server.serve_listeners(listeners, task_status)


async def serve_stream(
    services: Services,
    stream: trio.abc.Stream,
    *,
    limits: Limits | None = None,
    send_tracebacks: bool = False,
    task_status: trio.TaskStatus[Server] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serves one stream that is open already, until it ends; closes it. Otherwise as :func:`serve_tcp`."""
    server = Server(services, limits=limits, send_tracebacks=send_tracebacks)
    task_status.started(server)
    await server.serve_stream(stream)
