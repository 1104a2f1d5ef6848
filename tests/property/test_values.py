"""Every value that can be sent comes back; every other one, and all bytes, give one kind of error."""

import dataclasses
import datetime as dt
import decimal
import enum
import math
import uuid
from typing import Any, Literal, NamedTuple, TypedDict

import hypothesis.strategies as st
import msgpack
import pytest
from hypothesis import HealthCheck, example, given, settings
from support import joined

from trpc import InvalidArguments, ProtocolError
from trpc._codec import (
    LARGE,
    DecodeError,
    EncodeError,
    convert,
    converter,
    pack,
    pack_scattered,
    unpack,
    with_text_keys,
)
from trpc._messages import (
    FRAGMENTS,
    MAX_STREAM,
    MAX_TIME_LEFT,
    STREAMS,
    Hello,
    Request,
    decode_credit,
    decode_request,
    encode_credit,
    encode_request,
)

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
integers = st.integers(-(2**63), 2**64 - 1)
scalars = st.one_of(st.none(), st.booleans(), integers, st.floats(allow_nan=False), texts, st.binary(max_size=20))
keys = st.one_of(texts, st.binary(max_size=5))
plain = st.recursive(
    scalars,
    lambda inner: st.one_of(st.lists(inner, max_size=5), st.dictionaries(keys, inner, max_size=5)),
    max_leaves=20,
)


class Color(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Level(enum.IntEnum):
    LOW = 1


class Pair(NamedTuple):
    left: Any
    right: Any


@dataclasses.dataclass
class Point:
    x: Any
    y: Any


class MyList(list):
    pass


class MyDict(dict):
    pass


# What users may try to send: all kinds of values, whether they can be sent or not.
odd = st.one_of(
    scalars,
    st.integers(),
    st.text(max_size=5),
    st.floats(),
    st.complex_numbers(),
    st.datetimes(),
    st.datetimes(timezones=st.just(dt.UTC)),
    st.dates(),
    st.times(),
    st.timedeltas(),
    st.uuids(),
    st.decimals(),
    st.sampled_from([*Color, Level.LOW, object(), int, Exception("x"), msgpack.Timestamp(1), range(3), ...]),
    st.binary(max_size=5).map(bytearray),
    st.binary(max_size=5).map(memoryview),
    st.builds(msgpack.ExtType, st.integers(0, 127), st.binary(max_size=3)),
)
odd_keys = st.one_of(keys, integers, st.floats(), st.none(), st.booleans(), st.uuids(), st.dates(), st.tuples(integers))
anything = st.recursive(
    odd,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.lists(inner, max_size=4).map(tuple),
        st.lists(inner, max_size=4).map(MyList),
        st.dictionaries(odd_keys, inner, max_size=4),
        st.dictionaries(keys, inner, max_size=4).map(MyDict),
        st.frozensets(integers, max_size=4),
        st.builds(Pair, inner, inner),
        st.builds(Point, inner, inner),
    ),
    max_leaves=12,
)


def depth_of(value):
    if isinstance(value, list):
        return 1 + max(map(depth_of, value), default=0)
    if isinstance(value, dict):
        return 1 + max(map(depth_of, value.values()), default=0)
    return 0


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=300)
@given(value=plain)
def test_plain_values_come_back_exactly(value):
    result = unpack(pack(value, max_depth=64), max_depth=64)
    assert repr(result) == repr(value)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=1000)
@given(value=anything, any_keys=st.booleans(), max_depth=st.integers(3, 8))
@example(value=msgpack.ExtType(1, b""), any_keys=False, max_depth=64)
@example(value=[{b"": 0}, {0: 0}], any_keys=True, max_depth=64)
def test_what_is_sent_is_accepted_and_what_cannot_be_is_an_encode_error(value, any_keys, max_depth):
    try:
        body = pack(with_text_keys(value) if any_keys else value, max_depth=max_depth)
    except EncodeError:
        return
    result = unpack(body, max_depth=max_depth)
    assert depth_of(result) <= max_depth
    assert_plain(result)
    # What came out can be sent on, and is then the same.
    again = unpack(pack(result, max_depth=max_depth), max_depth=max_depth)
    assert repr(again) == repr(result)


