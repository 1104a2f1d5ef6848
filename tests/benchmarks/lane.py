"""A lane: one contestant's server and client, up and idle, and the bursts of calls that are run on it."""

from __future__ import annotations

import contextlib
import dataclasses
from typing import TYPE_CHECKING, ClassVar

from .child import Child, ChildFailedError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .field import Contestant

START_PATIENCE = 60.0
BURST_PATIENCE = 60.0
USAGE_PATIENCE = 30.0
STARTS = 3
"""How often the processes of a lane are started for one workload."""

CALIBRATION_SHARE = 0.3
"""A burst that takes at least this share of the time that it should is long enough to calculate the count from."""


@dataclasses.dataclass(frozen=True)
class Burst:
    """What one burst of calls took, in seconds; the processor time is that of each whole process."""

    count: int
    seconds: float
    client_cpu: float
    server_cpu: float


@dataclasses.dataclass(frozen=True)
class TimedBurst:
    """One in which each call was timed: percentiles in seconds, and what the load beside them has moved meanwhile."""

    count: int
    seconds: float
    p50: float
    p99: float
    moved: int


class Lane:
    """The two processes. They are started by :func:`open_lanes`.

    Args:
        contestant: whose they are.
        label: what distinguishes the lane from the others that it runs with.
        order: what every burst orders, without the count.
        least: the smallest count that makes sense.
    """

    answers: ClassVar = ("seconds", "cpu")

    def __init__(self, contestant: Contestant, label: str, order: dict, least: int = 1) -> None:
        self.contestant = contestant
        self.label = label
        self.bursts: list[Burst | TimedBurst] = []
        self.failure: str | None = None
        self._order = order
        self._least = self._count = least
        self._server: Child | None = None
        self._client: Child | None = None

    def start_server(self, core: int | None) -> None:
        self._server = Child(self.contestant.command("serve"), core=core)

    def start_client(self, core: int | None) -> None:
        address = self._server.hear(keys=("address",), patience=START_PATIENCE)["address"]
        self._client = Child(self.contestant.command("call", str(address)), core=core)

    def await_ready(self) -> None:
        self._client.hear(keys=("ready",), patience=START_PATIENCE)

    def close(self) -> None:
        """Ends both; the client first, which is what servers are used to."""
        for child in self._client, self._server:
            if child is not None:
                child.begin_stop()
        for child in self._client, self._server:
            if child is not None:
                child.close()

    def order(self, order: dict, *, patience: float = BURST_PATIENCE) -> dict:
        """Has the client do something, and says what that took."""
        return self._client.ask(order, keys=self.answers, patience=patience)

    def usage(self) -> dict:
        """The server's processor time and memory."""
        return self._server.ask({}, keys=("cpu", "rss"), patience=USAGE_PATIENCE)

    def burst(self, count: int) -> Burst | TimedBurst:
        before = self.usage()["cpu"]
        answer = self.order({**self._order, "count": count})
        return Burst(count, answer["seconds"], answer["cpu"], self.usage()["cpu"] - before)

    def calibrate(self, seconds: float) -> None:
        """Finds the count for bursts of about ``seconds``. That warms the lane up, too."""
        while (burst := self.burst(self._count)).seconds < seconds * CALIBRATION_SHARE:
            # Carefully, as the first calls are slower than the later ones.
            self._count = max(2 * self._count, min(10 * self._count, int(self._fitting(burst, seconds) / 2)))
        self._count = max(self._least, round(self._fitting(burst, seconds)))

    @staticmethod
    def _fitting(burst: Burst | TimedBurst, seconds: float) -> float:
        """As many calls as there are in ``seconds`` at the speed of ``burst``."""
        return burst.count * seconds / burst.seconds

    def run(self) -> None:
        """A burst that counts."""
        self.bursts.append(self.burst(self._count))

    def attempt(self, step, *args: object) -> None:
        """Calls ``step`` of a lane that has not failed yet; a failure takes this lane out, and no other."""
        if self.failure is None:
            try:
                step(self, *args)
            except ChildFailedError as exc:
                self.failure = str(exc)
                self.close()


class TimedLane(Lane):
    """One whose client times each call."""

    answers = ("calls", "seconds", "p50", "p99", "moved")

    def burst(self, count: int) -> TimedBurst:
        answer = self.order({**self._order, "count": count})
        return TimedBurst(*(answer[key] for key in self.answers))


@contextlib.contextmanager
def open_lanes(lanes: list[Lane], core: int | None) -> Iterator[None]:
    """Starts the processes of all ``lanes``, side by side as that takes time, and ends them."""
    try:
        for lane in lanes:
            if lane.failure is None:
                lane.start_server(core)
        for lane in lanes:
            lane.attempt(Lane.start_client, core)
        for lane in lanes:
            lane.attempt(Lane.await_ready)
        yield
    finally:
        for lane in lanes:
            lane.close()


def run_rounds(lanes: list[Lane], *, rounds: int, seconds: float, core: int | None) -> None:
    """Bursts in turns: a change of the machine's speed meets all lanes, and leaves their ratios as they are.

    After some rounds all processes are started anew: where things lie in memory is different each time, and makes
    the same program up to a quarter faster or slower for as long as it lives.
    """
    starts = min(STARTS, rounds)
    for number in range(starts):
        with open_lanes(lanes, core):
            for lane in lanes:
                lane.attempt(Lane.calibrate, seconds)
            for _ in range(number, rounds, starts):
                for lane in lanes:
                    lane.attempt(Lane.run)
