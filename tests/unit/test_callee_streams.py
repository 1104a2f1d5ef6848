"""Streams of the peer's calls: arguments that it sends and results that it gets, with a peer that is made of frames."""

import contextlib
import dataclasses
from collections.abc import AsyncIterable, AsyncIterator

import msgpack
import pytest
import trio
import trio.testing
from support import joined, raw_client_of, settle

import trpc
from trpc import _codec
from trpc._messages import ITEMS_COST, Kind, decode_credit, encode_credit, encode_request

# What errors say.
INVALID_ARGUMENTS, OVERLOADED, MESSAGE_TOO_LARGE, INTERNAL = 3, 5, 8, 1


class Service:
    """Notes what happens in it."""

    def __init__(self):
        self.notes = []
        self.go_on = trio.Event()
        self.stream = None

    @trpc.method
    async def count(self, number: int) -> AsyncIterator[int]:
        for i in range(number):
            yield i

    @trpc.method
    async def keyed(self) -> AsyncIterator[dict[int, str]]:
        yield {1: "a"}

    @trpc.method
    async def large(self, size: int, number: int) -> AsyncIterator[bytes]:
        for i in range(number):
            yield bytes(size)
            self.notes.append(i)

    @trpc.method
    async def fails(self, how: str) -> AsyncIterator[object]:
        yield 1
        yield object() if how == "bad" else bytes(100_000) if how == "large" else 2
        if how == "raise":
            raise ValueError("its own")

    @trpc.method
    async def total(self, items: AsyncIterable[int]) -> int:
        return sum([item async for item in items])

    @trpc.method
    async def named(self, *, items: AsyncIterable[int]) -> int:
        return sum([item async for item in items])

    @trpc.method
    async def optional(self, items: AsyncIterable[int] | None = None) -> bool:
        return items is None

    @trpc.method
    async def waits(self, items: AsyncIterable[int], *more: AsyncIterable[int]) -> str:
        self.stream = items
        await self.go_on.wait()
        return "done"

    @trpc.method
    async def first(self, items: AsyncIterable[int], how: str) -> int:
        async for item in items:
            if how == "aclose":
                await items.aclose()
            self.notes.append(item)
            return item
        return -1

    @trpc.method
    async def catches(self, items: AsyncIterable[int]) -> list:
        seen = []
        try:
            async for item in items:
                seen.append(item)  # noqa: PERF401 - those before the exception as well
        except Exception as exc:
            return [*seen, type(exc).__name__, str(exc)]
        return seen

    @trpc.method
    async def groups(self, items: AsyncIterable[int], beside: bool) -> None:
        async def consume():
            async for item in items:
                self.notes.append(item)

        async def fails():
            try:
                await trio.sleep_forever()
            finally:
                raise KeyError("beside")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(consume)
            if beside:
                nursery.start_soon(fails)

    @trpc.method
    async def double(self, items: AsyncIterable[int]) -> AsyncIterator[int]:
        async for item in items:
            yield 2 * item

    @trpc.method
    def plain(self, value: object) -> None: ...


class Peer:
    """The caller."""

    def __init__(self, raw):
        self.raw = raw
        self.receive = raw.receive
        self.error = raw.receive_error

    async def request(self, call_id, method, *args, streams=None, kind=Kind.REQUEST, **kwargs):
        body = encode_request(f"Service.{method}", list(args), kwargs, None, None, streams, max_depth=64)
        await self.raw.send(kind, call_id, joined(body))

    async def items(self, *items, call_id=1, stream=1):
        await self.raw.send(Kind.ARGUMENT_ITEMS, call_id, msgpack.packb(list(items)), stream=stream)

    async def end(self, body=b"\xc0", *, call_id=1, stream=1):
        await self.raw.send(Kind.ARGUMENT_END, call_id, body, stream=stream)

    async def result(self, call_id=1):
        frame = await self.receive()
        assert (frame.kind, frame.id) == (Kind.RESULT, call_id)
        return _codec.unpack(frame.body, max_depth=64)

    async def results(self, call_id=1):
        """The items of a result, and the reply."""
        items = []
        while (frame := await self.receive()).kind == Kind.RESULT_ITEMS:
            assert (frame.id, frame.stream) == (call_id, 0)
            items += _codec.unpack(frame.body, max_depth=64)
        return items, frame

    async def is_cut_off(self, match):
        """The other side says why it closes, and does so."""
        frame = await self.receive()
        while frame.kind != Kind.GOAWAY:
            frame = await self.receive()
        assert match in _codec.unpack(frame.body, max_depth=5)["message"]
        assert await self.receive() is None

    async def nothing(self):
        await settle()
        with trio.move_on_after(0) as scope:
            await self.receive()
        assert scope.cancelled_caught


