"""Framing: the preamble, the length prefix and the header."""

import re
import struct

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings
from support import joined

from trpc import ProtocolError
from trpc._frames import (
    CONTINUED,
    HEADER_SIZE,
    MAGIC,
    MORE,
    PREAMBLE,
    VERSION,
    Cutter,
    Frame,
    FrameReader,
    encode_frame,
    frame_of,
    size_of,
)


def reader(max_body=1000, *, preamble=True):
    frames = FrameReader(max_body=max_body)
    if preamble:
        assert list(frames.feed(PREAMBLE)) == []
    return frames


def header(length, kind=1, flags=0, stream=0, call_id=0):
    return struct.pack(">IBBHQ", length, kind, flags, stream, call_id)


def test_layout_of_the_preamble():
    assert PREAMBLE == b"\x93trpc\r\n\x01"
    assert MAGIC + bytes([VERSION]) == PREAMBLE


def test_layout_of_a_frame():
    encoded = encode_frame(0x10, 0x0102030405060708, b"body", flags=0x0A, stream=0x0B0C)
    assert encoded == bytes.fromhex("00000010 10 0a 0b0c 0102030405060708") + b"body"
    assert HEADER_SIZE == 12


def test_fields_survive_the_round_trip():
    frame = Frame(kind=255, id=2**64 - 1, body=b"\x00\xff", flags=255, stream=65535)
    encoded = encode_frame(frame.kind, frame.id, frame.body, frame.flags, frame.stream)
    assert list(reader().feed(encoded)) == [frame]


def test_bodies_are_bytes_even_if_the_input_is_a_bytearray():
    (frame,) = reader().feed(bytearray(encode_frame(1, 2, b"x")))
    assert type(frame.body) is bytes


def test_frames_and_preamble_in_one_piece():
    data = PREAMBLE + encode_frame(1, 0, b"a") + encode_frame(2, 7) + encode_frame(3, 8, b"ccc")
    assert list(reader(preamble=False).feed(data)) == [Frame(1, 0, b"a"), Frame(2, 7, b""), Frame(3, 8, b"ccc")]


def test_byte_by_byte_gives_each_frame_with_its_last_byte():
    frames = reader(preamble=False)
    data = PREAMBLE + encode_frame(1, 0, b"a") + encode_frame(2, 7)
    seen = [(i, frame) for i in range(len(data)) for frame in frames.feed(data[i : i + 1])]
    first = len(PREAMBLE) + 4 + HEADER_SIZE + 1
    assert seen == [(first - 1, Frame(1, 0, b"a")), (len(data) - 1, Frame(2, 7, b""))]


def test_empty_input_changes_nothing():
    frames = reader(preamble=False)
    for data in (b"", PREAMBLE, b"", encode_frame(1, 1, b"z")[:5], b"", encode_frame(1, 1, b"z")[5:-1], b""):
        assert list(frames.feed(data)) == []
    assert list(frames.feed(b"z")) == [Frame(1, 1, b"z")]


def test_the_longest_body_is_accepted_and_one_more_byte_is_not():
    assert list(reader(max_body=3).feed(encode_frame(1, 1, b"abc"))) == [Frame(1, 1, b"abc")]
    with pytest.raises(ProtocolError, match=r"length 16; the longest accepted here is 15"):
        list(reader(max_body=3).feed(encode_frame(1, 1, b"abcd")))


@pytest.mark.parametrize("length", [0, 1, HEADER_SIZE - 1])
def test_a_length_below_the_header_is_refused(length):
    with pytest.raises(ProtocolError, match=f"a frame of length {length}; the shortest is 12"):
        list(reader().feed(struct.pack(">I", length)))


@pytest.mark.parametrize("length", [HEADER_SIZE + 1001, 2**31, 2**32 - 1])
def test_a_length_over_the_limit_is_refused_on_its_four_bytes(length):
    frames = reader(max_body=1000)
    assert list(frames.feed(struct.pack(">I", length)[:3])) == []
    with pytest.raises(ProtocolError, match=f"a frame of length {length}; the longest"):
        list(frames.feed(struct.pack(">I", length)[3:]))


def test_the_shortest_frame_has_no_body():
    assert list(reader().feed(header(HEADER_SIZE, kind=3, call_id=5))) == [Frame(3, 5, b"")]


