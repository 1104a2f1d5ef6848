"""Streams whose bytes travel badly: late, in small pieces, slowly, not at all, or only so far.

``ours, theirs = faulty_stream_pair(seed)`` gives the two ends of a connection in memory. How the bytes travel is said
for each direction by :class:`Faults`, and can be changed at any time::

    ours, theirs = faulty_stream_pair(7, there=Faults(slices=1, latency=0.1), back=Faults(cut_after=200))
    ours.sending.stall(5)  # nothing arrives at theirs for five seconds
    ours.reset()           # the connection breaks, for both
    ours.heal()            # what is stalled arrives, and from now on everything at once

Time is that of Trio's clock only, so that a MockClock makes hours of it pass in no time; chance is that of the seed
only. There are no tasks: every piece of data carries the time at which it arrives, and who reads waits for that.
"""

from __future__ import annotations

import math
import operator
import random

import trio
import trio.lowlevel

from .direction import Direction, Faults


class FaultyStream(trio.abc.Stream):
    """One end of a connection over which bytes travel badly; see :func:`faulty_stream_pair`.

    Attributes:
        sending: the direction away from here.
        receiving: the direction to here; the other end's ``sending``.
    """

    def __init__(self, sending: Direction, receiving: Direction) -> None:
        self.sending = sending
        self.receiving = receiving
        self._is_closed = False
        self._is_ended = False
        self._sends = False
        self._receives = False

    # --- what a test does ---

    def stall(self, seconds: float = math.inf) -> None:
        """Silence in both directions for so long."""
        self.sending.stall(seconds)
        self.receiving.stall(seconds)

    def heal(self) -> None:
        """From now on all is well in both directions, except that what was cut stays so."""
        self.sending.heal()
        self.receiving.heal()

    def reset(self) -> None:
        """The connection breaks for both ends; what is on its way is lost."""
        self.sending.reset()
        self.receiving.reset()

    # --- the stream ---

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Returns when all of it is on its way.

        Raises:
            trio.BrokenResourceError: the connection was reset, or nobody reads any more.
            trio.ClosedResourceError: this end is closed.
            trio.BusyResourceError: another task sends.
        """
        self._check_open(self._is_ended)
        if self._sends:
            raise trio.BusyResourceError("another task is sending over this stream")
        self._sends = True
        try:
            await self.sending.send(bytes(data))
        except trio.BrokenResourceError:
            self._check_open(self._is_ended)
            raise
        finally:
            self._sends = False

    async def wait_send_all_might_not_block(self) -> None:
        """Waits until there is room for some bytes. Raises as :meth:`send_all`."""
        self._check_open(self._is_ended)
        if self._sends:
            raise trio.BusyResourceError("another task is sending over this stream")
        self._sends = True
        try:
            await trio.lowlevel.checkpoint()
            await self.sending.wait_room()
        finally:
            self._sends = False
        self._check_open(self._is_ended)

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Some of the bytes that have arrived; none at the end of the stream.

        Raises:
            trio.BrokenResourceError: the connection was reset.
            trio.ClosedResourceError: this end is closed.
            trio.BusyResourceError: another task receives.
        """
        if max_bytes is not None and operator.index(max_bytes) < 1:
            raise ValueError("max_bytes must be at least 1")
        self._check_open(False)
        if self._receives:
            raise trio.BusyResourceError("another task is receiving from this stream")
        self._receives = True
        try:
            data = await self.receiving.receive(max_bytes or 64 * 1024)
        except trio.BrokenResourceError:
            self._check_open(False)
            raise
        finally:
            self._receives = False
        return data

    async def aclose(self) -> None:
        """Closes this end: the other one reads what is on its way, then sees the end of the stream."""
        if not self._is_closed:
            self._is_closed = True
            self.sending.close_writing()
            self.receiving.close_reading()
        await trio.lowlevel.checkpoint()

    def _check_open(self, is_ended: bool) -> None:
        if self._is_closed or is_ended:
            raise trio.ClosedResourceError("this stream is closed")


class HalfCloseableFaultyStream(FaultyStream, trio.abc.HalfCloseableStream):
    """A :class:`FaultyStream` that can end its own bytes and go on reading, as a socket can."""

    async def send_eof(self) -> None:
        """The other end sees the end of the stream behind what is on its way."""
        self._check_open(False)
        if self._sends:
            raise trio.BusyResourceError("another task is sending over this stream")
        if not self._is_ended:
            self._is_ended = True
            self.sending.close_writing()
        await trio.lowlevel.checkpoint()


def faulty_stream_pair(
    seed: int | random.Random,
    *,
    there: Faults | None = None,
    back: Faults | None = None,
    half_closeable: bool = True,
) -> tuple[FaultyStream, FaultyStream]:
    """Both ends of a connection in memory over which bytes travel badly.

    Args:
        seed: decides what is left to chance, or a generator of random numbers that does.
        there: how bytes travel from the first end to the second.
        back: and the other way.
        half_closeable: whether the ends have ``send_eof``, as sockets have, and TLS has not.
    """
    rng = seed if isinstance(seed, random.Random) else random.Random(seed)
    one, other = Direction(there or Faults(), rng), Direction(back or Faults(), rng)
    one.opposite, other.opposite = other, one
    for direction in (one, other):
        if direction.faults.cut_after == 0:
            direction.cut()
    make = HalfCloseableFaultyStream if half_closeable else FaultyStream
    return make(one, other), make(other, one)
