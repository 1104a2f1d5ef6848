"""The workloads: what each is, what it is compared with, and how it is measured."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from . import idle, imports
from .lane import Lane, TimedLane, run_rounds

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .field import Contestant

IN_FLIGHT = 100

BUSY_CONNECTIONS = (1, 10, 100, 1000)
BUSY_CALLS = 5
"""Calls per connection in a burst, at least: with fewer, the start of the tasks would be measured."""

LOADS = ("idle", "streams_small", "streams_64k", "reply_64m", "unread")
"""What runs beside the calls of ``latency``, nothing first."""

LATENCY_CALLS = 1000
"""Calls in a burst of ``latency``, at least: ten of them are slower than the 99th percentile."""


@dataclasses.dataclass(frozen=True)
class Workload:
    """One that is measured in bursts of calls, or of items of a stream.

    Attributes:
        title: what is done, for the report.
        unit: what is counted.
        reference: the contestant that the others are compared with.
        one_core: both processes run on the same core. With one call at a time the other core would only wake up
            and fall asleep, which takes longer than the call.
        least: the smallest count that makes sense.
        instead: the workload that contestants do which cannot do this one.
    """

    title: str
    unit: str = "call"
    reference: str = "trpc_"
    one_core: bool = False
    least: int = 1
    instead: str | None = None

    def order_for(self, name: str, contestant: Contestant) -> str | None:
        """The work that ``contestant`` is given under ``name``; None: it cannot take part."""
        return next((work for work in (name, self.instead) if work in contestant.work), None)


CALLS = {
    "sequential_plain": Workload("one call at a time, plain handler", reference="trio_floor", one_core=True),
    "sequential_async": Workload(
        "one call at a time, async handler", reference="trio_floor", one_core=True, instead="sequential_plain"
    ),
    "flight_async": Workload("100 calls in flight, async handler that does not block", least=2 * IN_FLIGHT),
    "flight_checkpoint": Workload("100 calls in flight, async handler with one checkpoint", least=2 * IN_FLIGHT),
    "flight_thread": Workload("100 calls in flight, handler in a worker thread", least=2 * IN_FLIGHT),
    "echo_1k": Workload("1 KiB there and back", reference="blocking_sockets"),
    "echo_64k": Workload("64 KiB there and back", reference="blocking_sockets"),
    "echo_1m": Workload("1 MiB there and back", reference="blocking_sockets"),
    "echo_16m": Workload("16 MiB there and back", reference="blocking_sockets"),
    "cancel": Workload("a call is started, cancelled, and has ended", one_core=True),
    "stream_down": Workload("a stream from server to client, small items", "item", least=1000),
    "stream_up": Workload("a stream from client to server, small items", "item", least=1000),
    "stream_down_64k": Workload("a stream from server to client, items of 64 KiB", "item", "trio_stream", least=16),
    "stream_up_64k": Workload("a stream from client to server, items of 64 KiB", "item", "trio_stream", least=16),
}

ALL = (*CALLS, "latency", "busy", "idle", "import")
"""The names that can be chosen. The last four are measured each in its own way."""


@dataclasses.dataclass(frozen=True)
class Options:
    """How much of everything."""

    rounds: int
    seconds: float
    core: int | None


def measure_calls(name: str, contestants: Sequence[Contestant], options: Options) -> dict:
    """All contestants that can do the workload, in turns."""
    workload = CALLS[name]
    orders = {c.key: workload.order_for(name, c) for c in contestants}
    lanes = [Lane(c, c.key, {"work": orders[c.key]}, workload.least) for c in contestants if orders[c.key]]
    core = options.core if workload.one_core else None
    run_rounds(lanes, rounds=options.rounds, seconds=options.seconds, core=core)
    return {
        "title": workload.title,
        "unit": workload.unit,
        "one_core": core is not None,
        "instead": {key: order for key, order in orders.items() if order not in {name, None}},
        **_results(lanes, workload.reference),
    }


def measure_busy(contestant: Contestant, options: Options) -> dict:
    """One contestant with few and many connections, in turns."""
    lanes = [
        Lane(contestant, str(number), {"work": "busy", "connections": number}, BUSY_CALLS * number)
        for number in BUSY_CONNECTIONS
    ]
    run_rounds(lanes, rounds=options.rounds, seconds=options.seconds, core=None)
    return _results(lanes, str(BUSY_CONNECTIONS[0]))


def measure_latency(contestant: Contestant, options: Options) -> dict:
    """One contestant's calls without and with each of the loads beside them, in turns."""
    lanes = [TimedLane(contestant, load, {"work": "latency", "load": load}, LATENCY_CALLS) for load in LOADS]
    run_rounds(lanes, rounds=options.rounds, seconds=options.seconds, core=None)
    return _results(lanes, LOADS[0])


def _results(lanes: Sequence[Lane], reference: str) -> dict:
    """The bursts by lane, and the label of the lane to compare with: the intended one, or else the first."""
    bursts = {lane.label: [dataclasses.asdict(burst) for burst in lane.bursts] for lane in lanes if lane.bursts}
    if reference not in bursts:
        reference = next(iter(bursts), None)
    return {
        "reference": reference,
        "rounds": bursts,
        "failures": {lane.label: lane.failure for lane in lanes if lane.failure is not None},
    }


measure_idle = idle.measure
measure_imports = imports.measure
