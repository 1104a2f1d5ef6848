"""How often something may happen: a token bucket, kept as the one time at which it will be full again.

This is the generic cell rate algorithm (ITU-T I.371), which needs no timer that fills the bucket.
"""

from __future__ import annotations

from typing import Final

# Seconds. Sums of many intervals are not exact, and neither are differences of times.
_SLACK: Final = 1e-6


class Rate:
    """So many at once, and then so many a second.

    Args:
        burst: how many at once.
        rate: how many a second.
    """

    __slots__ = ("_burst_time", "_full_at", "_interval")

    def __init__(self, burst: float, rate: float) -> None:
        self._interval = 1 / rate
        self._burst_time = burst / rate
        self._full_at = 0.0

    def spend(self, now: float, number: int = 1) -> bool:
        """Takes so many tokens, at a time in seconds; False: they are not there, and none is taken."""
        full_at = max(self._full_at, now) + number * self._interval
        if full_at - now > self._burst_time + _SLACK:
            return False
        self._full_at = full_at
        return True

    def wait(self, now: float) -> float:
        """Seconds until there is a token."""
        seconds = self._full_at + self._interval - self._burst_time - now
        return seconds if seconds > _SLACK / 2 else 0.0
