"""What a peer does, step by step, as a fuzzer's input says it: so that it gets behind the first checks.

A step is some bytes: what (a kind of message, or one of the other actions), options, the number of a stream, what the
body is, and then what these announce. :func:`encode` makes a script of frames, for the seeds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from trpc import ProtocolError
from trpc._frames import PREAMBLE, Frame, FrameReader, encode_frame
from trpc._messages import Kind, encode_credit, encode_request

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from tests.fuzz.choices import Choices

MAX_STEPS = 60
# Zeros in all bodies together; large ones go other ways, but they take time.
MAX_ZEROS = 1 << 20
# The last ones are not known: reserved, to be refused, to be ignored.
KINDS = [*Kind, 0x16, 0x25, 0x7F, 0x80, 0xFF]
# Steps with these numbers are actions of the target's own.
ACTIONS = range(0x40, 0x50)
# Bytes that are no frame.
RAW = 0x50

_LITERAL_FLAGS = 0x04
_NEW_ID, _SMALL_ID, _LITERAL_ID, _LAST_ID = range(4)
_LITERAL_STREAM = 0xFF
# What a body is: one of those below, zeros, or bytes of the input.
_ZEROS, _LITERAL = 0x3F, 0x40
_LONGEST = 0xFF - _LITERAL


def _request(method: str, *args: object, time_left: float | None = None, streams: dict | None = None) -> bytes:
    body = encode_request(f"Conformance.{method}", args, None, time_left, None, streams, max_depth=64)
    assert isinstance(body, bytes)
    return body


BODIES = [
    b"",
    b"\xc0",
    b"\x93\x01\x02\x03",
    b"\x91\x01",
    b"\x91\xc4\x40" + bytes(64),
    encode_credit(16),
    encode_credit(1000),
    encode_credit(2**32 - 1),
    b"\x81\xa4code\x10",
    b"\x82\xa4code\x11\xa4type\xa8KeyError",
    _request("echo", [1, "two", b"three"]),
    _request("sleep", 1.0),
    _request("sleep", 100.0, time_left=2.0),
    _request("echo", 1, time_left=-1.0),
    _request("count", 100),
    _request("blobs", 20, 100),
    _request("total", None, streams={1: 0}),
    _request("chat", None, streams={1: 0}),
    _request("first", None, streams={2: 0}),
    _request("two", None, None, streams={1: 0, 2: 1}),
    _request("fail", 3),
    _request("spill"),
    _request("stubborn"),
    _request("call_back", 1),
    _request("call_back_with_stream", 1),
    _request("nothing"),
]


class Step(NamedTuple):
    """One thing that happens: a frame or other bytes arrive, or an action of the target's."""

    what: int
    argument: int
    frame: Frame | None
    data: bytes


def decode(choices: Choices) -> Iterator[Step]:
    """The steps of an input."""
    last = 0
    zeros = MAX_ZEROS
    for _ in range(MAX_STEPS):
        if not choices:
            return
        what = choices.number()
        if what in ACTIONS:
            yield Step(what, choices.number(), None, b"")
            continue
        if what == RAW:
            yield Step(what, 0, None, choices.bytes(choices.number()))
            continue
        kind = KINDS[what % len(KINDS)]
        options, stream, body = choices.number(), choices.number(), choices.number()
        flags = choices.number() if options & _LITERAL_FLAGS else options & 3
        id_ = _id(choices, options >> 3 & 3, last)
        if stream == _LITERAL_STREAM:
            stream = choices.number(2)
        if body == _ZEROS:
            size = min(4 * choices.number(2), zeros)
            zeros -= size
            frame = Frame(kind, id_, bytes(size), flags, stream)
        else:
            frame = Frame(kind, id_, _body(choices, body), flags, stream)
        if kind in {Kind.REQUEST, Kind.NOTIFY} and not flags & 2:
            last = max(last, id_)
        yield Step(what, 0, frame, bytes_of(frame))


def _id(choices: Choices, how: int, last: int) -> int:
    if how == _NEW_ID:
        return min(last + 1, 2**64 - 1)
    if how == _LAST_ID:
        return last
    return choices.number(1 if how == _SMALL_ID else 8)


def _body(choices: Choices, what: int) -> bytes:
    if what >= _LITERAL:
        return choices.bytes(what - _LITERAL)
    return BODIES[what % len(BODIES)]


def bytes_of(frame: Frame) -> bytes:
    return encode_frame(frame.kind, frame.id, bytes(frame.body), frame.flags, frame.stream)


def encode(frames: Iterable[Frame]) -> bytes:
    """A script in which these frames arrive; of bodies that are long, only the beginning."""
    script = bytearray()
    last = 0
    for kind, id_, body, flags, stream in frames:
        if kind not in KINDS:
            continue
        options = flags if flags < _LITERAL_FLAGS else _LITERAL_FLAGS
        is_new = id_ == last + 1 and kind in {Kind.REQUEST, Kind.NOTIFY}
        how = _NEW_ID if is_new else _SMALL_ID if id_ < 256 else _LITERAL_ID
        body = bytes(body)[:_LONGEST]
        what = BODIES.index(body) if body in BODIES else _LITERAL + len(body)
        script += bytes([KINDS.index(kind), options | how << 3, min(stream, _LITERAL_STREAM), what])
        if options & _LITERAL_FLAGS:
            script.append(flags)
        if how != _NEW_ID:
            script += id_.to_bytes(1 if how == _SMALL_ID else 8, "big")
        if stream >= _LITERAL_STREAM:
            script += stream.to_bytes(2, "big")
        if what >= _LITERAL:
            script += body
        if kind in {Kind.REQUEST, Kind.NOTIFY} and not flags & 2:
            last = max(last, id_)
    return bytes(script)


def frames_in(data: bytes) -> list[Frame]:
    """The frames in it, with or without the preamble in front, as far as they are some."""
    reader = FrameReader(max_body=1 << 24)
    try:
        return reader.feed(data if data.startswith(PREAMBLE) else PREAMBLE + data)
    except ProtocolError:
        return []
