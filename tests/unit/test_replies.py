"""Replies: what becomes of what handlers return and raise."""

import logging
from collections.abc import AsyncIterator

import pytest
import trio
from support import connected, raw_client_of, settle

import trpc
from trpc import _codec
from trpc._messages import Kind
from trpc._replies import _is_nothing_but

LARGE = _codec.LARGE


class BadStr(Exception):
    def __str__(self):
        raise RuntimeError("no text")


class Fatal(BaseException):
    pass


class FatalStr(Exception):
    def __str__(self):
        raise Fatal


class Service:
    def __init__(self):
        self.started = trio.Event()

    @trpc.method
    async def repeat(self, data: bytes, times: int, waits: bool) -> bytes:
        if waits:
            await trio.lowlevel.checkpoint()
        return data * times

    @trpc.method
    async def value(self, how: str) -> object:
        return {"object": object(), "keys": {1: "a"}, "deep": [[[[[[1]]]]]], "fine": 1}[how]

    @trpc.method
    async def keyed(self) -> dict[int, str]:
        return {1: "a"}

    @trpc.method
    async def raises(self, how: str) -> None:
        raise {
            "value": ValueError("v"),
            "group": ExceptionGroup("g", [ValueError("v"), KeyError("k")]),
            "text": BadStr(),
            "long": ValueError("x" * 100_000),
            "fatal": Fatal(),
            "fatal text": FatalStr(),
            "fatal group": BaseExceptionGroup("g", [Fatal(), ValueError("v")]),
        }[how]

    @trpc.method
    async def stream(self, how: str) -> AsyncIterator[int]:
        yield 1
        await self.raises(how)

    @trpc.method
    async def sleep(self) -> None:
        self.started.set()
        await trio.sleep_forever()

    @trpc.method
    async def stream_of_sleep(self) -> AsyncIterator[int]:
        yield 1
        self.started.set()
        await trio.sleep_forever()

    @trpc.method
    async def group_at_the_end(self) -> None:
        async def fails():
            try:
                await trio.sleep_forever()
            finally:
                raise ValueError("on the way out")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(fails)
            nursery.start_soon(trio.sleep_forever)
            self.started.set()


both = pytest.mark.parametrize("waits", [False, True])


# --- results ---


@both
@pytest.mark.parametrize("size", [0, 1, LARGE - 1, LARGE, LARGE + 1, 10 * LARGE])
async def test_results_of_any_size(waits, size):
    async with connected(Service()) as (client, _):
        assert await client.proxy(Service).repeat(b"x", size, waits) == b"x" * size


@both
async def test_a_large_result_that_the_caller_does_not_accept(waits):
    async with connected(Service(), limits=trpc.Limits(max_message_size=3 * LARGE)) as (client, _):
        with pytest.raises(trpc.MessageTooLarge, match="the reply has"):
            await client.proxy(Service).repeat(b"x", 4 * LARGE, waits)
        assert await client.proxy(Service).repeat(b"x", 2 * LARGE, waits) == b"x" * 2 * LARGE


async def test_keys_of_a_result():
    async with connected(Service()) as (client, _):
        assert await client.proxy(Service).keyed() == {1: "a"}
        assert await client.call("Service.keyed") == {"1": "a"}


@pytest.mark.parametrize("how", ["object", "keys", "deep"])
async def test_a_result_that_cannot_be_sent(how, caplog):
    async with connected(Service(), limits=trpc.Limits(max_depth=5)) as (client, _):
        with pytest.raises(trpc.RemoteError, match=r"the result of Service\.value cannot be encoded") as caught:
            await client.proxy(Service).value(how)
        assert caught.value.type_name == "InternalError"
        assert await client.proxy(Service).value("fine") == 1
    assert "the result cannot be encoded" in caplog.text


# --- exceptions ---


@pytest.mark.parametrize("method", ["raises", "stream"])
@pytest.mark.parametrize(
    ("how", "error"),
    [("value", ValueError), ("group", ExceptionGroup), ("text", trpc.RemoteError), ("long", ValueError)],
)
async def test_what_a_handler_raises(method, how, error, caplog):
    async with connected(Service()) as (client, _):
        with pytest.raises(error) as caught:
            await run(client, method, how)
    assert f"Service.{method}" in caplog.text
    if how == "text":
        assert f"Service.{method} raised BadStr, which cannot be sent: RuntimeError" in str(caught.value)
    assert [record.name for record in caplog.records][0] == "trpc.handler"


async def run(client, method, *args):
    if method == "stream":
        async with client.stream("Service.stream", *args) as items:
            async for _ in items:
                pass
    else:
        await client.call(f"Service.{method}", *args)


