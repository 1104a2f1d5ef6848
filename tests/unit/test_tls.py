"""TLS over transports that do what the test says; what every transport does is in test_transport.py."""

from __future__ import annotations

import ssl

import pytest
import trio
import trio.testing
from certificates import client_context, server_context
from support import settle

from trpc import _tls
from trpc._frames import PREAMBLE
from trpc._handshakes import Handshakes, start_tls
from trpc._socket_transport import SocketTransport
from trpc._tls import TlsTransport, reason_of
from trpc._transport import StreamTransport


class Wire(SocketTransport):
    """One end of a connection in memory that takes so many bytes at once. It is taken for a socket."""

    __slots__ = ("closed", "ended", "error", "other", "read_size", "received", "takes")

    def __init__(self):
        self.address = "wire"
        self.reads_much = False
        self.received = bytearray()
        self.takes = 1 << 30
        self.read_size = 1 << 30
        self.ended = self.closed = False
        self.error = None

    def receive_nowait(self):
        if self.error is not None:
            raise self.error
        data, self.received = bytes(self.received[: self.read_size]), self.received[self.read_size :]
        return data or (b"" if self.other.ended else None)

    async def wait_readable(self):
        await trio.lowlevel.checkpoint()

    def send_nowait(self, chunks):
        if self.error is not None:
            raise self.error
        data = b"".join(chunks)[: self.takes]
        self.takes -= len(data)
        self.other.received += data
        return len(data)

    async def send(self, chunks):
        while not (taken := self.send_nowait(chunks)):
            await trio.lowlevel.checkpoint()
        return taken

    def unsent(self):
        return 0

    async def send_eof(self):
        await trio.lowlevel.checkpoint()
        self.ended = True
        return True

    async def close(self):
        await trio.lowlevel.cancel_shielded_checkpoint()
        self.ended = self.closed = True


def wires():
    one, two = Wire(), Wire()
    one.other, two.other = two, one
    return one, two


async def pair(*, version=None):
    """Two ends that have shaken hands, and their wires."""
    one, two = wires()
    context = client_context()
    if version is not None:
        context.maximum_version = version
    here = TlsTransport(one, context, server_hostname="localhost")
    there = TlsTransport(two, server_context(), server_side=True)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(here.handshake)
        nursery.start_soon(there.handshake)
    for end in (there, here):
        assert end.receive_nowait() is None
    return here, there, one, two


def receive_all(transport):
    data = b""
    while part := transport.receive_nowait():
        data += part
    return data


@pytest.mark.parametrize("version", [None, ssl.TLSVersion.TLSv1_2])
async def test_a_write_at_once_is_one(version):
    here, there, one, _ = await pair(version=version)
    assert here.send_nowait([b"abc", b"def"]) == 6
    assert receive_all(there) == b"abcdef"
    assert there.send_nowait([b"x"]) == 1
    assert receive_all(here) == b"x"
    assert here.unsent() == 0


