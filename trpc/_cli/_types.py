"""Python types for those of a server's reflection, to convert arguments by.

Classes are made anew, with what counts for a conversion: the keys, the types and the tags. What cannot be made is
``Any``, as the server checks everything once more.
"""

from __future__ import annotations

import ast
import datetime as dt
import decimal
import enum
import uuid
from typing import TYPE_CHECKING, Any, Final, Literal, NotRequired, Required, TypedDict, Union

import msgspec

from ._type_expressions import BadTypeError, default_of, dotted_name, item_of, literal, parse, parts_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .. import FieldInfo, TypeInfo

# Types of a service, and fields of one.
_MAX_TYPES: Final = 1000
_MAX_FIELDS: Final = 1000

_NAMED: Final[dict[str, Any]] = {
    "int": int,
    "float": float,
    "str": str,
    "bytes": bytes,
    "bytearray": bytearray,
    "bool": bool,
    "None": None,
    "Any": Any,
    "list": list,
    "dict": dict,
    "tuple": tuple,
    # On the wire they are lists, and what is made here has no hash.
    "set": list,
    "frozenset": list,
    "datetime.datetime": dt.datetime,
    "datetime.date": dt.date,
    "datetime.time": dt.time,
    "datetime.timedelta": dt.timedelta,
    "uuid.UUID": uuid.UUID,
    "decimal.Decimal": decimal.Decimal,
}
_ENUMS: Final[dict[object, Any]] = {"IntEnum": enum.IntEnum, "StrEnum": enum.StrEnum}
_FLAGS: Final = frozenset({"Flag", "IntFlag"})


class Types:
    """The types that a service knows by name, and what is made of them."""

    def __init__(self, infos: Sequence[TypeInfo] = ()) -> None:
        self._infos = {info["name"]: info for info in infos[:_MAX_TYPES]}
        self._made: dict[str, Any] = {}

    def of(self, text: str) -> Any:
        """The type that a text names; that of an item, if it is a stream. ``Any``, if it cannot be had."""
        try:
            tree = parse(text, self._infos)
            found = self._of(item_of(tree) or tree)
            # Some cannot be converted to, such as a union of two structs.
            msgspec.convert(None, found | None if found is not Any else Any)
        except (TypeError, ValueError, RecursionError):  # BadTypeError is one of these
            return Any
        return found

    def _of(self, tree: ast.expr) -> Any:
        match tree:
            case ast.Name(id=name):
                return _NAMED[name] if name in _NAMED else self._named(name)
            case ast.Attribute():
                return _NAMED[str(dotted_name(tree))]
            case ast.BinOp(left=left, right=right):
                return Union[self._of(left), self._of(right)]  # noqa: UP007 - of values, and None is one of them
            case ast.Subscript(value=ast.Name(id="Literal")):
                return Literal[tuple(literal(part) for part in parts_of(tree))]
            case ast.Subscript(value=ast.Name(id=name)):
                parts = [
                    ... if isinstance(part, ast.Constant) and part.value is ... else self._of(part)
                    for part in parts_of(tree)
                ]
                return _NAMED[name][tuple(parts)]
            case _:
                return None

    def _named(self, name: str) -> Any:
        if name not in self._made:
            # Of a type that has itself in it, the inner one is anything.
            self._made[name] = Any
            try:
                self._made[name] = self._make(self._infos[name])
            except (TypeError, ValueError):
                self._made[name] = Any
        return self._made[name]

    def _make(self, info: TypeInfo) -> Any:
        fields = info["fields"][:_MAX_FIELDS]
        if info["kind"] == "enum":
            return _enum_of(info)
        if info["kind"] == "typeddict":
            items = {
                field["key"]: NotRequired[self._type_of(field)]
                if "default" in field
                else Required[self._type_of(field)]
                for field in fields
            }
            return TypedDict("TypedDict_", items)  # type: ignore[operator]  # mypy wants to see the names
        is_array = info["kind"] == "namedtuple" or bool(info["options"].get("array_like"))
        # Names of Python's do not matter: what counts is the key.
        names = {f"field_{number}": field["key"] for number, field in enumerate(fields)}
        tag: Any = info["options"].get("tag")
        tag_field: Any = info["options"].get("tag_field")
        return msgspec.defstruct(
            "Struct_",
            [
                self._array_field(name, field) if is_array else self._field(name, field)
                for name, field in zip(names, fields, strict=True)
            ],
            rename=names,
            tag=tag,
            tag_field=tag_field,
            array_like=is_array,
            kw_only=not is_array,
            # A mistake in a name is told; the server would pass over it.
            forbid_unknown_fields=not is_array,
        )

    def _type_of(self, field: FieldInfo) -> Any:
        return self.of(field["type"])

    def _field(self, name: str, field: FieldInfo) -> Any:
        if "default" not in field:
            return (name, self._type_of(field))
        # Left out, it is not sent, and the server has its default.
        return (name, Union[self._type_of(field), msgspec.UnsetType], msgspec.UNSET)  # noqa: UP007 - as above

    def _array_field(self, name: str, field: FieldInfo) -> Any:
        try:
            return (name, self._type_of(field), literal(default_of(field)))
        except BadTypeError:
            return (name, self._type_of(field))


def _enum_of(info: TypeInfo) -> Any:
    base = info["options"].get("base")
    if base in _FLAGS:
        return int
    values = [literal(default_of(field)) for field in info["fields"]]
    if any(type(value) not in {str, int} for value in values):
        raise BadTypeError("an enum has members that cannot be sent")
    # Names of Python's do not matter here either.
    return _ENUMS.get(base, enum.Enum)(info["name"], {f"member_{number}": value for number, value in enumerate(values)})