def test_frames_before_a_faulty_one_are_given_first():
    frames = reader()
    assert frames.feed(encode_frame(1, 1) + encode_frame(2, 2, b"x") + b"\0\0\0\0") == [
        Frame(1, 1, b""),
        Frame(2, 2, b"x"),
    ]
    assert re.search("a frame of length 0; the shortest is 12", str(frames.error))


@pytest.mark.parametrize("before", [b"", encode_frame(1, 1)])
@pytest.mark.parametrize("faulty", [b"\0\0\0\0", struct.pack(">I", 2**31), b"\0\0\0\0" + encode_frame(1, 2)])
def test_nothing_is_read_after_an_error(before, faulty):
    frames = reader()
    if before:
        assert frames.feed(before + faulty) == [Frame(1, 1, b"")]
    else:
        with pytest.raises(ProtocolError, match="a frame of length"):
            frames.feed(faulty)
    error = frames.error
    for data in (encode_frame(1, 2), b"", b"x"):
        with pytest.raises(ProtocolError) as caught:
            frames.feed(data)
        assert caught.value is frames.error is error


def test_a_wrong_preamble_is_remembered():
    frames = reader(preamble=False)
    with pytest.raises(ProtocolError):
        frames.feed(b"GET / HTTP/1.1")
    with pytest.raises(ProtocolError, match="HTTP"):
        frames.feed(PREAMBLE + encode_frame(1, 1))


def test_without_an_error_there_is_none():
    frames = reader()
    frames.feed(encode_frame(1, 1) + b"\0\0")
    assert frames.error is None


# --- one at a time ---


def test_the_limit_may_be_changed_between_the_frames_of_one_piece():
    frames = reader(max_body=1)
    assert frames.feed(encode_frame(1, 0, b"a") + encode_frame(2, 0, b"long body"), only_one=True) == [
        Frame(1, 0, b"a")
    ]
    frames.max_body = 100
    assert frames.feed(b"") == [Frame(2, 0, b"long body")]


def test_the_rest_is_looked_at_only_when_it_is_asked_for():
    frames = reader(max_body=1)
    assert frames.feed(encode_frame(1, 0, b"a") + encode_frame(2, 0, b"too long"), only_one=True) == [Frame(1, 0, b"a")]
    assert frames.error is None
    assert frames.inside_frame
    with pytest.raises(ProtocolError, match="the longest accepted here is 13"):
        frames.feed(b"", only_one=True)


def test_one_at_a_time_gives_all_in_their_order():
    data = b"".join(encode_frame(1, i, b"x" * i) for i in range(5))
    frames = reader()
    seen = [frames.feed(data, only_one=True), *(frames.feed(b"", only_one=True) for _ in range(5))]
    assert seen == [*([Frame(1, i, b"x" * i)] for i in range(5)), []]


@pytest.mark.parametrize("cut", range(len(encode_frame(1, 1, b"ab"))))
def test_one_at_a_time_a_frame_may_come_in_pieces(cut):
    data = encode_frame(1, 1, b"ab") + encode_frame(2, 2)
    frames = reader()
    assert frames.feed(data[:cut], only_one=True) == []
    assert frames.feed(data[cut:], only_one=True) == [Frame(1, 1, b"ab")]
    assert frames.feed(b"", only_one=True) == [Frame(2, 2, b"")]


def test_one_at_a_time_a_length_over_the_limit_is_refused_on_its_four_bytes():
    with pytest.raises(ProtocolError, match="the longest"):
        reader(max_body=1).feed(struct.pack(">I", 100), only_one=True)


# --- large frames ---

LARGE = 64 * 1024


def test_how_much_is_missing_is_known_from_the_length_on():
    frames = reader()
    data = encode_frame(1, 1, b"abc")
    assert frames.missing == 0
    for position in range(len(data) - 1):
        frames.feed(data[position : position + 1])
        assert frames.missing == (0 if position < 3 else len(data) - position - 1)
    frames.feed(data[-1:])
    assert frames.missing == 0


