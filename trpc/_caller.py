"""The caller's half of a connection: calls, one-way calls and pings on their way out.

A call in flight parks its task; the connection's reader hands the reply over and wakes it. Its cancel
follows Trio's own protocol for operations that cannot be aborted at once: the abort function sends
CANCEL, keeps ``raise_cancel`` and answers ``FAILED``; whatever comes first of the terminal reply, the
grace and the end of the connection then decides what the task gets. No shield, no second task.

::

    call() -- encode --> outbox, park ----------------------------> reply: result or error
                           |  cancelled, frame still queued: take it back, Cancelled
                           '- cancelled, frame gone: CANCEL -+-> CANCELLED, EXPIRED: Cancelled
                                                             +-> result, error: delivered, it won the race
                                                             +-> grace over, connection lost: Cancelled
"""

from __future__ import annotations

import math
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, Final

import outcome
import trio
from trio.lowlevel import Abort

from . import _codec
from ._context import outgoing_metadata
from ._errors import (
    ClientClosed,
    DeadlineExceeded,
    InvalidArguments,
    MessageTooLarge,
    ProtocolError,
    RemoteError,
)
from ._exceptions import decode_error, decode_status
from ._frames import Frame
from ._messages import Kind, encode_request
from ._outgoing import Outgoing, State, size_of

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping, Sequence

    from ._outbox import Outbox
    from ._outgoing import Data
    from ._protocol import Protocol
    from ._signature import Signature
    from ._workers import Workers


# Seconds that a peer may see a deadline before we do. It counts from when the request has arrived, so only
# the rates of the clocks can make it early.
_CLOCK_DIFFERENCE: Final = 1.0

# Looking a member of an enum up takes as long as the rest of a line.
_QUEUED, _RESULT = State.QUEUED, Kind.RESULT.value


class OutgoingCall(Outgoing):
    """One call of ours: from the moment that it has a slot until its terminal reply is there."""

    __slots__ = ("awaited", "cancelled", "deadline", "id", "method", "raise_cancel", "result", "task")

    def __init__(self, method: str) -> None:
        # As Outgoing does, without the call.
        self.data = b""
        self.size = 0
        self.is_answer = False
        self.state = _QUEUED
        self.waiter = None
        self.method = method
        self.id = 0
        self.deadline = math.inf
        self.awaited = True
        """Whether anybody still wants the result; else the late reply is dropped."""
        self.result: Frame | Exception | None = None
        """The terminal reply, or what is raised in its place."""
        self.task: trio.lowlevel.Task | None = None
        """The caller's task while it is parked."""
        self.cancelled = False
        """Whether it only waits for the acknowledgement of its cancel."""
        self.raise_cancel: Callable[[], Any] | None = None
        """Trio's, for a task that was cancelled while it was parked."""


