"""Some worlds of the simulation; ``python -m tests.simulation`` runs as many as one likes."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from .simulate import run_seed

SEEDS = int(os.environ.get("TRPC_SEEDS", "100"))


@pytest.mark.parametrize("seed", range(SEEDS))
def test_everything_ends_as_it_should(seed):
    run_seed(seed)


@pytest.mark.parametrize("seed", range(10))
def test_the_same_seed_does_the_same(seed):
    assert run_seed(seed).trace == run_seed(seed).trace


def test_another_process_does_the_same():
    """With other addresses in memory, and other hashes of strings."""
    code = "from tests.simulation.simulate import run_seed; print(*(run_seed(seed).trace for seed in range(20)))"
    path = os.pathsep.join(sys.path)
    traces = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONPATH": path, "PYTHONHASHSEED": hash_seed},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for hash_seed in ("1", "2")
    }
    assert len(traces) == 1