@pytest.mark.parametrize("size", [LARGE - HEADER_SIZE, LARGE - HEADER_SIZE + 1, LARGE, LARGE + 1, 3 * LARGE])
@pytest.mark.parametrize("make", [bytes, bytearray])
def test_a_large_body_comes_out_as_it_went_in(size, make):
    body = bytes(i % 251 for i in range(size))
    data = make(encode_frame(1, 1, body) + encode_frame(2, 2, b"next"))
    whole = reader(max_body=size).feed(data)
    assert whole == [Frame(1, 1, body), Frame(2, 2, b"next")]
    assert type(whole[1].body) is bytes


def test_large_bodies_are_not_changed_by_what_comes_later():
    frames = reader(max_body=2 * LARGE)
    bodies = [bytes([i]) * 2 * LARGE for i in range(3)]
    seen = []
    for body in bodies:
        data = encode_frame(1, 1, body)
        seen += frames.feed(data[:1000])
        seen += frames.feed(data[1000:-1000])
        seen += frames.feed(bytearray(data[-1000:]) + encode_frame(2, 2)[:-1])
        seen += frames.feed(encode_frame(2, 2)[-1:])
    assert [frame.body for frame in seen if frame.kind == 1] == bodies


def fill(frames, data):
    """Puts as much of the data as there is room for into it; gives what came out, and how much there was room for."""
    with frames.room() as room:
        size = min(len(room), len(data))
        room[:size] = data[:size]
    return frames.fill(size), size


def test_there_is_room_for_a_large_frame_only():
    frames = reader(max_body=10 * LARGE)
    assert frames.room() is None, "nothing has begun"
    frames.feed(encode_frame(1, 1, b"abc")[:-1])
    assert frames.room() is None, "the frame is small"
    assert frames.feed(b"c") == [Frame(1, 1, b"abc")]
    frames.feed(header(HEADER_SIZE + 2 * LARGE)[:3])
    assert frames.room() is None, "the length is not known"
    frames.feed(header(HEADER_SIZE + 2 * LARGE)[3:])
    assert frames.room() is not None
    frames.feed(bytes(LARGE - 1))
    assert frames.missing == LARGE + 1
    assert frames.room() is not None
    frames.feed(b"x")
    assert frames.room() is None, "the rest is small"


def test_a_large_frame_is_read_into_its_room():
    body = bytes(i % 251 for i in range(10 * LARGE))
    data = encode_frame(1, 1, body)
    frames = reader(max_body=len(body))
    assert frames.feed(data[:100]) == []
    position = 100
    while frames.room() is not None:
        seen, size = fill(frames, data[position:])
        assert size > 0
        position += size
        assert frames.missing == len(data) - position
        assert frames.inside_frame is bool(frames.missing)
    if position < len(data):
        assert not seen
        seen = frames.feed(data[position:])
    assert seen == [Frame(1, 1, body)]
    assert not frames.inside_frame


def test_the_room_is_never_larger_than_the_frame():
    frames = reader(max_body=10 * LARGE)
    data = encode_frame(1, 1, bytes(3 * LARGE))
    frames.feed(data[: 2 * LARGE - 10])
    with frames.room() as room:
        assert len(room) == frames.missing == len(data) - 2 * LARGE + 10
        room[:] = data[2 * LARGE - 10 :]
    assert frames.fill(frames.missing) == [Frame(1, 1, bytes(3 * LARGE))]


def test_what_is_only_announced_takes_no_memory():
    frames = reader(max_body=2**31)
    frames.feed(header(HEADER_SIZE + 2**31))
    with frames.room() as room:
        assert len(room) <= 64 * 1024
    for _ in range(20):
        seen, size = fill(frames, bytes(LARGE))
        assert not seen
        assert size > 0
    with frames.room() as room:
        assert len(room) <= 2**20


def test_room_that_is_not_used_is_given_again():
    frames = reader(max_body=10 * LARGE)
    frames.feed(encode_frame(1, 1, bytes(3 * LARGE))[:1000])
    with frames.room() as room:
        size = len(room)
        room[:5] = b"trash"
    with frames.room() as room:
        assert len(room) == size
        room[:5] = b"abcde"
    assert frames.fill(5) == []
    with frames.room() as room:
        assert len(room) == size - 5


