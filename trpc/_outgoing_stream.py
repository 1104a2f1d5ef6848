"""One stream of items to the peer: encoded, gathered into messages, and sent as far as there is credit.

Items are encoded as they are added: what their producer does to them afterwards has no effect. They leave
together when there are many, or when the producer waits for something; see :mod:`trpc._pump`.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final, cast

import trio

from . import _codec
from ._errors import MessageTooLarge, ProtocolError
from ._frames import size_of
from ._messages import ITEMS_COST, MAX_CREDIT, Kind
from ._outgoing import FRAGMENT, Outgoing, State

if TYPE_CHECKING:
    from ._frames import Data
    from ._outbox import Outbox
    from ._protocol import Protocol

# What is gathered at most before it is sent: a message's share of costs is small by then, and others get their turn.
_MAX_ITEMS: Final = 64
_MAX_BYTES: Final = 128 * 1024

_ARRAY16: Final = struct.Struct(">BH")


class OutgoingStream:
    """The sending side of one stream.

    Args:
        protocol, outbox: those of the connection.
        kind: of its messages with items.
        call_id, number: which stream it is.
        has_typed_keys: whether keys of dictionaries in its items travel as text.

    Attributes:
        is_over: whether nobody wants more items.
        call_is_over: whether it is because the call has ended.
        scope: what is cancelled then, if there is anything.
    """

    __slots__ = (
        "_call_id",
        "_credit",
        "_has_large_items",
        "_has_typed_keys",
        "_items",
        "_kind",
        "_large",
        "_number",
        "_outbox",
        "_protocol",
        "_size",
        "_task",
        "_waits_for_room",
        "call_is_over",
        "is_over",
        "scope",
    )

    def __init__(
        self, protocol: Protocol, outbox: Outbox, kind: int, call_id: int, number: int, *, has_typed_keys: bool
    ) -> None:
        self._protocol = protocol
        self._outbox = outbox
        self._kind = kind
        self._call_id = call_id
        self._number = number
        self._has_typed_keys = has_typed_keys
        self._credit = protocol.peer.stream_credit or 0
        self._items: list[Data] = []
        self._size = 0
        self._has_large_items = False
        """Whether some are in pieces, so as not to be copied."""
        self._large: Outgoing | None = None
        """The last message, if it may leave in fragments: nothing of the stream may come between them."""
        self._task: trio.lowlevel.Task | None = None
        """The producer's, while it waits for what :meth:`send` needs."""
        self._waits_for_room = False
        self.is_over = False
        self.call_is_over = False
        self.scope: trio.CancelScope | None = None

    @property
    def is_full(self) -> bool:
        """Whether so much is gathered that the producer should :meth:`wait_sent`."""
        # No more than there is credit for: else who opens many streams and grants nothing has many items made.
        number, size = len(self._items), self._size
        return (
            (number > 0 and size >= self._credit)
            or number >= _MAX_ITEMS
            or size >= _MAX_BYTES
            or self._large is not None
        )

    def add(self, item: object) -> None:
        """Takes an item.

        Raises:
            EncodeError: it cannot be encoded.
            MessageTooLarge: the peer does not accept one of this size.
        """
        peer = self._protocol.peer
        # One level less: the array of the items is around it.
        max_depth = peer.max_depth - 1
        if self._has_typed_keys:
            item = _codec.with_text_keys(item)
        data: Data
        if type(item) is bytes and len(item) >= _codec.LARGE:
            data = _codec.pack_scattered(item, max_depth=max_depth)
            self._has_large_items = True
            size = size_of(data)
        else:
            data = _codec.pack(item, max_depth=max_depth)
            size = len(data)
        if size >= peer.max_message_size:
            raise MessageTooLarge(f"an item has {size} bytes, and the peer accepts less than {peer.max_message_size}")
        self._items.append(data)
        self._size += size

    def send(self, *, alone: bool) -> None:
        """Sends what is gathered, as far as there is credit.

        Args:
            alone: whether it may be written at once, as far as this task is concerned.
        """
        while self._items and self._credit > 0 and not self.is_over and self._large is None:
            if self._outbox.is_full_of_items:
                if not self._waits_for_room:
                    self._waits_for_room = True
                    self._outbox.call_with_room(self._on_room)
                return
            self._send_message(alone=alone)

    def send_soon(self) -> None:
        """The producer has begun to wait. Nothing may be written in its task until Trio knows."""
        if self._items:
            self.send(alone=False)

    def _send_message(self, *, alone: bool) -> None:
        """Sends a message with all items, with as many as there is credit for, or with one."""
        items, size = self._items, self._size
        count = len(items)
        limit = min(self._credit - ITEMS_COST, self._protocol.peer.max_message_size) - _ARRAY16.size
        if size > limit or self._has_large_items:
            size = count = 0
            for item in items:
                # A large one goes alone, to be written from where it is.
                if count and (size + size_of(item) > limit or isinstance(item, tuple) or isinstance(items[0], tuple)):
                    break
                size += size_of(item)
                count += 1
        head = bytes([0x90 | count]) if count < 16 else _ARRAY16.pack(0xDC, count)
        body: Data
        if count == 1 and isinstance(items[0], tuple):
            body = (head, *items[0])
        else:
            body = head + b"".join(cast("list[bytes]", items[:count]))
        del items[:count]
        if not items:
            self._has_large_items = False
        self._size -= size
        length = size_of(body)
        self._credit -= length + ITEMS_COST
        frame = Outgoing()
        frame.is_item = True
        data = self._protocol.stream_message(self._kind, self._call_id, self._number, body)
        self._outbox.put(data, frame, bulk=True, alone=alone)
        if length > FRAGMENT and frame.state in {State.QUEUED, State.WRITING}:
            self._large = frame
            frame.on_left = self._on_large_left

    async def wait_sent(self) -> None:
        """Sends all that is gathered, and waits for the credit and the room that this needs. Always a checkpoint.

        Cancelled: what is not sent yet is still gathered, and what has begun to leave goes on.
        """
        self.send(alone=True)
        await trio.lowlevel.checkpoint()
        while not self.is_over and (self._items or self._large is not None):
            await self._park()

    async def _park(self) -> None:
        def abort(_: object) -> trio.lowlevel.Abort:
            self._task = None
            return trio.lowlevel.Abort.SUCCEEDED

        self._task = trio.lowlevel.current_task()
        await trio.lowlevel.wait_task_rescheduled(abort)

    def end_with(self, body: bytes) -> None:
        """The producer of an argument has ended: tells the peer."""
        self._drop()
        if not self.call_is_over:
            data = self._protocol.stream_message(Kind.ARGUMENT_END, self._call_id, self._number, body)
            self._outbox.put(data, bulk=True)

    # --- what the connection's reader tells ---

    @trio.lowlevel.enable_ki_protection
    def grant(self, size: int) -> None:
        """The peer has room for so many bytes more.

        Raises:
            ProtocolError: for more than anybody can have.
        """
        self._credit += size
        if self._credit > MAX_CREDIT:
            raise ProtocolError(f"a stream with a credit of {self._credit}")
        if self._credit > 0:
            self._go_on()

    def _on_large_left(self) -> None:
        self._large = None
        self._go_on()

    @trio.lowlevel.enable_ki_protection
    def _on_room(self) -> None:
        self._waits_for_room = False
        self._go_on()

    def _go_on(self) -> None:
        """What is gathered may leave now."""
        # Here and not in the producer's task, which may be waiting for something else, such as what the consumer makes
        # of these items.
        self.send(alone=False)
        if not self._items and self._large is None:
            self._wake()

    def end(self) -> None:
        """The call is over."""
        self.call_is_over = True
        self.stop()

    @trio.lowlevel.enable_ki_protection
    def stop(self) -> None:
        """Nobody wants the rest: its producer is cancelled."""
        self._drop()
        self._wake()
        if self.scope is not None:
            self.scope.cancel()

    def _drop(self) -> None:
        """What has not left does not leave any more."""
        self.is_over = True
        self._items.clear()
        self._size = 0
        if self._waits_for_room:
            self._outbox.forget_room(self._on_room)
        if self._large is not None:
            # Before, as this may be called in turn.
            large, self._large = self._large, None
            self._outbox.discard(large)

    def _wake(self) -> None:
        if self._task is not None:
            trio.lowlevel.reschedule(self._task)
            self._task = None
