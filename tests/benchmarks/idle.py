"""How much memory a connection takes in the server on which nothing happens."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from .child import ChildFailedError
from .lane import Lane, open_lanes
from .machine import most_files

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from .field import Contestant

CONNECTIONS = (1_000, 10_000)
ROUNDS = 3
"""At most: memory is measured more exactly than time, and ten thousand connections take long."""

WARM_UP = 20
SPARE_FILES = 100
"""Files that a server has open beside its connections."""

PATIENCE = 300.0
SETTLE = 0.3
"""Seconds in which the server ends what it does for the last connection."""


def measure(contestants: Sequence[Contestant], rounds: int) -> dict:
    """Bytes per connection: for each contestant and number of connections one value for each round."""
    able = [contestant for contestant in contestants if "idle" in contestant.work]
    held = {c.key: {str(number): [] for number in CONNECTIONS} for c in able}
    failures: dict[str, str] = {}
    for _ in range(min(rounds, ROUNDS)):
        for contestant in able:
            if contestant.key in failures:
                continue
            try:
                for number, size in _measure_once(contestant):
                    held[contestant.key][str(number)].append(size)
            except ChildFailedError as exc:
                failures[contestant.key] = str(exc)
    return {"held": held, "failures": failures, "most_files": most_files()}


def _measure_once(contestant: Contestant) -> Iterator[tuple[int, float]]:
    """Numbers of connections, and bytes for each of them; those up to where it fails are good."""
    # In new processes: memory that was used once often stays with the process.
    lane = Lane(contestant, contestant.key, {"work": "idle"})
    with open_lanes([lane], core=None):
        _hold(lane, WARM_UP)
        _hold(lane, 0)
        before = lane.usage()["rss"]
        for number in CONNECTIONS:
            if number + SPARE_FILES <= most_files():
                _hold(lane, number)
                yield number, (lane.usage()["rss"] - before) / number


def _hold(lane: Lane, number: int) -> None:
    if lane.failure is not None:
        raise ChildFailedError(lane.failure)
    lane.order({"work": "idle", "count": 0, "connections": number}, patience=PATIENCE)
    time.sleep(SETTLE)
