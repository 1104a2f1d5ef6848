"""Transports: what holds for every form of one, and the form over a Trio stream.

What only sockets can do is in test_socket_transport.py.
"""

from __future__ import annotations

import types

import pytest
import trio
import trio.testing
from certificates import client_context, server_context
from support import settle

import trpc
from trpc import _tls, _transport
from trpc._outgoing import without_first
from trpc._socket_transport import SocketTransport
from trpc._tls import TlsTransport
from trpc._transport import StreamTransport, transport_of

# More than any transport takes at once.
MUCH = bytes(range(256)) * 40_000


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


async def socket_streams(kind):
    """Two ends of a connection."""
    if kind == "unix":
        return [trio.SocketStream(end) for end in trio.socket.socketpair()]
    with trio.socket.socket() as listener:
        await listener.bind(("127.0.0.1", 0))
        listener.listen()
        ours = await trio.open_tcp_stream(*listener.getsockname())
        theirs, _ = await listener.accept()
    return [ours, trio.SocketStream(theirs)]


async def with_tls(here, there):
    """TLS over two transports, after the handshake."""
    ends = [
        TlsTransport(here, client_context(), server_hostname="localhost"),
        TlsTransport(there, server_context(), server_side=True),
    ]
    async with trio.open_nursery() as nursery:
        for end in ends:
            nursery.start_soon(end.handshake)
    for end in ends:
        # Something could have come with the handshake.
        assert end.receive_nowait() is None
    return ends


KINDS = ["memory stream", "lockstep stream", "socket stream", "unix socket", "tcp socket"]


@pytest.fixture(params=[*KINDS, *(f"{kind}, TLS" for kind in KINDS)])
async def pair(request, monkeypatch):
    """Two transports that are connected."""
    # Its end is said to nobody in most of these tests.
    monkeypatch.setattr(_tls, "_END_TIME", 0.01)
    kind = request.param.removesuffix(", TLS")
    if kind.endswith("socket"):
        streams = await socket_streams(kind.split()[0])
        ends = [SocketTransport(stream, "here") for stream in streams]
    else:
        make = {
            "memory stream": trio.testing.memory_stream_pair,
            "lockstep stream": trio.testing.lockstep_stream_pair,
            "socket stream": lambda: map(trio.SocketStream, trio.socket.socketpair()),
        }[kind]
        ends = [StreamTransport(stream, "here") for stream in make()]
    if kind != request.param:
        ends = await with_tls(*ends)
    yield ends
    for end in ends:
        await end.close()


async def receive(transport):
    """Some bytes."""
    while (data := transport.receive_nowait()) is None:
        await transport.wait_readable()
    return data


async def receive_all(transport, size):
    data = b""
    while len(data) < size:
        more = await receive(transport)
        assert more, "the stream has ended"
        data += more
    assert len(data) == size
    return data


async def send_all(transport, chunks):
    """As the outbox does it."""
    size = sum(map(len, chunks))
    taken = transport.send_nowait(chunks)
    assert 0 <= taken <= size
    chunks = without_first(chunks, taken)
    while chunks:
        size -= taken
        taken = await transport.send(chunks)
        assert 0 < taken <= size
        chunks = without_first(chunks, taken)


# --- any transport ---


async def test_bytes_go_both_ways_and_end(pair):
    here, there = pair
    assert here.address == "here"
    async with trio.open_nursery() as nursery:
        nursery.start_soon(send_all, here, [b"abc"])
        assert await receive_all(there, 3) == b"abc"
    async with trio.open_nursery() as nursery:
        nursery.start_soon(here.send_eof)
        assert await receive(there) == b""
    if isinstance(here, TlsTransport):
        # Only the end of the other side is waited for then.
        async with trio.open_nursery() as nursery:
            nursery.start_soon(there.close)
            while await receive(here):
                pass
        return
    async with trio.open_nursery() as nursery:
        nursery.start_soon(send_all, there, [b"still", b" ", memoryview(b"open")])
        assert await receive_all(here, 10) == b"still open"
    await there.close()
    assert await receive(here) == b""


async def test_as_long_as_there_is_nothing_nothing_is_given(pair):
    here, there = pair
    for _ in range(2):
        assert here.receive_nowait() is None
        assert here.receive_into(memoryview(bytearray(10))) is None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(send_all, there, [b"x"])
        assert await receive(here) == b"x"
    assert here.receive_nowait() is None


async def test_large_amounts_arrive_as_they_were(pair):
    here, there = pair
    async with trio.open_nursery() as nursery:
        nursery.start_soon(send_all, here, [MUCH[:5], MUCH[5:100_000], MUCH[100_000:]])
        assert await receive_all(there, len(MUCH)) == MUCH


async def test_both_directions_at_once(pair):
    here, there = pair
    async with trio.open_nursery() as nursery:
        for one, other in (pair, pair[::-1]):
            nursery.start_soon(send_all, one, [MUCH])

            async def receives(other=other):
                assert await receive_all(other, len(MUCH)) == MUCH

            nursery.start_soon(receives)


@pytest.mark.parametrize("size", [1, 7, 1000, 65_536, 200_000])
async def test_receiving_into_rooms(pair, size):
    here, there = pair
    buffer = bytearray()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(send_all, here, [MUCH[:200_000]])
        while len(buffer) < 200_000:
            room = bytearray(min(size, 200_000 - len(buffer)))
            # Not one byte beyond what it says is there.
            while (filled := there.receive_into(memoryview(room))) is None:
                await there.wait_readable()
            assert 0 < filled <= len(room)
            assert not any(room[filled:])
            buffer += room[:filled]
    assert buffer == MUCH[:200_000]


