"""Handlers: what becomes of them and of what they leave behind."""

import dataclasses
import math
from collections.abc import AsyncIterable, AsyncIterator

import pytest
import trio
import trio.testing
from support import client_of_raw_peer, connected, joined, raw_client_of, settle

import trpc
from trpc import _codec
from trpc._messages import Kind, encode_request


class Service:
    def __init__(self):
        self.notes: list[object] = []

    @trpc.method
    async def note(self, value: object, waits: bool) -> None:
        if waits:
            await trio.lowlevel.checkpoint()
        self.notes.append(value)

    @trpc.method
    async def leaves_a_scope(self, waits: bool) -> str:
        scope = trio.move_on_after(5)
        scope.__enter__()
        if waits:
            await trio.lowlevel.checkpoint()
        return "result"

    @trpc.method
    async def sleep(self, seconds: float) -> str:
        await trio.sleep(seconds)
        return "slept"

    @trpc.method
    async def blob(self, size: int) -> bytes:
        self.notes.append(size)
        return bytes(size)

    @trpc.method
    async def total(self, items: AsyncIterable[int]) -> int:
        return sum([item async for item in items])


both = pytest.mark.parametrize("waits", [False, True])


@both
async def test_a_one_way_call_runs_to_its_end_and_there_is_no_reply(waits):
    service = Service()
    async with connected(service) as (client, server):
        await client.notify("Service.note", 1, waits)
        # The next one has the reply that the first has not.
        await client.proxy(Service).note(2, waits)
        await settle()
        assert sorted(service.notes) == [1, 2]
        assert server.calls == ()


@both
async def test_a_deadline_that_a_handler_leaves_behind_is_logged_and_does_not_reach_others(
    waits, autojump_clock, caplog
):
    async with connected(Service()) as (client, _):
        proxy = client.proxy(Service)
        assert await proxy.leaves_a_scope(waits) == "result"
        # The deadline of the scope that was left open would be over.
        assert await proxy.sleep(100) == "slept"
        assert await proxy.sleep(100) == "slept"
    (record,) = [record for record in caplog.records if "cancel scope" in record.getMessage()]
    assert record.name == "trpc.handler"
    assert "Service.leaves_a_scope" in record.getMessage()


@both
async def test_a_call_after_one_that_has_left_a_deadline_behind_can_be_cancelled(waits, autojump_clock):
    async with connected(Service()) as (client, server):
        proxy = client.proxy(Service)
        await proxy.leaves_a_scope(waits)
        with trio.move_on_after(1) as scope:
            await proxy.sleep(100)
        assert scope.cancelled_caught
        assert trio.current_time() < 2
        assert server.calls == ()


# --- admission ---

OVERLOADED, METHOD_NOT_FOUND, MESSAGE_TOO_LARGE = 5, 2, 8


async def test_so_many_calls_at_once(autojump_clock):
    async with raw_client_of(Service(), limits=trpc.Limits(max_calls=2)) as peer:
        await peer.open()
        for call_id in (1, 2, 3):
            await peer.send_request(call_id, "Service.sleep", call_id)
        error = await peer.receive_error(3)
        assert (error["code"], error["message"]) == (
            OVERLOADED,
            "2 calls of this connection are in flight, the most allowed",
        )
        assert sorted([(await peer.receive()).id for _ in range(2)]) == [1, 2]
        await peer.send_request(4, "Service.sleep", 0)
        assert (await peer.receive()).id == 4


async def test_a_method_that_is_not_there():
    async with raw_client_of(Service()) as peer:
        await peer.open()
        for call_id, name in enumerate(("Service.missing", "missing", "Service.__init__", "", "x" * 1000), 1):
            await peer.send_request(call_id, name)
            error = await peer.receive_error(call_id)
            assert error["code"] == METHOD_NOT_FOUND
            assert len(error["message"]) < 400


async def test_a_request_over_the_limit():
    async with raw_client_of(Service(), limits=trpc.Limits(max_message_size=100)) as peer:
        await peer.open()
        await peer.send_request(1, "Service.note", "x" * 200, False)
        error = await peer.receive_error(1)
        assert error["code"] == MESSAGE_TOO_LARGE
        assert error["message"].endswith("bytes, of 100 allowed")
        await peer.send_request(2, "Service.note", "x", False)
        assert (await peer.receive()).kind == Kind.RESULT


def with_features(peer):
    peer.hello = dataclasses.replace(peer.hello, features=("fragments", "streams"), stream_credit=1000)
    return peer


def request(method, *args, streams=None):
    return joined(encode_request(f"Service.{method}", list(args), None, None, None, streams, max_depth=64))


