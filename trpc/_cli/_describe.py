"""``trpc describe``: all about one method, or one service."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click
from rich.text import Text

from ._completing import complete_method
from ._connecting import Target, target_options, time_limit
from ._list import services_named
from ._output import console, is_terminal, print_text
from ._results import json_bytes
from ._running import run
from ._signatures import method_in, parameter_text, required_services_of, signature_text
from ._text import clean, one_line
from ._type_expressions import names_in

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from .. import MethodInfo, ServiceInfo, TypeInfo

# How a line looks in a terminal.
_Line = tuple[str, str]


@click.command("describe", short_help="Show all about one method or service.")
@target_options(timeout=10)
@click.argument("name", metavar="METHOD|SERVICE", shell_complete=complete_method)
@click.option("--json", "as_json", is_flag=True, help="Print it as one line of JSON.")
def describe(target: Target, name: str, as_json: bool) -> None:
    """Show the parameters, the result, the types and the documentation of a method, such as Calculator.add."""
    run(lambda _: _describe(target, name, as_json))


async def _describe(target: Target, name: str, as_json: bool) -> None:
    with time_limit(target.timeout):
        async with target.connected() as client:
            services = await required_services_of(client)
    if any(service["name"] == name for service in services):
        (service,) = services_named(services, [name])
        found: object = service
        lines = list(_service_lines(service))
    else:
        service, method = method_in(services, name)
        found = method
        lines = list(_method_lines(target, service, method))
    if as_json:
        print_text(json_bytes(found).decode())
    elif is_terminal():
        screen = console()
        for text, style in lines:
            screen.print(Text(text, style))
    else:
        print_text("\n".join(text for text, _ in lines))


def _service_lines(service: ServiceInfo) -> Iterator[_Line]:
    yield one_line(service["name"]), "bold"
    yield from _doc_lines(service["doc"])
    for method in service["methods"]:
        yield "", ""
        yield f"  {signature_text(method['name'], method)}", "cyan"
        yield from _doc_lines(method["doc"], "      ")
    yield from _type_lines(service["types"])


def _method_lines(target: Target, service: ServiceInfo, method: MethodInfo) -> Iterator[_Line]:
    name = f"{service['name']}.{method['name']}"
    yield signature_text(name, method), "bold cyan"
    yield from _doc_lines(method["doc"])
    if method["deprecated"] is not None:
        yield "", ""
        yield f"  Deprecated: {one_line(method['deprecated'])}", "yellow"
    notes = _notes(method)
    if notes:
        yield "", ""
        yield from ((f"  {note}", "dim") for note in notes)
    texts = [parameter["type"] for parameter in method["parameters"]] + [method["returns"]]
    yield from _type_lines(_types_in(texts, service["types"]))
    yield "", ""
    words = [
        "-" if parameter["is_stream"] else parameter["name"].upper()
        for parameter in method["parameters"]
        if "default" not in parameter and parameter["kind"] in {"positional", "any"}
    ] + [
        f"{parameter['name']}={parameter['name'].upper()}"
        for parameter in method["parameters"]
        if "default" not in parameter and parameter["kind"] == "keyword"
    ]
    yield "  " + one_line(" ".join(["trpc call", target.url, name, *words])), "green"


def _notes(method: MethodInfo) -> list[str]:
    notes: list[str] = []
    if method["is_stream"]:
        notes.append("gives a stream: its items are printed as they come")
    notes += [
        f"{one_line(parameter_text(parameter))} is a stream: - reads its items from standard input, one a line"
        for parameter in method["parameters"]
        if parameter["is_stream"]
    ]
    if method["in_thread"]:
        notes.append("runs in a thread")
    if method["idempotent"]:
        notes.append("idempotent: running it twice does no harm")
    return notes


def _doc_lines(doc: str, indent: str = "  ") -> Iterator[_Line]:
    if doc:
        for line in clean(doc).splitlines():
            yield (indent + line).rstrip(), ""


def _types_in(texts: Sequence[str], types: Sequence[TypeInfo]) -> list[TypeInfo]:
    """Those of the types that the texts name, and that these name."""
    known = {info["name"]: info for info in types}
    found: set[str] = set()
    texts = list(texts)
    while texts:
        for name in names_in(texts.pop(), known) - found:
            found.add(name)
            texts += [field["type"] for field in known[name]["fields"]]
    return [info for info in types if info["name"] in found]


def _type_lines(types: Sequence[TypeInfo]) -> Iterator[_Line]:
    for info in types:
        yield "", ""
        options = ", ".join(f"{name}={value}" for name, value in info["options"].items() if name != "base")
        kind = str(info["options"].get("base", info["kind"]))
        yield "  " + one_line(f"{info['name']}: {kind}{f' ({options})' if options else ''}"), "magenta"
        for field in info["fields"]:
            text = field["name"] if info["kind"] == "enum" else f"{field['name']}: {field['type']}"
            if field["key"] != field["name"]:
                text += f" (sent as {field['key']!r})"
            if "default" in field and info["kind"] == "typeddict":
                text += " (not required)"
            elif "default" in field:
                text += f" = {field['default']}"
            yield "      " + one_line(text), ""
