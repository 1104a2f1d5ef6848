"""The form of a transport over a Trio stream."""

from __future__ import annotations

import trio
import trio.testing
from support import settle

import trpc
from trpc._transport import StreamTransport


class OneWayEnd(trio.abc.Stream):
    """A stream that cannot end one direction alone, as TLS."""

    def __init__(self, stream):
        self.stream = stream

    async def send_all(self, data):
        await self.stream.send_all(data)

    async def wait_send_all_might_not_block(self):
        await self.stream.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes=None):
        return await self.stream.receive_some(max_bytes)

    async def aclose(self):
        await self.stream.aclose()


class Echo:
    @trpc.method
    def echo(self, text: str) -> str:
        return text


async def test_bytes_go_both_ways_and_end():
    ours, theirs = trio.testing.memory_stream_pair()
    here, there = StreamTransport(ours, "here"), StreamTransport(theirs, "there")
    assert here.address == "here"
    await here.send(b"abc")
    assert await there.receive() == b"abc"
    assert await here.send_eof()
    assert await there.receive() == b""
    await there.send(b"still open")
    assert await here.receive() == b"still open"
    await there.close()
    assert await here.receive() == b""


async def test_a_stream_without_half_close():
    ours, theirs = trio.testing.memory_stream_pair()
    with trio.testing.assert_checkpoints():
        assert not await StreamTransport(OneWayEnd(ours), "").send_eof()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trpc.serve_stream, Echo(), OneWayEnd(theirs))
        async with trpc.connect_stream(OneWayEnd(ours)) as client:
            assert await client.proxy(Echo).echo("x") == "x"


async def test_close_is_immediate_when_cancelled():
    ours, theirs = trio.testing.memory_stream_pair()
    with trio.CancelScope() as scope:
        scope.cancel()
        await StreamTransport(ours, "").close()
    await settle()
    assert await theirs.receive_some() == b""
