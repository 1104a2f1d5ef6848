"""Classes of a stub: what the types of a service refer to."""

from __future__ import annotations

import ast
import enum
import math
import re
from typing import TYPE_CHECKING, Any, Final

from ._python_source import INDENT, bracketed, docstring, quoted
from ._type_expressions import BadTypeError, default_of, is_name, literal, parse, parts_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from .. import FieldInfo, ServiceInfo, TypeInfo
    from ._stub_names import StubNames

_ENUMS: Final = ("Enum", "Flag", "IntEnum", "IntFlag", "StrEnum")
_FACTORIES: Final = {"[]": "list", "{}": "dict", "set()": "set"}


def possible_classes(types: Sequence[TypeInfo]) -> set[str]:
    """The names of those that can be written as a class."""
    return {info["name"] for info in types if is_name(info["name"]) and _is_possible(info)}


def _is_possible(info: TypeInfo) -> bool:
    names = [field["name"] for field in info["fields"]]
    if len(set(names)) != len(names):
        return False
    if info["kind"] == "typeddict":
        return True
    if not all(is_name(name) and not name.startswith("__") for name in names):
        return False
    if info["kind"] == "enum":
        try:
            _enum_of(info)
        except (ValueError, TypeError, AttributeError):
            return False
    return info["kind"] not in {"enum", "namedtuple"} or not any(name.startswith("_") for name in names)


def _enum_of(info: TypeInfo) -> Any:
    """The enum itself; it is made only to know that it can be."""
    members = {field["name"]: literal(default_of(field)) for field in info["fields"]}
    base = info["options"].get("base")
    if base not in _ENUMS or not members or any(type(value) not in {int, str} for value in members.values()):
        raise ValueError("it is no enum that can be sent")
    return getattr(enum, str(base))("Members", members)


def hashed_names(services: Sequence[ServiceInfo]) -> set[tuple[str, str]]:
    """The classes whose objects are in sets or keys, and so need a hash: with the name of their service."""
    found: set[tuple[str, str]] = set()
    for service in services:
        known = {info["name"] for info in service["types"]}
        texts = [
            text
            for method in service["methods"]
            for text in [*(p["type"] for p in method["parameters"]), method["returns"]]
        ]
        texts += [field["type"] for info in service["types"] for field in info["fields"]]
        for text in texts:
            try:
                tree = parse(text, known)
            except BadTypeError:
                continue
            found |= {(service["name"], name) for name in _hashed_in(tree) if name in known}
    return found


def _hashed_in(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name):
            if node.value.id in {"set", "frozenset"}:
                parts: Iterable[ast.expr] = parts_of(node)
            else:
                parts = parts_of(node)[:1] if node.value.id == "dict" else []
            for part in parts:
                yield from (inner.id for inner in ast.walk(part) if isinstance(inner, ast.Name))


