"""Framing: the preamble, the length prefix and the header."""

import struct

import pytest

from trpc import ProtocolError
from trpc._frames import HEADER_SIZE, MAGIC, PREAMBLE, VERSION, Frame, FrameReader, encode_frame


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
    seen = []
    with pytest.raises(ProtocolError):
        for frame in reader().feed(encode_frame(1, 1) + encode_frame(2, 2, b"x") + b"\0\0\0\0"):
            seen.append(frame)  # noqa: PERF402 - what came before the error is kept
    assert seen == [Frame(1, 1, b""), Frame(2, 2, b"x")]


def test_the_limit_may_be_changed_between_the_frames_of_one_piece():
    frames = reader(max_body=1)
    seen = []
    for frame in frames.feed(encode_frame(1, 0, b"a") + encode_frame(2, 0, b"long body")):
        seen.append(frame)
        frames.max_body = 100
    assert seen == [Frame(1, 0, b"a"), Frame(2, 0, b"long body")]


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
