"""The service of the soak."""

from __future__ import annotations

import logging
import os
import resource
from collections.abc import AsyncIterable, AsyncIterator

import trio

import trpc

LIMITS = trpc.Limits(
    # Shorter than by default, so that many of them are met in an hour.
    hello_timeout=2.0,
    tls_timeout=2.0,
    write_timeout=2.0,
    frame_timeout=3.0,
    keepalive_interval=3.0,
    keepalive_timeout=5.0,
)


class Mistakes(logging.Handler):
    """Counts what the library itself says it did wrong; what handlers raise here on purpose is of no interest."""

    def __init__(self) -> None:
        super().__init__()
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        message = record.getMessage()
        if "internal error" in message:
            self.messages.append(f"{message}: {record.exc_info and record.exc_info[1]!r}")


mistakes = Mistakes()
logging.getLogger("trpc").addHandler(mistakes)
logging.getLogger("trpc").propagate = False


def sample() -> dict[str, int]:
    """What this process holds."""
    with open("/proc/self/statm", encoding="ascii") as file:
        resident = int(file.read().split()[1]) * resource.getpagesize()
    return {
        "resident": resident,
        "descriptors": len(os.listdir("/proc/self/fd")),
        "tasks": trio.lowlevel.current_statistics().tasks_living,
        "mistakes": len(mistakes.messages),
    }


@trpc.exception(name="soak.Refused")
class Refused(Exception):
    """One that both sides know."""

    number: int

    def __init__(self, number: int) -> None:
        super().__init__(f"number {number}")
        self.number = number


class Soak:
    """A method of each kind."""

    def __init__(self) -> None:
        self.servers: list[trpc.Server] = []
        self.running = 0

    @trpc.method
    def add(self, a: int, b: int) -> int:
        return a + b

    @trpc.method(in_thread=True)
    def add_in_thread(self, a: int, b: int) -> int:
        return a + b

    @trpc.method
    async def echo(self, data: bytes) -> bytes:
        await trio.lowlevel.checkpoint()
        return data

    @trpc.method
    async def tagged(self) -> str:
        return str(trpc.current_call().metadata.get("tag"))

    @trpc.method
    async def fail(self, kind: str, number: int) -> None:
        await trio.lowlevel.checkpoint()
        match kind:
            case "builtin":
                raise KeyError(number)
            case "registered":
                raise Refused(number)
            case "group":
                raise ExceptionGroup("both", [ValueError(str(number)), Refused(number)])

    @trpc.method
    async def wait(self) -> None:
        self.running += 1
        try:
            await trio.sleep_forever()
        finally:
            # Who has come back from a cancelled call can count on it.
            with trio.CancelScope(shield=True):
                await trio.lowlevel.checkpoint()
            self.running -= 1

    @trpc.method
    async def numbers(self, count: int) -> AsyncIterator[int]:
        self.running += 1
        try:
            for number in range(count):
                yield number
        finally:
            self.running -= 1

    @trpc.method
    async def total(self, numbers: AsyncIterable[int]) -> int:
        return sum([number async for number in numbers])

    @trpc.method
    async def shout(self, lines: AsyncIterable[str]) -> AsyncIterator[str]:
        async for line in lines:
            yield line.upper()

    @trpc.method
    async def ask_back(self, times: int) -> int:
        client = trpc.current_call().client
        return sum([await client.call("Callbacks.double", number) for number in range(times)])

    @trpc.method
    def sample(self) -> dict[str, int]:
        return {
            **sample(),
            "connections": sum(len(server.connections) for server in self.servers),
            "calls": sum(len(server.calls) for server in self.servers),
            "running": self.running,
        }
