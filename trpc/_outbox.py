"""The frames that wait to be written to one peer. The only place that writes.

A frame leaves in the first of these ways that applies::

    at once       in the task that puts it in: nothing is on its way out, and it says that nothing else is
                  likely to follow it
    in flush()    with the others that came while the reader handled what it had read; see hold()
    by a writer   a task that is run for it, and sends together what was put in until it runs; or that waits,
                  because the transport takes nothing for now

So one call costs a system call and no task, and a hundred at once cost one of each.
"""

from __future__ import annotations

import enum
import math
from typing import TYPE_CHECKING, Any, Final

import trio

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable, Sequence

    from ._transport import Transport

# Frames are joined up to this size, so that many small ones share a system call and none waits for long.
_BATCH: Final = 64 * 1024
# A frame of this size is not copied to be joined with others.
_LARGE: Final = 16 * 1024
# Frames that were taken back stay in the queue, empty, until there are so many and more than half of it.
_MAX_EMPTY: Final = 100

_BROKEN: Final = (trio.BrokenResourceError, trio.ClosedResourceError)


class State(enum.Enum):
    """How far a frame has come."""

    QUEUED = "queued"
    UNSENT = "unsent"
    """Taken back, or the connection ended first: no byte of it has left, nor ever will."""
    WRITING = "writing"
    WRITTEN = "written"
    BROKEN = "broken"
    """The connection ended while it was being written: the peer may have it."""


# Looked up once: an attribute of an enum takes longer than one of a module, and each frame needs three.
_QUEUED, _UNSENT, _WRITING, _WRITTEN = State.QUEUED, State.UNSENT, State.WRITING, State.WRITTEN


class Outgoing:
    """A frame on its way out, for its owner to take back or to wait for."""

    __slots__ = ("data", "state", "waiter")

    def __init__(self) -> None:
        self.data = b""
        self.state = _QUEUED
        self.waiter: trio.lowlevel.Task | None = None


