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

    from .. import ServiceInfo

_TYPING: Final = ("Any", "Literal", "NamedTuple", "NotRequired", "Protocol", "TypedDict")
_MODULES: Final = ("builtins", "dataclasses", "datetime", "decimal", "enum", "msgspec", "trpc", "typing", "uuid")
_TAKEN: Final = frozenset({*dir(builtins), *_TYPING, *_MODULES, *STREAMS, "annotations", "collections"})
_THIRD_PARTY: Final = ("msgspec", "trpc")

# The name of a service, and of a class of it.
_Place = tuple[str, str]
# The name of a class, and all that is told of it.
_Look = tuple[str, str]


class Imports:
    """What a stub imports."""

    def __init__(self) -> None:
        self._modules: dict[str, str] = {}
        self._names: dict[str, set[str]] = {}

    def module(self, name: str, members: Collection[str] = ()) -> str:
        """Imports a module; returns what it is called in a class with members of these names."""
        shown = name
        if name.partition(".")[0] in members:
            shown = f"_{name.replace('.', '_')}"
        while shown in members:
            # Not before it: what begins with two is changed within a class.
            shown += "_"
        self._modules[shown] = name
        return shown

    def name(self, module: str, name: str, members: Collection[str] = ()) -> str:
        """Imports a name from a module; returns what it is called in a class with members of these names."""
        if name in members:
            return f"{self.module(module, members)}.{name}"
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
        # The number to try next, of names that are taken.
        self._numbers: dict[str, int] = {}
        self.services = {service["name"]: self._free(service["name"]) for service in services}
        self.types: dict[tuple[str, str], str] = {}
        self._known: dict[str, set[str]] = {service["name"]: set() for service in services}
        # A class that several services have is there once.
        shared: dict[object, str] = {}
        keys = _shared_keys(services)
        for service in services:
            for info in service["types"]:
                if info["name"] not in possible[service["name"]]:
                    continue
                place = (service["name"], info["name"])
                key = keys[place]
                if key not in shared:
                    shared[key] = self._free(info["name"], service["name"])
                self.types[place] = shared[key]
                self._known[service["name"]].add(info["name"])
        self.classes = frozenset(self.types.values())

    def _free(self, name: str, owner: str = "") -> str:
        plain = re.sub(r"\W+", "_", name.rpartition(".")[2]).strip("_")
        plain = plain if is_name(plain) else "Service" if not owner else "Type"
        for choice in (plain, f"{owner}{plain}"):
            # Those that begin with _ are for modules.
            if choice not in self._taken and is_name(choice) and not choice.startswith("_"):
                break
        else:
            number = self._numbers.get(plain, 2)
            # Cut, so that it does not get too long.
            while (choice := f"{plain[:100]}{number}") in self._taken:
                number += 1
            self._numbers[plain] = number + 1
        self._taken.add(choice)
        return choice

    def text_of(self, service: str, text: str, members: Collection[str] = ()) -> str:
        """A type, as the source has it; ``Any`` if it is none.

        Args:
            service: whose type it is.
            text: as the reflection has it.
            members: names that mean something else where it stands.
        """
        try:
            return self._write(parse(text, self._known[service]), service, members)
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
        return self.builtin(name, members)

    def builtin(self, name: str, members: Collection[str]) -> str:
        """One of Python's own, such as ``list``, where there are members of such names."""
        return f"{self.imports.module('builtins', members)}.{name}" if name in members else name


def _shared_keys(services: Sequence[ServiceInfo]) -> dict[_Place, _Look | _Place]:
    """A key for each class, by the names of its service and its own: the same for those that can be one.

    They are if they look alike, and so do all that they refer to. It takes a time that grows with the number of the classes
    and of their fields, and not faster.
    """
    looks: dict[_Place, _Look] = {}
    inner: dict[_Place, set[str]] = {}
    for service in services:
        known = {info["name"]: info for info in service["types"]}
        for name, info in known.items():
            place = (service["name"], name)
            looks[place] = (name, repr(info))
            inner[place] = {other for field in info["fields"] for other in names_in(field["type"], known)}
    # Those of the same look, and the looks that refer to a look.
    referred: dict[_Look, set[_Look]] = {}
    references: dict[_Look, set[_Look]] = {}
    different: set[_Look] = set()
    for (service_name, name), look in looks.items():
        found = {looks[service_name, other] for other in inner[service_name, name]}
        for other in found:
            referred.setdefault(other, set()).add(look)
        if references.setdefault(look, found) != found:
            different.add(look)
    # What refers to classes that are not the same is not the same itself.
    waiting = list(different)
    while waiting:
        more = referred.get(waiting.pop(), set()) - different
        different |= more
        waiting += more
    return {place: place if look in different else look for place, look in looks.items()}
