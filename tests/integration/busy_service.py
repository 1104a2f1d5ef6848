"""The service that the process tests talk to; run as a program, it serves it and prints its URL.

With a URL as argument it is a client instead, which makes calls and waits until it is killed.
"""

from __future__ import annotations

import random
import sys

import trio

import trpc


class Busy:
    def __init__(self, next_url: str | None = None) -> None:
        self.next_url = next_url
        self.running = 0
        self.children = 0
        self.ended = 0
        self.changed = trio.Condition()

    @trpc.method
    async def wait(self) -> None:
        """Runs with two child tasks until it is cancelled."""
        self.running += 1
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._child)
                nursery.start_soon(self._child)
        finally:
            self.running -= 1
            self.ended += 1

    async def _child(self) -> None:
        self.children += 1
        try:
            await trio.sleep_forever()
        finally:
            # Cleaning up takes time, and the caller must not come back before it is over.
            with trio.CancelScope(shield=True):
                await trio.sleep(0.05)
            self.children -= 1

    @trpc.method
    async def chain(self) -> None:
        """Waits at the end of a chain of servers."""
        self.running += 1
        try:
            if self.next_url is None:
                await trio.sleep_forever()
            else:
                # With a grace that would show if a hop did not acknowledge its cancel.
                async with trpc.connect(self.next_url, cancel_grace=10) as client:
                    await client.proxy(Busy).chain()
        finally:
            self.running -= 1
            self.ended += 1

    @trpc.method
    def counts(self) -> dict[str, int]:
        return {"running": self.running, "children": self.children, "ended": self.ended}

    @trpc.method
    async def work(self, passes: int, value: int) -> int:
        for _ in range(passes):
            await trio.lowlevel.checkpoint()
        return value

    @trpc.method
    async def maybe_fail(self, value: int) -> int:
        await trio.sleep(random.random() / 500)
        if value % 3 == 0:
            raise ValueError(str(value))
        return value

    @trpc.method
    async def at_once(self, value: int) -> int:
        return value

    @trpc.method
    def plain(self, value: int) -> int:
        return value

    @trpc.method(in_thread=True)
    def in_thread(self, value: int) -> int:
        return value

    @trpc.method
    async def echo(self, data: bytes) -> bytes:
        return data

    @trpc.method
    async def sum(self, data: bytes) -> int:
        return len(data)

    @trpc.method
    async def blob(self, size: int) -> bytes:
        return bytes(size)

    @trpc.method
    def exits(self) -> None:
        raise SystemExit(3)


async def serve(next_url: str | None) -> None:
    async with trio.open_nursery() as nursery:
        server = await nursery.start(trpc.serve_tcp, Busy(next_url), 0)
        print(server.url, flush=True)


async def call(url: str, calls: int) -> None:
    async with trpc.connect(url) as client, trio.open_nursery() as nursery:
        for _ in range(calls):
            nursery.start_soon(client.proxy(Busy).wait)
        with trio.fail_after(30):
            while (await client.proxy(Busy).counts())["running"] < calls:
                await trio.lowlevel.checkpoint()
        print("calling", flush=True)


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["serve", *rest]:
            trio.run(serve, rest[0] if rest else None)
        case ["call", url, calls]:
            trio.run(call, url, int(calls))
