"""One stream of items from the peer, as its consumer sees it: a receive channel with credit."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, Final, Protocol

import trio

from . import _codec
from ._errors import ProtocolError
from ._messages import ITEMS_COST

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from ._share import Share
    from ._signature import StreamOf

# How many items, or seconds of them, a consumer may have at a stretch before others get their turn.
_TURN: Final = 64
_MAX_TIME: Final = 0.0005

NO_ROOM: Final = "there was no room for it here (Limits.max_bytes_in_flight)"

# Heads of an array of one element, in all its forms.
_ONE: Final = (b"\x91", b"\xdc\x00\x01", b"\xdd\x00\x00\x00\x01")


class Sender(Protocol):
    """The other end of a stream, as far as its consumer can have an effect on it."""

    def grant(self, size: int) -> None:
        """It may send so many bytes more."""
        ...

    def leave(self) -> Coroutine[Any, Any, None]:
        """To be awaited: nothing more is wanted. Waits for the producer's end, if that is known and bounded."""
        ...


class IncomingStream(trio.abc.ReceiveChannel[Any]):
    """What ``async for`` goes through; also ``receive`` and ``receive_nowait``. Several tasks may receive.

    Items come in their order, each to one consumer. Behind the last comes the end, or what the producer has raised.

    To receive an item is a point where a cancel can strike, always before the item is taken. It does not let other
    tasks run each time, as operations of Trio's do: that would take longer than all the rest. It does after 64 items,
    or half a millisecond.

    Args:
        sender: told what is consumed.
        credit: bytes that the sender may be ahead.
        items: what is in it; None if that is not known.
        max_depth: nesting accepted in a message.
        bad_item: makes an error of the reason why an item is not acceptable.
        share: counts the bytes that wait for the consumer; None: nobody does.

    Attributes:
        has_ended: whether nothing more comes from the sender.
        left: set when the sender has been left, from when somebody begins to leave it.
    """

    def __init__(
        self,
        sender: Sender,
        *,
        credit: int,
        items: StreamOf | None,
        max_depth: int,
        bad_item: Callable[[str], Exception],
        share: Share | None = None,
    ) -> None:
        self._sender = sender
        self._credit = self._window = credit
        self._owed = 0
        """Bytes that were consumed and not granted again yet."""
        self._of = items
        self._max_depth = max_depth
        self._bad_item = bad_item
        self._share = share
        self._messages: deque[tuple[bytes | memoryview, int]] = deque()
        """Bodies that are not decoded yet, with what they have cost."""
        self._items: deque[Any] = deque()
        self._is_closed = False
        self.has_ended = False
        self.left: trio.Event | None = None
        self._end: Callable[[], Coroutine[Any, Any, Exception | None]] | None = None
        """Once there is one: awaited behind the last item, gives what is raised there."""
        self._lot = trio.lowlevel.ParkingLot()
        self._clock = trio.lowlevel.current_clock()
        self._turn = 0
        self._since = 0.0

    # --- the consumer ---

    async def receive(self) -> Any:
        """The next item. Cancelled: nothing is lost.

        Raises:
            trio.EndOfChannel: there was the last one.
            trio.ClosedResourceError: this side has closed it, or the call of which it is an argument has ended.
            ConnectionLost: the connection was lost, behind the last item that has arrived.
            Exception: what the producer has raised; see ``Client.call``.
        """
        if self._turn <= 0 or self._clock.current_time() - self._since > _MAX_TIME:
            await trio.lowlevel.checkpoint()
            self._begin_turn()
        else:
            await trio.lowlevel.checkpoint_if_cancelled()
        self._turn -= 1
        while not self._items:
            if self._is_closed:
                raise trio.ClosedResourceError("this stream is closed")
            if self._messages:
                self._decode_next()
            elif self._end is not None:
                raise await self._end() or trio.EndOfChannel
            else:
                await self._lot.park()
                self._begin_turn()
        return self._take()

    def receive_nowait(self) -> Any:
        """As :meth:`receive`.

        Raises:
            trio.WouldBlock: no item is there. The end, and what the producer has raised, are for :meth:`receive`.
        """
        while not self._items:
            if self._is_closed:
                raise trio.ClosedResourceError("this stream is closed")
            if not self._messages:
                raise trio.WouldBlock
            self._decode_next()
        return self._take()

    async def aclose(self) -> None:
        """No more items are wanted: what has arrived is dropped, and the producer cancelled.

        For the result of a call, it waits for the producer's end, as for that of a call that is cancelled.
        """
        self.close()
        await self._sender.leave()

    def close(self) -> None:
        """Drops what has arrived and what still comes. Whoever waits for it gets a ``ClosedResourceError``."""
        self._is_closed = True
        self._items.clear()
        self._drop_messages()
        self._lot.unpark_all()

    async def wait_ended(self) -> None:
        """Waits until nothing more comes from the sender."""
        while not self.has_ended:
            await self._lot.park()

    def _take(self) -> Any:
        item = self._items.popleft()
        if self._lot and (self._items or self._messages):
            self._lot.unpark()
        return item

    def _begin_turn(self) -> None:
        self._turn = _TURN
        self._since = self._clock.current_time()

    def _decode_next(self) -> None:
        body, cost = self._messages.popleft()
        if self._share is not None:
            self._share.give_back(len(body))
        try:
            items: list[Any] = _codec.unpack(body, max_depth=self._max_depth)
        except _codec.DecodeError as exc:
            reason = f"items of a stream cannot be read: {exc}"
            self._fail(self._bad_item(NO_ROOM) if body == _codec.UNREADABLE else ProtocolError(reason))
        else:
            if type(items) is not list:
                self._fail(ProtocolError("a message of a stream is not an array of items"))
            else:
                self._take_in(items)
        # Only now that the consumer is there for it: what it does not take, its producer does not get again.
        self._owed += cost
        if 2 * self._owed >= self._window and not self.has_ended and self._end is None:
            self._credit += self._owed
            owed, self._owed = self._owed, 0
            self._sender.grant(owed)

    def _take_in(self, items: list[Any]) -> None:
        """Items as their type says; those before one that does not fit, and then the error."""
        of = self._of
        if of is None or of.convert_all is None or of.convert is None:
            self._items.extend(items)
            return
        try:
            self._items.extend(of.convert_all(items))
        except _codec.DecodeError:
            for item in items:
                try:
                    self._items.append(of.convert(item))
                except _codec.DecodeError as exc:
                    self._fail(self._bad_item(str(exc)))
                    break

    def _drop_messages(self) -> None:
        if self._share is not None:
            self._share.give_back(sum(len(body) for body, _ in self._messages))
        self._messages.clear()

    def _fail(self, error: Exception) -> None:
        """Behind the items that are decoded, nothing is of use."""
        self._drop_messages()

        async def end() -> Exception:
            await self._sender.leave()
            return error

        self._end = end
        self._lot.unpark_all()

    # --- what the connection's reader tells ---

    def check_credit(self) -> None:
        """A message with items has begun.

        Raises:
            ProtocolError: there is no credit for it.
        """
        if self._credit <= 0:
            raise ProtocolError(f"items on a stream with a credit of {self._credit}")

    def on_items(self, body: bytes | memoryview) -> None:
        """A message with items has arrived.

        Raises:
            ProtocolError: there was no credit for it.
        """
        cost = len(body) + ITEMS_COST
        self.check_credit()
        if cost > self._credit and not bytes(body[:5]).startswith(_ONE):
            raise ProtocolError(f"items of {cost} bytes on a stream with a credit of {self._credit}")
        self._credit -= cost
        if not self._is_closed and self._end is None:
            self._messages.append((body, cost))
            if self._share is not None:
                self._share.add(len(body))
            self._lot.unpark()

    @trio.lowlevel.enable_ki_protection
    def on_end(self, end: Callable[[], Coroutine[Any, Any, Exception | None]]) -> None:
        """There will be no more items.

        Args:
            end: awaited by the consumer behind the last item: what is to be raised there, None for a normal end.
        """
        self.has_ended = True
        if self._end is None:
            self._end = end
        self._lot.unpark_all()
