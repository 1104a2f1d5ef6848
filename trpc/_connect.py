"""Connecting to a server."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import trio

from ._address import address_of, open_stream
from ._connection import Connection
from ._host import Host
from ._service import table_of
from ._transport import transport_of
from ._watch import Watch

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
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
        open_transport: Callable[[], Any],
        *,
        service: Services | None,
        interceptors: Sequence[Interceptor],
        limits: Limits | None,
        cancel_grace: float,
    ) -> None:
        if not cancel_grace >= 0:  # NaN is not either
            raise ValueError(f"cancel_grace is a number of seconds, not {cancel_grace}")
        self._open_transport = open_transport
        table = {} if service is None else table_of(service)
        self._host = Host(table, limits, outgoing_interceptors=interceptors)
        self._cancel_grace = cancel_grace
        self._nursery_manager: AbstractAsyncContextManager[trio.Nursery]
        self._connection: Connection

    @trio.lowlevel.enable_ki_protection
    async def __aenter__(self) -> Client:
        transport: Transport = await self._open_transport()
        watch: Watch[Connection] = Watch(self._host.limits)
        self._connection = Connection(transport, self._host, watch, cancel_grace=self._cancel_grace)
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


def connect(
    url: str,
    *,
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
        url: ``tcp://host:port`` or ``unix:///path``.
        service: what the server may call back, through ``trpc.current_call().client`` in its handlers: as for
            ``trpc.serve_tcp``, one service object, several in a list, or a mapping of names to objects.
        interceptors: put around calls, the first one outermost; see :data:`Interceptor`. They are not put around
            streams, which are entered with ``async with``, nor around what the server calls back.
        limits: what this side accepts, and its own bound on calls in flight.
        cancel_grace: seconds that a cancelled call waits for its handler's end; 0: not at all.

    Raises:
        ValueError: the URL is wrong, or an option.
        TypeError: the service cannot be served.
        Unavailable: nobody listens there; it is an ``OSError`` too.
    """

    async def open_transport() -> Transport:
        stream = await open_stream(url)
        return transport_of(stream, address_of(stream))

    return _Connecting(
        open_transport, service=service, interceptors=interceptors, limits=limits, cancel_grace=cancel_grace
    )


def connect_stream(
    stream: trio.abc.Stream,
    *,
    service: Services | None = None,
    interceptors: Sequence[Interceptor] = (),
    limits: Limits | None = None,
    cancel_grace: float = 1.0,
) -> AbstractAsyncContextManager[Client]:
    """As :func:`connect`, over a stream that is open already, and that it closes at the end."""

    async def open_transport() -> Transport:
        # No checkpoint: a cancel here would leave the stream to nobody.
        return transport_of(stream, address_of(stream))

    return _Connecting(
        open_transport, service=service, interceptors=interceptors, limits=limits, cancel_grace=cancel_grace
    )
