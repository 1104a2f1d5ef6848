"""Processes for the tests in this folder: started, spoken to over real sockets, and always ended."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import trio

ROOT = Path(__file__).resolve().parents[2]


@contextlib.asynccontextmanager
async def python(*args, first_line=True):
    """Runs Python with ``args``; gives the process and the first line that it prints."""
    process = await trio.lowlevel.open_process(
        [sys.executable, *map(str, args)],
        stdout=subprocess.PIPE,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(Path(__file__).parent)])},
    )
    try:
        async with process.stdout:
            lines = Lines(process.stdout)
            yield process, (await lines.next() if first_line else None), lines
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGKILL)
        with trio.CancelScope(shield=True):
            await process.wait()


class Lines:
    """Lines of a process's output."""

    def __init__(self, stream):
        self.stream = stream
        self.buffer = b""

    async def next(self) -> str:
        with trio.fail_after(30):
            while b"\n" not in self.buffer:
                data = await self.stream.receive_some()
                assert data, f"the process ended; its last words: {self.buffer!r}"
                self.buffer += data
        line, self.buffer = self.buffer.split(b"\n", 1)
        return line.decode()
