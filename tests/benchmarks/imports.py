"""How long ``import trpc`` takes, beside ``import trio``."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
import time

from .child import ROOT

STATEMENTS = ("pass", "import trio", "import trio, trpc", "import trpc")
LEAST_ROUNDS = 15
"""Starting a process varies more than a call does."""

PATIENCE = 60.0


def measure(rounds: int) -> dict:
    """Seconds of whole processes, in turns; one value for each round."""
    with tempfile.TemporaryDirectory() as bytecode:
        # As after an installation: everything is compiled, whatever this environment says of writing bytecode.
        environment = {**os.environ, "PYTHONPYCACHEPREFIX": bytecode}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        return _measure(rounds, environment)


def _measure(rounds: int, environment: dict[str, str]) -> dict:
    for statement in STATEMENTS:
        # Compiles what is not compiled yet.
        _start(statement, environment)
    times: dict[str, list[float]] = {statement: [] for statement in STATEMENTS}
    for _ in range(max(rounds, LEAST_ROUNDS)):
        for statement in STATEMENTS:
            times[statement].append(_start(statement, environment))
    return {"rounds": times}


def _start(statement: str, environment: dict[str, str]) -> float:
    command = [sys.executable, "-c", statement]
    start = time.perf_counter()
    process = subprocess.Popen(command, cwd=ROOT, env=environment)
    # A wait with a timeout would look after the process every 50 ms only.
    limit = threading.Timer(PATIENCE, process.kill)
    limit.start()
    try:
        status = process.wait()
        seconds = time.perf_counter() - start
    finally:
        limit.cancel()
        limit.join()
        if process.poll() is None:
            process.kill()
            process.wait()
    if status != 0:
        raise subprocess.CalledProcessError(status, command)
    return seconds
