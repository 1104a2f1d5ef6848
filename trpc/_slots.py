"""How many calls may be in flight: those over it wait, in their order."""

from __future__ import annotations

import trio


class Slots:
    """Places for calls. As long as one is free, nobody waits.

    It is not a ``trio.CapacityLimiter``, which keeps a set of who has a place, and takes four times as long.

    Args:
        number: how many there are.

    Attributes:
        number: the same; see :meth:`set_number`.
        taken: how many of them somebody has.
    """

    __slots__ = ("_waiting", "number", "taken")

    def __init__(self, number: float) -> None:
        self.number = number
        self.taken = 0
        self._waiting = trio.lowlevel.ParkingLot()

    async def wait(self) -> None:
        """Waits for one and takes it, as none is free: else who wants it counts it, which saves the time of this.

        Cancelled: it has none.
        """
        await self._waiting.park()

    def give_back(self) -> None:
        """Frees one, or passes it to who has waited longest."""
        if self.taken >= self.number and self._waiting:
            self._waiting.unpark()
        else:
            self.taken -= 1

    def set_number(self, number: float) -> None:
        """There are so many from now on. If these are fewer, those that are taken stay so."""
        self.number = number
        self.taken += len(self._waiting.unpark(count=max(0, number - self.taken)))
