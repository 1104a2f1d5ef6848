"""The vectors of this folder against trpc: README.md says what their fields mean."""

from __future__ import annotations

import dataclasses
import functools
import json
import math

import pytest
import trio
import trio.testing
from conformance.annotate import MAGIC, read, untag
from conformance.vectors import (
    HERE,
    LIMITS,
    MAX_DEPTH,
    OPENING,
    both_ways,
    cases,
    complete,
    data_of,
    opened,
    prepare,
    same,
)
from support import frames_of

import trpc
from trpc import _codec, _exceptions
from trpc._errors import InvalidArguments, ProtocolError, RemoteError, RPCError
from trpc._exceptions import Code, decode_error, encode_exception, encode_status, is_after_cancel
from trpc._frames import FrameReader, encode_frame
from trpc._messages import FRAGMENTS, STREAMS, Hello, Kind, decode_request, encode_request
from trpc._protocol import Protocol

# --- messages ---


@both_ways
@pytest.mark.parametrize("vector", cases("messages", "valid"))
def test_message_decodes(vector, cut):
    protocol = Protocol(LIMITS) if vector["kind"] == "HELLO" else opened()
    before = protocol.opening()[:8] if vector["kind"] == "HELLO" else b""
    if vector["kind"] == "PONG":
        protocol.ping()
    elif vector["sender"] == "caller" and vector["kind"] not in {"REQUEST", "NOTIFY"}:
        before = encode_frame(Kind.REQUEST, vector["id"])
    elif vector["sender"] == "callee":
        while protocol.request(b"")[0] < vector["id"]:
            pass
    protocol.receive(before)
    frames, error = frames_of(protocol, cut(data_of(vector["hex"])))
    assert error is None
    assert len(frames) == 1
    (frame,) = frames
    assert (frame.kind, frame.flags, frame.stream, frame.id) == (
        vector["kind_number"],
        vector["flags"],
        vector["stream"],
        vector["id"],
    )
    assert Kind(frame.kind).name == vector["kind"]
    if "body" in vector:
        assert same(_codec.unpack(frame.body, max_depth=MAX_DEPTH), untag(vector["body"]))
    else:
        assert frame.body == b""


@pytest.mark.parametrize("vector", cases("messages", "valid"))
def test_message_encodes(vector):
    body = _codec.pack(untag(vector["body"]), max_depth=MAX_DEPTH) if "body" in vector else b""
    if "note" in vector and not body:
        body = data_of(vector["hex"])[16:]
    frame = encode_frame(Kind[vector["kind"]], vector["id"], body, stream=vector["stream"])
    assert frame == data_of(vector["hex"])


@both_ways
@pytest.mark.parametrize("vector", cases("messages", "ignored"))
def test_ignorable_message_is_skipped(vector, cut):
    protocol = opened()
    assert frames_of(protocol, cut(data_of(vector["hex"]))) == ([], None)
    protocol.receive_eof()


# --- values ---


@pytest.mark.parametrize("vector", cases("values", "valid"))
def test_value(vector):
    body, value = data_of(vector["hex"]), untag(vector["value"])
    assert same(_codec.unpack(body, max_depth=MAX_DEPTH), value)
    # Compared as text: NaN is no equal of its own.
    assert json.dumps(read(body)) == json.dumps(vector["value"])
    assert (_codec.pack(value, max_depth=MAX_DEPTH) == body) is vector["canonical"]


@pytest.mark.parametrize("vector", cases("values", "invalid"))
def test_invalid_value(vector):
    body = data_of(vector["hex"])
    with pytest.raises(_codec.DecodeError):
        _codec.unpack(body, max_depth=MAX_DEPTH)
    with pytest.raises(InvalidArguments):
        decode_request(body, max_depth=MAX_DEPTH)
    assert type(decode_error(body, max_depth=MAX_DEPTH)) is ProtocolError
    with pytest.raises(ProtocolError):
        Hello.decode(body)