def assert_plain(value):
    assert type(value) in {type(None), bool, int, float, str, bytes, list, dict}
    if type(value) is list:
        for item in value:
            assert_plain(item)
    if type(value) is dict:
        for key, item in value.items():
            assert type(key) in {str, bytes}
            assert_plain(item)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=300)
@given(value=plain, max_depth=st.integers(3, 6))
def test_both_sides_draw_the_line_at_the_same_depth(value, max_depth):
    body = msgpack.packb(value)
    if depth_of(value) > max_depth:
        with pytest.raises(EncodeError):
            pack(value, max_depth=max_depth)
        with pytest.raises(DecodeError):
            unpack(body, max_depth=max_depth)
    else:
        assert pack(value, max_depth=max_depth) == body
        assert repr(unpack(body, max_depth=max_depth)) == repr(value)


HINTS = [
    (int, integers),
    (float, st.floats(allow_nan=False)),
    (str, texts),
    (bytes, st.binary()),
    (bool, st.booleans()),
    (dict[int, list[str]], st.dictionaries(integers, st.lists(texts))),
    (dict[uuid.UUID, bytes], st.dictionaries(st.uuids(), st.binary())),
    (dict[float, int], st.dictionaries(st.floats(allow_nan=False, allow_infinity=False), integers)),
    (dict[str, float | None], st.dictionaries(texts, st.none() | st.floats(allow_nan=False))),
    (tuple[int, str], st.tuples(integers, texts)),
    (set[int], st.sets(integers)),
    (frozenset[str], st.frozensets(texts)),
    (Color, st.sampled_from(Color)),
    (dt.date, st.dates()),
    (dt.time, st.times()),
    (dt.datetime, st.datetimes()),
    (dt.datetime, st.datetimes(timezones=st.just(dt.UTC))),
    (dt.timedelta, st.timedeltas()),
    (uuid.UUID, st.uuids()),
    (decimal.Decimal, st.decimals(allow_nan=False)),
]


@pytest.mark.parametrize(("hint", "values"), HINTS, ids=[str(hint) for hint, _ in HINTS])
@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=50)
@given(data=st.data())
def test_values_of_a_hint_come_back_as_that_type(hint, values, data):
    value = data.draw(values)
    result = convert(unpack(pack(with_text_keys(value), max_depth=64), max_depth=64), hint)
    assert result == value
    assert type(result) is type(value)


# --- the faster ways ---


@dataclasses.dataclass
class Item:
    name: str
    price: float = 0.0
    tags: list[str] = dataclasses.field(default_factory=list)


class Entry(TypedDict):
    name: str
    price: float


CONVERTER_HINTS = [
    *(hint for hint, _ in HINTS),
    Any,
    None,
    int | None,
    int | str | None,
    list[int],
    list[Any],
    list[float | None],
    tuple[int, ...],
    tuple[str, float, bool],
    Literal["red", 1],
    Level,
    Item,
    list[Item],
    Item | None,
    Entry,
    Pair,
    dict[str, Item],
]
# What is likely to fit one of them, or nearly so.
names = st.sampled_from(["name", "price", "tags", "left", "right", "red", "1", "1.5", "2024-02-29"])
likely = st.recursive(
    st.one_of(scalars, names, st.integers(0, 2), st.just(1.0)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(names | keys, inner, max_size=3)),
    max_leaves=8,
)


def outcome_of(function, *args):
    """What a conversion gives, with its types, or its error."""
    try:
        result = function(*args)
    except DecodeError as exc:
        return "DecodeError", str(exc)
    return repr(result), type(result)


