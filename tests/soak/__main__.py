"""Whether anything grows: ``python -m tests.soak [--minutes 60] [--out DIR]``.

A server, three clients that make calls of all kinds, and bad peers, each a process; together they take about half of
one core. Memory, descriptors and tasks are sampled, saved as CSV and drawn. At the end the last quarter is compared
with the second one. The exit code is 1 if it is above, or if any well-behaved call had a wrong outcome. In less than some
ten minutes, the bad peers have not had their turn each before it is compared, and memory is said to grow.
"""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
from pathlib import Path

from . import chart, run

INTERVAL = 5.0
LEAST_SAMPLES = 40


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__.partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=60.0, help="how long (60)")
    parser.add_argument("--out", metavar="DIR", help="where samples.csv and samples.svg are saved")
    parser.add_argument("--seed", type=int, default=0, help="of the choice of attacks (0)")
    arguments = parser.parse_args()
    # As an interrupt: what was started is ended on the way out.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("terminated"))
    seconds = arguments.minutes * 60
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(arguments.out or temporary)
        folder.mkdir(parents=True, exist_ok=True)
        soak = run.Run(folder, seed=arguments.seed)
        try:
            soak.go(seconds, min(INTERVAL, seconds / LEAST_SAMPLES))
        except KeyboardInterrupt:
            print("interrupted: this is what there is")
        finally:
            draw(soak, folder)
        sys.exit(report(soak))


def draw(soak: run.Run, folder: Path) -> None:
    if soak.rows:
        times = [row["seconds"] for row in soak.rows]
        columns = {name: [row[name] for row in soak.rows] for name in run.COLUMNS if name != "seconds"}
        title = f"Soak: {soak.calls} calls, {soak.attacks} attacks"
        (folder / "samples.svg").write_text(chart.picture(title, times, columns), encoding="utf-8")


def report(soak: run.Run) -> int:
    print(f"{soak.calls} calls, {soak.attacks} attacks, {soak.rows[-1]['cores'] if soak.rows else 0} cores")
    print(", ".join(f"{name} {count}" for name, count in sorted(soak.done.items())))
    bad = bool(soak.wrong or soak.left)
    for wrong in soak.wrong:
        print(f"WRONG: {wrong}")
    if soak.left:
        print(f"LEFT at the server when the others had gone: {soak.left}")
    if len(soak.rows) < LEAST_SAMPLES // 2:
        print("too few samples to say whether anything grows")
        return 1
    for name, (before, after, flat) in run.verdicts(soak.rows).items():
        print(f"{name:<24} second quarter {before:>8.1f}, last {after:>8.1f}  {'flat' if flat else 'GROWS'}")
        bad |= not flat
    return int(bad)


if __name__ == "__main__":
    main()
