"""Values to bytes and back: one error in each direction, and nothing packed that is not accepted again."""

import dataclasses
import datetime as dt
import decimal
import enum
import math
import subprocess
import sys
import textwrap
import uuid
from typing import Annotated, Any, Generic, Literal, NamedTuple, TypedDict, TypeVar

import msgpack
import msgspec
import pytest
from support import joined

from trpc._codec import (
    LARGE,
    DecodeError,
    EncodeError,
    check_hint,
    convert,
    converter,
    pack,
    pack_scattered,
    unpack,
    with_text_keys,
)


def encode(value, *, max_depth=64, any_keys=False):
    return pack(with_text_keys(value) if any_keys else value, max_depth=max_depth)


def decode(body, *, max_depth=64):
    return unpack(body, max_depth=max_depth)


def nested(depth, inner=None):
    """Lists in lists: ``depth`` of them."""
    value: list[Any] = [] if inner is None else [inner]
    for _ in range(depth - 1):
        value = [value]
    return value


# --- what goes through ---

PLAIN = [
    None,
    True,
    False,
    0,
    -1,
    2**64 - 1,
    -(2**63),
    1.5,
    -0.0,
    math.inf,
    "",
    "text ✓ \0 \U0001f600",
    b"",
    b"\x00\xff",
    [],
    {},
    [1, [2, [3, [4, {}]]]],
    {"a": {"b": [None, {b"bytes": 1}]}},
    [[1, 2], ["a", b"b"], []],
]


@pytest.mark.parametrize("value", PLAIN, ids=repr)
def test_plain_values_come_back_as_they_were(value):
    result = decode(encode(value))
    assert result == value
    assert type(result) is type(value)


def test_nan_comes_back():
    assert math.isnan(decode(encode(math.nan)))


class Color(enum.Enum):
    RED = "red"


class Number(enum.IntEnum):
    ONE = 1


@dataclasses.dataclass
class Point:
    x: int
    y: float = 0.0


class Struct(msgspec.Struct):
    name: str
    blob: bytes = b""


class Pair(NamedTuple):
    left: int
    right: str


class Text(str):
    __slots__ = ()


CONVERTED = [
    ((1, 2), [1, 2]),
    (Pair(1, "a"), [1, "a"]),
    (Color.RED, "red"),
    (Number.ONE, 1),
    (Point(1, 2.5), {"x": 1, "y": 2.5}),
    (Struct("n", b"\xff"), {"name": "n", "blob": b"\xff"}),
    ([Struct("n")], [{"name": "n", "blob": b""}]),
    (dt.date(2024, 2, 29), "2024-02-29"),
    (dt.datetime(2024, 2, 29, 1, 2, 3, tzinfo=dt.UTC), "2024-02-29T01:02:03Z"),
    (dt.timedelta(seconds=90), "PT90S"),
    (uuid.UUID(int=5), "00000000-0000-0000-0000-000000000005"),
    (decimal.Decimal("1.50"), "1.50"),
    ({7}, [7]),
    (frozenset({7}), [7]),
    (bytearray(b"ab"), b"ab"),
    (memoryview(b"ab"), b"ab"),
    (Text("t"), "t"),
    ({"key": (1, {"nested": uuid.UUID(int=1)})}, {"key": [1, {"nested": str(uuid.UUID(int=1))}]}),
]


@pytest.mark.parametrize(("value", "plain"), CONVERTED, ids=lambda value: repr(value).partition(" at 0x")[0])
def test_other_values_become_plain_ones(value, plain):
    result = decode(encode(value))
    assert result == plain
    assert type(result) is type(plain)


# --- map keys ---


def test_keys_that_are_not_text_are_refused():
    with pytest.raises(EncodeError, match="keys must be str or bytes"):
        encode({1: "a"})


@pytest.mark.parametrize("key", [1, 1.5, Number.ONE, (1, 2), None, True], ids=repr)
@pytest.mark.parametrize("around", [lambda v: v, lambda v: [v], lambda v: {"a": [v]}, lambda v: ([[v]],)])
def test_keys_that_are_not_text_are_refused_however_deep(key, around):
    with pytest.raises(EncodeError):
        encode(around({key: "a"}))


