"""``trpc stub``: typed interfaces from a running server."""

from __future__ import annotations

import pathlib
from typing import TYPE_CHECKING, Final

import click

from ._completing import complete_service
from ._connecting import Target, target_options, time_limit
from ._exits import CommandError
from ._list import services_named
from ._output import print_text
from ._running import run
from ._signatures import required_services_of
from ._stub_source import stub_of
from ._text import one_line

if TYPE_CHECKING:
    from .. import ServiceInfo

# Names of methods that are left out.
_MOST_SHOWN: Final = 5


@click.command("stub", short_help="Write typed interfaces of a server's services.")
@target_options(timeout=10)
@click.argument("services", nargs=-1, metavar="[SERVICE]...", shell_complete=complete_service)
@click.option("--output", "-o", metavar="FILE", help="Write to this file, not to standard output.")
def stub(target: Target, services: tuple[str, ...], output: str | None) -> None:
    """Write a Python module with a class for each SERVICE of the server, by default for all of them.

    With it, client.proxy(Calculator) has the types of the service, without its source.
    """
    found: list[ServiceInfo] = []
    run(lambda _: _ask(target, services, found))
    # Here Ctrl-C ends it, however much there is to write.
    source, left_out = stub_of(found)
    if left_out:
        more = f" and {len(left_out) - _MOST_SHOWN} more" if len(left_out) > _MOST_SHOWN else ""
        text = f"left out, as Python cannot have it: {', '.join(left_out[:_MOST_SHOWN])}{more}"
        click.echo(f"trpc: warning: {one_line(text)}", err=True)
    if output is None:
        print_text(source.removesuffix("\n"))
        return
    try:
        pathlib.Path(output).write_text(source, encoding="utf-8")
    except OSError as exc:
        raise CommandError(f"cannot write {output}: {exc.strerror}") from None


async def _ask(target: Target, names: tuple[str, ...], found: list[ServiceInfo]) -> None:
    with time_limit(target.timeout):
        async with target.connected() as client:
            services = await required_services_of(client)
    found += services_named(services, names) if names else services
