"""``trpc list``: the methods of a server."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click
from rich.text import Text

from ._completing import complete_service
from ._connecting import Target, target_options, time_limit
from ._exits import CommandError
from ._output import console, is_terminal, print_text
from ._results import json_bytes
from ._running import run
from ._signatures import required_services_of, signature_text
from ._text import near, one_line

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .. import ServiceInfo


@click.command("list", short_help="Show the methods of a server.")
@target_options(timeout=10)
@click.argument("service", required=False, shell_complete=complete_service)
@click.option("--json", "as_json", is_flag=True, help="Print all that is known, as one line of JSON.")
def list_(target: Target, service: str | None, as_json: bool) -> None:
    """Show the methods of the server, or of one SERVICE: one a line, with parameters and result."""
    run(lambda _: _list(target, service, as_json))


async def _list(target: Target, name: str | None, as_json: bool) -> None:
    with time_limit(target.timeout):
        async with target.connected() as client:
            services = await required_services_of(client)
    if name is not None:
        services = services_named(services, [name])
    if as_json:
        print_text(json_bytes(services).decode())
    elif is_terminal():
        _show(services)
    else:
        lines = [
            signature_text(f"{service['name']}.{method['name']}", method)
            for service in services
            for method in service["methods"]
        ]
        print_text("\n".join(lines))


def services_named(services: Sequence[ServiceInfo], names: Sequence[str]) -> list[ServiceInfo]:
    """Those of these names.

    Raises:
        CommandError: there is none of a name.
    """
    known = {service["name"]: service for service in services}
    for name in names:
        if name not in known:
            raise CommandError(
                f"there is no service {name!r}", hint=near(name, known) or f"there is {', '.join(known)}"
            )
    return [known[name] for name in names]


def _show(services: Sequence[ServiceInfo]) -> None:
    screen = console()
    for service in services:
        screen.print(Text(one_line(service["name"]), "bold"), Text(_summary(service["doc"]), "dim"))
        for method in service["methods"]:
            signature = signature_text(method["name"], method)
            name, bracket, rest = signature.partition("(")
            line = Text("  ").append(name, "cyan").append(bracket + rest)
            notes = [_summary(method["doc"])] if method["doc"] else []
            if method["deprecated"] is not None:
                notes.insert(0, "deprecated.")
            if notes:
                line.append("  " + " ".join(notes), "dim")
            screen.print(line)


def _summary(doc: str) -> str:
    return one_line(doc.partition("\n\n")[0])
