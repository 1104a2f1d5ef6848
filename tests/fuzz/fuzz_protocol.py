"""The protocol machine: whatever a peer sends in frames, the same events and the same error however it is cut.

After each piece, what came is handled as a dispatcher does it, and not before: else the cuts would decide which of two
things that cross each other comes first.
"""

from __future__ import annotations

import dataclasses
import gc
import re
import sys
import types
from typing import TYPE_CHECKING

from tests.fuzz import script
from tests.fuzz.choices import Choices, cut, one_by_one
from tests.support import fed, filled, frames_of
from trpc import Limits, ProtocolError
from trpc._frames import PREAMBLE, encode_frame
from trpc._limits import KiB
from trpc._messages import ALWAYS_ACCEPTED, Hello, Kind
from trpc._protocol import Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

    from trpc._frames import Frame

MAX_LEN = 1024
LIMITS = Limits(max_message_size=2000, max_hello_size=200, max_calls=8, max_streams=8, max_bytes_in_flight=20_000)
# So that there are large frames, which go ways of their own, and soon no room for them.
LARGE = dataclasses.replace(LIMITS, max_message_size=200_000)
OPENING = PREAMBLE + encode_frame(Kind.HELLO, 0, Hello.of(LIMITS).encode())
# Streams of each call, and of this side's calls how many are open at most.
STREAMS = 2
OUTGOING = 4
_REPLIES = [Kind.RESULT, Kind.ERROR, Kind.CANCELLED, Kind.EXPIRED]


def run(data: bytes) -> None:
    choices = Choices(data)
    flags = choices.number()
    opening = PREAMBLE if flags & 1 else OPENING
    places = [choices.number() for _ in range(flags >> 4)]
    limits = LARGE if flags & 2 else LIMITS
    steps = list(script.decode(choices))
    whole = _Conversation(limits, lambda piece: [piece]).hold(opening, steps)
    start = places[0] if places else 0
    assert _Conversation(limits, lambda piece: one_by_one(piece, start, 20)).hold(opening, steps) == whole
    assert _Conversation(limits, lambda piece: cut(piece, places)).hold(opening, steps) == whole
    in_rooms = _Conversation(limits, lambda piece: cut(piece, places), filled).hold(opening, steps)
    # For a large frame that does not come whole there may be no room.
    assert limits is LARGE or in_rooms == whole


