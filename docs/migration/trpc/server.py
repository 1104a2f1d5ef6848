import trio
from jobs import Jobs

import trpc


async def main() -> None:
    async with trio.open_nursery() as nursery:
        server = await nursery.start(trpc.serve_tcp, Jobs(), 0)
        print(server.url, flush=True)


trio.run(main)