@pytest.mark.parametrize("method", ["raises", "stream"])
async def test_an_error_that_the_caller_does_not_accept(method):
    async with connected(Service(), limits=trpc.Limits(max_message_size=50_000)) as (client, _):
        with pytest.raises(trpc.MessageTooLarge, match="the reply has"):
            await run(client, method, "long")


@pytest.mark.parametrize("method", ["raises", "stream"])
@pytest.mark.parametrize("how", ["fatal", "fatal group", "fatal text"])
async def test_what_ends_the_process_ends_it_and_the_caller_hears(method, how):
    outcomes = []
    with pytest.raises(BaseExceptionGroup) as caught:
        async with connected(Service()) as (client, _):
            try:
                await run(client, method, how)
            except trpc.RPCError as exc:
                outcomes.append(str(exc))
            await trio.sleep_forever()
    assert caught.group_contains(Fatal)
    (message,) = outcomes
    expected = "which cannot be sent: Fatal" if how == "fatal text" else "which ends the server"
    assert message.startswith(f"InternalError: Service.{method} raised")
    assert message.endswith(expected)


@pytest.mark.parametrize("how", ["value", "text"])
async def test_what_a_one_way_call_raises_is_logged_only(how, caplog):
    async with raw_client_of(Service()) as peer:
        await peer.open()
        await peer.send_request(1, "Service.raises", how, kind=Kind.NOTIFY)
        await peer.send_request(2, "Service.value", "fine")
        frame = await peer.receive()
        assert (frame.kind, frame.id) == (Kind.RESULT, 2)
    assert "Service.raises for" in caplog.text


@pytest.mark.parametrize("waits", [False, True])
async def test_what_ends_the_process_in_a_one_way_call(waits):
    with pytest.raises(BaseExceptionGroup) as caught:
        async with raw_client_of(Service()) as peer:
            await peer.open()
            await peer.send_request(1, "Service.raises", "fatal", kind=Kind.NOTIFY)
            await trio.sleep_forever()
    assert caught.group_contains(Fatal)


@pytest.mark.parametrize("method", ["raises", "stream"])
async def test_what_was_raised_without_a_cancel_does_not_say_so(method):
    async with raw_client_of(Service()) as peer:
        peer.hello = with_streams(peer.hello)
        await peer.open()
        await peer.send_request(1, f"Service.{method}", "value")
        while (frame := await peer.receive()).kind != Kind.ERROR:
            pass
        assert "after_cancel" not in _codec.unpack(frame.body, max_depth=5)


@pytest.mark.parametrize("is_stream", [False, True])
async def test_what_a_stream_raises_after_a_cancel_says_so(is_stream):
    class CleansUp:
        @trpc.method
        async def value(self) -> None:
            try:
                await trio.sleep_forever()
            finally:
                raise ValueError("clean-up")

        @trpc.method
        async def stream(self) -> AsyncIterator[int]:
            yield 1
            try:
                await trio.sleep_forever()
            finally:
                raise ValueError("clean-up")

    async with raw_client_of(CleansUp()) as peer:
        peer.hello = with_streams(peer.hello)
        await peer.open()
        await peer.send_request(1, "CleansUp.stream" if is_stream else "CleansUp.value")
        await settle()
        await peer.send(Kind.CANCEL, 1)
        while (frame := await peer.receive()).kind != Kind.ERROR:
            pass
        # Whoever awaits a value hears of it in any case.
        assert _codec.unpack(frame.body, max_depth=5).get("after_cancel") is (True if is_stream else None)


# --- calls that are refused ---


class Guarded:
    @trpc.method
    async def take(self, number: int) -> int:
        return number


async def no_more(call, proceed):
    if call.args == (99,):
        raise trpc.Overloaded("not now")
    if call.args == (98,):
        raise trpc.Unauthenticated("not you")
    return await proceed(call)


REFUSED = [
    ("Guarded.take", "x", "DEBUG", "InvalidArguments: "),
    ("Guarded.take", 99, "DEBUG", "Overloaded: 'not now'"),
    ("Guarded.take", 98, "WARNING", "Unauthenticated: 'not you'"),
    ("Guarded.nothing", 1, "DEBUG", "MethodNotFound: "),
    ("Guarded.nothing\nCRITICAL: all is lost", 1, "DEBUG", "MethodNotFound: "),
    ("x" * 100_000, 1, "DEBUG", "MethodNotFound: "),
    ("Admin.stop", 1, "WARNING", "Unauthenticated: "),
    ("Admin.stop\nCRITICAL: all is lost", 1, "WARNING", "Unauthenticated: "),
    ("Admin." + "x" * 100_000, 1, "WARNING", "Unauthenticated: "),
]


