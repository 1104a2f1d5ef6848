"""Pings on their way: who waits for which answer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from ._outbox import Outbox
    from ._protocol import Protocol


class Pings:
    """Those of one connection; its length is how many are waited for.

    Args:
        protocol, outbox: those of the connection.
    """

    __slots__ = ("_outbox", "_protocol", "_waiting")

    def __init__(self, protocol: Protocol, outbox: Outbox) -> None:
        self._protocol = protocol
        self._outbox = outbox
        self._waiting: dict[int, trio.Event] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    @trio.lowlevel.enable_ki_protection
    async def ping(self) -> float | None:
        """Seconds of a round trip; None if the connection ended first. Cancelled: the answer is ignored."""
        number, data = self._protocol.ping()
        pong = self._waiting[number] = trio.Event()
        start = trio.current_time()
        try:
            self._outbox.put(data, control=True)
            await pong.wait()
        finally:
            lost = self._waiting.pop(number, None) is not None
        return None if lost else trio.current_time() - start

    def on_pong(self, number: int) -> None:
        """An answer arrived; nobody may be waiting for it any more."""
        if (event := self._waiting.pop(number, None)) is not None:
            event.set()

    def on_lost(self) -> None:
        """There will be no more answers."""
        for event in self._waiting.values():
            event.set()
