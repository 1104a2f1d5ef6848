"""Two protocol machines talk to each other in any legal order, over bytes that are cut in any way."""

from collections import defaultdict
from unittest import mock

import hypothesis.strategies as st
from hypothesis import HealthCheck, settings
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    precondition,
    rule,
)
from support import fed, filled, frames_of, joined

from trpc import Limits, _frames
from trpc._frames import Cutter, encode_frame
from trpc._messages import Kind, decode_credit
from trpc._protocol import Protocol

REPLIES = [Kind.RESULT, Kind.ERROR, Kind.CANCELLED, Kind.EXPIRED]
LIMITS = Limits(max_message_size=100_000)

# Some of them are large: see SMALL.
bodies = st.binary(max_size=90)
SMALL = 40
sides = st.sampled_from([0, 1])
# Bytes of a body in a fragment; 1000: it is whole.
sizes = st.sampled_from([1, 10, 30, 1000])
numbers = st.integers(1, 2)


class Side:
    """One machine, the bytes on their way to it, and what a connection above it would know."""

    def __init__(self):
        self.protocol = Protocol(LIMITS)
        self.arriving = bytearray()
        self.arrived = []
        self.open_calls: dict[int, bytes] = {}  # ours: id to body
        self.served: dict[int, bytes] = {}  # the peer's that wait for our reply
        self.outcomes: dict[int, tuple[int, bytes]] = {}
        self.replied: dict[int, tuple[int, bytes]] = {}
        self.sent_notifications: list[bytes] = []
        self.got_notifications: list[bytes] = []
        self.pings: set[int] = set()
        self.goaways: list[bytes] = []
        self.rests: dict[tuple[int, int, int], Cutter] = {}  # of messages that have begun to leave
        self.incomplete: set[int] = set()  # our calls that were cancelled before all of the request had left
        self.ended: set[tuple[int, int]] = set()  # our arguments that have ended
        # Bodies of items, by kind, id and stream; of calls that are open at both ends, what has not arrived.
        self.sent_items = defaultdict(list)
        self.got_items = defaultdict(list)
        self.granted = defaultdict(list)
        self.got_grants = defaultdict(list)
        self.is_open = False


