"""The names in a stub: of its classes, and of what it imports for their types."""

from __future__ import annotations

import ast
import builtins
import re
from typing import TYPE_CHECKING, Final

from ._python_source import quoted
from ._type_expressions import STREAMS, BadTypeError, dotted_name, is_name, literal, names_in, parse, parts_of

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from .. import ServiceInfo, TypeInfo

_TYPING: Final = ("Any", "Literal", "NamedTuple", "NotRequired", "Protocol", "TypedDict")
_MODULES: Final = ("builtins", "dataclasses", "datetime", "decimal", "enum", "msgspec", "trpc", "typing", "uuid")
_TAKEN: Final = frozenset({*dir(builtins), *_TYPING, *_MODULES, *STREAMS, "annotations", "collections"})
_THIRD_PARTY: Final = ("msgspec", "trpc")


class Imports:
    """What a stub imports."""

    def __init__(self) -> None:
        self._modules: dict[str, str] = {}
        self._names: dict[str, set[str]] = {}

    def module(self, name: str, members: Collection[str] = ()) -> str:
        """Imports a module; returns what it is called where there are members of such names."""
        shown = f"_{name}" if name in members else name
        self._modules[shown] = name
        return shown

    def name(self, module: str, name: str, members: Collection[str] = ()) -> str:
        """Imports a name from a module; as above."""
        if name in members:
            return f"{self.module(module)}.{name}"
        self._names.setdefault(module, set()).add(name)
        return name

    def lines(self) -> list[str]:
        """The lines of source, in the order of ``isort``."""
        groups: list[list[str]] = [[], []]
        for shown, module in sorted(self._modules.items(), key=lambda item: (item[1], item[0] != item[1])):
            text = f"import {module}" if shown == module else f"import {module} as {shown}"
            groups[module in _THIRD_PARTY].append(text)
        groups[0] += [
            f"from {module} import {', '.join(sorted(names))}" for module, names in sorted(self._names.items())
        ]
        return [*groups[0], *([""] if groups[0] and groups[1] else []), *groups[1]]


class StubNames:
    """The names of the classes of a stub, and types written with them.

    Args:
        services: those that the stub is for.
        is_possible: whether a class can be written; what refers to others is ``Any``.
    """

    def __init__(self, services: Sequence[ServiceInfo], possible: Mapping[str, Collection[str]]) -> None:
        self.imports = Imports()
        members = {method["name"] for service in services for method in service["methods"]}
        members |= {field["name"] for service in services for info in service["types"] for field in info["fields"]}
        self._taken = {*_TAKEN, *members}
        self.services = {service["name"]: self._free(service["name"]) for service in services}
        self.types: dict[tuple[str, str], str] = {}
        # A class that several services have is there once.
        shared: dict[tuple[str, str], str] = {}
        for service in services:
            for info in service["types"]:
                if info["name"] not in possible[service["name"]]:
                    continue
                key = (info["name"], repr(_closure(info, service["types"])))
                if key not in shared:
                    shared[key] = self._free(info["name"], service["name"])
                self.types[service["name"], info["name"]] = shared[key]

    def _free(self, name: str, owner: str = "") -> str:
        plain = re.sub(r"\W+", "_", name.rpartition(".")[2], flags=re.ASCII).strip("_")
        plain = plain if is_name(plain) else "Service" if not owner else "Type"
        choices = (plain, f"{owner}{plain}", *(f"{plain}{number}" for number in range(2, len(self._taken) + 3)))
        name = next(choice for choice in choices if choice not in self._taken and is_name(choice))
        self._taken.add(name)
        return name

    def text_of(self, service: str, text: str, members: Collection[str] = ()) -> str:
        """A type, as the source has it; ``Any`` if it is none.

        Args:
            service: whose type it is.
            text: as the reflection has it.
            members: names that mean something else where it stands.
        """
        known = {name for owner, name in self.types if owner == service}
        try:
            return self._write(parse(text, known), service, members)
        except BadTypeError:
            return self.imports.name("typing", "Any", members)

    def _write(self, tree: ast.expr, service: str, members: Collection[str]) -> str:
        match tree:
            case ast.Name(id=name):
                return self._name(name, service, members)
            case ast.Attribute():
                module, _, name = str(dotted_name(tree)).partition(".")
                return f"{self.imports.module(module, members)}.{name}"
            case ast.BinOp(left=left, right=right):
                return f"{self._write(left, service, members)} | {self._write(right, service, members)}"
            case ast.Subscript(value=ast.Name(id="Literal")):
                values = ", ".join(quoted(literal(part)) for part in parts_of(tree))
                return f"{self.imports.name('typing', 'Literal', members)}[{values}]"
            case ast.Subscript(value=ast.Name(id=name)):
                parts = ", ".join(self._write(part, service, members) for part in parts_of(tree))
                return f"{self._name(name, service, members)}[{parts or '()'}]"
            case ast.Constant(value=value):
                return "..." if value is ... else "None"
            case _:
                raise BadTypeError("the type has something that is not known")

    def _name(self, name: str, service: str, members: Collection[str]) -> str:
        if (service, name) in self.types:
            return self.types[service, name]
        if name == "Any":
            return self.imports.name("typing", name, members)
        if name in STREAMS:
            return self.imports.name("collections.abc", name, members)
        return f"{self.imports.module('builtins')}.{name}" if name in members else name


def _closure(info: TypeInfo, types: Sequence[TypeInfo]) -> list[TypeInfo]:
    """A class and all that it refers to."""
    known = {other["name"]: other for other in types}
    found: dict[str, TypeInfo] = {}
    waiting = [info["name"]]
    while waiting:
        name = waiting.pop()
        if name not in found:
            found[name] = known[name]
            waiting += sorted({inner for field in known[name]["fields"] for inner in names_in(field["type"], known)})
    return list(found.values())
