"""Completion for shells: the methods of the server on the command line, and ``trpc completion``."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

import click
import trio
from click.shell_completion import BashComplete, add_completion_class, get_completion_class, split_arg_string

from .. import RPCError
from ._connecting import target_of
from ._exits import CommandError
from ._output import print_text
from ._signatures import services_of
from ._text import near
from ._type_expressions import is_name

if TYPE_CHECKING:
    from .. import ServiceInfo
    from ._connecting import Target

# Seconds that somebody who presses Tab waits, at most.
_PATIENCE: Final = 1.0
_SHELLS: Final = ("bash", "zsh", "fish")


def complete_method(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[str]:
    """The methods of the server that the command line names. None, if that fails."""
    names = [f"{service['name']}.{method['name']}" for service in _ask(ctx) for method in service["methods"]]
    return _matching(names, incomplete)


def complete_service(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[str]:
    """The services of that server."""
    return _matching([service["name"] for service in _ask(ctx)], incomplete)


def _matching(names: list[str], incomplete: str) -> list[str]:
    # What is offered lands in a command line.
    return [name for name in names if name.startswith(incomplete) and all(map(is_name, name.split(".")))]


def _ask(ctx: click.Context) -> list[ServiceInfo]:
    async def ask(target: Target) -> list[ServiceInfo]:
        with trio.move_on_after(_PATIENCE):
            async with target.connected() as client:
                return await services_of(client) or []
        return []

    try:
        return trio.run(ask, target_of({"url": "", **ctx.params}))
    # A message would land in the middle of the line that somebody writes.
    except* (RPCError, CommandError, OSError):
        pass
    return []


@add_completion_class
class WholeWords(BashComplete):
    """Completion for bash, which takes a URL for several words, as it breaks them at colons: the line itself has it whole."""

    source_template = BashComplete.source_template.replace("${COMP_WORDS[*]}", "${COMP_LINE:0:$COMP_POINT}")

    def get_completion_args(self) -> tuple[list[str], str]:
        """The words before the one that is written, and that."""
        line = os.environ["COMP_WORDS"]
        words = split_arg_string(line)[1:]
        return (words, "") if not words or line[-1].isspace() else (words[:-1], words[-1])


@click.command("completion", short_help="Print what a shell needs to complete command lines.")
@click.argument("shell", metavar="bash|zsh|fish")
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print what SHELL needs to complete the command lines of trpc.

    For bash: eval "$(trpc completion bash)"
    """
    found = get_completion_class(shell) if shell in _SHELLS else None
    if found is None:
        raise CommandError(f"{shell!r} is no shell that is known", hint=near(shell, _SHELLS) or ", ".join(_SHELLS))
    print_text(found(ctx.find_root().command, {}, "trpc", "_TRPC_COMPLETE").source())