class _Conversation:
    """One side of a connection, whose bytes arrive in the pieces that ``cut_up`` makes."""

    def __init__(self, limits: Limits, cut_up: Callable[[bytes], list[bytes]], feed: Callable = fed) -> None:
        self.limits = limits
        self.protocol = Protocol(limits)
        self.cut_up = cut_up
        self.feed = feed
        self.events: list[tuple] = []
        self.error: str | None = None
        # Calls of the peer's that are not answered, in their order, and those of them that have streams.
        self.open: dict[int, None] = {}
        self.streams: set[int] = set()
        self.outgoing: set[int] = set()
        self.last_ping = 0

    def hold(self, opening: bytes, steps: list[script.Step]) -> tuple:
        """What came of it: the events, and how it ended."""
        arriving = opening
        for step in steps:
            if step.what not in script.ACTIONS:
                arriving += step.data
                continue
            self._receive(arriving)
            arriving = b""
            if self.error is not None:
                break
            self._act(step)
        else:
            self._receive(arriving)
        protocol = self.protocol
        if self.error is None:
            try:
                protocol.receive_eof()
            except ProtocolError as exc:
                self.error = str(exc)
        return self.events, self.error, protocol.peer, protocol.last_request, protocol.last_sent

    def _receive(self, data: bytes) -> None:
        events, error = frames_of(self.protocol, self.cut_up(data), self.feed)
        assert error is None or type(error) is ProtocolError
        if error is not None:
            self.error = re.sub("(the peer does not speak trpc).*", r"\1", str(error))
        for event in events:
            self.events.append((event.kind, event.id, bytes(event.body), event.flags, event.stream))
            self._handle(event)
        if self.error is None:
            if self.feed is filled:
                self._check_bounds()

    def _handle(self, event: Frame) -> None:
        """As the dispatcher and the caller do it, in short."""
        kind, call_id, _, flags, stream = event
        protocol = self.protocol
        assert kind in script.KINDS[: len(Kind)]
        assert len(event.body) <= max(self.limits.max_message_size, ALWAYS_ACCEPTED)
        if kind == Kind.REQUEST:
            assert protocol.is_open(call_id)
            assert call_id not in self.open
            self.open[call_id] = None
            if flags or len(self.open) > self.limits.max_calls:
                self._reply(Kind.ERROR, call_id)
            elif len(self.streams) < self.limits.max_streams // STREAMS:
                self.streams.add(call_id)
        elif kind == Kind.CANCEL:
            if call_id not in self.open and protocol.drop_incomplete_request(call_id):
                protocol.reply(Kind.CANCELLED, call_id)
        elif kind in {Kind.ARGUMENT_ITEMS, Kind.ARGUMENT_END, Kind.RESULT_CREDIT}:
            # For a stream that is not there it is an error, and the connection ends.
            if stream > STREAMS or (stream and call_id not in self.streams and protocol.is_open(call_id)):
                self.error = "no such stream"
        elif kind in _REPLIES:
            assert call_id in self.outgoing
            self.outgoing.remove(call_id)
        elif kind in {Kind.RESULT_ITEMS, Kind.ARGUMENT_CREDIT, Kind.ARGUMENT_STOP}:
            assert 0 < call_id <= protocol.last_sent
        elif kind == Kind.PONG:
            assert 0 < call_id <= self.last_ping

    def _reply(self, kind: Kind, call_id: int) -> None:
        del self.open[call_id]
        self.streams.discard(call_id)
        self.protocol.reply(kind, call_id)
        assert not self.protocol.is_open(call_id)

    def _act(self, step: script.Step) -> None:
        """Something of this side's own."""
        action = step.what - script.ACTIONS.start
        protocol = self.protocol
        if action == 0:
            if len(self.outgoing) < OUTGOING:
                self.outgoing.add(protocol.request(b"\xc0")[0])
        elif action == 1:
            protocol.notify(b"\xc0")
        elif action == 2:
            self.last_ping, _ = protocol.ping()
        elif action == 3 and self.outgoing:
            call_id = sorted(self.outgoing)[step.argument % len(self.outgoing)]
            # Its bytes have not left: the peer knows nothing of it.
            self.outgoing.remove(call_id)
            protocol.forget_request(call_id)
        elif self.open:
            call_id = list(self.open)[step.argument % len(self.open)]
            self._reply(_REPLIES[action % len(_REPLIES)], call_id)

    def _check_bounds(self) -> None:
        """What is kept follows from the limits and from what this side has open, whatever the peer sent."""
        longest = max(self.limits.max_message_size, ALWAYS_ACCEPTED)
        requests = max(self.limits.max_bytes_in_flight, self.limits.max_message_size + self.limits.max_calls * KiB)
        # A result, an error and items of each call; and what is between two frames.
        messages = 3 * len(self.outgoing) + STREAMS * len(self.streams) + 1
        bound = 128 * KiB + 2 * requests + messages * (longest + KiB) * 9 // 8
        protocol = self.protocol
        assert protocol.share.taken >= 0
        assert not protocol.share.taken or protocol.fragments.requests or protocol.frames.inside_frame
        size = held_by(protocol)
        assert size <= bound, f"{size} bytes are kept; {bound} would be right"


_SHARED = (type, types.ModuleType, types.FunctionType, types.BuiltinFunctionType, Limits, Hello, str, int)


def held_by(thing: object) -> int:
    """Bytes of all that can be reached from it and is its own."""
    seen: dict[int, object] = {}
    waiting = [thing]
    while waiting:
        item = waiting.pop()
        if id(item) not in seen and not isinstance(item, _SHARED):
            seen[id(item)] = item
            waiting += gc.get_referents(item)
    return sum(map(sys.getsizeof, seen.values()))
