"""The callee's half of a connection: what the peer has asked of this side.

A request is registered before its handler begins, so that a CANCEL that comes right behind it finds it, and
it keeps its slot until its handler has ended, so that cancelling does not make room for more.

A handler begins in the task that reads, or in a worker, in a context of its own and in the scope that the
worker has at the time, with the caller's deadline. Most end there, without having waited. For the others,
what is left is awaited; see ``_relay``. The worker's scope is left before an error or a cancel is answered.
"""

from __future__ import annotations

import functools
import inspect
import logging
import math
from collections import deque
from typing import TYPE_CHECKING, Any, Final, NoReturn, cast

import trio

from . import _codec
from ._callee_streams import CalleeStreams
from ._context import CurrentCall, enter_call
from ._errors import (
    DeadlineExceeded,
    InvalidArguments,
    MessageTooLarge,
    MethodNotFound,
    Overloaded,
    RPCError,
)
from ._exceptions import encode_exception, encode_status
from ._incoming_call import CallInfo, IncomingCall
from ._frames import size_of
from ._messages import ALWAYS_ACCEPTED, Kind, decode_request
from ._metadata import context_for_calls
from ._pump import ItemError, pump
from ._relay import resume

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Mapping

    from ._client import Client
    from ._frames import Data, Frame
    from ._limits import Limits
    from ._outbox import Outbox
    from ._peer import Peer
    from ._protocol import Protocol
    from ._service import BoundMethod
    from ._workers import Worker, Workers

logger = logging.getLogger("trpc")
# What handlers raise has a logger of its own, so that a server can choose how much of it to keep.
handler_logger = logging.getLogger("trpc.handler")

# How often a method's handler has waited lately counts up and down between 0 and the most; from _LIKELY on
# the next one is expected to wait.
_LIKELY: Final = 2
_MOST_LIKELY: Final = 4

# Looking a member of an enum up takes as long as the rest of a line.
_NOTIFY, _RESULT = Kind.NOTIFY.value, Kind.RESULT.value

# Characters of what a peer sent, in messages and in the log.
_MAX_SHOWN: Final = 300