@pytest.mark.parametrize(("method", "argument", "level", "text"), REFUSED, ids=[text for *_, text in REFUSED])
async def test_a_call_that_is_refused_is_logged(method, argument, level, text, caplog):
    caplog.set_level(logging.DEBUG, "trpc")
    serve = {"authorize": lambda _, method: not method.startswith("Admin."), "interceptors": [no_more]}
    async with connected(Guarded(), serve=serve) as (client, server):
        (info,) = server.connections
        with pytest.raises(trpc.RPCError):
            await client.call(method, argument)
        assert await client.call("Guarded.take", 5) == 5
    (record,) = [record for record in caplog.records if record.name == "trpc"]
    message = record.getMessage()
    assert message.startswith(f"call from {info.peer} refused: {text}")
    assert record.levelname == level
    assert "\n" not in message
    assert len(message) < 1000


# --- cancels ---


@pytest.mark.parametrize("method", ["sleep", "stream_of_sleep"])
async def test_a_cancel_is_acknowledged(method):
    service = Service()
    async with raw_client_of(service) as peer:
        peer.hello = with_streams(peer.hello)
        await peer.open()
        await peer.send_request(1, f"Service.{method}")
        await service.started.wait()
        await peer.send(Kind.CANCEL, 1)
        frames = [await peer.receive() for _ in range(2 if method == "stream_of_sleep" else 1)]
        assert [frame.kind for frame in frames][-1] == Kind.CANCELLED


@pytest.mark.parametrize("method", ["sleep", "stream_of_sleep"])
@pytest.mark.parametrize("whose", ["caller", "server"])
async def test_the_time_is_over(method, whose, autojump_clock):
    service = Service()
    limits = trpc.Limits(max_call_time=3 if whose == "server" else 100)
    async with raw_client_of(service, limits=limits) as peer:
        peer.hello = with_streams(peer.hello)
        await peer.open()
        await peer.send_request(1, f"Service.{method}", time_left=3 if whose == "caller" else None)
        frames = [await peer.receive() for _ in range(2 if method == "stream_of_sleep" else 1)]
        if whose == "caller":
            assert frames[-1].kind == Kind.EXPIRED
        else:
            error = _codec.unpack(frames[-1].body, max_depth=5)
            assert (frames[-1].kind, error["code"]) == (Kind.ERROR, 4)
            assert "ran for 3 s, the server's limit" in error["message"]


@pytest.mark.parametrize("how", ["time", "cancel"])
async def test_a_one_way_call_that_is_cancelled_is_not_replied_to(how, autojump_clock):
    service = Service()
    async with raw_client_of(service, limits=trpc.Limits(max_call_time=3)) as peer:
        await peer.open()
        await peer.send_request(1, "Service.sleep", kind=Kind.NOTIFY, time_left=1 if how == "cancel" else None)
        await trio.sleep(5)
        await peer.send_request(2, "Service.value", "fine")
        assert (await peer.receive()).id == 2


def with_streams(hello):
    return type(hello)(hello.max_message_size, hello.max_calls, hello.max_depth, ("streams",), 10_000)


async def test_what_is_raised_beside_the_cancel_of_the_connection_is_logged(caplog):
    service = Service()
    async with raw_client_of(service) as peer:
        await peer.open()
        await peer.send_request(1, "Service.group_at_the_end")
        await service.started.wait()
        await settle()
        await peer.stream.aclose()
        await settle()
    assert "Service.group_at_the_end" in caplog.text
    assert "raised while it was cancelled" in caplog.text


async def test_a_handler_that_has_lost_its_caller_is_no_error(caplog):
    class Back:
        @trpc.method
        async def wait(self) -> None:
            started.set()
            await trio.sleep_forever()

    class Front:
        @trpc.method
        async def call_back(self) -> None:
            await trpc.current_call().client.call("Back.wait")

    started = trio.Event()
    caplog.set_level(logging.DEBUG)
    async with trio.open_nursery() as nursery:
        ours, theirs = trio.testing.memory_stream_pair()
        nursery.start_soon(trpc.serve_stream, Front(), theirs)
        async with trpc.connect_stream(ours, service=Back()) as client:
            nursery.start_soon(client.notify, "Front.call_back")
            await started.wait()
            await ours.aclose()
            await settle()
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert "Front.call_back" in caplog.text


# --- nothing but ---


def test_nothing_but_an_exception():
    leaf, other = ValueError(), ValueError()
    assert _is_nothing_but(leaf, leaf)
    assert not _is_nothing_but(other, leaf)
    assert _is_nothing_but(ExceptionGroup("g", [leaf]), leaf)
    assert _is_nothing_but(ExceptionGroup("g", [ExceptionGroup("h", [leaf])]), leaf)
    assert not _is_nothing_but(ExceptionGroup("g", [leaf, other]), leaf)
    assert not _is_nothing_but(ExceptionGroup("g", [ExceptionGroup("h", [other])]), leaf)