class Conversation(RuleBasedStateMachine):
    calls = Bundle("calls")
    requests = Bundle("requests")

    def __init__(self):
        super().__init__()
        self.sides = [Side(), Side()]
        # So that there are large frames, which are treated in other ways, among few bytes.
        self.patch = mock.patch.object(_frames, "_COPIED", SMALL)
        self.patch.start()

    def send(self, side, data):
        self.sides[1 - side].arriving += joined(data)

    def send_cut(self, side, data, size):
        """A message that may have fragments: the first leaves now, and the others when there is an occasion."""
        cutter = Cutter(data, size, size)
        key = (cutter._kind, cutter._id, cutter._stream)
        assert key not in self.sides[side].rests
        self.send(side, tuple(bytes(chunk) for chunk in cutter.next()))
        if cutter.advance():
            self.sides[side].rests[key] = cutter

    @initialize()
    def open(self):
        for side in (0, 1):
            self.send(side, self.sides[side].protocol.opening())

    # --- what a side may do at any time ---

    @rule(target=calls, side=sides, body=bodies, size=sizes)
    def call(self, side, body, size):
        call_id, data = self.sides[side].protocol.request(body)
        assert call_id not in self.sides[side].open_calls
        assert call_id not in self.sides[side].outcomes
        self.sides[side].open_calls[call_id] = body
        self.send_cut(side, data, size)
        return side, call_id

    @rule(side=sides, body=bodies)
    def call_that_is_taken_back(self, side, body):
        call_id, _ = self.sides[side].protocol.request(body)
        self.sides[side].protocol.forget_request(call_id)

    @rule(side=sides, body=bodies)
    def notify(self, side, body):
        self.sides[side].sent_notifications.append(body)
        self.send(side, self.sides[side].protocol.notify(body))

    @rule(call=calls)
    def cancel(self, call):
        side, call_id = call
        # Again and again, as long as the reply has not arrived.
        if call_id in self.sides[side].open_calls:
            if self.sides[side].rests.pop((Kind.REQUEST, call_id, 0), None) is not None:
                self.sides[side].incomplete.add(call_id)
            self.send(side, self.sides[side].protocol.cancel(call_id))

    @rule(side=sides)
    def ping(self, side):
        number, data = self.sides[side].protocol.ping()
        self.sides[side].pings.add(number)
        self.send(side, data)

    @rule(side=sides, body=bodies)
    def goaway(self, side, body):
        self.send(side, self.sides[side].protocol.goaway(body))

    @rule(request=consumes(requests), kind=st.sampled_from(REPLIES), body=bodies, size=sizes)
    def reply(self, request, kind, body, size):
        side, call_id = request
        if call_id in self.sides[side].served:
            self.reply_to(side, call_id, kind, body, size)

    def reply_to(self, number, call_id, kind, body=b"", size=1000):
        side = self.sides[number]
        if kind == Kind.RESULT and (Kind.RESULT, call_id, 0) in side.rests:
            kind = Kind.CANCELLED
        body = body if kind in {Kind.RESULT, Kind.ERROR} else b""
        del side.served[call_id]
        side.replied[call_id] = (kind, body)
        # What has begun is void.
        self.give_up(number, (Kind.RESULT, call_id, 0))
        self.give_up(number, (Kind.RESULT_ITEMS, call_id, 0))
        self.send_cut(number, side.protocol.reply(kind, call_id, body), size)

    @rule(request=requests, body=st.binary(min_size=2, max_size=90))
    def begin_a_result_for_nothing(self, request, body):
        """It is replaced by the reply."""
        number, call_id = request
        side = self.sides[number]
        items = (Kind.RESULT_ITEMS, call_id, 0)
        if call_id in side.served and (Kind.RESULT, call_id, 0) not in side.rests and items not in side.rests:
            self.send_cut(number, encode_frame(Kind.RESULT, call_id, body), len(body) - 1)

    @rule(side=sides, data=st.data())
    def rest(self, side, data):
        """The next fragment of something."""
        rests = self.sides[side].rests
        if not rests:
            return
        key = data.draw(st.sampled_from(sorted(rests)))
        if key[0] == Kind.RESULT and key[1] in self.sides[side].served:
            return  # the one for nothing
        cutter = rests[key]
        self.send(side, tuple(bytes(chunk) for chunk in cutter.next()))
        if not cutter.advance():
            del rests[key]

    def give_up(self, number, key):
        side = self.sides[number]
        if side.rests.pop(key, None) is not None and key in side.sent_items:
            side.sent_items[key].pop()

    # --- streams ---

    def send_items(self, number, key, body, size):
        side = self.sides[number]
        if key not in side.rests:
            side.sent_items[key].append(body)
            kind, call_id, stream = key
            self.send_cut(number, side.protocol.stream_message(kind, call_id, stream, body), size)

    @rule(request=requests, body=bodies, size=sizes)
    def result_items(self, request, body, size):
        number, call_id = request
        side = self.sides[number]
        if call_id in side.served and (Kind.RESULT, call_id, 0) not in side.rests:
            self.send_items(number, (Kind.RESULT_ITEMS, call_id, 0), body, size)

    @rule(call=calls, stream=numbers, body=bodies, size=sizes)
    def argument_items(self, call, stream, body, size):
        number, call_id = call
        side = self.sides[number]
        if self.may_send_argument(number, call_id) and (call_id, stream) not in side.ended:
            self.send_items(number, (Kind.ARGUMENT_ITEMS, call_id, stream), body, size)

    @rule(call=calls, stream=numbers, body=bodies)
    def argument_end(self, call, stream, body):
        number, call_id = call
        side = self.sides[number]
        if self.may_send_argument(number, call_id) and (call_id, stream) not in side.ended:
            side.ended.add((call_id, stream))
            self.give_up(number, (Kind.ARGUMENT_ITEMS, call_id, stream))
            self.send(number, side.protocol.stream_message(Kind.ARGUMENT_END, call_id, stream, body))

    def may_send_argument(self, number, call_id):
        side = self.sides[number]
        is_complete = (Kind.REQUEST, call_id, 0) not in side.rests and call_id not in side.incomplete
        return call_id in side.open_calls and is_complete

    @rule(call=calls, size=st.integers(1, 2**32 - 1))
    def result_credit(self, call, size):
        number, call_id = call
        if self.may_send_argument(number, call_id):
            self.grant(number, (Kind.RESULT_CREDIT, call_id, 0), size)

    @rule(request=requests, stream=numbers, size=st.integers(1, 2**32 - 1))
    def argument_credit(self, request, stream, size):
        number, call_id = request
        if call_id in self.sides[number].served:
            self.grant(number, (Kind.ARGUMENT_CREDIT, call_id, stream), size)

    def grant(self, number, key, size):
        side = self.sides[number]
        side.granted[key].append(size)
        self.send(number, side.protocol.credit(*key, size))

    @rule(request=requests, stream=numbers)
    def argument_stop(self, request, stream):
        number, call_id = request
        if call_id in self.sides[number].served:
            self.send(number, self.sides[number].protocol.stop(call_id, stream))

    # --- bytes arrive ---

    @rule(target=requests, side=sides, size=st.integers(1, 120), feed=st.sampled_from([fed, filled]))
    def deliver(self, side, size, feed):
        return multiple(*self.deliver_bytes(side, size, feed))

    @rule(target=requests, side=sides, feed=st.sampled_from([fed, filled]))
    def deliver_all(self, side, feed):
        return multiple(*self.deliver_bytes(side, len(self.sides[side].arriving), feed))

    def deliver_bytes(self, number, size, feed=fed):
        """Hands over some bytes; gives the requests that arrived. A ProtocolError fails the test."""
        side, peer = self.sides[number], self.sides[1 - number]
        data, side.arriving = bytes(side.arriving[:size]), side.arriving[size:]
        new, dropped = [], []
        frames, error = frames_of(side.protocol, [data], feed)
        assert error is None
        for frame in frames:
            key = frame[:2] + (frame.stream,)
            if frame.flags:
                # Only that it has begun.
                assert frame.kind in {Kind.RESULT_ITEMS, Kind.ARGUMENT_ITEMS}
                continue
            match frame.kind:
                case Kind.HELLO:
                    assert side.protocol.peer.max_message_size == LIMITS.max_message_size
                    side.is_open = True
                case Kind.REQUEST:
                    assert peer.open_calls[frame.id] == frame.body
                    side.served[frame.id] = frame.body
                    new.append((number, frame.id))
                case Kind.NOTIFY:
                    side.got_notifications.append(frame.body)
                case Kind.CANCEL:
                    # Given for calls that still run or are incomplete, and for no others.
                    if frame.id not in {*side.served, *dropped}:
                        assert side.protocol.drop_incomplete_request(frame.id)
                        dropped.append(frame.id)
                case Kind.PING:
                    self.send(number, side.protocol.pong(frame.id))
                case Kind.PONG:
                    side.pings.remove(frame.id)
                case Kind.GOAWAY:
                    side.goaways.append(frame.body)
                case Kind.RESULT_ITEMS:
                    assert frame.id in side.open_calls
                    side.got_items[key].append(frame.body)
                case Kind.ARGUMENT_ITEMS:
                    assert frame.id in side.served
                    side.got_items[key].append(frame.body)
                case Kind.ARGUMENT_END:
                    assert frame.id in side.served
                    # Behind all items that were not given up.
                    items = (Kind.ARGUMENT_ITEMS, frame.id, frame.stream)
                    assert side.got_items[items] == peer.sent_items[items]
                case Kind.RESULT_CREDIT:
                    assert frame.id in side.served
                    side.got_grants[key].append(decode_credit(frame.body))
                case Kind.ARGUMENT_CREDIT:
                    assert frame.id in side.open_calls
                    side.got_grants[key].append(decode_credit(frame.body))
                case Kind.ARGUMENT_STOP:
                    assert frame.id in side.open_calls
                case _:
                    self.on_reply(number, frame)
        for call_id in dropped:
            side.served[call_id] = b""
            self.reply_to(number, call_id, Kind.CANCELLED)
        return new

    def on_reply(self, number, frame):
        side, peer = self.sides[number], self.sides[1 - number]
        assert frame.kind in REPLIES
        assert frame.id not in side.outcomes, "a second outcome"
        items = (Kind.RESULT_ITEMS, frame.id, 0)
        assert side.got_items[items] == peer.sent_items[items]
        del side.open_calls[frame.id]
        side.outcomes[frame.id] = (frame.kind, frame.body)
        # Nobody wants the rest of its arguments.
        for key in [key for key in side.rests if key[0] == Kind.ARGUMENT_ITEMS and key[1] == frame.id]:
            self.give_up(number, key)

    # --- what holds ---

    @invariant()
    def outcomes_are_the_replies(self):
        for side, peer in [self.sides, self.sides[::-1]]:
            for call_id, outcome in side.outcomes.items():
                assert peer.replied[call_id] == outcome

    @invariant()
    def notifications_arrive_in_order(self):
        for side, peer in [self.sides, self.sides[::-1]]:
            assert side.got_notifications == peer.sent_notifications[: len(side.got_notifications)]

    @invariant()
    def streams_arrive_in_order(self):
        for side, peer in [self.sides, self.sides[::-1]]:
            for key, items in side.got_items.items():
                assert items == peer.sent_items[key][: len(items)]
            for key, grants in side.got_grants.items():
                assert grants == peer.granted[key][: len(grants)]

    @invariant()
    def nothing_is_remembered_of_finished_calls(self):
        for side in self.sides:
            assert set(side.protocol._open_outgoing) == set(side.open_calls)
            # Those of which fragments are missing are open too, and nobody above knows.
            incomplete = side.protocol._fragments._messages if side.protocol._fragments else {}
            requests = {call_id for kind, call_id, _ in incomplete if kind == Kind.REQUEST}
            assert set(side.protocol._open_incoming) == set(side.served) | requests

    @precondition(lambda self: not any(side.arriving for side in self.sides) and self.sides[0].is_open)
    @invariant()
    def what_is_incomplete_is_still_on_its_way(self):
        for side, peer in [self.sides, self.sides[::-1]]:
            incomplete = set(side.protocol._fragments._messages if side.protocol._fragments else ())
            assert incomplete >= set(peer.rests)
            # The others are given up when the reply is complete.
            assert all(kind in {Kind.RESULT, Kind.RESULT_ITEMS} for kind, _, _ in incomplete - set(peer.rests))
            assert {call_id for _, call_id, _ in incomplete - set(peer.rests)} <= set(side.open_calls)

    def teardown(self):
        """Everything arrives and everything is replied to: then every call has ended, once."""
        try:
            self.end()
        finally:
            self.patch.stop()

    def end(self):
        for _ in range(5):
            for number in (0, 1):
                rests = self.sides[number].rests
                for key, cutter in list(rests.items()):
                    if key[0] == Kind.RESULT and key[1] in self.sides[number].served:
                        continue
                    left = True
                    while left:
                        self.send(number, tuple(bytes(chunk) for chunk in cutter.next()))
                        left = cutter.advance()
                    del rests[key]
            for number in (0, 1):
                self.deliver_bytes(number, len(self.sides[number].arriving))
            for number in (0, 1):
                for call_id in list(self.sides[number].served):
                    self.reply_to(number, call_id, Kind.CANCELLED)
        for side, peer in [self.sides, self.sides[::-1]]:
            assert not side.arriving
            assert not side.open_calls
            assert not side.pings
            assert not side.rests
            assert side.outcomes == peer.replied
            assert side.got_notifications == peer.sent_notifications
            side.protocol.receive_eof()
            assert not side.protocol._open_outgoing
            assert not side.protocol._open_incoming
            assert not side.protocol._fragments


TestConversation = Conversation.TestCase
TestConversation.settings = settings(
    deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=150, stateful_step_count=60
)
