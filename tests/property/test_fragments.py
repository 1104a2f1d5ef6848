"""Messages in fragments: however they are cut and mixed, the same messages come out, and nothing is kept of them."""

import dataclasses
from collections import Counter

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, given, settings
from support import frames_of

from trpc import Limits, ProtocolError
from trpc._fragments import FRAGMENTED
from trpc._frames import CONTINUED, MORE, PREAMBLE, Cutter, FrameReader, encode_frame, frame_of
from trpc._messages import ALWAYS_ACCEPTED, Kind
from trpc._protocol import Protocol

LIMITS = Limits(max_message_size=100)
FLAGS = MORE | CONTINUED
OPEN = 3
"""Calls of the receiver's, that may be replied to."""

bodies = st.binary(min_size=1, max_size=60)


def opened(**limits):
    """A protocol whose peer has sent its hello, and is to reply to some calls."""
    protocol = Protocol(dataclasses.replace(LIMITS, **limits))
    protocol.receive(protocol.opening())
    for _ in range(OPEN):
        protocol.request(b"")
    return protocol


def fragments_of(kind, call_id, stream, body, cuts):
    """A message, cut at these places."""
    edges = sorted({0, len(body), *(cut % len(body) for cut in cuts)}) if body else [0, 0]
    parts = [body[start:end] for start, end in zip(edges, edges[1:], strict=False)]
    last = len(parts) - 1
    return [
        encode_frame(kind, call_id, part, flags=(CONTINUED if i else 0) | (MORE if i < last else 0), stream=stream)
        for i, part in enumerate(parts)
    ]


@st.composite
def mixtures(draw):
    """Messages in fragments, one after the other in each lane: what keeps its order. Gives them, and the frames."""
    calls = range(1, draw(st.integers(1, 4)) + 1)
    lanes = {}
    for call_id in calls:
        kind = draw(st.sampled_from([Kind.REQUEST, Kind.NOTIFY]))
        lanes["request", call_id] = [(kind, call_id, 0, draw(bodies))]
    for call_id in range(1, OPEN + 1):
        lane = [(Kind.RESULT_ITEMS, call_id, 0, draw(bodies)) for _ in range(draw(st.integers(0, 2)))]
        reply = draw(st.sampled_from([Kind.RESULT, Kind.ERROR, Kind.CANCELLED]))
        lanes["reply", call_id] = [*lane, (reply, call_id, 0, b"" if reply == Kind.CANCELLED else draw(bodies))]
    lanes["ping", 0] = [(Kind.PING, number, 0, b"") for number in range(draw(st.integers(0, 2)))]
    messages = [message for lane in lanes.values() for message in lane]
    cuts = st.lists(st.integers(0, 60), max_size=4)
    queues = {
        key: [(message, fragments_of(*message, draw(cuts))) for message in lane] for key, lane in lanes.items() if lane
    }
    frames, done = [], []
    begun = 0
    while queues:
        # The requests begin in the order of their ids.
        able = [key for key in queues if key[0] != "request" or key[1] <= begun + 1]
        key = draw(st.sampled_from(able))
        if key[0] == "request":
            begun = max(begun, key[1])
        message, left = queues[key][0]
        frames.append(left.pop(0))
        if not left:
            done.append(message)
            queues[key].pop(0)
            if not queues[key]:
                del queues[key]
    assert Counter(done) == Counter(messages)
    return done, frames


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.large_base_example], max_examples=300)
@given(mixture=mixtures(), pieces=st.lists(st.integers(0, 5000), max_size=8))
def test_any_mixture_gives_the_messages_where_they_are_complete(mixture, pieces):
    messages, frames = mixture
    data = b"".join(frames)
    edges = sorted({0, len(data), *(piece % (len(data) + 1) for piece in pieces)})
    protocol = opened()
    received, error = frames_of(protocol, [data[a:b] for a, b in zip(edges, edges[1:], strict=False)])
    assert error is None
    complete = [f for f in received if not f.flags]
    assert [(f.kind, f.id, f.stream, f.body) for f in complete] == messages
    assert not protocol._fragments


@settings(deadline=None, max_examples=200)
@given(
    kind=st.sampled_from(sorted(FRAGMENTED)),
    call_id=st.integers(0, 2**64 - 1),
    stream=st.integers(0, 2**16 - 1),
    body=st.binary(max_size=200),
    pieces=st.lists(st.integers(0, 200), max_size=4),
    size=st.integers(1, 250),
    first=st.integers(1, 250),
)
def test_what_is_cut_is_the_message_in_order(kind, call_id, stream, body, pieces, size, first):
    whole = frame_of(kind, call_id, body, stream)
    header = whole if isinstance(whole, bytes) else b"".join(whole)
    edges = sorted({0, len(body), *(piece % (len(body) + 1) for piece in pieces)})
    chunks = tuple(body[a:b] for a, b in zip(edges, edges[1:], strict=False))
    for data in (header, (header[: len(header) - len(body)], *chunks)):
        cutter = Cutter(data, size, first)
        fragments = [b"".join(cutter.next())]
        while cutter.advance():
            # Asked for twice, it is the same.
            assert cutter.next() == cutter.next()
            fragments.append(b"".join(cutter.next()))
        frames = FrameReader(max_body=200).feed(PREAMBLE + b"".join(fragments))
        assert b"".join(bytes(f.body) for f in frames) == body
        assert {(f.kind, f.id, f.stream) for f in frames} == {(kind, call_id, stream)}
        assert all(0 < len(f.body) <= (size if i else first) for i, f in enumerate(frames)) or not body
        last = len(frames) - 1
        assert [f.flags for f in frames] == [(CONTINUED * (i > 0)) | (MORE * (i < last)) for i in range(last + 1)]