class Caller:
    """All that this side has asked of the peer.

    Args:
        protocol, outbox: those of the connection.
        workers: those of the connection.
        cancel_grace: seconds that a cancelled call waits for its terminal reply; 0: not at all.
        max_depth: nesting accepted in replies.
        max_calls: calls that this side has in flight at most, whatever the peer allows.
        wake_reader: sees to it that the connection is being read.

    Attributes:
        late_replies: replies that came after their caller had given up, and were dropped.
        lead: while nobody reads the connection: reads it, until the call that is given has a result.
    """

    __slots__ = (
        "_cancel_grace",
        "_cancelled",
        "_closing",
        "_enforces_grace",
        "_hello",
        "_idle",
        "_in_flight",
        "_lost",
        "_max_calls",
        "_max_depth",
        "_outbox",
        "_pings",
        "_protocol",
        "_refusal",
        "_slots",
        "_taken",
        "_waiting",
        "_wake_reader",
        "_workers",
        "late_replies",
        "lead",
    )

    def __init__(
        self,
        protocol: Protocol,
        outbox: Outbox,
        workers: Workers,
        *,
        cancel_grace: float,
        max_depth: int,
        max_calls: int,
        wake_reader: Callable[[], None],
    ) -> None:
        self.late_replies = 0
        self.lead: Callable[[OutgoingCall], Coroutine[Any, Any, None]] | None = None
        self._protocol = protocol
        self._outbox = outbox
        self._workers = workers
        self._cancel_grace = cancel_grace
        self._max_depth = max_depth
        self._max_calls = max_calls
        self._wake_reader = wake_reader
        self._in_flight: dict[int, OutgoingCall] = {}
        self._pings: dict[int, trio.Event] = {}
        self._slots: float = min(max_calls, protocol.peer.max_calls)
        self._taken = 0
        """Slots that somebody has. As long as there are others, nobody waits for one."""
        self._waiting = trio.lowlevel.ParkingLot()
        self._hello = trio.Event()
        # Calls that wait for their acknowledgement, and until when; the first one's time is over first.
        self._cancelled: OrderedDict[OutgoingCall, float] = OrderedDict()
        self._enforces_grace = False
        self._idle = trio.Event()
        self._closing = False
        self._lost = False
        self._refusal: Callable[[bool], Exception] | None = None
        """Once there will be no more calls: makes the error of one, from "may it have been executed?"."""

    @property
    def is_idle(self) -> bool:
        """Whether nothing is expected of the peer."""
        return not self._in_flight and not self._pings

    # --- what users await ---

    @trio.lowlevel.enable_ki_protection
    async def call(
        self,
        method: str,
        args: Sequence[object],
        kwargs: Mapping[str, object] | None,
        signature: Signature | None = None,
    ) -> Any:
        """Calls a method of the peer and waits for the outcome. What is raised: see ``Client.call``."""
        call = OutgoingCall(method)
        if self._taken < self._slots:
            self._taken += 1
        else:
            await self._waiting.park()
        try:
            if not self._send_now(call, args, kwargs, signature):
                await self._send_when_possible(call, args, kwargs, signature)
        except BaseException:  # nothing was sent, whatever it is
            self._release_slot()
            raise
        if self.lead is not None:
            # That nobody has to be woken for it is a third of the time of a single call.
            try:
                await self.lead(call)
            except BaseException as exc:
                if call.result is None:
                    await self._give_up(call)
                # A result that won the race is delivered, as if the cancel had come a moment later; Trio
                # raises it again at the next checkpoint. An interrupt comes only once.
                if call.result is None or not isinstance(exc, trio.Cancelled):
                    raise
        else:
            call.task = trio.lowlevel.current_task()
            await trio.lowlevel.wait_task_rescheduled(lambda raise_cancel: self._abort(call, raise_cancel))
        result = call.result
        if isinstance(result, Frame):
            if result.kind == _RESULT:
                return self._value_of(call, result, signature)
            raise await self._error_of(call, result)
        assert result is not None
        raise result

    @trio.lowlevel.enable_ki_protection
    async def notify(self, method: str, args: Sequence[object], kwargs: Mapping[str, object] | None) -> None:
        """Sends a one-way call and waits until the transport has taken it."""
        body, _ = await self._prepare(method, args, kwargs, one_way=True)
        frame = self._outbox.put(self._protocol.notify(body), alone=not self._in_flight)
        if not await self._outbox.wait_written(frame):
            self._raise_if_refused(maybe_executed=not self._outbox.discard(frame))

    @trio.lowlevel.enable_ki_protection
    async def ping(self) -> float:
        """Seconds for a round trip to the peer's protocol machine; no handler is involved."""
        if self._lost or self._closing:
            self._raise_if_refused()
        self._wake_reader()
        number, data = self._protocol.ping()
        pong = self._pings[number] = trio.Event()
        start = trio.current_time()
        try:
            self._outbox.put(data, control=True)
            await pong.wait()
        finally:
            lost = self._pings.pop(number, None) is not None
        if lost:
            self._raise_if_refused()
        return trio.current_time() - start

    # --- what the connection's reader tells ---

    def on_hello(self) -> None:
        """The peer's limits are known."""
        self._set_slots(min(self._max_calls, self._protocol.peer.max_calls))
        self._hello.set()

    def on_reply(self, frame: Frame) -> None:
        """A terminal reply arrived: wakes its caller, or drops it if the caller has given up."""
        call = self._in_flight.pop(frame.id)
        self._release_slot()
        if not call.awaited:
            self.late_replies += 1
        elif not call.cancelled:
            call.awaited = False
            call.result = frame
            if call.task is not None:
                trio.lowlevel.reschedule(call.task)
                call.task = None
        elif frame.kind == Kind.CANCELLED or frame.kind == Kind.EXPIRED:
            self._end_cancelled(call)
        else:
            self._cancelled.pop(call, None)
            self._wake(call, frame)
        if self._closing and not self._is_awaited():
            self._idle.set()

    def on_pong(self, number: int) -> None:
        """A pong arrived; nobody may be waiting for it any more."""
        if (event := self._pings.pop(number, None)) is not None:
            event.set()

    def on_goaway(self, frame: Frame) -> None:
        """The peer takes no more calls: those above the last it accepted were not and will not be executed."""
        make = decode_status(bytes(frame.body), max_depth=self._max_depth)
        self._refuse(lambda _: make())
        self._fail([call for call in self._in_flight.values() if call.id > frame.id])

    def on_lost(self, error: Callable[[bool], Exception]) -> None:
        """The connection has ended: so does every call on it, with an error made by ``error(maybe_executed)``."""
        self._lost = True
        self._refuse(error)
        self._fail(list(self._in_flight.values()))
        for event in self._pings.values():
            event.set()

    @trio.lowlevel.enable_ki_protection
    async def close(self) -> None:
        """Cancels the calls in flight, from whichever task, and waits for their end as a cancelled call does."""
        self._closing = True
        self._refuse(_closed)
        calls = list(self._in_flight.values())
        self._fail([call for call in calls if self._outbox.discard(call)])
        for call in self._in_flight.values():
            if call.awaited and not call.cancelled:
                self._send_cancel(call)
        if self._is_awaited():
            with trio.move_on_after(self._cancel_grace):
                await self._idle.wait()

    # --- the way of a call ---

    def _release_slot(self) -> None:
        if self._taken == self._slots and self._waiting:
            # It passes to the next one.
            self._waiting.unpark()
        else:
            self._taken -= 1

    def _set_slots(self, number: float) -> None:
        self._slots = number
        self._taken += len(self._waiting.unpark(count=max(0, number - self._taken)))

    def _send_now(
        self, call: OutgoingCall, args: Sequence[object], kwargs: Mapping[str, object] | None, signature: Signature | None
    ) -> bool:
        """Queues the request, if there is nothing to be waited for. Otherwise as :meth:`_send_when_possible`."""
        deadline = trio.current_effective_deadline()
        time_left = None
        if deadline != math.inf:
            time_left = deadline - trio.current_time()
            if time_left <= 0:
                return False
        outbox, peer = self._outbox, self._protocol.peer
        if self._refusal is not None or (outbox.unsent and outbox.is_full):
            return False
        if signature is not None and signature.has_typed_keys:
            body = self._encode(call.method, args, kwargs, time_left, signature)
        else:
            try:
                body = encode_request(
                    call.method, args, kwargs, time_left, outgoing_metadata(), max_depth=peer.max_depth
                )
            except _codec.EncodeError:
                body = self._encode(call.method, args, kwargs, time_left, signature)
        if (len(body) if type(body) is bytes else size_of(body)) > peer.max_message_size:
            return False
        call.deadline = deadline
        call.id, data = self._protocol.request(body)
        outbox.put(data, call, alone=not self._in_flight)
        self._in_flight[call.id] = call
        return True

    async def _send_when_possible(
        self, call: OutgoingCall, args: Sequence[object], kwargs: Mapping[str, object] | None, signature: Signature | None
    ) -> None:
        """Queues the request. Nothing was sent if this raises."""
        body, call.deadline = await self._prepare(call.method, args, kwargs, signature)
        call.id, data = self._protocol.request(body)
        self._outbox.put(data, call, alone=not self._in_flight)
        self._in_flight[call.id] = call

    async def _prepare(
        self,
        method: str,
        args: Sequence[object],
        kwargs: Mapping[str, object] | None,
        signature: Signature | None = None,
        *,
        one_way: bool = False,
    ) -> tuple[Data, float]:
        """The body of a request that may be sent now, and the deadline in it.

        The time left is taken after all waiting: for room, and for the peer's limits where the request
        is too large to be sent without knowing them.
        """
        while True:
            if self._outbox.is_full:
                await self._outbox.wait_for_room()
            while (deadline := trio.current_effective_deadline()) <= trio.current_time():
                # Trio is about to deliver a cancel or a deadline. Nothing is sent.
                await trio.lowlevel.checkpoint()
            self._raise_if_refused()
            time_left = None if one_way or deadline == math.inf else deadline - trio.current_time()
            body = self._encode(method, args, kwargs, time_left, signature)
            if size_of(body) <= self._protocol.peer.max_message_size:
                return body, deadline
            if self._protocol.peer_is_known:
                raise MessageTooLarge(
                    f"{method}: the request has {size_of(body)} bytes, and the peer accepts"
                    f" {self._protocol.peer.max_message_size}; it was not sent"
                )
            await self._hello.wait()

    def _encode(
        self,
        method: str,
        args: Sequence[object],
        kwargs: Mapping[str, object] | None,
        time_left: float | None,
        signature: Signature | None,
    ) -> Data:
        max_depth = self._protocol.peer.max_depth
        if signature is not None and signature.has_typed_keys:
            args, kwargs = signature.with_text_keys(args, kwargs or {})
        try:
            return encode_request(method, args, kwargs, time_left, outgoing_metadata(), max_depth=max_depth)
        except _codec.EncodeError as exc:
            named = [(signature.name_of(i) if signature else str(i + 1), value) for i, value in enumerate(args)]
            named += [(repr(name), value) for name, value in (kwargs or {}).items()]
            for name, value in named:
                try:
                    # Two levels less: the request and the list of its arguments are around it.
                    _codec.pack(value, max_depth=max_depth - 2)
                except _codec.EncodeError as reason:
                    raise InvalidArguments(f"{method}: argument {name} cannot be sent: {reason}") from reason
            raise InvalidArguments(f"{method}: the request cannot be sent: {exc}") from exc

    async def _give_up(self, call: OutgoingCall) -> None:
        """The caller is cancelled: waits, within the grace, for what still may come in place of the cancel."""
        if self._take_back(call):
            return
        self._send_cancel(call)
        call.cancelled = True
        if self._cancel_grace > 0:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + self._cancel_grace):
                call.task = trio.lowlevel.current_task()
                await trio.lowlevel.wait_task_rescheduled(_abort_wait)
        call.awaited = False
        call.task = None

    def _abort(self, call: OutgoingCall, raise_cancel: Callable[[], Any]) -> Abort:
        """Trio asks whether the wait for the reply can be given up."""
        if self._take_back(call):
            return Abort.SUCCEEDED
        self._send_cancel(call)
        if self._cancel_grace <= 0:
            # The slot stays taken until the reply: the peer counts the call until its handler has ended.
            call.awaited = False
            return Abort.SUCCEEDED
        call.cancelled = True
        call.raise_cancel = raise_cancel
        self._cancelled[call] = trio.current_time() + self._cancel_grace
        if not self._enforces_grace:
            self._enforces_grace = True
            self._workers.run(self._enforce_grace)
        return Abort.FAILED

    def _take_back(self, call: OutgoingCall) -> bool:
        """Ends a call whose request has not left."""
        if not self._outbox.discard(call):
            return False
        self._forget(call)
        return True

    def _forget(self, call: OutgoingCall) -> None:
        self._protocol.forget_request(call.id)
        del self._in_flight[call.id]
        self._release_slot()

    def _send_cancel(self, call: OutgoingCall) -> None:
        self._outbox.put(self._protocol.cancel(call.id), control=True, alone=len(self._in_flight) <= 1)

    @trio.lowlevel.enable_ki_protection
    async def _enforce_grace(self, _: object) -> None:
        """Ends the waits for acknowledgements that do not come. Runs while there are cancelled calls."""
        while self._cancelled:
            call, until = next(iter(self._cancelled.items()))
            await trio.sleep_until(until)
            if call in self._cancelled:
                self._end_cancelled(call)
        self._enforces_grace = False

    def _wake(self, call: OutgoingCall, result: Frame | Exception) -> None:
        """The call has its result; a task that does not read itself is parked, and goes on."""
        call.awaited = False
        call.result = result
        if call.task is not None:
            trio.lowlevel.reschedule(call.task)
            call.task = None

    def _end_cancelled(self, call: OutgoingCall) -> None:
        """A cancelled call is acknowledged, or given up: its task gets the cancel that it waited with."""
        call.awaited = False
        self._cancelled.pop(call, None)
        assert call.task is not None
        if call.raise_cancel is None:
            trio.lowlevel.reschedule(call.task)
        else:
            trio.lowlevel.reschedule(call.task, outcome.capture(call.raise_cancel))
        call.task = None

    def _value_of(self, call: OutgoingCall, reply: Frame, signature: Signature | None) -> Any:
        try:
            value = _codec.unpack(reply.body, max_depth=self._max_depth)
            if signature is None or signature.convert_result is None:
                return value
            return signature.convert_result(value)
        except _codec.DecodeError as exc:
            raise ProtocolError(f"{call.method}: the result is not what the method returns: {exc}") from exc

    async def _error_of(self, call: OutgoingCall, reply: Frame) -> Exception:
        """What the caller gets from a reply that is no result."""
        if reply.kind == Kind.ERROR:
            return decode_error(bytes(reply.body), max_depth=self._max_depth)
        if reply.kind == Kind.EXPIRED and call.deadline != math.inf:
            # Our own deadline, which the peer's clock saw a moment earlier: our own scope is to fire.
            if call.deadline - trio.current_time() <= _CLOCK_DIFFERENCE:
                await trio.sleep_until(call.deadline)
                await trio.lowlevel.checkpoint()
            # Still here: somebody has moved the scope's deadline since the request was sent, or the peer's
            # word is not to be waited for.
            return DeadlineExceeded(f"{call.method}: the peer says that the deadline of the call has passed")
        if self._closing:
            return _closed(maybe_executed=True)
        return RemoteError("the peer cancelled the call", type_name="Cancelled")

    # --- the end ---

    def _refuse(self, error: Callable[[bool], Exception]) -> None:
        """No new calls from now on; those that wait to be sent find out."""
        self._refusal = error
        self._hello.set()
        # Whoever waits for a slot gets one, and then the error.
        self._set_slots(math.inf)

    def _is_awaited(self) -> bool:
        """Whether anybody waits for a reply."""
        return any(call.awaited for call in self._in_flight.values())

    def _raise_if_refused(self, *, maybe_executed: bool = False) -> None:
        if self._refusal is not None:
            raise self._refusal(maybe_executed)

    def _fail(self, calls: list[OutgoingCall]) -> None:
        assert self._refusal is not None
        for call in calls:
            maybe_executed = not self._outbox.discard(call)
            self._forget(call)
            if call.awaited and call.cancelled:
                self._end_cancelled(call)
            elif call.awaited:
                self._wake(call, self._refusal(maybe_executed))
        if self._closing and not self._is_awaited():
            self._idle.set()


def _abort_wait(_: object) -> Abort:
    return Abort.SUCCEEDED


def _closed(maybe_executed: bool) -> Exception:
    return ClientClosed("this client is closed", maybe_executed=maybe_executed)