@pytest.mark.parametrize("vector", cases("values", "invalid"))
def test_invalid_result_fails_one_call(vector):
    protocol = opened()
    protocol.request(b"")
    body = data_of(vector["hex"])
    (frame,) = protocol.receive(encode_frame(Kind.RESULT, 1, body))
    assert frame.body == body


# --- hellos ---


@pytest.mark.parametrize("vector", cases("hellos", "valid"))
def test_hello(vector):
    hello = Hello.decode(data_of(vector["hex"]))
    features = [name for name in hello.features if name in {FRAGMENTS, STREAMS}]
    assert features == vector["features"]
    assert (hello.has_fragments, hello.has_streams) == (FRAGMENTS in features, STREAMS in features)
    for name in ("max_message_size", "max_calls", "max_depth", "stream_credit"):
        assert getattr(hello, name) == vector[name]
    for name in ("control_burst", "control_rate", "max_bytes_in_flight", "token"):
        assert getattr(hello, name) == vector.get(name)
    assert (hello.encode() == data_of(vector["hex"])) is vector["canonical"]


@pytest.mark.parametrize("vector", cases("hellos", "invalid"))
def test_invalid_hello(vector):
    with pytest.raises(ProtocolError):
        Hello.decode(data_of(vector["hex"]))


# --- requests ---


@pytest.mark.parametrize("vector", cases("requests", "valid"))
def test_request(vector):
    body = data_of(vector["hex"])
    request = decode_request(body, max_depth=MAX_DEPTH)
    assert request.method == vector["method"]
    assert same(request.args, untag(vector["args"]))
    assert same(request.kwargs, untag(vector["kwargs"]))
    assert request.time_left == vector["time_left"]
    assert same(request.metadata, untag(vector["metadata"]))
    assert (request.time_left is not None and request.time_left <= 0) is vector["expired"]
    streams = vector["streams"]
    assert request.streams == (None if streams is None else {int(number): place for number, place in streams.items()})
    encoded = encode_request(*request, max_depth=MAX_DEPTH)
    assert (encoded == body) is vector["canonical"]


@pytest.mark.parametrize("vector", cases("requests", "invalid"))
def test_invalid_request(vector):
    with pytest.raises(InvalidArguments):
        decode_request(data_of(vector["hex"]), max_depth=MAX_DEPTH)


# --- errors ---


class JamError(Exception):
    """Known to the sender only."""


class OutOfPaper(Exception):
    tray: int

    def __init__(self, message: str, tray: int) -> None:
        super().__init__(message)
        self.tray = tray


@pytest.fixture
def _out_of_paper():
    """The class that the vectors' reader knows."""
    before = dict(_exceptions._registered)
    trpc.exception(OutOfPaper)
    yield
    _exceptions._registered.clear()
    _exceptions._registered.update(before)


needs_out_of_paper = pytest.mark.usefixtures("_out_of_paper")


def check_error(exc: BaseException, means: dict) -> None:
    """Whether an exception is what a vector says."""
    match means["kind"]:
        case "unreadable":
            assert type(exc) is ProtocolError
        case "status":
            assert type(exc) is _exceptions._STATUS_CLASSES[Code[means["code"]]]
            assert str(exc) == means["message"]
        case "remote":
            assert type(exc) is RemoteError
            assert (exc.type_name, exc.message) == (means["name"], means["message"])
        case "builtin":
            assert isinstance(exc, RemoteError)
            assert isinstance(exc, _exceptions._BUILTINS[means["name"]])
            assert (exc.type_name, exc.message) == (means["name"], means["message"])
            if "args" in means:
                assert same(list(exc.args), untag(means["args"]))
        case "registered":
            assert type(exc) is _exceptions._registered[means["name"]]
            assert same(list(exc.args), untag(means["args"]))
            assert same(vars(exc), untag(means["state"]))
        case "group":
            assert type(exc) is ExceptionGroup
            assert exc.message == means["message"]
            for child, meant in zip(exc.exceptions, means["children"], strict=True):
                check_error(child, meant)
        case kind:
            pytest.fail(f"no such kind: {kind}")
    notes = getattr(exc, "__notes__", [])
    assert [means["traceback"] in note for note in notes] == [True] * ("traceback" in means)


