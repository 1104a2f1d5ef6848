"""What the fuzzer's bytes mean: choices, one after the other."""

from __future__ import annotations


class Choices:
    """Reads an input from the front. Behind its end, every choice is 0: each input means something."""

    __slots__ = ("_at", "_data")

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def __bool__(self) -> bool:
        return self._at < len(self._data)

    def bytes(self, size: int) -> bytes:
        """At most so many bytes."""
        taken = self._data[self._at : self._at + size]
        self._at += size
        return taken

    def number(self, size: int = 1) -> int:
        """A number of so many bytes."""
        return int.from_bytes(self.bytes(size), "big")

    def rest(self) -> bytes:
        """All that is left."""
        return self.bytes(len(self._data))


def cut(data: bytes, places: list[int]) -> list[bytes]:
    """The data in pieces."""
    edges = sorted({0, len(data), *(place % (len(data) + 1) for place in places)})
    return [data[start:end] for start, end in zip(edges, edges[1:], strict=False)]


def one_by_one(data: bytes, start: int, size: int) -> list[bytes]:
    """The data, some of it in pieces of a byte; not all, which takes most of the time and finds no more."""
    start %= len(data) + 1
    return cut(data, [*range(start, min(start + size, len(data)))])