@pytest.mark.parametrize(
    "limits", [{"max_bytes_in_flight": 12_000, "max_calls": 10, "max_message_size": 1000}, {"max_calls": 2}]
)
async def test_requests_of_which_fragments_are_missing(limits):
    used = trpc.Limits(**limits)
    async with raw_client_of(Service(), limits=used) as raw:
        peer = with_features(raw)
        await peer.open()
        body = request("note", "x" * 7000, False)
        for call_id in (1, 2, 3):
            await peer.send(Kind.REQUEST, call_id, body[:5000], flags=1)
        error = await peer.receive_error(3)
        assert error["code"] == OVERLOADED
        assert error["message"] == (
            f"more than {used.max_calls} requests are on their way in fragments,"
            f" or {used.max_bytes_in_flight} bytes of requests are held for this connection,"
            f" or {used.max_server_bytes_in_flight} for all"
        )
        # The rest of it is ignored, and there is room for that of the first.
        await peer.send(Kind.REQUEST, 3, body[5000:], flags=2)
        await peer.send(Kind.CANCEL, 2)
        assert (await peer.receive()).kind == Kind.CANCELLED
        await peer.send(Kind.REQUEST, 1, body[5000:6000], flags=3)
        await peer.send(Kind.CANCEL, 1)
        frame = await peer.receive()
        assert (frame.kind, frame.id) == (Kind.CANCELLED, 1)


@pytest.mark.parametrize("number", [1, 2, 10])
async def test_a_request_in_fragments(number):
    service = Service()
    async with raw_client_of(service) as raw:
        peer = with_features(raw)
        await peer.open()
        body = request("note", "x" * 100, False)
        parts = [body[i : i + 11] for i in range(0, len(body), 11)]
        for i, part in enumerate(parts):
            await peer.send(Kind.REQUEST, 1, part, flags=(i < len(parts) - 1) | 2 * (i > 0))
            await settle()
        assert (await peer.receive()).kind == Kind.RESULT
        assert service.notes == ["x" * 100]


async def test_a_cancel_of_a_request_that_is_not_complete():
    service = Service()
    async with raw_client_of(service) as raw:
        peer = with_features(raw)
        await peer.open()
        body = request("note", 1, False)
        await peer.send(Kind.REQUEST, 1, body[:5], flags=1)
        await peer.send(Kind.CANCEL, 1)
        frame = await peer.receive()
        assert (frame.kind, frame.id) == (Kind.CANCELLED, 1)
        await peer.send(Kind.REQUEST, 1, body[5:], flags=2)
        await peer.send(Kind.CANCEL, 1)
        await peer.send(Kind.REQUEST, 2, body)
        assert (await peer.receive()).id == 2
        assert service.notes == [1]


# --- messages of streams ---


async def test_items_for_a_request_that_is_not_complete(caplog):
    async with raw_client_of(Service()) as raw:
        peer = with_features(raw)
        await peer.open()
        body = request("total", None, streams={1: 0})
        await peer.send(Kind.REQUEST, 1, body[:5], flags=1)
        await peer.send(Kind.ARGUMENT_ITEMS, 1, b"\x91\x01", stream=1)
        frame = await peer.receive()
        assert frame.kind == Kind.GOAWAY
        message = _codec.unpack(frame.body, max_depth=5)["message"]
        assert message == "call 1 has no streams, or its request is not complete"


@pytest.mark.parametrize("was_there", [False, True])
async def test_items_for_a_call_that_has_ended_since_they_were_read(was_there):
    """Both are read at once: the call is refused, and then they are handled."""
    async with raw_client_of(Service(), limits=trpc.Limits(max_streams=1)) as raw:
        peer = with_features(raw)
        await peer.open()
        if was_there:
            await peer.send(Kind.REQUEST, 1, request("total", None, streams={1: 0}))
            await peer.send(Kind.ARGUMENT_END, 1, b"\xc0", stream=1)
            assert (await peer.receive()).kind == Kind.RESULT
        ours = trio.testing.MemorySendStream()
        refused = request("total", None, None, streams={1: 0, 2: 1})
        peer.stream, stream = ours, peer.stream
        await peer.send(Kind.REQUEST, 7, refused)
        await peer.send(Kind.ARGUMENT_ITEMS, 7, b"\x91\x01", stream=1)
        await peer.send(Kind.RESULT_CREDIT, 7, b"\x01")
        peer.stream = stream
        await stream.send_all(ours.get_data_nowait())
        assert (await peer.receive_error(7))["code"] == OVERLOADED
        await peer.send(Kind.REQUEST, 8, request("note", 1, False))
        assert (await peer.receive()).id == 8


