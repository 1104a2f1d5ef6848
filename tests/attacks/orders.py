"""Orders to processes as lines of JSON, and their answers: what both ends need."""

from __future__ import annotations

import json
import os
import time
from typing import TYPE_CHECKING

import trio

from tests.benchmarks.child import Child

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


async def received() -> AsyncIterator[dict]:
    """The orders that this process gets, until nobody can give any more."""
    buffer = b""
    async with trio.lowlevel.FdStream(os.dup(0)) as stdin:
        async for data in stdin:
            *lines, buffer = (buffer + data).split(b"\n")
            for line in lines:
                yield json.loads(line)


def answer(values: dict) -> None:
    print(json.dumps(values), flush=True)


class Process(Child):
    """A process that may be left to work on an order while another one gets its own."""

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def is_alive(self) -> bool:
        return self._process.poll() is None

    def tell(self, order: dict) -> None:
        self._process.stdin.write(json.dumps(order).encode() + b"\n")

    def reset_peak(self) -> int:
        """From now on, :meth:`peak` is that of what comes. Returns the bytes of memory that it has now."""
        with open(f"/proc/{self.pid}/clear_refs", "w", encoding="ascii") as file:
            file.write("5")
        return self._memory("VmRSS")

    def peak(self) -> int:
        return self._memory("VmHWM")

    def _memory(self, field: str) -> int:
        with open(f"/proc/{self.pid}/status", encoding="ascii") as file:
            for line in file:
                if line.startswith(field + ":"):
                    return int(line.split()[1]) * 1024
        raise self._failure("has ended")


def wait_until(condition, seconds: float) -> bool:
    """Asks until it holds; each question is to have a round trip in it. Returns whether it did in time."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True
