"""A connection in memory that a test has in its hands."""

from __future__ import annotations

import math
import random
from typing import TYPE_CHECKING

from ._faults import NO_FAULTS, Faults
from ._memory_stream import MemoryStream, PlainMemoryStream
from ._pipe import Pipe

if TYPE_CHECKING:
    import trio

    from ._direction import Direction


class Link:
    """One connection in memory, and what is wrong with it: ``link = Link(7, there=Faults(latency=0.1))``.

    It is made before connecting, inside of Trio or not, and handed over: ``connected(service, link=link)``. Before and
    after that, what is wrong with it can be changed at any time; what is done before is so when the connection begins, and
    its seconds count from then. Seconds are those of Trio's clock, so that with a ``trio.testing.MockClock`` nobody waits
    for them. With the same seed the same happens.

    Args:
        seed: decides what is left to chance: jitter, and the sizes of slices. Or a ``random.Random`` that does, which may
            be used for other things as well.
        there: how bytes travel from the client to the server.
        back: how they travel from the server to the client.
        half_closeable: whether a side can end its own bytes and go on reading: sockets can, TLS cannot.

    Attributes:
        there: the :class:`Direction` from the client to the server.
        back: the one from the server to the client.
    """

    there: Direction
    back: Direction

    def __init__(
        self,
        seed: int | random.Random = 0,
        *,
        there: Faults = NO_FAULTS,
        back: Faults = NO_FAULTS,
        half_closeable: bool = True,
    ) -> None:
        self._seed = seed
        # Not for secrets: it is to be the same again.
        rng = seed if isinstance(seed, random.Random) else random.Random(seed)  # noqa: S311
        self.there, self.back = self._pipes = Pipe.pair(there, back, rng)
        self._half_closeable = half_closeable
        self._is_used = False

    def streams(self) -> tuple[trio.abc.Stream, trio.abc.Stream]:
        """The streams of the client and of the server; for those who use them without :func:`connected`.

        Each of them is a ``trio.abc.HalfCloseableStream``, if the link is half-closeable.

        Raises:
            RuntimeError: the link has given its streams already, to a connection or to somebody else; or Trio does not run.
        """
        streams = self._make_streams()
        self._begin()
        return streams

    def _make_streams(self) -> tuple[trio.abc.Stream, trio.abc.Stream]:
        """They are of use when it has begun."""
        there, back = self._pipes
        make = MemoryStream if self._half_closeable else PlainMemoryStream
        return make(there, back), make(back, there)

    def _begin(self) -> None:
        """Raises as :meth:`streams`, before anything has changed."""
        if self._is_used:
            raise RuntimeError(f"{self!r} has a connection already: make another Link for another one")
        for pipe in self._pipes:
            pipe.begin()
        self._is_used = True

    def stall(self, seconds: float = math.inf) -> None:
        """Silence in both directions for so long: nothing arrives, and nobody is told.

        Raises:
            ValueError: it is not 0 or more seconds.
        """
        self.there.stall(seconds)
        self.back.stall(seconds)

    def cut(self) -> None:
        """The connection ends in both directions: each side reads what is on its way, then sees the end of the stream."""
        self.there.cut("eof")
        self.back.cut("eof")

    def reset(self) -> None:
        """The connection breaks for both sides; what is on its way is lost."""
        for pipe in self._pipes:
            pipe.reset()

    def heal(self) -> None:
        """From now on all is well in both directions, except that what was cut stays so."""
        self.there.heal()
        self.back.heal()

    def __repr__(self) -> str:
        return f"<Link seed={self._seed!r} there={self.there!r} back={self.back!r}>"
