"""Arguments that are streams: how they are found, what is sent of them, and how their producers end."""

import contextlib
import contextvars
import dataclasses
from collections.abc import AsyncIterable, AsyncIterator

import pytest
import trio
import trio.testing
from support import client_of_raw_peer, connected, settle, start_call

import trpc
from trpc import _codec
from trpc._argument_streams import ArgumentStreams, _error_body
from trpc._exceptions import decode_error
from trpc._frames import PREAMBLE, encode_frame
from trpc._messages import Hello, Kind, decode_request, encode_credit
from trpc._protocol import Protocol
from trpc._signature import Signature

STREAMS = {"features": ("fragments", "streams"), "stream_credit": 10_000}
variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")


async def numbers(number=3):
    for i in range(number):
        yield i


# --- finding them ---


class Methods:
    def mixed(self, a: int, items: AsyncIterable[int], *more: AsyncIterator[str] | None, **named: AsyncIterable): ...

    def keyed(self, items: AsyncIterable[dict[int, str]]): ...

    def none(self, a, b=None): ...


def found(method, *args, **kwargs):
    signature = None if method is None else Signature(getattr(Methods, method), f"Methods.{method}")
    return ArgumentStreams("A.b", args, kwargs, signature)


def test_streams_are_found_by_the_hints():
    streams = [numbers() for _ in range(4)]
    arguments = found("mixed", 1, streams[0], streams[1], None, streams[2], x=streams[3])
    assert arguments.places == {1: 1, 2: 2, 3: 4, 4: "x"}
    assert arguments.args == [1, None, None, None, None]
    assert arguments.kwargs == {"x": None}


def test_without_hints_each_async_iterable_is_a_stream():
    send, receive = trio.open_memory_channel(1)
    arguments = found(None, 1, numbers(), [2], receive, x=numbers(), y="text", z=None)
    assert arguments.places == {1: 1, 2: 3, 3: "x"}
    assert arguments.args == [1, None, [2], None]
    assert arguments.kwargs == {"x": None, "y": "text", "z": None}
    send.close()
    receive.close()


def test_what_was_given_is_not_changed():
    args, kwargs = [numbers(), 1], {"x": numbers()}
    ArgumentStreams("A.b", args, kwargs, None)
    assert None not in args
    assert kwargs["x"] is not None


@pytest.mark.parametrize(("args", "kwargs"), [((1, 2), {}), ((), {"a": 1}), ((), {})])
def test_where_there_are_none_nothing_is_found(args, kwargs):
    for method in (None, "none"):
        arguments = found(method, *args, **kwargs)
        assert (arguments.places, arguments.args, arguments.kwargs) == ({}, list(args), kwargs)


def test_where_the_method_takes_no_stream_an_iterable_is_an_argument_as_any():
    stream = numbers()
    assert found("none", stream).args == [stream]


@pytest.mark.parametrize(
    ("args", "kwargs", "shown"),
    [
        ((1, [1, 2]), {}, "'items': .*`list`"),
        ((1, None), {}, "'items': .*`NoneType`"),
        ((1,), {"items": 5}, "'items': .*`int`"),
        ((1, numbers(), "x"), {}, "3: .*`str`"),
        ((1, numbers()), {"x": iter([1])}, "'x': .*`list_iterator`"),
        ((1, numbers), {}, "'items': .*`function`"),
    ],
)
def test_what_is_no_stream_is_refused_by_name_before_anything_is_sent(args, kwargs, shown):
    with pytest.raises(
        trpc.InvalidArguments,
        match=rf"^A\.b: argument {shown.replace('.*', 'Expected an async iterable or a receive channel, got ')}$",
    ):
        found("mixed", *args, **kwargs)


# --- the tasks that send them ---


@pytest.mark.parametrize("number", [0, 1])
async def test_the_nursery_is_there_if_there_are_streams(number):
    arguments = found(None, *[numbers() for _ in range(number)])
    async with arguments.nursery() as nursery:
        assert (nursery is not None) == bool(number)
        if nursery is None:
            return
        nursery.start_soon(trio.sleep_forever)
    assert not nursery.child_tasks


class Boom(Exception):
    pass