def error_cases(*without: str):
    for case in cases("errors", "vectors"):
        (vector,) = case.values
        if vector["means"]["kind"] in without:
            continue
        yield pytest.param(vector, id=case.id)


@needs_out_of_paper
@pytest.mark.parametrize("vector", list(error_cases()))
def test_error_decodes(vector):
    body, means = data_of(vector["hex"]), vector["means"]
    check_error(decode_error(body, max_depth=MAX_DEPTH), means)
    assert is_after_cancel(body, max_depth=MAX_DEPTH) is means.get("after_cancel", False)


@needs_out_of_paper
@pytest.mark.parametrize("vector", list(error_cases("status", "unreadable")))
def test_error_goes_one_hop_further(vector):
    """A handler that lets the error of a nested call pass does not change what it is."""
    # The traceback stays behind: it is sent on only where this server sends tracebacks too.
    means = {key: value for key, value in vector["means"].items() if key != "traceback"}
    exc = decode_error(data_of(vector["hex"]), max_depth=MAX_DEPTH)
    body = encode_exception(exc, send_traceback=False, max_depth=MAX_DEPTH)
    check_error(decode_error(body, max_depth=MAX_DEPTH), means)


def not_utf8() -> Exception:
    try:
        b"\xff".decode()
    except UnicodeDecodeError as exc:
        return exc


RAISED = {
    "raised": JamError("tray 2"),
    "builtin": KeyError("x"),
    "builtin-os-error": FileNotFoundError(2, "No such file or directory", "x"),
    "builtin-unicode": not_utf8(),
    "builtin-timeout": trio.TooSlowError(),
    "registered": OutOfPaper("tray 2", 2),
    "group": ExceptionGroup("two", [ValueError("v"), ExceptionGroup("inner", [JamError("j")])]),
}


@needs_out_of_paper
@pytest.mark.parametrize("name", RAISED)
def test_raised_exception_encodes(name):
    (vector,) = (case.values[0] for case in cases("errors", "vectors") if case.values[0]["name"] == name)
    body = encode_exception(RAISED[name], send_traceback=False, max_depth=MAX_DEPTH)
    # The order of a map's keys means nothing.
    assert untag(read(body)) == untag(read(data_of(vector["hex"])))


def test_exception_after_a_cancel_encodes():
    (vector,) = (c.values[0] for c in cases("errors", "vectors") if c.values[0]["name"] == "after-cancel")
    body = encode_exception(OSError("disk full"), max_depth=MAX_DEPTH, after_cancel=True)
    assert untag(read(body)) == untag(read(data_of(vector["hex"])))


@pytest.mark.parametrize(
    "vector", [case for case in cases("errors", "vectors") if case.id.startswith("errors-status-")]
)
def test_status_encodes(vector):
    cls = _exceptions._STATUS_CLASSES[Code[vector["means"]["code"]]]
    assert untag(read(encode_status(cls("why")))) == untag(read(data_of(vector["hex"])))


def test_internal_error_encodes():
    (vector,) = (c.values[0] for c in cases("errors", "vectors") if c.values[0]["name"] == "internal")
    assert untag(read(encode_status(RPCError("why")))) == untag(read(data_of(vector["hex"])))


def test_error_codes():
    content = json.loads((HERE / "errors.json").read_text())
    assert {row["name"]: row["code"] for row in content["codes"]} == {code.name: code for code in Code}


# --- sessions ---


def limits_of(opening: bytes) -> trpc.Limits:
    (hello,) = FrameReader(max_body=16384).feed(opening)
    fields = untag(read(hello.body))
    assert fields.pop("features") == [FRAGMENTS, STREAMS]
    # Without a bound it is not announced.
    return trpc.Limits(**{"control_rate": math.inf, "max_bytes_in_flight": 2**31, **fields})


