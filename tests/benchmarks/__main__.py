"""How fast trpc is, compared with others: ``python -m tests.benchmarks`` from the root of the checkout.

All contestants for a workload are up at the same time and take turns in short bursts. What is reported is the ratio
to a contestant of the same round, because the same machine can be twice as fast a minute later.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import sys
from pathlib import Path

from . import field, figures, machine, peers, report, targets, workloads


def main() -> None:
    arguments = parse()
    results = measure(arguments)
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    print(report.everything(results))
    if not results["contestants"]:
        sys.exit("no contestant could run")


def parse() -> argparse.Namespace:
    def names(text: str) -> list[str]:
        return [name for name in text.split(",") if name]

    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__.partition("\n")[0])
    parser.add_argument("--only", type=names, metavar="WORKLOAD,...", help=f"of {', '.join(workloads.ALL)}")
    parser.add_argument("--contestants", type=names, metavar="NAME,...", help="scripts of the folder contestants")
    parser.add_argument("--peers", action="store_true", help="install other RPC libraries and compare with them too")
    parser.add_argument(
        "--without",
        type=names,
        metavar="TECHNIQUE,...",
        default=[],
        help=f"trpc also without one of its techniques: of {', '.join(field.techniques())}",
    )
    parser.add_argument("--rounds", type=int, default=9, help="bursts of each contestant (9)")
    parser.add_argument("--seconds", type=float, default=0.3, help="length of a burst (0.3)")
    parser.add_argument("--json", metavar="FILE", help="save everything that was measured")
    arguments = parser.parse_args()
    for name in arguments.only or ():
        if name not in workloads.ALL:
            parser.error(f"no workload {name!r}: there are {', '.join(workloads.ALL)}")
    known = [*field.OWN, *field.peer_keys()]
    for name in arguments.contestants or ():
        if name not in known:
            parser.error(f"no contestant {name!r}: there are {', '.join(known)}")
    for name in arguments.without:
        if name not in field.techniques():
            parser.error(f"no technique {name!r}: there are {', '.join(field.techniques())}")
    if arguments.rounds < 1 or not arguments.seconds > 0:
        parser.error("there must be a round, and a burst must have a length")
    return arguments


def measure(arguments: argparse.Namespace) -> dict:
    """Everything that was asked for, as it is saved."""
    notes = []
    peer_python = None
    if arguments.peers:
        peer_python, failures = peers.prepare()
        notes += [f"{requirement} was not installed: {reason}" for requirement, reason in failures.items()]
    keys = arguments.contestants or [*field.OWN, *(field.peer_keys() if arguments.peers else ())]
    keys = [*keys, *(field.WITHOUT + name for name in arguments.without)]
    contestants, absent = field.gather(keys, peer_python)
    core = machine.pinnable_core()
    if core is None:
        notes.append("processes cannot be bound to a core here: read the figures of single calls with care")
    options = workloads.Options(arguments.rounds, arguments.seconds, core)
    results = {
        "date": dt.date.today().isoformat(),
        "machine": machine.describe(),
        "rounds": arguments.rounds,
        "seconds": arguments.seconds,
        "contestants": {c.key: {"name": c.name, "version": c.version, "peer": c.is_peer} for c in contestants},
        "absent": absent,
        "notes": notes,
        "calls": {},
        "latency": {},
        "busy": {},
        "idle": {},
        "imports": {},
    }
    try:
        for name in arguments.only or workloads.ALL:
            print(f"measuring {name}", file=sys.stderr, flush=True)
            measure_one(name, contestants, options, results)
    except KeyboardInterrupt:
        # All processes have been ended on the way here; what was measured before is as good as ever.
        notes.append("interrupted")
    results["targets"] = targets.rows(results)
    return results


def measure_one(name: str, contestants: list[field.Contestant], options: workloads.Options, results: dict) -> None:
    """Adds what was measured of one workload to ``results``."""
    match name:
        case "latency":
            for contestant in contestants:
                if name in contestant.work:
                    result = workloads.measure_latency(contestant, options)
                    result["summary"] = figures.latencies(result)
                    results["latency"][contestant.key] = result
        case "busy":
            for contestant in contestants:
                if name in contestant.work:
                    result = workloads.measure_busy(contestant, options)
                    result["summary"] = figures.summary(result, figures.cpu)
                    results["busy"][contestant.key] = result
        case "idle":
            results["idle"] = workloads.measure_idle(contestants, options.rounds)
        case "import":
            results["imports"] = workloads.measure_imports(options.rounds)
        case _:
            result = workloads.measure_calls(name, contestants, options)
            if result["rounds"] or result["failures"]:
                result["summary"] = figures.summary(result)
                results["calls"][name] = result


if __name__ == "__main__":
    main()
