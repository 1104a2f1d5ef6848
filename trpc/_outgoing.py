"""A frame on its way out: its bytes, how far it has come, and how frames are put together to be written."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

    import trio

# Frames are joined up to this size, so that many small ones share a system call and none waits for long.
BATCH: Final = 64 * 1024
# Bytes that are not copied to be joined with others.
_LARGE: Final = 16 * 1024

# The bytes of a frame: in one piece, or, if it is large, in those that it was made of.
Data = bytes | tuple[bytes, ...]


class State(enum.Enum):
    """How far a frame has come."""

    QUEUED = "queued"
    UNSENT = "unsent"
    """Taken back, or the connection ended first: no byte of it has left, nor ever will."""
    WRITING = "writing"
    WRITTEN = "written"
    BROKEN = "broken"
    """The connection ended while it was being written: the peer may have it."""


_QUEUED = State.QUEUED


class Outgoing:
    """A frame, for its owner to take back or to wait for.

    Attributes:
        data: its bytes, until they are written.
        size: how many these are.
        is_answer: whether it answers what the peer has sent.
        state: how far it has come.
        waiter: a task that waits until it is written.
    """

    __slots__ = ("data", "is_answer", "size", "state", "waiter")

    def __init__(self) -> None:
        self.data: Data = b""
        self.size = 0
        self.is_answer = False
        self.state = _QUEUED
        self.waiter: trio.lowlevel.Task | None = None


# What answers the peer, and is not large, is there as its bytes alone: nobody asks for it again.
Entry = Outgoing | bytes


def size_of(data: Data) -> int:
    """How many bytes it has."""
    return len(data) if isinstance(data, bytes) else sum(map(len, data))


def is_taken_back(entry: Entry) -> bool:
    """Whether it only holds the place of a frame that was there."""
    return not isinstance(entry, bytes) and entry.state is not _QUEUED


class Batch:
    """Frames to be written together.

    Attributes:
        entries: the frames.
        chunks: their bytes, small ones joined.
        size: how many these are.
        empty: how many places of frames that were taken back it has passed.
    """

    __slots__ = ("chunks", "empty", "entries", "size")

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.chunks: list[bytes] = []
        self.size = 0
        self.empty = 0

    def add(self, queue: Sequence[Entry]) -> int:
        """Takes from the front of a queue until the batch is full; how many entries these are."""
        small: list[bytes] = []
        count = 0
        for entry in queue:
            if self.size >= BATCH:
                break
            count += 1
            if is_taken_back(entry):
                self.empty += 1
                continue
            self.entries.append(entry)
            data = entry if isinstance(entry, bytes) else entry.data
            for chunk in (data,) if isinstance(data, bytes) else data:
                self.size += len(chunk)
                if len(chunk) < _LARGE:
                    small.append(chunk)
                else:
                    self._add_joined(small)
                    self.chunks.append(chunk)
                    small = []
        self._add_joined(small)
        return count

    def _add_joined(self, chunks: list[bytes]) -> None:
        if chunks:
            self.chunks.append(b"".join(chunks))


def without_first(chunks: Sequence[bytes | memoryview], size: int) -> list[memoryview]:
    """What is left of ``chunks`` when the first ``size`` bytes of them are taken away."""
    rest: list[memoryview] = []
    for chunk in chunks:
        if size < len(chunk):
            rest.append(memoryview(chunk)[size:])
        size = max(0, size - len(chunk))
    return rest
