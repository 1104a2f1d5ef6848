"""Messages of which a large frame was not kept, as there was no room for it: what becomes of them."""

from __future__ import annotations

import pytest
from support import filled, frames_of

from trpc import Limits, ProtocolError, _frames
from trpc._codec import UNREADABLE
from trpc._frames import CONTINUED, MORE, NO_ROOM, PREAMBLE, Frame, FrameReader, encode_frame
from trpc._messages import Kind
from trpc._protocol import Protocol
from trpc._share import Share

FIRST, MIDDLE, LAST = MORE, MORE | CONTINUED, CONTINUED
LARGE = bytes(200)


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """So that it takes little to be large."""
    monkeypatch.setattr(_frames, "_COPIED", 50)


class Side:
    """A protocol whose peer has said hello, and that has room for small frames only."""

    def __init__(self):
        limits = Limits(max_message_size=20_000, max_calls=10)
        self.share = Share(limits)
        self.share._size = 100
        self.protocol = Protocol(limits, self.share)
        self.protocol.receive(Protocol(limits).opening())

    def receive(self, kind, call_id, body, flags=0, stream=0):
        """What comes of a frame, in pieces."""
        data = encode_frame(kind, call_id, body, flags, stream)
        frames, error = frames_of(self.protocol, [data[i : i + 20] for i in range(0, len(data), 20)], filled)
        if error is not None:
            raise error
        assert len(frames) <= 1
        assert not self.protocol.frames.inside_frame
        return frames[0]._replace(body=bytes(frames[0].body)) if frames else None

    def call(self):
        call_id, _ = self.protocol.request(b"")
        return call_id


@pytest.fixture
def side():
    return Side()


# --- requests: answered, and the rest is ignored ---


@pytest.mark.parametrize("kind", [Kind.REQUEST, Kind.NOTIFY])
def test_a_whole_request(side, kind):
    assert side.receive(kind, 1, LARGE) == Frame(kind, 1, b"", MORE)
    assert side.protocol.is_open(1) is (kind == Kind.REQUEST)
    assert side.receive(Kind.REQUEST, 2, b"x") == Frame(Kind.REQUEST, 2, b"x")
    with pytest.raises(ProtocolError, match="ids must increase"):
        side.receive(kind, 1, LARGE)


@pytest.mark.parametrize("kind", [Kind.REQUEST, Kind.NOTIFY])
def test_the_first_fragment_of_a_request(side, kind):
    assert side.receive(kind, 1, LARGE, FIRST) == Frame(kind, 1, b"", MORE)
    for flags in (MIDDLE, LAST):
        assert side.receive(kind, 1, b"rest", flags) is None
        assert side.receive(kind, 1, LARGE, flags) is None
    assert side.share.taken == 0
    with pytest.raises(ProtocolError, match="ids must increase"):
        side.receive(kind, 1, LARGE, FIRST)


@pytest.mark.parametrize("kind", [Kind.REQUEST, Kind.NOTIFY])
@pytest.mark.parametrize("flags", [MIDDLE, LAST])
def test_a_later_fragment_of_a_request(side, kind, flags):
    assert side.receive(kind, 1, b"x" * 40, FIRST) is None
    assert side.share.taken == 40
    assert side.receive(kind, 1, LARGE, flags) == Frame(kind, 1, b"", MORE)
    assert side.share.taken == 0
    assert not side.protocol.fragments.requests
    assert side.receive(kind, 1, b"rest", LAST) is None


# --- replies and items: they cannot be read ---


@pytest.mark.parametrize("kind", [Kind.RESULT, Kind.ERROR])
def test_a_whole_reply(side, kind):
    call_id = side.call()
    assert side.receive(kind, call_id, LARGE) == Frame(kind, call_id, UNREADABLE)
    assert not side.protocol.is_awaited(call_id)
    with pytest.raises(ProtocolError, match="which is not open"):
        side.receive(kind, call_id, LARGE)


@pytest.mark.parametrize("kind", [Kind.RESULT, Kind.ERROR])
@pytest.mark.parametrize("flags", [FIRST, MIDDLE, LAST])
def test_a_fragment_of_a_reply(side, kind, flags):
    call_id = side.call()
    if flags != FIRST:
        assert side.receive(kind, call_id, b"x", FIRST) is None
    assert side.receive(kind, call_id, LARGE, flags) == Frame(kind, call_id, UNREADABLE)
    assert not side.protocol.is_awaited(call_id)
    assert side.receive(kind, call_id, b"rest", LAST) is None
    assert side.receive(kind, call_id, LARGE, LAST) is None


