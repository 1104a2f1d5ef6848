"""TLS over any transport, and the handshake of either side.

It is not ``trio.SSLStream``, which sends no alert when a handshake fails, so that the peer never learns why, nor
``close_notify`` when something has come that was not read. It would also take a pass of the event loop and a task for
each write, as all streams do. Here a small call over TLS is one system call, as it is without.

All that is decrypted and encrypted goes through memory, and nothing here is in the middle of something when it waits:
a read that is cancelled loses nothing.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import ssl
from typing import TYPE_CHECKING, Any, Final

import trio

from ._errors import UnavailableOSError
from ._frames import PREAMBLE
from ._socket_transport import SocketTransport
from ._transport import first_of

if TYPE_CHECKING:
    from collections.abc import Coroutine, Mapping, Sequence

    from ._transport import Transport

logger = logging.getLogger("trpc")

# A record has as much at most.
_RECORD: Final = 16 * 1024
# A read of so many bytes has probably left some.
_MUCH: Final = 64 * 1024

# Seconds in which the peer can learn how it ends, at the most.
_END_TIME: Final = 1.0

# To somebody who does not speak TLS, and whom OpenSSL sends nothing: a fatal alert, protocol_version.
_NO_TLS: Final = b"\x15\x03\x01\x00\x02\x02\x46"

_BROKEN: Final = (trio.BrokenResourceError, trio.ClosedResourceError)


class TlsTransport:
    """TLS over another transport. Of no use before :meth:`handshake` has returned.

    Args:
        inner: the encrypted bytes; it belongs to this from now on.
        context: how, and with which certificates.
        server_side: whether this is the server's end.
        server_hostname: of the client's end: what the certificate has to be for.

    Attributes:
        address: that of the inner one.
    """

    __slots__ = (
        "_ahead",
        "_at_once",
        "_began_as_trpc",
        "_failure",
        "_has_more",
        "_incoming",
        "_inner",
        "_is_ended",
        "_is_sending",
        "_outgoing",
        "_rest",
        "_ssl",
        "address",
    )

    def __init__(
        self,
        inner: Transport,
        context: ssl.SSLContext,
        *,
        server_side: bool = False,
        server_hostname: str | None = None,
    ) -> None:
        self.address = inner.address
        self._inner = inner
        self._at_once = isinstance(inner, SocketTransport)
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._ssl = context.wrap_bio(
            self._incoming, self._outgoing, server_side=server_side, server_hostname=server_hostname
        )
        self._rest = b""
        """Encrypted, and not taken by the inner transport yet."""
        self._ahead = 0
        """Bytes, 0 or 1, that are encrypted although nobody was told, so that somebody waits until they have left."""
        self._is_sending = False
        """Whether somebody waits for the inner transport to take the rest."""
        self._is_ended = False
        """Whether no more is sent: this side has said so, or the end of a record could not be sent."""
        self._has_more = False
        """Whether something may be decrypted, or is to be told, without anything new from the peer."""
        self._failure: ssl.SSLError | None = None
        self._began_as_trpc = False

    @property
    def reads_much(self) -> bool:
        return self._inner.reads_much

    @reads_much.setter
    def reads_much(self, value: bool) -> None:
        self._inner.reads_much = value

    @property
    def certificate(self) -> Mapping[str, Any] | None:
        """The peer's, if it has shown one and it was checked."""
        return self._ssl.getpeercert() or None

    @property
    def began_as_trpc(self) -> bool:
        """Whether the peer began to speak trpc without TLS."""
        return self._began_as_trpc

    # --- the handshake ---

    async def handshake(self) -> None:
        """To be done before anything else. If it fails, the peer is told, and this is to be closed.

        Raises:
            ssl.SSLError: the other side does not speak TLS, or one does not accept the other.
            trio.BrokenResourceError: the connection broke.
        """
        try:
            while not self._shake_hands():
                await self._flush()
                await self._inner.wait_readable()
                self._receive_greeting()
            # A server's part leaves with what it says first. A client that says something and closes at once would not read it
            # else, and its system break the connection for that.
            if not self._ssl.server_side:
                await self._flush()
        except ssl.SSLError:
            with trio.move_on_after(_END_TIME), contextlib.suppress(*_BROKEN):
                await self._flush()
            raise
        # The peer's first words may have come with its part of the handshake.
        self._has_more = True

    def _shake_hands(self) -> bool:
        try:
            self._ssl.do_handshake()
        except ssl.SSLWantReadError:
            return False
        except ssl.SSLError as exc:
            if not self._outgoing.pending and self._ssl.server_side and not isinstance(exc, ssl.SSLEOFError):
                self._rest += _NO_TLS
            raise
        finally:
            self._rest += self._outgoing.read()
        return True

    def _receive_greeting(self) -> None:
        data = self._inner.receive_nowait()
        if data is None:
            return
        if data[: len(PREAMBLE)] == PREAMBLE:
            self._began_as_trpc = True
        if data:
            self._incoming.write(data)
        else:
            self._incoming.write_eof()

    async def linger(self) -> None:
        """After a handshake that has failed: sees to it, within a second, that the peer learns why.

        To close at once could make the systems throw away what was said last.
        """
        with trio.move_on_after(_END_TIME), contextlib.suppress(*_BROKEN):
            if await self._inner.send_eof():
                while self._inner.receive_nowait() != b"":
                    await self._inner.wait_readable()

    # --- reading ---

    def wait_readable(self) -> Coroutine[Any, Any, None]:
        return trio.lowlevel.checkpoint() if self._has_more else self._inner.wait_readable()

    def receive_nowait(self) -> bytes | bytearray | None:
        if self._is_ended:
            # Nobody reads it any more, apart from its end.
            return self._inner.receive_nowait()
        parts: list[bytes] = []
        size = self._fill()
        data = self._decrypt()
        while data:
            parts.append(data)
            # A last look may show the end or an error behind it, which is for the next time.
            data = self._decrypt(quietly=True)
            if data is None and size >= _MUCH:
                size = self._fill()
                data = self._decrypt(quietly=True)
        self._has_more = data is not None or self._failure is not None
        self._respond()
        return b"".join(parts) if parts else data

    def receive_into(self, room: memoryview) -> int | None:
        size = 0
        while size < len(room):
            try:
                filled = self._ssl.read(len(room) - size, room[size:]) if self._failure is None else 0
            except ssl.SSLWantReadError:
                if self._fill():
                    continue
                self._has_more = False
                self._respond()
                return size or None
            except ssl.SSLZeroReturnError:
                filled = 0
            except ssl.SSLError as exc:
                self._failure = exc
                filled = 0
            if not filled:
                self._has_more = True
                if size == 0:
                    self._raise_failure()
                break
            size += filled
        # There may be more than there was room for.
        self._has_more = True
        self._respond()
        return size