@pytest.mark.parametrize("size", [2, 100, 30_000, 65_536])
@pytest.mark.parametrize("takes", [0, 1, 20])
async def test_a_write_that_is_not_taken_whole(size, takes):
    here, there, one, _ = await pair()
    data = bytes(range(256)) * (size // 256 + 1)
    data = data[:size]
    one.takes = takes
    taken = here.send_nowait([data])
    # One byte is left to be waited for, although it is encrypted.
    assert taken == size - 1
    assert here.unsent() > 0
    assert here.send_nowait([data[taken:]]) == 0
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def send():
            assert await here.send([data[taken:]]) == 1
            assert await here.send([b"next"]) == 4

        await settle_a_little()
        one.takes = 1 << 30
    assert receive_all(there) == data + b"next"


async def settle_a_little():
    for _ in range(5):
        await trio.lowlevel.checkpoint()


async def test_the_byte_that_is_ahead_may_be_told_at_once():
    here, there, one, _ = await pair()
    one.takes = 0
    assert here.send_nowait([b"abc"]) == 2
    one.takes = 1 << 30
    assert here.send_nowait([b"c"]) == 1
    assert here.send_nowait([b"d"]) == 1
    assert receive_all(there) == b"abcd"


async def test_an_error_of_a_write_at_once():
    here, _, one, _ = await pair()
    one.error = trio.BrokenResourceError("gone")
    with pytest.raises(trio.BrokenResourceError, match="gone"):
        here.send_nowait([b"abc"])
    with pytest.raises(trio.BrokenResourceError, match="gone"):
        await here.send([b"abc"])
    await here.close()
    assert one.closed


async def test_after_a_write_that_was_cut_no_end_is_said():
    here, there, one, two = await pair()
    one.takes = 10
    with trio.move_on_after(0.01):
        await here.send([b"abc"])
    one.takes = 1 << 30
    size = len(two.received)
    await here.close()
    assert len(two.received) == size == 10
    assert there.receive_nowait() is None
    with pytest.raises(trio.BrokenResourceError, match="cut off"):
        there.receive_nowait()
    with pytest.raises(trio.BrokenResourceError, match="cut off"):
        there.receive_into(memoryview(bytearray(10)))


async def test_what_was_received_goes_before_the_error_behind_it():
    for into in (False, True):
        here, there, one, two = await pair()
        here.send_nowait([b"abc"])
        one.ended = True
        room = bytearray(10)
        if into:
            assert there.receive_into(memoryview(room)) == 3
        else:
            assert there.receive_nowait() == b"abc"
        await there.wait_readable()
        with pytest.raises(trio.BrokenResourceError, match="cut off"):
            there.receive_nowait()


async def test_the_end_goes_behind_what_was_received():
    for into in (False, True):
        here, there, *_ = await pair()
        here.send_nowait([b"abc"])
        await here.close()
        room = bytearray(10)
        if into:
            assert there.receive_into(memoryview(room)) == 3
            assert there.receive_into(memoryview(room)) == 0
        else:
            assert there.receive_nowait() == b"abc"
            await there.wait_readable()
        assert there.receive_nowait() == b""


async def test_large_reads_go_on_until_nothing_is_left():
    here, there, _, two = await pair()
    for _ in range(4):
        assert here.send_nowait([bytes(65_536)]) == 65_536
    two.read_size = 100_000
    there.reads_much = True
    assert len(there.receive_nowait()) > 200_000
    assert two.reads_much
    assert there.receive_nowait() is None
    for _ in range(16):
        here.send_nowait([bytes(65_536)])
    # And leave the event loop to others.
    assert len(there.receive_nowait()) == 32 * 16_384
    assert len(receive_all(there)) == 32 * 16_384


async def test_an_error_of_the_wire_behind_what_was_received(monkeypatch):
    here, there, _, two = await pair()
    for _ in range(2):
        here.send_nowait([bytes(65_536)])
    two.read_size = 70_000
    fill = there._fill

    def fill_once():
        size = fill()
        two.error = trio.BrokenResourceError("reset")
        return size

    monkeypatch.setattr(TlsTransport, "_fill", lambda _: fill_once())
    assert 65_536 <= len(there.receive_nowait()) < 2 * 65_536
    monkeypatch.undo()
    with pytest.raises(trio.BrokenResourceError, match="reset"):
        there._has_more = False
        there.receive_nowait()


async def test_what_is_read_may_be_answered():
    """As a request for new keys is, or a mistake of the peer's: with an alert."""
    for can_send in (True, False):
        here, there, one, two = await pair()
        if not can_send:
            two.error = None
        two.received += b"\x17\x03\x03\x00\x20" + bytes(32)
        two.takes = 1 << 30 if can_send else 0
        with pytest.raises(trio.BrokenResourceError):
            there.receive_nowait()
        there._respond()
        if can_send:
            with pytest.raises(trio.BrokenResourceError, match="alert 'bad record mac'"):
                receive_all(here)
            with pytest.raises(trio.BrokenResourceError):
                await here.send([b"x"])
        else:
            assert there.unsent() > 0


async def test_an_answer_behind_a_write_that_waits():
    here, there, one, two = await pair()
    two.takes = 5
    async with trio.open_nursery() as nursery:
        nursery.start_soon(there.send, [b"abc"])
        await settle_a_little()
        there._outgoing.write(b"answer")
        there._respond()
        two.takes = 1 << 30
    assert b"answer" in one.received


async def test_after_the_end_nothing_is_sent():
    here, there, *_ = await pair()
    await here.send_eof()
    await here.send_eof()
    for send in (here.send, here.send_nowait):
        with pytest.raises(trio.ClosedResourceError):
            result = send([b"x"])
            await result
    assert receive_all(there) == b""


async def test_the_end_waits_for_room_but_not_for_long(monkeypatch):
    monkeypatch.setattr(_tls, "_END_TIME", 0.01)
    here, there, one, _ = await pair()
    one.takes = 3
    await here.close()
    assert one.closed


# --- handshakes ---


async def test_the_alert_of_a_handshake_that_fails_waits_for_nobody(monkeypatch):
    monkeypatch.setattr(_tls, "_END_TIME", 0.01)
    one, two = wires()
    two.received += b"GET / HTTP/1.1\r\n\r\n"
    two.takes = 0
    with pytest.raises(ssl.SSLError):
        await TlsTransport(two, server_context(), server_side=True).handshake()


async def test_lingering_ends(monkeypatch):
    monkeypatch.setattr(_tls, "_END_TIME", 0.01)
    one, two = wires()
    transport = TlsTransport(two, server_context(), server_side=True)
    await transport.linger()
    one.ended = True
    await transport.linger()
    ours, _ = trio.testing.memory_stream_pair()
    # A stream that cannot end one direction alone is just closed.
    only = StreamTransport(ours.send_stream, "")
    await TlsTransport(only, server_context(), server_side=True).linger()


async def test_a_wake_up_for_nothing():
    one, two = wires()
    transport = TlsTransport(two, server_context(), server_side=True)
    transport._receive_greeting()
    assert not transport.began_as_trpc
    two.received += PREAMBLE
    transport._receive_greeting()
    assert transport.began_as_trpc


async def test_the_connection_breaks_in_the_handshake(caplog):
    caplog.set_level("INFO", "trpc")
    one, two = wires()
    one.error = two.error = trio.BrokenResourceError("reset by peer")
    with pytest.raises(OSError, match="cannot connect to x: the connection broke in the TLS handshake: reset by peer"):
        await start_tls(one, client_context(), "localhost", where="x", within=1)
    assert one.closed
    assert await Handshakes(server_context(), 1, lambda: None).accept(two) is None
    assert two.closed
    assert "reset by peer" in caplog.text


@pytest.mark.parametrize("name", [".x", "a..b", "x" * 300])
async def test_what_is_no_name_of_a_host(name):
    one, _ = wires()
    with pytest.raises(ValueError, match=f"'{name}' is not the name of a host") as caught:
        await start_tls(one, client_context(), name, where="x", within=1)
    assert type(caught.value) is ValueError
    assert one.closed


async def test_handshakes_that_are_to_end(autojump_clock, caplog):
    caplog.set_level("INFO", "trpc")
    ended = []
    handshakes = Handshakes(server_context(), 10, lambda: ended.append(trio.current_time()))
    start = trio.current_time()
    async with trio.open_nursery() as nursery:
        keep = []
        for _ in range(3):
            ours, theirs = trio.testing.memory_stream_pair()
            keep.append(ours)
            nursery.start_soon(handshakes.accept, StreamTransport(theirs, "there"))
        await settle()
        assert len(handshakes) == 3
        handshakes.end(within=2)
        ours, theirs = trio.testing.memory_stream_pair()
        keep.append(ours)
        nursery.start_soon(handshakes.accept, StreamTransport(theirs, "there"))
    assert [time - start for time in ended] == [2.0] * 4
    assert len(handshakes) == 0
    assert caplog.text.count("not done in time") == 4


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ssl.SSLZeroReturnError(), "the peer has ended TLS"),
        (ssl.SSLError(1, "odd"), "odd"),
    ],
)
def test_reasons(error, text):
    assert text in reason_of(error)
