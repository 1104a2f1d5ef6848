"""A well-behaved client of the soak: ``python -m tests.soak.client ROLE PLAIN_PORT TLS_PORT AUTHORITY SEED``.

``lasting`` keeps its connections; ``coming`` makes new ones all the time; ``watching`` only looks at the server, through
one connection. All take orders as lines of JSON.
"""

from __future__ import annotations

import contextlib
import random
import ssl
import sys
import time
from collections import Counter

import trio

import trpc
from tests.attacks import orders

from . import work
from .service import Soak, mistakes, sample

SHARE = 0.09
"""Of one core, that each client takes; the server takes about as much for it."""

TASKS = 3
FEW = 5


class Load:
    """The calls of one process, and what came of them."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.done = Counter()
        self.wrong: list[str] = []
        self._goes_on = trio.Event()
        self._goes_on.set()
        self._start = time.monotonic()
        self._used = time.process_time()
        self._busy = 0
        self._idle = trio.Event()

    async def wait_turn(self) -> None:
        """Waits while this has had more than its share of the processor."""
        await self._goes_on.wait()
        ahead = (time.process_time() - self._used) / SHARE - (time.monotonic() - self._start)
        # An old debt is not paid off by a burst.
        if ahead < -1:
            self._start, self._used = time.monotonic(), time.process_time()
        await trio.sleep(max(ahead, 0) + self.chance.random() * 0.002)

    @contextlib.contextmanager
    def noted(self):
        """Whatever well-behaved calls raise is a wrong outcome."""
        self._busy += 1
        try:
            yield
        except work.WrongOutcomeError as exc:
            self.wrong.append(str(exc))
        except Exception as exc:
            self.wrong.append(f"{type(exc).__name__}: {exc}")
        finally:
            self._busy -= 1
            self._idle.set()

    async def pause(self) -> None:
        """Begins nothing any more, and returns when nothing is under way."""
        self._goes_on = trio.Event()
        while self._busy:
            self._idle = trio.Event()
            await self._idle.wait()

    def resume(self) -> None:
        self._goes_on.set()

    async def one(self, client: trpc.Client) -> None:
        self.done[await work.one(client, self.chance)] += 1

    def result(self) -> dict:
        return {"calls": self.done.total(), "done": self.done, "wrong": [*self.wrong[:10], *mistakes.messages]}


class Addresses:
    def __init__(self, plain: str, tls: str, authority: str) -> None:
        self.plain = plain
        self.tls = tls
        self.context = ssl.create_default_context(cafile=authority)

    def connect(self, *, tls: bool):
        if tls:
            return trpc.connect(f"tls://127.0.0.1:{self.tls}", service=work.Callbacks(), ssl_context=self.context)
        return trpc.connect(f"tcp://127.0.0.1:{self.plain}", service=work.Callbacks())


async def keep_calling(load: Load, client: trpc.Client) -> None:
    while True:
        await load.wait_turn()
        with load.noted():
            await load.one(client)


async def answer_orders(load: Load) -> None:
    async for order in orders.received():
        if order["do"] == "pause":
            await load.pause()
        elif order["do"] == "resume":
            load.resume()
        orders.answer({"client": sample(), **load.result()})


async def watching(load: Load, addresses: Addresses) -> None:
    async with addresses.connect(tls=False) as client:
        async for _ in orders.received():
            with trio.fail_after(work.PATIENCE):
                orders.answer({"server": await client.proxy(Soak).sample(), **load.result()})


async def lasting(load: Load, addresses: Addresses) -> None:
    async with (
        addresses.connect(tls=False) as plain,
        addresses.connect(tls=True) as tls,
        trio.open_nursery() as nursery,
    ):
        for client in (plain, tls):
            for _ in range(TASKS):
                nursery.start_soon(keep_calling, load, client)
        await answer_orders(load)
        nursery.cancel_scope.cancel()


async def come_and_go(load: Load, addresses: Addresses) -> None:
    while True:
        await load.wait_turn()
        with load.noted():
            await visit(load, addresses)


async def visit(load: Load, addresses: Addresses) -> None:
    """One connection with some calls, and one of the ways to leave it."""
    way = load.chance.choice(["in order", "in order", "with calls in flight", "cancelled", "by an error"])
    with contextlib.suppress(ZeroDivisionError), trio.CancelScope() as scope:
        async with addresses.connect(tls=load.chance.random() < 0.4) as client, trio.open_nursery() as nursery:
            for _ in range(load.chance.randrange(1, 10)):
                await load.one(client)
            if way == "with calls in flight":
                for _ in range(FEW):
                    nursery.start_soon(client.proxy(Soak).wait)
                await client.ping()
                nursery.cancel_scope.cancel()
            elif way == "cancelled":
                scope.cancel()
                await client.proxy(Soak).wait()
            elif way == "by an error":
                # Out of the nursery it would be in a group.
                nursery.cancel_scope.cancel()
        if way == "by an error":
            async with addresses.connect(tls=False):
                raise ZeroDivisionError
    load.done["connections"] += 1
    load.done[way] += 1


async def coming(load: Load, addresses: Addresses) -> None:
    async with trio.open_nursery() as nursery:
        for _ in range(TASKS):
            nursery.start_soon(come_and_go, load, addresses)
        await answer_orders(load)
        nursery.cancel_scope.cancel()


async def main(role: str, plain: str, tls: str, authority: str, seed: str) -> None:
    await {"watching": watching, "lasting": lasting, "coming": coming}[role](
        Load(int(seed)), Addresses(plain, tls, authority)
    )


if __name__ == "__main__":
    trio.run(main, *sys.argv[1:6])
