"""The handle of a running server, and the ways to start one."""

import pytest
import trio
from support import connected

import trpc


class Echo:
    @trpc.method
    def echo(self, text: str) -> str:
        return text


async def check(url):
    async with trpc.connect(url) as client:
        assert await client.proxy(Echo).echo("x") == "x"


@pytest.fixture
def short_path(tmp_path_factory):
    """A place for Unix sockets: their paths have to be short."""
    return tmp_path_factory.mktemp("s")


async def test_a_server_over_a_stream_has_no_url():
    async with connected(Echo()) as (_, server):
        assert server.urls == []
        with pytest.raises(RuntimeError, match="this server has no URL"):
            _ = server.url


async def test_on_a_unix_socket(nursery, short_path):
    path = short_path / "socket"
    server = await nursery.start(trpc.serve_unix, Echo(), path)
    assert server.urls == [server.url]
    assert server.url == f"unix://{path}"
    await check(server.url)


async def test_on_listeners_that_are_open(nursery, short_path):
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    more = await trio.open_tcp_listeners(0, host="127.0.0.1")
    server = await nursery.start(trpc.serve_listeners, Echo(), [*listeners, *more])
    assert len(set(server.urls)) == 2
    assert server.url == server.urls[0]
    for url in server.urls:
        await check(url)
    server.urls.clear()
    assert len(server.urls) == 2, "what it gives is a copy"