@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize("error", [Boom("x"), ExceptionGroup("g", [Boom()]), KeyboardInterrupt()], ids=repr)
async def test_what_is_raised_inside_comes_out_as_it_is(number, error):
    arguments = found(None, *[numbers() for _ in range(number)])
    with pytest.raises(type(error)) as caught:
        async with arguments.nursery():
            raise error
    if isinstance(error, ExceptionGroup):
        # Trio makes a new one of what is left of it without what was cancelled.
        assert (caught.value.message, caught.value.exceptions) == (error.message, error.exceptions)
    else:
        assert caught.value is error


async def test_what_one_producer_raises_comes_out_as_it_is():
    error, cause = Boom(), KeyError()

    async def fails():
        raise error from cause

    with pytest.raises(Boom) as caught:
        async with found(None, numbers()).nursery() as nursery:
            nursery.start_soon(fails)
            await trio.sleep_forever()
    assert caught.value is error
    assert caught.value.__cause__ is cause


async def test_what_several_raise_is_a_group():
    async def fails(error):
        try:
            await trio.sleep_forever()
        finally:
            raise error

    with pytest.raises(ExceptionGroup) as caught:
        async with found(None, numbers()).nursery() as nursery:
            nursery.start_soon(fails, Boom("a"))
            nursery.start_soon(fails, Boom("b"))
            await settle()
    assert sorted(map(str, caught.value.exceptions)) == ["a", "b"]


async def test_a_cancel_around_it_is_one():
    with trio.CancelScope() as scope:
        async with found(None, numbers()).nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            scope.cancel()
            await trio.sleep_forever()
    assert scope.cancelled_caught


# --- what is sent ---


@contextlib.asynccontextmanager
async def open_peer(**hello):
    async with client_of_raw_peer(hello={**STREAMS, **hello}) as (client, peer):
        await peer.open()
        await settle()
        yield client, peer


async def receive_items(peer, *, number=1, call_id=1):
    """The items of a stream until its end, and the body of that."""
    items = []
    while True:
        frame = await peer.receive()
        assert (frame.id, frame.stream, frame.flags) == (call_id, number, 0)
        if frame.kind == Kind.ARGUMENT_END:
            return items, _codec.unpack(frame.body, max_depth=64)
        assert frame.kind == Kind.ARGUMENT_ITEMS
        items += _codec.unpack(frame.body, max_depth=64)


async def test_the_request_says_what_is_a_stream_and_the_items_follow(nursery):
    async with open_peer() as (client, peer):
        start_call(nursery, outcomes := {}, "call", lambda: client.call("A.b", 1, numbers(), y=2))
        frame = await peer.receive()
        request = decode_request(frame.body, max_depth=64)
        assert (request.args, request.kwargs, request.streams) == ([1, None], {"y": 2}, {1: 1})
        assert await receive_items(peer) == ([0, 1, 2], None)
        await peer.send_result(1, "done")
        await settle()
        assert outcomes == {"call": "done"}


async def test_several_streams_are_told_apart_by_their_number(nursery):
    async with open_peer() as (client, peer):
        start_call(nursery, outcomes := {}, "call", lambda: client.call("A.b", numbers(2), x=numbers(4)))
        request = decode_request((await peer.receive()).body, max_depth=64)
        assert request.streams == {1: 0, 2: "x"}
        seen = {1: [], 2: []}
        ends = set()
        while ends != {1, 2}:
            frame = await peer.receive()
            if frame.kind == Kind.ARGUMENT_END:
                ends.add(frame.stream)
            else:
                seen[frame.stream] += _codec.unpack(frame.body, max_depth=64)
        assert seen == {1: [0, 1], 2: [0, 1, 2, 3]}
        await peer.send_result(1, None)
        await settle()
        assert outcomes == {"call": None}


async def test_a_proxy_sends_by_the_hints(nursery):
    class Service:
        @trpc.method
        async def put(self, items: AsyncIterable[dict[int, str]], other: int) -> int: ...

    async def items():
        yield {1: "a"}

    async with open_peer() as (client, peer):
        proxy = client.proxy(Service)
        start_call(nursery, outcomes := {}, "call", lambda: proxy.put(items(), 5))
        request = decode_request((await peer.receive()).body, max_depth=64)
        assert (request.args, request.streams) == ([None, 5], {1: 0})
        assert await receive_items(peer) == ([{"1": "a"}], None)
        await peer.send_result(1, "no number")
        await settle()
        assert isinstance(outcomes["call"], trpc.ProtocolError)