@pytest.mark.parametrize(
    ("value", "hint"),
    [
        ({1: "a", -5: "b"}, dict[int, str]),
        ({1.5: "a"}, dict[float, str]),
        ({Number.ONE: "a"}, dict[Number, str]),
        ({Color.RED: "a"}, dict[Color, str]),
        ({uuid.UUID(int=1): "a"}, dict[uuid.UUID, str]),
        ({dt.date(2024, 1, 1): b"\xff"}, dict[dt.date, bytes]),
        ({decimal.Decimal("1.5"): [b"\xff"]}, dict[decimal.Decimal, list[bytes]]),
        ({b"a": 1}, dict[bytes, int]),
        ({1: {2: {"x": 3}}}, dict[int, dict[int, dict[str, int]]]),
    ],
    ids=repr,
)
def test_any_keys_come_back_through_the_hint(value, hint):
    assert convert(decode(encode(value, any_keys=True)), hint) == value


def test_any_keys_takes_bytes_keys_beside_integer_keys():
    # Each of the two alone is sent; so both in one request have to be.
    body = encode([{b"a": 1}, {1: 2}], any_keys=True)
    assert convert(decode(body), tuple[dict[bytes, int], dict[int, int]]) == ({b"a": 1}, {1: 2})


def test_any_keys_refuses_what_has_no_text():
    with pytest.raises(EncodeError):
        encode({(1, 2): "a"}, any_keys=True)


def test_any_keys_loses_no_entry():
    # Both keys have the text "1": one of the values would be gone without a word.
    with pytest.raises(EncodeError):
        encode({1: "a", "1": "b"}, any_keys=True)


def test_any_keys_still_obeys_the_depth():
    with pytest.raises(EncodeError, match="nested deeper than 3"):
        encode({1: [[[1]]]}, max_depth=3, any_keys=True)


# --- what cannot be sent ---


class Raises:
    """Raises wherever an encoder might look."""

    @property
    def __dict__(self):
        raise RuntimeError("boom")

    def __getattr__(self, name):
        raise RuntimeError("boom")


class RaisingList(list):
    def __len__(self):
        raise ZeroDivisionError("boom")

    def __iter__(self):
        raise ZeroDivisionError("boom")

    __getitem__ = __iter__


class RaisingDict(dict):
    def items(self):
        raise OSError("boom")


def circular_list():
    value: list[Any] = []
    value.append(value)
    return value


def circular_dict():
    value: dict[str, Any] = {}
    value["a"] = [value]
    return value


def circular_dataclass():
    point = Point(1)
    point.x = point  # type: ignore[assignment]
    return point


REFUSED = {
    "circular list": circular_list,
    "circular dict": circular_dict,
    "circular dataclass": circular_dataclass,
    "2**64": lambda: 2**64,
    "-2**63-1": lambda: -(2**63) - 1,
    "10**4400": lambda: 10**4400,
    "lone surrogate": lambda: "\ud800",
    "lone surrogate in a key": lambda: {"\udfff": 1},
    "object": object,
    "class": lambda: int,
    "function": lambda: encode,
    "complex": lambda: 1j,
    "range": lambda: range(3),
    "generator": lambda: (i for i in ()),
    "exception": lambda: ValueError("x"),
    "raising object": Raises,
    "timestamp": lambda: msgpack.Timestamp(1),
    "timestamp in a list": lambda: [[[msgpack.Timestamp(1)]]],
}


@pytest.mark.parametrize("around", [lambda v: v, lambda v: [v], lambda v: {"a": v}], ids=["", "[]", "{}"])
@pytest.mark.parametrize("any_keys", [False, True])
@pytest.mark.parametrize("make", REFUSED.values(), ids=REFUSED.keys())
def test_what_cannot_be_sent_is_an_encode_error(make, any_keys, around):
    with pytest.raises(EncodeError) as caught:
        encode(around(make()), any_keys=any_keys)
    assert str(caught.value)