@contextlib.asynccontextmanager
async def opened(service=None, *, credit=10_000, has_streams=True, max_message_size=1 << 20, **limits):
    async with raw_client_of(service or Service(), limits=trpc.Limits(**limits)) as raw:
        features = ("streams", "fragments") if has_streams else ()
        raw.hello = dataclasses.replace(
            raw.hello, features=features, stream_credit=credit, max_message_size=max_message_size
        )
        await raw.open()
        yield Peer(raw)


# --- results ---


async def test_items_and_behind_them_nil():
    async with opened() as peer:
        for call_id, number in enumerate((3, 0, 200), 1):
            await peer.request(call_id, "count", number)
            items, frame = await peer.results(call_id)
            assert items == list(range(number))
            assert (frame.kind, frame.id, frame.body) == (Kind.RESULT, call_id, b"\xc0")


async def test_keys_that_the_hint_reads_back_travel_as_text():
    async with opened() as peer:
        await peer.request(1, "keyed")
        assert (await peer.results())[0] == [{"1": "a"}]


async def test_items_wait_for_credit():
    service = Service()
    # Enough for the producer to have to wait with each of them.
    size = 200_000
    async with opened(service, credit=1) as peer:
        await peer.request(1, "large", size, 3)
        frame = await peer.receive()
        assert (frame.kind, len(frame.body)) == (Kind.RESULT_ITEMS, size + 6)
        await peer.nothing()
        assert service.notes == [0]
        await peer.raw.send(Kind.RESULT_CREDIT, 1, encode_credit(size + 6 + ITEMS_COST))
        assert (await peer.receive()).kind == Kind.RESULT_ITEMS
        await peer.nothing()
        assert service.notes == [0, 1]
        await peer.raw.send(Kind.RESULT_CREDIT, 1, encode_credit(10 * size))
        items, frame = await peer.results()
        assert [len(item) for item in items] == [size]
        assert frame.kind == Kind.RESULT
        assert service.notes == [0, 1, 2]


@pytest.mark.parametrize(
    ("how", "code", "match"),
    [
        ("raise", 17, "its own"),
        ("bad", INTERNAL, "an item cannot be sent: "),
        ("large", MESSAGE_TOO_LARGE, "an item has 100005 bytes, and the peer accepts less than 50000"),
    ],
)
async def test_the_error_is_behind_the_items(how, code, match, caplog):
    async with opened(max_message_size=50_000) as peer:
        await peer.request(1, "fails", how)
        items, frame = await peer.results()
        assert items == ([1, 2] if how == "raise" else [1])
        error = _codec.unpack(frame.body, max_depth=5)
        assert (frame.kind, error["code"]) == (Kind.ERROR, code)
        assert error["message"].startswith(match)
    assert "Service.fails" in caplog.text


async def test_arguments_that_do_not_fit():
    async with opened() as peer:
        await peer.request(1, "count", "x")
        error = await peer.error(1)
        assert (error["code"], "argument 'number'" in error["message"]) == (INVALID_ARGUMENTS, True)


@pytest.mark.parametrize("method", ["count", "total"])
async def test_a_caller_without_streams(method):
    async with opened(has_streams=False) as peer:
        await peer.request(1, method, None if method == "total" else 3, streams={1: 0} if method == "total" else None)
        error = await peer.error(1)
        assert error["code"] == INVALID_ARGUMENTS
        assert "a caller that has not announced streams cannot have streams" in error["message"]
        await peer.request(2, "plain", 1)
        assert await peer.result(2) is None


