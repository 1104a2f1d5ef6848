"""The form of a transport over a socket: real sockets, and what only they can do."""

from __future__ import annotations

import os
import socket
import struct

import pytest
import trio
import trio.testing
from support import settle

from trpc._outgoing import without_first
from trpc._socket_transport import SocketTransport

# More than the kernel holds for a socket.
MUCH = bytes(range(256)) * 40_000
BOTH = ["unix", "tcp"]


class Ends:
    """Both ends of a connection: ours is the transport, theirs a plain socket stream."""

    def __init__(self, ours, theirs):
        self.transport = SocketTransport(ours, "over there")
        self.theirs = theirs

    async def receive(self, size):
        """All that was sent, by the plain means of Trio."""
        data = b""
        while len(data) < size:
            more = await self.theirs.receive_some()
            assert more, "the stream has ended"
            data += more
        return data

    async def fill(self):
        """Writes until the kernel takes no more; gives how much it has."""
        sent = 0
        while taken := self.transport.send_nowait([MUCH]):
            assert taken < len(MUCH)
            sent += taken
        return sent

    async def reset(self):
        """The peer's end is gone, and what was sent to it is thrown away."""
        self.theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        await self.theirs.aclose()
        await trio.lowlevel.wait_readable(self.transport._fd)


async def send_all(transport, chunks):
    """As the outbox does it."""
    while chunks:
        chunks = without_first(chunks, await transport.send(chunks))


async def streams(kind):
    if kind == "unix":
        return [trio.SocketStream(end) for end in trio.socket.socketpair()]
    with trio.socket.socket() as listener:
        await listener.bind(("127.0.0.1", 0))
        listener.listen()
        ours = await trio.open_tcp_stream(*listener.getsockname())
        theirs, _ = await listener.accept()
    return [ours, trio.SocketStream(theirs)]


@pytest.fixture(params=BOTH)
async def ends(request):
    made = Ends(*await streams(request.param))
    yield made
    await made.transport.close()
    await made.theirs.aclose()


@pytest.fixture
async def tcp():
    made = Ends(*await streams("tcp"))
    yield made
    await made.transport.close()
    await made.theirs.aclose()


async def test_where_it_goes_is_said(ends):
    assert ends.transport.address == "over there"


# --- writing ---


@pytest.mark.parametrize(
    "chunks", [[b"abc"], [b"a", b"bc"], [memoryview(b"abc")], [b"", b"abc", b""], (b"ab", memoryview(b"c"))]
)
async def test_a_write_that_fits_is_taken_at_once(ends, chunks):
    assert ends.transport.send_nowait(chunks) == 3
    assert await ends.theirs.receive_some() == b"abc"


@pytest.mark.parametrize("chunks", [[MUCH], [MUCH[:100_000], MUCH[100_000:]]])
async def test_a_large_write_is_taken_in_part(ends, chunks):
    taken = ends.transport.send_nowait(chunks)
    assert 0 < taken < len(MUCH)
    assert await ends.receive(taken) == MUCH[:taken]


async def test_when_nothing_fits_any_more_nothing_is_taken(ends):
    sent = await ends.fill()
    assert ends.transport.send_nowait([b"x"]) == 0
    assert ends.transport.send_nowait([b"x", b"y"]) == 0
    await ends.receive(sent)
    await trio.lowlevel.wait_writable(ends.transport._fd)
    assert ends.transport.send_nowait([b"x"]) == 1


async def test_send_writes_all_that_does_not_fit(ends):
    chunks = [b"head", MUCH, b"", MUCH[:100_000], memoryview(b"tail")]
    whole = b"".join(chunks)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(send_all, ends.transport, chunks)
        assert await ends.receive(len(whole)) == whole


async def test_send_waits_for_some_room_and_says_how_much_it_took(ends):
    before = await ends.fill()
    taken = 0

    async def sends():
        nonlocal taken
        taken = await ends.transport.send([MUCH])

    async with trio.open_nursery() as nursery:
        nursery.start_soon(sends)
        await settle()
        assert taken == 0
        received = await ends.receive(before)
    assert 0 < taken < len(MUCH)
    if len(received) < before + taken:
        received += await ends.receive(before + taken - len(received))
    assert received[before:] == MUCH[:taken]


async def test_what_is_still_here_is_known(ends):
    assert ends.transport.unsent() == 0
    sent = await ends.fill()
    held = ends.transport.unsent()
    assert held > 0
    received = 0
    while received < sent:
        received += len(await ends.theirs.receive_some())
    while ends.transport.unsent():  # until the kernel knows that it has arrived
        await trio.lowlevel.checkpoint()
    await ends.transport.close()
    assert ends.transport.unsent() == 0


