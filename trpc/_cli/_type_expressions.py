"""The text of a type, as a server's reflection gives it, read and checked.

The server may be anybody's. What it has written is parsed, never evaluated, and only what is known here gets through.
"""

from __future__ import annotations

import ast
import functools
import keyword
import unicodedata
import warnings
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Collection

    from .. import FieldInfo, ParameterInfo

# Characters of an expression, and levels of brackets in it.
MAX_LENGTH: Final = 4000
MAX_DEPTH: Final = 30
# Characters of a name.
MAX_NAME: Final = 200

SIMPLE: Final = frozenset({"int", "float", "str", "bytes", "bytearray", "bool", "None", "Any"})
# Each with the number of its parameters; of a tuple there are any.
GENERIC: Final = {"list": 1, "dict": 2, "set": 1, "frozenset": 1, "tuple": None}
DOTTED: Final = frozenset(
    {
        "datetime.datetime",
        "datetime.date",
        "datetime.time",
        "datetime.timedelta",
        "uuid.UUID",
        "decimal.Decimal",
    }
)
_LITERALS: Final = frozenset({str, bytes, int, bool, type(None)})
STREAMS: Final = frozenset({"AsyncIterable", "AsyncIterator"})


class BadTypeError(ValueError):
    """The text is no type expression, or not one that is known."""


def default_of(field: FieldInfo | ParameterInfo) -> str:
    """The source of a default; empty if there is none."""
    return field.get("default", "")


def is_name(text: str) -> bool:
    """Whether it can be the name of something in Python, and no special one."""
    if len(text) > MAX_NAME or not text.isidentifier() or keyword.iskeyword(text):
        return False
    # What Python would read as another name could be one that is special, or is there twice.
    return unicodedata.is_normalized("NFKC", text) and not (text.startswith("__") and text.endswith("__"))


def parse(text: str, names: Collection[str]) -> ast.expr:
    """The checked syntax tree of a type.

    Args:
        text: as the reflection has it.
        names: of the service's types.

    Raises:
        BadTypeError: it is not such an expression.
    """
    if len(text) > MAX_LENGTH:
        raise BadTypeError("the type is too long")
    tree = _parsed(text)
    item = item_of(tree)
    _check(tree if item is None else item, names, 0)
    return tree


# Each is looked at several times, and many are alike.
@functools.lru_cache(maxsize=1000)
def _parsed(text: str) -> ast.expr:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise BadTypeError(f"{text!r} is no type") from None


def item_of(tree: ast.expr) -> ast.expr | None:
    """The type of an item, of a type that is a stream; None if it is not."""
    if isinstance(tree, ast.BinOp) and isinstance(tree.op, ast.BitOr):
        parts = [part for part in (tree.left, tree.right) if not _is_none(part)]
        if len(parts) != 1:
            return None
        (tree,) = parts
    if isinstance(tree, ast.Subscript) and isinstance(tree.value, ast.Name) and tree.value.id in STREAMS:
        return tree.slice
    return None


def _is_none(tree: ast.expr) -> bool:
    return isinstance(tree, ast.Constant) and tree.value is None


def dotted_name(tree: ast.expr) -> str | None:
    """``datetime.date`` of an attribute, or None."""
    if isinstance(tree, ast.Attribute) and isinstance(tree.value, ast.Name):
        return f"{tree.value.id}.{tree.attr}"
    return None


def parts_of(tree: ast.Subscript) -> list[ast.expr]:
    """What is between its brackets."""
    return list(tree.slice.elts) if isinstance(tree.slice, ast.Tuple) else [tree.slice]


def _check(tree: ast.expr, names: Collection[str], depth: int) -> None:
    if depth > MAX_DEPTH:
        raise BadTypeError("the type is nested too deep")
    match tree:
        case ast.Name(id=name) if name in SIMPLE or (name in names and is_name(name)):
            pass
        # Without brackets, its parameters are Any.
        case ast.Name(id=name) if name in GENERIC:
            pass
        case ast.Constant(value=None):
            pass
        case ast.Attribute() if dotted_name(tree) in DOTTED:
            pass
        case ast.BinOp(left=left, op=ast.BitOr(), right=right):
            _check(left, names, depth + 1)
            _check(right, names, depth + 1)
        case ast.Subscript(value=ast.Name(id="Literal")):
            if not all(type(literal(part)) in _LITERALS for part in parts_of(tree)):
                raise BadTypeError("a Literal has something that cannot be in one")
        case ast.Subscript(value=ast.Name(id=name)) if name in GENERIC:
            _check_parts(name, parts_of(tree), names, depth)
        case _:
            raise BadTypeError("the type has something that is not known")


def _check_parts(name: str, parts: list[ast.expr], names: Collection[str], depth: int) -> None:
    if name == "tuple" and len(parts) == 2 and isinstance(parts[1], ast.Constant) and parts[1].value is ...:
        del parts[1:]
    elif GENERIC[name] not in {None, len(parts)}:
        raise BadTypeError(f"{name} has another number of parameters")
    for part in parts:
        _check(part, names, depth + 1)


def literal(tree: ast.expr | str) -> object:
    """A value that is written as a literal, such as those in a ``Literal``, and defaults.

    Raises:
        BadTypeError: it is none, or too long.
    """
    if isinstance(tree, str) and len(tree) > MAX_LENGTH:
        raise BadTypeError("the value is too long")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            value: object = ast.literal_eval(tree)
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
        raise BadTypeError("the value is no literal") from None
    return value


def names_in(text: str, names: Collection[str]) -> set[str]:
    """Which of the names a type has in it. None, if it is no type."""
    try:
        tree = parse(text, names)
    except BadTypeError:
        return set()
    return {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and node.id in names}
