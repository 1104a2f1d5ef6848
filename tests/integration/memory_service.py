"""A server whose memory is attacked: its limits are its first argument, as JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncIterable

import trio

import trpc


class Memory:
    def __init__(self) -> None:
        self.running = 0

    @trpc.method
    def state(self) -> int:
        return self.running

    @trpc.method
    async def hold(self, value: object = None) -> None:
        self.running += 1
        await trio.sleep_forever()

    @trpc.method
    async def hold_typed(self, value: list[dict[str, int]]) -> None:
        self.running += 1
        await trio.sleep_forever()

    @trpc.method
    async def hold_stream(self, items: AsyncIterable[object]) -> None:
        self.running += 1
        await trio.sleep_forever()

    @trpc.method
    async def blob(self, size: int) -> bytes:
        self.running += 1
        return b"x" * size


async def main(path: str, limits: trpc.Limits) -> None:
    async with trio.open_nursery() as nursery:

        async def serve(task_status: trio.TaskStatus[trpc.Server]) -> None:
            await trpc.serve_unix(Memory(), path, limits=limits, task_status=task_status)

        server = await nursery.start(serve)
        print(server.url, flush=True)


if __name__ == "__main__":
    trio.run(main, sys.argv[1], trpc.Limits(**json.loads(sys.argv[2])))