async def test_items_do_not_overtake_their_request(nursery):
    """Which waits behind others."""
    async with client_of_raw_peer(hello=STREAMS, lockstep=True) as (client, peer):
        async with trio.open_nursery() as opening:
            opening.start_soon(peer.open)
        outcomes = {}
        for key in range(3):
            start_call(nursery, outcomes, key, client.call, "A.large", bytes(100_000))
        await settle()
        start_call(nursery, outcomes, "stream", client.call, "A.b", numbers())
        await settle()
        kinds = []
        while kinds[-1:] != [Kind.ARGUMENT_END]:
            kinds.append((await peer.receive()).kind)
        assert kinds == [Kind.REQUEST] * 4 + [Kind.ARGUMENT_ITEMS, Kind.ARGUMENT_END]
        for call_id in range(1, 5):
            await peer.send_result(call_id, None)
        await settle()
        assert outcomes == dict.fromkeys([0, 1, 2, "stream"])


async def test_items_wait_for_credit(nursery):
    async with open_peer(stream_credit=1) as (client, peer):
        start_call(nursery, outcomes := {}, "call", client.call, "A.b", numbers())
        await peer.receive()
        frame = await peer.receive()
        assert frame.body == b"\x91\x00"
        await settle()
        assert not peer.frames
        await peer.send(Kind.ARGUMENT_CREDIT, 1, encode_credit(1000), stream=1)
        assert await receive_items(peer) == ([1, 2], None)
        await peer.send_result(1, None)
        await settle()
        assert outcomes == {"call": None}


# --- how they end ---


class Source:
    """A generator that notes its end."""

    def __init__(self, *, error=None, clean_up=None):
        self.ends = []
        self.error = error
        self.clean_up = clean_up

    async def items(self):
        try:
            yield 1
            if self.error is not None:
                raise self.error
            await trio.sleep_forever()
        except BaseException as exc:
            self.ends.append(type(exc))
            raise
        finally:
            if self.clean_up is not None:
                raise self.clean_up
            self.ends.append("closed")


async def test_what_the_producer_raises_is_told(nursery):
    source = Source(error=ValueError("its own"))
    async with open_peer() as (client, peer):
        start_call(nursery, outcomes := {}, "call", client.call, "A.b", source.items())
        await peer.receive()
        items, error = await receive_items(peer)
        assert items == [1]
        assert (error["type"], error["message"]) == ("ValueError", "its own")
        assert outcomes == {}, "the handler decides"
        await peer.send_result(1, "in spite of it")
        await settle()
        assert outcomes == {"call": "in spite of it"}
    assert source.ends == [ValueError, "closed"]


async def test_the_end_of_the_call_ends_its_producers(nursery):
    source = Source()
    async with open_peer() as (client, peer):
        start_call(nursery, outcomes := {}, "call", client.call, "A.b", source.items())
        await peer.receive()
        await peer.receive()
        await peer.send_result(1, "enough")
        await settle()
        assert outcomes == {"call": "enough"}
        assert source.ends == [trio.Cancelled, "closed"]
        assert not peer.frames


async def test_a_stop_ends_one_producer_and_the_call_goes_on(nursery):
    one, two = Source(), Source()
    async with open_peer() as (client, peer):
        start_call(nursery, outcomes := {}, "call", lambda: client.call("A.b", one.items(), two.items()))
        for _ in range(3):
            await peer.receive()
        await peer.send(Kind.ARGUMENT_STOP, 1, stream=1)
        assert await receive_items(peer) == ([], None)
        await settle()
        assert (one.ends, two.ends) == ([trio.Cancelled, "closed"], [])
        assert outcomes == {}
        # A second one, and credit for what has ended, may have crossed.
        await peer.send(Kind.ARGUMENT_STOP, 1, stream=1)
        await peer.send(Kind.ARGUMENT_CREDIT, 1, encode_credit(5), stream=1)
        await peer.send_result(1, None)
        await settle()
        assert outcomes == {"call": None}


async def test_what_a_producer_raises_when_it_is_stopped_is_told(nursery):
    source = Source(clean_up=Boom("clean-up"))
    async with open_peer() as (client, peer):
        start_call(nursery, outcomes := {}, "call", client.call, "A.b", source.items())
        await peer.receive()
        await peer.receive()
        await peer.send(Kind.ARGUMENT_STOP, 1, stream=1)
        items, error = await receive_items(peer)
        assert (items, error["message"]) == ([], "clean-up")
        await peer.send_result(1, None)
        await settle()
        assert outcomes == {"call": None}


