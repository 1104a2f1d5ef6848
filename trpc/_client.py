"""What a user calls a peer with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar, overload

from ._proxy import UntypedProxy, typed_proxy
from ._service import service_name
from ._stream_call import StreamCall, call_with_streams

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractAsyncContextManager

    from trio.abc import ReceiveChannel

    from ._peer import Peer
    from ._stream_call import Calling

T = TypeVar("T")


class Client:
    """One connection to a peer. Made by :func:`connect` and :func:`connect_stream`; see also ``CurrentCall.client``.

    Any number of tasks may call through it at once; replies come in any order. It may not be used after
    its ``async with`` has ended: calls then raise a ``ConnectionLost`` that is also a
    ``trio.ClosedResourceError``.
    """

    def __init__(self, caller: Calling, peer: Peer) -> None:
        self._caller = caller
        self._peer = peer

    @property
    def peer(self) -> Peer:
        """Who is called."""
        return self._peer

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

        An argument that is an async iterable, an async generator or a receive channel is sent as a stream: item by
        item, as the handler takes them. A generator is closed when the call ends. If it raises, the handler's
        ``async for`` does, behind the items before that.

        Raises:
            RemoteError: the handler raised; also that builtin exception, or instead a registered class, or
                an ExceptionGroup of them.
            MethodNotFound, InvalidArguments, Overloaded, Unavailable, MessageTooLarge: it was not executed
                (a ``MessageTooLarge`` that speaks of the reply: it was).
            DeadlineExceeded: a limit of the server's own has passed.
            ConnectionLost: see its ``maybe_executed``.
            ProtocolError: the peer does not speak this protocol, or its reply cannot be read.
        """
        return await call_with_streams(self._caller, method, args, kwargs)

    def stream(
        self, method: str, /, *args: object, **kwargs: object
    ) -> AbstractAsyncContextManager[ReceiveChannel[Any]]:
        """Calls a method that gives a stream, by its name: ``async with client.stream("Log.tail") as lines``.

        Inside, ``lines`` is a ``trio.abc.ReceiveChannel`` of plain data. Leaving the block early cancels the method
        and waits for its end, as for a call. Otherwise as :meth:`call`; a deadline in effect at the beginning is
        that of the whole stream.
        """
        return StreamCall(self._caller, method, args, kwargs)

    async def notify(self, method: str, /, *args: object, **kwargs: object) -> None:
        """Calls a method without waiting for it: returns once the request is handed to the transport.

        Nothing tells whether it ran or what came of it, and it runs no longer than the connection lasts.
        If it matters, use :meth:`call`. Cancelled before it is written: it is not sent.

        Raises:
            InvalidArguments, MessageTooLarge, ConnectionLost: it was not sent, or may not have been.
                A stream cannot be an argument here.
        """
        await self._caller.notify(method, args, kwargs)

    async def ping(self) -> float:
        """Seconds of a round trip to the server. Cancelled: the answer is ignored.

        Raises:
            ConnectionLost: there was no answer.
        """
        return await self._caller.ping()