class ClassWriter:
    """Writes the classes of one service.

    Args:
        names: of all classes of the stub.
        service: the service's name.
        hashed: see :func:`hashed_names`.
    """

    def __init__(self, names: StubNames, service: str, hashed: set[tuple[str, str]]) -> None:
        self._names = names
        self._service = service
        self._hashed = hashed

    def lines_of(self, info: TypeInfo) -> list[str]:
        """The source of a class."""
        name = self._names.types[self._service, info["name"]]
        if info["kind"] == "typeddict" and not all(_is_plain_key(field["name"]) for field in info["fields"]):
            return self._functional(name, info)
        doc = docstring(info["doc"], INDENT)
        fields = self._fields(info)
        space = [""] if doc and fields else []
        body = [*doc, *space, *(INDENT + field for field in fields)]
        return [*self._head(name, info), *(body or [INDENT + "pass"])]

    def _head(self, name: str, info: TypeInfo) -> list[str]:
        is_hashed = (self._service, info["name"]) in self._hashed
        flags = ["frozen=True"] if is_hashed else []
        if info["kind"] in {"dataclass", "struct"} and _has_default_before_required(info["fields"]):
            flags.append("kw_only=True")
        match info["kind"]:
            # The head of a class is outside of it: there, a field of such a name is in nobody's way.
            case "dataclass":
                decorator = f"{self._names.imports.module('dataclasses')}.dataclass"
                return [f"@{decorator}({', '.join(flags)})" if flags else f"@{decorator}", f"class {name}:"]
            case "struct":
                options = dict(info["options"])
                if options.get("tag_field") == "type":
                    # As it is without.
                    del options["tag_field"]
                given = [
                    f"{key}={quoted(options[key])}" for key in ("tag", "tag_field", "array_like") if options.get(key)
                ]
                bases = [f"{self._names.imports.module('msgspec')}.Struct", *flags, *given]
                return bracketed(f"class {name}(", bases, "):", "")
            case "namedtuple":
                return [f"class {name}({self._names.imports.name('typing', 'NamedTuple')}):"]
            case "typeddict":
                return [f"class {name}({self._names.imports.name('typing', 'TypedDict')}):"]
            case _:
                return [f"class {name}({self._names.imports.module('enum')}.{info['options']['base']}):"]

    def _fields(self, info: TypeInfo) -> list[str]:
        if info["kind"] == "enum":
            return [f"{field['name']} = {quoted(literal(default_of(field)))}" for field in info["fields"]]
        members = {field["name"] for field in info["fields"]}
        lines: list[str] = []
        last = max((number for number, field in enumerate(info["fields"]) if not _has_default(field)), default=-1)
        for number, field in enumerate(info["fields"]):
            text = self._names.text_of(self._service, field["type"], members)
            if info["kind"] == "typeddict":
                text = self._key_type(field, text, members)
                lines.append(f"{field['name']}: {text}")
                continue
            value = self._value(info, field, text, members, is_last=number > last)
            lines.append(f"{field['name']}: {text}{f' = {value}' if value else ''}")
        return lines

    def _key_type(self, field: FieldInfo, text: str, members: Iterable[str]) -> str:
        if "default" not in field:
            return text
        return f"{self._names.imports.name('typing', 'NotRequired', set(members))}[{text}]"

    def _value(self, info: TypeInfo, field: FieldInfo, text: str, members: set[str], *, is_last: bool) -> str:
        """What stands behind the ``=`` of a field; empty if it has none that can be written."""
        default = simple_default(default_of(field))
        factory = self._factory(field, text, members)
        if info["kind"] == "namedtuple":
            return (default or "") if is_last else ""
        options = [f"default_factory={factory}"] if factory else [f"default={default}"] if default else []
        if info["kind"] == "dataclass":
            return (
                f"{self._names.imports.module('dataclasses', members)}.field({options[0]})"
                if factory
                else default or ""
            )
        renamed = [f"name={quoted(field['key'])}"] if field["key"] != field["name"] else []
        if not renamed and not factory:
            return default or ""
        return f"{self._names.imports.module('msgspec', members)}.field({', '.join([*renamed, *options])})"

    def _factory(self, field: FieldInfo, text: str, members: set[str]) -> str:
        """What makes the default of a field that is an empty container; empty if it is none."""
        factory = _FACTORIES.get(default_of(field), "")
        if not factory or " | " in text or f"{factory}[" not in text:
            return factory and self._names.builtin(factory, members)
        # With what is in it, for type checkers; later, if its class may stand below.
        return f"lambda: {text}()" if not self._names.classes.isdisjoint(re.findall(r"\w+", text)) else text

    def _functional(self, name: str, info: TypeInfo) -> list[str]:
        """A ``TypedDict`` with keys that are no names."""
        typed_dict = self._names.imports.name("typing", "TypedDict")
        items = [
            f"{quoted(field['name'])}: {quoted(self._key_type(field, self._names.text_of(self._service, field['type']), ()))}"
            for field in info["fields"]
        ]
        return [
            f"{name} = {typed_dict}(",
            f"{INDENT}{quoted(name)},",
            f"{INDENT}{{",
            *(f"{INDENT * 2}{item}," for item in items),
            f"{INDENT}}},",
            ")",
        ]


def _is_plain_key(name: str) -> bool:
    return is_name(name) and not name.startswith("__")


def simple_default(text: str) -> str | None:
    """The source of a default that is None, a number, a boolean or text; None if it is anything else, or not known."""
    try:
        value = literal(text)
    except BadTypeError:
        return None
    if isinstance(value, float) and not math.isfinite(value):
        # Of 1e999: what it would be written as is a name.
        return None
    return quoted(value) if value is None or type(value) in {bool, int, float, str, bytes} else None


def _has_default(field: FieldInfo) -> bool:
    return simple_default(default_of(field)) is not None or default_of(field) in _FACTORIES


def _has_required(fields: Sequence[FieldInfo]) -> bool:
    return not all(_has_default(field) for field in fields)


def _has_default_before_required(fields: Sequence[FieldInfo]) -> bool:
    first = next((number for number, field in enumerate(fields) if _has_default(field)), len(fields))
    return _has_required(fields[first:])