@pytest.mark.parametrize("method", ["count", "total"])
async def test_a_one_way_call_has_no_streams(method, caplog):
    async with opened() as peer:
        await peer.request(1, method, None, streams={1: 0} if method == "total" else None, kind=Kind.NOTIFY)
        await peer.request(2, "plain", 1)
        assert await peer.result(2) is None
    assert f"Service.{method}: a one-way call cannot have streams" in caplog.text


# --- arguments ---


@pytest.mark.parametrize("method", ["total", "named"])
async def test_items_of_an_argument(method):
    async with opened() as peer:
        if method == "total":
            await peer.request(1, "total", None, streams={7: 0})
        else:
            await peer.request(1, "named", items=None, streams={7: "items"})
        await peer.items(1, 2, stream=7)
        await peer.items(3, stream=7)
        await peer.end(stream=7)
        assert await peer.result() == 6


async def test_items_may_come_with_the_request():
    async with opened() as peer:
        await peer.raw.stream.send_all(
            b"".join(
                [
                    frame(Kind.REQUEST, request("total", None, streams={1: 0})),
                    frame(Kind.ARGUMENT_ITEMS, b"\x92\x01\x02", stream=1),
                    frame(Kind.ARGUMENT_END, b"\xc0", stream=1),
                ]
            )
        )
        assert await peer.result() == 3


def request(method, *args, streams=None):
    return joined(encode_request(f"Service.{method}", list(args), None, None, None, streams, max_depth=64))


def frame(kind, body, *, stream=0, flags=0, call_id=1):
    head = (12 + len(body)).to_bytes(4, "big") + bytes([kind, flags]) + stream.to_bytes(2, "big")
    return head + call_id.to_bytes(8, "big") + body


async def test_what_may_be_none():
    async with opened() as peer:
        await peer.request(1, "optional")
        assert await peer.result() is True
        await peer.request(2, "optional", None)
        assert await peer.result(2) is True
        await peer.request(3, "optional", None, streams={1: 0})
        assert await peer.result(3) is False


@pytest.mark.parametrize(
    ("method", "args", "streams", "match"),
    [
        ("total", [None], None, "argument 'items': Expected a stream, got `NoneType`"),
        ("total", [[1]], None, "argument 'items': Expected a stream, got `list`"),
        ("total", [5], None, "argument 'items': Expected a stream, got `int`"),
        ("plain", [None], {1: 0}, "argument 'value' is a stream, which the method does not take there"),
        ("total", [None, None], {1: 0, 2: 1}, "argument 2 is a stream, which the method does not take there"),
        ("count", [None], {1: 0}, "argument 'number' is a stream, which the method does not take there"),
        ("total", [None], {1: 1}, "stream 1 is for an argument that is not there"),
    ],
)
async def test_streams_that_do_not_fit(method, args, streams, match):
    async with opened(max_streams=2) as peer:
        for call_id in (1, 2, 3):
            await peer.request(call_id, method, *args, streams=streams)
            error = await peer.error(call_id)
            assert error["code"] == INVALID_ARGUMENTS
            assert match in error["message"]
        # They hold no place.
        await peer.request(4, "total", None, streams={1: 0})
        await peer.end(call_id=4)
        assert await peer.result(4) == 0


async def test_a_keyword_argument_that_is_no_stream_is_named():
    async with opened() as peer:
        await peer.request(1, "plain", value=None, streams={1: "value"})
        error = await peer.error(1)
        assert "argument 'value' is a stream" in error["message"]


