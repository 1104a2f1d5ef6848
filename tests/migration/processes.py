"""The programs of docs/migration, run as users run them: a server and a client, each a process of its own."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROGRAMS = ROOT / "docs" / "migration"
TIMEOUT = 60


def needs(package):
    """Skips the test if the package is missing. It is not imported: gRPC would keep threads and descriptors of its own."""
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"needs {package}: pip install -e '.[migration]'")


def run(folder, *path):
    """What the client prints, when it has asked the server."""
    with serving(folder, "server.py", *path) as (address,):
        return python(folder, *path)(PROGRAMS / folder / "client.py", address)


@contextlib.contextmanager
def serving(folder, program, *path):
    """A server, and the addresses that it prints."""
    with started([sys.executable, PROGRAMS / folder / program], _environment(path)) as server:
        addresses = server.stdout.readline().split()
        assert addresses, "the server ended before it had printed where it listens"
        yield addresses


def python(folder, *path):
    """Runs Python with programs of this folder; gives what it prints."""

    def run(*args):
        # Warnings are errors in our own programs. What others' libraries warn of is their matter.
        command = [sys.executable, *(["-W", "error"] if folder == "trpc" else []), *args]
        environment = _environment([*path, PROGRAMS / folder])
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=TIMEOUT, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


def _environment(path):
    return {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, [*path, ROOT]))}


@contextlib.contextmanager
def started(command, environment, *, stderr=subprocess.DEVNULL):
    """A process that is ended with the block."""
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=stderr, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def generate(target):
    """Makes of the .proto what a user of gRPC makes of it."""
    folder = PROGRAMS / "grpc"
    command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{folder}"]
    command += [f"--python_out={target}", f"--grpc_python_out={target}", "jobs.proto"]
    subprocess.run(command, check=True, timeout=TIMEOUT)
