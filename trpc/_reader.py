"""Reading one connection: which task reads, what it takes at a time, and to whom each message goes.

One task at a time reads, and runs the handlers of the requests that it finds. When one of them has to wait,
the reading is passed on, with the messages that are not handled yet::

    worker 1   reads, runs handlers ... one waits     goes on with its handler     is idle
    worker 2                            '- reads, runs handlers ...

So a handler that does not wait needs no task of its own. docs/performance.md says what that saves.
"""

from __future__ import annotations

import abc
import math
from typing import TYPE_CHECKING, Any, Final

import trio

from ._errors import ConnectionEnded, ConnectionLost, ProtocolError, RPCError, Unavailable
from ._messages import Kind
from ._rate import Rate
from ._watch import Watched

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterator

    from ._caller import Caller
    from ._dispatcher import Dispatcher
    from ._frames import Frame
    from ._limits import Limits
    from ._outbox import Outbox
    from ._protocol import Protocol
    from ._transport import Transport
    from ._workers import Worker, Workers

# What one connection may do before all others get their turn: so many requests, or as many as begin within
# so many seconds. Replies leave as often, so that the peer can work on them meanwhile.
_MAX_REQUESTS: Final = 32
_MAX_TIME: Final = 0.001

# A read that gives so much has probably left something. It is read at once, so many times: what is small may be behind
# it, and does not have to wait for as many passes of the event loop.
_MUCH: Final = 64 * 1024
_MAX_READS: Final = 16
# So many frames in a read are no bulk: others get their turn before the next one.
_FEW: Final = 256

# Frames that may wait to be written to a peer that does not read, beside calls and their replies.
_MAX_FLOOD: Final = 4_000

BROKEN: Final = (trio.BrokenResourceError, trio.ClosedResourceError)
# Of the enum, each would be an attribute to look up, and these are needed for every message.
_REQUESTS, _RESULT = (Kind.REQUEST.value, Kind.NOTIFY.value), Kind.RESULT.value
_OF_CALLEE_STREAMS: Final = (Kind.ARGUMENT_ITEMS.value, Kind.ARGUMENT_END.value, Kind.RESULT_CREDIT.value)
_OF_CALLER_STREAMS: Final = (Kind.RESULT_ITEMS.value, Kind.ARGUMENT_CREDIT.value, Kind.ARGUMENT_STOP.value)
_NO_FRAMES: Final[Iterator[Frame]] = iter(())


