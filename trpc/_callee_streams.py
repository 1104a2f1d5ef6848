"""The streams of the peer's calls: arguments that it sends to handlers, and results that handlers send to it."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import trio

from ._codec import UNREADABLE
from ._errors import InvalidArguments, MessageTooLarge, Overloaded, ProtocolError, RPCError
from ._exceptions import decode_error
from ._incoming_stream import NO_ROOM, IncomingStream
from ._messages import MAX_END_SIZE, NIL, Kind, decode_credit
from ._outgoing_stream import OutgoingStream
from ._share import FREE

if TYPE_CHECKING:
    from ._frames import Frame
    from ._incoming_call import IncomingCall
    from ._limits import Limits
    from ._outbox import Outbox
    from ._protocol import Protocol


class CalleeStreams:
    """Those of one connection.

    Args:
        protocol, outbox: those of the connection.
        limits: what this side accepts.
        patience: seconds that a producer whose items are not wanted any more is waited for.
    """

    __slots__ = ("_limits", "_open", "_outbox", "_patience", "_protocol")

    def __init__(self, protocol: Protocol, outbox: Outbox, limits: Limits, patience: float) -> None:
        self._protocol = protocol
        self._outbox = outbox
        self._limits = limits
        self._patience = patience
        self._open = 0
        """How many arguments are streams now."""

    def open(self, call: IncomingCall) -> None:
        """Makes the streams of a call that has been admitted, and puts them in their places among its arguments.

        Raises:
            InvalidArguments: an argument that is a stream should not be one, or the peer takes no streams.
            Overloaded: there are too many.
        """
        signature = call.method.method.signature
        if call.one_way or not self._protocol.peer.has_streams:
            who = "a one-way call" if call.one_way else "a caller that has not announced streams"
            raise InvalidArguments(f"{call.method.name}: {who} cannot have streams, as argument or as result")
        if signature.items is not None:
            call.items = OutgoingStream(
                self._protocol,
                self._outbox,
                Kind.RESULT_ITEMS,
                call.id,
                0,
                has_typed_keys=signature.items.has_typed_keys,
            )
        places = call.request.streams
        if not places:
            return
        if self._open + len(places) > self._limits.max_streams:
            raise Overloaded(f"{self._limits.max_streams} streams of this connection are open, the most allowed")
        streams: dict[int, IncomingStream] = {}
        for number, place in places.items():
            streams[number] = stream = self._open_argument(call, number, place)
            if isinstance(place, str):
                assert call.request.kwargs is not None
                call.request.kwargs[place] = stream
            else:
                call.request.args[place] = stream
        call.streams = streams
        self._open += len(streams)

    def _open_argument(self, call: IncomingCall, number: int, place: int | str) -> IncomingStream:
        name = call.method.name
        signature = call.method.method.signature
        shown = repr(place) if isinstance(place, str) else signature.name_of(place)
        items = signature.stream_at(place)
        if items is None:
            raise InvalidArguments(f"{name}: argument {shown} is a stream, which the method does not take there")

        def bad_item(reason: str) -> RPCError:
            cls = MessageTooLarge if reason is NO_ROOM else InvalidArguments
            call.bad_item = error = cls(f"{name}: an item of argument {shown}: {reason}")
            return error

        sender = _Argument(self._protocol, self._outbox, call.id, number, self._patience)
        sender.stream = IncomingStream(
            sender,
            credit=self._limits.stream_credit,
            items=items,
            max_depth=self._limits.max_depth,
            bad_item=bad_item,
            share=self._protocol.fragments.items,
        )
        return sender.stream

    def close(self, call: IncomingCall) -> None:
        """The handler of a call has ended."""
        if call.items is not None:
            call.items.end()
        if call.streams is not None:
            self._open -= len(call.streams)
            for stream in call.streams.values():
                stream.on_end(functools.partial(_end, NIL, 0))
                stream.close()

    def on_message(self, call: IncomingCall, frame: Frame) -> None:
        """A message of a stream arrived for a call that is open.

        Raises:
            ProtocolError: there is no such stream, or the message must not come now.
        """
        if frame.kind == Kind.RESULT_CREDIT:
            if call.items is None:
                raise ProtocolError(f"credit for call {frame.id}, whose result is no stream")
            call.items.grant(decode_credit(frame.body))
            return
        stream = None if call.streams is None else call.streams.get(frame.stream)
        if stream is None:
            raise ProtocolError(f"call {frame.id} has no stream {frame.stream}")
        if stream.has_ended:
            raise ProtocolError(f"a message for stream {frame.stream} of call {frame.id} behind its end")
        if frame.flags:
            stream.check_credit()
        elif frame.kind == Kind.ARGUMENT_ITEMS:
            size = len(frame.body)
            # What is small has credit, and is bounded by that.
            has_room = size <= FREE or self._protocol.fragments.items.has_room(size)
            stream.on_items(frame.body if has_room else UNREADABLE)
        elif len(frame.body) > MAX_END_SIZE:
            raise ProtocolError(f"the end of a stream with {len(frame.body)} bytes, of {MAX_END_SIZE} allowed")
        else:
            stream.on_end(functools.partial(_end, bytes(frame.body), self._limits.max_depth))


async def _end(body: bytes, max_depth: int) -> Exception | None:
    """What the consumer of an argument gets behind the last item; decoded in its task."""
    await trio.lowlevel.cancel_shielded_checkpoint()
    return None if body == NIL else decode_error(body, max_depth=max_depth)


class _Argument:
    """What sends the items of an argument, as its consumer deals with it."""

    __slots__ = ("_call_id", "_number", "_outbox", "_patience", "_protocol", "_stopped", "stream")

    def __init__(self, protocol: Protocol, outbox: Outbox, call_id: int, number: int, patience: float) -> None:
        self._protocol = protocol
        self._outbox = outbox
        self._call_id = call_id
        self._number = number
        self._patience = patience
        self._stopped = False
        self.stream: IncomingStream

    def grant(self, size: int) -> None:
        data = self._protocol.credit(Kind.ARGUMENT_CREDIT, self._call_id, self._number, size)
        self._outbox.put(data, control=True)

    async def leave(self) -> None:
        if not (self._stopped or self.stream.has_ended):
            self._stopped = True
            self._outbox.put(self._protocol.stop(self._call_id, self._number), control=True)
        await trio.lowlevel.checkpoint()
        with trio.move_on_after(self._patience):
            await self.stream.wait_ended()
