"""What hostile peers can do to a server and to its other clients: ``python -m tests.attacks``.

A server, a well-behaved client and an attacker, each in a process of its own, over TCP on loopback. For each attack:
the calls of the well-behaved client and their failures, its p50 and p99 as ratios to those right before the attack,
by how much the server's memory grew at most, and how the attacker's connections ended.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

import trustme

from . import run
from .catalogue import ATTACKS


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.attacks", description=__doc__.partition("\n")[0])
    parser.add_argument("--only", nargs="+", metavar="NAME", choices=ATTACKS, help=f"of {', '.join(ATTACKS)}")
    parser.add_argument("--seconds", type=float, default=4.0, help="length of an attack (4)")
    parser.add_argument("--json", metavar="FILE", help="save everything that was measured")
    arguments = parser.parse_args()
    results = {}
    print(
        f"{'attack':<22} {'calls':>6} {'failed':>6} {'p50':>6} {'p99':>6} {'bound':>5} {'MiB':>5} {'bound':>5} {'sent':>6} {'answers':>7}  ends"
    )
    try:
        with tempfile.TemporaryDirectory() as folder:
            certificate = run.certificate(Path(folder), trustme.CA())
            for name in arguments.only or ATTACKS:
                # A server of its own, so that what one attack leaves is not taken for the next one's.
                with run.field(certificate) as field:
                    # What is only done once is not measured.
                    field.call(0.5)
                    alone = field.call(arguments.seconds)
                    results[name] = result = field.attack(name, seconds=arguments.seconds)
                result["alone"] = alone
                result["ratios"] = {key: result["beside"][key] / alone[key] for key in ("p50", "p99")}
                result["faults"] = run.faults(result)
                if result["ratios"]["p99"] > ATTACKS[name].times:
                    result["faults"].append(f"p99 is more than {ATTACKS[name].times:g} times as long")
                print(row(name, result), flush=True)
    except KeyboardInterrupt:
        print("interrupted")
    finally:
        if arguments.json:
            Path(arguments.json).write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    if any(result["faults"] for result in results.values()):
        sys.exit(1)


def row(name: str, result: dict) -> str:
    beside, ratios, attack = result["beside"], result["ratios"], ATTACKS[name]
    done = result["attacks"][name]
    ends = "; ".join(f"{count} {end}" for end, count in sorted(done["ends"].items(), key=lambda item: -item[1]))
    line = (
        f"{name:<22} {beside['calls']:>6} {beside['failures']:>6} {ratios['p50']:>6.1f} {ratios['p99']:>6.1f}"
        f" {attack.times:>5g} {result['growth'] >> 20:>5} {attack.growth >> 20:>5} {done['sent'] >> 20:>6} {done['answers']:>7}  {ends}"
    )
    return "\n".join([line, *(f"    FAULT: {fault}" for fault in result["faults"])])


if __name__ == "__main__":
    main()
