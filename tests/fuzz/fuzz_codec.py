"""Bytes to values: one kind of error, no value beyond the depth, memory within a factor, and all comes back."""

from __future__ import annotations

import collections
import dataclasses
import datetime as dt
import decimal
import enum
import tracemalloc
import uuid
from typing import Literal, NamedTuple, TypedDict

from tests.fuzz.choices import Choices
from trpc import _codec

MAX_LEN = 1024
_MAX_BODY = 1 << 16
# Of a value to its bytes; maps of one key that hold a map are near 95.
MEMORY_FACTOR = 100
# msgpack makes room for announced elements of each array that it is in, if there are bytes left for them: this many
# elements at most, in this many arrays. When they do not come, that is given back with the error.
_ELEMENTS_AHEAD = 10_000
_ARRAYS = 1024
_PLAIN = (type(None), bool, int, float, str, bytes)


class Color(enum.Enum):
    RED = "red"
    GREEN = "green"


@dataclasses.dataclass
class Point:
    x: int
    y: float = 0.0
    label: str | None = None
    below: list[Point] = dataclasses.field(default_factory=list)


class Pair(NamedTuple):
    left: int
    right: str


class Options(TypedDict, total=False):
    depth: int
    names: set[str]


HINTS = [
    int,
    float,
    str,
    bool,
    bytes,
    None,
    list[int],
    tuple[int, str],
    set[int],
    frozenset[str],
    dict[int, str],
    dict[str, list[float]],
    dict[float, bytes],
    Point,
    Pair,
    Options,
    Color,
    Literal["a", 1],
    int | str | None,
    dt.datetime,
    dt.date,
    dt.time,
    dt.timedelta,
    decimal.Decimal,
    uuid.UUID,
    collections.deque[int],
    object,
]
_CONVERTERS = [_codec.converter(hint) for hint in HINTS]


def _measured(body, max_depth):
    """The value or the error, and the memory that it took to come to it."""
    value = error = None
    tracemalloc.start()
    try:
        try:
            value = _codec.unpack(body, max_depth=max_depth)
        except _codec.DecodeError as exc:
            error = exc
        return value, error, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def run(data: bytes) -> None:
    choices = Choices(data)
    max_depth = choices.number() % 80
    hint = choices.number() % len(HINTS)
    # Depth and bombs take many bytes that are the same.
    times = 1 << choices.number() % 16
    unit = choices.bytes(choices.number() % 8)
    body = (unit * times)[:_MAX_BODY] + choices.rest()

    # What else is allocated meanwhile, for the fuzzer's own books, is not so twice.
    value, error, peak = min((_measured(body, max_depth) for _ in range(2)), key=lambda measured: measured[2])
    ahead = 8 * min(_ELEMENTS_AHEAD, len(body)) * min(_ARRAYS, len(body)) if error is not None else 0
    assert peak < 64 * 1024 + MEMORY_FACTOR * len(body) + ahead, peak
    if error is not None:
        assert len(str(error)) <= 1000
        return

    assert depth_of(value) <= max_depth
    packed = _codec.pack(value, max_depth=max_depth)
    assert repr(_codec.unpack(packed, max_depth=max_depth)) == repr(value)
    _convert(value, hint, max_depth)


def _convert(value, number, max_depth) -> None:
    hint = HINTS[number]
    try:
        converted = _codec.convert(value, hint)
    except _codec.DecodeError:
        converted = _codec.DecodeError
    # As the compiled form does it.
    try:
        compiled = _CONVERTERS[number](value)
        assert compiled == converted or repr(compiled) == repr(converted)
    except _codec.DecodeError:
        assert converted is _codec.DecodeError
    if converted is _codec.DecodeError:
        return
    plain = _codec.with_text_keys(converted) if _codec.has_typed_keys(hint) else converted
    try:
        packed = _codec.pack(plain, max_depth=max_depth)
    except _codec.EncodeError:
        return
    again = _codec.convert(_codec.unpack(packed, max_depth=max_depth), hint)
    # Sets have no order, and NaN is not equal to itself.
    assert again == converted or repr(again) == repr(converted)


def depth_of(value: object) -> int:
    """As the protocol defines it; only plain data has one."""
    if type(value) is list:
        return 1 + max(map(depth_of, value), default=0)
    if type(value) is dict:
        assert all(type(key) in {str, bytes} for key in value)
        return 1 + max(map(depth_of, value.values()), default=0)
    assert type(value) in _PLAIN, type(value)
    return 0
