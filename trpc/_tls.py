"""TLS over any transport.

It is not ``trio.SSLStream``, which sends no alert when a handshake fails, so that the peer never learns why, nor
``close_notify`` when something has come that was not read. It would also take a pass of the event loop and a task for
each write, as all streams do. Here a small call over TLS is one system call, as it is without.

All that is decrypted and encrypted goes through memory, and nothing here is in the middle of something when it waits:
a read that is cancelled loses nothing.
"""

from __future__ import annotations

import contextlib
import ssl
from typing import TYPE_CHECKING, Any, Final, cast

import trio

from ._frames import PREAMBLE
from ._socket_transport import SocketTransport
from ._transport import first_of

if TYPE_CHECKING:
    from collections.abc import Coroutine, Mapping, Sequence

    from ._transport import Transport

# A record has as much at most.
_RECORD: Final = 16 * 1024
# What is encrypted at a time.
_PIECE: Final = 64 * 1024
# A read of so many bytes has probably left some.
_MUCH: Final = 64 * 1024
# What is decrypted at a stretch, before others get their turn.
_MAX_RECORDS: Final = 32

# Seconds in which the peer can learn how it ends, at the most.
_END_TIME: Final = 1.0

# To somebody who does not speak TLS, and whom OpenSSL sends nothing: a fatal alert, protocol_version.
_NO_TLS: Final = b"\x15\x03\x01\x00\x02\x02\x46"