async def test_streams_are_limited_in_number():
    service = Service()
    async with opened(service, max_streams=3) as peer:
        await peer.request(1, "waits", None, None, streams={1: 0, 2: 1})
        await peer.request(2, "waits", None, None, streams={1: 0, 2: 1})
        error = await peer.error(2)
        assert (error["code"], error["message"]) == (
            OVERLOADED,
            "3 streams of this connection are open, the most allowed",
        )
        await peer.request(3, "waits", None, streams={1: 0})
        await settle()
        service.go_on.set()
        assert sorted([(await peer.receive()).id for _ in range(2)]) == [1, 3]
        # With their calls, they have given back their places.
        await peer.request(4, "waits", None, None, None, streams={1: 0, 2: 1, 3: 2})
        assert await peer.result(4) == "done"


async def test_what_is_consumed_is_granted():
    service = Service()
    async with opened(service, stream_credit=100) as peer:
        await peer.request(1, "waits", None, streams={1: 0})
        for _ in range(3):
            await peer.items(1, 2)
        await peer.nothing()
        cost = 3 + ITEMS_COST
        assert [await service.stream.receive() for _ in range(4)] == [1, 2, 1, 2]
        await peer.nothing()
        await service.stream.receive()
        credit = await peer.receive()
        assert (credit.kind, credit.id, credit.stream) == (Kind.ARGUMENT_CREDIT, 1, 1)
        assert decode_credit(credit.body) == 3 * cost


# --- the end of an argument ---


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"\xc0", []),
        (msgpack.packb({"code": 17, "type": "KeyError", "message": "'k'", "args": ["k"]}), ["KeyError", "'k'"]),
        (msgpack.packb({"code": 16, "type": "Strange", "message": "m"}), ["RemoteError", "Strange: m"]),
        (b"\x01", ["ProtocolError", None]),
        (b"\xc1", ["ProtocolError", None]),
        (b"", ["ProtocolError", None]),
        (b"\x80", ["ProtocolError", None]),
    ],
)
async def test_what_the_producer_has_raised_is_raised_behind_the_items(body, expected):
    async with opened() as peer:
        await peer.request(1, "catches", None, streams={1: 0})
        await peer.items(1, 2)
        await peer.end(body)
        seen = await peer.result()
        assert seen[:2] == [1, 2]
        if expected[1:] == [None]:
            assert seen[2] == "ProtocolError"
        else:
            assert [part for part in seen[2:] if part] == expected


async def test_a_handler_that_leaves_a_stream_stops_its_producer(autojump_clock):
    service = Service()
    async with opened(service) as peer:
        await peer.request(1, "first", None, "aclose", streams={1: 0})
        await peer.items(5, 6, 7)
        stop = await peer.receive()
        assert (stop.kind, stop.id, stop.stream, stop.body) == (Kind.ARGUMENT_STOP, 1, 1, b"")
        # What has crossed it.
        await peer.items(8)
        await settle()
        assert service.notes == [], "it waits for the producer"
        await peer.end()
        assert await peer.result() == 5


async def test_a_producer_that_does_not_end_is_waited_for_only_so_long(autojump_clock):
    service = Service()
    async with opened(service) as peer:
        await peer.request(1, "first", None, "aclose", streams={1: 0})
        await peer.items(5, 6, 7)
        assert (await peer.receive()).kind == Kind.ARGUMENT_STOP
        start = trio.current_time()
        assert await peer.result() == 5
        assert trio.current_time() - start == pytest.approx(1)


async def test_who_leaves_twice_says_so_once():
    service = Service()
    async with opened(service) as peer:
        await peer.request(1, "waits", None, streams={1: 0})
        await settle()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(service.stream.aclose)
            nursery.start_soon(service.stream.aclose)
            assert (await peer.receive()).kind == Kind.ARGUMENT_STOP
            await peer.end()
        await service.stream.aclose()
        service.go_on.set()
        assert await peer.result() == "done"


async def test_who_leaves_an_ended_stream_says_nothing():
    service = Service()
    async with opened(service) as peer:
        await peer.request(1, "waits", None, streams={1: 0})
        await peer.items(1)
        await peer.end()
        await settle()
        await service.stream.aclose()
        service.go_on.set()
        assert await peer.result() == "done"


