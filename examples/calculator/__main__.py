"""Shows what calls between two processes do: ``python -m examples.calculator``.

It starts the server as a process of its own and calls it: results, errors, a timeout and a cancellation.
Lines that begin with ``server:`` are the server's output.
"""

import functools
import os
import signal
import subprocess
import sys

import trio

import trpc

from .client import shown
from .service import Calculator

PATIENCE = 20
"""Seconds for all of it. It takes one or two."""


async def demonstrate(url: str, output: trio.abc.ReceiveStream) -> None:
    """Makes the calls.

    Args:
        url: of the server.
        output: what the server prints.
    """
    async with trpc.connect(url) as client:
        calculator = client.proxy(Calculator)
        print("add(2, 3) =", shown(await calculator.add(2, 3)))
        print("subtract(2, 3) =", shown(await calculator.subtract(2, 3)))
        print("multiply(2, 3) =", shown(await calculator.multiply(2, 3)))
        print("divide(2, 3) =", shown(await calculator.divide(2, 3)))
        print("power(2, 10) =", shown(await calculator.power(2, 10)))
        print("sqrt(2) =", shown(await calculator.sqrt(2)))
        print("evaluate('2*(3+4)') =", shown(await calculator.evaluate("2*(3+4)")))
        await calculator.store(42)
        print("store(42), recall() =", shown(await calculator.recall()))

        try:
            await calculator.divide(1, 0)
        except ZeroDivisionError as exc:
            print("divide(1, 0): ZeroDivisionError:", exc)

        try:
            # By name, because a type checker refuses calculator.add("two", 3).
            await client.call("Calculator.add", "two", 3)
        except trpc.InvalidArguments as exc:
            print("add('two', 3): InvalidArguments:", exc)

        try:
            with trio.fail_after(0.5):
                await calculator.slow_add(2, 3, 60)
        except trio.TooSlowError:
            print(await read_line(output))
            print(await read_line(output))
            print("slow_add(2, 3, 60): TooSlowError after 0.5 s")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(calculator.slow_add, 2, 3, 60)
            print(await read_line(output))
            nursery.cancel_scope.cancel()
        # The handler has ended when the `async with` has.
        print(await read_line(output))
        print("slow_add(2, 3, 60): cancelled")


async def read_line(stream: trio.abc.ReceiveStream) -> str:
    """The next line that a process prints. Byte by byte, so that what follows it stays in the pipe."""
    line = b""
    while not line.endswith(b"\n"):
        byte = await stream.receive_some(1)
        if not byte:
            raise EOFError("the server has ended")
        line += byte
    return line.decode().strip()


async def run() -> int:
    """The exit code. Whatever happens, the server has ended when this returns."""
    exit_code = 1  # if a signal cancels it
    async with trio.open_nursery() as nursery:
        nursery.start_soon(cancel_on_signal, nursery.cancel_scope)
        with trio.fail_after(PATIENCE):
            command = [sys.executable, "-m", "examples.calculator.server"]
            server: trio.Process = await nursery.start(
                functools.partial(trio.run_process, command, stdout=subprocess.PIPE)
            )
            assert server.stdout is not None
            print(f"client: process {os.getpid()}; server: process {server.pid}", flush=True)
            await demonstrate(await read_line(server.stdout), server.stdout)
            server.terminate()
            print("server ended with exit code", await server.wait())
        exit_code = 0
        nursery.cancel_scope.cancel()
    return exit_code


async def cancel_on_signal(scope: trio.CancelScope) -> None:
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        await anext(signals)
        scope.cancel()


if __name__ == "__main__":
    sys.exit(trio.run(run))
