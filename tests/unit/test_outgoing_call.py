"""One call of this side's: its request, and what its reply means."""

import math

import pytest
import trio
import trio.testing

import trpc
from trpc import _codec
from trpc._errors import ClientClosed
from trpc._frames import Frame
from trpc._messages import Kind, decode_request
from trpc._outgoing import State
from trpc._outgoing_call import OutgoingCall, closed_error
from trpc._signature import Signature


class Methods:
    def typed(self, a: int, b: dict[int, str] | None = None) -> dict[int, str]: ...

    def untyped(self, a, b=None): ...


def call_of(method=None):
    signature = None if method is None else Signature(getattr(Methods, method), f"Methods.{method}")
    return OutgoingCall("A.b", signature)


def encode(call, *args, time_left=None, max_depth=10, **kwargs):
    body = call.encode(args, kwargs, time_left, max_depth=max_depth)
    return decode_request(body if isinstance(body, bytes) else b"".join(body), max_depth=64)


# --- the request ---


def test_a_new_call_is_queued_and_waits():
    call = call_of()
    assert (call.state, call.awaited, call.cancelled, call.deadline) == (State.QUEUED, True, False, math.inf)
    assert (call.result, call.items, call.places, dict(call.streams)) == (None, None, None, {})


def test_its_request():
    with trpc.metadata(tenant="t"):
        request = encode(call_of(), 1, "x", time_left=2.5, k=[3])
    assert (request.method, request.args, request.kwargs) == ("A.b", [1, "x"], {"k": [3]})
    assert (request.time_left, request.metadata, request.streams) == (2.5, {"tenant": "t"}, None)


def test_which_arguments_are_streams():
    call = call_of()
    call.places = {1: 0, 2: "k"}
    assert encode(call, None, k=None).streams == {1: 0, 2: "k"}


def test_keys_travel_as_text_where_the_hint_reads_them_back():
    assert encode(call_of("typed"), 1, {2: "a"}).args == [1, {"2": "a"}]


@pytest.mark.parametrize(
    ("method", "args", "kwargs", "match"),
    [
        (None, (object(),), {}, "argument 1 cannot be sent: "),
        (None, (1, {1: 2}), {}, "argument 2 cannot be sent: "),
        (None, (1,), {"k": object()}, "argument 'k' cannot be sent: "),
        ("untyped", (1, object()), {}, "argument 'b' cannot be sent: "),
        (None, ([[[[1]]]],), {}, "argument 1 cannot be sent: nested deeper than 3"),
        # Each is fine, but not all of them together: a name that is not to be.
        ("untyped", (1,), {"\ud800": 1}, "the request cannot be sent: "),
    ],
)
def test_an_argument_that_cannot_be_sent_is_named(method, args, kwargs, match):
    with pytest.raises(trpc.InvalidArguments, match=f"^A.b: {match}"):
        encode(call_of(method), *args, max_depth=5, **kwargs)


# --- the reply ---


def result(value, kind=Kind.RESULT):
    return Frame(kind, 1, _codec.pack(value, max_depth=64))


def test_a_value():
    assert call_of().value_of(result({"1": "a"}), max_depth=5) == {"1": "a"}
    assert call_of("untyped").value_of(result({"1": "a"}), max_depth=5) == {"1": "a"}
    assert call_of("typed").value_of(result({"1": "a"}), max_depth=5) == {1: "a"}


@pytest.mark.parametrize("body", [b"", b"\xc1", b"\x91" * 6 + b"\x01", _codec.pack("text", max_depth=1)])
def test_a_value_that_is_not_what_the_method_returns(body):
    with pytest.raises(trpc.ProtocolError, match=r"^A\.b: the result is not what the method returns"):
        call_of("typed").value_of(Frame(Kind.RESULT, 1, body), max_depth=5)


@pytest.mark.parametrize(
    ("body", "ends"), [(b"\xc0", True), (b"\x00", False), (b"\x90", False), (b"", False), (b"\xc1", False)]
)
def test_what_ends_a_stream(body, ends):
    for method in (None, "typed"):
        assert call_of(method).ends_stream(Frame(Kind.RESULT, 1, body), max_depth=5) is ends


async def error(call, reply, *, closing=False):
    call.result = reply
    return await call.error(max_depth=10, closing=closing)


async def test_what_is_there_in_place_of_a_reply():
    exc = trpc.ConnectionLost("lost")
    assert await error(call_of(), exc) is exc


async def test_an_error():
    body = _codec.pack({"code": 17, "type": "KeyError", "message": "'k'", "args": ["k"]}, max_depth=5)
    assert isinstance(await error(call_of(), Frame(Kind.ERROR, 1, memoryview(body))), KeyError)


async def test_a_cancel_that_nobody_asked_for():
    exc = await error(call_of(), Frame(Kind.CANCELLED, 1, b""))
    assert (type(exc), exc.type_name) == (trpc.RemoteError, "Cancelled")


async def test_a_cancel_while_the_client_is_closed():
    exc = await error(call_of(), Frame(Kind.CANCELLED, 1, b""), closing=True)
    assert isinstance(exc, ClientClosed)
    assert exc.maybe_executed


@pytest.mark.parametrize("maybe_executed", [False, True])
def test_the_error_of_a_closed_client(maybe_executed):
    exc = closed_error(maybe_executed)
    assert isinstance(exc, trpc.ConnectionLost)
    assert isinstance(exc, trio.ClosedResourceError)
    assert exc.maybe_executed is maybe_executed


async def test_expired_a_moment_before_the_own_deadline_is_that(autojump_clock):
    call = call_of()
    with trio.move_on_after(0.7) as scope:
        call.deadline = trio.current_effective_deadline()
        await error(call, Frame(Kind.EXPIRED, 1, b""))
    assert scope.cancelled_caught


@pytest.mark.parametrize("left", [1.5, 100])
async def test_expired_long_before_the_own_deadline_is_an_error(left, autojump_clock):
    call = call_of()
    call.deadline = trio.current_time() + left
    with trio.testing.assert_no_checkpoints():
        exc = await error(call, Frame(Kind.EXPIRED, 1, b""))
    assert isinstance(exc, trpc.DeadlineExceeded)


async def test_expired_when_the_own_deadline_was_moved_is_an_error(autojump_clock):
    call = call_of()
    call.deadline = trio.current_time() + 0.5
    start = trio.current_time()
    exc = await error(call, Frame(Kind.EXPIRED, 1, b""))
    assert isinstance(exc, trpc.DeadlineExceeded)
    assert trio.current_time() - start == pytest.approx(0.5)


async def test_expired_without_a_deadline_is_a_cancel_that_nobody_asked_for():
    exc = await error(call_of(), Frame(Kind.EXPIRED, 1, b""))
    assert exc.type_name == "Cancelled"


def test_the_end_of_a_call_ends_its_streams():
    class Stream:
        ended = False

        def end(self):
            self.ended = True

    call = call_of()
    call.end_streams()
    call.streams = {1: Stream(), 2: Stream()}
    call.end_streams()
    assert [stream.ended for stream in call.streams.values()] == [True, True]