@pytest.mark.parametrize("hint", CONVERTER_HINTS, ids=str)
@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=100)
@given(value=likely)
def test_a_converter_does_what_convert_does(hint, value):
    assert outcome_of(converter(hint), value) == outcome_of(convert, value, hint)


@pytest.mark.parametrize(("hint", "values"), HINTS, ids=[str(hint) for hint, _ in HINTS])
@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=30)
@given(data=st.data())
def test_a_converter_takes_the_values_of_its_hint(hint, values, data):
    value = unpack(pack(with_text_keys(data.draw(values)), max_depth=64), max_depth=64)
    result = outcome_of(converter(hint), value)
    assert result == outcome_of(convert, value, hint)
    assert result[0] != "DecodeError"


large = st.sampled_from([LARGE - 1, LARGE, LARGE + 1]).map(bytes)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=300)
@given(
    value=st.recursive(
        large | odd, lambda inner: st.lists(inner, max_size=4) | st.lists(inner, max_size=4).map(tuple), max_leaves=8
    ),
    max_depth=st.integers(1, 4),
)
def test_the_pieces_of_a_value_are_the_bytes_of_the_whole(value, max_depth):
    def outcome(function):
        try:
            return joined(function(value, max_depth=max_depth))
        except EncodeError as exc:
            return str(exc)

    assert outcome(pack_scattered) == outcome(pack)


# Bytes that look like msgpack more often than chance would have it.
headers = st.sampled_from(
    [
        b"\x90",
        b"\x91",
        b"\x81",
        b"\x80",
        b"\xa1a",
        b"\xc1",
        b"\xd6\xff",
        b"\xd7\xff",
        b"\xc7\x0c\xff",
        b"\xc8\x00\x04\xff",
    ]
    + [
        b"\xdc\x00\x02",
        b"\xdd\x00\x00\x00\x01",
        b"\xde\x00\x01",
        b"\xdf\xff\xff\xff\xff",
        b"\xc4\x01",
        b"\xd9\x02",
        b"\xc0",
    ]
)
bodies = st.one_of(
    st.binary(max_size=60),
    st.lists(headers | st.binary(max_size=4), max_size=30).map(b"".join),
    st.tuples(headers, st.integers(1, 2000)).map(lambda pair: pair[0] * pair[1]),
    anything.map(lambda value: msgpack.packb(value, default=str, datetime=False) if can_pack(value) else b""),
)


def can_pack(value):
    try:
        msgpack.packb(value, default=str)
    except Exception:
        return False
    return True


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=1000)
@given(body=bodies)
@example(body=b"\xc8\x00\x04\xff\x00\x00\x00\x00")
def test_any_bytes_are_a_plain_value_or_a_decode_error(body):
    try:
        value = unpack(body, max_depth=10)
    except DecodeError as exc:
        assert str(exc)
        return
    assert_plain(value)
    assert depth_of(value) <= 10


# --- messages ---


@st.composite
def streams_of_arguments(draw):
    """Arguments, and which of them are streams: these are None in their places."""
    args = draw(st.lists(plain, max_size=4))
    kwargs = draw(st.none() | st.dictionaries(texts, plain, max_size=4))
    places = [*range(len(args)), *(kwargs or {})]
    chosen = draw(st.lists(st.sampled_from(places), unique=True)) if places else []
    numbers = draw(
        st.lists(st.integers(1, MAX_STREAM), unique=True, min_size=len(chosen), max_size=len(chosen)),
    )
    for place in chosen:
        if isinstance(place, int):
            args[place] = None
        else:
            kwargs[place] = None
    return args, kwargs, dict(zip(numbers, chosen, strict=True))


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=300)
@given(
    method=texts,
    arguments=streams_of_arguments(),
    time_left=st.none() | st.floats(allow_nan=False, allow_infinity=False),
    metadata=st.none() | st.dictionaries(texts, scalars, max_size=4),
)
def test_requests_come_back(method, arguments, time_left, metadata):
    args, kwargs, streams = arguments
    body = encode_request(method, args, kwargs, time_left, metadata, streams, max_depth=64)
    request = decode_request(body, max_depth=64)
    clamped = None if time_left is None else min(time_left, MAX_TIME_LEFT)
    assert repr(request) == repr(Request(method, args, kwargs or None, clamped, metadata or None, streams or None))


