"""Cancelled calls that wait until their handler has ended, each for a bounded time."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Any

import outcome
import trio

if TYPE_CHECKING:
    from collections.abc import Callable

    from ._outgoing_call import OutgoingCall
    from ._workers import Workers


class Acknowledgements:
    """Those that one connection waits for.

    Args:
        workers: those of the connection.
        grace: seconds that each is waited for.
    """

    __slots__ = ("_enforces_grace", "_waiting", "_workers", "grace")

    def __init__(self, workers: Workers, grace: float) -> None:
        self.grace = grace
        self._workers = workers
        # With until when; the first one's time is over first.
        self._waiting: OrderedDict[OutgoingCall, float] = OrderedDict()
        self._enforces_grace = False

    def begin(self, call: OutgoingCall, raise_cancel: Callable[[], Any]) -> None:
        """A call whose task is parked waits from now on; the task gets what ``raise_cancel`` raises or gives."""
        call.cancelled = True
        call.raise_cancel = raise_cancel
        self._waiting[call] = trio.current_time() + self.grace
        if not self._enforces_grace:
            self._enforces_grace = True
            self._workers.run(self._enforce_grace)

    def end(self, call: OutgoingCall) -> None:
        """It is acknowledged, or given up: its task gets the cancel that it waited with."""
        call.awaited = False
        self._waiting.pop(call, None)
        assert call.task is not None
        assert call.raise_cancel is not None
        trio.lowlevel.reschedule(call.task, outcome.capture(call.raise_cancel))
        call.task = None

    def forget(self, call: OutgoingCall) -> None:
        """Something else has come instead."""
        self._waiting.pop(call, None)

    @trio.lowlevel.enable_ki_protection
    async def _enforce_grace(self, _: object) -> None:
        """Ends the waits for acknowledgements that do not come. Runs while there are some."""
        while self._waiting:
            call, until = next(iter(self._waiting.items()))
            await trio.sleep_until(until)
            if call in self._waiting:
                self.end(call)
        self._enforces_grace = False
