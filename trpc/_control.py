"""This side's cancels and pings: not more of them than the peer takes.

Who sends too many loses its connection, so those for which there is no room wait here, in their order. Nothing depends
on when a cancel leaves: the caller gives up by itself when its grace is over, and a call that ends meanwhile needs none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import trio

from ._outgoing_call import OutgoingCall
from ._rate import Rate

if TYPE_CHECKING:
    from ._messages import Hello
    from ._outbox import Outbox
    from ._protocol import Protocol
    from ._workers import Workers

# Of what the peer announces, this side uses so much. Those that a network holds back arrive together, and requests that
# the peer refuses count as well: what is left of the burst is for these, and what is left of the rate brings it back.
_USED_OF_BURST: Final = 0.5
_USED_OF_RATE: Final = 0.9


class Control:
    """Those of one connection.

    Args:
        protocol, outbox, workers: those of the connection.
    """

    __slots__ = ("_lost", "_outbox", "_protocol", "_rate", "_sends", "_sleep", "_waiting", "_workers")

    def __init__(self, protocol: Protocol, outbox: Outbox, workers: Workers) -> None:
        self._protocol = protocol
        self._outbox = outbox
        self._workers = workers
        self._rate = _rate_of(protocol.peer)
        """None: the peer takes any number."""
        self._waiting: dict[OutgoingCall | trio.Event, None] = {}
        """Calls that are to be cancelled, and who wants to ping."""
        self._lost = False
        self._sends = False
        self._sleep: trio.CancelScope | None = None

    def on_hello(self) -> None:
        """The peer has said how many it takes."""
        was_used = self._rate is not None and self._rate.wait(trio.current_time()) > 0
        self._rate = _rate_of(self._protocol.peer)
        if was_used and self._rate is not None:
            self._rate.spend(trio.current_time())
        if self._sleep is not None:
            self._sleep.cancel()
        self._begin()

    def cancel(self, call: OutgoingCall, *, alone: bool) -> None:
        """Sends the CANCEL of a call, as soon as the peer takes one."""
        if not self._waiting and self._may_send():
            self._send(call, alone=alone)
        elif not self._lost:
            self._wait_for_turn(call)

    def forget(self, call: OutgoingCall) -> None:
        """It has ended."""
        self._waiting.pop(call, None)

    async def wait(self) -> None:
        """Waits until a ping may be sent, or the connection is over. A checkpoint only if it has to wait."""
        if self._lost or (not self._waiting and self._may_send()):
            return
        turn = trio.Event()
        self._wait_for_turn(turn)
        try:
            await turn.wait()
        finally:
            self._waiting.pop(turn, None)

    def on_lost(self) -> None:
        """Nothing is sent any more."""
        self._lost = True
        waiting, self._waiting = self._waiting, {}
        for entry in waiting:
            if isinstance(entry, trio.Event):
                entry.set()

    def _may_send(self) -> bool:
        return self._rate is None or self._rate.spend(trio.current_time())

    def _wait_for_turn(self, entry: OutgoingCall | trio.Event) -> None:
        self._waiting[entry] = None
        self._begin()

    def _begin(self) -> None:
        # Before the connection is run, nothing can be; it begins with the peer's hello.
        if self._waiting and not self._sends and self._workers.nursery is not None:
            self._sends = True
            self._workers.run(self._send_waiting)

    def _send(self, call: OutgoingCall, *, alone: bool) -> None:
        self._outbox.put(self._protocol.cancel(call.id), control=True, alone=alone)

    @trio.lowlevel.enable_ki_protection
    async def _send_waiting(self, _: object) -> None:
        """Sends those that wait. Runs while there are some."""
        while self._waiting:
            entry = next(iter(self._waiting))
            if isinstance(entry, OutgoingCall) and not self._protocol.is_awaited(entry.id):
                self._waiting.pop(entry)
            elif self._may_send():
                self._waiting.pop(entry)
                if isinstance(entry, OutgoingCall):
                    self._send(entry, alone=False)
                else:
                    entry.set()
            else:
                assert self._rate is not None
                with trio.move_on_after(self._rate.wait(trio.current_time())) as self._sleep:
                    await trio.sleep_forever()
                self._sleep = None
        self._sends = False


def _rate_of(hello: Hello) -> Rate | None:
    if hello.control_burst is None or hello.control_rate is None:
        return None
    return Rate(max(1.0, hello.control_burst * _USED_OF_BURST), hello.control_rate * _USED_OF_RATE)