def test_items_of_a_result(side):
    call_id = side.call()
    assert side.receive(Kind.RESULT_ITEMS, call_id, LARGE) == Frame(Kind.RESULT_ITEMS, call_id, UNREADABLE)
    assert side.protocol.is_awaited(call_id)
    assert side.receive(Kind.RESULT, call_id, b"\xc0") == Frame(Kind.RESULT, call_id, b"\xc0")


def test_items_of_an_argument(side):
    side.receive(Kind.REQUEST, 1, b"x")
    items = Frame(Kind.ARGUMENT_ITEMS, 1, UNREADABLE, 0, 1)
    assert side.receive(Kind.ARGUMENT_ITEMS, 1, LARGE, stream=1) == items
    side.protocol.reply(Kind.RESULT, 1)
    assert side.receive(Kind.ARGUMENT_ITEMS, 1, LARGE, stream=1) is None, "nobody wants them"
    assert side.receive(Kind.ARGUMENT_ITEMS, 1, LARGE, FIRST, 1) is None


# --- what must not be, must not be without its body either ---


@pytest.mark.parametrize("flags", [FIRST, MIDDLE, LAST, 0x04, 0x80])
def test_a_kind_without_fragments(side, flags):
    with pytest.raises(ProtocolError, match="flags"):
        side.receive(Kind.GOAWAY, 0, LARGE, flags)


def test_flags_that_are_not_known(side):
    with pytest.raises(ProtocolError, match="flags 0x04"):
        side.receive(Kind.REQUEST, 1, LARGE, 0x04)


def test_a_reply_to_nothing(side):
    with pytest.raises(ProtocolError, match="which is not open"):
        side.receive(Kind.RESULT, 1, LARGE)


def test_what_may_be_ignored_is(side):
    assert side.receive(0xC1, 1, LARGE, 0x84, 7) is None


# --- the reader of frames ---


class NoRoom:
    def take(self, _):
        return False

    def give_back(self, _):
        raise AssertionError("none was taken")


def test_what_is_behind_a_skipped_frame_may_come_with_its_last_bytes():
    reader = FrameReader(max_body=1000, share=NoRoom())
    data = encode_frame(Kind.REQUEST, 1, LARGE)
    assert reader.feed(PREAMBLE + data[:20]) == []
    with reader.room() as room:
        room[:10] = data[20:30]
    assert reader.fill(10) == []
    assert reader.inside_frame
    # By feed(), as somebody does who does not ask for the room.
    behind = encode_frame(Kind.PING, 7)
    frames = reader.feed(data[30:] + behind + behind[:5])
    assert frames == [Frame(Kind.REQUEST, 1, b"", NO_ROOM), Frame(Kind.PING, 7, b"")]
    assert reader.feed(behind[5:]) == [Frame(Kind.PING, 7, b"")]


def test_a_fault_behind_a_skipped_frame_does_not_hide_it():
    reader = FrameReader(max_body=1000, share=NoRoom())
    data = encode_frame(Kind.REQUEST, 1, LARGE)
    reader.feed(PREAMBLE + data[:20])
    reader.room().release()
    assert reader.feed(data[20:] + bytes(4)) == [Frame(Kind.REQUEST, 1, b"", NO_ROOM)]
    assert reader.error is not None
    with pytest.raises(ProtocolError, match="a frame of length 0"):
        reader.feed(b"")


def test_the_room_of_a_skipped_frame_is_shared_and_no_larger_than_what_is_missing():
    reader = FrameReader(max_body=10**9, share=NoRoom())
    reader.feed(PREAMBLE + encode_frame(Kind.REQUEST, 1, bytes(70_000))[:20])
    for size in (65_536, 69_996 - 65_536):
        with reader.room() as room:
            assert len(room) == size
            assert room.obj is _frames._SCRATCH
        frames = reader.fill(size)
    assert [frame.flags for frame in frames] == [NO_ROOM]


@pytest.mark.parametrize("first", range(4, 20))
@pytest.mark.parametrize("has_room", [True, False])
def test_a_header_in_two_parts(first, has_room):
    """What the frame is, is known only with all of it: nothing is put aside before."""
    side = Side()
    side.share._size = 1000 if has_room else 100
    data = encode_frame(Kind.REQUEST, 1, LARGE) + encode_frame(Kind.REQUEST, 2, b"small")
    pieces = [data[:first], *(data[i : i + 7] for i in range(first, len(data), 7))]
    frames, error = frames_of(side.protocol, pieces, filled)
    assert error is None
    assert [(frame.id, bytes(frame.body)) for frame in frames] == [(1, LARGE if has_room else b""), (2, b"small")]
    assert side.share.taken == 0
