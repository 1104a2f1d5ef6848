"""One direction of a connection in memory, as the streams at its ends use it.

Time is that of Trio's clock only, so that a MockClock makes hours of it pass in no time; chance is that of the seed
only. There are no tasks: every piece of data carries the time at which it arrives, and who reads waits for that.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

import trio

from ._direction import Direction

if TYPE_CHECKING:
    import random

    from ._faults import Faults

# What is sent over a slow line arrives bit by bit, in pieces of this size.
_PACKET: Final = 1024
# Each byte with its bits inverted.
_INVERTED: Final = bytes(255 - byte for byte in range(256))


class Pipe(Direction):
    """A direction with its bytes. What it raises, and what a cancel does, is said by :class:`MemoryStream`."""

    def __init__(self, faults: Faults, rng: random.Random) -> None:
        super().__init__(faults, rng)
        self._unread = 0

    @classmethod
    def pair(cls, there: Faults, back: Faults, rng: random.Random) -> tuple[Pipe, Pipe]:
        """Both directions of one connection."""
        one, other = cls(there, rng), cls(back, rng)
        one._opposite, other._opposite = other, one
        return one, other

    def begin(self) -> None:
        """It is used from now on.

        Raises:
            RuntimeError: Trio does not run.
        """
        start = trio.current_time()
        self._has_begun = True
        # What a test has done before was at the time 0.
        self._line_free += start
        self._last_arrival += start
        self._stalled_until += start
        if self._end is not None:
            self._end = (self._end[0] + start, self._end[1])
        self._cut_if_due()

    def reset(self) -> None:
        """It breaks for both ends, and what is on its way is lost."""
        self._break()

    async def send(self, data: bytes) -> None:
        """Returns when all of it is on its way."""
        await trio.lowlevel.checkpoint()
        self._check_sender()
        view = memoryview(data)
        while view:
            if self._unread >= self._faults.window:
                await self.wait_room()
                self._check_sender()
            room = max(self._faults.window - self._unread, 1)
            self._put(bytes(view[:room]))
            view = view[room:]

    async def wait_room(self) -> None:
        """Waits until something can be sent, or sending is of no use; a checkpoint only if it has to."""
        if self._unread < self._faults.window:
            return
        # As TCP does, until half of it is free: else one byte would follow another.
        while not self._is_broken and self._unread > self._faults.window // 2 and not self._nobody_reads:
            await self._wait(max(self._reader_left, self._opposite._stalled_until))

    async def receive(self, most: int) -> bytes:
        """What has arrived, once something has; nothing at the end."""
        await trio.lowlevel.checkpoint()
        while True:
            if self._reader_left < math.inf:
                raise trio.BrokenResourceError("this end is closed")
            if (data := self._take(most)) is not None:
                return data
            await self._wait(self._next_arrival())

    def close_writing(self) -> None:
        """The sender sends no more."""
        self._end_behind("eof")
        self._is_broken = True
        self._changed.unpark_all()

    def close_reading(self) -> None:
        """What was not read is lost, and the sender hears of it, behind what comes from there."""
        self._reader_left = min(self._reader_left, self._opposite._arrival(0))
        self._changed.unpark_all()

    @property
    def _nobody_reads(self) -> bool:
        return self._reader_left <= trio.current_time() and not self._opposite.is_stalled

    def _check_sender(self) -> None:
        if self._is_broken or self._nobody_reads:
            raise trio.BrokenResourceError("the connection was reset")

    def _put(self, data: bytes) -> None:
        if self.on_sent is not None:
            self.on_sent(data)
        start, cut_after = self.sent, self._faults.cut_after
        self.sent += len(data)
        # It may have been cut by that function just now.
        if self._end is None and self._reader_left == math.inf:
            kept = data if cut_after is None else data[: cut_after - start]
            self._travel(self._damaged(kept, start))
        self._cut_if_due()
        self._changed.unpark_all()

    def _damaged(self, data: bytes, start: int) -> bytes:
        """What arrives of some bytes, the first of which is at that offset."""
        faults = self._faults
        if faults.corrupt is not None:
            first, last = _within(faults.corrupt, start)
            data = data[:first] + data[first:last].translate(_INVERTED) + data[last:]
        if faults.drop is not None:
            first, last = _within(faults.drop, start)
            data = data[:first] + data[last:]
        return data

    def _travel(self, data: bytes) -> None:
        if not data:
            return
        step = len(data) if self._faults.bandwidth == math.inf else _PACKET
        for start in range(0, len(data), step):
            piece = data[start : start + step]
            self._pieces.append((self._arrival(len(piece)), piece))
            self._unread += len(piece)

    def _take(self, most: int) -> bytes | None:
        """What has arrived, or None."""
        now = trio.current_time()
        if self._stalled_until > now:
            return None
        pieces = self._pieces
        if not pieces:
            if self._end is None or self._end[0] > now:
                return None
            if self._end[1] == "reset":
                raise trio.BrokenResourceError("the connection was reset")
            return b""
        if self._faults.slices is not None:
            most = min(most, self._rng.randint(1, self._faults.slices))
        taken: list[bytes] = []
        size = 0
        while pieces and size < most and pieces[0][0] <= now:
            arrival, data = pieces.popleft()
            if len(data) > most - size:
                pieces.appendleft((arrival, data[most - size :]))
                data = data[: most - size]
            taken.append(data)
            size += len(data)
        if not taken:
            return None
        self._unread -= size
        self.received += size
        self._changed.unpark_all()
        data = b"".join(taken)
        if self.on_received is not None:
            self.on_received(data)
        return data

    def _next_arrival(self) -> float:
        following = self._pieces[0] if self._pieces else self._end
        return max(math.inf if following is None else following[0], self._stalled_until)

    async def _wait(self, until: float) -> None:
        """Until then, or until something has changed."""
        if until == math.inf:
            await self._changed.park()
        else:
            with trio.CancelScope(deadline=until):
                await self._changed.park()


def _within(offsets: range, start: int) -> tuple[int, int]:
    """Which of the bytes behind an offset these are: from the first one, to one behind the last."""
    first = max(offsets.start - start, 0)
    return first, max(offsets.stop - start, first)
