"""Bytes in flight: how many of a peer's are held here at once, on its connection and on all of a server's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ._limits import KiB

if TYPE_CHECKING:
    from ._limits import Limits

FREE: Final = 64 * KiB
"""A connection that holds no more than this is served although others have taken all there is."""


class Pool:
    """What the connections of a server share.

    Args:
        size: bytes in all.

    Attributes:
        size: the same.
        taken: how many of them are held.
    """

    __slots__ = ("size", "taken")

    def __init__(self, size: int) -> None:
        self.size = size
        self.taken = 0


def size_of_requests(limits: Limits) -> int:
    """Bytes of requests that one connection may hold."""
    # One request has to fit in any case, beside the first KiB of the others.
    return max(limits.max_bytes_in_flight, limits.max_message_size + limits.max_calls * KiB)


def size_of_items(limits: Limits) -> int:
    """The same of items: what the peer has credit for, and one large one."""
    return limits.max_streams * limits.stream_credit + limits.max_message_size


class Share:
    """What one connection may hold of it.

    Args:
        limits: what this side accepts.
        pool: None: nobody else takes of it.
        of_items: whether it is for items of streams. They have one of their own, so that streams which are full do not
            keep out other calls.

    Attributes:
        taken: how many bytes it holds.
    """

    __slots__ = ("_pool", "_size", "taken")

    def __init__(self, limits: Limits, pool: Pool | None = None, *, of_items: bool = False) -> None:
        self._size = size_of_items(limits) if of_items else size_of_requests(limits)
        self._pool = pool or Pool(self._size)
        self.taken = 0

    def for_items(self, limits: Limits) -> Share:
        """That of the same connection for items of streams."""
        return Share(limits, self._pool, of_items=True)

    def has_room(self, size: int) -> bool:
        """Whether so many bytes more may be held."""
        taken = self.taken + size
        return taken <= self._size and (taken <= FREE or self._pool.taken + size <= self._pool.size)

    def take(self, size: int) -> bool:
        """Holds so many more, if there is room for them."""
        if not self.has_room(size):
            return False
        self.add(size)
        return True

    def add(self, size: int) -> None:
        """Holds so many more."""
        self.taken += size
        self._pool.taken += size

    def give_back(self, size: int) -> None:
        """Holds so many less."""
        self.taken -= size
        self._pool.taken -= size

    def close(self) -> None:
        """Holds nothing any more."""
        self.give_back(self.taken)
