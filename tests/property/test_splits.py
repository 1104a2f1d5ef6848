"""Bytes, however they are cut: the same messages, the same error, and never an error of another kind."""

import re

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, given, settings

from trpc import Limits, ProtocolError
from trpc._frames import PREAMBLE, FrameReader, encode_frame
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


@st.composite
def sessions(draw):
    """What a well-behaved peer sends: hello, requests, cancels of them, notifications, pings, later kinds."""
    data = PREAMBLE + HELLO
    last = 0
    for step in draw(
        st.lists(st.sampled_from(["request", "notify", "cancel", "ping", "later", "goaway"]), max_size=12)
    ):
        if step in {"request", "notify"}:
            last += draw(st.integers(1, 3))
            data += encode_frame(Kind.REQUEST if step == "request" else Kind.NOTIFY, last, draw(bodies))
        elif step == "cancel":
            data += encode_frame(Kind.CANCEL, draw(st.integers(0, last)))
        elif step == "ping":
            data += encode_frame(Kind.PING, draw(st.integers(0, 2**64 - 1)))
        elif step == "goaway":
            data += encode_frame(Kind.GOAWAY, 0, draw(st.binary(max_size=10)))
        else:
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


def run_protocol(pieces):
    """All events that the pieces give, and the error that ends them; anything but a ProtocolError is raised."""
    protocol = Protocol(LIMITS)
    for _ in range(3):
        protocol.request(b"")
    protocol.ping()
    events = []
    try:
        for piece in pieces:
            for frame in protocol.receive(piece):
                events.append(frame)  # noqa: PERF402 - what came before the error counts
        protocol.receive_eof()
    except ProtocolError as exc:
        return events, what_happened(exc)
    return events, (protocol.peer, protocol.last_request)


def run_frames(pieces):
    reader = FrameReader(max_body=1000)
    frames = []
    try:
        for piece in pieces:
            for frame in reader.feed(piece):
                frames.append(frame)  # noqa: PERF402 - what came before the error counts
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
