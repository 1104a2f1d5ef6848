"""Times of many calls: percentiles, and a histogram in text."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from typing import TYPE_CHECKING, Final

from ._durations import shown

if TYPE_CHECKING:
    from collections.abc import Iterator

# Buckets for each doubling: a percentile is right to a hundredth.
_PER_DOUBLING: Final = 64
PERCENTILES: Final = (50, 90, 99, 99.9)

_BAR: Final = "█"
_PARTS: Final = " ▏▎▍▌▋▊▉"
_BAR_WIDTH: Final = 40
_BARS: Final = 16


@dataclasses.dataclass(frozen=True, slots=True)
class Bar:
    """A line of a histogram: calls that took from ``start`` up to ``end`` seconds."""

    start: float
    end: float
    count: int


class Latencies:
    """Times in seconds. What it takes in memory does not grow with their number."""

    def __init__(self) -> None:
        self._counts: Counter[int] = Counter()
        self.count = 0
        self.least = math.inf
        self.most = 0.0
        self._sum = 0.0

    def add(self, seconds: float) -> None:
        """Counts one more."""
        self.count += 1
        self._sum += seconds
        self.least = min(self.least, seconds)
        self.most = max(self.most, seconds)
        self._counts[math.floor(math.log2(max(seconds, 1e-9)) * _PER_DOUBLING)] += 1

    @property
    def mean(self) -> float:
        """Their mean; 0 if there are none."""
        return self._sum / self.count if self.count else 0.0

    def percentile(self, percent: float) -> float:
        """The time within which so many percent of them are; 0 if there are none."""
        wanted = math.ceil(self.count * percent / 100)
        if wanted == self.count:
            return self.most
        seen = 0
        for bucket in sorted(self._counts):
            seen += self._counts[bucket]
            if seen >= wanted:
                middle = 2 ** ((bucket + 0.5) / _PER_DOUBLING)
                return min(max(middle, self.least), self.most)
        return 0.0

    def bars(self) -> list[Bar]:
        """A histogram: bars of equal widths on a logarithmic scale, at most 16."""
        if not self._counts:
            return []
        low, high = min(self._counts), max(self._counts)
        width = max(1, math.ceil((high - low + 1) / _BARS))
        return [
            Bar(
                2 ** (start / _PER_DOUBLING),
                2 ** ((start + width) / _PER_DOUBLING),
                sum(self._counts[bucket] for bucket in range(start, start + width)),
            )
            for start in range(low, high + 1, width)
        ]

    def summary(self) -> str:
        """``min 0.10 ms  p50 … max …``."""
        parts = [("min", self.least), *((f"p{percent:g}", self.percentile(percent)) for percent in PERCENTILES)]
        return "  ".join(f"{name} {shown(value)}" for name, value in [*parts, ("max", self.most)])

    def milliseconds(self) -> dict[str, float]:
        """The same as plain data."""
        if not self.count:
            return {}
        parts = {f"p{percent:g}": self.percentile(percent) for percent in PERCENTILES}
        parts = {"min": self.least, "mean": self.mean, **parts, "max": self.most}
        return {name: round(value * 1000, 4) for name, value in parts.items()}


def histogram_lines(latencies: Latencies) -> Iterator[str]:
    """The lines of a histogram."""
    bars = latencies.bars()
    most = max((bar.count for bar in bars), default=0)
    for bar in bars:
        eighths = round(bar.count / most * _BAR_WIDTH * 8)
        # What is there at all is seen.
        eighths = max(eighths, 1) if bar.count else 0
        drawn = _BAR * (eighths // 8) + _PARTS[eighths % 8].strip()
        yield f"{shown(bar.start):>9} … {shown(bar.end):>9} {drawn:<{_BAR_WIDTH}} {bar.count}".rstrip()
