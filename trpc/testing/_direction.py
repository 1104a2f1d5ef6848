"""One direction of a connection in memory: what a test does to it, and when something arrives."""

from __future__ import annotations

import math
from collections import deque
from typing import TYPE_CHECKING, Literal

import trio

from ._faults import NO_FAULTS, Faults

if TYPE_CHECKING:
    import random
    from collections.abc import Callable


class Direction:
    """One direction of a :class:`Link`: ``link.there`` or ``link.back``.

    Attributes:
        sent: how many bytes were written, those that were lost on the way included.
        received: how many bytes were read.
        on_sent: None, or a function that is called with what is written, before anything happens to it.
        on_received: None, or a function that is called with what is read.
    """

    def __init__(self, faults: Faults, rng: random.Random) -> None:
        self.sent = 0
        self.received = 0
        self.on_sent: Callable[[bytes], None] | None = None
        self.on_received: Callable[[bytes], None] | None = None
        self._faults = faults
        self._rng = rng
        self._opposite = self
        self._has_begun = False
        self._pieces: deque[tuple[float, bytes]] = deque()
        """With the time at which each arrives."""
        self._line_free = 0.0
        self._last_arrival = 0.0
        self._stalled_until: float = -math.inf
        self._end: tuple[float, Literal["eof", "reset"]] | None = None
        """What comes behind the last piece, and when."""
        self._is_broken = False
        """Whether the sender knows that it is of no use."""
        self._reader_left = math.inf
        """When the sender learns that nobody reads any more."""
        self._changed = trio.lowlevel.ParkingLot()

    @property
    def faults(self) -> Faults:
        """How bytes travel. It can be set at any time; those that are on their way already have their time of arrival."""
        return self._faults

    @faults.setter
    def faults(self, faults: Faults) -> None:
        self._faults = faults
        if self._has_begun:
            self._cut_if_due()
        self._wake()

    @property
    def is_stalled(self) -> bool:
        """Whether nothing arrives now."""
        return self._stalled_until > self._now()

    def stall(self, seconds: float = math.inf) -> None:
        """Nothing arrives for so long: what is sent meanwhile does so afterwards.

        Before there is a connection: for so long from its beginning.

        Raises:
            ValueError: it is not 0 or more seconds.
        """
        if not seconds >= 0:  # NaN is not either
            raise ValueError(f"a stall is a number of seconds, 0 or more, not {seconds}")
        self._stalled_until = max(self._stalled_until, self._now() + seconds)
        self._wake()

    def cut(self, how: Literal["eof", "reset"] | None = None) -> None:
        """Cuts it behind what is on its way now.

        Args:
            how: as in :class:`Faults`; None: what ``faults.cut`` says.

        Raises:
            ValueError: it is something else.
        """
        how = self._faults.cut if how is None else how
        if how == "eof":
            self._end_behind("eof")
        elif how == "reset":
            self._break(keeps_data=True)
            self._opposite._break()
        else:
            raise ValueError(f'a cut is either "eof" or "reset", not {how!r}')

    def heal(self) -> None:
        """From now on all is well, except that what was cut stays so. What is on its way, or was stalled, arrives now."""
        self._faults = Faults(window=self._faults.window)
        self._stalled_until = -math.inf
        self._line_free = self._last_arrival = now = self._now()
        self._pieces = deque((min(arrival, now), data) for arrival, data in self._pieces)
        if self._end is not None:
            self._end = (min(self._end[0], now), self._end[1])
        if self._reader_left < math.inf:
            self._reader_left = min(self._reader_left, now)
        self._wake()

    def __repr__(self) -> str:
        faults = "no faults" if self._faults == NO_FAULTS else repr(self._faults)
        return f"<{faults}, {self.sent} bytes sent, {self.received} received>"

    def _now(self) -> float:
        """Before it is used, it may be outside of Trio: its time begins with its use."""
        return trio.current_time() if self._has_begun else 0.0

    def _end_behind(self, how: Literal["eof", "reset"]) -> None:
        """The reader sees the end behind what is on its way; what is sent from now on is swallowed."""
        if self._end is None or (how == "reset" and self._end[1] == "eof"):
            self._end = (self._arrival(0), how)
        self._changed.unpark_all()

    def _break(self, *, keeps_data: bool = False) -> None:
        """The sender finds it broken at once; the reader too, unless it may read what is on its way before."""
        self._is_broken = True
        if keeps_data:
            self._end_behind("reset")
            return
        self._pieces.clear()
        self._end = (self._now(), "reset")
        self._changed.unpark_all()

    def _cut_if_due(self) -> None:
        cut_after = self._faults.cut_after
        if cut_after is not None and self._end is None and self.sent >= cut_after:
            self.cut()

    def _arrival(self, size: int) -> float:
        """When something arrives that is sent now."""
        faults, now = self._faults, self._now()
        self._line_free = max(self._line_free, now) + size / faults.bandwidth
        late = faults.latency + (self._rng.random() * faults.jitter if faults.jitter else 0)
        self._last_arrival = max(self._last_arrival, self._line_free + late)
        return self._last_arrival

    def _wake(self) -> None:
        """For who reads here, and for who writes: it is the other direction that tells that nobody reads."""
        self._changed.unpark_all()
        self._opposite._changed.unpark_all()
