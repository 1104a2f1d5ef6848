"""A method's hints as the schema of its arguments and its result."""

import dataclasses
import datetime as dt
import decimal
import enum
import math
import typing
import uuid
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Awaitable, Iterator
from typing import Annotated, Any, Literal, NamedTuple, NewType, TypedDict

import msgspec
import pytest
import trio

from trpc import InvalidArguments
from trpc import _codec as codec
from trpc._signature import Signature, returns_stream


class Color(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Level(enum.IntEnum):
    LOW = 1


class Point(NamedTuple):
    x: int
    y: float = 0.5


class Options(TypedDict):
    name: str
    size: int


class Partial(TypedDict, total=False):
    name: str


@dataclasses.dataclass
class Order:
    id: uuid.UUID
    when: dt.datetime
    price: decimal.Decimal
    lines: "list[Line]"
    note: str | None = None


@dataclasses.dataclass(frozen=True)
class Line:
    item: str
    count: int = 1


class Reading(msgspec.Struct):
    sensor: str
    values: list[float]
    raw: bytes = b""


class Cat(msgspec.Struct, tag=True):
    lives: int


class Dog(msgspec.Struct, tag=True):
    name: str


UserId = NewType("UserId", int)


class Custom:
    pass


def signature_of(hint, **names):
    """The signature of a method that takes one argument of this hint and returns it."""

    def function(self, value): ...

    function.__annotations__ = {"value": hint, "return": hint}
    return Signature(function, "Service.method")


def send(value, *, any_keys=True):
    """The value as the other side unpacks it."""
    return codec.unpack(codec.pack(codec.with_text_keys(value) if any_keys else value, max_depth=64), max_depth=64)


ORDER = Order(
    uuid.UUID(int=1), dt.datetime(2024, 2, 29, tzinfo=dt.UTC), decimal.Decimal("1.10"), [Line("a"), Line("b", 2)]
)

# Hint, values that fit, values (as the peer may send them) that do not.
SUPPORTED = [
    (int, [0, -5, 2**64 - 1], ["1", 1.5, None, True, [1]]),
    (float, [0.5, math.inf, -0.0], ["1", None, [1.0], True]),
    (str, ["", "✓"], [1, b"x", None]),
    (bytes, [b"", b"\x00\xff"], ["x", 1, None]),
    (bool, [True, False], [0, 1, "true", None]),
    (None, [None], [0, False, ""]),
    (list, [[], [1, "a", [None]]], [{}, "ab", None]),
    (list[int], [[], [1, 2]], [[1, "a"], {}, "12"]),
    (dict, [{}, {"a": [1]}], [[], "a"]),
    (dict[str, int], [{}, {"a": 1}], [{"a": "b"}, []]),
    (dict[int, str], [{}, {1: "a", -2: "b"}], [{"a": "b"}, {"1": 1}]),
    (dict[Level, list[str]], [{Level.LOW: ["a"]}], [{"7": []}]),
    (dict[uuid.UUID, int], [{uuid.UUID(int=3): 3}], [{"3": 3}]),
    (dict[str, dict[int, float]], [{"a": {1: 0.5}}], [{"a": {"b": 0.5}}]),
    (dict[bytes, int], [{b"\xff": 1}], [[1]]),
    (tuple, [(), (1, "a")], [{}, "ab"]),
    (tuple[int, str], [(1, "a")], [[1], [1, "a", 2], ["a", 1]]),
    (tuple[int, ...], [(), (1, 2, 3)], [[1, "a"]]),
    (set, [set(), {1, 2}], [{}, "ab"]),
    (set[int], [{1, 2}], [["a"], 1]),
    (frozenset[str], [frozenset({"a"})], [[1]]),
    (set[tuple[int, int]], [{(1, 2)}], [[[1]]]),
    (int | None, [1, None], ["a"]),
    (int | str, [1, "1"], [1.5, None, [1]]),
    (int | float, [1, 1.5], ["1"]),
    (list[int] | int | None, [[1], 1, None], ["a", ["a"]]),
    (str | list[str] | dict[str, str], ["a", ["a"], {"a": "b"}], [1, [1]]),
    (Line | None, [Line("a"), None], [[], 1]),
    (Cat | Dog, [Cat(9), Dog("rex")], [{"type": "Cow"}, {"lives": 9}]),
    (Literal["a", "b", 1], ["a", 1], ["c", 2, None]),
    (Options, [{"name": "a", "size": 1}], [{"name": "a"}, {"name": "a", "size": "1"}, []]),
    (Partial, [{}, {"name": "a"}], [{"name": 1}]),
    (Point, [Point(1), Point(1, 2.5)], [["a"], [], [1, 2, 3]]),
    (Line, [Line("a"), Line("a", 5)], [{}, {"item": 1}, {"item": "a", "count": "2"}, 5, "Line"]),
    (Order, [ORDER], [{}, {"id": "x"}]),
    (list[Order], [[ORDER, ORDER]], [[{}]]),
    (Color, [Color.RED, Color.BLUE], ["green", 1, "RED"]),
    (Level, [Level.LOW], [2, "1"]),
    (
        dt.datetime,
        [dt.datetime.fromisoformat("2024-02-29T01:02:03"), dt.datetime(2024, 2, 29, 1, 2, 3, 4, tzinfo=dt.UTC)],
        ["yesterday", 5],
    ),
    (dt.date, [dt.date(2024, 2, 29)], ["2023-02-29", 5]),
    (dt.time, [dt.time(1, 2, 3)], ["25:00", []]),
    (dt.timedelta, [dt.timedelta(0), dt.timedelta(-3, 5, 7), dt.timedelta.max, dt.timedelta.min], ["5 s", []]),
    (uuid.UUID, [uuid.UUID(int=0), uuid.UUID(int=2**128 - 1)], ["x", 5, b"x"]),
    (decimal.Decimal, [decimal.Decimal("1.10"), decimal.Decimal("-1e-30")], ["x", []]),
    (Reading, [Reading("s", [0.5], b"\xff")], [{"sensor": "s"}, {"sensor": "s", "values": [], "raw": "x"}]),
    (bytearray, [bytearray(b"ab")], ["ab"]),
    (Annotated[int, msgspec.Meta(ge=0)], [0, 5], [-1, "a"]),
    (UserId, [5], ["a"]),
]
VALUES = [(hint, value) for hint, values, _ in SUPPORTED for value in values]
MISFITS = [(hint, value) for hint, _, values in SUPPORTED for value in values]


@pytest.mark.parametrize(("hint", "value"), VALUES, ids=str)
def test_arguments_round_trip(hint, value):
    (converted,), kwargs = signature_of(hint).convert_arguments(send([value]), None)
    assert converted == value
    assert type(converted) is type(value)
    assert not kwargs


@pytest.mark.parametrize(("hint", "value"), VALUES, ids=str)
def test_keyword_arguments_round_trip(hint, value):
    (converted,), kwargs = signature_of(hint).convert_arguments([], send({"value": value}))
    assert converted == value
    assert type(converted) is type(value)
    assert not kwargs


@pytest.mark.parametrize(("hint", "value"), VALUES, ids=str)
def test_results_round_trip(hint, value):
    converted = codec.convert(send(value), signature_of(hint).returns)
    assert converted == value
    assert type(converted) is type(value)


@pytest.mark.parametrize(("hint", "value"), MISFITS, ids=str)
@pytest.mark.parametrize("by_name", [False, True])
def test_arguments_that_do_not_fit_are_named_with_what_was_expected(hint, value, by_name):
    signature = signature_of(hint)
    with pytest.raises(
        InvalidArguments, match=r"^Service\.method: argument 'value': (Expected|Invalid|Object missing)"
    ):
        if by_name:
            signature.convert_arguments([], {"value": value})
        else:
            signature.convert_arguments([value], None)


@pytest.mark.parametrize(("hint", "value"), MISFITS, ids=str)
def test_results_that_do_not_fit(hint, value):
    with pytest.raises(codec.DecodeError):
        codec.convert(value, signature_of(hint).returns)


def test_integers_are_floats():
    ((value,), _) = signature_of(float).convert_arguments([1], None)
    assert value == 1.0
    assert type(value) is float


@pytest.mark.parametrize("hint", [Any, object], ids=str)
def test_a_hint_that_takes_anything(hint):
    signature = signature_of(hint)
    value = {"a": [1, b"x", None]}
    args, _ = signature.convert_arguments([value], None)
    assert args[0] is value
    args, _ = signature.convert_arguments([], {"value": value})
    assert args[0] is value
    assert signature.returns is Any


# --- the shapes of signatures ---


class Shapes:
    def none(self): ...

    def plain(self, a: int, b: str = "b"): ...

    def keyword_only(self, a: int, *, b: str): ...

    def optional_keyword_only(self, a: int, *, b: str = "b"): ...

    def positional_only(self, a: int, /, b: int = 2): ...

    def many(self, first: str, *rest: int): ...

    def named(self, first: str = "f", **rest: int): ...

    def all(self, a: int, /, b: int, *c: int, d: int, e: int = 5, **f: int): ...

    def unhinted(self, a, b=None, *c, d=None, **e): ...

    def mixed(self, a, b: int): ...


def convert(name, *args, **kwargs):
    signature = Signature(getattr(Shapes, name), f"Shapes.{name}")
    args, kwargs = signature.convert_arguments(list(args), kwargs or None)
    return tuple(args), dict(kwargs)


@pytest.mark.parametrize(
    ("name", "args", "kwargs", "result"),
    [
        ("none", (), {}, ((), {})),
        ("plain", (1,), {}, ((1,), {})),
        ("plain", (1, "x"), {}, ((1, "x"), {})),
        ("plain", (1,), {"b": "x"}, ((1, "x"), {})),
        ("plain", (), {"b": "x", "a": 1}, ((1, "x"), {})),
        ("plain", (), {"a": 1}, ((1,), {})),
        ("keyword_only", (1,), {"b": "x"}, ((1,), {"b": "x"})),
        ("optional_keyword_only", (1,), {}, ((1,), {})),
        ("optional_keyword_only", (1,), {"b": "x"}, ((1,), {"b": "x"})),
        ("positional_only", (1,), {}, ((1,), {})),
        ("positional_only", (1,), {"b": 3}, ((1, 3), {})),
        ("many", ("f",), {}, (("f",), {})),
        ("many", ("f", 1, 2, 3), {}, (("f", 1, 2, 3), {})),
        ("named", (), {}, ((), {})),
        ("named", (), {"x": 1, "y": 2}, ((), {"x": 1, "y": 2})),
        ("named", ("g",), {"x": 1}, (("g",), {"x": 1})),
        ("all", (1, 2, 3, 4), {"d": 5, "z": 6}, ((1, 2, 3, 4), {"d": 5, "z": 6})),
        ("all", (1,), {"b": 2, "d": 5, "e": 7}, ((1, 2), {"d": 5, "e": 7})),
        # The name of a positional-only parameter is free for **f.
        ("all", (1, 2), {"d": 5, "a": 6}, ((1, 2), {"d": 5, "a": 6})),
        ("unhinted", ([1],), {}, (([1],), {})),
        ("unhinted", (1, 2, 3), {"d": 4, "z": 5}, ((1, 2, 3), {"d": 4, "z": 5})),
        ("mixed", ({"a": 1}, 2), {}, (({"a": 1}, 2), {})),
    ],
)
def test_arguments_are_bound_as_python_binds_them(name, args, kwargs, result):
    assert convert(name, *args, **kwargs) == result
    getattr(Shapes(), name)(*result[0], **result[1])


@pytest.mark.parametrize(
    ("name", "args", "kwargs", "message"),
    [
        ("none", (1,), {}, "too many positional arguments"),
        ("none", (), {"x": 1}, "unexpected keyword argument 'x'"),
        ("plain", (), {}, "missing a required argument: 'a'"),
        ("plain", (), {"b": "x"}, "missing a required argument: 'a'"),
        ("plain", (1, "x", 2), {}, "too many positional arguments"),
        ("plain", (1,), {"a": 1}, "multiple values for argument 'a'"),
        ("plain", (1,), {"c": 1}, "unexpected keyword argument 'c'"),
        ("keyword_only", (1,), {}, "missing a required .*'b'"),
        ("keyword_only", (1, "x"), {}, "too many positional arguments"),
        ("optional_keyword_only", (1, "x"), {}, "too many positional arguments"),
        ("positional_only", (), {"a": 1}, "'a'"),
        ("many", (), {}, "missing a required argument: 'first'"),
        ("plain", ("1",), {}, "argument 'a': Expected `int`, got `str`"),
        ("plain", (1, 2), {}, "argument 'b': Expected `str`, got `int`"),
        ("plain", (1,), {"b": 2}, "argument 'b': Expected `str`, got `int`"),
        ("keyword_only", (1,), {"b": 2}, "argument 'b': Expected `str`, got `int`"),
        ("many", ("f", 1, "x"), {}, r"argument '\*rest': Expected `int`, got `str`"),
        ("many", (1, 1), {}, "argument 'first': Expected `str`, got `int`"),
        ("named", (), {"x": 1, "y": "z"}, "argument 'y': Expected `int`, got `str`"),
        ("mixed", ([], "x"), {}, "argument 'b': Expected `int`, got `str`"),
    ],
)
def test_arguments_that_python_would_not_bind_or_that_do_not_fit(name, args, kwargs, message):
    with pytest.raises(InvalidArguments, match=rf"^Shapes\.{name}: .*{message}"):
        convert(name, *args, **kwargs)


@pytest.mark.parametrize("name", ["named", "unhinted"])
def test_an_argument_named_self_is_no_way_around_the_check(name):
    # Python does not bind it either, as `self` is taken.
    with pytest.raises(InvalidArguments, match="self"):
        convert(name, "a", self=1)


def test_the_place_of_a_misfit_is_told():
    signature = signature_of(list[Line])
    with pytest.raises(InvalidArguments, match=r"'value': Expected `int`, got `str` - at `\$\[1\]\.count`"):
        signature.convert_arguments([[{"item": "a"}, {"item": "b", "count": "x"}]], None)


def test_what_a_constructor_of_the_user_raises_is_an_invalid_argument():
    @dataclasses.dataclass
    class Picky:
        a: int

        def __post_init__(self):
            raise RuntimeError("not this one")

    with pytest.raises(InvalidArguments, match="argument 'value': not this one"):
        signature_of(Picky).convert_arguments([{"a": 1}], None)


def test_names_of_positional_parameters():
    signature = Signature(Shapes.all, "Shapes.all")
    assert [signature.name_of(i) for i in range(4)] == ["'a'", "'b'", "3", "4"]


# --- hints that cannot be ---


@pytest.mark.parametrize(
    ("hint", "shown"),
    [
        (Custom, "Custom"),
        (list[Custom], r"list\[.*Custom\]"),
        (dict[str, Custom | None], "Custom"),
        (complex, "complex"),
        (type(lambda: 0), "function"),
        (int | bytes | str, "int | bytes | str"),
        (list[int] | set[int], "list"),
    ],
    ids=str,
)
@pytest.mark.parametrize("where", ["value", "return"])
def test_a_hint_that_is_not_supported_is_named_when_the_method_is_registered(hint, shown, where):
    def function(self, value): ...

    function.__annotations__ = {where: hint}
    what = "the result" if where == "return" else "parameter 'value'"
    with pytest.raises(TypeError, match=rf"^Service\.method: the type hint `.*{shown}.*` of {what} cannot be sent: "):
        Signature(function, "Service.method")


def evaluated_late(hint):
    namespace: dict[str, Any] = {}
    exec(f"from __future__ import annotations\ndef function(self, value: {hint}): ...", namespace)
    return namespace["function"]


@pytest.mark.parametrize("hint", ["Missing", "list[Missing]", "int.missing", "1 / 0", "'1 +'", "[][0]"])
def test_a_hint_that_cannot_be_evaluated_is_a_type_error_that_names_the_method(hint):
    with pytest.raises(TypeError, match=r"^Service\.method: a type hint cannot be evaluated"):
        Signature(evaluated_late(hint), "Service.method")


@dataclasses.dataclass
class HoldsMissing:
    value: "Missing"  # type: ignore[name-defined]  # noqa: F821


def test_a_dataclass_whose_hints_cannot_be_evaluated_is_named():
    with pytest.raises(TypeError, match=r"^Service\.method: .*HoldsMissing.*Missing"):
        signature_of(HoldsMissing)


def test_hints_as_text_are_evaluated():
    signature = Signature(evaluated_late("dict[str, int | None]"), "Service.method")
    args, _ = signature.convert_arguments([{"a": None}], None)
    assert list(args) == [{"a": None}]
    with pytest.raises(InvalidArguments):
        signature.convert_arguments([{"a": "b"}], None)


def test_object_inside_of_a_hint_takes_anything():
    value = {"a": [1, b"x", None, {"b": 2.5}]}
    args, _ = signature_of(dict[str, object]).convert_arguments([value], None)
    assert args[0] == value


def test_a_hint_that_has_no_hash():
    class Notes:
        def f(self, a: Annotated[int, {"unit": "m"}]) -> Annotated[int, []]: ...

    with pytest.raises(InvalidArguments, match="argument 'a': Expected `int`, got `str`"):
        Signature(Notes.f, "Notes.f").convert_arguments(["x"], None)


# --- streams ---

# All that says that an argument is a stream, with what is in it.
STREAM_HINTS = [
    (AsyncIterable[int], int),
    (AsyncIterator[int], int),
    (trio.abc.ReceiveChannel[int], int),
    (typing.AsyncIterable[int], int),
    (typing.AsyncIterator[int], int),
    (AsyncIterable, Any),
    (AsyncIterator, Any),
    (trio.abc.ReceiveChannel, Any),
    (typing.AsyncIterator, Any),
    (AsyncIterator[Any], Any),
    (AsyncIterator[object], Any),
    (AsyncIterator[dict[int, Line]], dict[int, Line]),
]
# Of a result, this one as well.
RESULT_HINTS = [*STREAM_HINTS, (AsyncGenerator[int, None], int), (typing.AsyncGenerator[int, None], int)]
OPTIONAL = [lambda hint: hint | None, lambda hint: None | hint, lambda hint: typing.Optional[hint]]  # noqa: UP045


class Channel(trio.abc.ReceiveChannel):
    """Stands for a stream that the caller sends."""

    async def receive(self): ...

    async def aclose(self): ...


def taking(hint, *, default=None):
    def function(self, before: int, value, after: str = "a"): ...

    function.__annotations__["value"] = hint
    return Signature(function, "Service.method")


@pytest.mark.parametrize(("hint", "item"), STREAM_HINTS, ids=str)
def test_a_parameter_that_is_a_stream(hint, item):
    signature = taking(hint)
    assert signature.has_streams
    assert signature.stream_at(0) is signature.stream_at("before") is signature.stream_at("after") is None
    stream = signature.stream_at(1)
    assert stream is signature.stream_at("value")
    assert not stream.is_optional
    check_items(stream, item)
    assert signature.items is None


def check_items(stream, item):
    if item is Any:
        assert (stream.convert, stream.convert_all) == (None, None)
    elif item is int:
        assert stream.convert(5) == 5
        assert stream.convert_all([5, 6]) == [5, 6]
        for bad in ("5", None, 1.5):
            with pytest.raises(codec.DecodeError):
                stream.convert(bad)
            with pytest.raises(codec.DecodeError):
                stream.convert_all([1, bad])
    else:
        assert stream.convert({"1": {"item": "a"}}) == {1: Line("a")}
        assert stream.convert_all([{"1": {"item": "a"}}]) == [{1: Line("a")}]
    assert stream.has_typed_keys is (item not in {Any, int})


@pytest.mark.parametrize(("hint", "item"), STREAM_HINTS[:6], ids=str)
@pytest.mark.parametrize("optional", OPTIONAL)
def test_a_stream_may_be_left_out(hint, item, optional):
    signature = taking(optional(hint))
    assert signature.stream_at("value").is_optional
    check_items(signature.stream_at("value"), item)
    assert signature.convert_arguments([1, None], None) == ((1, None), {})


@pytest.mark.parametrize("by_name", [False, True])
def test_a_stream_is_bound_as_any_argument(by_name):
    channel = Channel()
    signature = taking(AsyncIterator[int])
    if by_name:
        assert signature.convert_arguments([], {"value": channel, "before": 1}) == ((1, channel), {})
    else:
        assert signature.convert_arguments([1, channel], {"after": "x"}) == ((1, channel, "x"), {})
    with pytest.raises(InvalidArguments, match="argument 'before': Expected `int`, got `str`"):
        signature.convert_arguments(["x", channel], None)
    with pytest.raises(InvalidArguments, match="missing a required argument: 'value'"):
        signature.convert_arguments([1], None)


@pytest.mark.parametrize("value", [None, [], [1], "text", {"a": 1}, 5])
@pytest.mark.parametrize("is_optional", [False, True])
def test_what_is_no_stream_does_not_take_the_place_of_one(value, is_optional):
    if value is None and is_optional:
        return
    signature = taking(AsyncIterator[int] | None if is_optional else AsyncIterator[int])
    with pytest.raises(
        InvalidArguments,
        match=rf"^Service\.method: argument 'value': Expected a stream, got `{type(value).__name__}`",
    ):
        signature.convert_arguments([1, value], None)


class Streams:
    def many(self, first: int, *rest: AsyncIterator[int]): ...

    def named(self, first: int = 1, **rest: AsyncIterator[str] | None): ...

    def both(self, *rest: AsyncIterator[int], last: AsyncIterator[str], other: int = 5): ...

    def none(self, first: int, *rest: int, **more: str): ...


def of(name):
    return Signature(getattr(Streams, name), f"Streams.{name}")


def test_streams_among_any_number_of_arguments():
    signature = of("many")
    assert signature.stream_at(0) is None
    assert signature.stream_at(1) is signature.stream_at(7) is not None
    one, two = Channel(), Channel()
    assert signature.convert_arguments([1, one, two], None) == ((1, one, two), {})
    with pytest.raises(InvalidArguments, match=r"argument '\*rest': Expected a stream, got `int`"):
        signature.convert_arguments([1, one, 2], None)


def test_streams_among_any_keyword_arguments():
    signature = of("named")
    assert signature.stream_at(0) is signature.stream_at("first") is None
    assert signature.stream_at("x") is signature.stream_at("y") is not None
    assert signature.stream_at("x").is_optional
    one = Channel()
    assert signature.convert_arguments([], {"x": one, "y": None}) == ((), {"x": one, "y": None})
    with pytest.raises(InvalidArguments, match="argument 'y': Expected a stream"):
        signature.convert_arguments([], {"x": one, "y": 1})


def test_streams_of_all_kinds_of_parameters():
    signature = of("both")
    check_items(signature.stream_at(3), int)
    assert signature.stream_at("last") is not signature.stream_at(0)
    assert signature.stream_at("other") is None
    assert signature.stream_at("missing") is None


def test_a_method_without_streams_has_none():
    signature = of("none")
    assert not signature.has_streams
    assert [signature.stream_at(place) for place in (0, 5, "first", "x")] == [None] * 4
    assert Signature(Shapes.none, "Shapes.none").stream_at(0) is None


def test_a_keyword_argument_that_is_named_as_what_it_cannot_be():
    def function(self, a: int, /, *items: AsyncIterator[int], **rest: AsyncIterator[str]): ...

    signature = Signature(function, "Service.method")
    # Python takes these for some of **rest.
    assert signature.stream_at("a") is signature.stream_at("items") is signature.stream_at("other") is not None
    channel = Channel()
    assert signature.convert_arguments([1], {"a": channel, "items": channel}) == (
        (1,),
        {"a": channel, "items": channel},
    )


def test_keys_of_items_do_not_concern_the_other_arguments():
    assert not taking(AsyncIterator[dict[int, str]]).has_typed_keys
    channel = Channel()
    args, kwargs = taking(AsyncIterator[int]).with_text_keys([1, channel], {})
    assert (list(args), kwargs) == ([1, channel], {})


def test_keys_as_text_leave_each_argument_where_it_is():
    """The place of a stream among them is sent as well."""

    def function(
        self, a: dict[int, int], items: AsyncIterator[int], b: dict[int, int], *more: dict[int, int], **rest
    ): ...

    signature = Signature(function, "Service.method")
    args, kwargs = signature.with_text_keys([{1: 1}, None], {"b": {2: 2}, "x": {"3": 3}})
    assert list(args) == [{"1": 1}, None]
    assert kwargs == {"b": {"2": 2}, "x": {"3": 3}}
    args, kwargs = signature.with_text_keys([{1: 1}, None, {2: 2}, {3: 3}], {})
    assert list(args) == [{"1": 1}, None, {"2": 2}, {"3": 3}]
    with pytest.raises(InvalidArguments, match="missing a required argument: 'b'"):
        signature.with_text_keys([{1: 1}, None], {})


@pytest.mark.parametrize(
    ("hint", "shown"),
    [
        (AsyncIterator[Custom], "Custom"),
        (AsyncIterator[AsyncIterator[int]], "AsyncIterator"),
        (list[AsyncIterator[int]], "AsyncIterator"),
        (tuple[AsyncIterator[int], int], "AsyncIterator"),
        (dict[str, AsyncIterator[int]], "AsyncIterator"),
        (AsyncIterator[int] | int, "AsyncIterator"),
        (AsyncIterator[int] | list[int] | None, "AsyncIterator"),
        (AsyncIterator[int] | AsyncIterable[str], "AsyncItera"),
        (Annotated[AsyncIterator[int], "note"], "AsyncIterator"),
        (Iterator[int], "Iterator"),
        (Awaitable[int], "Awaitable"),
        (trio.abc.Channel[int], "Channel"),
        (Channel, "Channel"),
    ],
    ids=str,
)
def test_a_stream_where_none_can_be_is_named_when_the_method_is_registered(hint, shown):
    with pytest.raises(TypeError, match=rf"^Service\.method: the type hint `.*{shown}.*` of parameter 'value'"):
        taking(hint)


@pytest.mark.parametrize(
    "hint", [AsyncGenerator, AsyncGenerator[int, None], trio.MemoryReceiveChannel, trio.MemoryReceiveChannel[int]]
)
@pytest.mark.parametrize("where", ["value", "return"])
def test_a_hint_that_is_too_narrow_for_a_stream(hint, where):
    """The stream that is there is none of these."""

    def function(self, value): ...

    function.__annotations__ = {where: hint}
    what = "the result" if where == "return" else "parameter 'value'"
    with pytest.raises(
        TypeError, match=rf"^Service\.method: {what} is a stream if its type hint is AsyncIterator\[\.\.\.\], not `"
    ):
        Signature(function, "Service.method")


# --- streams that are results ---


def giving(hint):
    def function(self): ...

    function.__annotations__ = {"return": hint}
    return function


@pytest.mark.parametrize(("hint", "item"), RESULT_HINTS, ids=str)
def test_a_result_that_is_a_stream(hint, item):
    assert returns_stream(giving(hint))
    signature = Signature(giving(hint), "Service.method", is_stream=True)
    assert signature.returns == item
    assert not signature.items.is_optional
    check_items(signature.items, item)
    assert not signature.has_streams


@pytest.mark.parametrize(
    "hint", [int, None, list[int], list, Any, Iterator[int], Awaitable[int], "int", "Missing", "1 +"]
)
def test_other_results_are_no_streams(hint):
    assert not returns_stream(giving(hint))


def test_without_a_hint_an_async_generator_is_one():
    async def generate(self):
        yield 1

    def plain(self): ...

    assert returns_stream(generate)
    assert not returns_stream(plain)
    signature = Signature(generate, "Service.method", is_stream=True)
    check_items(signature.items, Any)


@pytest.mark.parametrize("hint", ["AsyncIterator[int]", "typing.AsyncIterator['int']", "trio.abc.ReceiveChannel[Line]"])
def test_a_hint_as_text_says_it_too(hint):
    assert returns_stream(giving(hint))
    assert Signature(giving(hint), "Service.method", is_stream=True).items is not None


@pytest.mark.parametrize(
    ("hint", "shown"),
    [
        (AsyncIterator[Custom], "Custom"),
        (AsyncIterator[AsyncIterator[int]], "AsyncIterator"),
        (AsyncIterator[list[AsyncIterator[int]]], "AsyncIterator"),
        (AsyncIterator[int] | None, "AsyncIterator"),
        (AsyncIterator[int] | int, "AsyncIterator"),
        (list[AsyncIterator[int]], "AsyncIterator"),
    ],
    ids=str,
)
def test_a_result_with_a_stream_where_none_can_be_is_named_when_the_method_is_registered(hint, shown):
    function = giving(hint)
    with pytest.raises(TypeError, match=rf"^Service\.method: the type hint `.*{shown}.*` of the result"):
        Signature(function, "Service.method", is_stream=returns_stream(function))


# --- hashes that collide ---

COLLIDING = [str(uuid.UUID(int=5 + (2**61 - 1) * i)) for i in range(3000)]


@pytest.mark.parametrize(
    ("args", "kwargs", "name"),
    [
        ([COLLIDING], None, "ids"),
        ([], {"ids": COLLIDING}, "ids"),
        ([[], [], COLLIDING], None, r"\*more"),
        ([[]], {"other": COLLIDING}, "other"),
    ],
)
def test_an_argument_with_hashes_that_collide_is_named(args, kwargs, name):
    def function(self, ids: set[uuid.UUID], *more: set[uuid.UUID], **rest: set[uuid.UUID]): ...

    signature = Signature(function, "Service.method")
    with pytest.raises(
        InvalidArguments, match=rf"^Service\.method: argument '{name}': the hashes of its 3000 elements collide"
    ):
        signature.convert_arguments(args, kwargs)


def test_results_and_items_with_hashes_that_collide_do_not_fit():
    result = Signature(giving(set[uuid.UUID]), "Service.method").convert_result
    items = Signature(giving(AsyncIterator[set[uuid.UUID]]), "Service.method", is_stream=True).items
    sent = taking(AsyncIterator[set[uuid.UUID]]).stream_at("value")
    for convert in (result, items.convert, sent.convert):
        assert convert(COLLIDING[:64]) == {uuid.UUID(text) for text in COLLIDING[:64]}
        with pytest.raises(codec.DecodeError, match="collide too often"):
            convert(COLLIDING)
    for convert_all in (items.convert_all, sent.convert_all):
        with pytest.raises(codec.DecodeError, match="collide too often"):
            convert_all([[], COLLIDING])
