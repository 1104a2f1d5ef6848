"""Writing what is queued for one peer: the only place that writes.

::

    nowait        in the task that asks for it, as far as the transport takes it
    by a writer   a task that is run for it: it writes what is left, and what is queued meanwhile, until nothing is
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

import trio

from ._outgoing import Batch, Queue, State, without_first

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from ._frames import Data
    from ._outgoing import Entry
    from ._transport import Transport
    from ._workers import Workers

# What a frame counts for at most, among those that have not left.
_MAX_SHARE: Final = 1024 * 1024

# Bytes that one task writes at a stretch, if the transport takes them all, before others get their turn.
_MAX_AT_ONCE: Final = 256 * 1024

_BROKEN: Final = (trio.BrokenResourceError, trio.ClosedResourceError)

# Of the enum, each would be an attribute to look up, and every frame needs some.
_UNSENT, _WRITING, _WRITTEN = State.UNSENT, State.WRITING, State.WRITTEN

_NOTHING: Final = Batch()


class Writer:
    """Writes frames, many at a time.

    Args:
        transport: where the frames go.
        max_unsent: bytes that may wait before those who would add to them are to wait.
        workers: those of the connection.
        on_error: told when the transport is broken, from a task of its own.

    Attributes:
        unsent: bytes that were put in and that the transport has not taken yet; of a large frame, not more than a MiB,
            so that what is small does not have to wait for it.
        unsent_answers: those of them that answer what the peer has sent.
        unsent_items: bytes of items of streams, which do not count among the others: nothing waits behind them.
        written: bytes that the transport has taken from writers that waited for it.
        held: set it to keep what is put in until ``flush``, before anything is waited for.
    """

    __slots__ = (
        "_answered",
        "_batch",
        "_closing",
        "_deadline",
        "_empty",
        "_item_waiters",
        "_max_unsent",
        "_on_error",
        "_queue",
        "_rest",
        "_room",
        "_scope",
        "_transport",
        "_workers",
        "_writer_left",
        "_writing",
        "held",
        "on_empty",
        "unsent",
        "unsent_answers",
        "unsent_items",
        "written",
    )

    def __init__(
        self,
        transport: Transport,
        *,
        max_unsent: int,
        workers: Workers,
        on_error: Callable[[Exception], None],
    ) -> None:
        self.on_empty: Callable[[], None] | None = None
        """Told when a writer has written all."""
        self.unsent: int = 0
        self.written = 0
        self.unsent_answers: int = 0
        self.unsent_items: int = 0
        self._item_waiters: dict[Callable[[], None], None] | None = None
        self._max_unsent = max_unsent
        self._transport = transport
        self._workers = workers
        self._on_error = on_error
        self._queue = Queue()
        self._empty = 0
        """How many frames that were taken back are in the queue."""
        self.held = True
        self._writing = False
        """Whether a writer runs, or will run soon."""
        self._batch = _NOTHING
        self._rest: Sequence[bytes | memoryview] = ()
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
    def is_full_of_items(self) -> bool:
        """Whether the producers of streams should wait until the peer has taken more."""
        return self.unsent_items > self._max_unsent

    def call_with_room(self, function: Callable[[], None]) -> None:
        """Calls it, once, when there is room for items again, in turn with others that wait for that."""
        self._item_waiters = self._item_waiters or {}
        self._item_waiters[function] = None

    def forget_room(self, function: Callable[[], None]) -> None:
        """It is not to be called."""
        if self._item_waiters:
            self._item_waiters.pop(function, None)

    @property
    def is_waiting(self) -> bool:
        """Whether the transport is waited for, to take more."""
        return self._scope is not None

    @property
    def is_empty(self) -> bool:
        """Whether all is written."""
        return not (self._writing or self._rest or self._queue)

    @property
    def is_closed(self) -> bool:
        """Whether no more is taken."""
        return self._closing

    @property
    def queued(self) -> int:
        """How many frames wait to be written."""
        return len(self._queue)

    @property
    def is_full_of_answers(self) -> bool:
        """Whether the peer should read before it is given more reason to answer.

        Requests do not count: else two sides that call each other could both stop reading, each because
        the other has.
        """
        return self.unsent_answers > self._max_unsent

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

    def _put(self, entry: Entry, data: Data, size: int, *, control: bool, alone: bool) -> None:
        """Writes a frame if it may leave now, or queues it."""
        queue = self._queue
        if not isinstance(entry, bytes) and entry.cutter is not None:
            self._count(entry, size)
            (queue.bulk if entry.is_bulk else queue.frames).append(entry)
            if alone and not (self.held or self._writing):
                self._write_nowait()
            self._need_writer()
            return
        if alone and not (self.held or self._writing or queue.frames or queue.control or queue.bulk or queue.begun):
            chunks = (data,) if isinstance(data, bytes) else data
            try:
                taken = self._transport.send_nowait(chunks)
            except _BROKEN as exc:
                self._count(entry, size)
                self._settle((entry,), _UNSENT)
                self._break(exc)
                return
            if taken == size:
                if not isinstance(entry, bytes):
                    entry.state = _WRITTEN
                    entry.data = b""
                return
            if taken:
                self._count(entry, size)
                batch = Batch()
                batch.entries.append(entry)
                self._begin_rest(batch, chunks, taken)
                self._need_writer()
                return
        self._count(entry, size)
        if control:
            queue.control.append(entry)
        elif isinstance(entry, bytes) or not entry.is_bulk:
            queue.frames.append(entry)
        else:
            queue.bulk.append(entry)
        self._need_writer()

    def _count(self, entry: Entry, size: int) -> None:
        if not isinstance(entry, bytes) and entry.is_item:
            self.unsent_items += size
            return
        size = min(size, _MAX_SHARE)
        self.unsent += size
        if isinstance(entry, bytes) or entry.is_answer:
            self.unsent_answers += size

    def _write_nowait(self) -> None:
        """Writes what is queued until the transport takes no more, or others should have their turn."""
        written = 0
        while self._queue and written < _MAX_AT_ONCE:
            batch = self._queue.batch()
            try:
                taken = self._transport.send_nowait(batch.chunks) if batch.size else 0
            except _BROKEN as exc:
                self._break(exc)
                return
            if batch.size and not taken:
                return
            self._take(batch)
            if taken < batch.size:
                self._begin_rest(batch, batch.chunks, taken)
                return
            self._settle_batch(batch)
            written += taken

    def _need_writer(self) -> None:
        """Sees to it that what is not written now will be."""
        if not self._writing and not self.held and (self._rest or self._queue):
            self._writing = True
            self._workers.run(self._write)

    @trio.lowlevel.enable_ki_protection
    async def _write(self, _: object = None) -> None:
        """Writes until nothing is left. A cancel from outside does not reach it: half a frame is worse than none."""
        self._writing = True
        written = 0
        try:
            while self._rest or self._queue:
                if not self._rest:
                    if written >= _MAX_AT_ONCE:
                        written = 0
                        await trio.lowlevel.cancel_shielded_checkpoint()
                    batch = self._queue.batch()
                    self._take(batch)
                    # Before it is tried: if it fails now, nobody can tell how much has left.
                    self._begin_rest(batch, batch.chunks, 0)
                    if batch.size:
                        self._rest = without_first(self._rest, self._transport.send_nowait(self._rest))
                        written += batch.size
                if self._rest and not await self._write_rest():
                    self._give_up()
                    break
                self._rest = ()
                self._settle_batch(self._batch)
                self._batch = _NOTHING
        except _BROKEN as exc:
            self._give_up()
            self._on_error(exc)
        except BaseException:  # a mistake in here: raised again, and nobody waits for a frame in vain
            self._give_up()
            raise
        finally:
            self._writing = False
            self._scope = None
            if self._writer_left is not None:
                self._writer_left.set()
            if self.on_empty is not None:
                self.on_empty()

    async def _write_rest(self) -> bool:
        """Waits until the transport has taken it; False: the time for that is over."""
        with trio.CancelScope(shield=True, deadline=self._deadline) as self._scope:
            while self._rest:
                taken = await self._transport.send(self._rest)
                self._rest = without_first(self._rest, taken)
                self.written += taken
        is_over = self._scope.cancelled_caught
        self._scope = None
        return not is_over

    def _take(self, batch: Batch) -> None:
        """Takes what is in the batch out of the queue."""
        self._queue.take(batch)
        self._empty -= batch.empty

    def _begin_rest(self, batch: Batch, chunks: Sequence[bytes | memoryview], taken: int) -> None:
        """Some bytes of these frames have left, or are about to: the others have to follow."""
        for entry in batch.entries:
            if not isinstance(entry, bytes):
                entry.state = _WRITING
        self._batch = batch
        self._rest = without_first(chunks, taken)

    def _break(self, exc: Exception) -> None:
        """The transport is broken. Whoever is putting something in must not find the connection taken apart."""
        self._give_up()

        async def report(_: object) -> None:
            await trio.lowlevel.checkpoint()
            self._on_error(exc)

        self._workers.run(report)

    def _settle_batch(self, batch: Batch) -> None:
        """It is written."""
        for entry, size in batch.begun:
            # Unless it was taken back meanwhile, and is out of the count.
            if entry.state is _WRITING:
                if entry.is_item:
                    entry.size -= size
                    self.unsent_items -= size
                    continue
                share = min(entry.size, _MAX_SHARE)
                entry.size -= size
                share -= min(entry.size, _MAX_SHARE)
                self.unsent -= share
                if entry.is_answer:
                    self.unsent_answers -= share
        self._settle(batch.entries, _WRITTEN)

    def _settle(self, entries: Iterable[Entry], state: State) -> None:
        """These frames are done with: they leave the count, and who waits for one goes on."""
        for entry in entries:
            if isinstance(entry, bytes):
                self.unsent -= len(entry)
                self.unsent_answers -= len(entry)
                continue
            if entry.is_item:
                self.unsent_items -= entry.size
            else:
                share = min(entry.size, _MAX_SHARE)
                self.unsent -= share
                if entry.is_answer:
                    self.unsent_answers -= share
            entry.state = state
            entry.data = b""
            if entry.waiter is not None:
                trio.lowlevel.reschedule(entry.waiter)
                entry.waiter = None
            if entry.on_left is not None:
                entry.on_left()
        if self._room is not None and not self.is_full:
            self._room.unpark()
        if self._answered is not None and not self.is_full_of_answers:
            self._answered.unpark_all()
        while self._item_waiters and not self.is_full_of_items:
            function = next(iter(self._item_waiters))
            del self._item_waiters[function]
            function()

    def _give_up(self) -> None:
        """Whatever is left will not be written."""
        self._closing = True
        left = self._queue.left()
        self._settle(self._batch.entries, State.BROKEN)
        for entry in left:
            is_begun = not isinstance(entry, bytes) and entry.state is _WRITING
            self._settle((entry,), State.BROKEN if is_begun else _UNSENT)
        self._rest, self._batch = (), _NOTHING
        self._queue = Queue()
        self._empty = 0
        self._wake_all()

    def _wake_all(self) -> None:
        for lot in (self._room, self._answered):
            if lot is not None:
                lot.unpark_all()
