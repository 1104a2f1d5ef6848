"""``trpc top``: what a server does, as a live table."""

from __future__ import annotations

import contextlib
import os
import sys
import termios
import tty
from typing import TYPE_CHECKING

import click
import trio
from rich.live import Live

from .. import MethodNotFound, Reflection, Unauthenticated
from ._connecting import Target, target_options, time_limit
from ._durations import DURATION
from ._exits import CommandError, ExitCode
from ._output import console, is_terminal, print_text, write
from ._results import json_bytes
from ._running import run
from ._top_table import head_of, lines_of, screen_of

if TYPE_CHECKING:
    from collections.abc import Generator

    from .. import Activity, Client

# Connections that are asked for.
_MOST = 200


@click.command("top", short_help="Show what a server is doing, live.")
@target_options(timeout=10, what="Give up if an answer takes longer")
@click.option("--interval", "-i", type=DURATION, default=1.0, help="Time between two looks.  [1s]")
@click.option("--once", is_flag=True, help="Look once, and end.")
@click.option("--json", "as_json", is_flag=True, help="Print each look as one line of JSON.")
def top(target: Target, interval: float, once: bool, as_json: bool) -> None:
    """Show the connections of the server and the calls that it has in flight, anew each second.

    q or Ctrl-C ends it. When the output is no terminal, it looks once; with --json until it is stopped.
    """
    # Of a dumb terminal nothing is known that could be drawn anew.
    live = is_terminal() and not console().is_dumb_terminal and not once and not as_json
    once = once or not (live or as_json)
    run(lambda _: _top(target, interval, once, as_json, live), ends_by_interrupt=True)


async def _top(target: Target, interval: float, once: bool, as_json: bool, live: bool) -> None:
    async with target.connected() as client:
        look = _Look(client, target)
        if live:
            await _show_live(look, interval)
            return
        start = trio.current_time()
        number = 0
        while True:
            activity = await look.activity()
            number += 1
            if as_json:
                await write(json_bytes(activity) + b"\n")
            elif is_terminal():
                screen = console()
                screen.print(screen_of(target.url, activity, screen.width, None))
            else:
                print_text("\n".join([head_of(target.url, activity), *lines_of(activity)]))
            if once:
                return
            await trio.sleep_until(start + number * interval)


class _Look:
    def __init__(self, client: Client, target: Target) -> None:
        self._reflection = client.proxy(Reflection)
        self._timeout = target.timeout
        self.url = target.url

    async def activity(self) -> Activity:
        """What the server does now.

        Raises:
            CommandError: it does not tell, or not in time.
        """
        try:
            with time_limit(self._timeout):
                return await self._reflection.activity(_MOST)
        except MethodNotFound:
            raise CommandError(
                "the server does not tell what it does",
                ExitCode.USAGE,
                hint="only servers on this machine do so by default: others need reflection=True and authorize=",
            ) from None
        except Unauthenticated as exc:
            raise CommandError(
                str(exc),
                ExitCode.UNREACHABLE,
                hint="it tells only those who may call trpc.activity: show who you are with --token or --tls-cert",
            ) from None


async def _show_live(look: _Look, interval: float) -> None:
    # Before the screen is taken, so that an error is seen.
    activity = await look.activity()
    screen = console()
    async with trio.open_nursery() as nursery:
        with _single_keys() as keys, Live(console=screen, screen=True, auto_refresh=False) as live:
            if keys is not None:
                nursery.start_soon(_cancel_on_key, keys, nursery.cancel_scope)
            while True:
                live.update(screen_of(look.url, activity, screen.width, screen.height), refresh=True)
                await trio.sleep(interval)
                activity = await look.activity()


@contextlib.contextmanager
def _single_keys() -> Generator[int | None, None, None]:
    """Standard input, giving keys as they are pressed; None if it is no terminal."""
    try:
        descriptor = sys.stdin.fileno()
        before = termios.tcgetattr(descriptor)
    except (OSError, termios.error, ValueError):
        yield None
        return
    try:
        tty.setcbreak(descriptor)
        yield descriptor
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


async def _cancel_on_key(descriptor: int, scope: trio.CancelScope) -> None:
    while True:
        await trio.lowlevel.wait_readable(descriptor)
        keys = os.read(descriptor, 100)
        if not keys or b"q" in keys or b"Q" in keys:
            scope.cancel()
            return
