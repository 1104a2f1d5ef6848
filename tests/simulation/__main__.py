"""Many seeds of the simulation, or one of them with all that happens in it."""

from __future__ import annotations

import argparse
import collections
import concurrent.futures
import faulthandler
import os
import pathlib
import signal
import sys
import time
import traceback

# Where the modules are that several tests need.
sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

from .simulate import run_seed  # noqa: E402

# Seconds of real time after which a seed goes round in circles.
STUCK = 120


def run(seeds):
    """Runs some seeds; gives how often calls ended how, and the failures as text."""
    ends, failures = collections.Counter(), []
    for seed in seeds:

        def is_stuck(*_, seed=seed):
            print(f"seed {seed} goes round in circles:", file=sys.__stderr__)
            faulthandler.dump_traceback()
            os._exit(1)

        signal.signal(signal.SIGALRM, is_stuck)
        signal.alarm(STUCK)
        try:
            world = run_seed(seed)
        except Exception:
            failures.append((seed, traceback.format_exc()))
        else:
            for call in world.book.calls:
                outcome = call.outcome
                is_named = isinstance(outcome, Exception) or outcome == "cancelled"
                ends["value" if not is_named else outcome if outcome == "cancelled" else type(outcome).__name__] += 1
        signal.alarm(0)
    return ends, failures


def run_many(first, number, jobs):
    """Runs many seeds, in processes if there are jobs; prints failures as they come, and says whether there were any."""
    chunks = [range(start, min(start + 50, first + number)) for start in range(first, first + number, 50)]
    ends, failed, done, begin = collections.Counter(), [], 0, time.monotonic()
    with concurrent.futures.ProcessPoolExecutor(jobs) if jobs > 1 else _Here() as pool:
        for chunk, (some_ends, failures) in zip(chunks, pool.map(run, chunks), strict=True):
            ends += some_ends
            done += len(chunk)
            for seed, text in failures:
                failed.append(seed)
                print(f"{text}FAILED: seed {seed}\n", flush=True)
            if done % 1000 == 0 or done == number:
                rate = done / (time.monotonic() - begin)
                print(f"{done} seeds, {rate:.0f}/s, {sum(ends.values())} calls, failed: {failed}", flush=True)
    print(dict(ends.most_common()))
    return bool(failed)


class _Here:
    """A pool that is this process."""

    map = map

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass


def main():
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seeds", type=int, default=1000, help="how many")
    parser.add_argument("--first", type=int, default=0, help="the first of them")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--seed", type=int, help="this one only")
    parser.add_argument("--verbose", action="store_true", help="print all that happens; with --seed")
    parser.add_argument("--cuts", action="store_true", help="instead: cut every session behind every byte")
    args = parser.parse_args()
    if args.cuts:
        from .test_cuts import run_all

        sys.exit(run_all())
    if args.seed is not None:
        world = run_seed(args.seed, verbose=args.verbose)
        print(f"{world.options()}\n{len(world.book.calls)} calls, trace {world.trace:08x}")
        sys.exit(0)
    sys.exit(run_many(args.first, args.seeds, args.jobs))


if __name__ == "__main__":
    main()
