"""A transport that reads and writes a socket itself: what a call costs depends on it.

Trio's ``SocketStream`` spends a pass of the event loop on the checkpoint in each ``send_all`` and
``receive_some``, and cannot write what fits and go on. Here a write that the kernel takes is one system call
and no pass. A read waits first, as most of the time nothing is there yet, and then takes all that is.

The socket stays the stream's; it is used by its descriptor, which is the stream's to close.
"""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING, Final

import trio

if TYPE_CHECKING:
    from collections.abc import Sequence

# What one read takes: some thousand small messages.
_RECEIVE_SIZE: Final = 64 * 1024
# The same while a large frame is on its way.
_LARGE_RECEIVE_SIZE: Final = 1024 * 1024


class SocketTransport:
    """A TCP or Unix socket.

    Args:
        stream: used by nobody else any more; closed by :meth:`close`.
        address: where the peer is, for people to read.
    """

    __slots__ = ("_fd", "_stream", "address")

    anyone_may_read = True

    def __init__(self, stream: trio.SocketStream, address: str) -> None:
        self.address = address
        self._stream = stream
        self._fd = stream.socket.fileno()

    async def receive(self, missing: int = 0) -> bytes:
        # A large buffer is made for what is known to come only: making it costs more than reading.
        size = _RECEIVE_SIZE if missing <= _RECEIVE_SIZE else min(missing, _LARGE_RECEIVE_SIZE)
        while True:
            self._check_open()
            await trio.lowlevel.wait_readable(self._fd)
            try:
                return os.read(self._fd, size)
            except BlockingIOError:  # woken for nothing, as the kernel may do
                pass
            except OSError as exc:
                raise trio.BrokenResourceError(str(exc)) from exc

    def stop_receiving(self) -> None:
        if self._fd >= 0:
            trio.lowlevel.notify_closing(self._fd)

    def send_nowait(self, chunks: Sequence[bytes]) -> int:
        self._check_open()
        try:
            return os.write(self._fd, chunks[0]) if len(chunks) == 1 else os.writev(self._fd, chunks)
        except BlockingIOError:
            return 0
        except OSError as exc:
            raise trio.BrokenResourceError(str(exc)) from exc

    async def send(self, data: bytes | memoryview) -> None:
        rest = memoryview(data)
        while rest:
            self._check_open()
            try:
                await trio.lowlevel.wait_writable(self._fd)
            except trio.ClosedResourceError:
                # It may be stop_receiving(), which was not meant for this direction.
                continue
            rest = rest[self.send_nowait([rest]) :]

    async def send_eof(self) -> bool:
        await trio.lowlevel.checkpoint()
        self._check_open()
        try:
            self._stream.socket.shutdown(socket.SHUT_WR)
        except OSError as exc:
            raise trio.BrokenResourceError(str(exc)) from exc
        return True

    async def close(self) -> None:
        # First, so that no other file that gets this number is touched.
        self._fd = -1
        await trio.aclose_forcefully(self._stream)

    def _check_open(self) -> None:
        if self._fd < 0:
            raise trio.ClosedResourceError("this side has closed the connection")
