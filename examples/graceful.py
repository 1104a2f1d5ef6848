"""Stopping a server under load without losing a call: ``python -m examples.graceful``.

* ``python -m examples.graceful`` runs a server as a process, calls it from many clients, and sends it SIGTERM meanwhile
* ``python -m examples.graceful serve [PORT]`` is that server: it prints its URL, and runs until SIGTERM or Ctrl-C

Each call is either executed and answered, or gets ``trpc.Unavailable`` and was not executed: it can be made again
elsewhere. The streams do not end by themselves, so they watch ``trpc.current_call().draining``.
"""

import itertools
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator
from functools import partial

import trio

import trpc

CLIENTS = 5
CALLS_AT_ONCE = 4
"""Of each client."""
ENOUGH = 50
"""Calls until the signal."""


class Jobs:
    """The service: a slow method, and an endless stream."""

    def __init__(self) -> None:
        self.begun = 0

    @trpc.method
    async def work(self) -> None:
        self.begun += 1
        await trio.sleep(0.1)

    @trpc.method
    async def ticks(self) -> AsyncIterator[int]:
        draining = trpc.current_call().draining
        for number in itertools.count():
            yield number
            with trio.move_on_after(0.02):
                await draining.wait()
                return


async def serve(port: int = 0) -> None:
    jobs = Jobs()
    async with trio.open_nursery() as nursery:
        server: trpc.Server = await nursery.start(trpc.serve_tcp, jobs, port)
        await nursery.start(trpc.drain_on_signal, server)
        print(server.url, flush=True)
    # The nursery ends when the server is drained: no call is under way any more.
    print(f"the server has begun {jobs.begun} calls", flush=True)


class Load:
    """Clients, and what becomes of their calls."""

    def __init__(self, url: str) -> None:
        self._url = url
        self.outcomes: Counter[str] = Counter()
        self.enough = trio.Event()

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            for _ in range(CLIENTS):
                nursery.start_soon(self._run_client)

    async def _run_client(self) -> None:
        async with trpc.connect(self._url) as client, trio.open_nursery() as nursery:
            jobs = client.proxy(Jobs)
            nursery.start_soon(self._read, jobs)
            for _ in range(CALLS_AT_ONCE):
                nursery.start_soon(self._call, jobs)

    async def _call(self, jobs: Jobs) -> None:
        try:
            while True:
                await jobs.work()
                self.outcomes["answered"] += 1
                if self.outcomes["answered"] == ENOUGH:
                    self.enough.set()
        except trpc.Unavailable:
            self.outcomes["refused"] += 1
        except trpc.ConnectionLost:
            self.outcomes["lost"] += 1

    async def _read(self, jobs: Jobs) -> None:
        async with jobs.ticks() as ticks:
            async for _ in ticks:
                pass
        self.outcomes["streams"] += 1


async def demonstrate() -> None:
    command = [sys.executable, __file__, "serve"]
    async with trio.open_nursery() as nursery:
        server: trio.Process = await nursery.start(partial(trio.run_process, command, stdout=subprocess.PIPE))
        assert server.stdout is not None
        url = await read_line(server.stdout)
        load = Load(url)
        async with trio.open_nursery() as clients:
            clients.start_soon(load.run)
            await load.enough.wait()
            print(f"{ENOUGH} calls were answered, and {CLIENTS} streams are read: SIGTERM", flush=True)
            server.terminate()
        outcomes = load.outcomes
        print(f"answered: {outcomes['answered']}, refused: {outcomes['refused']}, lost: {outcomes['lost']}")
        print(f"streams that have ended in order: {outcomes['streams']}")
        print(await read_line(server.stdout))
        print(f"its exit code: {await server.wait()}")
    try:
        async with trpc.connect(url):
            pass
    except trpc.Unavailable:
        print("connecting now: Unavailable")


async def read_line(output: trio.abc.ReceiveStream) -> str:
    """The next line of what the server prints. Byte by byte, so that what follows it stays in the pipe."""
    line = b""
    while not line.endswith(b"\n"):
        line += await output.receive_some(1)
    return line.decode().strip()


if __name__ == "__main__":
    match sys.argv[1:]:
        case []:
            trio.run(demonstrate)
        case ["serve"]:
            trio.run(serve)
        case ["serve", port]:
            trio.run(serve, int(port))
        case _:
            sys.exit(__doc__)
