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
import math
from collections import deque
from typing import TYPE_CHECKING, Any, Final

import trio

from ._callee_streams import CalleeStreams
from ._context import CurrentCall, enter_call
from ._errors import (
    InvalidArguments,
    MessageTooLarge,
    MethodNotFound,
    Overloaded,
    ProtocolError,
    RPCError,
)
from ._incoming_call import IncomingCall
from ._incoming_interceptors import run_intercepted
from ._messages import Kind, decode_request
from ._metadata import context_for_calls
from ._pump import pump
from ._relay import resume
from ._replies import MAX_SHOWN, NotRunError, Replies
from ._share import FREE

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence

    from ._activity import CallInfo
    from ._client import Client
    from ._context import HasClient
    from ._frames import Frame
    from ._host import Host
    from ._interceptors import Call
    from ._outbox import Outbox
    from ._peer import Peer
    from ._protocol import Protocol
    from ._service import BoundMethod
    from ._workers import Worker, Workers

# How often a method's handler has waited lately counts up and down between 0 and the most; from _LIKELY on
# the next one is expected to wait.
_LIKELY: Final = 2
_MOST_LIKELY: Final = 4

# Looking a member of an enum up takes as long as the rest of a line.
_NOTIFY = Kind.NOTIFY.value


class Dispatcher(Replies):
    """Runs the handlers of one connection.

    Args:
        host: the options of this side, and its methods.
        protocol, outbox, workers: those of the connection.
        peer: who calls.
        patience: seconds that a producer whose items are not wanted any more is waited for.
        connection: has the client for calls in the other direction.

    Attributes:
        now: when the last request was admitted, in ``trio.current_time()`` seconds.
        interceptors: what is put around handlers.
    """

    __slots__ = (
        "_calls",
        "_clock",
        "_connection",
        "_context",
        "_deferred",
        "_on_idle",
        "_patience",
        "_share",
        "_streams",
        "_table",
        "_workers",
        "interceptors",
        "now",
    )

    def __init__(
        self,
        host: Host,
        protocol: Protocol,
        outbox: Outbox,
        workers: Workers,
        *,
        peer: Peer,
        patience: float,
        connection: HasClient,
    ) -> None:
        super().__init__(protocol, outbox, peer=peer, host=host)
        self.now = 0.0
        self.interceptors = host.interceptors
        self._table = host.methods_for(peer)
        self._share = protocol.share
        self._on_idle: Callable[[], None] | None = None
        self._workers = workers
        self._patience = patience
        self._streams: CalleeStreams | None = None
        """Once there are any: an idle connection is kept small."""
        self._connection = connection
        self._calls: dict[int, IncomingCall] = {}
        self._deferred: deque[IncomingCall] | None = None
        """Calls that wait until the peer reads more of the answers, as long as there are any."""
        self._context = context_for_calls()
        # Not trio.current_time(), which looks for it anew, for each request.
        self._clock = trio.lowlevel.current_clock()

    @property
    def client(self) -> Client:
        """For calls in the other direction."""
        return self._connection.client

    @property
    def draining(self) -> trio.Event:
        """Set when no more calls are accepted."""
        return self._host.draining

    @property
    def is_busy(self) -> bool:
        """Whether any is in flight."""
        return bool(self._calls)

    @property
    def calls(self) -> list[CallInfo]:
        """What is in flight."""
        return [call.info for call in self._calls.values()]

    def oldest_calls(self, most: int, *, besides: str) -> tuple[int, list[CallInfo]]:
        """How many are in flight, and the oldest of them; without those whose names begin like that."""
        calls = [call for call in self._calls.values() if not call.method.name.startswith(besides)]
        return len(calls), [call.info for call in calls[:most]]

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
        costs = 1
        call_id = frame.id
        self._answers = 0
        calls = self._calls
        self.now = now = self._clock.current_time()
        try:
            limits = self._limits
            if len(calls) >= limits.max_calls:
                raise Overloaded(f"{limits.max_calls} calls of this connection are in flight, the most allowed")
            size = len(frame.body)
            if frame.flags or (size + self._share.taken > FREE and not self._share.has_room(size)):
                # Its bytes have come all the same, and cost the peer more than the refusal costs here.
                costs = 0
                raise Overloaded(self._no_room())
            if size > limits.max_message_size:
                raise MessageTooLarge(f"the request has {size} bytes, of {limits.max_message_size} allowed")
            request = decode_request(frame.body, max_depth=limits.max_depth)
            method = self._table.get(request.method)
            if method is None:
                raise MethodNotFound(f"there is no method {request.method[:MAX_SHOWN]!r} that can be called here")
            call = IncomingCall(self, call_id, method, request, now, one_way, size)
            if request.streams or method.method.is_stream:
                self._open_streams(call)
        except RPCError as exc:
            self._reject(call_id, exc, one_way=one_way, costs=costs)
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
        self._hold(call)
        self._workers.run(call.run)
        return None

    def _no_room(self) -> str:
        limits = self._limits
        return (
            f"more than {limits.max_calls} requests are on their way in fragments, or {limits.max_bytes_in_flight} bytes"
            f" of requests are held for this connection, or {limits.max_server_bytes_in_flight} for all"
        )

    def _hold(self, call: IncomingCall) -> None:
        """A call will last longer than until the next one is looked at: its bytes count."""
        if not call.is_held:
            call.is_held = True
            self._share.add(call.size)

    def call_when_idle(self, function: Callable[[], None]) -> None:
        """Calls it each time that a call has ended and none is in flight any more."""
        self._on_idle = function

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
        call = self._calls.get(frame.id)
        if call is not None and self._streams is not None:
            self._streams.on_message(call, frame)
        elif call is not None or (self._protocol.is_open(frame.id) and not _is_cancelled()):
            raise ProtocolError(f"call {frame.id} has no streams, or its request is not complete")
        # Else it has ended since the message was read; or without a reply, because this side is cancelled.

    # --- a call's life ---

    def _defer(self, call: IncomingCall) -> None:
        """The peer does not read the answers, but has to be read: the call begins when it has read more of them."""
        if self._deferred is None:
            self._deferred = deque()
            self._workers.run(self._begin_deferred)
        self._hold(call)
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

    def _open_streams(self, call: IncomingCall) -> None:
        if self._streams is None:
            self._streams = CalleeStreams(self._protocol, self._outbox, self._limits, self._patience)
        self._streams.open(call)

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
            self._hold(call)
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
        if call.is_held:
            self._share.give_back(call.size)
        if self._streams is not None:
            self._streams.close(call)
        if self._on_idle is not None and not self._calls:
            self._on_idle()

    def _leave(self, call: IncomingCall, worker: Worker) -> None:
        """The worker is done with a call that has ended by itself."""
        if call.cancelled or call.deadline != math.inf:
            worker.reset_scope()
        if call.method.method.is_async or self.interceptors:
            worker.check_scope(call)


