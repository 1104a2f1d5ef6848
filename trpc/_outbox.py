"""The frames that wait to be written to one peer. The only place that writes."""

from __future__ import annotations

import enum
from collections import OrderedDict
from typing import TYPE_CHECKING, Final

import trio

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from ._transport import Transport

# Frames are joined up to this size, so that many small ones share a system call and none waits for long.
_BATCH: Final = 64 * 1024


class State(enum.Enum):
    """How far a frame has come."""

    QUEUED = "queued"
    UNSENT = "unsent"
    """Taken back, or the connection ended first: no byte of it has left, nor ever will."""
    WRITING = "writing"
    WRITTEN = "written"
    BROKEN = "broken"
    """The connection ended while it was being written: the peer may have it."""


class Outgoing:
    """A frame on its way out."""

    __slots__ = ("data", "is_answer", "state", "waiter")

    def __init__(self, data: bytes, *, is_answer: bool = False) -> None:
        self.data = data
        self.is_answer = is_answer
        self.state = State.QUEUED
        self.waiter: trio.lowlevel.Task | None = None


class Outbox:
    """Queues frames without waiting and writes them in one task, many at a time.

    Args:
        transport: where the frames go.
        max_unsent: bytes that may wait before those who would add to them are to wait.

    Attributes:
        unsent: bytes that were put in and that the transport has not taken yet.
        unsent_answers: those of them that answer what the peer has sent.
    """

    def __init__(self, transport: Transport, *, max_unsent: int) -> None:
        self.unsent = 0
        self.unsent_answers = 0
        self._max_unsent = max_unsent
        self._transport = transport
        # Ordered, and any of them can be taken out at once: a thousand cancels are a thousand steps.
        self._control: OrderedDict[Outgoing, None] = OrderedDict()
        self._frames: OrderedDict[Outgoing, None] = OrderedDict()
        self._batch: list[Outgoing] = []
        self._writer: trio.lowlevel.Task | None = None
        self._closing = False
        self._scope = trio.CancelScope(shield=True)
        self._room = trio.lowlevel.ParkingLot()
        self._answered = trio.lowlevel.ParkingLot()

    @property
    def is_full(self) -> bool:
        """Whether a new request should wait for room."""
        return self.unsent > self._max_unsent

    @property
    def is_full_of_answers(self) -> bool:
        """Whether the peer should read before it is given more reason to answer.

        Requests do not count: else two sides that call each other could both stop reading, each because
        the other has.
        """
        return self.unsent_answers > self._max_unsent

    @trio.lowlevel.enable_ki_protection
    def put(self, data: bytes, *, control: bool = False, is_answer: bool = False) -> Outgoing:
        """Queues a frame. Control frames go before all others, so that no large message delays them."""
        frame = Outgoing(data, is_answer=is_answer)
        if self._closing:
            frame.state = State.UNSENT
            return frame
        (self._control if control else self._frames)[frame] = None
        self.unsent += len(data)
        if is_answer:
            self.unsent_answers += len(data)
        self._wake_writer()
        return frame

    @trio.lowlevel.enable_ki_protection
    def discard(self, frame: Outgoing) -> bool:
        """Takes back a frame that is not a control frame. Says whether no byte of it will ever leave."""
        if frame.state is State.QUEUED:
            del self._frames[frame]
            self._settle([frame], State.UNSENT)
        return frame.state is State.UNSENT

    async def wait_for_room(self) -> None:
        """Waits until the peer has taken enough. A checkpoint only if it has to wait; cancel it freely."""
        while self.is_full and not self._closing:
            await self._room.park()
        # One at a time: each lets the next one look, who waits on if there is no room left. To wake all for
        # each batch that leaves would be quadratic.
        self._room.unpark()

    async def wait_until_answered(self) -> None:
        """Waits until the peer has taken enough of the answers. Otherwise as :meth:`wait_for_room`."""
        while self.is_full_of_answers and not self._closing:
            await self._answered.park()

    @trio.lowlevel.enable_ki_protection
    async def wait_written(self, frame: Outgoing) -> bool:
        """Waits until the transport has taken ``frame``; False if the connection ended first.

        Cancelled before the frame is being written: it is taken back and never sent. Later: it may arrive.
        """

        def abort(_: object) -> trio.lowlevel.Abort:
            frame.waiter = None
            self.discard(frame)
            return trio.lowlevel.Abort.SUCCEEDED

        if frame.state is State.QUEUED or frame.state is State.WRITING:
            frame.waiter = trio.lowlevel.current_task()
            await trio.lowlevel.wait_task_rescheduled(abort)
        else:
            await trio.lowlevel.checkpoint()
        return frame.state is State.WRITTEN

    @trio.lowlevel.enable_ki_protection
    async def run(self, on_error: Callable[[Exception], None]) -> None:
        """Writes until :meth:`close`. A write that fails is reported to ``on_error``, and ends it.

        A cancel from outside does not reach it: half a frame would make the stream useless, and replies
        that are ready should leave. The owner ends it with :meth:`close`, within a time.
        """
        try:
            with self._scope:
                while await self._next_batch():
                    await self._transport.send(b"".join(frame.data for frame in self._batch))
                    self._settle(self._batch, State.WRITTEN)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as exc:
            on_error(exc)
        finally:
            self._give_up()

    @trio.lowlevel.enable_ki_protection
    def close(self, *, within: float) -> None:
        """Takes no more frames; writes those that are queued, for at most ``within`` seconds."""
        self._closing = True
        self._room.unpark_all()
        self._answered.unpark_all()
        self._scope.deadline = min(self._scope.deadline, trio.current_time() + within)
        self._wake_writer()

    async def _next_batch(self) -> bool:
        """Takes the frames to write together, control first; False if there are none and never will be."""
        while True:
            self._batch = []
            size = 0
            while (queue := self._control or self._frames) and size < _BATCH:
                frame, _ = queue.popitem(last=False)
                frame.state = State.WRITING
                size += len(frame.data)
                self._batch.append(frame)
            if self._batch or self._closing:
                return bool(self._batch)
            self._writer = trio.lowlevel.current_task()
            await trio.lowlevel.wait_task_rescheduled(self._abort_wait)

    def _abort_wait(self, _: object) -> trio.lowlevel.Abort:
        self._writer = None
        return trio.lowlevel.Abort.SUCCEEDED

    def _wake_writer(self) -> None:
        if self._writer is not None:
            trio.lowlevel.reschedule(self._writer)
            self._writer = None

    def _settle(self, frames: Iterable[Outgoing], state: State) -> None:
        """These frames are done with: they leave the count, and who waits for one goes on."""
        for frame in frames:
            frame.state = state
            self.unsent -= len(frame.data)
            if frame.is_answer:
                self.unsent_answers -= len(frame.data)
            frame.data = b""
            if frame.waiter is not None:
                trio.lowlevel.reschedule(frame.waiter)
                frame.waiter = None
        if not self.is_full:
            self._room.unpark()
        if not self.is_full_of_answers:
            self._answered.unpark_all()

    def _give_up(self) -> None:
        """Whatever is left will not be written."""
        self._closing = True
        self._settle(self._batch, State.BROKEN)
        self._settle(self._control, State.UNSENT)
        self._settle(self._frames, State.UNSENT)
        self._control.clear()
        self._frames.clear()
        self._room.unpark_all()
        self._answered.unpark_all()