# Most of them are nearly right.
stream_numbers = st.integers(-1, 70_000).map(str) | st.sampled_from(["01", "+1", " 1", "1.0", "", "1_0"]) | texts
stream_like = st.dictionaries(stream_numbers, st.integers(-1, 3) | st.sampled_from(["a", "b"]) | plain, max_size=3)
request_like = st.tuples(
    texts,
    st.lists(st.none() | scalars, max_size=3),
    st.none() | st.dictionaries(st.sampled_from(["a", "b", "c"]), st.none() | scalars, max_size=2),
    st.none() | st.floats(),
    st.none(),
    st.none() | stream_like | plain,
)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=1000)
@given(body=bodies | st.one_of(st.lists(plain, max_size=7), request_like).map(msgpack.packb))
def test_any_bytes_are_a_request_or_invalid_arguments(body):
    try:
        request = decode_request(body, max_depth=64)
    except InvalidArguments as exc:
        assert str(exc)
        return
    assert type(request.method) is str
    assert type(request.args) is list
    assert request.kwargs is None or all(type(key) is str for key in request.kwargs)
    assert request.time_left is None or (math.isfinite(request.time_left) and request.time_left <= MAX_TIME_LEFT)
    places = list((request.streams or {}).values())
    assert len(set(places)) == len(places)
    for number, place in (request.streams or {}).items():
        assert 1 <= number <= MAX_STREAM
        # It is there, as callers may replace it.
        assert (request.args if type(place) is int else request.kwargs)[place] is None


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=200)
@given(
    size=st.integers(1, 2**64 - 1),
    calls=st.integers(1, 2**64 - 1),
    depth=st.integers(1, 2**64 - 1),
    features=st.lists(texts | st.sampled_from([FRAGMENTS, STREAMS]), max_size=3),
    credit=st.integers(1, 2**32 - 1),
)
def test_hellos_come_back(size, calls, depth, features, credit):
    hello = Hello(size, calls, depth, tuple(features), credit)
    assert Hello.decode(hello.encode()) == hello


hello_like = st.fixed_dictionaries(
    {name: st.integers(1, 2**64 - 1) | plain for name in ("max_message_size", "max_calls", "max_depth")},
    optional={
        "features": st.lists(st.sampled_from([FRAGMENTS, STREAMS]) | texts) | plain,
        "stream_credit": st.integers(0, 2**33) | plain,
        "other": plain,
    },
)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=500)
@given(body=bodies | hello_like.map(msgpack.packb))
def test_any_bytes_are_a_hello_or_a_protocol_error(body):
    try:
        hello = Hello.decode(body)
    except ProtocolError as exc:
        assert str(exc)
        return
    assert min(hello.max_message_size, hello.max_calls, hello.max_depth) >= 1
    assert all(type(name) is str for name in hello.features)
    if hello.has_streams:
        assert 1 <= hello.stream_credit <= 2**32 - 1


@settings(deadline=None, max_examples=200)
@given(size=st.integers(1, 2**32 - 1))
def test_credit_comes_back(size):
    assert decode_credit(encode_credit(size)) == size


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=500)
@given(body=bodies | (st.integers(-(2**63), 2**64 - 1) | plain).map(msgpack.packb))
def test_any_bytes_are_credit_or_a_protocol_error(body):
    try:
        size = decode_credit(body)
    except ProtocolError as exc:
        assert str(exc)
        return
    assert type(size) is int
    assert 1 <= size <= 2**32 - 1
