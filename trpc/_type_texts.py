"""Types as text that another process can read: Python expressions, and descriptions of the classes that they name.

It goes by what msgspec makes of a hint, so that aliases, generic classes and constraints are resolved as they are when
a value is converted.
"""

from __future__ import annotations

import enum
import inspect
import keyword
import math
import re
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal, NotRequired, TypedDict, cast

import msgspec
from msgspec import inspect as types

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping


class FieldInfo(TypedDict):
    """A field of a class, or a member of an enum.

    Attributes:
        name: its name.
        key: its name on the wire: another one, if a ``msgspec.Struct`` says so.
        type: as in :class:`ParameterInfo`; of a member the type of its value.
        default: what it is if it is left out, as Python source, or ``"..."`` if that is long, or if it is just not there;
            absent if it cannot be left out. Of a member: its value.
    """

    name: str
    key: str
    type: str
    default: NotRequired[str]


class TypeInfo(TypedDict):
    """A class that the types of a service refer to.

    Attributes:
        name: what they call it.
        kind: what it is. On the wire a ``"namedtuple"`` is an array, and so is a ``"struct"`` with the option
            ``"array_like"``; an ``"enum"`` is the value of a member, and the others are maps.
        doc: its docstring, or nothing.
        fields: in their order.
        options: of an enum ``"base"``, such as ``"IntFlag"``; of a struct ``"tag"``, ``"tag_field"`` and ``"array_like"``,
            where it has them.
    """

    name: str
    kind: Literal["dataclass", "struct", "namedtuple", "typeddict", "enum"]
    doc: str
    fields: list[FieldInfo]
    options: dict[str, str | int | bool]


# Characters of a default that is shown.
_MAX_DEFAULT: Final = 80
# And of a docstring.
_MAX_DOC: Final = 10_000
_BASES: Final = (enum.IntFlag, enum.Flag, enum.StrEnum, enum.IntEnum)

_NAMES: Final[Mapping[type, str]] = {
    types.AnyType: "Any",
    types.BoolType: "bool",
    types.ByteArrayType: "bytearray",
    types.BytesType: "bytes",
    types.DateTimeType: "datetime.datetime",
    types.DateType: "datetime.date",
    types.DecimalType: "decimal.Decimal",
    types.FloatType: "float",
    types.IntType: "int",
    types.MemoryViewType: "bytes",
    types.NoneType: "None",
    types.StrType: "str",
    types.TimeDeltaType: "datetime.timedelta",
    types.TimeType: "datetime.time",
    types.UUIDType: "uuid.UUID",
}
_CONTAINERS: Final[Mapping[type, str]] = {
    types.CollectionType: "list[{}]",
    types.FrozenSetType: "frozenset[{}]",
    types.ListType: "list[{}]",
    types.SetType: "set[{}]",
    types.VarTupleType: "tuple[{}, ...]",
}
_KINDS: Final[Mapping[type, Literal["dataclass", "struct", "namedtuple", "typeddict"]]] = {
    types.DataclassType: "dataclass",
    types.NamedTupleType: "namedtuple",
    types.StructType: "struct",
    types.TypedDictType: "typeddict",
}
# What an expression may have beside the names of classes.
_VOCABULARY: Final = frozenset(
    {
        *(word for text in _NAMES.values() for word in text.split(".")),
        *("dict", "frozenset", "list", "set", "tuple", "Literal", "AsyncIterable", "AsyncIterator"),
    }
)


