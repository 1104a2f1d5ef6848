"""The frames that wait to be written to one peer.

A frame leaves in the first of these ways that applies::

    at once       in the task that puts it in: nothing is on its way out, and it says that nothing else is
                  likely to follow it
    in flush()    with the others that came while the reader handled what it had read; see Writer.held
    by a writer   a task that is run for it, and sends together what was put in until it runs; or that waits,
                  because the transport takes nothing for now

So one call costs a system call and no task, and a hundred at once cost one of each.

Large frames leave in fragments, in turns with each other and with items of streams, and behind what is small.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import trio

from ._frames import Cutter, size_of
from ._outgoing import FIRST_FRAGMENT, FRAGMENT, Outgoing, State, is_taken_back
from ._writer import Writer

if TYPE_CHECKING:
    from collections.abc import Callable

    from ._frames import Data
    from ._transport import Transport
    from ._workers import Workers

# Frames that were taken back stay in the queue, empty, until there are so many and more than half of it.
_MAX_EMPTY: Final = 100

# Of the enum, each would be an attribute to look up, and every frame needs some.
_QUEUED, _UNSENT, _WRITING, _WRITTEN = State.QUEUED, State.UNSENT, State.WRITING, State.WRITTEN


class Outbox(Writer):
    """Queues frames without waiting.

    It is held at first, until :meth:`flush`.

    Args:
        transport, max_unsent, workers, on_error: see :class:`Writer`.

    Attributes:
        cuts: whether the peer takes large frames in fragments.
    """

    __slots__ = ("cuts",)

    def __init__(
        self,
        transport: Transport,
        *,
        max_unsent: int,
        workers: Workers,
        on_error: Callable[[Exception], None],
    ) -> None:
        super().__init__(transport, max_unsent=max_unsent, workers=workers, on_error=on_error)
        self.cuts = False

    # --- putting in ---

    @trio.lowlevel.enable_ki_protection
    def put(
        self,
        data: Data,
        frame: Outgoing | None = None,
        *,
        control: bool = False,
        alone: bool = True,
        bulk: bool = False,
    ) -> Outgoing:
        """Puts a frame in. Control frames go before all others, so that no large message delays them.

        Args:
            data: its bytes.
            frame: what stands for it; one is made if there is none yet.
            control: whether it goes first.
            alone: whether nothing else is likely to be put in during this pass of the event loop.
            bulk: whether it goes last: items of streams, and what has to come behind them.
        """
        if frame is None:
            frame = Outgoing()
        if self._closing:
            frame.state = _UNSENT
            return frame
        frame.data = data
        frame.size = size = len(data) if isinstance(data, bytes) else size_of(data)
        frame.is_bulk = bulk
        if size > FRAGMENT and self.cuts:
            frame.cutter = Cutter(data, FRAGMENT, FRAGMENT if bulk else FIRST_FRAGMENT)
        self._put(frame, data, size, control=control, alone=alone)
        return frame

    @trio.lowlevel.enable_ki_protection
    def answer(self, data: Data, *, control: bool = False, alone: bool = True, bulk: bool = False) -> None:
        """Puts a frame in that answers what the peer has sent. Otherwise as :meth:`put`."""
        if self._closing:
            return
        if bulk or not isinstance(data, bytes):
            frame = Outgoing()
            frame.is_answer = True
            # Nothing has to come behind a reply, so that what is small may go before a large one.
            self.put(data, frame, control=control, alone=alone, bulk=bulk or size_of(data) > FRAGMENT)
        elif self.held and not control:
            self._queue.frames.append(data)
            self.unsent += len(data)
            self.unsent_answers += len(data)
        else:
            self._put(data, data, len(data), control=control, alone=alone)

    def flush(self) -> None:
        """Writes what was put in meanwhile, as far as the transport takes it."""
        self.held = False
        if self._writing or self._closing:
            return
        queue = self._queue
        frames = queue.frames
        if (
            len(frames) == 1
            and not (queue.control or queue.bulk or queue.begun)
            and isinstance(data := frames[0], bytes)
        ):
            # The answer to a single call, as if it had been put in now.
            frames.clear()
            self.unsent -= len(data)
            self.unsent_answers -= len(data)
            self._put(data, data, len(data), control=False, alone=True)
            if self._room is not None or self._answered is not None:
                self._settle((), _WRITTEN)
        elif queue:
            self._write_nowait()
            self._need_writer()

    # --- what becomes of a frame ---

    @trio.lowlevel.enable_ki_protection
    def discard(self, frame: Outgoing) -> bool:
        """Takes back a frame that is not a control frame. Says whether no byte of it will ever leave.

        If it leaves in fragments, the rest does not.
        """
        is_begun = frame.state is _WRITING and frame.cutter is not None
        if is_begun or frame.state is _QUEUED:
            is_removed = self._queue.remove(frame)
            self._settle([frame], State.BROKEN if is_begun else _UNSENT)
            if not is_removed:
                self._empty += 1
                frames = self._queue.frames
                if self._empty > _MAX_EMPTY and self._empty > len(frames) // 2:
                    self._queue.frames = [entry for entry in frames if not is_taken_back(entry)]
                    self._empty = 0
        return frame.state is _UNSENT

    async def wait_for_room(self) -> None:
        """Waits until the peer has taken enough. A checkpoint only if it has to wait; cancel it freely."""
        while self.is_full and not self._closing:
            self._room = self._room or trio.lowlevel.ParkingLot()
            await self._room.park()
        # One at a time: each lets the next one look, who waits on if there is no room left. To wake all for
        # each batch that leaves would be quadratic.
        if self._room is not None:
            self._room.unpark()

    async def wait_until_answered(self) -> None:
        """Waits until the peer has taken enough of the answers, if it has not. Otherwise as :meth:`wait_for_room`."""
        if self.is_full_of_answers and not self._closing:
            self._answered = self._answered or trio.lowlevel.ParkingLot()
            await self._answered.park()

    @trio.lowlevel.enable_ki_protection
    async def wait_written(self, frame: Outgoing) -> bool:
        """Waits until the transport has taken ``frame``; False if the connection ended first.

        Cancelled before the frame is being written: it is taken back and never sent. Later: it may arrive, whole.
        """

        def abort(_: object) -> trio.lowlevel.Abort:
            frame.waiter = None
            if frame.state is _QUEUED:
                self.discard(frame)
            return trio.lowlevel.Abort.SUCCEEDED

        if frame.state is _QUEUED or frame.state is _WRITING:
            frame.waiter = trio.lowlevel.current_task()
            await trio.lowlevel.wait_task_rescheduled(abort)
        else:
            await trio.lowlevel.checkpoint()
        return frame.state is _WRITTEN
