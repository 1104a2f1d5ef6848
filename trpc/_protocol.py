"""The protocol machine of one connection: sans I/O, no Trio, no clock.

What changes the protocol's state lives here and nowhere else. Bytes that arrived go into
:meth:`Protocol.receive`, which gives the frames that are valid in the present state; the sending methods
give the bytes to write and note what they mean for the state. Both roles are in one machine: either side
may call, and calls of the two directions have separate ids.

A call, as its caller sees it, and as its callee does::

    caller   (none) --request--> OPEN --cancel--> OPEN --RESULT/ERROR/CANCELLED/EXPIRED--> (gone)
    callee   (none) --REQUEST--> OPEN --CANCEL--> OPEN --reply-------------------------> (gone)

Ids only grow, so an id below the last one that is not open is finished, and one above it is in the future.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from ._errors import ProtocolError
from ._fragments import FRAGMENTED, REQUESTS, Fragments, without_room
from ._frames import CONTINUED, MORE, NO_ROOM, PREAMBLE, Frame, FrameReader, encode_frame, frame_of
from ._messages import ALWAYS_ACCEPTED, BODILESS, IGNORABLE, OF_ARGUMENTS, UNTIL_HELLO, Hello, Kind, encode_credit
from ._share import Share

if TYPE_CHECKING:
    from collections.abc import Callable

    from ._frames import Data
    from ._limits import Limits


# Looking a member of an enum up takes as long as the rest of a line.
_REQUEST = Kind.REQUEST.value


class Protocol:
    """State of one connection.

    Attributes:
        peer: what the peer announced; until its hello is there, what every peer accepts.
        peer_is_known: whether the peer's hello has arrived.
        last_request: highest call id that the peer has used.
        last_sent: highest call id that this side has used.
        error: what was wrong behind the last message that was given.
        cut: how many frames there were in what was received last, with those that have no effect.
        control: cancels and pings of the peer's, and requests that are refused, since somebody has looked.
        share: its bytes in flight.
        frames: what cuts the bytes into frames; asked for its room.
    """

    __slots__ = (
        "_begins",
        "_checks",
        "_fragments",
        "_last_ping",
        "_limits",
        "_open_incoming",
        "_open_outgoing",
        "control",
        "cut",
        "error",
        "frames",
        "last_request",
        "last_sent",
        "peer",
        "peer_is_known",
        "share",
    )

    def __init__(self, limits: Limits, share: Share | None = None) -> None:
        self.peer = UNTIL_HELLO
        self.peer_is_known = False
        self._checks = self._CHECKS
        self._begins = self._BEGINS
        self.last_request = 0
        self.error: ProtocolError | None = None
        self.cut = 0
        self.control = 0
        self._limits = limits
        self.share = share or Share(limits)
        self.frames = FrameReader(max_body=limits.max_hello_size, share=self.share)
        # Made with the first one: an idle connection has none.
        self._fragments: Fragments | None = None
        # Dicts, because an empty set is three times as large.
        self._open_incoming: dict[int, None] = {}
        self._open_outgoing: dict[int, None] = {}
        self.last_sent = 0
        self._last_ping = 0

    # --- receiving ---

    def receive_filled(self, size: int) -> list[Frame]:
        """So many bytes are in the room now. Otherwise as :meth:`receive`."""
        if self.peer_is_known:
            return self._accept(self.frames.fill(size))
        return self._accept_hello(self.frames.fill(size, only_one=True))

    def receive(self, data: bytes | bytearray) -> list[Frame]:
        """Takes bytes, gives the messages that they complete, in order.

        A request is given although its body may be unreadable; a cancel of a finished call is not given.

        Raises:
            ProtocolError: the peer broke the protocol, and there is no message before that. If there are
                some, the error is in :attr:`error`. In either case the connection has to be closed.
        """
        if self.peer_is_known:
            return self._accept(self.frames.feed(data))
        return self._accept_hello(self.frames.feed(data, only_one=True))

    def _accept_hello(self, frames: list[Frame]) -> list[Frame]:
        if frames:
            self._receive_hello(frames[0])
            # What is behind the hello is read by the limits for a peer that is known.
            try:
                frames += self._accept(self.frames.feed(b""))
            except ProtocolError as exc:
                self.error = exc
        return frames

    def _accept(self, frames: list[Frame]) -> list[Frame]:
        messages: list[Frame] = []
        self.cut = len(frames)
        checks = self._checks
        try:
            for frame in frames:
                kind, _, body, flags, stream = frame
                check = checks.get(kind)
                if check is None or flags or stream or kind in OF_ARGUMENTS or (body and kind in BODILESS):
                    message = self._check_form(frame, check)
                    if message is not None:
                        messages.append(message)
                elif check(self, frame):
                    messages.append(frame)
            if self.frames.error is not None:
                raise self.frames.error
        except ProtocolError as exc:
            if not messages:
                raise
            self.error = exc
        return messages

    def receive_eof(self) -> None:
        """Notes that the peer's bytes have ended.

        Raises:
            ProtocolError: they ended in the middle of a frame.
        """
        if self.frames.inside_frame:
            raise ProtocolError("the stream ended inside a frame")

    def _receive_hello(self, frame: Frame) -> None:
        if frame.kind != Kind.HELLO or frame.id or frame.flags or frame.stream:
            raise ProtocolError(f"the first message is of kind {frame.kind:#04x}, not a hello")
        self.peer = Hello.decode(bytes(frame.body))
        self.peer_is_known = True
        self.frames.max_body = max(self._limits.max_message_size, ALWAYS_ACCEPTED)

    def _check_nothing(self, _: Frame) -> bool:
        return True

    def _check_hello(self, _: Frame) -> bool:
        raise ProtocolError("a second hello")

    def _check_ping(self, _: Frame) -> bool:
        self.control += 1
        return True

    def _check_cancel(self, frame: Frame) -> bool:
        # One that has no effect costs the peer as little.
        self.control += 1
        return self._check_incoming(frame)

    def _check_pong(self, frame: Frame) -> bool:
        if not 0 < frame.id <= self._last_ping:
            raise ProtocolError(f"an answer to ping {frame.id}, which was not sent")
        return True

    def _check_request(self, frame: Frame) -> bool:
        call_id = frame.id
        if call_id <= self.last_request:
            raise ProtocolError(f"call id {call_id} after {self.last_request}: ids must increase")
        self.last_request = call_id
        self._open_incoming[call_id] = None
        return True

    def _check_notify(self, frame: Frame) -> bool:
        if frame.id <= self.last_request:
            raise ProtocolError(f"call id {frame.id} after {self.last_request}: ids must increase")
        self.last_request = frame.id
        return True

    def _check_incoming(self, frame: Frame) -> bool:
        if frame.id > self.last_request:
            raise ProtocolError(f"a {Kind(frame.kind).name} for call {frame.id}, which has not been made")
        # The reply may have crossed it on the wire.
        return frame.id in self._open_incoming

    def _check_argument_items(self, frame: Frame) -> bool:
        self._check_not_inside(frame)
        return self._check_incoming(frame)

    def _check_result_items(self, frame: Frame) -> bool:
        self._check_not_inside(frame)
        return self._check_open(frame)

    def _check_not_inside(self, frame: Frame) -> None:
        if self._fragments and self._fragments.has(frame):
            raise ProtocolError("a message begins in the middle of another one with its kind, id and stream")

    def _check_argument_end(self, frame: Frame) -> bool:
        if self._fragments:
            self._fragments.drop_items(frame.id, frame.stream)
        return self._check_incoming(frame)

    def _check_open(self, frame: Frame) -> bool:
        if frame.id not in self._open_outgoing:
            raise ProtocolError(f"a {Kind(frame.kind).name} for call {frame.id}, which is not open")
        return True

    def _check_outgoing(self, frame: Frame) -> bool:
        if frame.id > self.last_sent:
            raise ProtocolError(f"a {Kind(frame.kind).name} for call {frame.id}, which has not been made")
        return frame.id in self._open_outgoing

    def _check_reply(self, frame: Frame) -> bool:
        if frame.id not in self._open_outgoing:
            raise ProtocolError(f"a reply to call {frame.id}, which is not open")
        del self._open_outgoing[frame.id]
        if self._fragments:
            self._fragments.drop_reply(frame.id)
        return True

    def _check_late_request(self, frame: Frame) -> bool:
        self._check_notify(frame)
        return False

    # What is checked for each kind of message once the peer's hello is there; the check says whether the
    # message has any effect.
    _CHECKS: ClassVar[dict[int, Callable[[Protocol, Frame], bool]]] = {
        Kind.HELLO: _check_hello,
        Kind.PING: _check_ping,
        Kind.PONG: _check_pong,
        Kind.GOAWAY: _check_nothing,
        Kind.REQUEST: _check_request,
        Kind.NOTIFY: _check_notify,
        Kind.CANCEL: _check_cancel,
        Kind.ARGUMENT_ITEMS: _check_argument_items,
        Kind.ARGUMENT_END: _check_argument_end,
        Kind.RESULT_CREDIT: _check_incoming,
        Kind.RESULT: _check_reply,
        Kind.ERROR: _check_reply,
        Kind.CANCELLED: _check_reply,
        Kind.EXPIRED: _check_reply,
        Kind.RESULT_ITEMS: _check_result_items,
        Kind.ARGUMENT_CREDIT: _check_outgoing,
        Kind.ARGUMENT_STOP: _check_outgoing,
    }
    # The same of the first fragment of one. The others are checked when they are complete, too.
    _BEGINS: ClassVar[dict[int, Callable[[Protocol, Frame], bool]]] = {
        **_CHECKS,
        Kind.RESULT: _check_open,
        Kind.ERROR: _check_open,
    }

    def _check_form(self, frame: Frame, check: Callable[[Protocol, Frame], bool] | None) -> Frame | None:
        """A message that is unknown, or not of the plainest form: gives what is to be handled of it.

        Raises:
            ProtocolError: it must not be ignored, and has not the form that its kind has.
        """
        kind = frame.kind
        if check is None:
            if kind & IGNORABLE:
                return None
            raise ProtocolError(f"a message of unknown kind {kind:#04x}")
        if (kind in OF_ARGUMENTS) != (frame.stream > 0):
            raise ProtocolError(f"{Kind(kind).name} for stream {frame.stream}")
        if frame.body and kind in BODILESS:
            raise ProtocolError(f"{Kind(kind).name} has a body")
        if frame.flags:
            if frame.flags & NO_ROOM:
                return self._without_room(frame, check)
            begins = self._begins[kind]
            message = self.fragments.add(frame, lambda first: begins(self, first), max_body=self.frames.max_body)
            if message is None or kind in REQUESTS or message.flags:
                return message
            frame = message
        return frame if check(self, frame) else None

    def _without_room(self, frame: Frame, check: Callable[[Protocol, Frame], bool]) -> Frame | None:
        """A large frame whose body was not kept: what is to be handled of the message that it belongs to."""
        kind, call_id, _, flags, stream = frame
        flags &= ~NO_ROOM
        if flags & ~(MORE | CONTINUED) or (flags and kind not in FRAGMENTED):
            raise ProtocolError(f"flags {flags:#04x} on a message of kind {kind:#04x}")
        if flags & CONTINUED:
            # The rest of one that was not kept either, or has been given up.
            if not self.fragments.drop(frame):
                return None
        elif not (check if kind in REQUESTS else self._begins[kind])(self, frame):
            return None
        message = without_room(kind, call_id, stream)
        return message if kind in REQUESTS or check(self, message) else None

    @property
    def fragments(self) -> Fragments:
        """Messages that are incomplete, and what counts items."""
        self._fragments = Fragments(self._limits, self.share) if self._fragments is None else self._fragments
        return self._fragments

    def take_token(self) -> str | None:
        """What the peer's hello had for whoever checks it. It is not kept."""
        token = self.peer.token
        if token is not None:
            self.peer = self.peer.without_token()
        return token

    # --- sending ---

    def opening(self, token: str | None = None) -> bytes:
        """The first bytes of the connection: preamble and hello, with the token if there is one."""
        return PREAMBLE + encode_frame(Kind.HELLO, 0, Hello.of(self._limits, token).encode())

    def request(self, body: Data) -> tuple[int, Data]:
        """A call: its id, and the bytes to write."""
        self.last_sent = call_id = self.last_sent + 1
        self._open_outgoing[call_id] = None
        return call_id, frame_of(_REQUEST, call_id, body)

    def forget_request(self, call_id: int) -> None:
        """The bytes of this request will not be written; its id is never used again."""
        self._open_outgoing.pop(call_id, None)

    def notify(self, body: Data) -> Data:
        """A one-way call: the bytes to write."""
        self.last_sent += 1
        return frame_of(Kind.NOTIFY, self.last_sent, body)

    def cancel(self, call_id: int) -> bytes:
        """Asks the peer to cancel a call that is open."""
        return encode_frame(Kind.CANCEL, call_id)

    def is_awaited(self, call_id: int) -> bool:
        """Whether a call of this side's has no terminal reply yet."""
        return call_id in self._open_outgoing

    def is_open(self, call_id: int) -> bool:
        """Whether a call of the peer's has not been replied to."""
        return call_id in self._open_incoming

    @property
    def progress(self) -> object:
        """Changes when the oldest incomplete message has come some way; None: there is none."""
        return self._fragments.progress if self._fragments else None

    def drop_incomplete_request(self, call_id: int) -> bool:
        """Gives up a request of the peer's of which fragments are missing; whether there was one."""
        return self._fragments is not None and self._fragments.drop_request(call_id)

    def reply(self, kind: int, call_id: int, body: Data = b"") -> Data:
        """The one terminal reply to a call: RESULT, ERROR, CANCELLED or EXPIRED."""
        del self._open_incoming[call_id]
        if self._fragments:
            self._fragments.drop_arguments(call_id)
        return frame_of(kind, call_id, body)

    def stream_message(self, kind: int, call_id: int, stream: int, body: Data) -> Data:
        """Items of a stream, or its end; for a call that is open."""
        return frame_of(kind, call_id, body, stream)

    def credit(self, kind: int, call_id: int, stream: int, size: int) -> bytes:
        """Grants bytes to the sender of a stream."""
        return encode_frame(kind, call_id, encode_credit(size), stream=stream)

    def stop(self, call_id: int, stream: int) -> bytes:
        """Says that no more items of an argument are wanted."""
        return encode_frame(Kind.ARGUMENT_STOP, call_id, stream=stream)

    def ping(self) -> tuple[int, bytes]:
        """A ping: its number, and the bytes to write."""
        self._last_ping += 1
        return self._last_ping, encode_frame(Kind.PING, self._last_ping)

    def pong(self, number: int) -> bytes:
        """The answer to a ping."""
        return encode_frame(Kind.PONG, number)

    def goaway(self, body: bytes, last: int | None = None) -> bytes:
        """Says that no call after this one will be executed, and why; None: after the last one received."""
        return encode_frame(Kind.GOAWAY, self.last_request if last is None else last, body)

    def last_goaway(self, body: bytes) -> bytes:
        """The same; and no later call is given any more, as the peer will not wait for it."""
        late: dict[int, Callable[[Protocol, Frame], bool]] = dict.fromkeys(REQUESTS, Protocol._check_late_request)
        self._checks, self._begins = {**self._checks, **late}, {**self._begins, **late}
        return self.goaway(body)
