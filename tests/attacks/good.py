"""The client that means well: ``python -m tests.attacks.good PORT``; takes orders as lines of JSON.

Its callers call without pause. Each call has to have the right answer; each latency is noted.
"""

from __future__ import annotations

import sys

import trio

import trpc

from . import orders
from .target import Target

CALLERS = 4
"""A moderate load: the server has time for others, and yet every stop of it meets some calls."""

PATIENCE = 30.0
"""Seconds after which a call counts as failed."""

LIMITS = trpc.Limits(hello_timeout=PATIENCE)


class Measured:
    def __init__(self) -> None:
        self.latencies: list[float] = []
        self.failures: list[str] = []

    async def call(self, function, *args, expected) -> None:
        start = trio.current_time()
        try:
            with trio.fail_after(PATIENCE):
                value = await function(*args)
            if value != expected:
                self.failures.append(f"{value!r} instead of {expected!r}")
        except (trpc.RPCError, trio.TooSlowError) as exc:
            self.failures.append(f"{type(exc).__name__}: {exc}")
            # One that has lost its connection does not fail a million times.
            await trio.sleep(0.1)
        self.latencies.append(trio.current_time() - start)

    def result(self) -> dict:
        latencies = sorted(self.latencies)
        return {
            "calls": len(latencies),
            "failures": len(self.failures),
            "first_failures": self.failures[:5],
            "p50": latencies[len(latencies) // 2],
            "p99": latencies[len(latencies) * 99 // 100],
            "max": latencies[-1],
        }


async def total(target, count: int) -> int:
    async def numbers():
        for number in range(count):
            yield number

    return await target.total(numbers())


async def numbers(target, count: int) -> int:
    async with target.numbers(count) as items:
        return sum([number async for number in items])


async def call_for(seconds: float, clients, url: str, *, newcomers: bool) -> dict:
    measured = Measured()
    data = bytes(1000)

    async def caller(target) -> None:
        while trio.current_time() < end:
            for number in range(10):
                await measured.call(target.add, number, 1, expected=number + 1)
                await measured.call(target.later, number, expected=number)
            await measured.call(target.echo, data, expected=data)
            await measured.call(numbers, target, 10, expected=45)
            await measured.call(total, target, 10, expected=45)

    async def newcomer() -> None:
        """Whoever comes now is served as well. It takes more than a call, and does not count among them."""
        apart = Measured()
        apart.failures = measured.failures

        async def connect_and_call() -> int:
            async with trpc.connect(url, limits=LIMITS) as client:
                return await client.proxy(Target).add(1, 2)

        while trio.current_time() < end:
            await apart.call(connect_and_call, expected=3)
            await trio.sleep(0.1)

    end = trio.current_time() + seconds
    async with trio.open_nursery() as nursery:
        for number in range(CALLERS):
            nursery.start_soon(caller, clients[number % len(clients)].proxy(Target))
        if newcomers:
            nursery.start_soon(newcomer)
    return measured.result()


async def main(port: int) -> None:
    url = f"tcp://127.0.0.1:{port}"
    async with trpc.connect(url, limits=LIMITS) as one, trpc.connect(url, limits=LIMITS) as another:
        async for order in orders.received():
            match order:
                case {"do": "call", "seconds": seconds, "newcomers": newcomers}:
                    orders.answer(await call_for(seconds, [one, another], url, newcomers=newcomers))
                case {"do": "state"}:
                    with trio.fail_after(PATIENCE):
                        orders.answer(await one.proxy(Target).state())


if __name__ == "__main__":
    trio.run(main, int(sys.argv[1]))
