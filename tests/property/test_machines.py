"""Two protocol machines talk to each other in any legal order, over bytes that are cut in any way."""

from unittest import mock

import hypothesis.strategies as st
from hypothesis import HealthCheck, settings
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, multiple, rule
from support import fed, filled, frames_of, joined

from trpc import Limits, _frames
from trpc._messages import Kind
from trpc._protocol import Protocol

REPLIES = [Kind.RESULT, Kind.ERROR, Kind.CANCELLED, Kind.EXPIRED]
LIMITS = Limits(max_message_size=100_000)

# Some of them are large: see SMALL.
bodies = st.binary(max_size=90)
SMALL = 40
sides = st.sampled_from([0, 1])


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
        self.cancels_for_finished = 0
        self.pings: set[int] = set()
        self.goaways: list[bytes] = []


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

    @initialize()
    def open(self):
        for side in (0, 1):
            self.send(side, self.sides[side].protocol.opening())

    # --- what a side may do at any time ---

    @rule(target=calls, side=sides, body=bodies)
    def call(self, side, body):
        call_id, data = self.sides[side].protocol.request(body)
        assert call_id not in self.sides[side].open_calls
        assert call_id not in self.sides[side].outcomes
        self.sides[side].open_calls[call_id] = body
        self.send(side, data)
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
            self.send(side, self.sides[side].protocol.cancel(call_id))

    @rule(side=sides)
    def ping(self, side):
        number, data = self.sides[side].protocol.ping()
        self.sides[side].pings.add(number)
        self.send(side, data)

    @rule(side=sides, body=bodies)
    def goaway(self, side, body):
        self.send(side, self.sides[side].protocol.goaway(body))

    @rule(request=consumes(requests), kind=st.sampled_from(REPLIES), body=bodies)
    def reply(self, request, kind, body):
        side, call_id = request
        if call_id in self.sides[side].served:
            self.reply_to(side, call_id, kind, body)

    def reply_to(self, side, call_id, kind, body=b""):
        body = body if kind in {Kind.RESULT, Kind.ERROR} else b""
        del self.sides[side].served[call_id]
        self.sides[side].replied[call_id] = (kind, body)
        self.send(side, self.sides[side].protocol.reply(kind, call_id, body))

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
        new = []
        frames, error = frames_of(side.protocol, [data], feed)
        assert error is None
        for frame in frames:
            match frame.kind:
                case Kind.HELLO:
                    assert side.protocol.peer.max_message_size == LIMITS.max_message_size
                case Kind.REQUEST:
                    assert peer.open_calls[frame.id] == frame.body
                    side.served[frame.id] = frame.body
                    new.append((number, frame.id))
                case Kind.NOTIFY:
                    side.got_notifications.append(frame.body)
                case Kind.CANCEL:
                    # Given for calls that still run, and for no others.
                    assert frame.id in side.served
                case Kind.PING:
                    self.send(number, side.protocol.pong(frame.id))
                case Kind.PONG:
                    side.pings.remove(frame.id)
                case Kind.GOAWAY:
                    side.goaways.append(frame.body)
                case _:
                    assert frame.kind in REPLIES
                    assert frame.id not in side.outcomes, "a second outcome"
                    del side.open_calls[frame.id]
                    side.outcomes[frame.id] = (frame.kind, frame.body)
        return new

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
    def nothing_is_remembered_of_finished_calls(self):
        for side in self.sides:
            assert set(side.protocol._open_outgoing) == set(side.open_calls)
            assert side.protocol._open_incoming == set(side.served)

    def teardown(self):
        """Everything arrives and everything is replied to: then every call has ended, once."""
        try:
            self.end()
        finally:
            self.patch.stop()

    def end(self):
        for _ in range(4):
            for number in (0, 1):
                self.deliver_bytes(number, len(self.sides[number].arriving))
            for number in (0, 1):
                for call_id in list(self.sides[number].served):
                    self.reply_to(number, call_id, Kind.CANCELLED)
        for side, peer in [self.sides, self.sides[::-1]]:
            assert not side.arriving
            assert not side.open_calls
            assert not side.pings
            assert side.outcomes == peer.replied
            assert side.got_notifications == peer.sent_notifications
            side.protocol.receive_eof()
            assert not side.protocol._open_outgoing
            assert not side.protocol._open_incoming


TestConversation = Conversation.TestCase
TestConversation.settings = settings(
    deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=150, stateful_step_count=50
)
