"""Connecting to a server."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import trio

from ._address import address_of, open_stream, tls_host_of, unix_peer_of
from ._connection import Connection
from ._handshakes import check_context, default_context, start_tls
from ._host import Host
from ._messages import Hello
from ._peer import Peer
from ._service import table_of
from ._transport import transport_of
from ._watch import Watch

if TYPE_CHECKING:
    import ssl
    from collections.abc import Awaitable, Callable, Sequence
    from contextlib import AbstractAsyncContextManager
    from types import TracebackType

    from ._client import Client
    from ._interceptors import Interceptor
    from ._limits import Limits
    from ._service import Services
    from ._transport import Transport


class _Connecting:
    """The context manager behind :func:`connect`.

    It is a class because a nursery of its own must not wrap what the body raises into a group: the
    background task never raises, so the nursery is entered and left without the body's exception.
    """

    def __init__(
        self,
        opens: Callable[[], Awaitable[trio.abc.Stream]],
        *,
        where: str,
        ssl_context: ssl.SSLContext | None,
        server_hostname: str | None,
        token: str | None,
        service: Services | None,
        interceptors: Sequence[Interceptor],
        limits: Limits | None,
        cancel_grace: float,
    ) -> None:
        if not cancel_grace >= 0:  # NaN is not either
            raise ValueError(f"cancel_grace is a number of seconds, not {cancel_grace}")
        check_context(ssl_context, server_side=False)
        self._opens = opens
        self._where = where
        self._ssl_context = ssl_context
        self._server_hostname = server_hostname
        table = {} if service is None else table_of(service)
        self._host = Host(table, limits, outgoing_interceptors=interceptors, token=token)
        check_token(token, self._host.limits)
        self._cancel_grace = cancel_grace
        self._nursery_manager: AbstractAsyncContextManager[trio.Nursery]
        self._connection: Connection

    @trio.lowlevel.enable_ki_protection
    async def __aenter__(self) -> Client:
        limits = self._host.limits
        stream = await self._opens()
        transport: Transport = transport_of(stream, address_of(stream))
        peer = Peer(transport.address, unix=unix_peer_of(stream))
        if self._ssl_context is not None:
            transport = tls = await start_tls(
                transport, self._ssl_context, self._server_hostname, where=self._where, within=limits.tls_timeout
            )
            peer = dataclasses.replace(peer, certificate=tls.certificate)
        watch: Watch[Connection] = Watch(limits)
        self._connection = Connection(transport, self._host, watch, peer=peer, cancel_grace=self._cancel_grace)
        self._nursery_manager = trio.open_nursery()
        nursery = await self._nursery_manager.__aenter__()
        nursery.start_soon(self._run)
        return self._connection.client

    @trio.lowlevel.enable_ki_protection
    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        try:
            # Calls of other tasks wait for their acknowledgement, cancelled or not; all of it is bounded.
            with trio.CancelScope(shield=True):
                await self._connection.close(orderly=exc is None)
        finally:
            try:
                await self._nursery_manager.__aexit__(None, None, None)
            except BaseExceptionGroup as group:
                # Nothing but an interrupt, which Trio delivers to whoever waits here: out of the group as well.
                raise group.exceptions[0] from None

    @trio.lowlevel.enable_ki_protection
    async def _run(self) -> None:
        # The connection lives as long as the `async with`, not as long as the scope around it: a call that
        # this scope cancels needs it for its CANCEL and the acknowledgement.
        with trio.CancelScope(shield=True):
            await self._connection.run()


def check_token(token: str | None, limits: Limits) -> None:
    """Raises TypeError or ValueError if it cannot be sent. The message does not have it."""
    if token is None:
        return
    if not isinstance(token, str):  # pyright: ignore[reportUnnecessaryIsInstance] - of users without types
        raise TypeError(f"a token is a str, not {type(token).__name__}")
    if not token:
        raise ValueError("the token is empty, as a setting is that was forgotten")
    try:
        token.encode()
    except UnicodeEncodeError:
        raise ValueError("the token has characters that are no Unicode") from None
    size = len(Hello.of(limits, token).encode())
    if size > limits.max_hello_size:
        raise ValueError(
            f"the token is too long: with it a hello has {size} bytes, of {limits.max_hello_size} (Limits.max_hello_size)"
        )


def connect(
    url: str,
    *,
    ssl_context: ssl.SSLContext | None = None,
    token: str | None = None,
    service: Services | None = None,
    interceptors: Sequence[Interceptor] = (),
    limits: Limits | None = None,
    cancel_grace: float = 1.0,
) -> AbstractAsyncContextManager[Client]:
    """Connects to a server: ``async with trpc.connect("tcp://127.0.0.1:4000") as client``.

    It does not wait for the server's hello: the first call goes out with this side's own. That the peer is
    no trpc server, or one of another version, is therefore raised by the first call.

    Leaving the ``async with`` cancels calls that other tasks have in flight, waits for their end as for a
    cancelled call, and closes the connection. With a server that answers this takes a round trip; with one
    that does not, at most ``cancel_grace`` and two seconds, and one second less if an exception left the block.

    A timeout around the ``async with`` bounds the block too. One for connecting only::

        with trio.fail_after(5) as scope:
            async with trpc.connect(url) as client:
                scope.deadline = math.inf

    Args:
        url: ``tcp://host:port``, ``tls://host:port`` or ``unix:///path``.
        ssl_context: for ``tls://``: whom to trust, and perhaps a certificate of this side's. None:
            ``ssl.create_default_context()``. The server's certificate has to be for the host in the URL.
        token: shown to the server, for its ``authenticate``. Anybody on the way can read it, except over TLS or a Unix
            socket.
        service: what the server may call back, through ``trpc.current_call().client`` in its handlers: as for
            ``trpc.serve_tcp``, one service object, several in a list, or a mapping of names to objects.
        interceptors: put around calls, the first one outermost; see :data:`Interceptor`. They are not put around
            streams, which are entered with ``async with``, nor around what the server calls back.
        limits: what this side accepts, and its own bound on calls in flight.
        cancel_grace: seconds that a cancelled call waits for its handler's end; 0: not at all.

    Raises:
        ValueError: the URL is wrong, or an option.
        TypeError: the service cannot be served, or an option is wrong.
        Unavailable: nobody listens there, or not with TLS, or not with a certificate that is accepted; it is an
            ``OSError`` too.
    """
    host = tls_host_of(url, has_context=ssl_context is not None)
    if host is not None and ssl_context is None:
        ssl_context = default_context()

    async def opens() -> trio.abc.Stream:
        return await open_stream(url)

    return _Connecting(
        opens,
        where=url,
        ssl_context=ssl_context,
        server_hostname=host,
        token=token,
        service=service,
        interceptors=interceptors,
        limits=limits,
        cancel_grace=cancel_grace,
    )


def connect_stream(
    stream: trio.abc.Stream,
    *,
    ssl_context: ssl.SSLContext | None = None,
    server_hostname: str | None = None,
    token: str | None = None,
    service: Services | None = None,
    interceptors: Sequence[Interceptor] = (),
    limits: Limits | None = None,
    cancel_grace: float = 1.0,
) -> AbstractAsyncContextManager[Client]:
    """As :func:`connect`, over a stream that is open already, and that it closes at the end.

    Args:
        stream: a connection to a server. It is closed if TLS or what comes after it fails, too.
        ssl_context: speak TLS over it.
        server_hostname: what the server's certificate has to be for.
        token: as for :func:`connect`, like all that follow.
        service: what the server may call back.
        interceptors: put around calls.
        limits: what this side accepts.
        cancel_grace: seconds that a cancelled call waits for its handler's end.

    Raises:
        ValueError: an option is wrong, or the ``ssl_context`` and the ``server_hostname`` do not go together.
        TypeError: as for :func:`connect`.
        Unavailable: TLS has failed.
    """
    if server_hostname is not None and ssl_context is None:
        raise ValueError("server_hostname is of no use without an ssl_context")
    if ssl_context is not None and ssl_context.check_hostname and not server_hostname:
        raise ValueError("with this ssl_context, server_hostname= has to say what the server's certificate is for")

    async def opens() -> trio.abc.Stream:
        # No checkpoint: a cancel here would leave the stream to nobody.
        return stream

    return _Connecting(
        opens,
        where="the server",
        ssl_context=ssl_context,
        server_hostname=server_hostname,
        token=token,
        service=service,
        interceptors=interceptors,
        limits=limits,
        cancel_grace=cancel_grace,
    )
