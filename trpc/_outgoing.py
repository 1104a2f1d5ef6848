"""A frame on its way out: its bytes, how far it has come, and how frames are put together to be written."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    import trio

    from ._frames import Cutter, Data

# Frames are joined up to this size, so that many small ones share a system call and none waits for long.
BATCH: Final = 64 * 1024
# Bytes that are not copied to be joined with others.
_LARGE: Final = 16 * 1024
# A larger body is cut into fragments of this size, if the peer takes them: what a small message may have to wait for, beside
# what the system has taken already, which is as much and more. A message of a MiB stays whole.
FRAGMENT = 1024 * 1024 + 64 * 1024


# The first fragment of a request. It leaves in the order of the requests' ids; the rest of them leaves one after the other.
# So a peer has hardly more than one of them incomplete, however many there are.
FIRST_FRAGMENT: Final = 1024


class State(enum.Enum):
    """How far a frame has come."""

    QUEUED = "queued"
    UNSENT = "unsent"
    """Taken back, or the connection ended first: no byte of it has left, nor ever will."""
    WRITING = "writing"
    """Some of it may have left."""
    WRITTEN = "written"
    BROKEN = "broken"
    """Taken back in the middle, or the connection ended while it was being written: the peer may have some of it."""


_QUEUED, _WRITING = State.QUEUED, State.WRITING


class Outgoing:
    """A frame, for its owner to take back or to wait for.

    Attributes:
        data: its bytes, until they are written.
        size: how many of these are not written.
        is_answer: whether it answers what the peer has sent.
        is_bulk: whether what is not bulk goes before it.
        is_item: whether it has items of a stream.
        state: how far it has come.
        cutter: what cuts it into fragments, as long as there are some left to be taken; None: it leaves in one piece.
        waiter: a task that waits until it is written.
        on_left: called when it is written, or never will be.
    """

    __slots__ = ("cutter", "data", "is_answer", "is_bulk", "is_item", "on_left", "size", "state", "waiter")

    def __init__(self) -> None:
        self.data: Data = b""
        self.size = 0
        self.is_answer = False
        self.is_bulk = False
        self.is_item = False
        self.state = _QUEUED
        self.cutter: Cutter | None = None
        self.waiter: trio.lowlevel.Task | None = None
        self.on_left: Callable[[], None] | None = None


# What answers the peer, and is not large, is there as its bytes alone: nobody asks for it again.
Entry = Outgoing | bytes


def is_taken_back(entry: Entry) -> bool:
    """Whether it only holds the place of a frame that was there."""
    return not isinstance(entry, bytes) and entry.state is not _QUEUED and entry.state is not _WRITING


class Batch:
    """Frames to be written together.

    Attributes:
        entries: the frames that end in it.
        begun: those of which more fragments are left, with how many bytes of each are in it.
        chunks: the bytes, small ones joined.
        size: how many these are.
        counts: how many entries are from each part of the queue.
        empty: how many places of frames that were taken back it has passed.
    """

    __slots__ = ("begun", "chunks", "counts", "empty", "entries", "size")

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.begun: list[tuple[Outgoing, int]] = []
        self.chunks: list[bytes | memoryview] = []
        self.size = 0
        self.counts: tuple[int, int, int] = (0, 0, 0)
        self.empty = 0

    def add(self, queue: Iterable[Entry], *, until: int = BATCH) -> int:
        """Takes from the front of a queue until the batch has that size; how many entries these are."""
        small: list[bytes | memoryview] = []
        count = 0
        for entry in queue:
            if self.size >= until:
                break
            count += 1
            if is_taken_back(entry):
                self.empty += 1
                continue
            pieces: Iterable[bytes | memoryview]
            if isinstance(entry, bytes):
                pieces = (entry,)
                self.entries.append(entry)
            elif (cutter := entry.cutter) is not None:
                pieces = cutter.next()
                if cutter.next_size < cutter.left:
                    self.begun.append((entry, cutter.next_size))
                else:
                    self.entries.append(entry)
            else:
                data = entry.data
                pieces = (data,) if isinstance(data, bytes) else data
                self.entries.append(entry)
            for chunk in pieces:
                self.size += len(chunk)
                if len(chunk) < _LARGE:
                    small.append(chunk)
                else:
                    self._add_joined(small)
                    self.chunks.append(chunk)
                    small = []
        self._add_joined(small)
        return count

    def _add_joined(self, chunks: list[bytes | memoryview]) -> None:
        if chunks:
            self.chunks.append(b"".join(chunks))


class Queue:
    """What waits to be written, in the order in which it leaves.

    Control frames go first. Bulk goes last, with some of it in each batch; large frames take turns in it, a
    fragment each. So do the requests that have begun to leave, but one after the other.
    """

    __slots__ = ("begun", "bulk", "control", "frames")

    def __init__(self) -> None:
        self.control: list[Entry] = []
        self.frames: list[Entry] = []
        self.bulk: list[Entry] = []
        self.begun: list[Outgoing] = []
        """Requests of which the first fragment has left."""

    def __bool__(self) -> bool:
        return bool(self.frames or self.bulk or self.control or self.begun)

    def __len__(self) -> int:
        return len(self.control) + len(self.frames) + len(self.bulk) + len(self.begun)

    def batch(self) -> Batch:
        """The next batch, which stays here until :meth:`take`."""
        batch = Batch()
        control, frames = batch.add(self.control), batch.add(self.frames)
        bulk = batch.add(self.bulk, until=max(BATCH, batch.size + 1)) if self.bulk else 0
        if self.begun:
            batch.add(self.begun[:1], until=batch.size + 1)
        batch.counts = control, frames, bulk
        return batch

    def take(self, batch: Batch) -> None:
        """Removes what is in the batch; of large frames, the fragment."""
        control, frames, bulk = batch.counts
        del self.control[:control], self.frames[:frames], self.bulk[:bulk]
        for frame, _ in batch.begun:
            assert frame.cutter is not None
            frame.cutter.advance()
            if frame.is_bulk:
                self.bulk.append(frame)
            elif frame.state is _QUEUED:
                self.begun.append(frame)
            frame.state = _WRITING
        for entry in batch.entries:
            if not isinstance(entry, bytes) and entry.cutter is not None:
                entry.cutter = None
                if self.begun and entry is self.begun[0]:
                    del self.begun[0]

    def remove(self, frame: Outgoing) -> bool:
        """Removes a frame, unless that would take a search among many small ones: then False."""
        if frame.is_bulk:
            self.bulk.remove(frame)
        elif frame.state is _WRITING:
            self.begun.remove(frame)
        else:
            return False
        return True

    def left(self) -> list[Entry]:
        """All that has not been taken, and not been taken back."""
        left = (*self.control, *self.frames, *self.bulk, *self.begun)
        return [entry for entry in left if not is_taken_back(entry)]


def without_first(chunks: Sequence[bytes | memoryview], size: int) -> list[memoryview]:
    """What is left of ``chunks`` when the first ``size`` bytes of them are taken away."""
    rest: list[memoryview] = []
    for chunk in chunks:
        if size < len(chunk):
            rest.append(memoryview(chunk)[size:])
        size = max(0, size - len(chunk))
    return rest