@pytest.mark.parametrize("how", ["result", "cancel"])
async def test_what_a_producer_raises_when_the_call_has_ended_is_raised_there(nursery, how):
    source = Source(clean_up=Boom("clean-up"))
    outcomes = {}
    async with open_peer() as (client, peer):
        scope = trio.CancelScope()

        async def call():
            with scope:
                try:
                    await client.call("A.b", source.items())
                except Boom as exc:
                    outcomes["call"] = exc

        nursery.start_soon(call)
        await peer.receive()
        await peer.receive()
        if how == "result":
            await peer.send_result(1, None)
        else:
            scope.cancel()
            assert (await peer.receive()).kind == Kind.CANCEL
            await peer.send(Kind.CANCELLED, 1)
        await settle()
        assert str(outcomes["call"]) == "clean-up"


async def test_a_cancel_of_the_call_cancels_its_producers(nursery):
    source = Source()
    outcomes = {}
    async with open_peer() as (client, peer):
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as calls:
                start_call(calls, outcomes, "call", client.call, "A.b", source.items())
                await peer.receive()
                await peer.receive()
                scope.cancel()
                with trio.CancelScope(shield=True):
                    frame = await peer.receive()
                    # What its producer has sent last may come first: that it has ended is of no interest any more.
                    assert frame.kind == Kind.CANCEL
                    assert source.ends == [trio.Cancelled, "closed"]
                    await peer.send(Kind.CANCELLED, 1)
        assert scope.cancelled_caught
        assert outcomes == {"call": "cancelled"}


BAD_ITEMS = [
    (object(), trpc.InvalidArguments, "an item cannot be sent: "),
    (bytes(5000), trpc.MessageTooLarge, "an item has 5003 bytes, and the peer accepts less than 5000"),
]


@pytest.mark.parametrize(("item", "error", "match"), BAD_ITEMS, ids=["bad", "large"])
@pytest.mark.parametrize("by_name", [False, True])
async def test_an_item_that_cannot_be_sent_cancels_the_call(nursery, item, error, match, by_name):
    async def items():
        yield 1
        yield item

    async with open_peer(max_message_size=5000) as (client, peer):
        kwargs = {"x": items()} if by_name else {}
        args = [] if by_name else [5, items()]
        start_call(nursery, outcomes := {}, "call", lambda: client.call("A.b", *args, **kwargs))
        await peer.receive()
        # The cancel may overtake the item before that.
        while (frame := await peer.receive()).kind == Kind.ARGUMENT_ITEMS:
            assert frame.body == b"\x91\x01"
        assert (frame.kind, frame.id) == (Kind.CANCEL, 1)
        assert outcomes == {}, "the handler has not ended"
        await peer.send(Kind.CANCELLED, 1)
        await settle()
        assert type(outcomes["call"]) is error
        assert str(outcomes["call"]).startswith(f"A.b: argument {repr('x') if by_name else 2}: {match}")


async def test_producers_run_in_the_context_and_the_scopes_of_the_caller(nursery, autojump_clock):
    seen = []

    async def items():
        seen.append(variable.get())
        seen.append(trio.current_effective_deadline() - trio.current_time())
        seen.append(trio.lowlevel.current_task().parent_nursery.parent_task)
        yield 1

    async with open_peer() as (client, peer):
        async with trio.open_nursery() as calls:

            @calls.start_soon
            async def call():
                variable.set("of the caller")
                seen.append(trio.lowlevel.current_task())
                with trio.move_on_after(7):
                    await client.call("A.b", items())

            assert decode_request((await peer.receive()).body, max_depth=64).time_left == 7
            await receive_items(peer)
            await peer.send_result(1, None)
    task, value, left, parent = seen
    assert (value, left) == ("of the caller", 7)
    assert parent is task
    assert variable.get() == "unset"


async def test_the_connection_ends_while_items_are_sent(nursery):
    source = Source()
    async with open_peer() as (client, peer):
        start_call(nursery, outcomes := {}, "call", client.call, "A.b", source.items())
        await peer.receive()
        await peer.receive()
        await peer.stream.aclose()
        await settle()
        assert isinstance(outcomes["call"], trpc.ConnectionLost)
        assert outcomes["call"].maybe_executed
        assert source.ends == [trio.Cancelled, "closed"]


# --- when nothing can be sent ---


