"""The bytes of one connection: the small interface that the rest needs, and its form over a Trio stream.

Sockets have a form of their own, in ``_socket_transport``; both are held to the same tests.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Final, Protocol

import trio

from ._socket_transport import SocketTransport

if TYPE_CHECKING:
    from collections.abc import Coroutine, Sequence

_RECEIVE_SIZE: Final = 64 * 1024
# What is written at a time: whether a write makes progress is seen between two of these.
_PIECE: Final = 16 * 1024


class Transport(Protocol):
    """A byte stream to one peer. One task at a time reads, and one writes."""

    address: str
    """Where the peer is, for people to read."""

    reads_much: bool
    """Whether the next read may be larger, as there is probably much."""

    def wait_readable(self) -> Coroutine[Any, Any, None]:
        """To be awaited: waits until :meth:`receive_nowait` is likely to have something to give.

        Raises:
            trio.BrokenResourceError: the stream is broken.
            trio.ClosedResourceError: it is closed.
        """
        ...

    def receive_nowait(self) -> bytes | bytearray | None:
        """Some bytes, or none at the end of the stream; None: there is nothing yet.

        Raises:
            trio.BrokenResourceError, trio.ClosedResourceError: as above.
        """
        ...

    def receive_into(self, room: memoryview) -> int | None:
        """The same into a buffer: how many there were."""
        ...

    def send_nowait(self, chunks: Sequence[bytes | memoryview]) -> int:
        """Writes as many bytes as can be written at once, and says how many; 0 where it cannot tell.

        Raises:
            trio.BrokenResourceError: the stream is broken, and no byte of these was taken.
        """
        ...

    async def send(self, chunks: Sequence[bytes | memoryview]) -> int:
        """Waits until some bytes can be written, and says how many were. Cancelled: the stream must then be closed.

        Raises:
            trio.BrokenResourceError, trio.ClosedResourceError: the stream is broken or closed.
        """
        ...

    def unsent(self) -> int:
        """How many bytes that were written are known to be here still; 0 where it cannot tell."""
        ...

    async def send_eof(self) -> bool:
        """Ends this side's bytes; False if the stream cannot do so and stay open for reading."""
        ...

    async def close(self) -> None:
        """Closes both directions at once, without waiting for the peer; also when cancelled."""
        ...


class StreamTransport:
    """Any ``trio.abc.Stream``: TLS, pipes, Trio's memory streams."""

    __slots__ = ("_data", "_stream", "address", "reads_much")

    def __init__(self, stream: trio.abc.Stream, address: str) -> None:
        self.address = address
        self.reads_much = False
        self._stream = stream
        self._data: bytes | bytearray | None = None

    async def wait_readable(self) -> None:
        # A stream cannot be asked whether something is there, so it is taken at once.
        if self._data is None:
            self._data = await self._stream.receive_some(_RECEIVE_SIZE)
        else:
            await trio.lowlevel.checkpoint()

    def receive_nowait(self) -> bytes | bytearray | None:
        data, self._data = self._data, None
        return data

    def receive_into(self, room: memoryview) -> int | None:
        if (data := self._data) is None:
            return None
        size = min(len(data), len(room))
        room[:size] = data[:size]
        self._data = data[size:] or None
        return size

    def send_nowait(self, chunks: Sequence[bytes | memoryview]) -> int:  # noqa: ARG002 - a stream has only send_all()
        return 0

    async def send(self, chunks: Sequence[bytes | memoryview]) -> int:
        data = first_of(chunks, _PIECE)
        await self._stream.send_all(data)
        return len(data)

    def unsent(self) -> int:
        return 0

    async def send_eof(self) -> bool:
        if not isinstance(self._stream, trio.abc.HalfCloseableStream):
            await trio.lowlevel.checkpoint()
            return False
        await self._stream.send_eof()
        return True

    async def close(self) -> None:
        await trio.aclose_forcefully(self._stream)


def first_of(chunks: Sequence[bytes | memoryview], most: int) -> bytes | memoryview:
    """So many of them as are written at a time, in one piece."""
    first = chunks[0]
    if len(first) > most:
        return memoryview(first)[:most]
    if len(chunks) == 1:
        return first
    size = number = 0
    for chunk in chunks:
        if size + len(chunk) > most:
            break
        size += len(chunk)
        number += 1
    return b"".join(chunks[:number])


def transport_of(stream: trio.abc.Stream, address: str) -> Transport:
    """The transport for an open stream, which belongs to it from now on."""
    # Elsewhere a socket is no file descriptor.
    if isinstance(stream, trio.SocketStream) and os.name == "posix":
        return SocketTransport(stream, address)
    return StreamTransport(stream, address)