# Reasons of OpenSSL for bytes that are something else.
NOT_TLS: Final = ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "HTTPS_PROXY_REQUEST", "PACKET_LENGTH_TOO_LONG")

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
        "_is_cut",
        "_is_ended",
        "_is_sending",
        "_outgoing",
        "_rest",
        "_ssl",
        "address",
        "reads_much",
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
        self.reads_much = False
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
        """Whether this side has said that it sends no more. Nobody reads what comes then, apart from the end."""
        self._is_cut = False
        """Whether a part of a record may have left, so that nothing can follow it."""
        self._has_more = False
        """Whether something may be decrypted, or is to be told, without anything new from the peer."""
        self._failure: ssl.SSLError | None = None
        self._began_as_trpc = False

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
            # With TLS 1.3, what a server has left, leaves with what it says first. A client that says something and closes at
            # once would not read it else, and its system break the connection for that.
            if not self._ssl.server_side or self._ssl.version() != "TLSv1.3":
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
        return trio.lowlevel.checkpoint() if self._has_more else self._inner.wait_readable()  # noqa: ASYNC105 - awaited there

    def receive_nowait(self) -> bytes | bytearray | None:
        if self._is_ended:
            return self._inner.receive_nowait()
        parts: list[bytes] = []
        came = 0 if self._has_more else self._fill()
        self._has_more = False
        data: bytes | None = b""
        while len(parts) < _MAX_RECORDS:
            try:
                data = self._read(_RECORD)
                if data is None and came >= _MUCH:
                    came = self._fill()
                    data = self._read(_RECORD)
            except _BROKEN:
                if not parts:
                    raise
                data = b""
            if not data:
                break
            parts.append(data)
        # The end, or an error, is behind what there was.
        self._has_more = data is not None
        self._respond()
        return b"".join(parts) if parts else data

    def receive_into(self, room: memoryview) -> int | None:
        size = 0
        self._has_more = True
        while size < len(room):
            try:
                filled = self._read(len(room) - size, room[size:])
                if filled is None:
                    if self._fill():
                        continue
                    self._has_more = False
                    break
            except _BROKEN:
                if not size:
                    raise
                break
            if not filled:
                self._respond()
                return size
            size += filled
        self._respond()
        return size or None

    def _fill(self) -> int:
        """Takes what is there of the encrypted bytes, and says how many there were; of their end it says 1."""
        self._inner.reads_much = self.reads_much
        data = self._inner.receive_nowait()
        if data is None:
            return 0
        if data:
            self._incoming.write(data)
        else:
            self._incoming.write_eof()
        return len(data) or 1

    def _read(self, size: int, room: memoryview | None = None) -> Any:
        """Decrypted bytes, or how many are in the room now; none at the end; None: there are none yet.

        Raises:
            trio.BrokenResourceError: what has come is not what it should be, or was cut off.
        """
        if self._failure is None:
            try:
                return self._ssl.read(size) if room is None else self._ssl.read(size, cast("Any", room))
            except ssl.SSLWantReadError:
                return None
            except ssl.SSLError as exc:
                self._failure = exc
        raise trio.BrokenResourceError(reason_of(self._failure)) from self._failure

    def _respond(self) -> None:
        """What TLS itself has to say to what it has read leaves now, or with what is written next."""
        if self._outgoing.pending:
            self._rest += self._outgoing.read()
            if not self._is_sending:
                with contextlib.suppress(*_BROKEN):  # whoever reads will find out
                    self._flush_nowait()

    # --- writing ---

    def send_nowait(self, chunks: Sequence[bytes | memoryview]) -> int:
        if not self._at_once or not self._flush_nowait():
            return 0
        if self._ahead:
            self._ahead = 0
            return 1
        data = first_of(chunks, _PIECE)
        self._encrypt(data)
        # Not more than one try, so that an error means that nothing has left.
        if self._flush_nowait():
            return len(data)
        self._ahead = 1
        return len(data) - 1

    async def send(self, chunks: Sequence[bytes | memoryview]) -> int:
        await self._flush()
        if self._ahead:
            self._ahead = 0
            return 1
        data = first_of(chunks, _PIECE)
        self._encrypt(data)
        await self._flush()
        return len(data)

    def _encrypt(self, data: bytes | memoryview) -> None:
        if self._is_ended:
            raise trio.ClosedResourceError("this side has closed the connection")
        try:
            while data:
                data = data[self._ssl.write(data) :]
        except ssl.SSLError as exc:
            raise trio.BrokenResourceError(reason_of(exc)) from exc
        self._rest += self._outgoing.read()

    def _flush_nowait(self) -> bool:
        """Whether all that is encrypted has left."""
        if self._rest:
            self._rest = self._rest[self._inner.send_nowait([self._rest]) :]
        return not self._rest

    async def _flush(self) -> None:
        self._is_sending = True
        try:
            while self._rest:
                # More may be added meanwhile, to its end.
                taken = await self._inner.send([self._rest])
                self._rest = self._rest[taken:]
        except BaseException:
            self._is_cut = True
            raise
        finally:
            self._is_sending = False

    def unsent(self) -> int:
        return self._inner.unsent() + len(self._rest)

    # --- the end ---

    async def send_eof(self) -> bool:
        await self._send_end()
        return await self._inner.send_eof()

    async def _send_end(self) -> None:
        """Says that this was all, so that the peer can tell it from an end that somebody else has made."""
        if self._is_ended or self._is_cut or self._is_sending:
            return
        self._is_ended = True
        self._has_more = False
        # It waits for the peer's as well, which is not there, or not the next thing.
        with contextlib.suppress(ssl.SSLError):
            self._ssl.unwrap()
        self._rest += self._outgoing.read()
        if not self._at_once or not self._flush_nowait():
            await self._flush()

    async def close(self) -> None:
        self._has_more = False
        try:
            with trio.move_on_after(_END_TIME, shield=True), contextlib.suppress(*_BROKEN):
                await self._send_end()
        finally:
            await self._inner.close()


def reason_of(exc: ssl.SSLError) -> str:
    """What went wrong, for people to read."""
    # Those that are not made by OpenSSL have none.
    name: str = getattr(exc, "reason", None) or ""
    reason = name.replace("_", " ")
    if "ALERT" in reason:
        alert = reason.partition("ALERT ")[2].lower()
        hint = (
            ": it asks for a certificate, see ssl_context.load_cert_chain()" if "certificate required" in alert else ""
        )
        return f"the peer has sent the TLS alert {alert!r}{hint}"
    if isinstance(exc, ssl.SSLEOFError):
        return "it was cut off: TLS was not ended by the peer (close_notify)"
    if isinstance(exc, ssl.SSLZeroReturnError):
        return "the peer has ended TLS"
    if name in NOT_TLS:
        return "the peer does not speak TLS"
    return reason.lower() or str(exc)
