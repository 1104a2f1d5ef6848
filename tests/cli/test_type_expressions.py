"""Types as a server writes them: read, and never evaluated."""

import datetime as dt
import decimal
import enum
import uuid
from typing import Any, Literal

import msgspec
import pytest

from trpc._cli import _types
from trpc._cli._type_expressions import BadTypeError, is_name, item_of, literal, names_in, parse
from trpc._cli._types import Types
from trpc._cli._values import BadValueError, bytes_value_of, json_value_of, takes_bytes, value_of


def info(name, kind, *fields, **options):
    """A type of a service: each field is (name, type) or (name, type, default)."""
    return {
        "name": name,
        "kind": kind,
        "doc": "",
        "fields": [
            {"name": field[0], "key": field[0], "type": field[1], **({"default": field[2]} if len(field) > 2 else {})}
            for field in fields
        ],
        "options": options,
    }


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("int", int),
        ("list[int]", list[int]),
        ("list", list),
        ("dict[str, float | None]", dict[str, float | None]),
        ("tuple[int, str]", tuple[int, str]),
        ("tuple[int, ...]", tuple[int, ...]),
        ("tuple[()]", tuple[()]),
        ("set[int]", list[int]),
        ("frozenset[str]", list[str]),
        ("Literal['a', 1, None, True, b'x', -1]", Literal["a", 1, None, True, b"x", -1]),
        ("datetime.datetime | uuid.UUID", dt.datetime | uuid.UUID),
        ("decimal.Decimal", decimal.Decimal),
        ("AsyncIterable[int]", int),
        ("AsyncIterable[int] | None", int),
        ("None | AsyncIterator[list[int]]", list[int]),
        ("Any", Any),
    ],
)
def test_types(text, expected):
    # A union of both kinds of strings cannot be converted to, and is anything.
    assert Types().of(text) in {expected, Any} if "UUID" in text or "Literal" in text else Types().of(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "__import__('os').system('x')",
        "os.system",
        "datetime.sys",
        "int()",
        "int | 1",
        "lambda: 1",
        "list[int, str]",
        "dict[int]",
        "Literal[int]",
        "Literal[1.5]",
        "Literal[[1]]",
        "list[AsyncIterable[int]]",
        "AsyncIterable[int] | int",
        "Unknown",
        "Exception",
        "'int'",
        "int if 1 else 2",
        "[int]",
        "x := int",
        "list[*int]",
        "datetime.datetime.today",
        "int;int",
        "int\nint",
        "\x00",
        "list[" * 40 + "int" + "]" * 40,
        "(" * 3000 + ")" * 3000,
        "x" * 5000,
        "-" * 3900 + "1",
        "Literal[" + "-" * 3900 + "1]",
        "Literal['\\d']",
    ],
)
def test_what_is_no_type_is_anything(text):
    if text != "Literal['\\d']":
        with pytest.raises(BadTypeError):
            parse(text, ())
        assert Types().of(text) is Any
    assert names_in(text, {"Exception"}) <= {"Exception"}


def test_names():
    assert all(map(is_name, ["a_1", "é", "größe", "名"]))
    assert not any(map(is_name, ["", "1a", "class", "a b", "a-b", "__class__", "ﬁ", "a" * 300]))
    assert item_of(parse("int | None", ())) is None
    assert names_in("list[A] | B", {"A", "B", "C"}) == {"A", "B"}
    with pytest.raises(BadTypeError):
        literal("1" * 5000)
    with pytest.raises(BadTypeError):
        literal("x")


