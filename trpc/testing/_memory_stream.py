"""The ends of a connection in memory over which bytes may travel badly."""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from ._pipe import Pipe


class PlainMemoryStream(trio.abc.Stream):
    """One end of a connection, without ``send_eof``, as TLS is.

    Args:
        sending: the direction away from here.
        receiving: the direction to here; the other end's ``sending``.
    """

    def __init__(self, sending: Pipe, receiving: Pipe) -> None:
        self._sending = sending
        self._receiving = receiving
        self._is_closed = False
        self._is_ended = False
        self._sends = False
        self._receives = False

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Returns when all of it is on its way.

        Raises:
            trio.BrokenResourceError: the connection was reset, or nobody reads any more.
            trio.ClosedResourceError: this end is closed.
            trio.BusyResourceError: another task sends.
        """
        self._check_open_for_sending()
        if self._sends:
            raise trio.BusyResourceError("another task is sending over this stream")
        self._sends = True
        try:
            await self._sending.send(bytes(data))
        except trio.BrokenResourceError:
            self._check_open_for_sending()
            raise
        finally:
            self._sends = False

    async def wait_send_all_might_not_block(self) -> None:
        """Waits until there is room for some bytes. Raises as :meth:`send_all`."""
        self._check_open_for_sending()
        if self._sends:
            raise trio.BusyResourceError("another task is sending over this stream")
        self._sends = True
        try:
            await trio.lowlevel.checkpoint()
            await self._sending.wait_room()
        finally:
            self._sends = False
        self._check_open_for_sending()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Some of the bytes that have arrived; none at the end of the stream.

        Raises:
            trio.BrokenResourceError: the connection was reset.
            trio.ClosedResourceError: this end is closed.
            trio.BusyResourceError: another task receives.
        """
        if max_bytes is not None and operator.index(max_bytes) < 1:
            raise ValueError("max_bytes must be at least 1")
        self._check_open()
        if self._receives:
            raise trio.BusyResourceError("another task is receiving from this stream")
        self._receives = True
        try:
            data = await self._receiving.receive(max_bytes or 64 * 1024)
        except trio.BrokenResourceError:
            self._check_open()
            raise
        finally:
            self._receives = False
        return data

    async def aclose(self) -> None:
        """Closes this end: the other one reads what is on its way, then sees the end of the stream."""
        if not self._is_closed:
            self._is_closed = True
            self._sending.close_writing()
            self._receiving.close_reading()
        await trio.lowlevel.checkpoint()

    def _check_open(self) -> None:
        if self._is_closed:
            raise trio.ClosedResourceError("this stream is closed")

    def _check_open_for_sending(self) -> None:
        self._check_open()
        if self._is_ended:
            raise trio.ClosedResourceError("this stream has sent its end")


class MemoryStream(PlainMemoryStream, trio.abc.HalfCloseableStream):
    """One end of a connection that can end its own bytes and go on reading, as a socket can."""

    async def send_eof(self) -> None:
        """The other end sees the end of the stream behind what is on its way."""
        self._check_open()
        if self._sends:
            raise trio.BusyResourceError("another task is sending over this stream")
        if not self._is_ended:
            self._is_ended = True
            self._sending.close_writing()
        await trio.lowlevel.checkpoint()
