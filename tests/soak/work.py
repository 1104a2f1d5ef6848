"""What well-behaved clients do, and what has to come of it. Each function is one kind of call."""

from __future__ import annotations

import random

import trio

import trpc

from .service import Refused, Soak

PATIENCE = 30.0
"""Seconds that a call may take before that is a wrong outcome."""


class WrongOutcomeError(Exception):
    """A call did not do what it had to."""


class Callbacks:
    """What a client offers to the server."""

    @trpc.method
    async def double(self, number: int) -> int:
        await trio.lowlevel.checkpoint()
        return 2 * number


def check(value: object, expected: object) -> None:
    if value != expected:
        raise WrongOutcomeError(f"{value!r:.200} instead of {expected!r:.200}")


async def plain(client: trpc.Client, chance: random.Random) -> None:
    number = chance.randrange(1000)
    check(await client.proxy(Soak).add(number, 1), number + 1)


async def in_thread(client: trpc.Client, chance: random.Random) -> None:
    check(await client.proxy(Soak).add_in_thread(1, 2), 3)


async def echo(client: trpc.Client, chance: random.Random) -> None:
    data = chance.randbytes(chance.choice([0, 10, 1000, 50_000]))
    check(await client.proxy(Soak).echo(data), data)


async def large(client: trpc.Client, chance: random.Random) -> None:
    data = bytes([chance.randrange(256)]) * chance.randrange(1 << 20, 6 << 20)
    check(await client.proxy(Soak).echo(data), data)


async def many(client: trpc.Client, chance: random.Random) -> None:
    async with trio.open_nursery() as nursery:
        for _ in range(50):
            nursery.start_soon(plain, client, chance)


async def with_metadata(client: trpc.Client, chance: random.Random) -> None:
    tag = str(chance.random())
    with trpc.metadata(tag=tag):
        check(await client.proxy(Soak).tagged(), tag)


async def errors(client: trpc.Client, chance: random.Random) -> None:
    number = chance.randrange(1000)
    kind = chance.choice(["builtin", "registered", "group"])
    try:
        await client.proxy(Soak).fail(kind, number)
    except KeyError as exc:
        check((kind, exc.args), ("builtin", (number,)))
    except Refused as exc:
        check((kind, exc.number), ("registered", number))
    except ExceptionGroup as group:
        check((kind, [type(exc).__name__ for exc in group.exceptions][1:]), ("group", ["Refused"]))
    else:
        raise WrongOutcomeError("no error")


async def refused(client: trpc.Client, chance: random.Random) -> None:
    method, args, expected = chance.choice(
        [("Soak.no_such", (), trpc.MethodNotFound), ("Soak.add", ("one", []), trpc.InvalidArguments)]
    )
    try:
        await client.call(method, *args)
    except expected:
        return
    raise WrongOutcomeError(f"no {expected.__name__}")


async def cancelled(client: trpc.Client, chance: random.Random) -> None:
    with trio.move_on_after(chance.choice([0, 0.0005, 0.005, 0.02])) as scope:
        await client.proxy(Soak).wait()
    check(scope.cancelled_caught, True)


async def deadline(client: trpc.Client, chance: random.Random) -> None:
    try:
        with trio.fail_after(0.01):
            await client.proxy(Soak).wait()
    except trio.TooSlowError:
        return
    raise WrongOutcomeError("no TooSlowError")


async def result_stream(client: trpc.Client, chance: random.Random) -> None:
    count, until = chance.randrange(1, 2000), chance.choice([10**9, 10**9, 5])
    received = []
    async with client.proxy(Soak).numbers(count) as items:
        async for item in items:
            received.append(item)
            if len(received) == until:
                break
    check(received, list(range(min(count, until))))


async def argument_stream(client: trpc.Client, chance: random.Random) -> None:
    count, fails = chance.randrange(500), chance.random() < 0.3
    ended = []

    async def numbers():
        try:
            for number in range(count):
                yield number
            if fails:
                raise LookupError("no more")
        finally:
            ended.append(True)

    try:
        check((await client.proxy(Soak).total(numbers()), fails), (sum(range(count)), False))
    except LookupError as exc:
        check((fails, exc.args), (True, ("no more",)))
    check(ended, [True])


async def both_streams(client: trpc.Client, chance: random.Random) -> None:
    words = ["word"] * chance.randrange(1, 50)

    async def say():
        for word in words:
            yield word

    async with client.proxy(Soak).shout(say()) as answers:
        check([answer async for answer in answers], [word.upper() for word in words])


async def callbacks(client: trpc.Client, chance: random.Random) -> None:
    times = chance.randrange(5)
    check(await client.proxy(Soak).ask_back(times), sum(2 * number for number in range(times)))


async def notify(client: trpc.Client, chance: random.Random) -> None:
    await client.notify("Soak.add", 1, 2)


async def ping(client: trpc.Client, chance: random.Random) -> None:
    check(await client.ping() >= 0, True)


# How often each is done.
SHARES = {
    plain: 20,
    in_thread: 2,
    echo: 10,
    large: 1,
    many: 2,
    with_metadata: 3,
    errors: 6,
    refused: 2,
    cancelled: 4,
    deadline: 2,
    result_stream: 5,
    argument_stream: 5,
    both_streams: 4,
    callbacks: 4,
    notify: 2,
    ping: 1,
}


async def one(client: trpc.Client, chance: random.Random) -> str:
    """Does one of them, chosen at random; returns its name.

    Raises:
        WrongOutcomeError: something else came of it.
    """
    (function,) = chance.choices(list(SHARES), SHARES.values())
    name = function.__name__
    try:
        with trio.fail_after(PATIENCE):
            await function(client, chance)
    except WrongOutcomeError as exc:
        raise WrongOutcomeError(f"{name}: {exc}") from exc
    except Exception as exc:
        raise WrongOutcomeError(f"{name}: {type(exc).__name__}: {exc}") from exc
    return name
