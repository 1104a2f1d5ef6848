"""Bytes to frames: however they are cut and taken, the same frames and the same error, and no memory for promises."""

from __future__ import annotations

import re
import tracemalloc

from tests.fuzz.choices import Choices, cut, one_by_one
from tests.support import fed, filled, frames_of
from trpc import ProtocolError
from trpc._frames import PREAMBLE, FrameReader

MAX_LEN = 1024
# Far more than any input has, so that lengths are accepted for which nothing arrives.
MAX_BODY = 1 << 24
_MAX_CUTS = 6


def run(data: bytes) -> None:
    choices = Choices(data)
    flags = choices.number()
    places = [choices.number(2) for _ in range(choices.number() % (_MAX_CUTS + 1))]
    max_body = MAX_BODY if flags & 1 else 200
    # A large frame takes other ways than a small one, and no fuzzer makes one byte by byte.
    filler_at, filler = (choices.number(), 2 * choices.number(2)) if flags & 2 else (0, 0)
    stream = choices.rest()
    if flags & 4:
        stream = PREAMBLE + stream
    stream = stream[:filler_at] + bytes(filler) + stream[filler_at:]

    pieces = cut(stream, places)
    whole = _run(max_body, [stream])
    assert _run(max_body, pieces) == whole
    assert _run(max_body, pieces, filled) == whole
    assert _run(max_body, pieces, _one_at_a_time) == whole
    pieces = one_by_one(stream, places[0] if places else 0, 50)
    assert _run(max_body, pieces) == whole
    assert _run(max_body, pieces, filled) == whole
    if flags & 8:
        _check_memory(max_body, stream, cut(stream, places))


def _run(max_body, pieces, feed=fed):
    reader = FrameReader(max_body=max_body)
    frames, error = frames_of(reader, pieces, feed)
    if error is None:
        return frames, reader.inside_frame
    assert type(error) is ProtocolError
    for _ in range(2):
        try:
            reader.feed(b"")
        except ProtocolError as again:
            assert again is error  # noqa: PT017 - it is the end, and stays it
        else:
            raise AssertionError("it reads on behind a fault")
    # How a stranger began is told from what is there, which depends on the cuts.
    return frames, re.sub("(the peer does not speak trpc).*", r"\1", str(error))


def _one_at_a_time(reader, data):
    while frames := reader.feed(data, only_one=True):
        yield frames
        data = b""


def _check_memory(max_body, stream, pieces) -> None:
    """Memory is for what has arrived: for frames many times their bytes, but a constant number of times."""
    for feed in (fed, filled):
        tracemalloc.start()
        try:
            reader = FrameReader(max_body=max_body)
            frames_of(reader, pieces, feed)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        # A frame without a body has 16 bytes, and is a tuple of objects. The room of a large one is made in steps.
        assert peak < 32 * 1024 + 25 * (len(stream) + 1024) + (64 * 1024 if feed is filled else 0), peak
