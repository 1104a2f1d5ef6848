"""``trpc call``: one call, with arguments from the command line."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING

import click
import trio

from .. import ConnectionLost, InvalidArguments, ProtocolError
from ._arguments import ArgumentsCommand, prepared
from ._completing import complete_method
from ._connecting import Target, target_options, time_limit
from ._exits import CommandError, ExitCode, leaves
from ._results import print_item, print_result
from ._running import Interruption, run
from ._text import clean

if TYPE_CHECKING:
    from .. import Client
    from ._arguments import Arguments

# Seconds that are waited for the end of a handler that was cancelled. A second Ctrl-C waits no longer.
_CANCEL_GRACE = 10.0
# What the library says of a stream that is called as if it were none.
_IS_STREAM = "gives a stream: enter it with"
# Seconds for the answer that shows whether a server that has been told to cancel is still there.
_LAST_PING = 1.0


@dataclasses.dataclass(frozen=True, slots=True)
class _Options:
    as_json: bool
    is_stream: bool
    shows_traceback: bool


@click.command(
    "call",
    cls=ArgumentsCommand,
    short_help="Call a method.",
    epilog="ARGUMENTS are values by position, or NAME=VALUE. A value is converted to the parameter's type; a structure is"
    " JSON, and so is NAME:=JSON whatever the type. @FILE is what is in a file, @@TEXT is @TEXT, - is standard input: whole,"
    " or line by line where the parameter is a stream.",
)
@target_options(what="Cancel the call after this time")
@click.argument("method", shell_complete=complete_method)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
@click.option("--json", "as_json", is_flag=True, help="Print each result or item as one line of JSON.")
@click.option("--stream", "is_stream", is_flag=True, help="The method gives a stream, and the server does not tell.")
@click.option("--traceback", is_flag=True, help="Show the handler's traceback, if the server sends it.")
def call(
    target: Target, method: str, arguments: tuple[str, ...], as_json: bool, is_stream: bool, traceback: bool
) -> None:
    """Call METHOD, such as Calculator.add, and print what it returns, or the items of its stream as they come.

    Ctrl-C cancels the call and waits until its handler has ended.
    """
    options = _Options(as_json, is_stream, traceback)
    run(lambda interruption: _call(target, method, arguments, options, interruption), executes=True)


async def _call(
    target: Target, name: str, texts: tuple[str, ...], options: _Options, interruption: Interruption
) -> None:
    known = await prepared(target, name, texts)
    is_stream = options.is_stream if known.method is None else known.method["is_stream"]
    with time_limit(target.timeout) as scope:
        async with target.connected(cancel_grace=_CANCEL_GRACE) as client:
            scope.deadline = math.inf
            made = _Call(client, name, known.arguments, is_stream, options.as_json)
            try:
                await made.perform(target.timeout, interruption)
            except InvalidArguments as exc:
                raise CommandError(str(exc), hint=known.signature) from None
            except ProtocolError as exc:
                if is_stream or _IS_STREAM not in str(exc):
                    raise
                raise CommandError(f"{name} gives a stream", hint="--stream prints its items") from None
            except Exception as exc:
                if options.shows_traceback:
                    _show_notes(exc)
                raise


def _show_notes(exc: BaseException) -> None:
    for error in leaves(exc):
        for note in getattr(error, "__notes__", ()):
            click.echo(clean(str(note)), err=True)


@dataclasses.dataclass(frozen=True, slots=True)
class _Call:
    client: Client
    name: str
    arguments: Arguments
    is_stream: bool
    as_json: bool

    async def perform(self, limit: float | None, interruption: Interruption) -> None:
        """Makes the call and prints what comes of it.

        Raises:
            CommandError: the time is over, or an item that was to be sent is wrong.
        """
        became = ""
        with trio.move_on_after(math.inf if limit is None else limit) as scope:
            try:
                with interruption.call_is_open(scope):
                    value = await self._answer()
            except trio.Cancelled:
                became = await self._what_became(min(interruption.at, scope.deadline))
                interruption.note = f"cancelled: {became}"
                raise
            except Exception:
                if self.arguments.mistakes:
                    # It has made the call fail.
                    raise self.arguments.mistakes[0] from None
                raise
            came_too_late = trio.current_effective_deadline() == -math.inf
            # The limit was that of the call.
            scope.deadline = math.inf
            interruption.note = "cancelled: the call was done, and not all of its result is printed"
            with trio.CancelScope(shield=came_too_late):
                if not self.is_stream:
                    await print_result(value, as_json=self.as_json)
            if came_too_late:
                click.echo("trpc: it was done before it could be cancelled", err=True)
        if scope.cancelled_caught:
            raise CommandError(f"no answer within {limit:g} s: {became}", ExitCode.TIMEOUT)

    async def _answer(self) -> object:
        """What the method returns; of a stream, the items are printed."""
        args, kwargs = self.arguments.opened()
        if not self.is_stream:
            return await self.client.call(self.name, *args, **kwargs)
        async with self.client.stream(self.name, *args, **kwargs) as items:
            async for item in items:
                await print_item(item, as_json=self.as_json)
        return None

    async def _what_became(self, since: float) -> str:
        """What is known of the handler of a call that was cancelled then, and has been waited for."""
        unknown = "the handler may still be running"
        if trio.current_time() - since >= _CANCEL_GRACE:
            return unknown
        # It has ended, or the connection has.
        with trio.move_on_after(_LAST_PING, shield=True):
            try:
                await self.client.ping()
            except ConnectionLost:
                return f"the connection was lost, and {unknown}"
            return "the handler has ended"
        return unknown