class Dispatcher:
    """Runs the handlers of one connection.

    Args:
        table: wire names to methods; empty if this side has no service.
        protocol, outbox, workers: those of the connection.
        peer: who calls.
        limits: what this side accepts.
        send_tracebacks: whether errors carry the handler's traceback.
        patience: seconds that a producer whose items are not wanted any more is waited for.
        client_of: gives the client for calls in the other direction.

    Attributes:
        now: when the last request was admitted, in ``trio.current_time()`` seconds.
    """

    __slots__ = (
        "_answers",
        "_calls",
        "_client_of",
        "_clock",
        "_context",
        "_deferred",
        "_limits",
        "_outbox",
        "_protocol",
        "_send_tracebacks",
        "_streams",
        "_table",
        "_workers",
        "now",
        "peer",
    )

    def __init__(
        self,
        table: Mapping[str, BoundMethod],
        protocol: Protocol,
        outbox: Outbox,
        workers: Workers,
        *,
        peer: Peer,
        limits: Limits,
        send_tracebacks: bool,
        patience: float,
        client_of: Callable[[], Client],
    ) -> None:
        self.peer = peer
        self.now = 0.0
        self._table = table
        self._protocol = protocol
        self._outbox = outbox
        self._workers = workers
        self._limits = limits
        self._send_tracebacks = send_tracebacks
        self._streams = CalleeStreams(protocol, outbox, limits, patience)
        self._client_of = client_of
        self._calls: dict[int, IncomingCall] = {}
        self._deferred: deque[IncomingCall] | None = None
        """Calls that wait until the peer reads more of the answers, as long as there are any."""
        self._answers = 0
        """Since the last request: where there was one, more are likely to be ready in the same pass."""
        self._context = context_for_calls()
        # Not trio.current_time(), which looks for it anew, for each request.
        self._clock = trio.lowlevel.current_clock()

    @property
    def client(self) -> Client:
        """For calls in the other direction."""
        return self._client_of()

    @property
    def calls(self) -> list[CallInfo]:
        """What is in flight."""
        return [CallInfo(call.method.name, self.peer, call.started, call.deadline) for call in self._calls.values()]

    # --- what the connection's reader tells ---

    def on_request(self, frame: Frame, worker: Worker | None) -> Coroutine[Any, Any, None] | None:
        """A call arrived: runs its handler, has it run, or replies at once why not.

        Args:
            frame: a REQUEST or NOTIFY.
            worker: the one that reads, to run the handler in; None: it is not to be run in this task.

        Returns:
            What is left of a handler that has begun in this task, and now waits. The worker has to await it
            next, and somebody else has to go on reading.
        """
        one_way = frame.kind == _NOTIFY
        call_id = frame.id
        self._answers = 0
        calls = self._calls
        self.now = now = self._clock.current_time()
        try:
            limits = self._limits
            if len(calls) >= limits.max_calls:
                raise Overloaded(f"{limits.max_calls} calls of this connection are in flight, the most allowed")
            if frame.flags:
                raise Overloaded(f"more than {limits.max_incomplete} bytes of requests are on their way, in fragments")
            if len(frame.body) > limits.max_message_size:
                raise MessageTooLarge(f"the request has {len(frame.body)} bytes, of {limits.max_message_size} allowed")
            request = decode_request(frame.body, max_depth=limits.max_depth)
            method = self._table.get(request.method)
            if method is None:
                raise MethodNotFound(f"there is no method {request.method[:_MAX_SHOWN]!r} that can be called here")
            call = IncomingCall(self, call_id, method, request, now, one_way)
            if request.streams or method.method.is_stream:
                self._streams.open(call)
        except RPCError as exc:
            self._reject(call_id, exc, one_way=one_way)
            return None
        calls[call_id] = call
        if request.time_left is not None or limits.max_call_time != math.inf:
            self._set_deadline(call)
        if self._outbox.unsent_answers > limits.max_unsent:
            self._defer(call)
            return None
        # A handler that is likely to wait would stop the reading for a pass of the event loop, so it gets a
        # worker of its own; but if it is the only one, nothing is gained by that.
        if worker is not None and (method.waits < _LIKELY or len(calls) == 1):
            return self.begin(call, worker)
        self._workers.run(call.run)
        return None

    def on_cancel(self, call_id: int) -> None:
        """The caller does not want the call any more. Twice is as once."""
        if (call := self._calls.get(call_id)) is not None:
            call.cancelled = True
            if call.scope is not None:
                call.scope.cancel()
        elif self._protocol.drop_incomplete_request(call_id):
            self._reply(Kind.CANCELLED, call_id)

    def on_stream(self, frame: Frame) -> None:
        """A message of a stream arrived for a call that is open.

        Raises:
            ProtocolError: it must not come now.
        """
        self._streams.on_message(self._calls.get(frame.id), frame)

    # --- a call's life ---

    def _defer(self, call: IncomingCall) -> None:
        """The peer does not read the answers, but has to be read: the call begins when it has read more of them."""
        if self._deferred is None:
            self._deferred = deque()
            self._workers.run(self._begin_deferred)
        self._deferred.append(call)

    @trio.lowlevel.enable_ki_protection
    async def _begin_deferred(self, _: object) -> None:
        deferred = self._deferred
        while deferred:
            await self._outbox.wait_until_answered()
            await trio.lowlevel.checkpoint()
            if not self._outbox.is_full_of_answers:
                self._workers.run(deferred.popleft().run)
        self._deferred = None

    def _set_deadline(self, call: IncomingCall) -> None:
        time_left = call.request.time_left
        if time_left is not None:
            call.deadline = call.started + time_left
            call.expires = True
        if call.started + self._limits.max_call_time < call.deadline:
            call.deadline = call.started + self._limits.max_call_time
            call.expires = False

    @trio.lowlevel.enable_ki_protection
    def begin(self, call: IncomingCall, worker: Worker) -> Coroutine[Any, Any, None] | None:
        """Runs a handler as far as it goes without waiting, from its arguments to the reply if it can.

        Returns:
            What is left of it, if it waits: see :meth:`on_request`.
        """
        scope = call.scope = worker.scope
        if call.deadline != math.inf or call.cancelled:
            if call.cancelled or call.deadline <= call.started:
                self._forget(call)
                self.finish_cancelled(call)
                return None
            scope.deadline = call.deadline
        method = call.method
        context = self._context.copy()
        coroutine = _invoke(call, method)
        try:
            yielded = context.run(coroutine.send, None)
        except StopIteration as stop:
            if not call.one_way:
                self._finish(call, stop.value)
            self._forget(call)
        except BaseException as exc:  # noqa: BLE001 - whatever the handler raises is the caller's to know
            self._forget(call)
            self.finish_raised(call, exc)
        else:
            if method.waits < _MOST_LIKELY:
                method.waits += 1
            worker.call = call
            return self._complete(call, worker, resume(coroutine, yielded, context.run))
        if method.waits:
            method.waits -= 1
        self._leave(call, worker)
        return None

    @trio.lowlevel.enable_ki_protection
    async def _complete(self, call: IncomingCall, worker: Worker, rest: Awaitable[Any]) -> None:
        """Awaits a handler that waits, and replies. What it raises, and its cancel, are left to the worker."""
        try:
            value = await rest
        finally:
            self._forget(call)
        if not call.one_way:
            self._finish(call, value)
        worker.call = None
        self._leave(call, worker)

    def _forget(self, call: IncomingCall) -> None:
        """The handler has ended."""
        del self._calls[call.id]
        if call.items is not None or call.streams is not None:
            self._streams.close(call)

    def _leave(self, call: IncomingCall, worker: Worker) -> None:
        """The worker is done with a call that has ended by itself."""
        if call.cancelled or call.deadline != math.inf:
            worker.reset_scope()
        if call.method.method.is_async:
            worker.check_scope(call)

    def _reject(self, call_id: int, error: RPCError, *, one_way: bool) -> None:
        """The handler does not run."""
        if one_way:
            # With repr: it may quote what the peer sent, which is not to make lines of its own in the log.
            logger.warning("notification from %s dropped: %r", self.peer, str(error)[:_MAX_SHOWN])
        else:
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
        if isinstance(exc, _ArgumentsError):
            self._reject(call.id, exc.reason, one_way=call.one_way)
        elif exc is call.bad_item and isinstance(exc, InvalidArguments):
            # An argument that does not fit, although it was found late.
            self._reply(Kind.ERROR, call.id, encode_status(exc), bulk=call.items is not None)
        elif isinstance(exc, ItemError):
            logger.error("%s for %s: an item cannot be sent", call.method.name, self.peer, exc_info=exc)
            error = exc.reason if isinstance(exc.reason, MessageTooLarge) else RPCError(str(exc))
            self._reply(Kind.ERROR, call.id, encode_status(error), bulk=True)
        elif isinstance(exc, Exception):
            self._finish_failed(call, exc)
        else:
            self._finish_fatal(call, exc)

    def _finish_failed(self, call: IncomingCall, exc: Exception) -> None:
        handler_logger.error("%s for %s raised", call.method.name, self.peer, exc_info=exc)
        if call.one_way:
            return
        try:
            body = encode_exception(
                exc,
                send_traceback=self._send_tracebacks,
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


class _ArgumentsError(Exception):
    """The arguments do not fit, so that the handler has not run."""

    def __init__(self, reason: InvalidArguments) -> None:
        super().__init__()
        self.reason = reason


@trio.lowlevel.disable_ki_protection
async def _invoke(call: IncomingCall, bound: BoundMethod) -> Any:
    """Runs in the call's own context, which may live on in tasks that the handler starts: it does not hold the call."""
    owner = call.owner
    enter_call(CurrentCall(bound.name, owner.peer, call.request.metadata or {}, call.deadline, owner))
    try:
        # Here, because it may run code of the arguments' classes.
        args, kwargs = bound.method.signature.convert_arguments(call.request.args, call.request.kwargs)
    except InvalidArguments as exc:
        raise _ArgumentsError(exc) from None
    if call.items is not None:
        result = bound.call(*args, **kwargs)
        await pump(await result if inspect.isawaitable(result) else result, call.items)
        return None
    if bound.method.is_async:
        return await bound.call(*args, **kwargs)
    if bound.method.in_thread:
        return await trio.to_thread.run_sync(functools.partial(bound.call, *args, **kwargs))
    return bound.call(*args, **kwargs)
