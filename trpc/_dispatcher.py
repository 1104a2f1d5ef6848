"""The callee's half of a connection: what the peer has asked of this side.

A request is registered before its task starts, so that a CANCEL that comes right behind it finds it, and
it keeps its slot until its handler has ended, so that cancelling does not make room for more. Each handler
runs in a task of its own, in the connection's nursery, under a cancel scope that has the caller's deadline.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
import math
from typing import TYPE_CHECKING, Any, Final, NoReturn, cast

import trio

from . import _codec
from ._context import CurrentCall, enter_call
from ._errors import DeadlineExceeded, InvalidArguments, MessageTooLarge, MethodNotFound, Overloaded, RPCError
from ._exceptions import encode_exception, encode_status
from ._messages import ALWAYS_ACCEPTED, Kind, Request, decode_request

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from ._context import Peer
    from ._frames import Frame
    from ._limits import Limits
    from ._outbox import Outbox
    from ._protocol import Protocol
    from ._service import BoundMethod

logger = logging.getLogger("trpc")
# What handlers raise has a logger of its own, so that a server can choose how much of it to keep.
handler_logger = logging.getLogger("trpc.handler")

# Characters of what a peer sent, in messages and in the log.
_MAX_SHOWN: Final = 300


class IncomingCall:
    """One call of the peer's, until its handler has ended and the reply is queued."""

    __slots__ = ("cancelled", "context", "expires", "id", "method", "one_way", "request", "scope", "started")

    def __init__(
        self,
        call_id: int,
        method: BoundMethod,
        request: Request,
        context: CurrentCall,
        *,
        expires: bool,
        one_way: bool,
    ) -> None:
        self.id = call_id
        self.method = method
        self.request = request
        self.context = context
        self.expires = expires
        """Whether the deadline is the caller's; else it is a limit of this side."""
        self.one_way = one_way
        self.scope = trio.CancelScope(deadline=context.deadline)
        self.cancelled = False
        self.started = trio.current_time()


@dataclasses.dataclass(frozen=True, slots=True)
class CallInfo:
    """A call that a server has in flight, as it was when it was looked at.

    Attributes:
        method: its name on the wire.
        peer: who called.
        started: when its request arrived, in ``trio.current_time()`` seconds.
        deadline: when it ends at the latest; ``math.inf`` if there is no bound.
    """

    method: str
    peer: Peer
    started: float
    deadline: float