@pytest.mark.parametrize("known", [False, True])
async def test_a_peer_without_streams(nursery, known):
    async with client_of_raw_peer() as (client, peer):
        if known:
            await peer.open()
            await settle()
        start_call(nursery, outcomes := {}, "call", client.call, "A.b", numbers())
        await settle()
        if not known:
            assert outcomes == {}, "it waits for the hello"
            await peer.open()
            await settle()
        assert isinstance(outcomes["call"], trpc.InvalidArguments)
        assert "the peer does not support arguments that are streams" in str(outcomes["call"])
        start_call(nursery, outcomes, "next", client.call, "A.b", 1)
        frame = await peer.receive()
        assert decode_request(frame.body, max_depth=64).args == [1]
        await peer.send_result(frame.id, None)
        await settle()


async def test_the_first_call_waits_for_the_hello(nursery):
    async with client_of_raw_peer(hello=STREAMS) as (client, peer):
        start_call(nursery, outcomes := {}, "call", client.call, "A.b", numbers())
        await settle()
        await peer.open()
        assert decode_request((await peer.receive()).body, max_depth=64).streams == {1: 0}
        assert await receive_items(peer) == ([0, 1, 2], None)
        await peer.send_result(1, None)
        await settle()
        assert outcomes == {"call": None}


async def test_a_one_way_call_takes_no_streams():
    async with open_peer() as (client, peer):
        generator = numbers()
        with pytest.raises(trpc.InvalidArguments, match="argument 1 cannot be sent"):
            await client.notify("A.b", generator)
        await generator.aclose()
        assert not peer.frames


@pytest.mark.parametrize("why", ["another argument", "closed", "cancelled"])
async def test_a_generator_of_a_call_that_is_not_sent_is_closed_as_well(why):
    """It may have been read before."""

    class Service:
        @trpc.method
        async def put(
            self, items: AsyncIterable[int], other: object, more: AsyncIterable[int] | None = None
        ) -> None: ...

    source = Source()
    generator = source.items()
    assert await anext(generator) == 1
    async with open_peer() as (client, _):
        proxy = client.proxy(Service)
        if why == "another argument":
            with pytest.raises(trpc.InvalidArguments):
                await proxy.put(generator, object())
        elif why == "cancelled":
            with trio.CancelScope() as scope:
                scope.cancel()
                await proxy.put(generator, 1)
    if why == "closed":
        with pytest.raises(trpc.ConnectionLost):
            await proxy.put(generator, 1)
    assert source.ends[-1] == "closed"


# --- what is told of what they raise ---


@trpc.exception(name="unit.OutOfPaper")
@dataclasses.dataclass
class OutOfPaper(Exception):
    tray: int


class BadStr(Exception):
    def __str__(self):
        raise RuntimeError("no text")


def protocol_with(max_message_size=1 << 20, max_depth=10):
    protocol = Protocol(trpc.Limits())
    hello = Hello(max_message_size, 10, max_depth)
    protocol.receive(PREAMBLE + encode_frame(Kind.HELLO, 0, hello.encode()))
    return protocol


def told(exc, **hello):
    return decode_error(_error_body(exc, protocol_with(**hello)), max_depth=10)


def test_an_exception_is_told_as_from_a_handler():
    assert isinstance(told(KeyError("k")), KeyError)
    assert told(OutOfPaper(2)) == OutOfPaper(2)
    assert isinstance(told(ExceptionGroup("g", [ValueError("v")])), ExceptionGroup)


@pytest.mark.parametrize("exc", [BadStr(), OutOfPaper(object())])
def test_an_exception_that_cannot_be_told(exc):
    error = told(exc)
    assert type(error) is trpc.RemoteError
    assert f"the producer raised {type(exc).__name__}, which cannot be sent" in str(error)


def test_an_exception_that_is_too_large():
    error = told(ValueError("x" * 100_000), max_message_size=50_000)
    assert isinstance(error, trpc.MessageTooLarge)
    assert "of 50000 allowed" in str(error)
    # So much is always accepted.
    assert isinstance(told(ValueError("x" * 5_000), max_message_size=10), ValueError)


# --- over a connection ---


class Sums:
    @trpc.method
    async def sums(self, first: AsyncIterable[int], second: AsyncIterable[int]) -> list[int]:
        return [sum([i async for i in first]), sum([i async for i in second])]


async def test_streams_arrive():
    async with connected(Sums()) as (client, _):
        assert await client.proxy(Sums).sums(numbers(10), numbers(100)) == [45, 4950]
        assert await client.call("Sums.sums", numbers(1), second=numbers(2)) == [0, 1]
