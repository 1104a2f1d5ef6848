"""One call of ours: its request, how far it is, and what its reply means."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

import trio

from . import _codec
from ._errors import ClientClosed, DeadlineExceeded, InvalidArguments, ProtocolError, RemoteError
from ._exceptions import decode_error
from ._frames import Frame
from ._messages import Kind, encode_request
from ._metadata import outgoing_metadata
from ._outgoing import Outgoing, State

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from ._frames import Data
    from ._incoming_stream import IncomingStream
    from ._outgoing_stream import OutgoingStream
    from ._signature import Signature

# Seconds that a peer may see a deadline before we do. It counts from when the request has arrived, so only
# the rates of the clocks can make it early.
_CLOCK_DIFFERENCE: Final = 1.0

# Looking a member of an enum up takes as long as the rest of a line.
_QUEUED = State.QUEUED

_NO_STREAMS: Final[Mapping[int, OutgoingStream]] = {}


class OutgoingCall(Outgoing):
    """From the moment that it has a slot until its terminal reply is there.

    Args:
        method: its name on the wire.
        signature: what the method takes and returns, if that is known here.
    """

    __slots__ = (
        "awaited",
        "cancelled",
        "deadline",
        "held",
        "id",
        "items",
        "method",
        "places",
        "raise_cancel",
        "result",
        "signature",
        "streams",
        "task",
    )

    def __init__(self, method: str, signature: Signature | None) -> None:
        # As Outgoing does, without the call.
        self.data = b""
        self.size = 0
        self.held = 0
        self.is_answer = False
        self.is_bulk = False
        self.is_item = False
        self.state = _QUEUED
        self.cutter = None
        self.waiter = None
        self.on_left = None
        self.method = method
        self.signature = signature
        self.id = 0
        self.deadline = math.inf
        self.awaited = True
        """Whether anybody still wants the result; else the late reply is dropped."""
        self.result: Frame | Exception | None = None
        """The terminal reply, or what is raised in its place."""
        self.task: trio.lowlevel.Task | None = None
        """The caller's task while it is parked."""
        self.cancelled = False
        """Whether it only waits for the acknowledgement of its cancel."""
        self.raise_cancel: Callable[[], Any] | None = None
        """Trio's, for a task that was cancelled while it was parked."""
        self.items: IncomingStream | None = None
        """The stream that is its result."""
        self.places: Mapping[int, int | str] | None = None
        """Which arguments are streams; see :class:`Request`."""
        self.streams: Mapping[int, OutgoingStream] = _NO_STREAMS
        """The same, once the request is sent."""

    def encode(
        self, args: Sequence[object], kwargs: Mapping[str, object] | None, time_left: float | None, *, max_depth: int
    ) -> Data:
        """Body of its request.

        Raises:
            InvalidArguments: an argument cannot be sent; the message names it.
        """
        signature = self.signature
        if signature is not None and signature.has_typed_keys:
            args, kwargs = signature.with_text_keys(args, kwargs or {})
        try:
            return encode_request(
                self.method, args, kwargs, time_left, outgoing_metadata(), self.places, max_depth=max_depth
            )
        except _codec.EncodeError as exc:
            named = [(signature.name_of(i) if signature else str(i + 1), value) for i, value in enumerate(args)]
            named += [(repr(name), value) for name, value in (kwargs or {}).items()]
            for name, value in named:
                try:
                    # Two levels less: the request and the list of its arguments are around it.
                    _codec.pack(value, max_depth=max_depth - 2)
                except _codec.EncodeError as reason:
                    raise InvalidArguments(f"{self.method}: argument {name} cannot be sent: {reason}") from reason
            raise InvalidArguments(f"{self.method}: the request cannot be sent: {exc}") from exc

    def end_streams(self) -> None:
        """The call is over: nobody wants more of its arguments."""
        for stream in self.streams.values():
            stream.end()

    def value_of(self, reply: Frame, *, max_depth: int) -> Any:
        """What the caller gets from a RESULT whose values are nested no deeper than that."""
        try:
            value = _codec.unpack(reply.body, max_depth=max_depth)
            if self.signature is None or self.signature.convert_result is None:
                return value
            return self.signature.convert_result(value)
        except _codec.DecodeError as exc:
            raise ProtocolError(f"{self.method}: the result is not what the method returns: {exc}") from exc

    def ends_stream(self, reply: Frame, *, max_depth: int) -> bool:
        """Whether a RESULT is the end of a stream, and not a value."""
        try:
            return _codec.unpack(reply.body, max_depth=max_depth) is None
        except _codec.DecodeError:
            return False

    async def error(self, *, max_depth: int, closing: bool) -> Exception:
        """What is raised in the caller if the :attr:`result` is anything else.

        Args:
            max_depth: nesting accepted in it.
            closing: whether this side is closing the connection.
        """
        reply = self.result
        if not isinstance(reply, Frame):
            assert reply is not None
            return reply
        if reply.kind == Kind.ERROR:
            return decode_error(bytes(reply.body), max_depth=max_depth)
        if reply.kind == Kind.EXPIRED and self.deadline != math.inf:
            # Our own deadline, which the peer's clock saw a moment earlier: our own scope is to fire.
            if self.deadline - trio.current_time() <= _CLOCK_DIFFERENCE:
                await trio.sleep_until(self.deadline)
                await trio.lowlevel.checkpoint()
            # Still here: somebody has moved the scope's deadline since the request was sent, or the peer's
            # word is not to be waited for.
            return DeadlineExceeded(f"{self.method}: the peer says that the deadline of the call has passed")
        if closing:
            return closed_error(maybe_executed=True)
        return RemoteError("the peer cancelled the call", type_name="Cancelled")


def closed_error(maybe_executed: bool) -> Exception:
    """What a call gets whose client is closed."""
    return ClientClosed("this client is closed", maybe_executed=maybe_executed)