class TypeTexts:
    """The types of one service as text.

    Args:
        taken: names that no class gets.

    Attributes:
        classes: those that were in the hints so far.
    """

    def __init__(self, taken: Collection[str] = ()) -> None:
        self.classes: list[TypeInfo] = []
        self._taken = {*_VOCABULARY, *taken}
        self._names: dict[Any, str] = {}

    def text_of(self, hint: Any) -> str:
        """A hint as a Python expression."""
        return self._text(types.type_info(hint))

    def _text(self, info: types.Type) -> str:
        if isinstance(info, types.Metadata):
            info = info.type
        write = self._writers.get(type(info))
        # What else there is, takes anything.
        return "Any" if write is None else write(self, info)

    def _union(self, info: types.UnionType) -> str:
        return " | ".join(dict.fromkeys(self._text(member) for member in info.types))

    def _literal(self, info: types.LiteralType) -> str:
        return f"Literal[{', '.join(repr(value) for value in info.values)}]"

    def _container(self, info: types.ListType) -> str:
        return _CONTAINERS[type(info)].format(self._text(info.item_type))

    def _tuple(self, info: types.TupleType) -> str:
        return f"tuple[{', '.join(self._text(item) for item in info.item_types) or '()'}]"

    def _dict(self, info: types.DictType) -> str:
        return f"dict[{self._text(info.key_type)}, {self._text(info.value_type)}]"

    def _enum(self, info: types.EnumType) -> str:
        return self._name_of(info.cls, lambda name: _describe_enum(name, info.cls))

    def _class(self, info: types.StructType) -> str:
        return self._name_of(info.cls, lambda name: self._describe_class(name, info))

    _writers: ClassVar[Mapping[type, Callable[[Any, Any], str]]] = {
        **{kind: (lambda _, info: _NAMES[type(info)]) for kind in _NAMES},
        **dict.fromkeys(_CONTAINERS, _container),
        **dict.fromkeys(_KINDS, _class),
        types.DictType: _dict,
        types.EnumType: _enum,
        types.LiteralType: _literal,
        types.TupleType: _tuple,
        types.UnionType: _union,
    }

    def _name_of(self, cls: Any, describe: Callable[[str], TypeInfo]) -> str:
        if cls not in self._names:
            self._names[cls] = name = self._free_name(cls)
            # Its place is before that of the classes in its fields, and its name is known to them.
            place = len(self.classes)
            self.classes.insert(place, describe(name))
        return self._names[cls]

    def _free_name(self, cls: Any) -> str:
        # Box[int] is another class than Box[str].
        shown = cls.__name__ if isinstance(cls, type) else re.sub(r"\b\w+\.", "", repr(cls))
        name = base = re.sub(r"\W+", "_", shown).strip("_") or "Type"
        number = 1
        while name in self._taken or not name.isidentifier() or keyword.iskeyword(name):
            number += 1
            name = f"{base}_{number}" if base.isidentifier() else f"Type_{number}"
        self._taken.add(name)
        return name

    def _describe_class(self, name: str, info: types.StructType) -> TypeInfo:
        cls: Any = getattr(info.cls, "__origin__", info.cls)
        options: dict[str, str | int | bool] = {}
        if isinstance(info, types.StructType):  # pyright: ignore[reportUnnecessaryIsInstance] - it stands for all kinds
            if info.tag is not None and info.tag_field is not None:
                options |= {"tag": info.tag, "tag_field": info.tag_field}
            if info.array_like:
                options["array_like"] = True
        fields = [self._describe_field(field) for field in info.fields]
        return {"name": name, "kind": _KINDS[type(info)], "doc": doc_of(cls), "fields": fields, "options": options}

    def _describe_field(self, field: types.Field) -> FieldInfo:
        info: FieldInfo = {"name": field.name, "key": field.encode_name, "type": self._text(field.type)}
        if not field.required:
            info["default"] = _default_of(field)
        return info


def _describe_enum(name: str, cls: type[enum.Enum]) -> TypeInfo:
    base = next((base.__name__ for base in _BASES if issubclass(cls, base)), "Enum")
    fields: list[FieldInfo] = [
        {"name": member.name, "key": member.name, "type": type(member.value).__name__, "default": repr(member.value)}
        for member in cast("Iterable[Any]", cls)
    ]
    return {"name": name, "kind": "enum", "doc": doc_of(cls), "fields": fields, "options": {"base": base}}


def _default_of(field: types.Field) -> str:
    if field.default is not msgspec.NODEFAULT:
        return short(field.default)
    # Others may run anything.
    factory: object = field.default_factory
    return "[]" if factory is list else "{}" if factory is dict else "..."


def short(value: object) -> str:
    """A default as Python source, or ``"..."`` if it has none that is short."""
    # By identity: a class may be no key of a set.
    kind = type(value)
    if value is None or kind is bool:
        return repr(value)
    is_plain = (
        (isinstance(value, int) and kind is int and value.bit_length() < _MAX_DEFAULT)
        or (isinstance(value, float) and kind is float and math.isfinite(value))
        or (isinstance(value, str | bytes) and (kind is str or kind is bytes) and len(value) < _MAX_DEFAULT)
        or (any(kind is empty for empty in (list, dict, tuple, set)) and not value)
    )
    text = repr(value) if is_plain else ""
    return text if 0 < len(text) <= _MAX_DEFAULT else "..."


def doc_of(cls: type[Any]) -> str:
    """The docstring that was written for a class; nothing in place of one that was made for it."""
    doc = vars(cls).get("__doc__")
    # As dataclasses and named tuples make one.
    is_made = isinstance(doc, str) and re.fullmatch(rf"{re.escape(cls.__name__)}\(.*\)", doc) is not None
    return "" if is_made else shown_doc(doc)


def shown_doc(doc: object) -> str:
    """A docstring as it is sent: without its indentation, cut if it is very long, and of characters that can be sent."""
    if not isinstance(doc, str):
        return ""
    text = inspect.cleandoc(doc).encode(errors="replace").decode()
    return text if len(text) <= _MAX_DOC else f"{text[:_MAX_DOC]}…"