def do(protocol: Protocol, step: dict) -> bytes:
    """Does what a step of a session says; gives the bytes that leave."""
    body = _codec.pack(untag(step["body"]), max_depth=MAX_DEPTH) if "body" in step else b""
    match step["send"]:
        case "opening":
            return protocol.opening()
        case "request":
            number, data = protocol.request(body)
        case "ping":
            number, data = protocol.ping()
        case "cancel":
            return protocol.cancel(step["id"])
        case "pong":
            return protocol.pong(step["id"])
        case "goaway":
            return protocol.goaway(body)
        case "reply":
            return protocol.reply(Kind[step["kind"]], step["id"], body)
        case "items" | "end":
            return protocol.stream_message(Kind[step["kind"]], step["id"], step.get("stream", 0), body)
        case "credit":
            return protocol.credit(Kind[step["kind"]], step["id"], step.get("stream", 0), untag(step["body"]))
        case "stop":
            return protocol.stop(step["id"], step["stream"])
    assert number == step["id"]
    return data


def as_messages(frames: list) -> list[dict]:
    """Frames as a session shows them."""
    messages = []
    for frame in frames:
        message: dict = {"kind": Kind(frame.kind).name, "id": frame.id}
        if frame.stream:
            message["stream"] = frame.stream
        if frame.body:
            try:
                message["body"] = read(frame.body)
            except ValueError:
                message["body_hex"] = frame.body.hex()
        messages.append(message)
    return messages


@both_ways
@pytest.mark.parametrize("vector", cases("sessions", "sessions"))
def test_session(vector, cut):
    opening = data_of(vector["steps"][0]["hex"])
    assert opening.startswith(MAGIC)
    protocol = Protocol(limits_of(opening))
    for step in vector["steps"]:
        if "send" in step:
            assert do(protocol, step) == data_of(step["hex"])
        elif "receive" in step:
            frames, error = frames_of(protocol, cut(data_of(step["receive"])))
            assert error is None
            assert as_messages(frames) == step["messages"]
        elif step["eof"] == "end":
            protocol.receive_eof()
        else:
            assert step["eof"] == "truncated"
            with pytest.raises(ProtocolError):
                protocol.receive_eof()


@both_ways
@pytest.mark.parametrize(
    "vector",
    [c for c in cases("sessions", "sessions") if c.values[0]["steps"][-1].get("eof") != "truncated"],
)
def test_session_from_the_other_side(vector, cut):
    """What one side of a session sends is valid for the other."""
    protocol = Protocol(LIMITS)
    for step in vector["steps"]:
        if "send" in step:
            frames, error = frames_of(protocol, cut(data_of(step["hex"])))
            assert error is None
            # A cancel may cross the reply, and then has no effect.
            if step["send"] not in {"opening", "cancel"}:
                assert [(f.kind, f.id, f.stream) for f in frames] == [
                    (Kind[step["kind"]], step["id"], step.get("stream", 0))
                ]
        for message in step.get("messages", ()):
            if message["kind"] == "REQUEST":
                # The other side may leave gaps in its ids.
                while protocol.request(b"")[0] < message["id"]:
                    pass
            elif message["kind"] == "PING":
                while protocol.ping()[0] < message["id"]:
                    pass


# --- refused ---


@both_ways
@pytest.mark.parametrize("vector", cases("refused", "vectors"))
def test_refused(vector, cut):
    protocol = Protocol(dataclasses.replace(LIMITS, **vector.get("limits", {})))
    prepare(protocol, vector["before"])
    frames, error = frames_of(protocol, cut(data_of(vector["hex"])))
    assert isinstance(error, ProtocolError)
    assert [{"kind": Kind(f.kind).name, "id": f.id} for f in complete(frames)] == vector["messages"]


# --- a whole server ---


class Conformance:
    @trpc.method
    def echo(self, value: object) -> object:
        return value