@pytest.mark.parametrize("some", [0, 1, 500])
def test_bytes_may_be_fed_although_there_is_room(some):
    body = bytes(i % 251 for i in range(3 * LARGE))
    data = encode_frame(1, 1, body) + encode_frame(2, 2, b"next")
    frames = reader(max_body=len(body))
    frames.feed(data[:1000])
    with frames.room() as room:
        room[:] = b"\xff" * len(room)
        room[:some] = data[1000 : 1000 + some]
    assert frames.fill(some) == []
    assert frames.missing == HEADER_SIZE + 4 + len(body) - 1000 - some
    assert frames.feed(data[1000 + some :]) == [Frame(1, 1, body), Frame(2, 2, b"next")]


def test_a_body_that_was_read_into_its_room_stays_as_it_is():
    frames = reader(max_body=10 * LARGE)
    seen = []
    for i in range(3):
        data = encode_frame(1, i, bytes([i]) * 3 * LARGE)
        seen += frames.feed(data[: 2 * LARGE])
        seen += fill(frames, data[2 * LARGE :])[0]
    assert seen == [Frame(1, i, bytes([i]) * 3 * LARGE) for i in range(3)]


def test_the_frame_behind_a_large_one_is_checked_as_any():
    frames = reader(max_body=3 * LARGE)
    data = encode_frame(1, 1, bytes(3 * LARGE))
    frames.feed(data[: 2 * LARGE])
    assert len(fill(frames, data[2 * LARGE :])[0]) == 1
    with pytest.raises(ProtocolError, match="the shortest is 12"):
        frames.feed(b"\0\0\0\0")


# --- writing ---


@pytest.mark.parametrize(("data", "size"), [(b"", 0), (b"abc", 3), ((b"a", b"", b"bc"), 3), ((), 0)])
def test_size_of(data, size):
    assert size_of(data) == size


@pytest.mark.parametrize(
    "body", [b"", b"abc", bytes(LARGE), bytes(LARGE + 1), (b"ab", b"c"), (bytes(LARGE), b"", b"x")]
)
@pytest.mark.parametrize("stream", [0, 1, 65535])
def test_a_frame_of_a_body_that_may_be_in_pieces(body, stream):
    data = frame_of(7, 2**63, body, stream)
    assert joined(data) == encode_frame(7, 2**63, joined(body), stream=stream)


@pytest.mark.parametrize("body", [bytes(LARGE + 1), (bytes(LARGE), b"x" * LARGE)])
def test_large_pieces_are_not_copied(body):
    pieces = body if type(body) is tuple else (body,)
    data = frame_of(7, 1, body)
    assert len(data) == 1 + len(pieces)
    assert all(one is other for one, other in zip(data[1:], pieces, strict=True))


# --- cutting ---


def fragments_of(data, size, first=None):
    """All fragments of a frame, and how large each of them was said to be."""
    cutter = Cutter(data, size, size if first is None else first)
    fragments, sizes = [], []
    while True:
        sizes.append(cutter.next_size)
        assert cutter.left == size_of(data) - HEADER_SIZE - 4 - sum(sizes[:-1])
        pieces = cutter.next()
        # To look at it is not to take it.
        assert cutter.next() == pieces
        fragments.append(b"".join(pieces))
        if not cutter.advance():
            return fragments, sizes


PIECES = [
    b"abcdefghij",
    (b"abcdefghij",),
    (b"abc", b"defg", b"hij"),
    (b"", b"ab", b"", b"cdefghi", b"j", b""),
    tuple(bytes([c]) for c in b"abcdefghij"),
]


@pytest.mark.parametrize("body", PIECES)
@pytest.mark.parametrize("size", range(1, 12))
@pytest.mark.parametrize("first", [1, 2, 7, 9, 10, 100])
def test_a_frame_is_cut_into_fragments(body, size, first):
    # As one piece with its header, and with the header apart.
    for data in (frame_of(0x20, 7, body, 5), encode_frame(0x20, 7, joined(body), stream=5)):
        fragments, sizes = fragments_of(data, size, first)
        frames = reader().feed(b"".join(fragments))
        assert b"".join(frame.body for frame in frames) == b"abcdefghij"
        assert [len(frame.body) for frame in frames] == sizes
        assert sizes[0] == min(first, 10)
        assert all(part == size for part in sizes[1:-1])
        assert {(frame.kind, frame.id, frame.stream) for frame in frames} == {(0x20, 7, 5)}
        expected = [MORE | CONTINUED] * len(frames)
        expected[0] &= ~CONTINUED
        expected[-1] &= ~MORE
        assert [frame.flags for frame in frames] == expected


