"""An echo server, and many clients at once.

* ``python -m examples.echo`` runs a server, and three clients as processes of their own
* ``python -m examples.echo serve [PORT]`` runs a server until Ctrl-C, and prints its URL
* ``python -m examples.echo URL TEXT`` is one client
"""

import os
import sys

import trio

import trpc


class Echo:
    """The service, and the type of the clients' proxies."""

    @trpc.method
    def echo(self, text: str) -> str:
        return text


async def serve(port: int = 0) -> None:
    async with trio.open_nursery() as nursery:
        server: trpc.Server = await nursery.start(trpc.serve_tcp, Echo(), port)
        print(server.url, flush=True)


async def ask(url: str, text: str) -> None:
    async with trpc.connect(url) as client:
        reply = await client.proxy(Echo).echo(text)
    # With its newline, in one write: lines of several processes do not mix.
    print(f"process {os.getpid()}: {reply}\n", end="", flush=True)


async def demonstrate() -> None:
    async with trio.open_nursery() as nursery:
        server: trpc.Server = await nursery.start(trpc.serve_tcp, Echo(), 0)
        async with trio.open_nursery() as clients:
            for text in "one", "two", "three":
                clients.start_soon(trio.run_process, [sys.executable, __file__, server.url, text])
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    try:
        match sys.argv[1:]:
            case []:
                trio.run(demonstrate)
            case ["serve"]:
                trio.run(serve)
            case ["serve", port]:
                trio.run(serve, int(port))
            case [url, text]:
                trio.run(ask, url, text)
            case _:
                sys.exit(__doc__)
    except* KeyboardInterrupt:
        pass
