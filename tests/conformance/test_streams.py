"""credit.json against the receiver of a stream; streams.json against whole connections."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import AsyncIterable, AsyncIterator
from typing import Any

import pytest
import trio
import trio.testing
from conformance.annotate import read, untag
from conformance.vectors import LIMITS, MAX_DEPTH, OPENING, cases, data_of, same
from support import settle

import trpc
from trpc import _codec
from trpc._errors import ProtocolError
from trpc._exceptions import Code
from trpc._frames import Frame, FrameReader, encode_frame
from trpc._incoming_stream import IncomingStream
from trpc._messages import Kind

# --- credit ---


class NoSender:
    def grant(self, size: int) -> None:
        raise AssertionError("nothing was consumed")

    async def leave(self) -> None:
        await trio.lowlevel.checkpoint()


@pytest.mark.parametrize("vector", cases("credit", "vectors"))
async def test_credit(vector):
    stream = IncomingStream(
        NoSender(), credit=vector["stream_credit"], items=None, max_depth=MAX_DEPTH, bad_item=ProtocolError
    )
    for step in vector["steps"]:
        if "grant" in step:
            # As the stream itself does when its consumer has taken enough.
            stream._credit += step["grant"]
        elif step["accepted"]:
            stream.on_items(data_of(step["items"]))
        else:
            with pytest.raises(ProtocolError):
                stream.on_items(data_of(step["items"]))
        assert stream._credit == step["left"]


# --- the tested side's service ---


class Conformance:
    """What README.md says of it."""

    @trpc.method
    def echo(self, value: Any) -> Any:
        return value

    @trpc.method
    async def sleep(self) -> None:
        await trio.sleep_forever()

    @trpc.method
    async def count(self, n: int) -> AsyncIterator[int]:
        for i in range(n):
            yield i

    @trpc.method
    async def blobs(self, n: int, size: int) -> AsyncIterator[bytes]:
        for _ in range(n):
            yield bytes(size)

    @trpc.method
    async def fail(self, n: int) -> AsyncIterator[int]:
        for i in range(n):
            yield i
        raise ValueError("enough")

    @trpc.method
    async def endless(self) -> AsyncIterator[int]:
        i = 0
        while True:
            yield i
            i += 1

    @trpc.method
    async def spill(self) -> AsyncIterator[int]:
        try:
            yield 0
            await trio.sleep_forever()
        except trio.Cancelled:
            raise OSError("disk full") from None

    @trpc.method
    async def total(self, items: AsyncIterable[int]) -> int:
        return sum([item async for item in items])

    @trpc.method
    async def first(self, items: trio.abc.ReceiveChannel[int]) -> int:
        item = await items.receive()
        await items.aclose()
        return item

    @trpc.method
    async def early(self, items: AsyncIterable[int]) -> None:
        pass

    @trpc.method
    async def hold(self, items: AsyncIterable[Any]) -> None:
        await trio.sleep_forever()

    @trpc.method
    async def double(self, items: AsyncIterable[int]) -> AsyncIterator[int]:
        async for item in items:
            yield 2 * item

    @trpc.method
    async def zip(self, left: trio.abc.ReceiveChannel[Any], right: trio.abc.ReceiveChannel[Any]) -> list[Any]:
        return [[item, await right.receive()] async for item in left]


# --- the other side, by the bytes ---


class Peer:
    """Does the steps of a vector. Items are taken from any number of messages."""

    def __init__(self, stream: trio.testing.MemoryReceiveStream) -> None:
        self._stream = stream
        self._reader = FrameReader(max_body=LIMITS.max_message_size)
        self._frames: list[Frame] = []
        self._items: list[Any] = []
        self._kinds_of_items: set[tuple[int, int]] = set()

    async def next(self) -> Frame | None:
        """The next frame; None at the end of the stream."""
        while not self._frames:
            data = await self._stream.receive_some(65536)
            if not data:
                return None
            self._frames += self._reader.feed(data)
        return self._frames.pop(0)

    async def next_but(self, *kinds: Kind) -> Frame:
        """The next one that is of no such kind."""
        while True:
            frame = await self.next()
            assert frame is not None, "it has closed the connection"
            if frame.kind not in kinds:
                return frame

    async def do(self, step: dict[str, Any]) -> None:
        match step:
            case {"send": hex_}:
                await self._stream.send_all(data_of(hex_))
            case {"items": items, "id": call_id}:
                await self._take_items(untag(items), call_id, step.get("stream", 0))
            case {"reply": kind, "id": call_id}:
                # Items of endless streams, and credit, may come before it.
                skipped = [Kind.ARGUMENT_CREDIT, Kind.ARGUMENT_STOP]
                if kind in {"CANCELLED", "EXPIRED"}:
                    skipped.append(Kind.RESULT_ITEMS)
                    self._items.clear()
                frame = await self.next_but(*skipped)
                assert (frame.kind, frame.id) == (Kind[kind], call_id)
                assert not self._items
                if "body" in step:
                    assert same(untag(read(bytes(frame.body))), untag(step["body"]))
                if "error" in step:
                    error = untag(read(bytes(frame.body)))
                    assert {key: error.get(key) for key in step["error"]} == step["error"]
            case {"stop": stream, "id": call_id}:
                frame = await self.next_but(Kind.ARGUMENT_CREDIT)
                assert (frame.kind, frame.id, frame.stream) == (Kind.ARGUMENT_STOP, call_id, stream)
            case {"pong": number}:
                frame = await self.next_but()
                assert (frame.kind, frame.id) == (Kind.PONG, number)
            case {"message": message}:
                skipped = [] if message["kind"] == "RESULT_CREDIT" else [Kind.RESULT_CREDIT]
                frame = await self.next_but(*skipped)
                assert (Kind(frame.kind).name, frame.id, frame.stream) == (
                    message["kind"],
                    message["id"],
                    message.get("stream", 0),
                )
                if "body" in message:
                    assert read(bytes(frame.body)) == message["body"]
            case {"nothing": True}:
                await settle()
                # Time enough for what is there already.
                with trio.move_on_after(0.01):
                    pytest.fail(f"it has sent {await self.next()}")
                assert not self._items
            case {"closes": True}:
                # What was on its way may come before it.
                frame = await self.next_but(
                    Kind.ARGUMENT_CREDIT, Kind.ARGUMENT_ITEMS, Kind.ARGUMENT_END, Kind.RESULT_ITEMS
                )
                assert frame.kind == Kind.GOAWAY
                assert untag(read(bytes(frame.body)))["code"] == Code.PROTOCOL_ERROR
                while await self.next() is not None:
                    pass
            case _:
                pytest.fail(f"no such step: {step}")

    async def _take_items(self, items: list[Any], call_id: int, stream: int) -> None:
        kind = Kind.ARGUMENT_ITEMS if stream else Kind.RESULT_ITEMS
        while len(self._items) < len(items):
            frame = await self.next_but(Kind.ARGUMENT_CREDIT, Kind.CANCEL)
            assert (frame.kind, frame.id, frame.stream) == (kind, call_id, stream)
            self._items += _codec.unpack(frame.body, max_depth=MAX_DEPTH)
        assert same(self._items[: len(items)], items)
        del self._items[: len(items)]


@contextlib.contextmanager
def raised_alone():
    """What is raised in a nursery with one task, without its group."""
    try:
        yield
    except BaseExceptionGroup as group:
        if len(group.exceptions) > 1:
            raise
        raise group.exceptions[0] from None


@pytest.mark.parametrize("vector", cases("streams", "callee"))
async def test_callee(vector):
    ours, theirs = trio.testing.memory_stream_pair()
    limits = dataclasses.replace(LIMITS, **vector.get("limits", {}))
    with trio.fail_after(10), raised_alone():
        async with trio.open_nursery() as nursery:
            nursery.start_soon(functools.partial(trpc.serve_stream, Conformance(), theirs, limits=limits))
            peer = Peer(ours)
            await ours.send_all(data_of(vector["hello"]) if "hello" in vector else OPENING)
            assert (await peer.next()).kind == Kind.HELLO
            for step in vector["steps"]:
                await peer.do(step)
            nursery.cancel_scope.cancel()


class Outcome:
    """What a call came to, as a vector says it."""

    def __init__(self) -> None:
        self.items: list[Any] = []
        self.value: Any = None
        self.error: Exception | None = None
        self.is_over = trio.Event()

    async def of(self, client: trpc.Client, call: dict[str, Any]) -> None:
        async def produce(items: list[Any]) -> AsyncIterator[Any]:
            for item in items:
                yield item

        args = [*untag(call["args"]), *(produce(untag(items)) for items in call["streams"])]
        try:
            if call["result"] == "stream":
                async with client.stream(call["method"], *args) as items:
                    async for item in items:
                        self.items.append(item)
            else:
                self.value = await client.call(call["method"], *args)
        except trpc.RPCError as exc:
            self.error = exc
        self.is_over.set()


@pytest.mark.parametrize("vector", cases("streams", "caller"))
async def test_caller(vector):
    ours, theirs = trio.testing.memory_stream_pair()
    limits = dataclasses.replace(LIMITS, **vector.get("limits", {}))
    outcome = Outcome()
    with trio.fail_after(10), raised_alone():
        async with trio.open_nursery() as nursery:

            async def call() -> None:
                async with trpc.connect_stream(theirs, limits=limits) as client:
                    await outcome.of(client, vector["call"])
                    await is_done.wait()

            is_done = trio.Event()
            nursery.start_soon(call)
            peer = Peer(ours)
            assert (await peer.next()).kind == Kind.HELLO
            if vector["call"]["streams"]:
                # Nothing of a feature leaves before the peer's hello is there.
                await peer.do({"nothing": True})
            await ours.send_all(data_of(vector["hello"]) if "hello" in vector else OPENING)
            for step in vector["steps"]:
                await peer.do(step)
            await outcome.is_over.wait()
            is_done.set()
            # Else the client would wait for it.
            await ours.aclose()
    expected = vector["outcome"]
    if "value" in expected:
        assert outcome.error is None
        assert same(outcome.value, untag(expected["value"]))
    else:
        assert (outcome.error is not None) is (expected["end"] == "error"), outcome.error
        if expected["items"] is not None:
            assert same(outcome.items, untag(expected["items"]))


def test_encoded_frames_are_the_same_as_in_the_page():
    """The helpers of this file do not hide a difference: a vector's bytes are plain frames."""
    (vector,) = (c.values[0] for c in cases("streams", "callee") if c.values[0]["name"] == "late-credit")
    assert data_of(vector["steps"][3]["send"]) == encode_frame(Kind.RESULT_CREDIT, 1, b"\x64")
