"""Large frames for which there is no room: the same comes of them however the bytes are cut."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings
from support import filled, frames_of

from trpc import Limits, _frames
from trpc._frames import CONTINUED, MORE, NO_ROOM, PREAMBLE, Frame, FrameReader, encode_frame
from trpc._messages import Kind
from trpc._protocol import Protocol
from trpc._share import Share

# So that it takes little to be large.
COPIED = 64
PIECE = 16


@pytest.fixture(autouse=True, scope="module")
def small():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_frames, "_COPIED", COPIED)
        yield


class Rooms:
    """Room for so many bytes at once."""

    def __init__(self, size):
        self.size = size
        self.taken = 0

    def take(self, size):
        if self.taken + size > self.size:
            return False
        self.taken += size
        return True

    def give_back(self, size):
        self.taken -= size
        assert self.taken >= 0


# Small ones, and such as are large in whatever pieces they come.
sizes = st.one_of(st.integers(0, COPIED - PIECE), st.integers(2 * COPIED, 500))
frames = st.builds(
    lambda kind, call_id, size, flags, stream: Frame(kind, call_id, bytes([size % 256]) * size, flags, stream),
    st.sampled_from([Kind.REQUEST, Kind.RESULT, 0xC1]),
    st.integers(0, 9),
    sizes,
    st.sampled_from([0, MORE, CONTINUED, MORE | CONTINUED]),
    st.integers(0, 2),
)
faults = st.sampled_from([b"", b"", b"\0\0\0\x0b", b"\xff\xff\xff\xff"])


@st.composite
def cuts(draw, data):
    pieces = []
    while data:
        size = draw(st.integers(1, PIECE))
        pieces.append(data[:size])
        data = data[size:]
    return pieces


def bytes_of(given_frames):
    return b"".join(encode_frame(f.kind, f.id, f.body, f.flags, f.stream) for f in given_frames)


def plain(frame):
    return frame._replace(body=bytes(frame.body))


@settings(deadline=None)
@given(st.data(), st.lists(frames, max_size=8), faults, st.integers(0, 600))
def test_a_frame_is_skipped_by_its_size_and_not_by_how_it_was_cut(data, given_frames, fault, room):
    rooms = Rooms(room)
    reader = FrameReader(max_body=1000, share=rooms)
    pieces = data.draw(cuts(bytes_of(given_frames) + fault))
    seen, error = frames_of(reader, [PREAMBLE, *pieces], filled)
    expected = [
        f if len(f.body) <= COPIED or len(f.body) <= room else f._replace(body=b"", flags=f.flags | NO_ROOM)
        for f in given_frames
    ]
    assert [plain(frame) for frame in seen] == expected
    assert (error is not None) is (len(fault) > 0)
    assert rooms.taken == 0
    assert not reader.inside_frame or fault


@settings(deadline=None)
@given(st.data(), st.lists(frames, min_size=1, max_size=8), st.integers(0, 600))
def test_what_comes_whole_needs_no_room(data, given_frames, room):
    rooms = Rooms(room)
    reader = FrameReader(max_body=1000, share=rooms)
    reader.feed(PREAMBLE)
    cut = data.draw(st.integers(0, len(given_frames)))
    # Behind one that was skipped, everything is as before.
    whole = bytes_of(given_frames[:cut]), bytes_of(given_frames[cut:])
    assert [plain(f) for part in whole for f in reader.feed(part)] == given_frames
    assert rooms.taken == 0


requests = st.lists(st.tuples(st.sampled_from([Kind.REQUEST, Kind.NOTIFY]), sizes, st.booleans()), max_size=6)


@settings(deadline=None)
@given(st.data(), requests)
def test_the_protocol_gives_the_same_however_it_was_cut(data, made):
    """Requests, whole and in two fragments, without any room for large ones."""
    sent = b""
    expected = []
    for call_id, (kind, size, in_fragments) in enumerate(made, 1):
        is_large = size > COPIED
        if in_fragments:
            sent += encode_frame(kind, call_id, bytes(size + 1), MORE) + encode_frame(kind, call_id, b"x", CONTINUED)
            expected.append((kind, call_id, MORE, b"") if is_large else (kind, call_id, 0, bytes(size + 1) + b"x"))
        else:
            sent += encode_frame(kind, call_id, bytes(size))
            expected.append((kind, call_id, MORE, b"") if is_large else (kind, call_id, 0, bytes(size)))
    limits = Limits(max_message_size=1000, max_bytes_in_flight=2000, max_calls=10)
    share = Share(limits)
    share._size = COPIED * 10
    share.add(share._size - COPIED)
    protocol = Protocol(limits, share)
    seen, error = frames_of(protocol, [Protocol(limits).opening()])
    seen, error = frames_of(protocol, data.draw(cuts(sent)), filled)
    assert error is None
    assert [(f.kind, f.id, f.flags, bytes(f.body)) for f in seen] == expected
    assert share.taken == share._size - COPIED
    assert not protocol.fragments.requests
