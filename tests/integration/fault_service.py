"""The server of the fault tests: ``serve LIMITS [FILES]``, with limits as JSON and so many descriptors.

``read URL`` is a client that has large results sent to it, until it is killed.
"""

from __future__ import annotations

import json
import resource
import sys

import trio
from busy_service import Busy

import trpc


class Faulty(Busy):
    def __init__(self) -> None:
        super().__init__()
        self.server: trpc.Server | None = None

    @trpc.method
    def connections(self) -> int:
        return len(self.server.connections)


async def serve(limits: trpc.Limits) -> None:
    faulty = Faulty()
    async with trio.open_nursery() as nursery:
        faulty.server = await nursery.start(lambda **kw: trpc.serve_tcp(faulty, 0, limits=limits, **kw))
        print(faulty.server.url, flush=True)


async def read(url: str) -> None:
    async def again_and_again(mib: int, *, says: bool) -> None:
        while True:
            await faulty.blob(mib * 1024 * 1024)
            if says:
                # The others are under way at any time from now on.
                print("reading", flush=True)
                says = False

    async with trpc.connect(url) as client, trio.open_nursery() as nursery:
        faulty = client.proxy(Faulty)
        # Of sizes that do not end together: at any time more is to come than the kernel takes without a reader.
        for mib in (5, 7, 8, 11, 13, 15):
            nursery.start_soon(lambda mib=mib: again_and_again(mib, says=mib == 15))


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["serve", limits, *files]:
            if files:
                resource.setrlimit(resource.RLIMIT_NOFILE, (int(files[0]), int(files[0])))
            trio.run(serve, trpc.Limits(**json.loads(limits)))
        case ["read", url]:
            trio.run(read, url)