async def test_a_cancelled_close_stops_the_producer_as_well():
    service = Service()
    async with opened(service) as peer:
        await peer.request(1, "waits", None, streams={1: 0})
        await settle()
        with trio.CancelScope() as scope:
            scope.cancel()
            await service.stream.aclose()
        assert scope.cancelled_caught
        assert (await peer.receive()).kind == Kind.ARGUMENT_STOP
        service.go_on.set()
        assert await peer.result() == "done"


@pytest.mark.parametrize("how", ["return", "cancel"])
async def test_the_end_of_the_handler_is_the_end_of_its_streams(how):
    service = Service()
    async with opened(service) as peer:
        await peer.request(1, "waits", None, streams={1: 0})
        await peer.items(1)
        await settle()
        if how == "return":
            service.go_on.set()
            assert await peer.result() == "done"
        else:
            await peer.raw.send(Kind.CANCEL, 1)
            assert (await peer.receive()).kind == Kind.CANCELLED
        # Somebody may have kept it.
        with pytest.raises(trio.ClosedResourceError):
            await service.stream.receive()
        assert service.stream.has_ended
        # What has crossed the reply.
        await peer.items(2)
        await peer.end()
        await peer.request(2, "plain", 1)
        assert await peer.result(2) is None


# --- items that do not fit ---


async def test_an_item_that_does_not_fit_is_an_invalid_argument():
    async with opened() as peer:
        await peer.request(1, "total", None, streams={1: 0})
        await peer.items(1, "x")
        assert (await peer.receive()).kind == Kind.ARGUMENT_STOP
        await peer.end()
        error = await peer.error(1)
        assert error["code"] == INVALID_ARGUMENTS
        assert error["message"] == "Service.total: an item of argument 'items': Expected `int`, got `str`"


async def test_an_item_that_does_not_fit_may_be_caught():
    async with opened() as peer:
        await peer.request(1, "catches", None, streams={1: 0})
        await peer.items(1, "x")
        assert (await peer.receive()).kind == Kind.ARGUMENT_STOP
        await peer.end()
        seen = await peer.result()
        assert seen[:2] == [1, "InvalidArguments"]


@pytest.mark.parametrize("beside", [False, True])
async def test_an_item_that_does_not_fit_in_groups(beside):
    async with opened() as peer:
        await peer.request(1, "groups", None, beside, streams={1: 0})
        await peer.items(1, "x")
        assert (await peer.receive()).kind == Kind.ARGUMENT_STOP
        await peer.end()
        error = await peer.error(1)
        # Alone it is what it is; with something else, the handler has raised a group.
        assert error["code"] == (19 if beside else INVALID_ARGUMENTS)


async def test_an_item_that_does_not_fit_ends_a_stream_that_depends_on_it():
    async with opened() as peer:
        await peer.request(1, "double", None, streams={1: 0})
        await peer.items(1, 2, "x")
        items = []
        while (frame := await peer.receive()).kind == Kind.RESULT_ITEMS:
            items += _codec.unpack(frame.body, max_depth=5)
        assert frame.kind == Kind.ARGUMENT_STOP
        await peer.end()
        more, frame = await peer.results()
        assert items + more == [2, 4]
        assert _codec.unpack(frame.body, max_depth=5)["code"] == INVALID_ARGUMENTS


# --- messages that must not be ---


@pytest.mark.parametrize(
    ("kind", "body", "stream", "match"),
    [
        (Kind.ARGUMENT_ITEMS, b"\x91\x01", 2, "call 1 has no stream 2"),
        (Kind.ARGUMENT_END, b"\xc0", 2, "call 1 has no stream 2"),
        (Kind.RESULT_CREDIT, encode_credit(1), 0, "credit for call 1, whose result is no stream"),
        (Kind.ARGUMENT_ITEMS, b"\x92" + b"\x01" * 20_000, 1, "on a stream with a credit of 1000"),
    ],
)
@pytest.mark.parametrize("flags", [0, 1])
async def test_messages_for_streams_that_are_not_there(kind, body, stream, match, flags, caplog):
    if flags and (kind != Kind.ARGUMENT_ITEMS or len(body) > 10):
        return
    async with opened(stream_credit=1000) as peer:
        await peer.request(1, "waits", None, streams={1: 0})
        await settle()
        await peer.raw.send(kind, 1, body, stream=stream, flags=flags)
        await peer.is_cut_off(match)