async def test_a_cancel_of_a_call_that_has_ended_since_it_was_read():
    async with raw_client_of(Service()) as peer:
        await peer.open()
        stream, peer.stream = peer.stream, trio.testing.MemorySendStream()
        await peer.send_request(1, "Service.missing")
        await peer.send(Kind.CANCEL, 1)
        await peer.send_request(2, "Service.note", 1, False)
        data, peer.stream = peer.stream.get_data_nowait(), stream
        await stream.send_all(data)
        assert (await peer.receive_error(1))["code"] == METHOD_NOT_FOUND
        assert (await peer.receive()).id == 2


@pytest.mark.parametrize("how", ["none", "list", "awaited"])
async def test_a_method_that_gives_no_stream_although_its_hint_says_so(how, caplog):
    class Wrong:
        if how == "awaited":

            @trpc.method
            async def f(self) -> AsyncIterator[int]:
                return [1]

        else:

            @trpc.method
            def f(self) -> AsyncIterator[int]:
                return [1] if how == "list" else None

    async with connected(Wrong()) as (client, _):
        with pytest.raises(TypeError, match=r"Wrong\.f has to give an async iterable, not '(list|NoneType)'"):
            async with client.proxy(Wrong).f() as items:
                await items.receive()


# --- when it begins ---


async def test_what_has_expired_on_arrival_does_not_run():
    service = Service()
    async with raw_client_of(service) as peer:
        await peer.open()
        for call_id, left in enumerate((0, -1, -0.0), 1):
            await peer.send_request(call_id, "Service.note", 1, False, time_left=left)
            assert (await peer.receive()).kind == Kind.EXPIRED
        assert service.notes == []


@pytest.mark.parametrize(("left", "limit", "expected"), [(5, math.inf, 5), (None, 7, 7), (5, 7, 5), (7, 5, 5)])
async def test_calls_in_flight_and_their_deadlines(left, limit, expected, autojump_clock):
    async with connected(Service(), serve={"limits": trpc.Limits(max_call_time=limit)}) as (client, server):
        start = trio.current_time()
        async with trio.open_nursery() as calls:

            @calls.start_soon
            async def call():
                with trio.move_on_after(math.inf if left is None else left):
                    await client.call("Service.sleep", math.inf)

            await settle()
            (info,) = server.calls
            assert (info.method, info.started, info.deadline) == (
                "Service.sleep",
                start,
                pytest.approx(start + expected),
            )
            calls.cancel_scope.cancel()


async def test_a_method_that_waits_gets_a_worker_if_there_are_others(autojump_clock):
    """Not seen from outside: only that each call is answered, however often its method has waited."""
    service = Service()
    async with connected(service) as (client, server):
        proxy = client.proxy(Service)
        for waits in [True] * 6 + [False] * 6 + [True, False] * 3:
            async with trio.open_nursery() as calls:
                for _ in range(3):
                    calls.start_soon(proxy.note, 1, waits)
        assert len(service.notes) == 18 * 3
        assert server.calls == ()


# --- calls that wait until the peer reads its answers ---


async def test_requests_of_a_peer_that_does_not_read_begin_when_it_does(nursery):
    """This side waits for that peer, so that it goes on reading."""
    service = Service()
    limits = trpc.Limits(max_unsent=50_000)
    async with client_of_raw_peer(lockstep=True, service=service, limits=limits) as (client, peer):
        async with trio.open_nursery() as opening:
            opening.start_soon(peer.open)
        await settle()
        # Its answer is in the way of the others, as long as nobody reads.
        outcomes = {}

        async def call():
            outcomes["call"] = await client.call("A.b")

        nursery.start_soon(call)
        frame = await peer.receive()
        async with trio.open_nursery() as sending:

            @sending.start_soon
            async def send():
                for call_id in range(1, 6):
                    await peer.send_request(call_id, "Service.blob", 60_000 + call_id)
                await peer.send(Kind.CANCEL, 4)
                await peer.send_result(frame.id, "reply")

            await settle()
            assert outcomes == {"call": "reply"}
            assert service.notes == [60_001], "the others have not begun"
            seen = {}
            for _ in range(5):
                frame = await peer.receive()
                seen[frame.id] = frame.kind
                await settle()
        assert seen == {1: Kind.RESULT, 2: Kind.RESULT, 3: Kind.RESULT, 4: Kind.CANCELLED, 5: Kind.RESULT}
        assert service.notes == [60_001, 60_002, 60_003, 60_005]
