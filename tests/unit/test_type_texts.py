"""Types as text: what each hint becomes, and what is told of classes."""

from __future__ import annotations

import ast
import dataclasses
import datetime as dt
import decimal
import enum
import uuid
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Generic, Literal, NamedTuple, NewType, NotRequired, TypedDict, TypeVar

import msgspec
import pytest

from trpc._type_texts import TypeTexts, doc_of, short

T = TypeVar("T")
UserId = NewType("UserId", int)


class Colour(enum.Enum):
    """What it looks like."""

    RED = "r"
    BLUE = "b"
    ROT = "r"  # noqa: PIE796 - another name of the same


class Level(enum.IntEnum):
    LOW = 1


class Word(enum.StrEnum):
    YES = "yes"


class Rights(enum.IntFlag):
    READ = 1
    WRITE = 2


@dataclasses.dataclass
class Node:
    """A tree."""

    value: float
    children: list[Node] = dataclasses.field(default_factory=list)
    parent: Node | None = None
    colour: Colour = Colour.RED
    names: dict[str, int] = dataclasses.field(default_factory=dict)
    tags: set[str] = dataclasses.field(default_factory=set)


class Item(msgspec.Struct, tag="item", tag_field="kind", rename="camel", array_like=True):
    unit_price: decimal.Decimal
    count: int = 1


class Pair(NamedTuple):
    first: int
    second: str = "x"


class Options(TypedDict):
    name: str
    size: NotRequired[int]


@dataclasses.dataclass
class Box(Generic[T]):
    item: T


@pytest.mark.parametrize(
    "hint, text",
    [
        (int, "int"),
        (float, "float"),
        (bool, "bool"),
        (str, "str"),
        (bytes, "bytes"),
        (bytearray, "bytearray"),
        (memoryview, "bytes"),
        (None, "None"),
        (Any, "Any"),
        (dt.datetime, "datetime.datetime"),
        (dt.date, "datetime.date"),
        (dt.time, "datetime.time"),
        (dt.timedelta, "datetime.timedelta"),
        (uuid.UUID, "uuid.UUID"),
        (decimal.Decimal, "decimal.Decimal"),
        (list, "list[Any]"),
        (list[int], "list[int]"),
        (Sequence[int], "list[int]"),
        (Mapping[str, int], "dict[str, int]"),
        (dict[int, list[str]], "dict[int, list[str]]"),
        (set[int], "set[int]"),
        (frozenset[str], "frozenset[str]"),
        (tuple[int, ...], "tuple[int, ...]"),
        (tuple[int, str], "tuple[int, str]"),
        (tuple[()], "tuple[()]"),
        (int | None, "int | None"),
        (Literal["a", 1, None], "Literal[None, 1, 'a']"),
        (Annotated[int, msgspec.Meta(ge=0)], "int"),
        (list[Annotated[str, msgspec.Meta(max_length=3, description="a word")]], "list[str]"),
        (UserId, "int"),
        (Colour, "Colour"),
        (Node | None, "Node | None"),
        (Box[int], "Box_int"),
        (Box[list[str]], "Box_list_str"),
    ],
)
def test_text(hint, text):
    assert TypeTexts().text_of(hint) == text
    ast.parse(text, mode="eval")


def described(hint, **options):
    texts = TypeTexts(**options)
    texts.text_of(hint)
    return texts.classes


def test_dataclass_that_refers_to_itself_and_to_others():
    node, colour = described(Node)
    assert node == {
        "name": "Node",
        "kind": "dataclass",
        "doc": "A tree.",
        "fields": [
            {"name": "value", "key": "value", "type": "float"},
            {"name": "children", "key": "children", "type": "list[Node]", "default": "[]"},
            {"name": "parent", "key": "parent", "type": "Node | None", "default": "None"},
            {"name": "colour", "key": "colour", "type": "Colour", "default": "..."},
            {"name": "names", "key": "names", "type": "dict[str, int]", "default": "{}"},
            {"name": "tags", "key": "tags", "type": "set[str]", "default": "..."},
        ],
        "options": {},
    }
    assert colour["name"] == "Colour"


def test_enum():
    (colour,) = described(Colour)
    assert colour == {
        "name": "Colour",
        "kind": "enum",
        "doc": "What it looks like.",
        "fields": [
            {"name": "RED", "key": "RED", "type": "str", "default": "'r'"},
            {"name": "BLUE", "key": "BLUE", "type": "str", "default": "'b'"},
        ],
        "options": {"base": "Enum"},
    }


@pytest.mark.parametrize("cls, base", [(Level, "IntEnum"), (Word, "StrEnum"), (Rights, "IntFlag")])
def test_enums_of_other_kinds(cls, base):
    assert described(cls)[0]["options"] == {"base": base}


def test_struct():
    (item,) = described(Item)
    assert item == {
        "name": "Item",
        "kind": "struct",
        "doc": "",
        "fields": [
            {"name": "unit_price", "key": "unitPrice", "type": "decimal.Decimal"},
            {"name": "count", "key": "count", "type": "int", "default": "1"},
        ],
        "options": {"tag": "item", "tag_field": "kind", "array_like": True},
    }


def test_named_tuple():
    (pair,) = described(Pair)
    assert (pair["kind"], pair["doc"]) == ("namedtuple", "")
    assert pair["fields"][1] == {"name": "second", "key": "second", "type": "str", "default": "'x'"}


def test_typed_dict():
    (options,) = described(Options)
    assert (options["kind"], options["doc"]) == ("typeddict", "")
    assert options["fields"] == [
        {"name": "name", "key": "name", "type": "str"},
        {"name": "size", "key": "size", "type": "int", "default": "..."},
    ]


def test_each_class_is_described_once():
    texts = TypeTexts()
    assert [texts.text_of(hint) for hint in (Node, list[Node], Colour)] == ["Node", "list[Node]", "Colour"]
    assert [cls["name"] for cls in texts.classes] == ["Node", "Colour"]


def test_classes_of_one_name_get_different_ones():
    other = dataclasses.make_dataclass("Node", [("x", int)])
    texts = TypeTexts(taken={"Node_2"})
    assert [texts.text_of(Node), texts.text_of(other)] == ["Node", "Node_3"]
    assert {cls["name"] for cls in texts.classes} == {"Node", "Node_3", "Colour"}


@pytest.mark.parametrize(
    "name, expected", [("int", "int_2"), ("uuid", "uuid_2"), ("class", "class_2"), ("1x", "Type_2")]
)
def test_names_that_mean_something_else_are_not_used(name, expected):
    cls = dataclasses.make_dataclass("Other", [("x", int)])
    cls.__name__ = name
    text = TypeTexts().text_of(cls)
    assert text == expected
    assert isinstance(ast.parse(text, mode="eval").body, ast.Name)


@pytest.mark.parametrize(
    "value, text",
    [
        (None, "None"),
        (True, "True"),
        (1.5, "1.5"),
        ("a", "'a'"),
        (b"x", "b'x'"),
        ((), "()"),
        ([], "[]"),
        ({}, "{}"),
        (set(), "set()"),
        (float("nan"), "..."),
        (float("inf"), "..."),
        ("x" * 100, "..."),
        ([1], "..."),
        (Colour.RED, "..."),
        (Level.LOW, "..."),
        (object(), "..."),
    ],
)
def test_defaults(value, text):
    assert short(value) == text
    ast.parse(text, mode="eval")


def test_only_docstrings_that_were_written():
    assert doc_of(Node) == "A tree."
    assert doc_of(Pair) == ""
    assert doc_of(Box) == ""
    assert doc_of(Level) == ""