async def test_send_waits_for_room_and_does_not_spin(ends):
    await ends.fill()
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ends.transport.send, [b"x"])
            await settle()
            # Nothing runs, or this would not be reached.
            scope.cancel()
    assert scope.cancelled_caught


async def test_a_send_is_a_checkpoint_although_all_fits(ends):
    with trio.testing.assert_checkpoints():
        assert await ends.transport.send([b"abc"]) == 3
    assert await ends.theirs.receive_some() == b"abc"


@pytest.mark.parametrize("number", [1024, 1025, 5000])
async def test_any_number_of_chunks(ends, number):
    chunks = [b"%05d" % i for i in range(number)]
    whole = b"".join(chunks)
    taken = ends.transport.send_nowait(chunks)
    assert 0 < taken <= len(whole)
    assert await ends.receive(taken) == whole[:taken]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(send_all, ends.transport, chunks)
        assert await ends.receive(len(whole)) == whole


# --- reading ---


@pytest.mark.parametrize("reads_much", [False, True])
async def test_all_that_is_there_is_taken_up_to_a_bound(ends, reads_much):
    ends.transport.reads_much = reads_much
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ends.theirs.send_all, MUCH)
        received = b""
        while len(received) < len(MUCH):
            await ends.transport.wait_readable()
            data = ends.transport.receive_nowait()
            assert 0 < len(data) <= (256 if reads_much else 64) * 1024
            received += data
    assert received == MUCH
    assert ends.transport.receive_nowait() is None


async def test_one_call_fills_a_room_over_many_reads(ends, monkeypatch):
    reads = []
    readv = os.readv

    def reads_little(fd, buffers):
        # As if the peer wrote the next piece during each of the reads.
        size = readv(fd, [buffers[0][: 1000 - len(reads)]])
        reads.append(size)
        return size

    monkeypatch.setattr(os, "readv", reads_little)
    await ends.theirs.send_all(MUCH[:10_000])
    await ends.transport.wait_readable()
    room = bytearray(9_000)
    assert ends.transport.receive_into(memoryview(room)) == 9_000
    assert room == MUCH[:9_000]
    assert len(reads) > 5
    assert ends.transport.receive_nowait() == MUCH[9_000:10_000]


async def test_a_room_takes_what_is_there_and_no_more(ends):
    await ends.theirs.send_all(b"abc")
    await ends.transport.wait_readable()
    room = bytearray(5)
    assert ends.transport.receive_into(memoryview(room)) == 3
    assert room == b"abc\0\0"
    assert ends.transport.receive_into(memoryview(room)) is None
    await ends.theirs.send_all(b"defghijk")
    await ends.transport.wait_readable()
    assert ends.transport.receive_into(memoryview(room)) == 5
    assert room == b"defgh"
    assert ends.transport.receive_nowait() == b"ijk"


async def test_the_end_behind_what_a_room_takes(ends):
    await ends.theirs.send_all(b"abc")
    await ends.theirs.send_eof()
    await ends.transport.wait_readable()
    room = bytearray(5)
    received = ends.transport.receive_into(memoryview(room))
    assert (received, room[:3]) == (3, b"abc")
    # The end is given again, as often as somebody asks.
    for _ in range(2):
        await ends.transport.wait_readable()
        assert ends.transport.receive_into(memoryview(room)) == 0
        assert ends.transport.receive_nowait() == b""


async def test_one_waits_and_another_one_reads(ends):
    async def waits():
        await ends.transport.wait_readable()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(waits)
        await settle()
        await ends.theirs.send_all(b"abc")
    # Who waited took nothing of it.
    assert ends.transport.receive_nowait() == b"abc"


# --- the end ---


async def test_after_its_own_end_it_still_reads(ends):
    with trio.testing.assert_checkpoints():
        assert await ends.transport.send_eof()
    assert await ends.theirs.receive_some() == b""
    await ends.theirs.send_all(b"still open")
    await ends.transport.wait_readable()
    assert ends.transport.receive_nowait() == b"still open"
    with pytest.raises(trio.BrokenResourceError):
        ends.transport.send_nowait([b"x"])