# Frames of which any may be right, and most are not.
kinds = st.sampled_from([*Kind, 0x16, 0x25, 0x80])
soup = st.lists(
    st.builds(
        encode_frame,
        kind=st.sampled_from(sorted(FRAGMENTED)) | kinds,
        id=st.integers(0, 4),
        body=st.binary(max_size=40),
        flags=st.sampled_from([0, MORE, FLAGS, CONTINUED, CONTINUED, 0x04]),
        stream=st.sampled_from([0, 0, 1, 2]),
    ),
    max_size=25,
)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=1000)
@given(frames=soup, max_bytes_in_flight=st.integers(1, 100), max_calls=st.integers(1, 4))
def test_any_frames_are_messages_or_one_error(frames, max_bytes_in_flight, max_calls):
    protocol = opened(max_bytes_in_flight=max_bytes_in_flight, max_calls=max_calls)
    for number, data in enumerate(frames):
        try:
            messages = protocol.receive(data)
        except ProtocolError as exc:
            assert str(exc)
            # The same as what comes of all of them at once.
            again = opened(max_bytes_in_flight=max_bytes_in_flight, max_calls=max_calls)
            _, error = frames_of(again, [b"".join(frames[: number + 1])])
            assert str(error) == str(exc)
            return
        for message in messages:
            if message.flags:
                assert message.flags == MORE
                assert not message.body
            else:
                assert len(message.body) <= max(LIMITS.max_message_size, ALWAYS_ACCEPTED)
        # What is kept of requests is within the bounds.
        incomplete = protocol._fragments._messages.items() if protocol._fragments else []
        sizes = [message.size for key, message in incomplete if key[0] in {Kind.REQUEST, Kind.NOTIFY}]
        assert sum(sizes) <= max(max_bytes_in_flight, LIMITS.max_message_size + 1024 * max_calls)
        assert len(sizes) <= max_calls


def accepted(frames):
    """A protocol that has taken those of the frames that it can take."""
    taken, protocol = [], opened()
    for data in frames:
        try:
            protocol.receive(data)
            taken.append(data)
        except ProtocolError:
            protocol = opened()
            frames_of(protocol, taken)
    return protocol


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=300)
@given(frames=soup)
def test_nothing_is_kept_of_calls_that_have_ended(frames):
    protocol = accepted([encode_frame(Kind.REQUEST, 1), *frames])
    for call_id in list(protocol._open_incoming):
        protocol.drop_incomplete_request(call_id)
        protocol.reply(Kind.CANCELLED, call_id)
    for call_id in list(protocol._open_outgoing):
        protocol.receive(encode_frame(Kind.CANCELLED, call_id))
    incomplete = protocol._fragments._messages if protocol._fragments else {}
    assert all(kind == Kind.NOTIFY for kind, _, _ in incomplete)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=300)
@given(frames=soup, rest=st.sampled_from([Kind.RESULT, Kind.ERROR, Kind.RESULT_ITEMS]))
def test_the_rest_of_what_was_given_up_is_ignored(frames, rest):
    protocol = accepted(frames)
    for call_id in list(protocol._open_outgoing):
        protocol.receive(encode_frame(Kind.EXPIRED, call_id))
        for flags in (FLAGS, CONTINUED):
            assert protocol.receive(encode_frame(rest, call_id, b"x", flags=flags)) == []


@pytest.mark.parametrize("kind", [Kind.REQUEST, Kind.RESULT, Kind.RESULT_ITEMS])
@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=50)
@given(sizes=st.lists(st.integers(1, 4000), min_size=1, max_size=20), limit=st.integers(1, 30_000))
def test_the_sum_has_the_limit_of_one_frame(kind, sizes, limit):
    protocol = opened(max_message_size=limit)
    bound = max(limit, ALWAYS_ACCEPTED)
    total = 0
    for i, size in enumerate(sizes):
        total += size
        data = encode_frame(kind, 1, bytes(size), flags=(CONTINUED if i else 0) | MORE)
        if total > bound:
            with pytest.raises(ProtocolError, match=f"more than {bound} bytes"):
                protocol.receive(data)
            return
        assert not [frame for frame in protocol.receive(data) if not frame.flags]
    if total < bound:
        (frame,) = protocol.receive(encode_frame(kind, 1, b"\1", flags=CONTINUED))
        assert len(frame.body) == total + 1
