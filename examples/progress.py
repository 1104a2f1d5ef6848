"""A long job that reports its progress: as a stream that the caller reads, or by calls back to the caller.

* ``python -m examples.progress`` runs a server as a process of its own and shows both, leaving early, and a deadline
* ``python -m examples.progress serve [PORT]`` runs a server until Ctrl-C, and prints its URL
* ``python -m examples.progress stream URL LIMIT`` counts the primes below LIMIT; Ctrl-C cancels it, on the server too
* ``python -m examples.progress watch URL LIMIT`` does the same by calls back
"""

import dataclasses
import functools
import math
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from typing import Annotated

import msgspec
import trio

import trpc

BLOCK = 250_000
"""Numbers that are looked at between two reports."""
TOO_MANY = 10**9

Limit = Annotated[int, msgspec.Meta(ge=0, le=TOO_MANY)]


@dataclasses.dataclass(frozen=True)
class Progress:
    """How far the job is.

    Attributes:
        done: below this, all numbers were looked at.
        primes: the primes among them; the result, once all is done.
    """

    done: int
    primes: int


class Watcher:
    """What the client serves, for its server to call back."""

    @trpc.method
    async def report(self, progress: Progress) -> None:
        show(progress)


class Jobs:
    """What the server serves."""

    @trpc.method
    async def count_primes(self, limit: Limit) -> AsyncIterator[Progress]:
        """The job, with its progress as a stream. It ends when its reader leaves."""
        done = primes = 0
        try:
            while done < limit:
                stop = min(done + BLOCK, limit)
                # In a thread, so that other calls go on meanwhile.
                primes += await trio.to_thread.run_sync(primes_between, done, stop)
                done = stop
                yield Progress(done, primes)
        finally:
            if done < limit:
                print("server: the job was cancelled", flush=True)

    @trpc.method
    async def count_primes_watched(self, limit: Limit) -> int:
        """The same job, with its progress by calls to the client's :class:`Watcher`."""
        watcher = trpc.current_call().client.proxy(Watcher)
        primes = 0
        # A method that gives a stream is used here as it is used by clients.
        async with self.count_primes(limit) as reports:
            async for progress in reports:
                primes = progress.primes
                await watcher.report(progress)
        return primes


def primes_between(start: int, stop: int) -> int:
    """How many there are: the sieve of Eratosthenes, for a part of the numbers."""
    sieve = bytearray(n > 1 for n in range(start, stop))
    for n in range(2, math.isqrt(stop - 1) + 1):
        multiples = range(max(n * n, start + -start % n), stop, n)
        sieve[multiples.start - start :: n] = bytes(len(multiples))
    return sum(sieve)


def show(progress: Progress) -> None:
    print(f"{progress.primes} primes below {progress.done}", flush=True)


# --- the programs ---


async def serve(port: int = 0) -> None:
    """Serves until SIGINT or SIGTERM; the first line on stdout is the URL."""
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with trio.open_nursery() as nursery:
            server: trpc.Server = await nursery.start(trpc.serve_tcp, Jobs(), port)
            print(server.url, flush=True)
            await anext(signals)
            nursery.cancel_scope.cancel()


async def stream(url: str, limit: int) -> None:
    async with trpc.connect(url) as client, client.proxy(Jobs).count_primes(limit) as reports:
        async for progress in reports:
            show(progress)


async def watch(url: str, limit: int) -> None:
    async with trpc.connect(url, service=Watcher()) as client:
        print("result:", await client.proxy(Jobs).count_primes_watched(limit))


class Sleeper(Watcher):
    """A watcher that never answers, as a dialogue does that nobody looks at."""

    async def report(self, progress: Progress) -> None:
        show(progress)
        left = trpc.current_call().deadline - trio.current_time()
        print(f"the call back has {left:.3f} s left", flush=True)
        try:
            await trio.sleep_forever()
        finally:
            print("the call back was cancelled", flush=True)


async def demonstrate() -> None:
    async with trio.open_nursery() as nursery:
        command = [sys.executable, __file__, "serve"]
        start = functools.partial(trio.run_process, command, stdout=subprocess.PIPE)
        server: trio.Process = await nursery.start(start)
        assert server.stdout is not None
        url = await read_line(server.stdout)

        print("--- as a stream", flush=True)
        await stream(url, 1_000_000)

        print("--- by calls back", flush=True)
        await watch(url, 1_000_000)

        print("--- leaving early", flush=True)
        async with trpc.connect(url) as client:
            async with client.proxy(Jobs).count_primes(TOO_MANY) as reports:
                show(await reports.receive())
            # The job has ended when the `async with` has.
            print(await read_line(server.stdout))

        print("--- a deadline: here, on the server, and back here", flush=True)
        async with trpc.connect(url, service=Sleeper()) as client:
            try:
                with trio.fail_after(1):
                    await client.proxy(Jobs).count_primes_watched(TOO_MANY)
            except trio.TooSlowError:
                print(await read_line(server.stdout))
                print("TooSlowError after 1 s")

        server.terminate()


async def read_line(output: trio.abc.ReceiveStream) -> str:
    """The next line that a process prints. Byte by byte, so that what follows it stays in the pipe."""
    line = b""
    while not line.endswith(b"\n"):
        line += await output.receive_some(1)
    return line.decode().strip()


def main() -> None:
    code: int | str = 0
    try:
        match sys.argv[1:]:
            case []:
                trio.run(demonstrate)
            case ["serve"]:
                trio.run(serve)
            case ["serve", port]:
                trio.run(serve, int(port))
            case ["stream", url, limit]:
                trio.run(stream, url, int(limit))
            case ["watch", url, limit]:
                trio.run(watch, url, int(limit))
            case _:
                code = __doc__ or ""
    except* KeyboardInterrupt:
        code = 130
    except* (trpc.RPCError, OSError, ValueError) as group:
        code = f"error: {group.exceptions[0]}"
    sys.exit(code)


if __name__ == "__main__":
    main()
