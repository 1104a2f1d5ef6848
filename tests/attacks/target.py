"""The server that is attacked: ``python -m tests.attacks.target LIMITS [CERTIFICATE KEY]``, with limits as JSON.

It prints a line of JSON with its ports, and ends when its stdin does.
"""

from __future__ import annotations

import json
import os
import ssl
import sys
from collections.abc import AsyncIterable, AsyncIterator

import trio

import trpc


class Target:
    """Methods of each kind, for those who mean well and for those who do not."""

    def __init__(self) -> None:
        self.servers: list[trpc.Server] = []

    @trpc.method
    def add(self, a: int, b: int) -> int:
        return a + b

    @trpc.method
    async def later(self, value: int) -> int:
        await trio.lowlevel.checkpoint()
        return value

    @trpc.method
    async def echo(self, data: bytes) -> bytes:
        return data

    @trpc.method
    def take(self, value: object) -> int:
        return len(value)

    @trpc.method
    async def hold(self, data: bytes) -> None:
        await trio.sleep_forever()

    @trpc.method
    async def wait(self) -> None:
        await trio.sleep_forever()

    @trpc.method
    async def numbers(self, count: int) -> AsyncIterator[int]:
        for number in range(count):
            yield number

    @trpc.method
    async def total(self, numbers: AsyncIterable[int]) -> int:
        return sum([number async for number in numbers])

    @trpc.method
    def state(self) -> dict[str, int]:
        return {
            "connections": sum(len(server.connections) for server in self.servers),
            "calls": sum(len(server.calls) for server in self.servers),
            "tasks": trio.lowlevel.current_statistics().tasks_living,
            "descriptors": len(os.listdir("/proc/self/fd")),
        }


async def serve(limits: trpc.Limits, certificate: tuple[str, ...]) -> None:
    target = Target()
    async with trio.open_nursery() as nursery:

        async def start(**options):
            server = await nursery.start(lambda **kw: trpc.serve_tcp(target, 0, limits=limits, **options, **kw))
            target.servers.append(server)
            return int(server.url.rpartition(":")[2])

        ports = {"plain": await start(), "tls": None}
        if certificate:
            context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            context.load_cert_chain(*certificate)
            ports["tls"] = await start(ssl_context=context)
        print(json.dumps({"pid": os.getpid(), **ports}), flush=True)
        # Whoever started it may be killed: it does not stay behind.
        async with trio.lowlevel.FdStream(os.dup(0)) as stdin:
            await stdin.receive_some()
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(serve, trpc.Limits(**json.loads(sys.argv[1])), tuple(sys.argv[2:]))