class Outbox:
    """Queues frames without waiting, and writes many at a time.

    It holds what is put in until :meth:`flush` is called for the first time.

    Args:
        transport: where the frames go.
        max_unsent: bytes that may wait before those who would add to them are to wait.
        run_soon: runs an async function in a task of the connection's.
        on_error: told when the transport is broken, from a task of its own.

    Attributes:
        unsent: bytes that were put in and that the transport has not taken yet.
        unsent_answers: those of them that answer what the peer has sent.
    """

    __slots__ = (
        "_answered",
        "_batch",
        "_closing",
        "_control",
        "_deadline",
        "_empty",
        "_frames",
        "_held",
        "_max_unsent",
        "_on_error",
        "_rest",
        "_room",
        "_run_soon",
        "_scope",
        "_transport",
        "_writer_left",
        "_writing",
        "unsent",
        "unsent_answers",
    )

    def __init__(
        self,
        transport: Transport,
        *,
        max_unsent: int,
        run_soon: Callable[[Callable[[Any], Coroutine[Any, Any, None]]], None],
        on_error: Callable[[Exception], None],
    ) -> None:
        self.unsent = 0
        self.unsent_answers = 0
        self._max_unsent = max_unsent
        self._transport = transport
        self._run_soon = run_soon
        self._on_error = on_error
        # What answers the peer is there as its bytes: nobody asks for it again.
        self._control: list[Outgoing | bytes] = []
        self._frames: list[Outgoing | bytes] = []
        self._empty = 0
        self._held = True
        self._writing = False
        """Whether a writer runs, or will run soon."""
        self._batch: Sequence[Outgoing | bytes] = ()
        self._rest: bytes | memoryview = b""
        """What the transport has not taken of the batch."""
        self._closing = False
        self._deadline = math.inf
        self._scope: trio.CancelScope | None = None
        self._writer_left: trio.Event | None = None
        self._room: trio.lowlevel.ParkingLot | None = None
        self._answered: trio.lowlevel.ParkingLot | None = None

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

    # --- putting in ---

    @trio.lowlevel.enable_ki_protection
    def put(self, data: bytes, frame: Outgoing | None = None, *, control: bool = False, alone: bool = True) -> Outgoing:
        """Puts a frame in. Control frames go before all others, so that no large message delays them.

        Args:
            data: its bytes.
            frame: what stands for it; one is made if there is none yet.
            control: whether it goes first.
            alone: whether nothing else is likely to be put in during this pass of the event loop.
        """
        if frame is None:
            frame = Outgoing()
        if self._closing:
            frame.state = _UNSENT
            return frame
        frame.data = data
        if (
            not alone
            or self._held
            or self._writing
            or self._frames
            or self._control
            or not self._goes_at_once(data, frame)
        ):
            self._enqueue(frame, control=control)
        return frame

    @trio.lowlevel.enable_ki_protection
    def answer(self, data: bytes, *, control: bool = False, alone: bool = True) -> None:
        """Puts a frame in that answers what the peer has sent. Otherwise as :meth:`put`."""
        if self._held and not control:
            if not self._closing:
                self._frames.append(data)
                self.unsent += len(data)
                self.unsent_answers += len(data)
        elif not self._closing and (
            not alone
            or self._held
            or self._writing
            or self._frames
            or self._control
            or not self._goes_at_once(data, data)
        ):
            self._enqueue(data, control=control)

    def hold(self) -> None:
        """Keeps what is put in until :meth:`flush`, which has to be called before anything is waited for."""
        self._held = True

    def flush(self) -> None:
        """Writes what was put in meanwhile, as far as the transport takes it."""
        self._held = False
        if self._writing or self._closing:
            return
        frames = self._frames
        if frames and not self._control and self.unsent == self.unsent_answers <= _BATCH and not self._empty:
            # The common case, answers only, without a look at each.
            data = frames[0] if len(frames) == 1 else b"".join(frames)  # type: ignore[arg-type]
            try:
                taken = self._transport.send_nowait((data,))  # type: ignore[arg-type]
            except _BROKEN as exc:
                self._break(exc)
                return
            if taken == self.unsent:
                frames.clear()
                self.unsent = self.unsent_answers = 0
                if self._room is not None or self._answered is not None:
                    self._settle((), _WRITTEN)
                return
            if taken:
                self._frames = []
                self._begin_rest(frames, (data,), taken)  # type: ignore[arg-type]
        elif frames or self._control:
            self._write_nowait()
        self._need_writer()

    # --- what becomes of a frame ---

    @trio.lowlevel.enable_ki_protection
    def discard(self, frame: Outgoing) -> bool:
        """Takes back a frame that is not a control frame. Says whether no byte of it will ever leave."""
        if frame.state is _QUEUED:
            self._settle([frame], _UNSENT)
            self._empty += 1
            if self._empty > _MAX_EMPTY and self._empty > len(self._frames) // 2:
                self._frames = [entry for entry in self._frames if not _is_empty(entry)]
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
        """Waits until the peer has taken enough of the answers. Otherwise as :meth:`wait_for_room`."""
        while self.is_full_of_answers and not self._closing:
            self._answered = self._answered or trio.lowlevel.ParkingLot()
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

        if frame.state is _QUEUED or frame.state is _WRITING:
            frame.waiter = trio.lowlevel.current_task()
            await trio.lowlevel.wait_task_rescheduled(abort)
        else:
            await trio.lowlevel.checkpoint()
        return frame.state is _WRITTEN

    # --- the end ---

    @trio.lowlevel.enable_ki_protection
    def close(self, *, within: float) -> None:
        """Takes no more frames; those that are queued may be written for ``within`` seconds more."""
        self._closing = True
        self._wake_all()
        self._deadline = min(self._deadline, trio.current_time() + within)
        if self._scope is not None:
            self._scope.deadline = self._deadline

    @trio.lowlevel.enable_ki_protection
    async def finish(self) -> None:
        """After :meth:`close`: returns when all is written, or its time is over. Not to be cancelled."""
        if self._writing:
            self._writer_left = trio.Event()
            await self._writer_left.wait()
        else:
            await self._write()
        self._give_up()

    # --- writing ---

    def _goes_at_once(self, data: bytes, entry: Outgoing | bytes) -> bool:
        """Writes a frame while none is on its way out. False: it has to be queued."""
        try:
            taken = self._transport.send_nowait((data,))
        except _BROKEN as exc:
            self._count(entry)
            self._settle((entry,), _UNSENT)
            self._break(exc)
            return True
        if taken == len(data):
            if type(entry) is not bytes:
                entry.state = _WRITTEN
            return True
        if taken:
            self._count(entry)
            self._begin_rest((entry,), (data,), taken)
            self._need_writer()
        return taken > 0

    def _enqueue(self, entry: Outgoing | bytes, *, control: bool) -> None:
        self._count(entry)
        (self._control if control else self._frames).append(entry)
        self._need_writer()

    def _count(self, entry: Outgoing | bytes) -> None:
        if type(entry) is bytes:
            self.unsent += len(entry)
            self.unsent_answers += len(entry)
        else:
            self.unsent += len(entry.data)

    def _write_nowait(self) -> None:
        """Writes what is queued until the transport takes no more."""
        while self._frames or self._control:
            batch = self._next_batch()
            try:
                taken = self._transport.send_nowait(batch.chunks) if batch.size else 0
            except _BROKEN as exc:
                self._break(exc)
                return
            if batch.size and not taken:
                return
            self._take(batch)
            if taken < batch.size:
                self._begin_rest(batch.entries, batch.chunks, taken)
                return
            self._settle(batch.entries, _WRITTEN)

    def _need_writer(self) -> None:
        """Sees to it that what is not written now will be."""
        if not self._writing and not self._held and (self._rest or self._frames or self._control):
            self._writing = True
            self._run_soon(self._write)

    @trio.lowlevel.enable_ki_protection
    async def _write(self, _: object = None) -> None:
        """Writes until nothing is left. A cancel from outside does not reach it: half a frame is worse than none."""
        self._writing = True
        try:
            while self._rest or self._frames or self._control:
                if not self._rest:
                    batch = self._next_batch()
                    self._take(batch)
                    # Before it is tried: if it fails now, nobody can tell how much has left.
                    self._begin_rest(batch.entries, batch.chunks, 0)
                    self._rest = self._rest[self._transport.send_nowait((self._rest,)) :] if self._rest else b""
                if self._rest:
                    with trio.CancelScope(shield=True, deadline=self._deadline) as self._scope:
                        await self._transport.send(self._rest)
                    if self._scope.cancelled_caught:
                        self._give_up()
                        break
                self._rest = b""
                self._settle(self._batch, _WRITTEN)
                self._batch = ()
        except _BROKEN as exc:
            self._on_error(exc)
            self._give_up()
        except BaseException:
            self._give_up()
            raise
        finally:
            self._writing = False
            self._scope = None
            if self._writer_left is not None:
                self._writer_left.set()

    def _next_batch(self) -> _Batch:
        """The frames to write together, control first; they stay where they are."""
        batch = _Batch()
        batch.control = batch.add(self._control)
        batch.frames = batch.add(self._frames)
        return batch

    def _take(self, batch: _Batch) -> None:
        del self._control[: batch.control], self._frames[: batch.frames]
        self._empty -= batch.empty

    def _begin_rest(self, entries: Sequence[Outgoing | bytes], chunks: Sequence[bytes], taken: int) -> None:
        """Some bytes of these frames have left, or are about to: the others have to follow."""
        for entry in entries:
            if type(entry) is not bytes:
                entry.state = _WRITING
        self._batch = entries
        self._rest = memoryview(b"".join(chunks))[taken:]

    def _break(self, exc: Exception) -> None:
        """The transport is broken. Whoever is putting something in must not find the connection taken apart."""
        self._give_up()

        async def report(_: object) -> None:
            await trio.lowlevel.checkpoint()
            self._on_error(exc)

        self._run_soon(report)

    def _settle(self, entries: Iterable[Outgoing | bytes], state: State) -> None:
        """These frames are done with: they leave the count, and who waits for one goes on."""
        for entry in entries:
            if type(entry) is bytes:
                self.unsent -= len(entry)
                self.unsent_answers -= len(entry)
                continue
            self.unsent -= len(entry.data)
            entry.state = state
            entry.data = b""
            if entry.waiter is not None:
                trio.lowlevel.reschedule(entry.waiter)
                entry.waiter = None
        if self._room is not None and not self.is_full:
            self._room.unpark()
        if self._answered is not None and not self.is_full_of_answers:
            self._answered.unpark_all()

    def _give_up(self) -> None:
        """Whatever is left will not be written."""
        self._closing = True
        self._rest = b""
        self._settle(self._batch, State.BROKEN)
        left = [*self._control, *self._frames]
        self._batch = ()
        self._control, self._frames = [], []
        self._empty = 0
        self._settle([entry for entry in left if not _is_empty(entry)], _UNSENT)
        self._wake_all()

    def _wake_all(self) -> None:
        for lot in (self._room, self._answered):
            if lot is not None:
                lot.unpark_all()


class _Batch:
    """Frames to be written together."""

    __slots__ = ("chunks", "control", "empty", "entries", "frames", "size")

    def __init__(self) -> None:
        self.entries: list[Outgoing | bytes] = []
        self.chunks: list[bytes] = []
        self.size = 0
        self.control = self.frames = self.empty = 0

    def add(self, queue: Sequence[Outgoing | bytes]) -> int:
        """Takes from the front of a queue until the batch is full; how many entries these are."""
        small: list[bytes] = []
        count = 0
        for entry in queue:
            if self.size >= _BATCH:
                break
            count += 1
            if type(entry) is bytes:
                data = entry
            elif entry.state is _QUEUED:
                data = entry.data
            else:
                self.empty += 1
                continue
            self.entries.append(entry)
            self.size += len(data)
            if len(data) < _LARGE:
                small.append(data)
            else:
                self.chunks += [b"".join(small), data] if small else [data]
                small = []
        if small:
            self.chunks.append(b"".join(small))
        return count


def _is_empty(entry: Outgoing | bytes) -> bool:
    """Whether it was taken back."""
    return type(entry) is not bytes and entry.state is not _QUEUED