@pytest.mark.parametrize("around", [lambda v: v, lambda v: [v], lambda v: [[[v]]], lambda v: {"a": v}])
def test_extensions_cannot_be_sent(around):
    with pytest.raises(EncodeError, match="extension"):
        encode(around(msgpack.ExtType(5, b"x")))


def test_an_encode_error_is_a_type_error_with_its_cause():
    with pytest.raises(TypeError, match="boom") as caught:
        encode(RaisingDict())
    assert isinstance(caught.value.__cause__, OSError)


def test_the_reason_of_an_error_without_text_is_its_class():
    class Silent(dict):
        def items(self):
            raise ValueError

    with pytest.raises(EncodeError, match="^ValueError$"):
        encode(Silent())


def test_the_reason_of_an_error_that_fails_to_give_its_text_is_its_class():
    class Mute(Exception):
        def __str__(self):
            raise RuntimeError("no text")

    class Failing(dict):
        def items(self):
            raise Mute

    with pytest.raises(EncodeError, match="^Mute$"):
        encode(Failing())


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, SystemExit])
def test_what_ends_the_process_is_not_swallowed(interrupt):
    class Interrupted(dict):
        def items(self):
            raise interrupt

    with pytest.raises(interrupt):
        encode(Interrupted())


# --- depth ---


@pytest.mark.parametrize("depth", [1, 2, 3, 4, 10, 64, 200])
def test_sending_and_receiving_draw_the_line_at_the_same_depth(depth):
    body = encode(nested(depth), max_depth=depth)
    assert decode(body, max_depth=depth) == nested(depth)
    with pytest.raises(EncodeError, match=f"nested deeper than {depth}"):
        encode(nested(depth + 1), max_depth=depth)
    with pytest.raises(DecodeError, match=f"nested deeper than {depth}"):
        decode(msgpack.packb(nested(depth + 1)), max_depth=depth)


def test_maps_count_as_much_as_arrays():
    value: Any = 1
    for _ in range(64):
        value = {"a": value}
    assert decode(encode(value)) == value
    with pytest.raises(EncodeError, match="nested deeper than 64"):
        encode([value])


def test_depth_is_looked_for_in_every_branch():
    with pytest.raises(DecodeError, match="nested deeper than 5"):
        decode(msgpack.packb([1, "a", nested(3), {"k": nested(5)}, 2.5]), max_depth=5)


def test_many_containers_side_by_side_are_not_deep():
    value = [{"a": [i], "b": {"c": []}} for i in range(1000)]
    assert decode(encode(value, max_depth=4), max_depth=4) == value


def test_bytes_that_look_like_headers_are_not_containers():
    value = {"blob": bytes([0x91] * 500 + [0xDC, 0xDF, 0x81] * 100)}
    assert decode(encode(value, max_depth=3), max_depth=3) == value


@pytest.mark.parametrize("depth", [65, 1000, 1024, 1025, 100_000])
@pytest.mark.parametrize("header", [b"\x91", b"\xdc\x00\x01", b"\xdd\x00\x00\x00\x01", b"\x81\xa1a"])
def test_towers_of_any_height_are_refused(depth, header):
    with pytest.raises(DecodeError):
        decode(header * depth + b"\x01")


# --- bad bytes ---

