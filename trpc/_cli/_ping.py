"""``trpc ping``: round trips to a server, as ``ping`` does."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import click
import trio

from ._connecting import Target, target_options
from ._durations import DURATION, shown
from ._exits import CommandError, ExitCode
from ._latencies import Latencies
from ._output import print_text
from ._results import json_bytes
from ._running import run

if TYPE_CHECKING:
    from .. import Client


@click.command("ping", short_help="Time round trips to a server.")
@target_options(timeout=5, what="Count an answer as lost after this time")
@click.option("--count", "-c", type=click.IntRange(min=1), help="End after so many.  [until Ctrl-C]")
@click.option("--interval", "-i", type=DURATION, default=1.0, help="Time between two of them.  [1s]")
@click.option("--json", "as_json", is_flag=True, help="Print one line of JSON for each, and one at the end.")
def ping(target: Target, count: int | None, interval: float, as_json: bool) -> None:
    """Send pings to the server, and show how long their round trips take: at the end, or on Ctrl-C, with percentiles.

    The exit code is 4 if one was not answered.
    """
    pings = _Pings(target, math.inf if count is None else count, as_json)
    run(lambda _: pings.run(interval), ends_by_interrupt=True)
    if pings.sent > pings.times.count:
        raise CommandError(f"{pings.sent - pings.times.count} of {pings.sent} pings were lost", ExitCode.TIMEOUT)


class _Pings:
    def __init__(self, target: Target, count: float, as_json: bool) -> None:
        self._target = target
        self._count = count
        self._as_json = as_json
        self.sent = 0
        self.times = Latencies()

    async def run(self, interval: float) -> None:
        """Sends them, and shows the summary however it ends."""
        async with self._target.connected() as client:
            try:
                start = trio.current_time()
                while self.sent < self._count:
                    await trio.sleep_until(start + self.sent * interval)
                    await self._ping(client)
            finally:
                self._show_summary()

    async def _ping(self, client: Client) -> None:
        self.sent += 1
        try:
            with trio.fail_after(self._target.timeout or math.inf):
                seconds = await client.ping()
        except trio.TooSlowError:
            self._show(None)
        except trio.Cancelled:
            # It is neither answered nor lost.
            self.sent -= 1
            raise
        else:
            self.times.add(seconds)
            self._show(seconds)

    def _show(self, seconds: float | None) -> None:
        if self._as_json:
            milliseconds = None if seconds is None else round(seconds * 1000, 4)
            print_text(json_bytes({"seq": self.sent, "ms": milliseconds}).decode())
        else:
            time = f"no answer within {self._target.timeout:g} s" if seconds is None else f"time={shown(seconds)}"
            print_text(f"{self._target.url}: seq={self.sent} {time}")

    def _show_summary(self) -> None:
        lost = self.sent - self.times.count
        if self._as_json:
            summary = {"sent": self.sent, "received": self.times.count, "lost": lost, "ms": self.times.milliseconds()}
            print_text(json_bytes(summary).decode())
            return
        print_text(f"\n{self.sent} sent, {self.times.count} received, {lost} lost")
        if self.times.count:
            print_text(self.times.summary())
