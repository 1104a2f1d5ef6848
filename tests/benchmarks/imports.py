"""How long ``import trpc`` takes, beside ``import trio``."""

from __future__ import annotations

import subprocess
import sys
import time

from .child import ROOT

STATEMENTS = ("pass", "import trio", "import trio, trpc", "import trpc")
LEAST_ROUNDS = 15
"""Starting a process varies more than a call does."""

PATIENCE = 60.0


def measure(rounds: int) -> dict:
    """Seconds of whole processes, in turns; one value for each round."""
    for statement in STATEMENTS:
        # Compiles what is not compiled yet.
        _start(statement)
    times: dict[str, list[float]] = {statement: [] for statement in STATEMENTS}
    for _ in range(max(rounds, LEAST_ROUNDS)):
        for statement in STATEMENTS:
            times[statement].append(_start(statement))
    return {"rounds": times}


def _start(statement: str) -> float:
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", statement], cwd=ROOT, check=True, timeout=PATIENCE)
    return time.perf_counter() - start
