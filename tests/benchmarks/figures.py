"""From rounds to figures: medians, and ratios taken within a round and only then brought together."""

from __future__ import annotations

import dataclasses
from operator import itemgetter
from statistics import median
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

PERCENTILES = ("p50", "p99")


@dataclasses.dataclass(frozen=True)
class Ratio:
    """The middle of the ratios of all rounds, and the lowest and highest of them."""

    middle: float
    low: float
    high: float


def wall(burst: dict) -> float:
    """Seconds per call."""
    return burst["seconds"] / burst["count"]


def cpu(burst: dict) -> float:
    """Processor seconds per call, of both sides."""
    return (burst["client_cpu"] + burst["server_cpu"]) / burst["count"]


def ratio(ours: Sequence[dict], theirs: Sequence[dict], of: Callable[[dict], float] = wall) -> Ratio | None:
    """How many times ``of(theirs)`` it is that ``ours`` takes; None if that cannot be said."""
    # Rounds that only one of them has survived have no partner, and neither has what is too short for the clock.
    ratios = [of(a) / of(b) for a, b in zip(ours, theirs, strict=False) if of(b) > 0]
    return Ratio(median(ratios), min(ratios), max(ratios)) if ratios else None


def summary(results: dict, of: Callable[[dict], float] = wall) -> dict[str, dict]:
    """What there is to say of each lane of ``results``, quickest first."""
    reference = results["rounds"].get(results["reference"], [])
    figures = {}
    for label, bursts in results["rounds"].items():
        compared = ratio(bursts, reference, of)
        seconds = median(map(wall, bursts))
        figures[label] = {
            "seconds_per_call": seconds,
            "calls_per_second": 1 / seconds,
            "client_cpu_per_call": median(b["client_cpu"] / b["count"] for b in bursts),
            "server_cpu_per_call": median(b["server_cpu"] / b["count"] for b in bursts),
            "cpu_per_call": median(map(cpu, bursts)),
            "ratio": compared and dataclasses.asdict(compared),
        }
    return dict(sorted(figures.items(), key=lambda item: item[1]["seconds_per_call"]))


def latencies(results: dict) -> dict[str, dict]:
    """The percentiles of each lane of ``results``, each with its ratio to that of the reference."""
    reference = results["rounds"].get(results["reference"], [])
    return {
        label: {
            **{percentile: _percentile(bursts, reference, itemgetter(percentile)) for percentile in PERCENTILES},
            "calls": sum(burst["count"] for burst in bursts),
            "moved_per_second": sum(b["moved"] for b in bursts) / sum(b["seconds"] for b in bursts),
        }
        for label, bursts in results["rounds"].items()
    }


def _percentile(bursts: Sequence[dict], reference: Sequence[dict], of: Callable[[dict], float]) -> dict:
    compared = ratio(bursts, reference, of)
    return {"seconds": median(map(of, bursts)), "ratio": compared and dataclasses.asdict(compared)}