def test_classes():
    types = Types(
        [
            info("A", "dataclass", ("x", "int"), ("y", "list[B]", "[]")),
            info("B", "struct", ("x", "A | None", "None"), tag="b", tag_field="kind"),
            info("C", "namedtuple", ("x", "int"), ("y", "str", "'z'"), ("z", "E", "...")),
            info("D", "typeddict", ("x y", "int"), ("z", "int", "...")),
            info("E", "enum", ("P", "str", "'p'"), base="StrEnum"),
            info("F", "enum", ("P", "int", "1"), base="Flag"),
            info("G", "enum", ("mro", "int", "1"), ("__class__", "int", "2"), base="Enum"),
            info("H", "struct", ("x", "int", "1"), array_like=True),
        ]
    )
    assert json_value_of('{"x": 1, "y": [{"kind": "b"}]}', types.of("A")) == {"x": 1, "y": [{"kind": "b"}]}
    assert json_value_of('[1, "w", "p"]', types.of("C")) == [1, "w", "p"]
    assert json_value_of('{"x y": 1}', types.of("D")) == {"x y": 1}
    assert json_value_of("[]", types.of("H")) == [1]
    assert issubclass(types.of("E"), enum.StrEnum)
    assert types.of("F") is int
    assert value_of("2", types.of("G")) == 2
    assert types.of("list[E]") == list[types.of("E")]
    for wrong in ('{"x": 1, "q": 1}', '{"x": "1"}', '{"y": []}', '{"x": 1, "y": [{"kind": "c"}]}'):
        with pytest.raises(BadValueError):
            json_value_of(wrong, types.of("A"))


def test_classes_that_cannot_be_made_are_anything():
    types = Types(
        [
            info("A", "enum", ("P", "float", "1.5"), base="Enum"),
            info("B", "enum", ("P", "x", "[]"), base="IntEnum"),
            info("C", "struct", ("x", "A | B"), ("x", "int"), tag=[1]),
            info("D", "struct", ("x", "int"), tag="t"),
            info("E", "struct", ("x", "int")),
            info("F", "enum", ("P", "x", "nothing")),
        ]
    )
    for name in "ABCF":
        assert types.of(name) is Any
    # Nobody could tell them apart.
    assert types.of("D | E") is Any
    assert len(Types([info(f"T{number}", "struct") for number in range(2000)])._infos) == _types._MAX_TYPES


@pytest.mark.parametrize(
    ("text", "hint", "value"),
    [
        ("5", int, 5),
        ("5", str, "5"),
        ("5", float, 5),
        ("5", int | str, "5"),
        ("5", int | None, 5),
        ("null", int | None, None),
        ("null", str | None, "null"),
        ("inf", float, float("inf")),
        ("True", bool, True),
        ("true", bool, True),
        ("a b", bytes, b"a b"),
        ('["YQ=="]', list[bytes], [b"a"]),
        ("1.10", decimal.Decimal, "1.10"),
        ("5", dt.timedelta, "PT5S"),
        ("2024-01-02", dt.date, "2024-01-02"),
        ('{"1": 2}', dict[int, int], {"1": 2}),
        ('"x"', Any, "x"),
        ("x", Any, "x"),
        ("1e5", Any, 1e5),
        ("[1, 2]", tuple[int, int], (1, 2)),
    ],
)
def test_values(text, hint, value):
    assert value_of(text, hint) == value


@pytest.mark.parametrize(
    ("text", "hint", "reason"),
    [
        ("x", int, "Expected `int`, got `str`"),
        ("1.5", int, "Expected `int`, got `float`"),
        ("[1, 'a']", list[int], "Expected `array`, got `str`"),
        ('[1, "a"]', list[int], "Expected `int`, got `str` - at `$[1]`"),
        ("x", Literal["a", "b"], "Invalid enum value 'x'"),
        ("[" * 5000, list[int], "Expected `array`, got `str`"),
        ('[["a"], ["a"]]', dict[str, int], "Expected `object`, got `array`"),
    ],
)
def test_values_that_are_wrong(text, hint, reason):
    with pytest.raises(BadValueError) as raised:
        value_of(text, hint)
    assert str(raised.value) == reason


def test_values_from_files():
    assert bytes_value_of(b"\xff\n", bytes) == b"\xff\n"
    assert bytes_value_of(b"abc\r\n", str) == "abc"
    assert bytes_value_of(b"[1]\n", list[int]) == [1]
    assert bytes_value_of(b"\xff", Any) == b"\xff"
    with pytest.raises(BadValueError, match="UTF-8"):
        bytes_value_of(b"\xff", str)
    assert [takes_bytes(hint) for hint in (bytes, bytes | None, str, Any)] == [True, True, False, False]
    assert msgspec.json.decode(b"1") == 1
    with pytest.raises(BadValueError):
        json_value_of("{", Any)