@pytest.mark.parametrize("kind", [Kind.ARGUMENT_ITEMS, Kind.ARGUMENT_END, Kind.RESULT_CREDIT])
async def test_messages_of_streams_for_a_call_without(kind, caplog):
    class Waits:
        @trpc.method
        async def waits(self) -> None:
            await trio.sleep_forever()

    # The first one has never seen a stream.
    async with opened(Waits()) as peer:
        await peer.raw.send_request(1, "Waits.waits")
        await settle()
        await peer.raw.send(kind, 1, b"\x01", stream=0 if kind == Kind.RESULT_CREDIT else 1)
        await peer.is_cut_off("call 1 has no streams, or its request is not complete")


@pytest.mark.parametrize(
    ("kind", "flags"), [(Kind.ARGUMENT_ITEMS, 0), (Kind.ARGUMENT_ITEMS, 1), (Kind.ARGUMENT_END, 0)]
)
async def test_messages_behind_the_end_of_a_stream(kind, flags, caplog):
    async with opened() as peer:
        await peer.request(1, "waits", None, streams={1: 0})
        await peer.end()
        await settle()
        await peer.raw.send(kind, 1, b"\x91\x01", stream=1, flags=flags)
        await peer.is_cut_off("a message for stream 1 of call 1 behind its end")


async def test_items_in_fragments_without_credit(caplog):
    async with opened(stream_credit=10) as peer:
        await peer.request(1, "waits", None, streams={1: 0})
        # One item, at the cost of all credit.
        await peer.items(bytes(100))
        await peer.raw.send(Kind.ARGUMENT_ITEMS, 1, b"\x91", stream=1, flags=1)
        await peer.is_cut_off("items on a stream with a credit of -")


async def test_items_in_fragments():
    async with opened() as peer:
        await peer.request(1, "total", None, streams={1: 0})
        await settle()
        await peer.raw.send(Kind.ARGUMENT_ITEMS, 1, b"\x92\x01", stream=1, flags=1)
        await peer.raw.send(Kind.ARGUMENT_ITEMS, 1, b"\x02", stream=1, flags=2)
        await peer.end()
        assert await peer.result() == 3


@pytest.mark.parametrize("size", [64 * 1024, 64 * 1024 + 1])
async def test_the_end_of_a_stream_has_a_limit(size, caplog):
    """It costs no credit."""
    async with opened() as peer:
        await peer.request(1, "catches", None, streams={1: 0})
        error = {"code": 17, "type": "ValueError", "args": []}
        error["message"] = "x" * (size - len(msgpack.packb({**error, "message": "x" * 60_000})) + 60_000)
        body = msgpack.packb(error)
        assert len(body) == size
        await peer.end(body)
        if size > 64 * 1024:
            await peer.is_cut_off(f"the end of a stream with {size} bytes, of 65536 allowed")
        else:
            assert (await peer.result())[0] == "ValueError"


@pytest.mark.parametrize("body", [b"", b"\x00", b"\xc1", b"\xa0"])
async def test_a_credit_that_cannot_be(body, caplog):
    async with opened(credit=1) as peer:
        await peer.request(1, "large", 100, 3)
        await peer.receive()
        await peer.raw.send(Kind.RESULT_CREDIT, 1, body)
        await peer.is_cut_off("the credit of a stream")


async def test_credit_without_end(caplog):
    async with opened(credit=1) as peer:
        await peer.request(1, "large", 2000, 3)
        await peer.receive()
        for _ in range(3):
            await peer.raw.send(Kind.RESULT_CREDIT, 1, encode_credit(2**32 - 1))
        assert (await peer.results())[1].kind == Kind.RESULT
        # It has crossed the reply.
        await peer.raw.send(Kind.RESULT_CREDIT, 1, encode_credit(5))
        await peer.request(2, "plain", 1)
        assert await peer.result(2) is None
