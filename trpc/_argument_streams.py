"""The arguments of one call of ours that are streams: found, and sent from tasks of the caller's.

These tasks are children of the one that calls, so that what produces the items runs in its context and its cancel
scopes, as it would if it were read by a local function. They end with the call.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import AsyncIterable
from typing import TYPE_CHECKING, cast

import trio

from ._errors import InvalidArguments, MessageTooLarge, RPCError
from ._exceptions import encode_exception, encode_status
from ._messages import ALWAYS_ACCEPTED, MAX_END_SIZE, NIL, Kind
from ._outgoing import State
from ._outgoing_stream import OutgoingStream
from ._pump import ItemError, close, pump

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping, Sequence

    from ._outbox import Outbox
    from ._outgoing_call import OutgoingCall
    from ._protocol import Protocol
    from ._signature import Signature


class ArgumentStreams:
    """Finds the streams among the arguments of a call.

    Args:
        method: its name on the wire.
        args, kwargs: the arguments.
        signature: what the method takes, if that is known here. Else each async iterable is a stream.

    Raises:
        InvalidArguments: an argument has to be a stream, and is not.

    Attributes:
        args, kwargs: the arguments, with None in the places of the streams.
        places: number of the stream to position or keyword; empty if there are none.
    """

    def __init__(
        self, method: str, args: Sequence[object], kwargs: Mapping[str, object], signature: Signature | None
    ) -> None:
        self.args = list(args)
        self.kwargs = dict(kwargs)
        self.places: dict[int, int | str] = {}
        self._method = method
        self._has_begun = False
        self._sources: list[tuple[str, AsyncIterable[object], bool]] = []
        for position, value in enumerate(args):
            if (source := self._source(position, value, signature)) is not None:
                self._add(position, source, signature)
                self.args[position] = None
        for name, value in kwargs.items():
            if (source := self._source(name, value, signature)) is not None:
                self._add(name, source, signature)
                self.kwargs[name] = None

    def _source(self, place: int | str, value: object, signature: Signature | None) -> AsyncIterable[object] | None:
        """What produces the items, if this argument is a stream."""
        if signature is None:
            return cast("AsyncIterable[object]", value) if isinstance(value, AsyncIterable) else None
        stream = signature.stream_at(place)
        if stream is None or (value is None and stream.is_optional):
            return None
        if not isinstance(value, AsyncIterable):
            name = self._name(place, signature)
            raise InvalidArguments(
                f"{self._method}: argument {name}: Expected an async iterable or a receive channel, got"
                f" `{type(value).__name__}`"
            )
        return cast("AsyncIterable[object]", value)

    def _add(self, place: int | str, source: AsyncIterable[object], signature: Signature | None) -> None:
        stream = signature and signature.stream_at(place)
        self.places[len(self.places) + 1] = place
        self._sources.append((self._name(place, signature), source, bool(stream and stream.has_typed_keys)))

    @staticmethod
    def _name(place: int | str, signature: Signature | None) -> str:
        if isinstance(place, str):
            return repr(place)
        return signature.name_of(place) if signature is not None else str(place + 1)

    @contextlib.asynccontextmanager
    @trio.lowlevel.enable_ki_protection
    async def nursery(self) -> AsyncGenerator[trio.Nursery | None, None]:
        """Where :meth:`send` runs; none if there are no streams. At the end what runs there is cancelled."""
        if not self._sources:
            yield None
            return
        try:
            async with trio.open_nursery() as nursery:
                try:
                    yield nursery
                finally:
                    nursery.cancel_scope.cancel()
                    if not self._has_begun:
                        for _, source, _ in self._sources:
                            await close(source)
        except BaseExceptionGroup as group:  # raised again, or what is in it
            # That there was a nursery is nobody's concern: what was raised alone stays alone.
            errors = [exc for exc in group.exceptions if not isinstance(exc, trio.Cancelled)]
            if len(errors) > 1:
                raise
            error = errors[0] if errors else group.exceptions[0]
            context = error.__context__
            try:
                raise error
            finally:
                error.__context__ = context
                # Not a cycle with the traceback.
                del error, errors, context

    def send(self, call: OutgoingCall, nursery: trio.Nursery | None, protocol: Protocol, outbox: Outbox) -> None:
        """Begins to send the items, when the request of the call has been sent."""
        if nursery is None:
            return
        self._has_begun = True
        # The items must not overtake it.
        has_left = trio.Event()
        if call.state is State.QUEUED or call.cutter is not None:
            call.on_left = has_left.set
        else:
            has_left.set()
        streams: dict[int, OutgoingStream] = {}
        for number, (name, source, has_typed_keys) in enumerate(self._sources, 1):
            streams[number] = OutgoingStream(
                protocol, outbox, Kind.ARGUMENT_ITEMS, call.id, number, has_typed_keys=has_typed_keys
            )
            nursery.start_soon(
                self._send, source, streams[number], name, protocol, has_left, name=f"{self._method}: {name}"
            )
        call.streams = streams

    @trio.lowlevel.enable_ki_protection
    async def _send(
        self, source: AsyncIterable[object], stream: OutgoingStream, name: str, protocol: Protocol, has_left: trio.Event
    ) -> None:
        body = NIL
        with trio.CancelScope() as stream.scope:
            try:
                try:
                    await has_left.wait()
                    await pump(source, stream)
                finally:
                    await close(source)
            except ItemError as exc:
                raise type(exc.reason)(f"{self._method}: argument {name}: {exc.reason}") from exc.__cause__
            except Exception as exc:
                is_cancelled = trio.current_effective_deadline() == -math.inf and not stream.is_over
                if is_cancelled or stream.call_is_over:
                    # It has failed to clean up, when nobody else is left to hear of it.
                    raise
                body = _error_body(exc, protocol)
        stream.end_with(body)


def _error_body(exc: Exception, protocol: Protocol) -> bytes:
    """What the handler is told of what the producer has raised."""
    peer = protocol.peer
    try:
        body = encode_exception(exc, max_depth=peer.max_depth)
    except Exception as trouble:  # noqa: BLE001 - str() and the attributes of a user's exception may raise anything
        what = f"the producer raised {type(exc).__name__}, which cannot be sent: {type(trouble).__name__}"
        return encode_status(RPCError(what))
    limit = min(max(peer.max_message_size, ALWAYS_ACCEPTED), MAX_END_SIZE)
    if len(body) > limit:
        return encode_status(MessageTooLarge(f"the producer's error has {len(body)} bytes, of {limit} allowed"))
    return body
