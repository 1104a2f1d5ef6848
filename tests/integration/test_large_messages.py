"""Messages of many megabytes over real sockets, peers that take their time, and a server that is killed."""

from __future__ import annotations

import signal
import socket
from pathlib import Path

import pytest
import trio
from busy_service import Busy
from processes import python
from support import RawPeer, connection_of

import trpc
from trpc import _codec
from trpc._messages import Kind

SERVICE = Path(__file__).with_name("busy_service.py")
# The most that a message may have by default, less what is around the value.
LARGE = 16 * 1024 * 1024 - 100


@pytest.mark.parametrize("serve", ["tcp", "unix"])
async def test_large_messages_both_ways_at_once_between_small_ones(nursery, tmp_path, serve):
    service = Busy()
    if serve == "tcp":
        server = await nursery.start(trpc.serve_tcp, service, 0)
    else:
        server = await nursery.start(trpc.serve_unix, service, tmp_path / "socket")
    data = bytes(range(256)) * (LARGE // 256)
    small = 0

    async def small_calls(proxy, number):
        nonlocal small
        while large_in_flight:
            assert await proxy.plain(number) == number
            assert await proxy.work(1, number) == number
            small += 1

    async def large_call(function, argument, expected):
        nonlocal large_in_flight
        assert await function(argument) == expected
        large_in_flight -= 1

    with trio.fail_after(100):
        async with trpc.connect(server.url) as client:
            proxy = client.proxy(Busy)
            large_in_flight = 6
            async with trio.open_nursery() as calls:
                for _ in range(2):
                    calls.start_soon(large_call, proxy.echo, data, data)
                    calls.start_soon(large_call, proxy.sum, data, len(data))
                    calls.start_soon(large_call, proxy.blob, LARGE, bytes(LARGE))
                for number in range(5):
                    calls.start_soon(small_calls, proxy, number)
            assert large_in_flight == 0
            assert connection_of(client)._outbox.unsent == 0
            assert server.calls == ()
    assert small >= 5


async def test_a_large_call_that_is_cancelled_in_the_middle(nursery):
    """Of its request or of its reply, at any time: the connection goes on with what is whole."""
    server = await nursery.start(trpc.serve_tcp, Busy(), 0)
    data = bytes(LARGE)
    with trio.fail_after(100):
        async with trpc.connect(server.url) as client:
            proxy = client.proxy(Busy)
            for passes in (0, 1, 2, 3, 5, 8, 13, 21, 34):
                with trio.CancelScope() as scope:
                    async with trio.open_nursery() as calls:
                        calls.start_soon(proxy.echo, data)
                        for _ in range(passes):
                            await trio.lowlevel.checkpoint()
                        scope.cancel()
                assert await proxy.at_once(passes) == passes
            assert server.calls == ()
            assert not client._caller._in_flight


async def raw_peer(server, receive_buffer):
    """A peer at the other end of a TCP connection, whose kernel takes few bytes for it."""
    sock = trio.socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    await sock.connect(("127.0.0.1", int(server.url.rsplit(":", 1)[1])))
    return RawPeer(trio.SocketStream(sock), max_message_size=1 << 24)


class OneByOne:
    """A stream that gives and takes single bytes."""

    def __init__(self, stream):
        self.stream = stream

    async def receive_some(self):
        return await self.stream.receive_some(1)

    async def send_all(self, data):
        for byte in data:
            await self.stream.send_all(bytes([byte]))


async def test_a_peer_that_writes_and_reads_byte_by_byte(nursery):
    server = await nursery.start(trpc.serve_tcp, Busy(), 0)
    with trio.fail_after(100):
        peer = await raw_peer(server, 4096)
        async with peer.stream as stream, trpc.connect(server.url) as client:
            peer.stream = OneByOne(stream)
            await peer.open()
            calls = 0

            async def other():
                nonlocal calls
                while True:
                    assert await client.proxy(Busy).work(1, 5) == 5
                    calls += 1

            async with trio.open_nursery() as others:
                others.start_soon(other)
                for call_id in range(1, 11):
                    await peer.send_request(call_id, "Busy.echo", b"x" * 500)
                sizes = [500] * 10
                for call_id in range(11, 14):
                    await peer.send_request(call_id, "Busy.blob", 3_000)
                    sizes.append(3_000)
                replies = [await peer.receive() for _ in sizes]
                others.cancel_scope.cancel()
            assert [reply.kind for reply in replies] == [Kind.RESULT] * len(sizes)
            assert sorted(len(_codec.unpack(reply.body, max_depth=8)) for reply in replies) == sorted(sizes)
            assert calls > 100, "others were served meanwhile"


async def test_a_peer_that_stops_reading_in_the_middle_of_large_replies(nursery):
    """They wait, others do not, and when it reads on it gets all of them."""
    server = await nursery.start(trpc.serve_tcp, Busy(), 0)
    with trio.fail_after(100):
        peer = await raw_peer(server, 4096)
        async with peer.stream, trpc.connect(server.url) as client:
            await peer.open()
            for call_id in range(1, 9):
                await peer.send_request(call_id, "Busy.blob", 4_000_000)
            first = await peer.stream.receive_some(1)
            (connection,) = [c for c in server._connections if c._outbox.unsent]
            for number in range(200):
                assert await client.proxy(Busy).work(1, number) == number
            # No more is asked for than it may leave unread, and one reply.
            assert connection._outbox.unsent_answers < connection._limits.max_unsent + 5_000_000
            peer.frames += peer.reader.feed(first)
            sizes = {}
            while len(sizes) < 8:
                reply = await peer.receive()
                assert reply.kind == Kind.RESULT
                sizes[reply.id] = len(_codec.unpack(reply.body, max_depth=8))
            assert sizes == dict.fromkeys(range(1, 9), 4_000_000)
            assert connection._outbox.unsent == 0


async def test_a_server_that_is_killed_in_the_middle_of_a_large_reply():
    async with python(SERVICE, "serve") as (process, url, _lines):
        outcomes = []

        async def one(proxy, size):
            with pytest.raises(trpc.ConnectionLost) as error:
                await proxy.blob(size)
            outcomes.append(error.value)

        with trio.fail_after(60):
            async with trpc.connect(url) as client:
                proxy = client.proxy(Busy)
                assert await proxy.plain(1) == 1
                frames = connection_of(client)._protocol.frames
                async with trio.open_nursery() as calls:
                    for _ in range(4):
                        calls.start_soon(one, proxy, LARGE)
                    while not frames.missing:
                        await trio.lowlevel.checkpoint()
                    process.send_signal(signal.SIGKILL)
                assert len(outcomes) == 4
                assert all(exc.maybe_executed for exc in outcomes)
                assert not client._caller._in_flight
                with pytest.raises(trpc.ConnectionLost):
                    await proxy.plain(1)
