"""How bytes travel in one direction of a connection in memory: see :mod:`tests.simulation.faulty_stream`."""

from __future__ import annotations

import dataclasses
import math
import random
from collections import deque
from collections.abc import Callable
from typing import Final, Literal

import trio
import trio.lowlevel

# What is sent over a slow line arrives bit by bit, in pieces of this size.
_PACKET: Final = 1024


@dataclasses.dataclass(frozen=True, kw_only=True)
class Faults:
    """How bytes travel in one direction. By default: all at once, and without a limit.

    Attributes:
        slices: a read gives at most so many bytes, often fewer; 1: one at a time; None: all that has arrived.
        latency: seconds that each byte is on its way.
        jitter: up to so many seconds more, chosen anew for each write. The order stays.
        bandwidth: bytes per second.
        window: bytes that may be on their way, or wait to be read, before writing has to wait.
        cut_after: the connection is cut behind so many bytes; None: it is not.
        cut: how. ``"eof"``: the reader sees the end of the stream, and all further bytes are swallowed, as if the sender's
            system had gone. ``"reset"``: the reader gets the bytes before, then both ends break.
    """

    slices: int | None = None
    latency: float = 0.0
    jitter: float = 0.0
    bandwidth: float = math.inf
    window: int = 64 * 1024
    cut_after: int | None = None
    cut: Literal["eof", "reset"] = "reset"


class Direction:
    """One direction of a connection.

    Attributes:
        faults: how bytes travel; those that are on their way already have their time of arrival.
        sent: how many bytes were written, those behind a cut included.
        received: how many bytes were read.
        on_sent: called with what is written, before it travels.
        on_received: called with what is read.
    """

    def __init__(self, faults: Faults, rng: random.Random) -> None:
        self.faults = faults
        self.sent = 0
        self.received = 0
        self.on_sent: Callable[[bytes], None] | None = None
        self.on_received: Callable[[bytes], None] | None = None
        self.opposite = self
        self._rng = rng
        self._pieces: deque[tuple[float, bytes]] = deque()
        """With the time at which each arrives."""
        self._unread = 0
        self._line_free = 0.0
        self._last_arrival = 0.0
        self._stalled_until = -math.inf
        self._end: tuple[float, Literal["eof", "reset"]] | None = None
        """What comes behind the last piece, and when."""
        self._broken = False
        """Whether the sender knows that it is of no use."""
        self._reader_left = math.inf
        """When the sender learns that nobody reads any more."""
        self._changed = trio.lowlevel.ParkingLot()

    # --- what a test does ---

    @property
    def is_stalled(self) -> bool:
        """Whether nothing arrives now."""
        return self._stalled_until > trio.current_time()

    def stall(self, seconds: float = math.inf) -> None:
        """Nothing arrives for so long: what is sent meanwhile does so afterwards."""
        self._stalled_until = max(self._stalled_until, trio.current_time() + seconds)
        self._wake()

    def heal(self) -> None:
        """From now on all is well, except that what was cut stays so. What is on its way arrives now."""
        self.faults = Faults(window=self.faults.window)
        self._stalled_until = -math.inf
        self._line_free = self._last_arrival = now = trio.current_time()
        self._pieces = deque((min(arrival, now), data) for arrival, data in self._pieces)
        if self._end is not None:
            self._end = (min(self._end[0], now), self._end[1])
        if self._reader_left < math.inf:
            self._reader_left = min(self._reader_left, now)
        self._wake()

    def end(self) -> None:
        """The reader sees the end of the stream behind what is on its way; what is sent from now on is swallowed."""
        if self._end is None:
            self._end = (self._arrival(0), "eof")
            self._changed.unpark_all()

    def reset(self, *, keeps_data: bool = False) -> None:
        """The sender finds it broken at once; the reader too, unless it may read what is on its way before."""
        self._broken = True
        if not keeps_data:
            self._pieces.clear()
            self._end = (trio.current_time(), "reset")
        elif self._end is None or self._end[1] == "eof":
            self._end = (self._arrival(0), "reset")
        self._changed.unpark_all()

    # --- what the streams do ---

    async def send(self, data: bytes) -> None:
        await trio.lowlevel.checkpoint()
        self._check_sender()
        view = memoryview(data)
        while view:
            if self._unread >= self.faults.window:
                await self.wait_room()
                self._check_sender()
            room = self.faults.window - self._unread
            self._put(bytes(view[:room]))
            view = view[room:]

    async def wait_room(self) -> None:
        if self._unread < self.faults.window:
            return
        # As TCP does, until half of it is free: else one byte would follow another.
        while not self._broken and self._unread > self.faults.window // 2 and not self._nobody_reads:
            await self._wait(max(self._reader_left, self.opposite._stalled_until))

    async def receive(self, most: int) -> bytes:
        await trio.lowlevel.checkpoint()
        while True:
            if self._reader_left < math.inf:
                raise trio.BrokenResourceError("this end is closed")
            if (data := self._take(most)) is not None:
                return data
            await self._wait(self._next_arrival())

    def close_writing(self) -> None:
        self.end()
        self._broken = True
        self._changed.unpark_all()

    def close_reading(self) -> None:
        """What was not read is lost, and the sender hears of it, behind what comes from there."""
        self._reader_left = min(self._reader_left, self.opposite._arrival(0))
        self._changed.unpark_all()

    @property
    def _nobody_reads(self) -> bool:
        return self._reader_left <= trio.current_time() and not self.opposite.is_stalled

    def _check_sender(self) -> None:
        if self._broken or self._nobody_reads:
            raise trio.BrokenResourceError("the connection was reset")

    def _put(self, data: bytes) -> None:
        if self.on_sent is not None:
            self.on_sent(data)
        cut_after = self.faults.cut_after
        is_cut = cut_after is not None and self._end is None and self.sent + len(data) >= cut_after
        kept = data[: cut_after - self.sent] if is_cut else data
        self.sent += len(data)
        if self._end is None and self._reader_left == math.inf:
            self._travel(kept)
        if is_cut:
            self.cut()
        self._changed.unpark_all()

    def cut(self) -> None:
        """Does what :attr:`Faults.cut` says."""
        if self.faults.cut == "eof":
            self.end()
        else:
            self.reset(keeps_data=True)
            self.opposite.reset()

    def _travel(self, data: bytes) -> None:
        step = len(data) if self.faults.bandwidth == math.inf else _PACKET
        for start in range(0, len(data), step):
            piece = data[start : start + step]
            self._pieces.append((self._arrival(len(piece)), piece))
            self._unread += len(piece)

    def _arrival(self, size: int) -> float:
        faults, now = self.faults, trio.current_time()
        self._line_free = max(self._line_free, now) + size / faults.bandwidth
        late = faults.latency + (self._rng.random() * faults.jitter if faults.jitter else 0)
        self._last_arrival = max(self._last_arrival, self._line_free + late)
        return self._last_arrival

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
        if self.faults.slices is not None:
            most = min(most, self._rng.randint(1, self.faults.slices))
        taken, size = [], 0
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
        if self._pieces:
            arrival = self._pieces[0][0]
        else:
            arrival = self._end[0] if self._end is not None else math.inf
        return max(arrival, self._stalled_until)

    def _wake(self) -> None:
        """For who reads here, and for who writes: it is the other direction that tells that nobody reads."""
        self._changed.unpark_all()
        self.opposite._changed.unpark_all()

    async def _wait(self, until: float) -> None:
        """Until then, or until something has changed."""
        if until == math.inf:
            await self._changed.park()
        else:
            with trio.CancelScope(deadline=until):
                await self._changed.park()
