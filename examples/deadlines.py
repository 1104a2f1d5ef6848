"""One deadline for a chain of processes: ``python -m examples.deadlines``.

This process calls ``front``, which calls ``middle``, which calls ``back``, which never answers: each of
them is a process of its own. The only timeout is the ``trio.fail_after`` at the top. No method has an
argument for it, and no handler looks at the time other than to print it.
"""

import os
import signal
import sys
from functools import partial

import trio

import trpc

DEADLINE = 1.0
MARGIN = 1.0
"""Seconds after the deadline in which the handlers of all three processes must have ended."""
PATIENCE = 20
"""Seconds for all of it, with the start of the processes."""


class Stage:
    """One of the processes of the chain."""

    def __init__(self, name: str, below: "Stage | None") -> None:
        self._name = f"{name}, process {os.getpid()}"
        self._below = below

    @trpc.method
    async def work(self) -> None:
        left = trpc.current_call().deadline - trio.current_time()
        print(f"{self._name}: started with {left:.3f} s left", flush=True)
        try:
            if self._below is None:
                await trio.sleep_forever()
            else:
                await self._below.work()
        except trio.Cancelled:
            print(f"{self._name}: was cancelled", flush=True)
            raise


async def serve(name: str, below: Stage | None) -> None:
    """Serves one stage until SIGINT or SIGTERM; the first line on stdout is its URL."""
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with trio.open_nursery() as nursery:
            server: trpc.Server = await nursery.start(trpc.serve_tcp, Stage(name, below), 0)
            print(server.url, flush=True)
            await anext(signals)
            nursery.cancel_scope.cancel()


async def serve_above(name: str, url: str) -> None:
    """Serves a stage that calls the one at ``url``."""
    async with trpc.connect(url) as client:
        await serve(name, client.proxy(Stage))


async def call_chain(nursery: trio.Nursery) -> None:
    """Starts the processes in ``nursery``, and calls through all of them."""
    # All of them print into one pipe, which keeps the order of their lines.
    read_end, write_end = os.pipe()
    async with trio.lowlevel.FdStream(read_end) as output:
        with os.fdopen(write_end, "wb") as pipe:

            async def start_stage(*args: str) -> str:
                command = [sys.executable, __file__, *args]
                await nursery.start(partial(trio.run_process, command, stdout=pipe))
                return await read_line(output)

            back = await start_stage("back")
            middle = await start_stage("middle", back)
            front = await start_stage("front", middle)
        async with trpc.connect(front) as client:
            with trio.fail_after(DEADLINE + MARGIN):
                async with trio.open_nursery() as outputs:
                    outputs.start_soon(show_lines, output, 2 * 3)
                    took = await time_out(client.proxy(Stage))
            print(f"top, process {os.getpid()}: TooSlowError after {took:.3f} s; all handlers have ended")


async def time_out(chain: Stage) -> float:
    """Makes the call. Seconds until it was given up, with the end of every handler below."""
    start = trio.current_time()
    try:
        with trio.fail_after(DEADLINE):
            await chain.work()
    except trio.TooSlowError:
        return trio.current_time() - start
    raise AssertionError("the call has ended before its deadline")


async def show_lines(output: trio.abc.ReceiveStream, count: int) -> None:
    for _ in range(count):
        print(await read_line(output), flush=True)


async def read_line(output: trio.abc.ReceiveStream) -> str:
    """The next line of what the processes print. Byte by byte, so that what follows it stays in the pipe."""
    line = b""
    while not line.endswith(b"\n"):
        line += await output.receive_some(1)
    return line.decode().strip()


async def run() -> int:
    """The exit code. Whatever happens, no process is left when this returns."""
    exit_code = 1  # if a signal cancels it
    async with trio.open_nursery() as processes:
        # In a nursery of its own: a signal cancels the call, and the processes end after it.
        async with trio.open_nursery() as nursery:
            nursery.start_soon(cancel_on_signal, nursery.cancel_scope)
            with trio.fail_after(PATIENCE):
                await call_chain(processes)
            exit_code = 0
            nursery.cancel_scope.cancel()
        processes.cancel_scope.cancel()
    return exit_code


async def cancel_on_signal(scope: trio.CancelScope) -> None:
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        await anext(signals)
        scope.cancel()


if __name__ == "__main__":
    match sys.argv[1:]:
        case []:
            sys.exit(trio.run(run))
        case [name]:
            trio.run(serve, name, None)
        case [name, url]:
            trio.run(serve_above, name, url)
        case _:
            sys.exit(__doc__)
