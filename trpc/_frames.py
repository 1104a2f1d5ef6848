"""Bytes to frames and back: the preamble, the length prefix and the header. Knows nothing of meanings.

::

    preamble   93 74 72 70 63 0d 0a  version          once, first, in both directions
    frame      length u32 | kind u8 | flags u8 | stream u16 | id u64 | body

``length`` counts what follows it: 12 bytes of header and the body. Integers are big-endian.
docs/wire-protocol.md specifies all of it.
"""

from __future__ import annotations

import contextlib
import struct
from typing import TYPE_CHECKING, Any, Final, NamedTuple, NoReturn, Protocol, cast

from ._errors import ProtocolError

if TYPE_CHECKING:
    from collections.abc import Callable

# The bytes of a frame, or of its body: in one piece, or, if it is large, in those that it was made of.
Data = bytes | tuple[bytes, ...]

VERSION: Final = 1
# The first byte can start neither ASCII, UTF-8 nor a TLS record, so that the first byte of a stray
# protocol gives it away; CR LF shows a transport that translates line ends (both learned from PNG).
MAGIC: Final = b"\x93trpc\r\n"
PREAMBLE: Final = MAGIC + bytes([VERSION])

_LENGTH = struct.Struct(">I")
_PREFIXED_HEADER = struct.Struct(">IBBHQ")
pack_header, _unpack_header = _PREFIXED_HEADER.pack, _PREFIXED_HEADER.unpack_from
_PREFIX: Final = _PREFIXED_HEADER.size
HEADER_SIZE: Final = _PREFIXED_HEADER.size - _LENGTH.size


# Bodies up to this size are copied out of what was read, and behind their header; larger ones stay where they are.
_COPIED: Final = 64 * 1024
# The room in the buffer of a large frame, and at most how much at a time. The system shares its zeros.
_ZEROS: Final = memoryview(bytes(1024 * 1024))


# Flags of a frame that is a part of a message; see docs/wire-protocol.md.
MORE: Final = 0x01
CONTINUED: Final = 0x02
# And of one that is here without its body. It is not on the wire.
NO_ROOM: Final = 0x100

# Where the bytes go that are not kept.
_SCRATCH: Final = bytearray(64 * 1024)


class Room(Protocol):
    """Counts the bytes of large frames that are being received."""

    def take(self, size: int) -> bool:
        """Whether so many may be held; then they count."""
        ...

    def give_back(self, size: int) -> None:
        """They are not held any more."""
        ...


class Frame(NamedTuple):
    """One frame, as it is on the wire."""

    kind: int
    id: int
    body: bytes | memoryview
    flags: int = 0
    stream: int = 0


def size_of(data: Data) -> int:
    """How many bytes it has."""
    return len(data) if isinstance(data, bytes) else sum(map(len, data))


# Half the time of Frame(...), which is a Python function around this.
_new_frame: Final = cast("Callable[[type[Frame], tuple[object, ...]], Frame]", cast("Any", tuple).__new__)


def frame_of(kind: int, call_id: int, body: Data, stream: int = 0) -> Data:
    """The bytes of a frame, whose body stays in one piece if it is large."""
    if not isinstance(body, bytes):
        return (pack_header(HEADER_SIZE + sum(map(len, body)), kind, 0, stream, call_id), *body)
    header = pack_header(HEADER_SIZE + len(body), kind, 0, stream, call_id)
    return (header, body) if len(body) > _COPIED else header + body


class Cutter:
    """Cuts one large frame into fragments, that is, frames with a part of its body each.

    Args:
        data: the bytes of the frame, its header apart or in front.
        size: how much of the body goes into each fragment.
        first: how much of it into the first one.
    """

    __slots__ = ("_chunks", "_flags", "_id", "_kind", "_next", "_size", "_stream", "left")

    def __init__(self, data: Data, size: int, first: int) -> None:
        chunks = (data,) if isinstance(data, bytes) else data
        length, self._kind, _, self._stream, self._id = _unpack_header(chunks[0])
        self._chunks = [view for chunk in chunks if (view := memoryview(chunk))]
        self._chunks[0] = self._chunks[0][_PREFIX:]
        self._size = size
        self._next = first
        self._flags = 0
        self.left: int = length - HEADER_SIZE

    @property
    def next_size(self) -> int:
        """How much of the body the next fragment has."""
        return min(self.left, self._next)

    def next(self) -> list[bytes | memoryview]:
        """The bytes of the next fragment; :meth:`advance` goes on to the one behind it."""
        size = self.next_size
        more = MORE if size < self.left else 0
        fragment: list[bytes | memoryview] = [
            pack_header(HEADER_SIZE + size, self._kind, self._flags | more, self._stream, self._id)
        ]
        for chunk in self._chunks:
            if size <= 0:
                break
            fragment.append(chunk[:size])
            size -= len(chunk)
        return fragment

    def advance(self) -> bool:
        """The next fragment has been taken; says whether there are more."""
        size = self.next_size
        self.left -= size
        while size > 0:
            if size < len(self._chunks[0]):
                self._chunks[0] = self._chunks[0][size:]
                break
            size -= len(self._chunks.pop(0))
        self._flags = CONTINUED
        self._next = self._size
        return self.left > 0


