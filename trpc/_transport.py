"""The bytes of one connection: the small interface that the rest needs, and its form over a Trio stream."""

from __future__ import annotations

from typing import Final, Protocol

import trio

_RECEIVE_SIZE: Final = 64 * 1024


class Transport(Protocol):
    """A byte stream to one peer. One task reads and one writes."""

    address: str
    """Where the peer is, for people to read."""

    async def receive(self) -> bytes | bytearray:
        """Some bytes, or none at the end of the stream.

        Raises:
            trio.BrokenResourceError: the stream is broken.
        """
        ...

    async def send(self, data: bytes) -> None:
        """Writes all of ``data``. Cancelling it leaves the stream unusable: it must then be closed.

        Raises:
            trio.BrokenResourceError: the stream is broken.
        """
        ...

    async def send_eof(self) -> bool:
        """Ends this side's bytes; False if the stream cannot do so and stay open for reading."""
        ...

    async def close(self) -> None:
        """Closes both directions at once, without waiting for the peer; also when cancelled."""
        ...


class StreamTransport:
    """Any ``trio.abc.Stream``: TCP and Unix sockets, pipes, Trio's memory streams."""

    def __init__(self, stream: trio.abc.Stream, address: str) -> None:
        self.address = address
        self._stream = stream

    async def receive(self) -> bytes | bytearray:
        return await self._stream.receive_some(_RECEIVE_SIZE)

    async def send(self, data: bytes) -> None:
        await self._stream.send_all(data)

    async def send_eof(self) -> bool:
        if not isinstance(self._stream, trio.abc.HalfCloseableStream):
            await trio.lowlevel.checkpoint()
            return False
        await self._stream.send_eof()
        return True

    async def close(self) -> None:
        await trio.aclose_forcefully(self._stream)
