"""Bytes, however they are cut and taken: the same messages, the same error, and never an error of another kind."""

import functools
import re
from unittest import mock

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, given, settings
from support import fed, filled, frames_of

from trpc import Limits, ProtocolError, _frames
from trpc._frames import CONTINUED, MORE, PREAMBLE, FrameReader, encode_frame
from trpc._messages import Hello, Kind, encode_request
from trpc._protocol import Protocol

HELLO = encode_frame(Kind.HELLO, 0, Hello(20_000, 10, 64).encode())
LIMITS = Limits(max_message_size=20_000, max_hello_size=200)

bodies = st.one_of(
    st.binary(max_size=40),
    st.builds(
        lambda method, args: encode_request(method, args, None, 1.0, None, max_depth=64),
        st.text(max_size=10),
        st.lists(st.integers(0, 300), max_size=5),
    ),
)


STEPS = [
    "request",
    "notify",
    "cancel",
    "ping",
    "later",
    "goaway",
    "items",
    "end",
    "credit",
    "result-items",
    "argument-credit",
    "stop",
    "rest",
]
# Calls of the other side's, which makes them before it receives anything.
OPEN = 3


@st.composite
def sessions(draw):  # noqa: C901, PLR0912 - one branch a kind
    """What a well-behaved peer sends: hello, requests, cancels of them, items, credit, notifications, pings, later kinds.

    Some of it in fragments, with other messages between them.
    """
    data = PREAMBLE + HELLO
    last = 0
    rests = []  # of messages that have begun

    def message(kind, call_id, body, stream=0):
        """Whole, or its first fragment; nothing, if it would have to wait for another one."""
        if (kind, call_id, stream) in [rest[:3] for rest in rests]:
            return b""
        if len(body) > 1 and draw(st.booleans()):
            cut = draw(st.integers(1, len(body) - 1))
            rests.append((kind, call_id, stream, body[cut:]))
            return encode_frame(kind, call_id, body[:cut], flags=MORE, stream=stream)
        return encode_frame(kind, call_id, body, stream=stream)

    for step in draw(st.lists(st.sampled_from(STEPS), max_size=14)):
        # Of a call that has been made, whether it is open or not.
        theirs, ours = draw(st.integers(0, last)), draw(st.integers(1, OPEN))
        match step:
            case "request" | "notify":
                last += draw(st.integers(1, 3))
                data += message(Kind.REQUEST if step == "request" else Kind.NOTIFY, last, draw(bodies))
            case "cancel":
                data += encode_frame(Kind.CANCEL, theirs)
            case "ping":
                data += encode_frame(Kind.PING, draw(st.integers(0, 2**64 - 1)))
            case "goaway":
                data += encode_frame(Kind.GOAWAY, 0, draw(st.binary(max_size=10)))
            case "items":
                data += message(Kind.ARGUMENT_ITEMS, theirs, draw(bodies), draw(st.integers(1, 2)))
            case "end":
                stream = draw(st.integers(1, 2))
                rests = [rest for rest in rests if rest[:3] != (Kind.ARGUMENT_ITEMS, theirs, stream)]
                data += encode_frame(Kind.ARGUMENT_END, theirs, draw(bodies), stream=stream)
            case "credit":
                data += encode_frame(Kind.RESULT_CREDIT, theirs, draw(bodies))
            case "result-items":
                data += message(Kind.RESULT_ITEMS, ours, draw(bodies))
            case "argument-credit":
                data += encode_frame(Kind.ARGUMENT_CREDIT, ours, draw(bodies), stream=draw(st.integers(1, 2)))
            case "stop":
                data += encode_frame(Kind.ARGUMENT_STOP, ours, stream=draw(st.integers(1, 2)))
            case "rest":
                if rests:
                    kind, call_id, stream, body = rests.pop(draw(st.integers(0, len(rests) - 1)))
                    data += encode_frame(kind, call_id, body, flags=CONTINUED, stream=stream)
            case _:
                data += encode_frame(draw(st.integers(0x80, 0xFF)), draw(st.integers(0, 9)), draw(bodies), flags=1)
    return data


@st.composite
def mutated(draw):
    """A session with some bytes changed, cut out, put in or put elsewhere."""
    data = bytearray(draw(sessions()))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(data)))
        match draw(st.sampled_from(["change", "cut", "insert", "repeat", "end"])):
            case "change" if at < len(data):
                data[at] = draw(st.integers(0, 255))
            case "cut":
                del data[at : at + draw(st.integers(1, 20))]
            case "insert":
                data[at:at] = draw(st.binary(max_size=20))
            case "repeat":
                data[at:at] = data[at : at + 30]
            case "end":
                del data[at:]
    return bytes(data)


any_bytes = st.one_of(
    sessions(),
    mutated(),
    st.binary(max_size=100),
    st.binary(max_size=200).map(lambda data: PREAMBLE + data),
    st.binary(max_size=200).map(lambda data: PREAMBLE + HELLO + data),
)


def cuts_of(data, cuts):
    edges = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    return [data[start:end] for start, end in zip(edges, edges[1:], strict=False)]


def one_by_one(data):
    return [data[i : i + 1] for i in range(len(data))]


def what_happened(error):
    """The error as text. How a stranger began is told from what is there, which depends on the cuts."""
    return re.sub(r"(the peer does not speak trpc).*", r"\1", f"{type(error).__name__}: {error}")


