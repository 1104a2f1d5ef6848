"""``trpc stub``: typed interfaces from a running server."""

from __future__ import annotations

import pathlib

import click

from ._completing import complete_service
from ._connecting import Target, target_options, time_limit
from ._exits import CommandError
from ._list import services_named
from ._output import print_text
from ._running import run
from ._signatures import required_services_of
from ._stub_source import stub_source


@click.command("stub", short_help="Write typed interfaces of a server's services.")
@target_options(timeout=10)
@click.argument("services", nargs=-1, metavar="[SERVICE]...", shell_complete=complete_service)
@click.option("--output", "-o", metavar="FILE", help="Write to this file, not to standard output.")
def stub(target: Target, services: tuple[str, ...], output: str | None) -> None:
    """Write a Python module with a class for each SERVICE of the server, by default for all of them.

    With it, client.proxy(Calculator) has the types of the service, without its source.
    """
    run(lambda _: _stub(target, services, output))


async def _stub(target: Target, names: tuple[str, ...], output: str | None) -> None:
    with time_limit(target.timeout):
        async with target.connected() as client:
            services = await required_services_of(client)
    source = stub_source(services_named(services, names) if names else services)
    if output is None:
        print_text(source.removesuffix("\n"))
        return
    try:
        pathlib.Path(output).write_text(source, encoding="utf-8")  # noqa: ASYNC240 - it is small, and the last thing
    except OSError as exc:
        raise CommandError(f"cannot write {output}: {exc.strerror}") from None
