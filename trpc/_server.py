"""Serving: listeners and streams, each connection in a task of its own."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, Final

import trio

from ._activity import ConnectionInfo
from ._address import address_of, is_local, unix_peer_of, url_of
from ._connection import Connection
from ._errors import Unavailable
from ._handshakes import Handshakes, check_context
from ._host import Host
from ._insecure import InsecureWarning, warn_if_insecure
from ._listening import Listening
from ._peer import Peer
from ._reflection import reflection_methods
from ._transport import transport_of
from ._watch import Watch

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Coroutine, Sequence

    from ._activity import CallInfo
    from ._transport import Transport

_DRAINING: Final = Unavailable("the server takes no more calls, as it is about to stop")

# Seconds for connections that were cut: what is queued is written for one, and the peer's close awaited for another.
_HARD_END: Final = 3.0
# Seconds that a client has for its handshake when the server is about to stop, so as to be told that.
_LAST_HANDSHAKES: Final = 1.0
# Clients above the limit that are told so at the same time. It takes a second or two each.
_MAX_TURNED_AWAY: Final = 100


def check_grace(grace: float | None) -> None:
    """Checks what :meth:`Server.drain` takes.

    Raises:
        ValueError: it is not 0 or more.
    """
    if grace is not None and not grace >= 0:  # NaN is not either
        raise ValueError(f"the grace is a number of seconds, not {grace}")


class Server:
    """The handle of a running server.

    It is stopped softly with :meth:`drain`, and at once by cancelling the nursery that it was started in.

    Attributes:
        ended: set when it serves no more, however it was stopped.
    """

    def __init__(
        self, host: Host, ssl_context: ssl.SSLContext | None = None, *, reflection: bool | None = None
    ) -> None:
        check_context(ssl_context, server_side=True)
        if reflection is not None and not isinstance(reflection, bool):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"reflection is True, False or None, not {reflection!r}")
        self._host = host
        self._reflection = reflection
        self._handshakes = (
            None if ssl_context is None else Handshakes(ssl_context, host.limits.tls_timeout, self._on_end)
        )
        self._watch: Watch[Connection] = Watch(host.limits)
        self._turned_away = 0
        self._listening: Listening | None = None
        self._nursery: trio.Nursery | None = None
        self._urls: list[str] = []
        self._on_gone: trio.Event | None = None
        self.ended = trio.Event()

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

    @property
    def is_draining(self) -> bool:
        """Whether it accepts no more calls."""
        return self._host.draining.is_set()

    async def drain(self, grace: float | None = None) -> None:
        """Stops softly: what it has accepted is finished, and nothing else is begun.

        It stops listening, and tells each client how far it has accepted calls: later ones get ``Unavailable`` and are
        not executed. ``trpc.current_call().draining`` is set. A connection is closed when its calls have ended, streams
        included, and their replies are written. What is left after the grace is cut: handlers are cancelled, and
        their callers get ``ConnectionLost``. Then ``serve_tcp()``, or whichever it was, returns.

        A handler that shields itself from its cancel keeps ``serve_tcp()`` from returning, and not this.
        Call it from a task of your own: a handler that awaits it waits for itself, until the grace is over.
        Cancelled: no more calls are accepted, but nothing is cut, and ``serve_tcp()`` does not return by itself.
        It may be called again, with a shorter grace for instance.

        Args:
            grace: seconds; None: ``Limits.drain_grace``.

        Raises:
            ValueError: it is not 0 or more.
        """
        check_grace(grace)
        grace = self._host.limits.drain_grace if grace is None else grace
        self._host.draining.set()
        if self._listening is not None:
            self._listening.stop()
        for connection in list(self._connections):
            connection.drain(_DRAINING)
        if self._listening is not None:
            # Those that it has accepted last are to be told, too.
            await self._listening.ended.wait()
        # Their tasks have begun by then.
        await trio.lowlevel.checkpoint()
        if self._handshakes is not None:
            self._handshakes.end(within=min(grace, _LAST_HANDSHAKES))
        with trio.move_on_after(grace):
            await self._wait_until_gone()
        for connection in list(self._connections):
            connection.cut(f"the server has stopped, and this call had not ended within {grace} s")
        # It may be a handler that waits for this, and was cancelled just now.
        with trio.move_on_after(_HARD_END, shield=True):
            await self._wait_until_gone()
        if self._nursery is not None:
            self._nursery.cancel_scope.cancel()

    @property
    def _connections(self) -> set[Connection]:
        return self._watch.connections

    @property
    def _number(self) -> int:
        """How many connections there are, those in their handshake included."""
        return len(self._connections) + (0 if self._handshakes is None else len(self._handshakes))

    def _on_end(self, _: Connection | None = None) -> None:
        if self._on_gone is not None and not self._number:
            self._on_gone.set()

    async def _wait_until_gone(self) -> None:
        while self._number:
            if self._on_gone is None or self._on_gone.is_set():
                self._on_gone = trio.Event()
            await self._on_gone.wait()

    async def serve_listeners(
        self,
        listeners: Sequence[trio.abc.Listener[trio.abc.Stream]],
        task_status: trio.TaskStatus[Server],
        *,
        allow_insecure: bool = True,
        on_stop: Callable[[], None] | None = None,
    ) -> None:
        """Accepts connections until it is cancelled or drained.

        Args:
            listeners: closed at the end.
            task_status: gets this.
            allow_insecure: do not warn.
            on_stop: called when it listens no more, if it was drained.
        """
        if not (allow_insecure or self._handshakes is not None or self._host.authenticate is not None):
            try:
                warn_if_insecure(listeners)
            except InsecureWarning:
                for listener in listeners:
                    await trio.aclose_forcefully(listener)
                raise
        self._reflect(
            is_local=all(
                isinstance(listener, trio.SocketListener) and is_local(listener.socket) for listener in listeners
            )
        )
        tls = self._handshakes is not None
        self._urls = [url for listener in listeners if (url := url_of(listener, tls=tls)) is not None]
        try:
            async with trio.open_nursery() as self._nursery:
                self._nursery.start_soon(self._watch.run)
                self._listening = Listening(listeners, self.serve_stream, self._nursery, on_stop)
                await self._nursery.start(self._listening.run)
                task_status.started(self)
        finally:
            self.ended.set()

    async def serve_one(self, stream: trio.abc.Stream, task_status: trio.TaskStatus[Server]) -> None:
        """Serves the one connection that there is."""
        self._reflect(is_local=isinstance(stream, trio.SocketStream) and is_local(stream.socket))
        task_status.started(self)
        try:
            await self.serve_stream(stream)
        finally:
            self.ended.set()

    def _reflect(self, *, is_local: bool) -> None:
        """Has it describe itself, if it is to."""
        if is_local if self._reflection is None else self._reflection:
            self._host.table = {
                **self._host.table,
                **reflection_methods(self._host, self._connections, is_local=is_local),
            }

    def serve_stream(self, stream: trio.abc.Stream) -> Coroutine[Any, Any, None]:
        """Serves one connection until it ends. A failure in it concerns no other."""
        # The coroutine itself, without one around it that would take memory for each idle connection.
        if self._number >= self._host.limits.max_connections:
            return self._turn_away(stream)
        transport = transport_of(stream, address_of(stream))
        peer = Peer(transport.address, unix=unix_peer_of(stream))
        return self._serve(transport, peer) if self._handshakes is None else self._serve_tls(transport, peer)

    def _serve(self, transport: Transport, peer: Peer) -> Coroutine[Any, Any, None]:
        connection = Connection(transport, self._host, self._watch, peer=peer, on_end=self._on_end)
        self._connections.add(connection)
        if self.is_draining:
            connection.drain(_DRAINING)
        return connection.run()

    async def _serve_tls(self, inner: Transport, peer: Peer) -> None:
        assert self._handshakes is not None
        transport = await self._handshakes.accept(inner)
        if transport is not None:
            await self._serve(transport, dataclasses.replace(peer, certificate=transport.certificate))

    async def _turn_away(self, stream: trio.abc.Stream) -> None:
        """Tells a client that there are too many; if there are too many to be told, not even that."""
        if self._turned_away >= _MAX_TURNED_AWAY:
            await trio.aclose_forcefully(stream)
            return
        self._turned_away += 1
        try:
            inner = transport_of(stream, address_of(stream))
            transport = inner if self._handshakes is None else await self._handshakes.accept(inner)
            if transport is None:
                return
            connection = Connection(transport, Host({}, self._host.limits))
            connection.drain(
                Unavailable(f"{self._host.limits.max_connections} connections are open, the most that are served")
            )
            await connection.run()
        finally:
            self._turned_away -= 1
