"""Who tries again at once, after an error that arises on this side, keeps nobody from running and can be cancelled."""

from __future__ import annotations

import pytest
import trio
import trio.testing
from support import connected, connection_of

import trpc


class Echo:
    @trpc.method
    async def echo(self, value: object) -> object:
        return value

    @trpc.method
    async def count(self):
        yield 1


async def stream(client):
    async with client.stream("Echo.count"):
        raise AssertionError("it cannot be entered")


async def typed_stream(client):
    async with client.proxy(Echo).count():
        raise AssertionError("it cannot be entered")


async def items(client):
    async def produce():
        yield 1

    await client.call("Echo.echo", produce())


ON_A_LOST_CONNECTION = {
    "call": lambda client: client.call("Echo.echo", 1),
    "proxy": lambda client: client.proxy(Echo).echo(1),
    "untyped": lambda client: client.proxy("Echo").echo(1),
    "notify": lambda client: client.notify("Echo.echo", 1),
    "ping": lambda client: client.ping(),
    "stream": stream,
    "typed_stream": typed_stream,
    "items": items,
}


async def check(function, client, error):
    """It is a checkpoint: another task runs, and a cancel comes."""
    ran = []

    async def other():
        ran.append(True)
        await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(other)
        with pytest.raises(error), trio.testing.assert_checkpoints():
            await function(client)
    assert ran
    with trio.CancelScope() as scope:
        scope.cancel()
        while True:
            with pytest.raises(error):
                await function(client)
    assert scope.cancelled_caught


@pytest.mark.parametrize("way", ON_A_LOST_CONNECTION)
@pytest.mark.parametrize("end", ["lost", "drained", "closed"])
async def test_when_the_connection_has_ended(way, end):
    async with connected(Echo()) as (client, server):
        await client.ping()
        if end == "lost":
            connection_of(client).cut("the network has gone")
        elif end == "drained":
            await server.drain(0)
            await trio.testing.wait_all_tasks_blocked()
        if end != "closed":
            await check(ON_A_LOST_CONNECTION[way], client, trpc.RPCError)
    if end == "closed":
        await check(ON_A_LOST_CONNECTION[way], client, trpc.ConnectionLost)


@pytest.mark.parametrize("way", ["call", "notify"])
async def test_what_cannot_be_sent(way):
    async with connected(Echo(), serve={"limits": trpc.Limits(max_message_size=1000)}) as (client, _):
        await client.ping()
        for value, error in [(object(), trpc.InvalidArguments), (bytes(2000), trpc.MessageTooLarge)]:

            async def send(client, value=value):
                await getattr(client, way)("Echo.echo", value)

            await check(send, client, error)
        assert await client.call("Echo.echo", 1) == 1