class Reader(Watched):
    """The part of a connection that reads. A connection is one, as this is done for every message.

    Args:
        transport: the bytes.
        protocol, outbox, workers, limits: those of the connection.
    """

    __slots__ = (
        "_caller",
        "_control",
        "_dispatcher",
        "_drains",
        "_frames",
        "_has_more",
        "_limits",
        "_lost",
        "_outbox",
        "_protocol",
        "_reads_left",
        "_requests_left",
        "_transport",
        "_workers",
    )

    _dispatcher: Dispatcher
    # None as long as nothing was called. What is only done where something was, takes it from `caller`.
    _caller: Caller | None

    def __init__(
        self,
        transport: Transport,
        protocol: Protocol,
        outbox: Outbox,
        workers: Workers,
        limits: Limits,
    ) -> None:
        super().__init__()
        self._transport = transport
        self._protocol = protocol
        self._outbox = outbox
        self._workers = workers
        self._limits = limits
        self._lost = False
        self._frames: Iterator[Frame] = _NO_FRAMES
        """Received, and not handled yet."""
        self._has_more = False
        """Whether there is probably more to read at once."""
        self._reads_left = _MAX_READS
        self._control: Rate | None = None
        """Of cancels, pings and refused requests, once there are any."""
        self._drains = False
        """Whether no more calls are accepted, and the end of those that are is waited for."""
        self._requests_left = _MAX_REQUESTS
        """How many more may be handled before others get their turn."""

    @property
    @abc.abstractmethod
    def caller(self) -> Caller:
        """Our calls."""

    @abc.abstractmethod
    def _refuse(self, error: RPCError) -> None:
        """Lets the peer know that the connection ends because of it."""

    @abc.abstractmethod
    def _on_progress(self) -> None:
        """Something that is waited for at the end may have happened."""

    def _give_up(self, error: RPCError) -> None:
        self._refuse(error)
        self._lose(error if isinstance(error, ProtocolError) else ConnectionLost(str(error)))

    @property
    def has_unhandled(self) -> bool:
        """Whether messages have been received and not been handled."""
        return self._frames is not _NO_FRAMES

    async def _greet(self) -> None:
        """Reads the peer's hello. Ends the connection if it does not say who it is in time."""
        with trio.move_on_after(self._limits.hello_timeout) as scope:
            while not self._protocol.peer_is_known and not self._lost:
                try:
                    await self._transport.wait_readable()
                except BROKEN as exc:
                    self._lose(exc)
                if self._receive() and next(self._frames, None) is not None:
                    self._outbox.cuts = self._protocol.peer.has_fragments
                    if self._caller is not None:
                        self._caller.on_hello()
        if scope.cancelled_caught:
            reason = f"no hello within {self._limits.hello_timeout} s: it is too busy, or does not speak trpc"
            # It may be there, and only be slow: worth another try.
            self._give_up(Unavailable(reason))

    @trio.lowlevel.enable_ki_protection
    async def _read(self, worker: Worker) -> None:  # noqa: C901, PLR0912 - no functions that each resume would go through
        """Reads and handles what the peer sends, until the connection is over or somebody else does."""
        outbox = self._outbox
        # What the last reader has left, before more is handled.
        outbox.flush()
        suspended = None
        try:
            while not self._lost:
                suspended = self._handle(worker)
                if suspended is not None:
                    break
                outbox.flush()
                if self._protocol.control:
                    self._count_control()
                if worker.is_spent:
                    self._workers.run(self._read)
                    return
                if outbox.unsent_answers and outbox.is_full_of_answers and not self._has_to_read:
                    # The peer does not read them, so it gets no more.
                    await outbox.wait_until_answered()
                elif self._requests_left <= 0:
                    self._requests_left = _MAX_REQUESTS
                    await trio.lowlevel.checkpoint()
                elif self._frames is not _NO_FRAMES:
                    continue
                elif self._has_more and self._reads_left > 0:
                    self._reads_left -= 1
                    self._receive()
                else:
                    self._requests_left = _MAX_REQUESTS
                    self._reads_left = _MAX_READS
                    if self._drains:
                        self._on_progress()
                    # Not in a function of its own, which would be one more to go through when the task is resumed.
                    try:
                        await self._transport.wait_readable()
                    except BROKEN as exc:
                        self._lose(exc)
                    self._receive()
        except trio.Cancelled:
            # All of the connection is. The task of run(), which sees to that, may be in a handler that shields itself.
            self._lose(ConnectionEnded("this side ended it"))
            raise
        if suspended is not None:
            # It has begun to wait for something, which must not happen before Trio knows: so the next
            # reader also writes the replies that are ready.
            self._workers.run(self._read)
            await suspended

    def _count_control(self) -> None:
        """Ends the connection of a peer that sends too much of what costs it nothing."""
        if self._control is None:
            self._control = Rate(self._limits.control_burst, self._limits.control_rate)
        number, self._protocol.control = self._protocol.control, 0
        if not self._control.spend(trio.current_time(), number) and not self._lost:
            limits = self._limits
            what = "cancels, pings and refused requests"
            self._give_up(
                Unavailable(f"more than {limits.control_burst} {what} at once, or {limits.control_rate} a second")
            )

    @property
    def _has_to_read(self) -> bool:
        """Whether this side waits for the peer, which may do the same: if both stopped reading, both would for ever.

        Not if more answers wait than a peer can be owed that keeps to the limits: it floods, with pings for instance.
        """
        if self._caller is None or not self._caller.is_waiting:
            return False
        return self._outbox.queued <= 2 * self._limits.max_calls + _MAX_FLOOD

    def _receive(self) -> bool:  # noqa: C901, PLR0912 - two ways to read, three ends
        """Reads what is there, for :meth:`_handle`; whether there was something."""
        self._has_more = False
        if self._lost:
            # What comes behind our own end is nobody's any more, and no mistake of the peer's.
            return False
        try:
            room = self._protocol.frames.room() if self._protocol.frames.missing else None
            if room is None:
                data = self._transport.receive_nowait()
                if data is None:
                    return False
                if data:
                    self._heard = True
                    self._frames = iter(self._protocol.receive(data))
                    if self._protocol.cut:
                        self._unfinished_for = 0
                    if len(data) >= _MUCH or self._transport.reads_much:
                        self._has_more = len(data) >= _MUCH and self._protocol.cut <= _FEW
                        self._transport.reads_much = self._has_more and self._protocol.frames.missing < _MUCH
                    return True
            else:
                with room:
                    size = self._transport.receive_into(room)
                if size is None:
                    return False
                if size:
                    self._heard = True
                    self._has_more = size >= _MUCH
                    self._frames = iter(self._protocol.receive_filled(size))
                    if self._protocol.cut:
                        self._unfinished_for = 0
                    return True
        except BROKEN as exc:
            self._lose(exc)
        except ProtocolError as exc:
            self._give_up(exc)
        else:
            try:
                self._protocol.receive_eof()
            except ProtocolError as exc:
                # Cut off, and not to blame.
                self._lose(ConnectionLost(str(exc)))
            else:
                self._lose(ConnectionEnded("the peer closed it"))
        return False

    def _handle(self, worker: Worker | None) -> Coroutine[Any, Any, None] | None:  # noqa: C901 - every message goes through it
        """Hands messages to whom they concern. Nothing here waits.

        Args:
            worker: runs this, and may run handlers.

        Returns:
            What is left of a handler that waits, for the worker to await; see :meth:`Dispatcher.on_request`.
        """
        if self._frames is _NO_FRAMES:
            return None
        outbox = self._outbox
        outbox.held = True
        until = math.inf
        for frame in self._frames:
            kind = frame.kind
            if kind in _REQUESTS:
                suspended = self._dispatcher.on_request(frame, worker)
                self._requests_left -= 1
                if suspended is not None:
                    return suspended
                # The clock was read for the request anyway.
                if until == math.inf:
                    until = self._dispatcher.now + _MAX_TIME
                elif self._dispatcher.now > until:
                    self._requests_left = 0
                if self._requests_left <= 0 or (worker is not None and worker.is_spent):
                    return None
                if outbox.unsent_answers > self._limits.max_unsent and not self._has_to_read:
                    return None
            elif kind == _RESULT:
                # Of a call that was made, so that there is a caller.
                self._caller.on_reply(frame)  # type: ignore[union-attr]  # not None, see above
            else:
                self._handle_other(frame)
            # Not one more once it is over: whoever waited for it has been told already.
            if self._lost:
                return None
        self._frames = _NO_FRAMES
        if self._protocol.error is not None:
            self._give_up(self._protocol.error)
        return None

    def _handle_stream(self, frame: Frame) -> None:
        try:
            if frame.kind in _OF_CALLEE_STREAMS:
                self._dispatcher.on_stream(frame)
            elif frame.kind == Kind.RESULT_ITEMS:
                self.caller.on_items(frame)
            else:
                self.caller.on_argument(frame)
        except ProtocolError as exc:
            self._give_up(exc)

    def _handle_other(self, frame: Frame) -> None:
        kind = frame.kind
        if kind in _OF_CALLEE_STREAMS or kind in _OF_CALLER_STREAMS:
            self._handle_stream(frame)
            return
        match kind:
            case Kind.ERROR | Kind.CANCELLED | Kind.EXPIRED:
                self.caller.on_reply(frame)
            case Kind.CANCEL:
                self._dispatcher.on_cancel(frame.id)
            case Kind.PING:
                self._outbox.answer(self._protocol.pong(frame.id), control=True)
            case Kind.PONG:
                # Else it answers one of the keepalive's, and has done its work by having come.
                if self._caller is not None:
                    self._caller.on_pong(frame.id)
            case _:
                if self._caller is not None:
                    self._caller.on_goaway(frame)
