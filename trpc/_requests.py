"""The requests of this side's calls: what they wait for before they are sent, and how they are taken back."""

from __future__ import annotations

import math
from collections import deque
from typing import TYPE_CHECKING, Final

import trio

from ._errors import InvalidArguments, MessageTooLarge, Overloaded
from ._frames import size_of
from ._limits import KiB
from ._slots import Slots

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from ._frames import Data
    from ._outbox import Outbox
    from ._outgoing_call import OutgoingCall
    from ._protocol import Protocol


# Bytes of a request that goes before those who wait until the peer takes more.
_SMALL: Final = 16 * KiB


class Requests:
    """The part of a caller that sends requests.

    Args:
        protocol, outbox: those of the connection.
        max_calls: calls that this side has in flight at most, whatever the peer allows.
        is_nested: whether the present task handles a call of the peer's.

    Attributes:
        protocol, outbox: as above.
    """

    __slots__ = (
        "_bytes_held",
        "_bytes_wanted",
        "_hello",
        "_in_flight",
        "_is_nested",
        "_max_calls",
        "_refusal",
        "_sent",
        "_slots",
        "_woken",
        "outbox",
        "protocol",
    )

    def __init__(self, protocol: Protocol, outbox: Outbox, *, max_calls: int, is_nested: Callable[[], bool]) -> None:
        self.protocol = protocol
        self.outbox = outbox
        self._max_calls = max_calls
        self._is_nested = is_nested
        self._in_flight: dict[int, OutgoingCall] = {}
        self._slots = Slots(min(max_calls, protocol.peer.max_calls))
        self._bytes_held = 0
        """Those of the requests in flight, which the peer holds as long."""
        self._bytes_wanted: deque[tuple[int, trio.Event]] | None = None
        """By those who wait for them, in turn."""
        self._hello = trio.Event()
        # Requests since the last replies, and how many replies these were.
        self._sent = 0
        self._woken = 0
        self._refusal: Callable[[bool], Exception] | None = None
        """Once there will be no more calls: makes the error of one, from "may it have been executed?"."""

    @trio.lowlevel.enable_ki_protection
    async def start(self, call: OutgoingCall, args: Sequence[object], kwargs: Mapping[str, object] | None) -> None:
        """Sends the request of a call. Nothing was sent if this raises."""
        try:
            if not self._start_now(call, args, kwargs):
                await self._start_later(call, args, kwargs)
        except Exception:
            # Who tries again at once is not to keep all others from running, nor its own cancel from coming.
            await trio.lowlevel.checkpoint()
            raise

    def _start_now(self, call: OutgoingCall, args: Sequence[object], kwargs: Mapping[str, object] | None) -> bool:
        """Takes a place and queues the request, if there is nothing to be waited for."""
        slots = self._slots
        if slots.taken >= slots.number:
            return False
        slots.taken += 1
        try:
            if self._send_now(call, args, kwargs):
                return True
        except BaseException:  # nothing was sent, whatever it is
            slots.give_back()
            raise
        slots.give_back()
        return False

    async def _start_later(
        self, call: OutgoingCall, args: Sequence[object], kwargs: Mapping[str, object] | None
    ) -> None:
        """The same, with all waiting."""
        await self._wait_for_slot()
        try:
            await self._send_when_possible(call, args, kwargs)
        except BaseException:  # nothing was sent, whatever it is
            self._slots.give_back()
            raise

    async def _wait_for_slot(self) -> None:
        slots = self._slots
        if slots.taken < slots.number:
            slots.taken += 1
        elif self._is_nested() and self.protocol.peer_is_known:
            # Those in flight may be waiting for the very call that this task handles.
            raise Overloaded(
                f"{slots.taken} calls to the peer are in flight, the most it allows, and this one is"
                " made by a handler of its calls, which must not wait for them"
            )
        else:
            await slots.wait()

    def _send_now(self, call: OutgoingCall, args: Sequence[object], kwargs: Mapping[str, object] | None) -> bool:
        """Queues the request, if there is nothing to be waited for. Otherwise as :meth:`_send_when_possible`."""
        deadline = trio.current_effective_deadline()
        time_left = None
        if deadline != math.inf:
            time_left = deadline - trio.current_time()
            if time_left <= 0:
                return False
        outbox, peer = self.outbox, self.protocol.peer
        if self._refusal is not None or (outbox.unsent and outbox.is_full) or call.places:
            return False
        body = call.encode(args, kwargs, time_left, max_depth=peer.max_depth)
        size = len(body) if isinstance(body, bytes) else size_of(body)
        if size > peer.max_message_size or self._is_too_much(size):
            return False
        call.deadline = deadline
        self._send(call, body, size)
        return True

    def _is_too_much(self, size: int) -> bool:
        """Whether a request would be more bytes, beside those in flight, than the peer takes. One is never too much."""
        most = self.protocol.peer.max_bytes_in_flight
        if most is None or not self._bytes_held:
            return False
        # What is large goes behind those who wait; what is small hardly makes them wait longer.
        return self._bytes_held + size > most or (size > _SMALL and bool(self._bytes_wanted))

    def _send(self, call: OutgoingCall, body: Data, size: int) -> None:
        call.held = size
        self._bytes_held += size
        call.id, data = self.protocol.request(body)
        self.outbox.put(data, call, alone=self._is_alone())
        self._in_flight[call.id] = call

    def _is_alone(self) -> bool:
        """Whether the request that is about to be sent is likely to be the only one in this pass of the event loop.

        The callers whose replies were read together are about to call again together; and who calls for the
        second time without a reply in between is one of many that begin.
        """
        self._sent += 1
        return self._sent == 1 and self._woken <= 1

    async def _send_when_possible(
        self, call: OutgoingCall, args: Sequence[object], kwargs: Mapping[str, object] | None
    ) -> None:
        """Queues the request. Nothing was sent if this raises."""
        try:
            body, call.deadline = await self._prepare(call, args, kwargs)
            self._send(call, body, size_of(body))
        finally:
            # What was kept for this one may be more than it has taken.
            if self._bytes_wanted:
                self._wake_for_bytes()

    async def _prepare(
        self, call: OutgoingCall, args: Sequence[object], kwargs: Mapping[str, object] | None, *, one_way: bool = False
    ) -> tuple[Data, float]:
        """The body of a request that may be sent now, and the deadline in it.

        The time left is taken after all waiting: for room, and for the peer's limits where the request
        is too large to be sent without knowing them.
        """
        while True:
            if self.outbox.is_full:
                await self.outbox.wait_for_room()
            while (deadline := trio.current_effective_deadline()) <= trio.current_time():
                # Trio is about to deliver a cancel or a deadline. Nothing is sent.
                await trio.lowlevel.checkpoint()
            self._raise_if_refused()
            if call.places and not self.protocol.peer.has_streams:
                if self.protocol.peer_is_known:
                    raise InvalidArguments(f"{call.method}: the peer does not support arguments that are streams")
                await self._hello.wait()
                continue
            time_left = None if one_way or deadline == math.inf else deadline - trio.current_time()
            body = call.encode(args, kwargs, time_left, max_depth=self.protocol.peer.max_depth)
            if size_of(body) <= self.protocol.peer.max_message_size:
                if one_way or not self._is_too_much(size_of(body)):
                    return body, deadline
                await self._wait_for_bytes(size_of(body))
                continue
            if self.protocol.peer_is_known:
                raise MessageTooLarge(
                    f"{call.method}: the request has {size_of(body)} bytes, and the peer accepts"
                    f" {self.protocol.peer.max_message_size}; it was not sent"
                )
            await self._hello.wait()

    async def _wait_for_bytes(self, size: int) -> None:
        """Waits, in turn, until the peer takes so many, or no more calls."""
        if self._is_nested() and self.protocol.peer_is_known:
            # As for a place.
            raise Overloaded(
                f"the calls to the peer in flight have {self._bytes_held} bytes, about the most that it takes, and this one"
                " is made by a handler of its calls, which must not wait for them"
            )
        if self._bytes_wanted is None:
            self._bytes_wanted = deque()
        waiter = size, trio.Event()
        self._bytes_wanted.append(waiter)
        try:
            await waiter[1].wait()
        except BaseException:  # cancelled or interrupted: raised again, without a place among those who wait
            if waiter in self._bytes_wanted:
                self._bytes_wanted.remove(waiter)
            else:
                self._bytes_held -= size
            raise
        self._bytes_held -= size

    def _release(self, call: OutgoingCall) -> None:
        """A call has ended: its bytes are not held any more."""
        self._bytes_held -= call.held
        if self._bytes_wanted:
            self._wake_for_bytes()

    def _wake_for_bytes(self, *, all_of_them: bool = False) -> None:
        """Keeps what is free for those who have waited longest, until they come."""
        most = self.protocol.peer.max_bytes_in_flight or 0
        while self._bytes_wanted:
            size, event = self._bytes_wanted[0]
            if self._bytes_held and self._bytes_held + size > most and not all_of_them:
                return
            self._bytes_wanted.popleft()
            self._bytes_held += size
            event.set()

    def _take_back(self, call: OutgoingCall) -> bool:
        """Ends a call whose request has not left."""
        if not self.outbox.discard(call):
            return False
        self._forget(call)
        return True

    def _forget(self, call: OutgoingCall) -> None:
        call.end_streams()
        self.protocol.forget_request(call.id)
        del self._in_flight[call.id]
        self._release(call)
        self._slots.give_back()

    def _raise_if_refused(self, *, maybe_executed: bool = False) -> None:
        if self._refusal is not None:
            raise self._refusal(maybe_executed)
