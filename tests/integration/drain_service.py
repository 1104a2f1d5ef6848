"""Both ends of the drain tests. ``serve PORT GRACE REPORT`` drains on SIGTERM; ``call URL KIND CLIENTS NAME`` ends on it.

Each call has a key of its own. The server notes what it has begun, and the clients what they were told.
"""

from __future__ import annotations

import errno
import json
import random
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterable, AsyncIterator
from pathlib import Path

import trio

import trpc


class Counted:
    """Whatever is begun is counted."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.ended = 0

    @trpc.method
    def at_once(self, key: str) -> str:
        self.begun.append(key)
        self.ended += 1
        return key

    @trpc.method
    async def later(self, key: str) -> str:
        self.begun.append(key)
        # So that some are under way at each moment, and some have only just begun.
        await trio.sleep(random.random() * 0.05)
        self.ended += 1
        return key

    @trpc.method
    async def never(self, key: str) -> None:
        self.begun.append(key)
        await trio.sleep_forever()

    @trpc.method
    async def items(self, key: str, count: int) -> AsyncIterator[int]:
        self.begun.append(key)
        for number in range(count):
            if number % 10 == 0:
                await trio.sleep(0.005)
            yield number
        self.ended += 1

    @trpc.method
    async def total(self, key: str, numbers: AsyncIterable[int]) -> int:
        self.begun.append(key)
        total = sum([number async for number in numbers])
        self.ended += 1
        return total


async def listen(port: int) -> list[trio.SocketListener]:
    """The port may be that of a server which has only just stopped listening."""
    with trio.fail_after(30):
        while True:
            try:
                return await trio.open_tcp_listeners(port, host="127.0.0.1")
            except OSError as exc:
                if exc.errno != errno.EADDRINUSE:
                    raise
                await trio.sleep(0.01)


async def serve(port: int, grace: float, report: Path) -> None:
    counted = Counted()
    listeners = await listen(port)
    with trio.open_signal_receiver(signal.SIGTERM) as signals:
        async with trio.open_nursery() as nursery:

            async def run(task_status):
                await trpc.serve_listeners(counted, listeners, task_status=task_status)
                # Whatever else is under way here has nothing to do any more.
                nursery.cancel_scope.cancel()

            server = await nursery.start(run)
            print(server.url, flush=True)
            async for _ in signals:
                nursery.start_soon(server.drain, grace)
                while listeners[0].socket.fileno() != -1:
                    await trio.lowlevel.checkpoint()
                print("draining", flush=True)
    report.write_text(json.dumps({"begun": counted.begun, "ended": counted.ended}), encoding="utf-8")
    print("drained", flush=True)


class Caller:
    """Calls without pause, each until it has its value, and connects anew when the server takes no more."""

    def __init__(self, url: str, kind: str) -> None:
        self.url = url
        self.kind = kind
        self.stops = False
        self.done: list[str] = []
        self.refused = Counter()
        self.wrong: list[str] = []
        self.connections = 0
        self.calls = Counter()

    async def run(self, name: str) -> None:
        numbers = iter(range(10**9))
        key = f"{name}-{next(numbers)}"
        while not self.stops:
            try:
                async with trpc.connect(self.url) as client:
                    self.connections += 1
                    while True:
                        await self.call(client.proxy(Counted), key)
                        self.done.append(key)
                        self.calls[name] += 1
                        # A key that was begun is finished, so that each has come to an end.
                        key = f"{name}-{next(numbers)}"
                        if self.stops:
                            break
            except trpc.Unavailable:
                self.refused["Unavailable"] += 1
            except trpc.ConnectionLost as exc:
                if exc.maybe_executed:
                    self.wrong.append(f"{key}: {exc}")
                    key = f"{name}-{next(numbers)}"
                self.refused["ConnectionLost"] += 1
            except Exception as exc:
                self.wrong.append(f"{key}: {type(exc).__name__}: {exc}")
                key = f"{name}-{next(numbers)}"
            # The next server may not be there yet.
            await trio.sleep(0.01)

    async def call(self, counted: Counted, key: str) -> None:
        match self.kind:
            case "calls":
                method = random.choice([counted.at_once, counted.later, counted.later])
                assert await method(key) == key
            case "streams":
                if random.random() < 0.5:
                    async with counted.items(key, 50) as items:
                        assert [item async for item in items] == list(range(50))
                else:
                    assert await counted.total(key, produce(50)) == sum(range(50))


async def produce(count: int) -> AsyncIterator[int]:
    for number in range(count):
        if number % 10 == 0:
            await trio.sleep(0.005)
        yield number


async def call(url: str, kind: str, clients: int, name: str) -> None:
    caller = Caller(url, kind)

    async def say_when_all_call(word: str) -> None:
        before = caller.calls.copy()
        while len(caller.calls) < clients or any(caller.calls[name] < before[name] + 3 for name in caller.calls):
            await trio.sleep(0.01)
        print(word, flush=True)

    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGUSR1) as signals:
        async with trio.open_nursery() as nursery:
            for number in range(clients):
                nursery.start_soon(caller.run, f"{name}-{number}")
            await say_when_all_call("calling")
            async for received in signals:
                if received == signal.SIGTERM:
                    break
                await say_when_all_call("calling again")
            caller.stops = True
    print(json.dumps({key: getattr(caller, key) for key in ("done", "refused", "wrong", "connections")}), flush=True)


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["serve", port, grace, report]:
            trio.run(serve, int(port), float(grace), Path(report))
        case ["call", url, kind, clients, name]:
            trio.run(call, url, kind, int(clients), name)
