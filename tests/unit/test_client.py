"""The object that users call with: its options and what it shows."""

import pytest
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
