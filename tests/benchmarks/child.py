"""A process that is spoken to in JSON lines. Every wait has a limit, and nothing outlives :meth:`Child.stop`."""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection

ROOT = Path(__file__).resolve().parents[2]
"""Of the project. Processes run in it, so that they measure this checkout."""

STOP_PATIENCE = 5.0
"""Seconds until a process that does not end with its stdin is killed."""


class ChildFailedError(Exception):
    """It has ended, does not answer, or says what nobody can read."""


class Child:
    """One process; if ``core`` is given, it runs on that one only."""

    def __init__(self, command: list[str], *, core: int | None = None) -> None:
        self._command = command
        self._errors = tempfile.TemporaryFile()
        self._received = b""
        self._process = subprocess.Popen(
            command,
            bufsize=0,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            # There is no other thread here that this could disturb.
            preexec_fn=None if core is None else partial(os.sched_setaffinity, 0, {core}),
        )

    def ask(self, order: dict, *, keys: Collection[str], patience: float) -> dict:
        """Sends a line and waits ``patience`` seconds for the answer, which has to have ``keys``."""
        try:
            self._process.stdin.write(json.dumps(order).encode() + b"\n")
        except OSError as exc:
            raise self._failure("has gone") from exc
        return self.hear(keys=keys, patience=patience)

    def hear(self, *, keys: Collection[str], patience: float) -> dict:
        """The next line that it says."""
        line = self._read_line(time.monotonic() + patience)
        try:
            answer = json.loads(line)
        except ValueError:
            answer = None
        if not isinstance(answer, dict) or not answer.keys() >= set(keys):
            raise self._failure(f"says {line[:300]!r} where it should say {', '.join(keys)}")
        return answer

    def _read_line(self, deadline: float) -> bytes:
        stdout = self._process.stdout.fileno()
        poll = select.poll()
        poll.register(stdout, select.POLLIN)
        while b"\n" not in self._received:
            if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
                raise self._failure("does not answer")
            data = os.read(stdout, 65536)
            if not data:
                # So that its last words are there.
                self.stop()
                raise self._failure("has ended")
            self._received += data
        line, self._received = self._received.split(b"\n", 1)
        return line

    def _failure(self, what: str) -> ChildFailedError:
        return ChildFailedError(f"{' '.join(self._command[1:])} {what}{self._last_words()}")

    def _last_words(self) -> str:
        if self._errors.closed:
            return ""
        self._errors.seek(0)
        # Without the frame that a traceback draws around the exceptions of a group.
        lines = [line.strip("+-| ") for line in self._errors.read().decode(errors="replace").splitlines()]
        words = [line for line in lines if line]
        return f": {words[-1][:300]}" if words else ""

    def begin_stop(self) -> None:
        """Closes its stdin, which asks it to end."""
        with contextlib.suppress(OSError):
            self._process.stdin.close()

    def stop(self) -> None:
        """Has it end, or kills it. Can be repeated."""
        self.begin_stop()
        try:
            self._process.wait(STOP_PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def close(self) -> None:
        """Stops it and lets go of its files."""
        self.stop()
        self._process.stdout.close()
        self._errors.close()
