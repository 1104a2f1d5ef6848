"""The caller's half of a connection: calls, one-way calls and pings on their way out.

A call in flight parks its task; whoever reads the connection hands the reply over and wakes it. Its cancel
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
from typing import TYPE_CHECKING, Any, Final

import trio
from trio.lowlevel import Abort

from ._acknowledgements import Acknowledgements
from ._control import Control
from ._errors import ProtocolError
from ._exceptions import decode_status
from ._frames import Frame
from ._messages import Kind, decode_credit
from ._outgoing_call import OutgoingCall, closed_error
from ._pings import Pings
from ._requests import Requests

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from ._incoming_stream import IncomingStream
    from ._outbox import Outbox
    from ._protocol import Protocol
    from ._signature import Signature
    from ._workers import Workers

_RESULT: Final = Kind.RESULT.value


class Caller(Requests):
    """All that this side has asked of the peer.

    Args:
        protocol, outbox, workers: those of the connection.
        cancel_grace: seconds that a cancelled call waits for its terminal reply; 0: not at all.
        max_depth: nesting accepted in replies.
        max_calls: calls that this side has in flight at most, whatever the peer allows.
        stream_credit: bytes that a stream of the peer's may be ahead of its consumer.
        is_nested: whether the present task handles a call of the peer's.

    Attributes:
        protocol, outbox, max_depth, stream_credit: as above.
        late_replies: replies that came after their caller had given up, and were dropped.
    """

    __slots__ = (
        "_acknowledgements",
        "_closing",
        "_control",
        "_idle",
        "_lost",
        "_pings",
        "_result_won",
        "_went_away",
        "late_replies",
        "max_depth",
        "stream_credit",
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
        stream_credit: int,
        is_nested: Callable[[], bool],
    ) -> None:
        super().__init__(protocol, outbox, max_calls=max_calls, is_nested=is_nested)
        self.late_replies = 0
        self.max_depth = max_depth
        self.stream_credit = stream_credit
        self._acknowledgements = Acknowledgements(workers, cancel_grace)
        self._control = Control(protocol, outbox, workers)
        self._pings = Pings(protocol, outbox)
        self._result_won = False
        """Whether a result has come in place of a cancel since the last call."""
        self._idle = trio.Event()
        self._closing = False
        self._lost = False
        self._went_away = False
        """Whether the peer has said that it takes no more calls."""

    @property
    def plain(self) -> Caller:
        """This, as it has no interceptors."""
        return self

    @property
    def is_waiting(self) -> bool:
        """Whether anything is to come from the peer."""
        return bool(self._in_flight or self._pings)

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
        if self._result_won:
            # If it was an interrupt that came too late for that call, Trio would not tell of it again: who makes
            # nothing but calls that are as quick would never hear of it.
            self._result_won = False
            await trio.lowlevel.checkpoint_if_cancelled()
        call = OutgoingCall(method, signature)
        # As in start() and wait(), whose coroutines would be more to go through.
        try:
            if not self._start_now(call, args, kwargs):
                await self._start_later(call, args, kwargs)
        except Exception:
            await trio.lowlevel.checkpoint()
            raise
        call.task = trio.lowlevel.current_task()
        await trio.lowlevel.wait_task_rescheduled(lambda raise_cancel: self._abort(call, raise_cancel))
        reply = call.result
        if isinstance(reply, Frame) and reply.kind == _RESULT:
            return call.value_of(reply, max_depth=self.max_depth)
        raise await self.error_of(call)

    @trio.lowlevel.enable_ki_protection
    async def wait(self, call: OutgoingCall) -> Any:
        """Waits for the outcome of a call that was started just now."""
        call.task = trio.lowlevel.current_task()
        await trio.lowlevel.wait_task_rescheduled(lambda raise_cancel: self._abort(call, raise_cancel))
        reply = call.result
        if isinstance(reply, Frame) and reply.kind == _RESULT:
            return call.value_of(reply, max_depth=self.max_depth)
        raise await self.error_of(call)

    def grant(self, call: OutgoingCall, size: int) -> None:
        """Items of the stream that is the result of a call were consumed: there is room for more."""
        self.outbox.put(self.protocol.credit(Kind.RESULT_CREDIT, call.id, 0, size), control=True)

    async def error_of(self, call: OutgoingCall) -> Exception:
        """What is raised if the result of a call is not a RESULT."""
        return await call.error(max_depth=self.max_depth, closing=self._closing)

    @trio.lowlevel.enable_ki_protection
    async def leave(self, call: OutgoingCall, items: IncomingStream) -> None:
        """Cancels a call whose result is a stream, unless it has ended, and waits for its end, at most the grace.

        A cancel does not shorten this. Several tasks may leave it at once.
        """
        await trio.lowlevel.cancel_shielded_checkpoint()
        if items.left is not None:
            with trio.CancelScope(shield=True):
                await items.left.wait()
        elif call.awaited and not self._take_back(call):
            self._send_cancel(call)
            if self._acknowledgements.grace <= 0:
                call.awaited = False
                return
            items.left = trio.Event()
            call.task = trio.lowlevel.current_task()
            self._acknowledgements.begin(call, lambda: None)
            await trio.lowlevel.wait_task_rescheduled(lambda _: Abort.FAILED)
            items.left.set()
        else:
            call.awaited = False

    @trio.lowlevel.enable_ki_protection
    async def notify(self, method: str, args: Sequence[object], kwargs: Mapping[str, object] | None) -> None:
        """Sends a one-way call and waits until the transport has taken it."""
        try:
            body, _ = await self._prepare(OutgoingCall(method, None), args, kwargs, one_way=True)
        except Exception:
            await trio.lowlevel.checkpoint()
            raise
        frame = self.outbox.put(self.protocol.notify(body))
        if not await self.outbox.wait_written(frame):
            while self._refusal is None:
                # The write has failed, and the connection hears of it in a moment.
                await trio.lowlevel.checkpoint()
            self._raise_if_refused(maybe_executed=not self.outbox.discard(frame))

    @trio.lowlevel.enable_ki_protection
    async def ping(self) -> float:
        """Seconds for a round trip to the peer's protocol machine; no handler is involved."""
        await self._control.wait()
        if self._lost or self._closing:
            await trio.lowlevel.checkpoint()
            self._raise_if_refused()
        seconds = await self._pings.ping()
        if seconds is None:
            assert self._refusal is not None
            raise self._refusal(False)
        return seconds

    # --- what the connection's reader tells ---

    def on_hello(self) -> None:
        """The peer's limits are known."""
        self._slots.set_number(min(self._max_calls, self.protocol.peer.max_calls))
        self._hello.set()
        self._control.on_hello()

    def on_reply(self, frame: Frame) -> None:
        """A terminal reply arrived: wakes its caller, or drops it if the caller has given up."""
        call = self._in_flight.pop(frame.id, None)
        if call is None:  # a GOAWAY right before it has ended the call
            return
        self._release(call)
        self._slots.give_back()
        if call.cutter is not None:
            # It is answered before all of the request has left: the rest is of no use.
            self.outbox.discard(call)
        if self._sent:
            self._sent = self._woken = 0
        self._woken += 1
        if not call.awaited:
            self.late_replies += 1
            self._control.forget(call)
        elif not call.cancelled:
            self._wake(call, frame)
        elif frame.kind in {Kind.CANCELLED, Kind.EXPIRED}:
            self._acknowledgements.end(call)
            self._control.forget(call)
        else:
            self._control.forget(call)
            self._result_won = True
            self._acknowledgements.forget(call)
            self._wake(call, frame)
        if call.streams:
            call.end_streams()
        if self._closing and not self._is_awaited():
            self._idle.set()

    def on_items(self, frame: Frame) -> None:
        """Items of the stream that is the result of a call arrived."""
        call = self._in_flight.get(frame.id)
        if call is None or not call.awaited:  # a GOAWAY has ended it, or nobody waits any more
            return
        if call.items is not None:
            if frame.flags:
                call.items.check_credit()
            else:
                call.items.on_items(frame.body)
        elif not call.cancelled:
            self._send_cancel(call)
            what = f"{call.method} gives a stream: enter it with `async with`, instead of awaiting it"
            self._wake(call, ProtocolError(what))

    def on_argument(self, frame: Frame) -> None:
        """The peer has consumed items of an argument, or wants no more of them."""
        call = self._in_flight.get(frame.id)
        if call is None:
            return
        stream = call.streams.get(frame.stream)
        if stream is None:
            raise ProtocolError(f"call {frame.id} has no stream {frame.stream}")
        if frame.kind == Kind.ARGUMENT_STOP:
            stream.stop()
        else:
            stream.grant(decode_credit(frame.body))

    def on_pong(self, number: int) -> None:
        """A pong arrived."""
        self._pings.on_pong(number)

    def on_goaway(self, frame: Frame) -> None:
        """The peer takes no more calls: those above the last it accepted were not and will not be executed."""
        make = decode_status(bytes(frame.body), max_depth=self.max_depth)
        self._went_away = True
        self._refuse(lambda _: make())
        self._fail([call for call in self._in_flight.values() if call.id > frame.id], lambda _: make())

    def on_lost(self, error: Callable[[bool], Exception]) -> None:
        """The connection has ended: so does every call on it, with an error made by ``error(maybe_executed)``."""
        self._lost = True
        if not self._went_away:  # else later calls go on to hear why
            self._refuse(error)
        self._fail(list(self._in_flight.values()), error)
        self._pings.on_lost()
        self._control.on_lost()

    @trio.lowlevel.enable_ki_protection
    async def close(self) -> None:
        """Cancels the calls in flight, from whichever task, and waits for their end as a cancelled call does."""
        self._closing = True
        self._refuse(closed_error)
        calls = list(self._in_flight.values())
        self._fail([call for call in calls if self.outbox.discard(call)], closed_error)
        for call in self._in_flight.values():
            if call.awaited and not call.cancelled:
                self._send_cancel(call)
        if self._is_awaited():
            with trio.move_on_after(self._acknowledgements.grace):
                await self._idle.wait()

    def _abort(self, call: OutgoingCall, raise_cancel: Callable[[], Any]) -> Abort:
        """Trio asks whether the wait for the reply can be given up."""
        if self._take_back(call):
            return Abort.SUCCEEDED
        self._send_cancel(call)
        if self._acknowledgements.grace <= 0:
            # The slot stays taken until the reply: the peer counts the call until its handler has ended.
            call.awaited = False
            return Abort.SUCCEEDED
        self._acknowledgements.begin(call, raise_cancel)
        return Abort.FAILED

    def _send_cancel(self, call: OutgoingCall) -> None:
        self._control.cancel(call, alone=len(self._in_flight) <= 1)

    def _wake(self, call: OutgoingCall, result: Frame | Exception) -> None:
        """The call has its result: its task goes on, or who reads its items."""
        call.awaited = False
        call.result = result
        if call.task is not None:
            trio.lowlevel.reschedule(call.task)
            call.task = None
        if call.items is not None:
            call.items.on_end(lambda: self._end_of_items(call))

    async def _end_of_items(self, call: OutgoingCall) -> Exception | None:
        """What is raised behind the last item of a stream."""
        reply = call.result
        if not (isinstance(reply, Frame) and reply.kind == _RESULT):
            return await self.error_of(call)
        await trio.lowlevel.cancel_shielded_checkpoint()
        if call.ends_stream(reply, max_depth=self.max_depth):
            return None
        return ProtocolError(f"{call.method} gives no stream, but one value: await it")

    # --- the end ---

    def _refuse(self, error: Callable[[bool], Exception]) -> None:
        """No new calls from now on; those that wait to be sent find out."""
        self._refusal = error
        self._hello.set()
        self._wake_for_bytes(all_of_them=True)
        # Whoever waits for a slot gets one, and then the error.
        self._slots.set_number(math.inf)

    def _is_awaited(self) -> bool:
        """Whether anybody waits for a reply."""
        return any(call.awaited for call in self._in_flight.values())

    def _fail(self, calls: list[OutgoingCall], error: Callable[[bool], Exception]) -> None:
        for call in calls:
            if call.id not in self._in_flight:
                # Made by a producer of the arguments of another one, which has ended with that.
                continue
            maybe_executed = not self.outbox.discard(call)
            self._forget(call)
            if call.awaited and call.cancelled:
                self._acknowledgements.end(call)
            elif call.awaited:
                self._wake(call, error(maybe_executed))
        if self._closing and not self._is_awaited():
            self._idle.set()
