"""A server that is stopped by signals, as a program of its own: ``python signal_service.py GRACE``."""

from __future__ import annotations

import sys
from functools import partial

import trio

import trpc


class Jobs:
    @trpc.method
    async def work(self, seconds: float) -> str:
        try:
            await trio.sleep(seconds)
        except trio.Cancelled:
            print("cancelled", flush=True)
            raise
        return "worked"

    @trpc.method
    def echo(self, text: str) -> str:
        return text


async def main(grace: float) -> None:
    async with trio.open_nursery() as nursery:
        server = await nursery.start(trpc.serve_tcp, Jobs(), 0)
        await nursery.start(partial(trpc.drain_on_signal, server, grace=grace))
        print(server.url, flush=True)
    print("stopped", flush=True)


trio.run(main, float(sys.argv[1]))