async def test_a_peer_that_has_closed(ends):
    await ends.theirs.aclose()
    await ends.transport.wait_readable()
    assert ends.transport.receive_nowait() == b""

    async def writes():
        while True:
            await ends.transport.send([b"x"])
            await trio.lowlevel.checkpoint()

    # TCP says so only when the peer has answered to the first write.
    with pytest.raises(trio.BrokenResourceError) as caught:
        await writes()
    assert isinstance(caught.value.__cause__, OSError)


USES = {
    "receive_nowait": lambda transport: transport.receive_nowait(),
    "receive_into": lambda transport: transport.receive_into(memoryview(bytearray(10))),
    "send_nowait": lambda transport: transport.send_nowait([b"x"]),
    "send_nowait of many": lambda transport: transport.send_nowait([b"x", b"y"]),
}


@pytest.mark.parametrize("use", USES)
async def test_a_connection_that_was_reset_is_broken(tcp, use):
    await tcp.reset()
    with pytest.raises(trio.BrokenResourceError) as caught:
        USES[use](tcp.transport)
    assert isinstance(caught.value.__cause__, OSError)
    assert str(caught.value) == str(caught.value.__cause__)


async def test_a_send_that_waits_when_the_connection_is_reset(tcp):
    await tcp.fill()

    async def sends():
        with pytest.raises(trio.BrokenResourceError):
            await tcp.transport.send([MUCH])

    async with trio.open_nursery() as nursery:
        nursery.start_soon(sends)
        await settle()
        await tcp.reset()


async def test_a_send_that_waits_when_the_peer_closes(ends):
    await ends.fill()

    async def sends():
        with pytest.raises(trio.BrokenResourceError):
            await ends.transport.send([MUCH])

    async with trio.open_nursery() as nursery:
        nursery.start_soon(sends)
        await settle()
        await ends.theirs.aclose()


async def test_the_end_of_a_connection_that_was_reset_cannot_be_sent(tcp):
    await tcp.reset()
    with pytest.raises(trio.BrokenResourceError):
        tcp.transport.receive_nowait()
    with pytest.raises(trio.BrokenResourceError):
        await tcp.transport.send_eof()


# --- this side closes ---


@pytest.mark.parametrize("use", USES)
async def test_a_closed_connection_is_closed(ends, use):
    await ends.transport.close()
    with pytest.raises(trio.ClosedResourceError, match="this side has closed the connection"):
        USES[use](ends.transport)


async def test_the_end_of_a_closed_connection_cannot_be_sent(ends):
    await ends.transport.close()
    with pytest.raises((trio.ClosedResourceError, trio.BrokenResourceError)):
        await ends.transport.send_eof()


async def test_a_closed_transport_touches_no_file_that_has_its_number(ends):
    number = ends.transport._fd
    await ends.transport.close()
    others = [trio.SocketStream(end) for end in trio.socket.socketpair()]
    assert number in {other.socket.fileno() for other in others}
    for other in others:
        await other.send_all(b"not its business")
    for use in USES.values():
        with pytest.raises(trio.ClosedResourceError):
            use(ends.transport)
    with pytest.raises(trio.ClosedResourceError):
        await ends.transport.wait_readable()
    await ends.transport.close()
    for other in others:
        assert await other.receive_some() == b"not its business"
        await other.aclose()


async def test_close_wakes_a_send_that_waits(ends):
    await ends.fill()

    async def sends():
        with pytest.raises(trio.ClosedResourceError):
            await ends.transport.send([MUCH])

    async with trio.open_nursery() as nursery:
        nursery.start_soon(sends)
        await settle()
        await ends.transport.close()


async def test_close_wakes_both_who_read_and_who_write(ends):
    await ends.fill()
    ended = []

    async def waits(function, *args):
        with pytest.raises(trio.ClosedResourceError):
            await function(*args)
        ended.append(function.__name__)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(waits, ends.transport.wait_readable)
        nursery.start_soon(waits, ends.transport.send, [MUCH])
        await settle()
        assert ended == []
        await ends.transport.close()
    assert sorted(ended) == ["send", "wait_readable"]


# --- options ---


async def test_the_kernel_holds_much_that_was_not_sent(tcp):
    if hasattr(socket, "TCP_NOTSENT_LOWAT"):
        held = tcp.transport._stream.getsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT)
        assert held == 256 * 1024


async def test_a_system_without_that_option(monkeypatch):
    monkeypatch.delattr(socket, "TCP_NOTSENT_LOWAT", raising=False)
    ours, theirs = await streams("tcp")
    transport = SocketTransport(ours, "")
    assert transport.send_nowait([b"abc"]) == 3
    assert await theirs.receive_some() == b"abc"
    await transport.close()
    await theirs.aclose()