def run_protocol(pieces, feed=fed):
    """All events that the pieces give, and the error that ends them; anything but a ProtocolError is raised."""
    protocol = Protocol(LIMITS)
    for _ in range(OPEN):
        protocol.request(b"")
    protocol.ping()
    events, error = frames_of(protocol, pieces, feed)
    if error is None:
        try:
            protocol.receive_eof()
        except ProtocolError as exc:
            error = exc
    return events, what_happened(error) if error else (protocol.peer, protocol.last_request)


def run_frames(pieces, feed=fed):
    reader = FrameReader(max_body=1000)
    frames, error = frames_of(reader, pieces, feed)
    if error is not None:
        # It is the end: nothing is read any more, and it is always the same.
        for data in (b"", encode_frame(1, 1)):
            with pytest.raises(ProtocolError) as caught:
                reader.feed(data)
            assert caught.value is error
    return frames, what_happened(error) if error else reader.inside_frame


def run_one_by_one(pieces):
    """As run_frames, but the frames of a piece are taken one at a time, as a protocol does at first."""
    reader = FrameReader(max_body=1000)
    frames = []
    try:
        for piece in pieces:
            one = reader.feed(piece, only_one=True)
            while one:
                frames += one
                one = reader.feed(b"", only_one=True)
    except ProtocolError as exc:
        return frames, what_happened(exc)
    return frames, reader.inside_frame


@pytest.mark.parametrize("run", [run_frames, run_protocol])
@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=400)
@given(data=any_bytes, cuts=st.lists(st.integers(0, 10_000), max_size=12))
def test_cuts_make_no_difference(run, data, cuts):
    whole = run([data])
    assert run(one_by_one(data)) == whole
    assert run(cuts_of(data, cuts)) == whole
    assert run([bytearray(data)]) == whole


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=400)
@given(data=any_bytes, cuts=st.lists(st.integers(0, 10_000), max_size=12))
def test_frames_that_are_taken_one_at_a_time_are_the_same(data, cuts):
    whole = run_frames([data])
    assert run_one_by_one([data]) == whole
    assert run_one_by_one(one_by_one(data)) == whole
    assert run_one_by_one(cuts_of(data, cuts)) == whole


@pytest.mark.parametrize("large", [0, 3, 15, 40])
@pytest.mark.parametrize("run", [run_frames, run_protocol])
@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=100)
@given(data=any_bytes, cuts=st.lists(st.integers(0, 10_000), max_size=12))
def test_the_room_of_large_frames_makes_no_difference(run, large, data, cuts):
    whole = run([data])
    # So that there are large frames, which have a room, among few bytes.
    with mock.patch.object(_frames, "_COPIED", large):
        for feed in (fed, filled, functools.partial(by_turns, [])):
            assert run([data], feed) == whole
            assert run(one_by_one(data), feed) == whole
            assert run(cuts_of(data, cuts), feed) == whole
            assert run(map(bytearray, cuts_of(data, cuts)), feed) == whole


def by_turns(turns, reader, data):
    """One piece goes into the room, and the next does not."""
    turns.append(None)
    return filled(reader, data) if len(turns) % 2 else fed(reader, data)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=100)
@given(
    sizes=st.lists(st.sampled_from([0, 1, 1000, 65_523, 65_524, 65_525, 65_536, 65_537, 200_000]), max_size=6),
    cuts=st.lists(st.integers(0, 2**20), max_size=12),
)
def test_real_large_frames_make_no_difference(sizes, cuts):
    bodies = [bytes([i + 1]) * size for i, size in enumerate(sizes)]
    data = PREAMBLE + b"".join(encode_frame(1, i, body) for i, body in enumerate(bodies))
    for feed in (fed, filled):
        reader = FrameReader(max_body=200_000)
        frames, error = frames_of(reader, cuts_of(data, cuts), feed)
        assert error is None
        # Compared when all of it is there: what came later has not changed what came before.
        assert [frame.body for frame in frames] == bodies
        assert not reader.inside_frame


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=200)
@given(data=sessions(), cuts=st.lists(st.integers(0, 10_000), max_size=12))
def test_a_session_without_a_fault_is_taken_whole(data, cuts):
    events, end = run_protocol(cuts_of(data, cuts))
    assert isinstance(end, tuple), end
    assert events[0].kind == Kind.HELLO


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=200)
@given(data=sessions(), cut=st.integers(0, 10_000))
def test_a_session_that_is_cut_short_is_a_prefix_or_a_truncation(data, cut):
    events, _ = run_protocol([data])
    cut %= len(data) + 1
    head, end = run_protocol([data[:cut]])
    assert head == events[: len(head)]
    if isinstance(end, str):
        assert end == "ProtocolError: the stream ended inside a frame"


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=200)
@given(data=st.binary(min_size=8, max_size=100).filter(lambda data: not data.startswith(PREAMBLE)))
def test_bytes_that_are_not_trpc_are_refused(data):
    events, end = run_protocol([data])
    assert events == []
    assert re.match("ProtocolError: the peer (does not speak trpc|speaks version)", end)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=200)
@given(
    frames=st.lists(
        st.builds(
            dict,
            kind=st.integers(0, 255),
            id=st.integers(0, 2**64 - 1),
            body=st.binary(max_size=1000),
            flags=st.integers(0, 255),
            stream=st.integers(0, 2**16 - 1),
        ),
        max_size=10,
    ),
    cuts=st.lists(st.integers(0, 20_000), max_size=12),
)
def test_any_frames_come_out_as_they_went_in(frames, cuts):
    data = PREAMBLE + b"".join(encode_frame(**frame) for frame in frames)
    received, inside = run_frames(cuts_of(data, cuts))
    assert [frame._asdict() for frame in received] == frames
    assert not inside
