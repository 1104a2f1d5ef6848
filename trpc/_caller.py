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
from ._messages import Kind, encode_request

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from ._frames import Frame
    from ._outbox import Outbox, Outgoing
    from ._protocol import Protocol
    from ._signature import Signature


# Seconds that a peer may see a deadline before we do. It counts from when the request has arrived, so only
# the rates of the clocks can make it early.
_CLOCK_DIFFERENCE: Final = 1.0


class OutgoingCall:
    """One call of ours: from the moment that it has a slot until its terminal reply is there."""

    __slots__ = ("deadline", "frame", "id", "method", "raise_cancel", "task")

    def __init__(self, method: str) -> None:
        self.method = method
        self.id = 0
        self.deadline = math.inf
        self.frame: Outgoing
        self.task: trio.lowlevel.Task | None = None
        """The caller's task while it waits; None once it has given up and the late reply is to be dropped."""
        self.raise_cancel: Callable[[], Any] | None = None
        """Set while a cancelled call waits for the acknowledgement."""


class Caller:
    """All that this side has asked of the peer.

    Args:
        protocol, outbox: those of the connection.
        cancel_grace: seconds that a cancelled call waits for its terminal reply; 0: not at all.
        max_depth: nesting accepted in replies.
        max_calls: calls that this side has in flight at most, whatever the peer allows.
        start_soon: starts a background task of the connection.

    Attributes:
        late_replies: replies that came after their caller had given up, and were dropped.
    """

    def __init__(
        self,
        protocol: Protocol,
        outbox: Outbox,
        *,
        cancel_grace: float,
        max_depth: int,
        max_calls: int,
        start_soon: Callable[..., None],
    ) -> None:
        self.late_replies = 0
        self._protocol = protocol
        self._outbox = outbox
        self._cancel_grace = cancel_grace
        self._max_depth = max_depth
        self._max_calls = max_calls
        self._start_soon = start_soon
        self._in_flight: dict[int, OutgoingCall] = {}
        self._pings: dict[int, trio.Event] = {}
        self._slots = trio.CapacityLimiter(min(max_calls, protocol.peer.max_calls))
        self._hello = trio.Event()
        # Calls that wait for their acknowledgement, and until when; the first one's time is over first.
        self._cancelled: OrderedDict[OutgoingCall, float] = OrderedDict()
        self._enforces_grace = False
        self._idle = trio.Event()
        self._closing = False
        self._lost = False
        self._refusal: Callable[[bool], Exception] | None = None
        """Once there will be no more calls: makes the error of one, from "may it have been executed?"."""

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
        await self._acquire_slot(call)
        try:
            await self._send_request(call, args, kwargs, signature)
        except BaseException:  # nothing was sent, whatever it is
            self._slots.release_on_behalf_of(call)
            raise
        call.task = trio.lowlevel.current_task()
        reply: Frame = await trio.lowlevel.wait_task_rescheduled(lambda raise_cancel: self._abort(call, raise_cancel))
        return await self._outcome(call, reply, signature)

    @trio.lowlevel.enable_ki_protection
    async def notify(self, method: str, args: Sequence[object], kwargs: Mapping[str, object] | None) -> None:
        """Sends a one-way call and waits until the transport has taken it."""
        body, _ = await self._prepare(method, args, kwargs, one_way=True)
        frame = self._outbox.put(self._protocol.notify(body))
        if not await self._outbox.wait_written(frame):
            self._raise_if_refused(maybe_executed=not self._outbox.discard(frame))

    @trio.lowlevel.enable_ki_protection
    async def ping(self) -> float:
        """Seconds for a round trip to the peer's protocol machine; no handler is involved."""
        if self._lost or self._closing:
            self._raise_if_refused()
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
        self._slots.total_tokens = min(self._max_calls, self._protocol.peer.max_calls)
        self._hello.set()

    def on_reply(self, frame: Frame) -> None:
        """A terminal reply arrived: wakes its caller, or drops it if the caller has given up."""
        call = self._in_flight.pop(frame.id)
        self._slots.release_on_behalf_of(call)
        if call.task is None:
            self.late_replies += 1
        elif call.raise_cancel is not None and frame.kind in {Kind.CANCELLED, Kind.EXPIRED}:
            self._wake(call, outcome.capture(call.raise_cancel))
        else:
            self._wake(call, outcome.Value(frame))
        if self._closing and not self._is_awaited():
            self._idle.set()

    def on_pong(self, number: int) -> None:
        """A pong arrived; nobody may be waiting for it any more."""
        if (event := self._pings.pop(number, None)) is not None:
            event.set()

    def on_goaway(self, frame: Frame) -> None:
        """The peer takes no more calls: those above the last it accepted were not and will not be executed."""
        make = decode_status(frame.body, max_depth=self._max_depth)
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
        self._fail([call for call in calls if self._outbox.discard(call.frame)])
        for call in self._in_flight.values():
            if call.task is not None and call.raise_cancel is None:
                self._outbox.put(self._protocol.cancel(call.id), control=True)
        if self._is_awaited():
            with trio.move_on_after(self._cancel_grace):
                await self._idle.wait()

    # --- the way of a call ---

    async def _acquire_slot(self, call: OutgoingCall) -> None:
        self._raise_if_refused()
        try:
            self._slots.acquire_on_behalf_of_nowait(call)
        except trio.WouldBlock:
            await self._slots.acquire_on_behalf_of(call)

    async def _send_request(
        self,
        call: OutgoingCall,
        args: Sequence[object],
        kwargs: Mapping[str, object] | None,
        signature: Signature | None,
    ) -> None:
        """Queues the request. Nothing was sent if this raises."""
        body, call.deadline = await self._prepare(call.method, args, kwargs, signature)
        call.id, data = self._protocol.request(body)
        call.frame = self._outbox.put(data)
        self._in_flight[call.id] = call

    async def _prepare(
        self,
        method: str,
        args: Sequence[object],
        kwargs: Mapping[str, object] | None,
        signature: Signature | None = None,
        *,
        one_way: bool = False,
    ) -> tuple[bytes, float]:
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
            if len(body) <= self._protocol.peer.max_message_size:
                return body, deadline
            if self._protocol.peer_is_known:
                raise MessageTooLarge(
                    f"{method}: the request has {len(body)} bytes, and the peer accepts"
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
    ) -> bytes:
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

    def _abort(self, call: OutgoingCall, raise_cancel: Callable[[], Any]) -> Abort:
        """Trio asks whether the wait for the reply can be given up."""
        if self._outbox.discard(call.frame):
            self._protocol.forget_request(call.id)
            del self._in_flight[call.id]
            self._slots.release_on_behalf_of(call)
            return Abort.SUCCEEDED
        self._outbox.put(self._protocol.cancel(call.id), control=True)
        if self._cancel_grace <= 0:
            # The slot stays taken until the reply: the peer counts the call until its handler has ended.
            call.task = None
            return Abort.SUCCEEDED
        call.raise_cancel = raise_cancel
        self._cancelled[call] = trio.current_time() + self._cancel_grace
        if not self._enforces_grace:
            self._enforces_grace = True
            self._start_soon(self._enforce_grace)
        return Abort.FAILED

    @trio.lowlevel.enable_ki_protection
    async def _enforce_grace(self) -> None:
        """Ends the waits for acknowledgements that do not come. Runs while there are cancelled calls."""
        while self._cancelled:
            call, until = next(iter(self._cancelled.items()))
            await trio.sleep_until(until)
            if call in self._cancelled:
                assert call.raise_cancel is not None
                self._wake(call, outcome.capture(call.raise_cancel))
        self._enforces_grace = False

    def _wake(self, call: OutgoingCall, result: outcome.Outcome[Any]) -> None:
        task, call.task, call.raise_cancel = call.task, None, None
        self._cancelled.pop(call, None)
        assert task is not None
        trio.lowlevel.reschedule(task, result)

    async def _outcome(self, call: OutgoingCall, reply: Frame, signature: Signature | None) -> Any:
        """What the caller gets from the terminal reply."""
        if reply.kind == Kind.RESULT:
            try:
                value = _codec.unpack(reply.body, max_depth=self._max_depth)
                if signature is None or signature.returns is Any:
                    return value
                return _codec.convert(value, signature.returns)
            except _codec.DecodeError as exc:
                raise ProtocolError(f"{call.method}: the result is not what the method returns: {exc}") from exc
        if reply.kind == Kind.ERROR:
            raise decode_error(reply.body, max_depth=self._max_depth)
        if reply.kind == Kind.EXPIRED and call.deadline != math.inf:
            # Our own deadline, which the peer's clock saw a moment earlier: our own scope is to fire.
            if call.deadline - trio.current_time() <= _CLOCK_DIFFERENCE:
                await trio.sleep_until(call.deadline)
                await trio.lowlevel.checkpoint()
            # Still here: somebody has moved the scope's deadline since the request was sent, or the peer's
            # word is not to be waited for.
            raise DeadlineExceeded(f"{call.method}: the peer says that the deadline of the call has passed")
        if self._closing:
            raise _closed(maybe_executed=True)
        raise RemoteError("the peer cancelled the call", type_name="Cancelled")

    # --- the end ---

    def _refuse(self, error: Callable[[bool], Exception]) -> None:
        """No new calls from now on; those that wait to be sent find out."""
        self._refusal = error
        self._hello.set()
        # Whoever waits for a slot gets one, and then the error.
        self._slots.total_tokens = math.inf

    def _is_awaited(self) -> bool:
        """Whether anybody waits for a reply."""
        return any(call.task is not None for call in self._in_flight.values())

    def _raise_if_refused(self, *, maybe_executed: bool = False) -> None:
        if self._refusal is not None:
            raise self._refusal(maybe_executed)

    def _fail(self, calls: list[OutgoingCall]) -> None:
        assert self._refusal is not None
        for call in calls:
            maybe_executed = not self._outbox.discard(call.frame)
            self._protocol.forget_request(call.id)
            del self._in_flight[call.id]
            self._slots.release_on_behalf_of(call)
            if call.task is None:
                continue
            if call.raise_cancel is not None:
                self._wake(call, outcome.capture(call.raise_cancel))
            else:
                self._wake(call, outcome.Error(self._refusal(maybe_executed)))
        if self._closing and not self._is_awaited():
            self._idle.set()


def _closed(maybe_executed: bool) -> Exception:
    return ClientClosed("this client is closed", maybe_executed=maybe_executed)
