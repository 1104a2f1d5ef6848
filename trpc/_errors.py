"""The error tree. Every error that trpc raises of its own accord is an :class:`RPCError`.

Where a local ``await`` would have raised a class that people already catch (``TypeError`` for wrong
arguments, ``trio.TooSlowError`` for a timeout, ``trio.BrokenResourceError`` for a dead peer), the error
is one of that class too. What a handler raised is rebuilt in :mod:`trpc._exceptions`.
"""

from __future__ import annotations

import trio


class RPCError(Exception):
    """Base class of every error of trpc."""


class RemoteError(RPCError):
    """The handler raised an exception, or failed in a way that has no class of its own.

    If the handler raised a builtin exception, the error is an instance of that builtin class as well:
    ``except ZeroDivisionError`` works as it does for a local call. The remote traceback is attached as a
    note if the server sends tracebacks.

    Attributes:
        message: ``str()`` of the remote exception.
        type_name: the name of the remote exception's class; ``"InternalError"`` if the server could not
            run the call or report its outcome.
    """

    message: str
    type_name: str

    def __init__(self, message: str, *, type_name: str = "InternalError") -> None:
        # Not through super(): in the classes that are also a builtin, that one's __init__ comes next, and
        # it may want other arguments (UnicodeDecodeError wants five).
        self.args = (message,)
        self.message = message
        self.type_name = type_name

    def __str__(self) -> str:
        return f"{self.type_name}: {self.message}"


class MethodNotFound(RPCError):
    """The peer has no method of that name that it lets others call. Nothing was executed."""


class InvalidArguments(RPCError, TypeError):
    """An argument does not fit the method's signature, or cannot be sent. The handler did not run.

    It is a ``TypeError`` too, because that is what a local call with these arguments raises.
    """


class DeadlineExceeded(RPCError, trio.TooSlowError):
    """A limit on the server's side ended the call: its own ``max_call_time`` or a timeout in the handler.

    The caller's own deadline never raises this; it fires as ``trio.fail_after`` does around local code.
    """


class ConnectionLost(RPCError, trio.BrokenResourceError):
    """The connection ended before the call had its reply.

    Attributes:
        maybe_executed: False only where the request is known not to have run.
    """

    maybe_executed: bool

    def __init__(self, message: str, *, maybe_executed: bool = True) -> None:
        super().__init__(message)
        self.maybe_executed = maybe_executed


class ClientClosed(ConnectionLost, trio.ClosedResourceError):
    """This side closed the client. Not exported: users see a ``ConnectionLost``, as for a peer's close."""


class ConnectionEnded(ConnectionLost):
    """The connection ended in order. Not exported: users see a ``ConnectionLost`` that is caused by it."""


class Overloaded(RPCError):
    """The peer has as many calls in flight as it allows. The call was not executed."""


class Unavailable(RPCError):
    """The peer cannot be reached or takes no more calls. The call was not executed."""


class UnavailableOSError(Unavailable, OSError):
    """Connecting failed. Not exported: users see an ``Unavailable`` that is also the ``OSError`` it came from."""

    def __str__(self) -> str:
        # Without the number that OSError puts before it: the text says it all.
        return str(self.strerror)


class UnavailableRefusedError(UnavailableOSError, ConnectionRefusedError):
    """Nobody listens there. Not exported, as above."""


class Unauthenticated(RPCError):
    """The peer does not accept the credentials. Nothing was executed."""


class MessageTooLarge(RPCError):
    """A request or a reply is larger than its receiver accepts. Only this call fails."""


class ProtocolError(RPCError):
    """The peer sent bytes that are not trpc, or not the trpc that this side speaks."""