def encode_frame(kind: int, id: int, body: bytes = b"", flags: int = 0, stream: int = 0) -> bytes:  # noqa: A002 - as in Frame
    """The bytes of one frame."""
    return pack_header(HEADER_SIZE + len(body), kind, flags, stream, id) + body


class FrameReader:
    """Cuts a byte stream into frames. How the bytes were split makes no difference.

    Args:
        max_body: largest acceptable body in bytes; may be changed between frames.
        share: asked for room for large frames that do not come whole. One for which there is none is given without
            its body, and flagged.

    Attributes:
        missing: how many bytes the frame that has begun still lacks; 0 if that is not known yet.
        error: what was wrong behind the last frame that was given.
    """

    __slots__ = (
        "_buffer",
        "_filled",
        "_held",
        "_preamble_read",
        "_share",
        "_skips",
        "error",
        "max_body",
        "missing",
    )

    def __init__(self, max_body: int, share: Room | None = None) -> None:
        self._share = share
        self._held = 0
        """How many bytes of the present frame are counted there."""
        self._skips = False
        """Whether the rest of the present frame is not kept."""
        self.max_body = max_body
        self.missing = 0
        self.error: ProtocolError | None = None
        self._buffer: bytes | bytearray = b""
        self._filled = 0
        """How much of the buffer has arrived, while it has room for more; else 0."""
        self._preamble_read = 0

    def feed(self, data: bytes | bytearray, *, only_one: bool = False) -> list[Frame]:  # noqa: C901, PLR0912 - one loop, for speed
        """Takes bytes, gives the frames that they complete. After the first that is faulty nothing is read.

        Args:
            data: may be empty.
            only_one: give one frame at most; the rest is for the next call, and looked at only then.

        Raises:
            ProtocolError: the bytes are not trpc, and there is no frame before them. If there are frames,
                the error is in :attr:`error`, and raised by every later call.
        """
        frames: list[Frame] = []
        position = 0
        if self._skips:
            return self._skip(data)
        try:
            if self._buffer or self._preamble_read < len(PREAMBLE) or self.error is not None:
                if 0 < self.missing <= len(data) and not (self._filled or only_one or self.error):
                    position = self.missing
                    frames.append(self._complete(data))
                else:
                    data = self._continue(data)
                    if self.missing > 0:
                        return frames
            size = len(data)
            longest = HEADER_SIZE + self.max_body
            while size - position >= _PREFIX:
                length, kind, flags, stream, call_id = _unpack_header(data, position)
                if not HEADER_SIZE <= length <= longest:
                    self._refuse_length(length)
                start = position + _PREFIX
                end = start + length - HEADER_SIZE
                if size < end:
                    break
                body = data[start:end] if length <= _COPIED else memoryview(data)[start:end]
                if type(body) is bytearray:
                    body = bytes(body)
                frames.append(_new_frame(Frame, (kind, call_id, body, flags, stream)))
                position = end
                if only_one:
                    break
            self.missing = 0
            if self._held and frames and self._share is not None:
                self._share.give_back(self._held)
                self._held = 0
            if position < size:
                # Another object in any case: a large body may be a view of this one.
                self._buffer = data[position:]
                if not only_one or not frames:
                    self._look_ahead()
            else:
                self._buffer = b""
        except ProtocolError as exc:
            self.error = exc
            if not frames:
                raise
        return frames

    def _complete(self, data: bytes | bytearray) -> Frame:
        """The frame that has begun, from the bytes that were missing. The others are not copied behind it."""
        whole = b"".join((self._buffer, memoryview(data)[: self.missing]))
        _, kind, flags, stream, call_id = _unpack_header(whole)
        self._buffer = b""
        self.missing = 0
        body = whole[_PREFIX:] if len(whole) <= _COPIED else memoryview(whole)[_PREFIX:]
        return _new_frame(Frame, (kind, call_id, body, flags, stream))

    def _continue(self, data: bytes | bytearray) -> bytes | bytearray:
        """What is there to be cut, with the bytes that came before, unless it still lacks some."""
        if self.error is not None:
            raise self.error
        if self._preamble_read < len(PREAMBLE):
            data = self._feed_preamble(data)
        if not self._buffer:
            return data
        if isinstance(self._buffer, bytes):
            self._buffer = bytearray(self._buffer)
        elif self._filled:
            del self._buffer[self._filled :]
            self._filled = 0
        self._buffer += data
        if self.missing:
            self.missing -= len(data)
        return self._buffer

    def _look_ahead(self) -> None:
        """Looks at the length of a frame that has begun: what cannot be accepted is refused at once."""
        if len(self._buffer) >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._buffer)
            if not HEADER_SIZE <= length <= HEADER_SIZE + self.max_body:
                self._refuse_length(length)
            self.missing = length + _LENGTH.size - len(self._buffer)

    def room(self) -> memoryview | None:
        """Where the next bytes of a large frame belong, so that they are read to where they stay.

        Release it, and tell :meth:`fill` how many bytes there were. None: they are for :meth:`feed`.
        """
        if self._skips:
            return memoryview(_SCRATCH)[: self.missing]
        if self.missing <= _COPIED:
            return None
        if self._share is not None and not self._held and not self._filled:
            if len(self._buffer) < _PREFIX:
                # What it is has to be known first.
                return None
            size = self.missing + len(self._buffer) - _PREFIX
            if not self._share.take(size):
                self._skips = True
                del (buffer := bytearray(self._buffer))[_PREFIX:]
                self._buffer = buffer
                return memoryview(_SCRATCH)[: self.missing]
            self._held = size
        if isinstance(self._buffer, bytes):
            self._buffer = bytearray(self._buffer)
        size = self._filled or len(self._buffer)
        if size == len(self._buffer):
            # It grows with what has arrived: nothing is allocated for what is only announced.
            self._buffer += _ZEROS[: min(self.missing, max(_COPIED, 3 * size))]
        self._filled = size
        return memoryview(self._buffer)[size:]

    def fill(self, size: int, *, only_one: bool = False) -> list[Frame]:
        """So many bytes are in the room now. Otherwise as :meth:`feed`."""
        if self._skips:
            return self._skip(memoryview(_SCRATCH)[:size])
        self._filled += size
        self.missing -= size
        return [] if self.missing else self.feed(b"", only_one=only_one)

    def _skip(self, data: bytes | bytearray | memoryview) -> list[Frame]:
        """Throws away what belongs to the present frame, and goes on behind it."""
        size = min(self.missing, len(data))
        self.missing -= size
        if self.missing:
            return []
        _, kind, flags, stream, call_id = _unpack_header(self._buffer)
        self._skips = False
        self._buffer = b""
        frames = [Frame(kind, call_id, b"", flags | NO_ROOM, stream)]
        if size < len(data):
            # An error behind this frame is kept in `error`.
            with contextlib.suppress(ProtocolError):
                frames += self.feed(bytes(data[size:]))
        return frames

    def _refuse_length(self, length: int) -> NoReturn:
        if length < HEADER_SIZE:
            raise ProtocolError(f"a frame of length {length}; the shortest is {HEADER_SIZE}")
        raise ProtocolError(f"a frame of length {length}; the longest accepted here is {HEADER_SIZE + self.max_body}")

    @property
    def inside_frame(self) -> bool:
        """Whether the bytes so far end inside the preamble or inside a frame."""
        return bool(self._buffer) or 0 < self._preamble_read < len(PREAMBLE)

    def _feed_preamble(self, data: bytes | bytearray) -> bytes | bytearray:
        """Checks as much of the preamble as there is, byte by byte, and gives what follows it."""
        expected = PREAMBLE[self._preamble_read :]
        head = data[: len(expected)]
        if not expected.startswith(head):
            start = PREAMBLE[: self._preamble_read] + head
            if start.startswith(MAGIC):
                raise ProtocolError(
                    f"the peer speaks version {start[len(MAGIC)]} of the protocol, this side version {VERSION}"
                )
            raise ProtocolError(f"the peer does not speak trpc{_guess(start)}: it began with {start!r}")
        self._preamble_read += len(head)
        return data[len(head) :]


def _guess(start: bytes) -> str:
    """What the stray bytes are likely to be, for the error message."""
    if start[:1] in {b"\x16", b"\x15"}:
        return " but TLS"
    if start.isascii() and start[:1].isalpha():
        return " but a text protocol, such as HTTP"
    return ""
