"""Peers that fall silent, stop in the middle or do not read: what is looked at about once a second.

One task looks at all connections of a server, and does nothing but count. A timer for each of them would be a task
and a scope for each, and setting it again for each message would take as long as a call.

Times are counted in looks, and not by the clock: a look that comes late, as this process was stopped or somebody kept
the event loop, is one look, so that what the peer has sent meanwhile is read before it is blamed.
"""

from __future__ import annotations

import abc
import math
from typing import TYPE_CHECKING, Final, Generic, TypeVar

import trio

from ._errors import ConnectionLost, RPCError

if TYPE_CHECKING:
    from ._caller import Caller
    from ._dispatcher import Dispatcher
    from ._limits import Limits
    from ._outbox import Outbox
    from ._protocol import Protocol
    from ._transport import Transport

# Seconds between two looks; less if a time limit is short.
_TICK: Final = 1.0
_LOOKS: Final = 4

# Fragments of one message go in turns with others and with items of streams, which are as large. In the time of so many
# frames one has to come.
_FRAMES_OF_MESSAGE: Final = 10

# Connections that are looked at before others get their turn: some 100 microseconds.
_AT_ONCE: Final = 200


class Looks:
    """The time limits, in looks.

    Args:
        limits: what this side accepts.

    Attributes:
        limits: the same.
        tick: seconds from one look to the next.
        frame, message, idle, ping, lost, write: how many looks in a row something may be as it is, or is, until something is done.
    """

    __slots__ = ("frame", "idle", "limits", "lost", "message", "ping", "tick", "write")

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        silence = limits.keepalive_interval
        times = (silence, limits.keepalive_timeout, limits.write_timeout, limits.frame_timeout, limits.idle_timeout)
        self.tick = min(_TICK, min(times) / _LOOKS)
        # A look sees what has been since the last one, so that a limit is never met early.
        self.ping = self._number(silence)
        self.lost = self.ping + self._number(limits.keepalive_timeout)
        self.write = self._number(limits.write_timeout) + 1
        self.frame = self._number(limits.frame_timeout) + 1
        self.message = _FRAMES_OF_MESSAGE * self.frame
        self.idle = self._number(limits.idle_timeout) + 1

    def _number(self, seconds: float) -> float:
        return seconds if seconds == math.inf else math.ceil(seconds / self.tick)


class Watched(abc.ABC):
    """The part of a connection that is looked at."""

    __slots__ = (
        "_fragments_mark",
        "_heard",
        "_idle_for",
        "_incomplete_for",
        "_is_read",
        "_mark",
        "_silent_for",
        "_unchanged_for",
        "_unfinished_for",
    )

    _dispatcher: Dispatcher
    _caller: Caller | None
    _outbox: Outbox
    _protocol: Protocol
    _transport: Transport
    _lost: bool

    def __init__(self) -> None:
        self._is_read = False
        """Whether somebody reads. Until the peer is admitted there are other limits on time."""
        self._heard = False
        """Whether anything has come since the last look."""
        self._silent_for = 0
        self._unfinished_for = 0
        """Looks since a frame was completed, while there is one that is not."""
        self._fragments_mark: object = None
        """How far the oldest message was that is incomplete."""
        self._incomplete_for = 0
        self._mark: int | None = None
        """How far the writing was at the last look."""
        self._unchanged_for = 0
        self._idle_for = 0

    @abc.abstractmethod
    def _lose(self, reason: Exception) -> None:
        """The connection is over."""

    @abc.abstractmethod
    def _give_up(self, error: RPCError) -> None:
        """The connection is over, and the peer is told why, if it can be."""

    def look(self, looks: Looks) -> None:
        """One look at it."""
        if self._lost:
            return
        self._look_at_writing(looks)
        # A peer that is not read because it does not read is not silent.
        if self._is_read and not self._outbox.is_full_of_answers:
            self._look_at_reading(looks)
        self._look_at_calls(looks)

    def _look_at_writing(self, looks: Looks) -> None:
        outbox = self._outbox
        mark = outbox.written - self._transport.unsent() if outbox.is_waiting else None
        if mark is None or mark != self._mark:
            self._mark = mark
            self._unchanged_for = 0
            return
        self._unchanged_for += 1
        if self._unchanged_for >= looks.write:
            self._lose(ConnectionLost(f"the peer has not read anything for {looks.limits.write_timeout} s"))

    def _look_at_reading(self, looks: Looks) -> None:
        limits = looks.limits
        if self._heard:
            self._heard = False
            self._silent_for = 0
        else:
            self._silent_for += 1
            if self._silent_for == looks.ping:
                _, data = self._protocol.ping()
                self._outbox.put(data, control=True)
            elif self._silent_for > looks.lost:
                seconds = limits.keepalive_interval + limits.keepalive_timeout
                self._lose(ConnectionLost(f"nothing has come for {seconds} s, not even the answer to a ping"))
                return
        if not self._protocol.frames.inside_frame:
            self._unfinished_for = 0
        else:
            self._unfinished_for += 1
            if self._unfinished_for > looks.frame:
                self._give_up(RPCError(f"a frame was begun and not completed within {limits.frame_timeout} s"))
                return
        mark = self._protocol.progress
        if mark is None or mark != self._fragments_mark:
            self._fragments_mark = mark
            self._incomplete_for = 0
        else:
            self._incomplete_for += 1
            if self._incomplete_for > looks.message:
                seconds = _FRAMES_OF_MESSAGE * limits.frame_timeout
                self._give_up(RPCError(f"a message was begun in fragments, and hardly any came for {seconds} s"))

    def _look_at_calls(self, looks: Looks) -> None:
        if self._dispatcher.is_busy or (self._caller is not None and self._caller.is_waiting):
            self._idle_for = 0
            return
        self._idle_for += 1
        if self._idle_for > looks.idle:
            self._give_up(RPCError(f"there was no call for {looks.limits.idle_timeout} s"))


W = TypeVar("W", bound=Watched)


class Watch(Generic[W]):
    """Looks at connections, as long as :meth:`run` runs.

    Args:
        limits: what this side accepts.

    Attributes:
        connections: what is looked at. Whoever opens a connection adds it, and it leaves by itself.
        runs: whether somebody runs it.
    """

    def __init__(self, limits: Limits) -> None:
        self._looks = Looks(limits)
        self.connections: set[W] = set()
        self.runs = False

    async def run(self) -> None:
        """Until it is cancelled."""
        self.runs = True
        try:
            while True:
                await trio.sleep(self._looks.tick)
                await self._look_at_all()
        finally:
            self.runs = False

    @trio.lowlevel.enable_ki_protection
    async def _look_at_all(self) -> None:
        for number, connection in enumerate(list(self.connections), 1):
            connection.look(self._looks)
            if number % _AT_ONCE == 0:
                await trio.lowlevel.checkpoint()