class Peer:
    """The bytes of the other side of a connection that a real server serves."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream
        self._reader = FrameReader(max_body=LIMITS.max_message_size)
        self._frames: list = []

    async def send(self, data: bytes) -> None:
        await self._stream.send_all(data)

    async def next(self):
        """The next frame; None at the end of the stream."""
        while not self._frames:
            data = await self._stream.receive_some(65536)
            if not data:
                return None
            self._frames += self._reader.feed(data)
        return self._frames.pop(0)


async def connect(nursery: trio.Nursery, limits: trpc.Limits = LIMITS) -> Peer:
    ours, theirs = trio.testing.memory_stream_pair()
    nursery.start_soon(functools.partial(trpc.serve_stream, limits=limits), Conformance(), theirs)
    peer = Peer(ours)
    hello = await peer.next()
    assert hello.kind == Kind.HELLO
    return peer


def request(call_id: int, body: bytes) -> bytes:
    return encode_frame(Kind.REQUEST, call_id, body)


GOOD = encode_request("Conformance.echo", [7], None, None, None, max_depth=MAX_DEPTH)


@pytest.mark.parametrize("vector", cases("values", "invalid") + cases("requests", "invalid"))
async def test_server_answers_a_bad_body_and_goes_on(vector):
    async with trio.open_nursery() as nursery:
        peer = await connect(nursery)
        await peer.send(OPENING + request(1, data_of(vector["hex"])) + request(2, GOOD))
        replies = {frame.id: frame for frame in (await peer.next(), await peer.next())}
        assert replies[1].kind == Kind.ERROR
        assert untag(read(replies[1].body))["code"] == Code.INVALID_ARGUMENTS
        assert (replies[2].kind, read(replies[2].body)) == (Kind.RESULT, {"int": "7"})
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("vector", [c for c in cases("requests", "valid") if c.values[0]["expired"]])
async def test_server_does_not_run_an_expired_call(vector):
    fields = untag(read(data_of(vector["hex"])))
    fields[:2] = ["Conformance.echo", [7]]
    async with trio.open_nursery() as nursery:
        peer = await connect(nursery)
        await peer.send(OPENING + request(1, _codec.pack(fields, max_depth=MAX_DEPTH)))
        frame = await peer.next()
        assert (frame.kind, frame.id, frame.body) == (Kind.EXPIRED, 1, b"")
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("vector", [c for c in cases("refused", "vectors") if not c.values[0]["before"]])
async def test_server_says_goaway_and_closes(vector):
    async with trio.open_nursery() as nursery:
        peer = await connect(nursery, dataclasses.replace(LIMITS, **vector.get("limits", {})))
        await peer.send(data_of(vector["hex"]))
        # Replies that were queued may come before or after it.
        frames = []
        while (frame := await peer.next()) is not None:
            frames.append(frame)
        (goaway,) = (frame for frame in frames if frame.kind == Kind.GOAWAY)
        assert goaway.id == vector["accepted"]
        assert untag(read(goaway.body))["code"] == Code.PROTOCOL_ERROR


@pytest.mark.parametrize("vector", cases("values", "invalid"))
async def test_client_fails_one_call_on_a_bad_result(vector):
    ours, theirs = trio.testing.memory_stream_pair()
    peer = Peer(ours)
    async with trpc.connect_stream(theirs) as client, trio.open_nursery() as nursery:

        async def answer() -> None:
            assert (await peer.next()).kind == Kind.HELLO
            await peer.send(OPENING)
            assert (await peer.next()).id == 1
            await peer.send(encode_frame(Kind.RESULT, 1, data_of(vector["hex"])))
            assert (await peer.next()).id == 2
            await peer.send(encode_frame(Kind.RESULT, 2, b"\x07"))

        nursery.start_soon(answer)
        with pytest.raises(ProtocolError):
            await client.call("Conformance.echo", 1)
        assert await client.call("Conformance.echo", 2) == 7
        await ours.aclose()