MALFORMED = {
    "empty": b"",
    "c1": b"\xc1",
    "c1 in an array": b"\x91\xc1",
    "truncated integer": b"\xcd\x01",
    "truncated text": b"\xa5ab",
    "truncated array": b"\x93\x01\x02",
    "truncated map": b"\x81\xa1a",
    "truncated extension": b"\xd6\xff\x00",
    "trailing byte": b"\x01\x01",
    "trailing half value": b"\x01\xa5",
    "array of 2**32-1": b"\xdd\xff\xff\xff\xff",
    "map of 2**32-1": b"\xdf\xff\xff\xff\xff",
    "text of 2**32-1": b"\xdb\xff\xff\xff\xff",
    "bytes of 2**32-1": b"\xc6\xff\xff\xff\xff",
    "extension of 2**32-1": b"\xc9\xff\xff\xff\xff\x05",
    "bad UTF-8": b"\xa1\xff",
    "surrogate in UTF-8": b"\xa3\xed\xa0\x80",
    "bad UTF-8 in a key": b"\x81\xa1\xff\x01",
    "integer key": b"\x81\x01\xa1a",
    "float key": b"\x81\xcb\x3f\xf8\x00\x00\x00\x00\x00\x00\x01",
    "nil key": b"\x81\xc0\x01",
    "true key": b"\x81\xc3\x01",
    "array key": b"\x81\x91\x01\x01",
    "map key": b"\x81\x80\x01",
    "integer key inside": b"\x91\x81\xa1a\x81\x01\x02",
}
EXTENSIONS = {
    "fixext1": b"\xd4\x05a",
    "fixext16": b"\xd8\x05" + b"a" * 16,
    "ext8": b"\xc7\x03\x05abc",
    "ext16": b"\xc8\x00\x03\x05abc",
    "ext32": b"\xc9\x00\x00\x00\x03\x05abc",
    "ext8, empty": b"\xc7\x00\x05",
    "negative type": b"\xd4\x80a",
    "timestamp 32": b"\xd6\xff" + bytes(4),
    "timestamp 64": b"\xd7\xff" + bytes(8),
    "timestamp 96": b"\xc7\x0c\xff" + bytes(12),
    # msgpack takes every length of header for a timestamp.
    "timestamp 32 as ext8": b"\xc7\x04\xff" + bytes(4),
    "timestamp 64 as ext8": b"\xc7\x08\xff" + bytes(8),
    "timestamp 32 as ext16": b"\xc8\x00\x04\xff" + bytes(4),
    "timestamp 64 as ext16": b"\xc8\x00\x08\xff" + bytes(8),
    "timestamp 96 as ext16": b"\xc8\x00\x0c\xff" + bytes(12),
    "timestamp 32 as ext32": b"\xc9\x00\x00\x00\x04\xff" + bytes(4),
    "timestamp 64 as ext32": b"\xc9\x00\x00\x00\x08\xff" + bytes(8),
    "timestamp 96 as ext32": b"\xc9\x00\x00\x00\x0c\xff" + bytes(12),
    "timestamp of a wrong length": b"\xd4\xffa",
}


@pytest.mark.parametrize("body", MALFORMED.values(), ids=MALFORMED.keys())
def test_malformed_bytes_are_a_decode_error(body):
    with pytest.raises(DecodeError) as caught:
        decode(body)
    assert str(caught.value)


@pytest.mark.parametrize("prefix", [b"", b"\x91", b"\x91\x91\x91", b"\x81\xa1a", b"\x92\xa0"], ids=bytes.hex)
@pytest.mark.parametrize("body", EXTENSIONS.values(), ids=EXTENSIONS.keys())
def test_extensions_are_refused(body, prefix):
    with pytest.raises(DecodeError):
        decode(prefix + body)


@pytest.mark.parametrize("body", EXTENSIONS.values(), ids=EXTENSIONS.keys())
def test_extensions_are_refused_beside_many_containers(body):
    # More header bytes than the depth: the value itself has to be searched.
    with pytest.raises(DecodeError):
        decode(b"\xdc\x00\x64" + b"\x90" * 99 + body)


def test_text_that_contains_the_bytes_of_a_timestamp_is_text():
    value = [[["\x00", b"\xd6\xff\x00\x00\x00\x00", b"\xc7\x0c\xff"]]]
    assert decode(encode(value)) == value


# --- memory ---


