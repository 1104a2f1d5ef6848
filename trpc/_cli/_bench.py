"""``trpc bench``: many calls of one method, their rate and their latencies."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import sys
from collections import Counter
from typing import TYPE_CHECKING, Any

import click
import trio
from rich.console import Console
from rich.live import Live
from rich.text import Text

from .. import Overloaded, RemoteError, RPCError
from ._arguments import ArgumentsCommand, prepared
from ._completing import complete_method
from ._connecting import Target, target_options
from ._durations import DURATION, shown
from ._exits import CommandError, ExitCode, explained, leaves
from ._latencies import Latencies, histogram_lines
from ._output import print_text
from ._results import json_bytes
from ._running import run
from ._text import one_line

if TYPE_CHECKING:
    from .. import Client
    from ._arguments import Arguments

# Seconds, where neither the time nor the number of calls is given.
_DURATION = 5.0
# Seconds between two lines that show the rate meanwhile.
_TICK = 0.5


@dataclasses.dataclass(frozen=True, slots=True)
class _Plan:
    target: Target
    method: str
    texts: tuple[str, ...]
    concurrency: int
    connections: int
    duration: float
    calls: float
    as_json: bool


@click.command(
    "bench",
    cls=ArgumentsCommand,
    short_help="Call a method many times, and time it.",
    epilog="ARGUMENTS are as for `trpc call`.",
)
@target_options(what="Give each call this time")
@click.argument("method", shell_complete=complete_method)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
@click.option("--concurrency", type=click.IntRange(1, 100_000), default=10, help="Calls at the same time.  [10]")
@click.option("--connections", type=click.IntRange(1, 10_000), default=1, help="Connections that they share.  [1]")
@click.option("--duration", type=DURATION, help="Begin calls for this time.  [5s]")
@click.option("--calls", type=click.IntRange(min=1), help="End after so many calls.")
@click.option("--json", "as_json", is_flag=True, help="Print the figures as one line of JSON.")
def bench(
    target: Target,
    method: str,
    arguments: tuple[str, ...],
    concurrency: int,
    connections: int,
    duration: float | None,
    calls: int | None,
    as_json: bool,
) -> None:
    """Call METHOD again and again, and show how many calls a second there are, and how long they take.

    Ctrl-C ends it early; the figures are shown then, too. A stream is one call, until its last item.
    """
    seconds = _DURATION if duration is None and calls is None else math.inf if duration is None else duration
    number = math.inf if calls is None else calls
    plan = _Plan(target, method, arguments, concurrency, connections, seconds, number, as_json)
    figures = _Figures()
    run(lambda _: _Bench(plan, figures).run())
    if figures.errors:
        raise CommandError(
            f"{figures.failed} of {figures.failed + figures.times.count} calls have failed", ExitCode.FAILED
        )


class _Figures:
    def __init__(self) -> None:
        self.times = Latencies()
        self.errors: Counter[str] = Counter()
        self.items = 0
        self.start = 0.0
        self.seconds = 0.0

    @property
    def failed(self) -> int:
        """How many calls have failed."""
        return self.errors.total()


class _Bench:
    def __init__(self, plan: _Plan, figures: _Figures) -> None:
        self._plan = plan
        self._figures = figures
        self._begun = 0
        self._end = math.inf
        self._arguments: Arguments
        self._is_stream = False

    async def run(self) -> None:
        """Makes the calls. However it ends, the figures are shown."""
        await self._prepare()
        async with contextlib.AsyncExitStack() as stack:
            clients = [
                await stack.enter_async_context(self._plan.target.connected()) for _ in range(self._plan.connections)
            ]
            self._figures.start = trio.current_time()
            self._end = self._figures.start + self._plan.duration
            try:
                await self._make_calls(clients)
            finally:
                self._figures.seconds = trio.current_time() - self._figures.start
                if self._figures.times.count or self._figures.failed:
                    self._show()

    async def _prepare(self) -> None:
        known = await prepared(self._plan.target, self._plan.method, self._plan.texts)
        self._arguments = known.arguments
        self._is_stream = known.method is not None and known.method["is_stream"]
        if self._arguments.reads_input:
            raise CommandError("a stream that is read cannot be sent in each call", hint="give it as a JSON list")

    async def _make_calls(self, clients: list[Client]) -> None:
        async with trio.open_nursery() as watching:
            if not self._plan.as_json and sys.stderr.isatty():
                watching.start_soon(self._show_rate)
            async with trio.open_nursery() as callers:
                for number in range(self._plan.concurrency):
                    callers.start_soon(self._call_again_and_again, clients[number % len(clients)])
            watching.cancel_scope.cancel()

    async def _show_rate(self) -> None:
        figures = self._figures
        before, then = 0, figures.start
        with Live(console=Console(stderr=True), auto_refresh=False, transient=True) as live:
            while True:
                await trio.sleep(_TICK)
                now, done = trio.current_time(), figures.times.count
                rate = (done - before) / (now - then)
                before, then = done, now
                text = f"{now - figures.start:.1f} s  {rate:,.0f} calls/s  {done:,} calls"
                if done:
                    text += f"  p50 {shown(figures.times.percentile(50))}  p99 {shown(figures.times.percentile(99))}"
                text += f"  {figures.failed:,} failed" if figures.failed else ""
                live.update(Text(text), refresh=True)

    async def _call_again_and_again(self, client: Client) -> None:
        figures = self._figures
        while self._begun < self._plan.calls and (start := trio.current_time()) < self._end:
            self._begun += 1
            try:
                with trio.fail_after(self._plan.target.timeout or math.inf):
                    await self._call(client)
            except (RPCError, trio.TooSlowError, ExceptionGroup) as exc:
                error = explained(exc)
                if error is None:
                    raise
                if not figures.times.count and error.code in {ExitCode.USAGE, ExitCode.UNREACHABLE}:
                    # Nor will any other call succeed.
                    raise
                figures.errors[_name_of(exc)] += 1
                if error.code == ExitCode.UNREACHABLE and not isinstance(exc, Overloaded):
                    # The connection has ended: the same.
                    raise
            else:
                figures.times.add(trio.current_time() - start)

    async def _call(self, client: Client) -> None:
        args, kwargs = self._arguments.opened()
        if not self._is_stream:
            await client.call(self._plan.method, *args, **kwargs)
            return
        async with client.stream(self._plan.method, *args, **kwargs) as items:
            async for _ in items:
                self._figures.items += 1

    def _show(self) -> None:
        figures, plan = self._figures, self._plan
        times, seconds = figures.times, figures.seconds or math.inf
        if plan.as_json:
            result: dict[str, Any] = {
                "method": plan.method,
                "concurrency": plan.concurrency,
                "connections": plan.connections,
                "seconds": round(figures.seconds, 3),
                "calls": times.count,
                "calls_per_second": round(times.count / seconds, 1),
                "items": figures.items,
                "failed": dict(figures.errors),
                "ms": times.milliseconds(),
            }
            print_text(json_bytes(result).decode())
            return
        print_text(
            f"{times.count:,} calls of {one_line(plan.method)} in {figures.seconds:.2f} s:"
            f" {times.count / seconds:,.0f} calls/s, with {plan.concurrency} at the same time"
        )
        if self._is_stream:
            print_text(f"{figures.items:,} items: {figures.items / seconds:,.0f} items/s")
        for name, number in figures.errors.most_common():
            print_text(f"{number:,} failed: {name}")
        if times.count:
            print_text("\n".join(["", times.summary(), "", *histogram_lines(times)]))


def _name_of(exc: BaseException) -> str:
    error = next(leaves(exc))
    if isinstance(error, RemoteError):
        return one_line(error.type_name)
    # What fail_after raises is not one of trpc's.
    return type(error).__name__ if isinstance(error, RPCError) else "timeout"