class Dispatcher:
    """Runs the handlers of one connection.

    Args:
        table: wire names to methods; empty if this side has no service.
        protocol, outbox: those of the connection.
        peer: who calls.
        limits: what this side accepts.
        send_tracebacks: whether errors carry the handler's traceback.
        start_soon: starts a task in the connection's nursery.
    """

    def __init__(
        self,
        table: Mapping[str, BoundMethod],
        protocol: Protocol,
        outbox: Outbox,
        *,
        peer: Peer,
        limits: Limits,
        send_tracebacks: bool,
        start_soon: Callable[..., None],
    ) -> None:
        self._table = table
        self._protocol = protocol
        self._outbox = outbox
        self._peer = peer
        self._limits = limits
        self._send_tracebacks = send_tracebacks
        self._start_soon = start_soon
        self._calls: dict[int, IncomingCall] = {}

    @property
    def calls(self) -> list[CallInfo]:
        """What is in flight."""
        return [
            CallInfo(call.method.name, self._peer, call.started, call.context.deadline) for call in self._calls.values()
        ]

    # --- what the connection's reader tells ---

    def on_request(self, frame: Frame) -> None:
        """A call arrived: starts its handler, or replies at once why not."""
        one_way = frame.kind == Kind.NOTIFY
        try:
            call = self._admit(frame, one_way=one_way)
        except RPCError as exc:
            self._reject(frame.id, exc, one_way=one_way)
            return
        if call is None:
            if not one_way:
                self._reply(Kind.EXPIRED, frame.id)
            return
        self._calls[call.id] = call
        self._start_soon(self._run, call, name=call.method.name)

    def on_cancel(self, call_id: int) -> None:
        """The caller does not want the call any more. Twice is as once."""
        if (call := self._calls.get(call_id)) is not None:
            call.cancelled = True
            call.scope.cancel()

    # --- a call's life ---

    def _admit(self, frame: Frame, *, one_way: bool) -> IncomingCall | None:
        """The call that a request asks for; None if its time is over already.

        Raises:
            RPCError: it cannot be run.
        """
        if len(self._calls) >= self._limits.max_calls:
            raise Overloaded(f"{self._limits.max_calls} calls of this connection are in flight, the most allowed")
        if len(frame.body) > self._limits.max_message_size:
            raise MessageTooLarge(
                f"the request has {len(frame.body)} bytes, of {self._limits.max_message_size} allowed"
            )
        request = decode_request(frame.body, max_depth=self._limits.max_depth)
        method = self._table.get(request.method)
        if method is None:
            raise MethodNotFound(f"there is no method {request.method[:_MAX_SHOWN]!r} that can be called here")
        if request.time_left is not None and request.time_left <= 0:
            return None
        now = trio.current_time()
        caller_deadline = math.inf if request.time_left is None else now + request.time_left
        own_deadline = now + self._limits.max_call_time
        deadline = min(caller_deadline, own_deadline)
        context = CurrentCall(request.method, self._peer, request.metadata or {}, deadline)
        return IncomingCall(
            frame.id, method, request, context, expires=caller_deadline <= own_deadline, one_way=one_way
        )

    @trio.lowlevel.enable_ki_protection
    async def _run(self, call: IncomingCall) -> None:
        """The handler's task, from the first step to the reply."""
        enter_call(call.context)
        try:
            if call.cancelled:
                self._finish_cancelled(call)
                return
            # Here and not in the reader: it may run code of the arguments' classes.
            arguments = self._arguments_of(call)
            if arguments is None:
                return
            # The scope is inside the try: what leaves it has no Cancelled of the call's own any more.
            with call.scope:
                self._finish(call, await _invoke(call.method, *arguments))
            if call.scope.cancelled_caught:
                self._finish_cancelled(call)
        except Exception as exc:  # noqa: BLE001 - whatever the handler raises is the caller's to know
            self._finish_failed(call, exc)
        except trio.Cancelled:
            # The whole connection ends; nobody is there to be told.
            raise
        except BaseException as exc:  # noqa: BLE001 - always raised again
            self._finish_fatal(call, exc)
        finally:
            del self._calls[call.id]

    def _arguments_of(self, call: IncomingCall) -> tuple[Sequence[Any], Mapping[str, Any]] | None:
        """What the handler is called with; None if it does not fit, and the caller has been told."""
        try:
            return call.method.method.signature.convert_arguments(call.request.args, call.request.kwargs)
        except InvalidArguments as exc:
            self._reject(call.id, exc, one_way=call.one_way)
            return None

    def _reject(self, call_id: int, error: RPCError, *, one_way: bool) -> None:
        """The handler does not run."""
        if one_way:
            # With repr: it may quote what the peer sent, which is not to make lines of its own in the log.
            logger.warning("notification from %s dropped: %r", self._peer, str(error)[:_MAX_SHOWN])
        else:
            self._reply(Kind.ERROR, call_id, encode_status(error))

    def _finish(self, call: IncomingCall, value: object) -> None:
        if call.one_way:
            return
        try:
            if call.method.method.signature.returns_typed_keys:
                value = _codec.with_text_keys(value)
            body = _codec.pack(value, max_depth=self._protocol.peer.max_depth)
        except _codec.EncodeError as exc:
            logger.exception("%s for %s: the result cannot be encoded", call.method.name, self._peer)
            self._reply_internal(call, f"the result of {call.method.name} cannot be encoded: {exc}")
            return
        self._reply(Kind.RESULT, call.id, body)

    def _finish_cancelled(self, call: IncomingCall) -> None:
        if call.one_way:
            return
        if call.cancelled:
            self._reply(Kind.CANCELLED, call.id)
        elif call.expires:
            self._reply(Kind.EXPIRED, call.id)
        else:
            error = DeadlineExceeded(f"{call.method.name} ran for {self._limits.max_call_time} s, the server's limit")
            self._reply(Kind.ERROR, call.id, encode_status(error))

    def _finish_failed(self, call: IncomingCall, exc: Exception) -> None:
        handler_logger.error("%s for %s raised", call.method.name, self._peer, exc_info=exc)
        if call.one_way:
            return
        try:
            body = encode_exception(exc, send_traceback=self._send_tracebacks, max_depth=self._protocol.peer.max_depth)
        except BaseException as trouble:  # str() and the attributes of a user's exception may raise anything
            logger.exception("%s for %s: the exception cannot be sent", call.method.name, self._peer)
            name = type(exc).__name__
            self._reply_internal(
                call, f"{call.method.name} raised {name}, which cannot be sent: {type(trouble).__name__}"
            )
            if not isinstance(trouble, Exception):
                raise
            return
        self._reply(Kind.ERROR, call.id, body)

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
                    "%s for %s raised while it was cancelled", call.method.name, self._peer, exc_info=rest
                )
                raise cancelled
        if not call.one_way:
            # The server ends by it, but the caller hears first.
            self._reply_internal(call, f"{call.method.name} raised {type(rest).__name__}, which ends the server")
        raise exc

    def _reply_internal(self, call: IncomingCall, message: str) -> None:
        error = RPCError(message)
        self._reply(Kind.ERROR, call.id, encode_status(error))

    def _reply(self, kind: Kind, call_id: int, body: bytes = b"") -> None:
        limit = self._protocol.peer.max_message_size
        if len(body) > (limit if kind is Kind.RESULT else max(limit, ALWAYS_ACCEPTED)):
            error = MessageTooLarge(f"the reply has {len(body)} bytes, and the caller accepts {limit}")
            kind, body = Kind.ERROR, encode_status(error)
        self._outbox.put(self._protocol.reply(kind, call_id, body), is_answer=True)


@trio.lowlevel.disable_ki_protection
async def _invoke(bound: BoundMethod, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    if bound.method.is_async:
        return await bound.call(*args, **kwargs)
    if bound.method.in_thread:
        return await trio.to_thread.run_sync(functools.partial(bound.call, *args, **kwargs))
    return bound.call(*args, **kwargs)