async def test_the_end_into_a_room(pair):
    here, there = pair
    room = memoryview(bytearray(10))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(here.send_eof)
        while (size := there.receive_into(room)) is None:
            await there.wait_readable()
    assert size == 0


async def test_a_cancelled_wait_loses_nothing(pair):
    here, there = pair
    with trio.CancelScope() as scope:
        scope.cancel()
        await here.wait_readable()
    assert scope.cancelled_caught
    async with trio.open_nursery() as nursery:
        nursery.start_soon(send_all, there, [b"abc"])
        assert await receive_all(here, 3) == b"abc"


async def test_waiting_twice_loses_nothing(pair):
    here, there = pair
    async with trio.open_nursery() as nursery:
        nursery.start_soon(send_all, there, [b"abc"])
        for _ in range(3):
            with trio.testing.assert_checkpoints():
                await here.wait_readable()
        assert await receive_all(here, 3) == b"abc"


@pytest.mark.parametrize("use", ["wait_readable", "send"])
async def test_after_close(pair, use):
    here, _ = pair
    await here.close()
    await here.close()
    with pytest.raises(trio.ClosedResourceError):
        await (here.wait_readable() if use == "wait_readable" else here.send([b"x"]))


async def test_close_is_immediate_when_cancelled(pair):
    here, there = pair
    with trio.CancelScope() as scope:
        scope.cancel()
        await here.close()
    await settle()
    assert await receive(there) == b""


async def test_close_wakes_who_waits_for_bytes(pair):
    here, _ = pair

    async def waits():
        with pytest.raises(trio.ClosedResourceError):
            await here.wait_readable()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(waits)
        await settle()
        await here.close()


# --- which one ---


async def test_a_socket_has_a_form_of_its_own():
    ours, theirs = await socket_streams("unix")
    assert type(transport_of(ours, "")) is SocketTransport
    await ours.aclose()
    await theirs.aclose()


async def test_where_a_socket_is_no_file_it_is_a_stream(monkeypatch):
    monkeypatch.setattr(_transport, "os", types.SimpleNamespace(name="nt"))
    ours, theirs = await socket_streams("tcp")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trpc.serve_stream, Echo(), theirs)
        assert type(transport_of(ours, "")) is StreamTransport
        async with trpc.connect_stream(ours) as client:
            assert await client.proxy(Echo).echo("x") == "x"


@pytest.mark.parametrize("make", [trio.testing.memory_stream_pair, trio.testing.lockstep_stream_pair])
async def test_any_other_stream_is_one(make):
    ours, theirs = make()
    transport = transport_of(ours, "over there")
    assert type(transport) is StreamTransport
    assert transport.address == "over there"
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trpc.serve_stream, Echo(), theirs)
        async with trpc.connect_stream(ours) as client:
            assert await client.proxy(Echo).echo("x") == "x"


# --- over a stream ---


async def test_a_stream_takes_nothing_at_once():
    ours, theirs = trio.testing.memory_stream_pair()
    transport = StreamTransport(ours, "")
    assert transport.send_nowait([b"abc"]) == 0
    assert await transport.send([b"abc", b"def"]) == 6
    assert await theirs.receive_some() == b"abcdef"
    assert await transport.send([memoryview(b"abc")]) == 3
    assert await theirs.receive_some() == b"abc"
    assert transport.unsent() == 0, "it cannot tell"


PIECE = 16 * 1024


@pytest.mark.parametrize(
    ("sizes", "taken"),
    [
        ([PIECE], PIECE),
        ([PIECE + 1], PIECE),
        ([10 * PIECE, 5], PIECE),
        ([5, PIECE - 5], PIECE),
        ([5, PIECE - 5, 1], PIECE),
        ([5, PIECE], 5),
        ([1] * 10, 10),
    ],
)
async def test_a_stream_takes_a_piece_at_a_time_so_that_progress_is_seen(sizes, taken):
    ours, theirs = trio.testing.memory_stream_pair()
    transport = StreamTransport(ours, "")
    chunks = [bytes([number]) * size for number, size in enumerate(sizes)]
    assert await transport.send(chunks) == taken
    assert await theirs.receive_some() == b"".join(chunks)[:taken]
    await send_all(transport, without_first(chunks, taken))
    if taken < sum(sizes):
        assert await theirs.receive_some() == b"".join(chunks)[taken:]


async def test_a_stream_without_half_close():
    ours, theirs = trio.testing.memory_stream_pair()
    with trio.testing.assert_checkpoints():
        assert not await StreamTransport(OneWayEnd(ours), "").send_eof()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trpc.serve_stream, Echo(), OneWayEnd(theirs))
        async with trpc.connect_stream(OneWayEnd(ours)) as client:
            assert await client.proxy(Echo).echo("x") == "x"


async def test_what_does_not_fit_into_a_room_is_given_next():
    ours, theirs = trio.testing.memory_stream_pair()
    transport = StreamTransport(ours, "")
    await theirs.send_all(b"abcdefgh")
    await transport.wait_readable()
    room = bytearray(3)
    assert transport.receive_into(memoryview(room)) == 3
    assert room == b"abc"
    with trio.testing.assert_checkpoints():
        await transport.wait_readable()
    assert transport.receive_into(memoryview(room)[:2]) == 2
    assert room == b"dec"
    assert transport.receive_nowait() == b"fgh"
    assert transport.receive_nowait() is None
    assert transport.receive_into(memoryview(room)) is None


async def test_a_stream_that_breaks():
    ours, theirs = trio.testing.memory_stream_pair()
    transport = StreamTransport(ours, "")
    await theirs.aclose()
    with pytest.raises(trio.BrokenResourceError):
        await transport.send([b"x"])
