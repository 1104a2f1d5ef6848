"""The object that users call with: its options and what it shows."""

from collections.abc import AsyncIterable, AsyncIterator

import pytest
import trio
from support import connected

import trpc


class Echo:
    @trpc.method
    def echo(self, text: str) -> str:
        return text


async def test_the_peer_of_a_client_is_the_server():
    async with connected(Echo()) as (client, server):
        assert isinstance(client.peer, trpc.Peer)
        assert str(client.peer) == client.peer.address
        assert client.peer is client.peer
        (connection,) = server.connections
        assert connection.peer is not client.peer


@pytest.mark.parametrize("interface", [1, None, Echo(), [Echo]])
async def test_a_proxy_is_made_of_a_class_or_a_name(interface):
    async with connected(Echo()) as (client, _):
        with pytest.raises(TypeError, match="a proxy is made from a class or a service's name"):
            client.proxy(interface)
        assert await client.proxy("Echo").echo("x") == "x"


class Log:
    @trpc.method
    async def lines(self, number: int, *, prefix: str = "") -> AsyncIterator[str]:
        for i in range(number):
            yield f"{prefix}{i}"

    @trpc.method
    async def join(self, lines: AsyncIterable[str], sep: str = ",") -> str:
        return sep.join([line async for line in lines])


async def letters():
    yield "a"
    yield "b"


async def test_a_stream_by_the_name_of_its_method():
    async with connected(Log()) as (client, _):
        async with client.stream("Log.lines", 2, prefix="x") as lines:
            assert isinstance(lines, trio.abc.ReceiveChannel)
            assert [line async for line in lines] == ["x0", "x1"]


async def test_an_argument_of_any_name():
    class Any_:
        @trpc.method
        async def names(self, **names: int) -> AsyncIterator[str]:
            for name in names:
                yield name

    async with connected({"Any": Any_()}) as (client, _):
        async with client.stream("Any.names", method=1, args=2) as names:
            assert [name async for name in names] == ["method", "args"]


async def test_a_stream_as_an_argument_by_name():
    async with connected(Log()) as (client, _):
        assert await client.call("Log.join", letters(), sep="-") == "a-b"
        assert await client.call("Log.join", lines=letters()) == "a,b"


async def test_who_asks_is_shown_how_many_replies_were_late():
    async with connected(Log()) as (client, _):
        assert client.late_replies == 0