@settings(deadline=None)
@given(
    body=st.lists(st.binary(max_size=5), min_size=1, max_size=6).filter(any),
    size=st.integers(1, 12),
    first=st.integers(1, 12),
)
def test_whatever_the_pieces_are_the_fragments_are_the_frame(body, size, first):
    fragments, sizes = fragments_of(frame_of(1, 2, tuple(body)), size, first)
    frames = reader().feed(b"".join(fragments))
    assert b"".join(frame.body for frame in frames) == b"".join(body)
    assert [len(frame.body) for frame in frames] == sizes
    assert all(sizes)


def test_fragments_of_a_large_frame_are_not_copied():
    large = bytes(range(256)) * 1000
    cutter = Cutter(frame_of(1, 2, (b"head", large, b"tail")), 100_000, 50_000)
    copied, number = 0, 1
    while True:
        _, *pieces = cutter.next()
        copied += sum(len(piece) for piece in pieces if piece.obj is not large)
        assert sum(map(len, pieces)) == cutter.next_size
        if not cutter.advance():
            break
        number += 1
    assert number == 4
    assert copied == len(b"headtail")


def test_a_frame_that_is_not_larger_than_a_fragment_stays_whole():
    for size in (3, 4):
        assert fragments_of(encode_frame(1, 2, b"abc"), size) == ([encode_frame(1, 2, b"abc")], [3])


# --- strangers ---


STRAYS = {
    b"GET / HTTP/1.1\r\n": "but a text protocol, such as HTTP",
    b"SSH-2.0-OpenSSH\r\n": "but a text protocol, such as HTTP",
    b"\x16\x03\x01\x02\x00\x01\x00": "but TLS",
    b"\x15\x03\x01\x00\x02": "but TLS",
    b"\x00\x00\x00\x10": "does not speak trpc: it began",
    b"\xff\xfe": "does not speak trpc: it began",
    b"1234": "does not speak trpc: it began",
}


@pytest.mark.parametrize("data", STRAYS)
def test_strangers_are_refused_on_their_first_byte(data):
    with pytest.raises(ProtocolError, match=STRAYS[data]):
        list(reader(preamble=False).feed(data[:1]))


@pytest.mark.parametrize("data", STRAYS)
def test_strangers_are_refused_in_one_piece(data):
    with pytest.raises(ProtocolError, match=STRAYS[data]):
        list(reader(preamble=False).feed(data))


def test_text_that_is_not_ascii_is_not_taken_for_http():
    with pytest.raises(ProtocolError, match="does not speak trpc: it began"):
        list(reader(preamble=False).feed(b"G\xc3\xa9T"))


@pytest.mark.parametrize("position", range(len(MAGIC)))
def test_each_byte_of_the_magic_counts(position):
    broken = bytearray(PREAMBLE)
    broken[position] ^= 1
    frames = reader(preamble=False)
    assert list(frames.feed(bytes(broken[:position]))) == []
    with pytest.raises(ProtocolError, match="does not speak trpc"):
        list(frames.feed(bytes(broken[position : position + 1])))


@pytest.mark.parametrize("version", [0, 2, 255])
@pytest.mark.parametrize("cut", range(len(PREAMBLE)))
def test_another_version_is_refused_with_both_versions_in_the_message(version, cut):
    data = MAGIC + bytes([version])
    frames = reader(preamble=False)
    with pytest.raises(ProtocolError, match=f"the peer speaks version {version} .* this side version 1"):
        list(frames.feed(data[:cut])), list(frames.feed(data[cut:]))


def test_inside_frame():
    frames = reader(preamble=False)
    data = PREAMBLE + encode_frame(1, 1, b"ab") + encode_frame(1, 1)
    between = {0, len(PREAMBLE), len(PREAMBLE) + 18, len(data)}
    for position in range(len(data) + 1):
        assert frames.inside_frame is (position not in between), position
        list(frames.feed(data[position : position + 1]))
    assert not frames.inside_frame


@pytest.mark.parametrize(("kind", "call_id"), [(256, 0), (-1, 0), (1, -1), (1, 2**64)])
def test_fields_out_of_range_cannot_be_encoded(kind, call_id):
    with pytest.raises(struct.error):
        encode_frame(kind, call_id)
