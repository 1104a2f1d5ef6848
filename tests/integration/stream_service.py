"""The service of the stream tests; run as a program, it serves it and prints its URL, or reads from it as a client."""

from __future__ import annotations

import os
import resource
import sys
from collections.abc import AsyncIterable, AsyncIterator

import trio

import trpc


def resident() -> int:
    """Bytes of memory that this process has now."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


class Streams:
    def __init__(self) -> None:
        self.produced = 0
        self.running = 0
        self.ended = 0

    @trpc.method
    async def items(self, count: int, size: int) -> AsyncIterator[bytes]:
        self.running += 1
        try:
            for number in range(count):
                self.produced += 1
                yield number.to_bytes(8, "big") + bytes(size - 8)
        finally:
            with trio.CancelScope(shield=True):
                await trio.lowlevel.checkpoint()
            self.running -= 1
            self.ended += 1

    @trpc.method
    async def count(self, items: AsyncIterable[bytes]) -> int:
        self.running += 1
        number = 0
        try:
            async for item in items:
                assert int.from_bytes(item[:8], "big") == number
                number += 1
        finally:
            self.running -= 1
            self.ended += 1
        return number

    @trpc.method
    def state(self) -> dict[str, int]:
        return {"produced": self.produced, "running": self.running, "ended": self.ended, "resident": resident()}

    @trpc.method
    def small(self, value: int) -> int:
        return value

    @trpc.method
    def pid(self) -> int:
        return os.getpid()


async def serve() -> None:
    async with trio.open_nursery() as nursery:
        server = await nursery.start(trpc.serve_tcp, Streams(), 0)
        print(server.url, flush=True)


async def read(url: str) -> None:
    """Begins to read a stream, and to send one, and waits until it is killed."""

    async def endless() -> AsyncIterator[bytes]:
        number = 0
        while True:
            yield number.to_bytes(8, "big")
            number += 1

    async with trpc.connect(url) as client, trio.open_nursery() as nursery:
        streams = client.proxy(Streams)
        nursery.start_soon(streams.count, endless())
        async with streams.items(10**12, 100) as items:
            async for _ in items:
                break
            print("reading", flush=True)
            await trio.sleep_forever()


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["serve"]:
            trio.run(serve)
        case ["read", url]:
            trio.run(read, url)
