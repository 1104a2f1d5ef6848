"""A transport that reads and writes a socket itself: what a call costs depends on it.

Trio's ``SocketStream`` spends a pass of the event loop on the checkpoint in each ``send_all`` and
``receive_some``, and cannot write what fits and go on. Here a write that the kernel takes is one system call
and no pass. A read waits first, as most of the time nothing is there yet, and then takes all that is.

The socket stays the stream's; it is used by its descriptor, which is the stream's to close.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from typing import TYPE_CHECKING, Any, Final

import trio

if TYPE_CHECKING:
    from collections.abc import Coroutine, Sequence

# What one read takes: some thousand small messages. More of larger ones, so that those of some ten KiB are cut out of it
# whole, and not put together from two.
_RECEIVE_SIZE: Final = 64 * 1024
_RECEIVE_MORE: Final = 256 * 1024
_INT: Final = struct.Struct("i")

# What one system call takes; all systems take so many.
_MAX_CHUNKS: Final = 1024

# What the kernel holds that has not been sent, until it takes more. Trio's 16 KiB lets large messages leave in
# small pieces with a pass of the event loop for each; without a bound, control frames would wait behind megabytes.
_NOTSENT: Final = 256 * 1024

# What the kernel holds that has not been read is in front of what is small as well. Elsewhere it is as much as the network
# needs; to oneself that is a round trip of some microseconds, and the kernel would take megabytes.
_LOOPBACK: Final = ("127.", "[::1]")
_LOOPBACK_BUFFER: Final = 512 * 1024


class SocketTransport:
    """A TCP or Unix socket.

    Args:
        stream: used by nobody else any more; closed by :meth:`close`.
        address: where the peer is, for people to read.
    """

    __slots__ = ("_fd", "_stream", "address", "reads_much")

    def __init__(self, stream: trio.SocketStream, address: str) -> None:
        self.address = address
        self._stream = stream
        self.reads_much = False
        self._fd = stream.socket.fileno()
        with contextlib.suppress(AttributeError, OSError):  # not on this system, or not TCP
            stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, _NOTSENT)
            if address.startswith(_LOOPBACK):
                stream.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _LOOPBACK_BUFFER)

    def wait_readable(self) -> Coroutine[Any, Any, None]:
        # Trio's own coroutine. One around it would be one more to go through whenever the task is resumed, and
        # memory for each idle connection.
        return trio.lowlevel.wait_readable(self._fd) if self._fd >= 0 else _closed()  # noqa: ASYNC105 - awaited there

    def receive_nowait(self) -> bytes | None:
        try:
            return os.read(self._fd, _RECEIVE_MORE if self.reads_much else _RECEIVE_SIZE)
        except BlockingIOError:
            return None
        except OSError as exc:
            raise self._error(exc) from exc

    def receive_into(self, room: memoryview) -> int | None:
        try:
            size = os.readv(self._fd, [room])
            # What the peer is still writing may be there as well, without a pass of the event loop.
            with contextlib.suppress(BlockingIOError):
                while 0 < size < len(room) and (more := os.readv(self._fd, [room[size:]])):
                    size += more
        except BlockingIOError:
            return None
        except OSError as exc:
            raise self._error(exc) from exc
        return size

    def send_nowait(self, chunks: Sequence[bytes | memoryview]) -> int:
        try:
            return os.write(self._fd, chunks[0]) if len(chunks) == 1 else os.writev(self._fd, chunks[:_MAX_CHUNKS])
        except BlockingIOError:
            return 0
        except OSError as exc:
            raise self._error(exc) from exc

    async def send(self, chunks: Sequence[bytes | memoryview]) -> int:
        while True:
            if self._fd < 0:
                await _closed()
            await trio.lowlevel.wait_writable(self._fd)
            if taken := self.send_nowait(chunks):
                return taken

    def unsent(self) -> int:
        import fcntl  # noqa: PLC0415 - not on every system that imports this module
        import termios  # noqa: PLC0415 - the same

        # A slow network may take bytes, and not enough of them for the socket to be called writable.
        try:
            (size,) = _INT.unpack(fcntl.ioctl(self._fd, termios.TIOCOUTQ, bytes(_INT.size)))
        except (OSError, ValueError):  # not on this system, or closed
            return 0
        return int(size)

    async def send_eof(self) -> bool:
        await trio.lowlevel.checkpoint()
        try:
            self._stream.socket.shutdown(socket.SHUT_WR)
        except OSError as exc:
            raise trio.BrokenResourceError(str(exc)) from exc
        return True

    async def close(self) -> None:
        # First, so that no other file that gets this number is touched.
        self._fd = -1
        await trio.aclose_forcefully(self._stream)

    def _error(self, exc: OSError) -> Exception:
        if self._fd < 0:
            return trio.ClosedResourceError("this side has closed the connection")
        return trio.BrokenResourceError(str(exc))


async def _closed() -> None:
    raise trio.ClosedResourceError("this side has closed the connection")
