"""Connecting to a server, and what a user calls it with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar, overload

import trio

from ._address import address_of, open_stream
from ._connection import Connection
from ._limits import Limits
from ._proxy import UntypedProxy, typed_proxy
from ._service import service_name
from ._transport import transport_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractAsyncContextManager
    from types import TracebackType

    from ._context import Peer
    from ._transport import Transport

T = TypeVar("T")


class Client:
    """One connection to a server. Made by :func:`connect` and :func:`connect_stream`.

    Any number of tasks may call through it at once; replies come in any order. It may not be used after
    its ``async with`` has ended: calls then raise a ``ConnectionLost`` that is also a
    ``trio.ClosedResourceError``.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._caller = connection.caller

    @property
    def peer(self) -> Peer:
        """The server."""
        return self._connection.peer

    @property
    def late_replies(self) -> int:
        """How many replies came after their caller had given up, and were dropped."""
        return self._caller.late_replies

    # A Callable, because type checkers do not take an abstract class or a Protocol for a type[T].
    @overload
    def proxy(self, interface: str, /) -> UntypedProxy: ...
    @overload
    def proxy(self, interface: Callable[..., T], /, *, name: str | None = None) -> T: ...
    def proxy(self, interface: Any, /, *, name: str | None = None) -> Any:
        """An object whose methods are calls to the server. Making one costs nothing and sends nothing.

        What each method raises, and what happens on cancel, is as for :meth:`call`.

        Args:
            interface: the service's class, a Protocol or abstract class with its methods, for a proxy that
                type checkers know as that class; or the service's name, for an untyped one.
            name: what the server calls the service, if that is not the interface's own name.

        Raises:
            TypeError: the class has no methods that can be called, or a type hint that cannot be sent.
        """
        if isinstance(interface, str):
            return UntypedProxy(self._caller, interface)
        if not isinstance(interface, type):
            raise TypeError(f"a proxy is made from a class or a service's name, not from {interface!r}")
        return typed_proxy(interface, self._caller, name or service_name(interface))

    async def call(self, method: str, /, *args: object, **kwargs: object) -> Any:
        """Calls a method by its name, such as ``"Calculator.add"``. The result is plain data.

        The deadline in effect travels with the call. Cancelled, it asks the server to cancel the handler
        and waits for its end, at most ``cancel_grace`` seconds; a result or error that was faster is
        delivered, as for any operation of Trio's that has completed.

        Raises:
            RemoteError: the handler raised; also that builtin exception, or instead a registered class, or
                an ExceptionGroup of them.
            MethodNotFound, InvalidArguments, Overloaded, Unavailable, MessageTooLarge: it was not executed
                (a ``MessageTooLarge`` that speaks of the reply: it was).
            DeadlineExceeded: a limit of the server's own has passed.
            ConnectionLost: see its ``maybe_executed``.
            ProtocolError: the peer does not speak this protocol, or its reply cannot be read.
        """
        return await self._caller.call(method, args, kwargs)

    async def notify(self, method: str, /, *args: object, **kwargs: object) -> None:
        """Calls a method without waiting for it: returns once the request is handed to the transport.

        Nothing tells whether it ran or what came of it, and it runs no longer than the connection lasts.
        If it matters, use :meth:`call`. Cancelled before it is written: it is not sent.

        Raises:
            InvalidArguments, MessageTooLarge, ConnectionLost: it was not sent, or may not have been.
        """
        await self._caller.notify(method, args, kwargs)

    async def ping(self) -> float:
        """Seconds of a round trip to the server. Cancelled: the answer is ignored.

        Raises:
            ConnectionLost: there was no answer.
        """
        return await self._caller.ping()


class _Connecting:
    """The context manager behind :func:`connect`.

    It is a class because a nursery of its own must not wrap what the body raises into a group: the
    background task never raises, so the nursery is entered and left without the body's exception.
    """

    def __init__(self, open_transport: Callable[[], Any], *, limits: Limits | None, cancel_grace: float) -> None:
        if not cancel_grace >= 0:  # NaN is not either
            raise ValueError(f"cancel_grace is a number of seconds, not {cancel_grace}")
        self._open_transport = open_transport
        self._limits = limits or Limits()
        self._cancel_grace = cancel_grace
        self._nursery_manager: AbstractAsyncContextManager[trio.Nursery]
        self._connection: Connection

    @trio.lowlevel.enable_ki_protection
    async def __aenter__(self) -> Client:
        transport: Transport = await self._open_transport()
        self._connection = Connection(transport, limits=self._limits, table={}, cancel_grace=self._cancel_grace)
        self._nursery_manager = trio.open_nursery()
        nursery = await self._nursery_manager.__aenter__()
        nursery.start_soon(self._run)
        return Client(self._connection)

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
    url: str, *, limits: Limits | None = None, cancel_grace: float = 1.0
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
        limits: what this side accepts, and its own bound on calls in flight.
        cancel_grace: seconds that a cancelled call waits for its handler's end; 0: not at all.

    Raises:
        ValueError: the URL is wrong, or an option.
        Unavailable: nobody listens there; it is an ``OSError`` too.
    """

    async def open_transport() -> Transport:
        stream = await open_stream(url)
        return transport_of(stream, address_of(stream))

    return _Connecting(open_transport, limits=limits, cancel_grace=cancel_grace)


def connect_stream(
    stream: trio.abc.Stream, *, limits: Limits | None = None, cancel_grace: float = 1.0
) -> AbstractAsyncContextManager[Client]:
    """As :func:`connect`, over a stream that is open already, and that it closes at the end."""

    async def open_transport() -> Transport:
        # No checkpoint: a cancel here would leave the stream to nobody.
        return transport_of(stream, address_of(stream))

    return _Connecting(open_transport, limits=limits, cancel_grace=cancel_grace)
