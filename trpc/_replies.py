"""What becomes of the peer's calls: replies, from what their handlers return or raise."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final, NoReturn, cast

import trio

from . import _codec
from ._errors import ConnectionLost, DeadlineExceeded, MessageTooLarge, RPCError, Unauthenticated
from ._exceptions import encode_exception, encode_status
from ._frames import size_of
from ._messages import ALWAYS_ACCEPTED, Kind
from ._pump import ItemError

if TYPE_CHECKING:
    from ._frames import Data
    from ._host import Host
    from ._incoming_call import IncomingCall
    from ._outbox import Outbox
    from ._peer import Peer
    from ._protocol import Protocol

logger = logging.getLogger("trpc")
# What handlers raise has a logger of its own, so that a server can choose how much of it to keep.
handler_logger = logging.getLogger("trpc.handler")

# Looking a member of an enum up takes as long as the rest of a line.
_RESULT = Kind.RESULT.value

# Characters of what a peer sent, in messages and in the log.
MAX_SHOWN: Final = 300


class NotRunError(Exception):
    """The handler has not run: the arguments do not fit, or an interceptor has refused the call."""

    def __init__(self, reason: RPCError) -> None:
        super().__init__()
        self.reason = reason


class Replies:
    """The part of a dispatcher that replies.

    Args:
        protocol, outbox: those of the connection.
        peer: who calls.
        host: the options of this side.
    """

    __slots__ = ("_answers", "_host", "_limits", "_outbox", "_protocol", "peer")

    def __init__(self, protocol: Protocol, outbox: Outbox, *, peer: Peer, host: Host) -> None:
        self.peer = peer
        self._protocol = protocol
        self._outbox = outbox
        self._host = host
        self._limits = host.limits
        self._answers = 0
        """Since the last request: where there was one, more are likely to be ready in the same pass."""

    def _reject(self, call_id: int, error: RPCError, *, one_way: bool, costs: int = 1) -> None:
        """The handler does not run. As a rule it costs the peer next to nothing, so that it may not be too often."""
        self._protocol.control += costs
        # With repr: it may quote what the peer sent, which is not to make lines of its own in the log.
        if one_way:
            logger.warning("notification from %s dropped: %r", self.peer, str(error)[:MAX_SHOWN])
            return
        # Who tries what it may not is of interest to others; a mistake of a caller is so to itself, and it is told.
        level = logging.WARNING if isinstance(error, Unauthenticated) else logging.DEBUG
        if logger.isEnabledFor(level):
            name = type(error).__name__
            logger.log(level, "call from %s refused: %s: %r", self.peer, name, str(error)[:MAX_SHOWN])
        self._reply(Kind.ERROR, call_id, encode_status(error))

    def _finish(self, call: IncomingCall, value: object) -> None:
        """The handler has returned."""
        peer = self._protocol.peer
        try:
            if call.method.method.signature.returns_typed_keys:
                value = _codec.with_text_keys(value)
            body: Data
            if isinstance(value, bytes) and len(value) >= _codec.LARGE:
                body = _codec.pack_scattered(value, max_depth=peer.max_depth)
            else:
                body = _codec.pack(value, max_depth=peer.max_depth)
        except _codec.EncodeError as exc:
            logger.exception("%s for %s: the result cannot be encoded", call.method.name, self.peer)
            self._reply_internal(call, f"the result of {call.method.name} cannot be encoded: {exc}")
            return
        if (len(body) if isinstance(body, bytes) else size_of(body)) > peer.max_message_size:
            self._reply(_RESULT, call.id, body)
        else:
            self._answers += 1
            # That of a stream goes behind its items.
            data = self._protocol.reply(_RESULT, call.id, body)
            self._outbox.answer(data, alone=self._answers == 1, bulk=call.items is not None)

    def finish_cancelled(self, call: IncomingCall) -> None:
        """The handler has ended by the cancel of its scope."""
        if call.one_way:
            return
        bulk = call.items is not None
        if call.cancelled:
            self._reply(Kind.CANCELLED, call.id, bulk=bulk)
        elif call.expires:
            self._reply(Kind.EXPIRED, call.id, bulk=bulk)
        else:
            error = DeadlineExceeded(f"{call.method.name} ran for {self._limits.max_call_time} s, the server's limit")
            self._reply(Kind.ERROR, call.id, encode_status(error), bulk=bulk)

    def report_open_scope(self, call: IncomingCall) -> None:
        """The handler has not left a cancel scope that it had entered; others were kept out of it."""
        handler_logger.error(
            "%s for %s has left a cancel scope open, as happens if an async generator is not read to its end and not"
            " closed (contextlib.aclosing does that)",
            call.method.name,
            self.peer,
        )

    def finish_raised(self, call: IncomingCall, exc: BaseException) -> None:
        """The handler has raised. Raises what must not stay with the call."""
        if isinstance(exc, NotRunError):
            self._reject(call.id, exc.reason, one_way=call.one_way)
        elif call.bad_item is not None and _is_nothing_but(exc, call.bad_item):
            # An argument that does not fit, although it was found late.
            self._reply(Kind.ERROR, call.id, encode_status(call.bad_item), bulk=call.items is not None)
        elif isinstance(exc, ItemError):
            logger.error("%s for %s: an item cannot be sent", call.method.name, self.peer, exc_info=exc)
            error = exc.reason if isinstance(exc.reason, MessageTooLarge) else RPCError(str(exc))
            self._reply(Kind.ERROR, call.id, encode_status(error), bulk=True)
        elif isinstance(exc, Exception):
            self._finish_failed(call, exc)
        else:
            self._finish_fatal(call, exc)

    def _finish_failed(self, call: IncomingCall, exc: Exception) -> None:
        if isinstance(exc, ConnectionLost) and self._outbox.is_closed:
            # Of its own call back to a caller that has gone: it was about to be cancelled for that.
            handler_logger.debug("%s for %s has lost its caller", call.method.name, self.peer)
            return
        handler_logger.error("%s for %s raised", call.method.name, self.peer, exc_info=exc)
        if call.one_way:
            return
        try:
            body = encode_exception(
                exc,
                send_traceback=self._host.send_tracebacks,
                max_depth=self._protocol.peer.max_depth,
                after_cancel=call.items is not None and call.cancelled,
            )
        except BaseException as trouble:  # str() and the attributes of a user's exception may raise anything
            logger.exception("%s for %s: the exception cannot be sent", call.method.name, self.peer)
            name = type(exc).__name__
            self._reply_internal(
                call, f"{call.method.name} raised {name}, which cannot be sent: {type(trouble).__name__}"
            )
            if not isinstance(trouble, Exception):
                raise
            return
        self._reply(Kind.ERROR, call.id, body, bulk=call.items is not None)

    def _finish_fatal(self, call: IncomingCall, exc: BaseException) -> NoReturn:
        """Raises what must not stay in this task: KeyboardInterrupt and the like, and Cancelled in groups."""
        rest: BaseException | None = exc
        if isinstance(exc, BaseExceptionGroup):
            cancelled, rest = cast("BaseExceptionGroup[BaseException]", exc).split(trio.Cancelled)
            if rest is None:
                raise exc
            if isinstance(rest, Exception):
                # The connection ends while the handler fails: its errors must not end the server too.
                assert cancelled is not None
                handler_logger.error(
                    "%s for %s raised while it was cancelled", call.method.name, self.peer, exc_info=rest
                )
                raise cancelled
        if not call.one_way:
            # The server ends by it, but the caller hears first.
            self._reply_internal(call, f"{call.method.name} raised {type(rest).__name__}, which ends the server")
        raise exc

    def _reply_internal(self, call: IncomingCall, message: str) -> None:
        error = RPCError(message)
        self._reply(Kind.ERROR, call.id, encode_status(error), bulk=call.items is not None)

    def _reply(self, kind: int, call_id: int, body: Data = b"", *, bulk: bool = False) -> None:
        limit = self._protocol.peer.max_message_size
        size = size_of(body)
        if size > limit and (kind == _RESULT or size > ALWAYS_ACCEPTED):
            error = MessageTooLarge(f"the reply has {size} bytes, and the caller accepts {limit}")
            kind, body = Kind.ERROR, encode_status(error)
        self._answers += 1
        self._outbox.answer(self._protocol.reply(kind, call_id, body), alone=self._answers == 1, bulk=bulk)


def _is_nothing_but(exc: BaseException, leaf: Exception) -> bool:
    """Whether an exception is this one, or groups with nothing else in them."""
    while isinstance(exc, BaseExceptionGroup):
        group = cast("BaseExceptionGroup[BaseException]", exc)
        exc, *others = group.exceptions
        if others:
            return False
    return exc is leaf