def _is_cancelled() -> bool:
    """Whether this task is, and with it all of the connection, which may learn of it in the same pass but later."""
    return trio.current_effective_deadline() == -math.inf


@trio.lowlevel.disable_ki_protection
async def _invoke(call: IncomingCall, bound: BoundMethod, given: Call | None = None) -> Any:
    """Runs in the call's own context, which may live on in tasks that the handler starts: it does not hold the call.

    With interceptors, it is run again inside of them, with the call that is ``given`` by the innermost one.
    """
    args: Sequence[Any]
    kwargs: Mapping[str, Any]
    if given is None:
        owner = call.owner
        enter_call(CurrentCall(bound.name, owner.peer, call.request.metadata or {}, call.deadline, owner))
        try:
            # Here, because it may run code of the arguments' classes.
            args, kwargs = bound.method.signature.convert_arguments(call.request.args, call.request.kwargs)
        except InvalidArguments as exc:
            raise NotRunError(exc) from None
        if owner.interceptors:
            return await run_intercepted(call, bound, args, kwargs, _invoke)
    else:
        args, kwargs = given.args, given.kwargs
    if call.items is not None:
        result = bound.call(*args, **kwargs)
        if inspect.isawaitable(result):
            result = await result
        if not hasattr(result, "__aiter__"):
            raise TypeError(f"{bound.name} has to give an async iterable, not {type(result).__name__!r}")
        await pump(result, call.items)
        return None
    if bound.method.is_async:
        return await bound.call(*args, **kwargs)
    if bound.method.in_thread:
        return await trio.to_thread.run_sync(functools.partial(bound.call, *args, **kwargs))
    return bound.call(*args, **kwargs)