def peak_of_unpacking(expression):
    """How much memory, in bytes, unpacking a hostile body takes at most, in a process of its own."""
    code = f"""
        import resource
        from trpc._codec import DecodeError, unpack
        body = {expression}
        unpack(b"\\x01", max_depth=64)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        try:
            unpack(body, max_depth=64)
        except DecodeError:
            pass
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True)
    return int(done.stdout) * 1024


MIB = 1024 * 1024


@pytest.mark.parametrize(
    "expression",
    [
        r"(b'\xdd' + (2**20 - 5).to_bytes(4, 'big')) * 100 + b'\x00' * (2**20 - 500)",
        r"(b'\xdd' + (2**20 // 5).to_bytes(4, 'big')) * (2**20 // 5)",
        r"(b'\xdc\xff\xff') * (2**20 // 3)",
    ],
)
def test_nested_array_headers_do_not_reserve_what_they_announce(expression):
    # msgpack before 1.2.4 reserved 815 MiB for 100 array32 headers in a frame of 1 MiB.
    assert peak_of_unpacking(expression) < 64 * MIB


def test_the_most_that_a_body_grows_by_when_it_is_decoded():
    # An empty map of one byte becomes a dict of 64, and its place in the list.
    assert peak_of_unpacking(r"b'\xdd' + (2**20).to_bytes(4, 'big') + b'\x80' * 2**20") < 100 * MIB


def test_the_present_msgpack_is_one_that_is_safe():
    assert msgpack.version >= (1, 2, 4)


# --- hints ---


def test_convert_gives_the_type_of_the_hint():
    assert convert({"x": 1, "y": 2}, Point) == Point(1, 2.0)
    assert convert([1, "a"], Pair) == Pair(1, "a")


def test_convert_says_where_and_why():
    with pytest.raises(DecodeError, match=r"Expected `int`, got `str` - at `\$\[0\]\.x`"):
        convert([{"x": "1"}], list[Point])


@pytest.mark.parametrize(
    ("value", "hint"),
    [
        ("1", int),
        (1, str),
        (1, bool),
        (1.5, int),
        (True, int),
        ("aGk=", bytes),
        (b"hi", str),
        (1, None),
        ({"a": 1}, dict[int, int]),
        ([1, "a"], list[int]),
        ([1], tuple[int, int]),
        ("blue", Color),
    ],
)
def test_convert_is_strict(value, hint):
    with pytest.raises(DecodeError, match=r"Expected|Invalid"):
        convert(value, hint)


@dataclasses.dataclass
class Picky:
    value: int

    def __post_init__(self):
        raise {1: OSError, 2: AssertionError, 3: ValueError, 4: TypeError}[self.value]


@pytest.mark.parametrize("value", [1, 2, 3, 4, 5])
def test_whatever_a_users_constructor_raises_is_a_decode_error(value):
    with pytest.raises(DecodeError) as caught:
        convert({"value": value}, Picky)
    assert str(caught.value)


class Unknown:
    pass


@dataclasses.dataclass
class Recursive:
    children: "list[Recursive]"


@dataclasses.dataclass
class HoldsUnknown:
    fine: int
    bad: Unknown


@dataclasses.dataclass
class RecursiveUnknown:
    children: "list[RecursiveUnknown]"
    bad: dict[str, Unknown]


class TypedUnknown(TypedDict):
    bad: tuple[int, Unknown]


T = TypeVar("T")


class Box(msgspec.Struct, Generic[T]):
    item: T


@pytest.mark.parametrize(
    "hint",
    [int, str | None, list[Point], Recursive, dict[str, Recursive], Box[int], Any, list[Any], TypedDict("E", {})],
)
def test_supported_hints_pass_the_check(hint):
    check_hint(hint)


@pytest.mark.parametrize(
    "hint",
    [
        Unknown,
        list[Unknown],
        dict[str, list[Unknown]],
        Unknown | None,
        tuple[int, Unknown],
        HoldsUnknown,
        list[HoldsUnknown],
        RecursiveUnknown,
        TypedUnknown,
        Box[Unknown],
    ],
    ids=str,
)
def test_unknown_classes_are_found_wherever_they_are(hint):
    with pytest.raises(TypeError, match=r"'Unknown' is not supported"):
        check_hint(hint)


@pytest.mark.parametrize("hint", [int | bytes | str, list[int] | set[int], Point | dict[str, int]], ids=str)
def test_unions_that_cannot_be_told_apart_are_refused(hint):
    with pytest.raises(TypeError, match="union"):
        check_hint(hint)


@pytest.mark.parametrize("hint", [dict[str, object], list[object], object | None], ids=str)
def test_object_stands_for_any_value_wherever_it_is(hint):
    check_hint(hint)


@pytest.mark.parametrize("key", [bool, None, tuple[int, int], frozenset[int], int | str, bool | int], ids=str)
def test_keys_that_text_cannot_tell_apart_are_no_hint(key):
    with pytest.raises(TypeError, match="keys of this type cannot be sent"):
        check_hint(dict[key, int])
    with pytest.raises(TypeError, match="keys of this type cannot be sent"):
        check_hint(list[dict[str, dict[key, int]]])


# --- a hint that is known beforehand ---


class Keys(TypedDict, total=False):
    name: str
    number: float


class Tagged(msgspec.Struct, tag=True):
    x: int


class OtherTagged(msgspec.Struct, tag="Other"):
    x: int
    more: bytes = b""


class Numbered(msgspec.Struct, tag=7):
    x: int


class OtherNumbered(msgspec.Struct, tag=8):
    x: int


class Strict(msgspec.Struct, forbid_unknown_fields=True, rename="camel"):
    some_name: str


class AsArray(msgspec.Struct, array_like=True):
    x: int
    y: str = "y"


@dataclasses.dataclass
class Photo:
    name: str
    data: bytes


@dataclasses.dataclass
class Tree:
    value: int
    children: "list[Tree]"


CONVERTER_HINTS = [
    int,
    float,
    str,
    bool,
    bytes,
    bytearray,
    None,
    Any,
    object,
    int | None,
    int | float,
    int | str | None,
    int | bytes,
    list,
    dict,
    tuple,
    set,
    list[int],
    list[Any],
    list[bytes],
    list[list[float]],
    tuple[int, str],
    tuple[int, ...],
    tuple[()],
    set[int],
    frozenset[str],
    dict[str, int],
    dict[int, str],
    dict[Number, int],
    dict[str, dict[float, bytes]],
    Color,
    Number,
    Literal["a", 1, None],
    Annotated[int, msgspec.Meta(ge=0, lt=10)],
    Annotated[str, msgspec.Meta(max_length=2)],
    Point,
    Pair,
    Struct,
    Keys,
    Photo,
    Tree,
    Picky,
    Tagged | OtherTagged,
    Tagged | int,
    Numbered | OtherNumbered,
    Strict,
    AsArray,
    Box[int],
    Box[bytes],
    list[Point | None],
    dt.date,
    dt.datetime,
    dt.timedelta,
    uuid.UUID,
    decimal.Decimal,
    list[dt.date],
    tuple[int, float, str],
    tuple[Point, dt.date, bytes],
]
CONVERTER_VALUES = [
    *PLAIN,
    *([kind] for kind in ("a", 1, 1.0, None, b"x", True)),
    1,
    5,
    10,
    2**53 + 1,
    3.0,
    math.nan,
    -math.inf,
    "a",
    "abc",
    "red",
    "1",
    "1.5",
    "aGk=",
    "2024-02-29",
    "2024-02-29T01:02:03Z",
    "PT90S",
    "00000000-0000-0000-0000-000000000005",
    [1, "a"],
    [1, 2.5, "x"],
    [[1.5], [2]],
    [1, 1, 2],
    ["a", "b"],
    [b"x"],
    [{"x": 1}, None, {"x": 1, "y": 2, "z": 3}],
    {"x": 1},
    {"x": "1"},
    {"x": 1, "y": 2, "unknown": [1]},
    {"x": 1.0},
    {"y": 1},
    {"1": "a"},
    {"1": 2},
    {"a": {"1.5": b"x"}},
    {b"a": 1},
    {"name": "n", "data": b"\xff"},
    {"name": "n", "blob": b"\xff"},
    {"name": "n", "number": 1},
    {"name": 1},
    {b"name": "n", "data": b""},
    {"name": "n", "data": "bm8="},
    {"value": 1, "children": [{"value": 2, "children": []}]},
    {"value": 1, "children": [{"value": 2, "children": [{}]}]},
    {"value": 2},
    {"value": 5},
    {"type": "Tagged", "x": 1},
    {"type": 7, "x": 1},
    {"type": "7", "x": 1},
    {"type": "Other", "x": 1},
    {"someName": "s"},
    {"someName": "s", "more": 1},
    {"item": 1},
    {"item": b"x"},
]


def outcome_of(function, *args):
    """What a conversion gives, with its types, or its error."""
    try:
        # As text, because NaN is no equal of its own.
        result = function(*args)
        return repr(result), type(result)
    except DecodeError as exc:
        return "DecodeError", str(exc), type(exc.__cause__)


@pytest.mark.parametrize("hint", CONVERTER_HINTS, ids=str)
def test_a_converter_does_what_convert_does(hint):
    check_hint(hint)
    convert_one = converter(hint)
    for value in CONVERTER_VALUES:
        assert outcome_of(convert_one, value) == outcome_of(convert, value, hint), value


@pytest.mark.parametrize("hint", [int, float, str, bool])
def test_a_value_that_is_what_it_has_to_be_is_the_same_object(hint):
    value = {int: 10**10, float: 1.5, str: "text" * 10, bool: True}[hint]
    assert converter(hint)(value) is value


def test_a_converter_keeps_no_values():
    convert_one = converter(list[Point])
    first, second = convert_one([{"x": 1}]), convert_one([{"x": 2}])
    assert first == [Point(1)]
    assert second == [Point(2)]


# --- in pieces ---

SCATTERED = [
    *PLAIN,
    bytes(LARGE - 1),
    bytes(LARGE),
    bytes(LARGE + 1),
    [bytes(LARGE)],
    (bytes(LARGE), "a", 1, None, 2.5, True, b"small"),
    ["method", [bytes(LARGE), bytes(3 * LARGE), b""]],
    ["method", [1, bytes(LARGE), [2]]],
    ["method", [bytes(LARGE)], {"key": bytes(LARGE)}],
    ["method", list(range(20)), bytes(LARGE)],
    [*range(70_000), bytes(LARGE)],
    [uuid.UUID(int=1), bytes(LARGE)],
    [bytearray(LARGE), memoryview(bytes(LARGE))],
]


@pytest.mark.parametrize("max_depth", [3, 64])
@pytest.mark.parametrize("value", SCATTERED, ids=lambda value: repr(value)[:20])
def test_the_pieces_are_the_bytes_of_the_whole(value, max_depth):
    try:
        whole = pack(value, max_depth=max_depth)
    except EncodeError as exc:
        with pytest.raises(EncodeError) as caught:
            pack_scattered(value, max_depth=max_depth)
        assert str(caught.value) == str(exc)
    else:
        assert joined(pack_scattered(value, max_depth=max_depth)) == whole


@pytest.mark.parametrize("max_depth", [1, 2])
def test_the_pieces_obey_the_depth(max_depth):
    assert joined(pack_scattered([bytes(LARGE)], max_depth=max_depth)) == pack([bytes(LARGE)], max_depth=max_depth)
    value = ["m", [bytes(LARGE)]]
    if max_depth < 2:
        with pytest.raises(EncodeError, match="nested deeper than 1"):
            pack_scattered(value, max_depth=max_depth)
    else:
        assert joined(pack_scattered(value, max_depth=max_depth)) == pack(value, max_depth=max_depth)


def test_large_bytes_are_a_piece_of_their_own_and_not_copied():
    large = [bytes([i]) * LARGE for i in range(2)]
    pieces = pack_scattered(["method", [large[0], 1, large[1]]], max_depth=64)
    assert type(pieces) is tuple
    assert all(any(piece is one for piece in pieces) for one in large)
    assert pack_scattered(large[0], max_depth=64)[-1] is large[0]


@pytest.mark.parametrize("bad", [2**64, -(2**63) - 1, "\ud800"])
@pytest.mark.parametrize("around", [lambda v: [v, bytes(LARGE)], lambda v: [[bytes(LARGE), v]], lambda v: (v,)])
def test_what_cannot_be_sent_is_the_same_error_in_pieces(bad, around):
    value = around(bad)
    with pytest.raises(EncodeError) as whole:
        pack(value, max_depth=64)
    with pytest.raises(EncodeError) as pieces:
        pack_scattered(value, max_depth=64)
    assert str(pieces.value) == str(whole.value)
