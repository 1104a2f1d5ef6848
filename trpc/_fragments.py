"""Messages that arrive in fragments, until they are complete."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ._codec import UNREADABLE
from ._errors import ProtocolError
from ._frames import CONTINUED, MORE, Frame
from ._limits import KiB
from ._messages import Kind

if TYPE_CHECKING:
    from collections.abc import Callable

    from ._limits import Limits
    from ._share import Share

# So many bytes are some progress; a byte now and then is not.
_STEP: Final = 64 * KiB

REQUESTS: Final = frozenset({Kind.REQUEST, Kind.NOTIFY})
_REPLIES: Final = frozenset({Kind.RESULT, Kind.ERROR})
_OF_STREAMS: Final = frozenset({Kind.ARGUMENT_ITEMS, Kind.RESULT_ITEMS})
_ARGUMENT_ITEMS: Final = Kind.ARGUMENT_ITEMS.value
FRAGMENTED: Final = REQUESTS | _REPLIES | _OF_STREAMS


def without_room(kind: int, call_id: int, stream: int) -> Frame:
    """What is handled in place of a message for which there was no room: it has no body, or one that cannot be read."""
    return Frame(kind, call_id, b"", MORE, stream) if kind in REQUESTS else Frame(kind, call_id, UNREADABLE, 0, stream)


class _Message:
    """One that is not complete."""

    __slots__ = ("body", "size")

    def __init__(self) -> None:
        # It grows with each fragment: to join them all at the end would stop everything else for so long.
        self.body = bytearray()
        self.size = 0


class Fragments:
    """The incomplete messages of one connection.

    Args:
        limits: what this side accepts.
        share: bytes in flight of the connection.

    Attributes:
        items: the same for items of streams.
    """

    __slots__ = ("_max_requests", "_messages", "_requests", "_share", "items")

    def __init__(self, limits: Limits, share: Share) -> None:
        self.items = share.for_items(limits)
        self._messages: dict[tuple[int, int, int], _Message] = {}
        self._max_requests = limits.max_calls
        self._share = share
        self._requests = 0

    @property
    def requests(self) -> int:
        """How many requests are incomplete."""
        return self._requests

    def __len__(self) -> int:
        return len(self._messages)

    @property
    def progress(self) -> object:
        """Changes when the oldest message is complete, or has come some way."""
        for key, message in self._messages.items():
            return key, message.size // _STEP
        return None

    def has(self, frame: Frame) -> bool:
        """Whether a message of this kind, id and stream is incomplete."""
        return (frame.kind, frame.id, frame.stream) in self._messages

    def add(self, frame: Frame, begins: Callable[[Frame], bool], *, max_body: int) -> Frame | None:  # noqa: C901 - the rules, one by one
        """Takes a fragment; gives the whole message if that is complete.

        With MORE still set, and no body, it gives a request for which there is no room, which will not be complete;
        and the beginning of a message of a stream, for a look at whether there is such a stream.

        Args:
            frame: one with MORE or CONTINUED.
            begins: asked about the first fragment of a message: whether the rest is to be kept.
            max_body: largest message that is accepted.

        Raises:
            ProtocolError: it is not acceptable here.
        """
        kind, call_id, body, flags, stream = frame
        if kind not in FRAGMENTED or flags & ~(MORE | CONTINUED):
            raise ProtocolError(f"flags {flags:#04x} on a message of kind {kind:#04x}")
        if not body:
            raise ProtocolError("a fragment without a body")
        key = (kind, call_id, stream)
        message = self._messages.get(key)
        if not flags & CONTINUED:
            if message is not None:
                raise ProtocolError("a message begins in the middle of another one with its kind, id and stream")
            if not begins(frame):
                return None
            message = self._messages[key] = _Message()
            self._requests += kind in REQUESTS
        elif message is None:
            # The rest of one that was not kept, or has been given up.
            return None
        message.size += len(body)
        if message.size > max_body:
            raise ProtocolError(f"a message of more than {max_body} bytes, the longest accepted here, in fragments")
        share = self._share_of(kind)
        if share is not None:
            fits = share.has_room(len(body))
            share.add(len(body))
            if self._requests > self._max_requests or not fits:
                self._remove(key)
                return without_room(kind, call_id, stream)
        message.body += body
        if flags & MORE:
            is_begin = kind in _OF_STREAMS and not flags & CONTINUED
            return Frame(kind, call_id, b"", MORE, stream) if is_begin else None
        self._remove(key)
        return Frame(kind, call_id, memoryview(message.body), 0, stream)

    def _share_of(self, kind: int) -> Share | None:
        """What counts a message. Of what this side has asked for, nothing does."""
        if kind in REQUESTS:
            return self._share
        return self.items if kind == _ARGUMENT_ITEMS else None

    def drop(self, frame: Frame) -> bool:
        """Gives up the message that a frame belongs to; whether there was one."""
        return self._remove((frame.kind, frame.id, frame.stream))

    def drop_request(self, call_id: int) -> bool:
        """Gives up an incomplete request; whether there was one."""
        return self._remove((Kind.REQUEST, call_id, 0))

    def drop_reply(self, call_id: int) -> None:
        """Gives up what is incomplete of a call of this side's that has its terminal reply."""
        for kind in (*_REPLIES, Kind.RESULT_ITEMS):
            self._remove((kind, call_id, 0))

    def drop_items(self, call_id: int, stream: int) -> None:
        """Gives up an incomplete message of an argument that has ended."""
        self._remove((Kind.ARGUMENT_ITEMS, call_id, stream))

    def drop_arguments(self, call_id: int) -> None:
        """Gives up what is incomplete of the streams of a peer's call that is over."""
        for key in [key for key in self._messages if key[1] == call_id and key[2]]:
            self._remove(key)

    def _remove(self, key: tuple[int, int, int]) -> bool:
        message = self._messages.pop(key, None)
        if message is not None and key[0] in REQUESTS:
            self._requests -= 1
        if message is not None and (share := self._share_of(key[0])) is not None:
            share.give_back(message.size)
        return message is not None
