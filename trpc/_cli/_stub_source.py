"""The source of a module with the interfaces of services: what ``trpc stub`` writes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from ._exits import CommandError, ExitCode
from ._python_source import INDENT, bracketed, docstring, quoted
from ._stub_classes import ClassWriter, hashed_names, possible_classes, simple_default
from ._stub_names import StubNames
from ._text import one_line
from ._type_expressions import default_of, is_name
from ._types import Types
from ._values import accepts

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .. import MethodInfo, ParameterInfo, ServiceInfo


class Stub(NamedTuple):
    """A module.

    Attributes:
        source: its text.
        left_out: the methods that Python cannot have.
    """

    source: str
    left_out: list[str]


def stub_of(services: Sequence[ServiceInfo]) -> Stub:
    """A module with a class for each of the services, and for each class that their types refer to.

    What the server has called something that is no name in Python is left out, with a comment.

    Raises:
        CommandError: it would be no Python.
    """
    # It could not be said on the wire either.
    services = [service for service in services if service["name"]]
    names = StubNames(services, {service["name"]: possible_classes(service["types"]) for service in services})
    hashed = hashed_names(services)
    classes: dict[str, list[str]] = {}
    left_out: list[str] = []
    for service in services:
        writer = ClassWriter(names, service["name"], hashed)
        for info in service["types"]:
            name = names.types.get((service["name"], info["name"]))
            if name is not None and name not in classes:
                classes[name] = writer.lines_of(info)
        classes[names.services[service["name"]]] = _ServiceWriter(names, service, left_out).lines()
    head = f'"""Interfaces of {", ".join(names.services.values())}: written by `trpc stub` from a running server."""'
    if len(head) > 120:
        head = '"""Interfaces of services: written by `trpc stub` from a running server."""'
    lines = [head, "", "from __future__ import annotations", "", *names.imports.lines()]
    for definition in classes.values():
        lines += ["", "", *definition]
    source = "\n".join(lines) + "\n"
    try:
        compile(source, "<stub>", "exec", dont_inherit=True)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as exc:
        raise CommandError(
            f"what the server tells of itself cannot be written as Python: {exc}", ExitCode.FAILED
        ) from None
    return Stub(source, left_out)


class _ServiceWriter:
    def __init__(self, names: StubNames, service: ServiceInfo, left_out: list[str]) -> None:
        self._names = names
        self._left_out = left_out
        self._service = service
        self._types = Types(service["types"])
        self._hints: dict[str, Any] = {}
        self._members = {method["name"] for method in service["methods"]}

    def lines(self) -> list[str]:
        """The source of the class."""
        wire_name = self._service["name"]
        name = self._names.services[wire_name]
        trpc = self._names.imports.module("trpc", self._members)
        lines = [f"@{trpc}.service(name={quoted(wire_name)})"] if name != wire_name else []
        lines.append(f"class {name}({self._names.imports.name('typing', 'Protocol')}):")
        lines += docstring(self._service["doc"], INDENT)
        is_first = lines[-1].endswith("(Protocol):")
        for method in self._service["methods"]:
            if not is_first:
                lines.append("")
            is_first = False
            lines += self._method(trpc, method)
        return lines if not is_first else [*lines, INDENT + "pass"]

    def _method(self, trpc: str, method: MethodInfo) -> list[str]:
        parameters = self._parameters(method["parameters"])
        if not is_name(method["name"]) or method["name"].startswith("_") or parameters is None:
            self._left_out.append(f"{self._service['name']}.{method['name']}")
            return [f"{INDENT}# Left out, as Python cannot have it: {one_line(quoted(method['name']))}"]
        returns = self._text(method["returns"])
        if method["is_stream"] and not returns.startswith(("AsyncIterator[", "collections.abc.", "_collections_abc")):
            returns = f"{self._names.imports.name('collections.abc', 'AsyncIterator', self._members)}[{returns}]"
        decorator = f"{INDENT}@{trpc}.method{'(idempotent=True)' if method['idempotent'] else ''}"
        start = f"{'' if method['is_stream'] else 'async '}def {method['name']}("
        text = method["doc"]
        if method["deprecated"] is not None:
            text = f"{text}\n\nDeprecated: {method['deprecated']}".strip()
        doc = docstring(text, INDENT * 2)
        end = f") -> {returns}:{'' if doc else ' ...'}"
        lines = [decorator, *bracketed(start, ["self", *parameters], end, INDENT), *doc]
        return [*lines, f"{INDENT * 2}..."] if doc else lines

    def _text(self, text: str) -> str:
        return self._names.text_of(self._service["name"], text, self._members)

    def _parameters(self, parameters: Sequence[ParameterInfo]) -> list[str] | None:
        """Their source; None if it would be no Python."""
        names = [parameter["name"] for parameter in parameters]
        if not all(is_name(name) and not name.startswith("__") for name in names) or len({*names, "self"}) <= len(
            names
        ):
            return None
        texts: list[str] = []
        before = ""
        for parameter in parameters:
            kind = parameter["kind"]
            if before == "positional" and kind != "positional":
                texts.append("/")
            if kind == "keyword" and before not in {"keyword", "*"}:
                texts.append("*")
            texts.append(self._parameter(parameter))
            before = kind
        if before == "positional":
            texts.append("/")
        return texts if _is_in_order(parameters) else None

    def _parameter(self, parameter: ParameterInfo) -> str:
        stars = parameter["kind"] if parameter["kind"] in {"*", "**"} else ""
        text = f"{stars}{parameter['name']}: {self._text(parameter['type'])}"
        if "default" not in parameter or stars:
            return text
        default = simple_default(default_of(parameter))
        # It is never sent, as a proxy sends what it is given; it is for people, and for those that check types.
        hint = None if parameter["is_stream"] else self._hint(parameter["type"])
        is_right = default is not None and accepts(default, hint)
        return f"{text} = {default if is_right else '...'}"

    def _hint(self, text: str) -> Any:
        if text not in self._hints:
            self._hints[text] = self._types.of(text)
        return self._hints[text]


_ORDER = {"positional": 0, "any": 1, "*": 2, "keyword": 3, "**": 4}


def _is_in_order(parameters: Sequence[ParameterInfo]) -> bool:
    kinds = [_ORDER[parameter["kind"]] for parameter in parameters]
    required = ["default" not in parameter for parameter in parameters if _ORDER[parameter["kind"]] < 2]
    one_of_each = all(kinds.count(_ORDER[kind]) <= 1 for kind in ("*", "**"))
    return kinds == sorted(kinds) and required == sorted(required, reverse=True) and one_of_each
