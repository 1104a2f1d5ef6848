"""Credit: what a sender sends is always within what was granted, and a receiver takes that and nothing else."""

import contextlib
import math
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator
from unittest import mock

import hypothesis.strategies as st
import trio
import trio.testing
from hypothesis import HealthCheck, given, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from support import connected, joined

import trpc
from trpc import Limits, ProtocolError, _codec, _outbox, _outgoing_stream
from trpc._fragments import FRAGMENTED
from trpc._frames import CONTINUED, MORE, PREAMBLE, FrameReader, encode_frame
from trpc._incoming_stream import IncomingStream
from trpc._messages import FRAGMENTS, STREAMS, Hello, Kind
from trpc._outgoing import State
from trpc._outgoing_stream import OutgoingStream
from trpc._protocol import Protocol


class Rules:
    """The page's rules of credit, written once more."""

    def __init__(self, credit):
        self.credit = credit

    def allow(self, body, count):
        """Whether a message with so many items may be sent."""
        return self.credit > 0 and (count == 1 or len(body) + 16 <= self.credit)

    def take(self, body):
        self.credit -= len(body) + 16


# --- the sender ---

# Sizes of items: small ones, and some that are more than a message, a fragment or the credit may have.
sizes = st.integers(0, 12) | st.integers(0, 300)
MAX_MESSAGE_SIZE = 250
FRAGMENT = 100


class OutboxOfRules:
    """Takes what a stream sends, and finds out whether it may."""

    def __init__(self, credit):
        self.is_full_of_items = False
        self.told_of_room = []
        self.rules = Rules(credit)
        self.items = []
        self.large = None

    def put(self, data, outgoing, *, bulk, alone):
        assert bulk, "items go behind what is small"
        assert not self.is_full_of_items
        (frame,) = FrameReader(max_body=1 << 20).feed(PREAMBLE + joined(data))
        assert (frame.kind, frame.id, frame.flags, frame.stream) == (Kind.ARGUMENT_ITEMS, 1, 0, 3)
        assert self.large is None, "something is sent inside a message that may be in fragments"
        items = _codec.unpack(frame.body, max_depth=10)
        assert items
        assert len(frame.body) <= MAX_MESSAGE_SIZE
        assert self.rules.allow(frame.body, len(items)), (self.rules.credit, len(frame.body), len(items))
        self.rules.take(frame.body)
        self.items += items
        outgoing.state = State.WRITTEN
        if len(frame.body) > FRAGMENT and not alone:
            outgoing.state = State.QUEUED
            self.large = outgoing

    def call_with_room(self, function):
        self.told_of_room.append(function)

    def forget_room(self, function):
        if function in self.told_of_room:
            self.told_of_room.remove(function)

    def discard(self, frame):
        assert frame is self.large
        self.large = None


class Sender(RuleBasedStateMachine):
    @initialize(credit=st.integers(1, 400))
    def open(self, credit):
        self.patch = mock.patch.object(_outgoing_stream, "FRAGMENT", FRAGMENT)
        self.patch.start()
        protocol = Protocol(Limits())
        hello = Hello(MAX_MESSAGE_SIZE, 10, 64, (FRAGMENTS, STREAMS), credit)
        protocol.receive(PREAMBLE + encode_frame(Kind.HELLO, 0, hello.encode()))
        self.outbox = OutboxOfRules(credit)
        self.stream = OutgoingStream(protocol, self.outbox, Kind.ARGUMENT_ITEMS, 1, 3, has_typed_keys=False)
        self.added = []
        self.is_over = False

    @rule(size=sizes)
    def add(self, size):
        item = len(self.added).to_bytes(2, "big") * (size // 2)
        try:
            self.stream.add(item)
        except trpc.MessageTooLarge:
            assert len(item) + 3 >= MAX_MESSAGE_SIZE
        else:
            if not self.is_over:
                self.added.append(item)

    @rule(alone=st.booleans())
    def send(self, alone):
        self.stream.send(alone=alone)

    @rule()
    def pause(self):
        self.stream.send_soon()

    @rule(size=st.integers(1, 500))
    def grant(self, size):
        self.outbox.rules.credit += size
        self.stream.grant(size)

    @rule()
    def there_is_no_room(self):
        self.outbox.is_full_of_items = True

    @rule()
    def there_is_room(self):
        self.outbox.is_full_of_items = False
        while self.outbox.told_of_room:
            self.outbox.told_of_room.pop()()

    @precondition(lambda self: self.outbox.large is not None)
    @rule()
    def large_one_has_left(self):
        large, self.outbox.large = self.outbox.large, None
        large.state = State.WRITTEN
        large.on_left()

    @rule(really=st.integers(0, 20))
    def stop(self, really):
        if really == 0:
            self.stream.stop()
            self.is_over = True
            del self.added[len(self.outbox.items) :]

    @invariant()
    def items_are_in_order(self):
        if hasattr(self, "outbox"):
            assert self.outbox.items == self.added[: len(self.outbox.items)]

    def teardown(self):
        """With credit and room enough everything leaves."""
        try:
            self.there_is_room()
            for _ in range(len(self.added) + 1):
                if self.outbox.large is not None:
                    self.large_one_has_left()
                self.grant(1000)
                self.send(alone=False)
            assert self.outbox.items == self.added
        finally:
            self.patch.stop()


TestSender = Sender.TestCase
TestSender.settings = settings(
    deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=150, stateful_step_count=40
)


# --- the receiver ---


class Grants:
    """The sender as its receiver sees it."""

    def __init__(self, rules):
        self.rules = rules

    def grant(self, size):
        assert 1 <= size <= 2**32 - 1
        self.rules.credit += size

    async def leave(self):
        await trio.lowlevel.checkpoint()


def bodies_of(items):
    return _codec.pack(items, max_depth=10)


messages = st.lists(st.lists(st.binary(max_size=60), min_size=1, max_size=4), max_size=30)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=300)
@given(
    credit=st.integers(1, 300),
    steps=st.lists(st.integers(0, 5) | st.lists(st.binary(max_size=60), min_size=1, max_size=4), max_size=40),
)
def test_a_receiver_takes_what_the_rules_allow(credit, steps):
    """A step is a message, or how many items the consumer takes."""
    waiting = deque()

    async def main():
        rules = Rules(credit)
        stream = IncomingStream(Grants(rules), credit=credit, items=None, max_depth=10, bad_item=ProtocolError)
        kept = deque()
        for step in steps:
            if isinstance(step, int):
                for _ in range(min(step, len(waiting))):
                    item, is_first = waiting.popleft()
                    assert stream.receive_nowait() == item
                    if is_first:
                        kept.popleft()
                continue
            body = bodies_of(step)
            if not rules.allow(body, len(step)):
                try:
                    stream.on_items(body)
                except ProtocolError:
                    return
                raise AssertionError(f"{len(step)} items of {len(body)} bytes with a credit of {rules.credit}")
            rules.take(body)
            stream.on_items(body)
            waiting.extend((item, i == 0) for i, item in enumerate(step))
            kept.append(len(body) + 16)
            # Beside the message that is being consumed, all that it has to keep: its credit and one message.
            assert sum(kept) < credit + kept[-1]
        while waiting:
            assert stream.receive_nowait() == waiting.popleft()[0]
        # Nobody waits for ever: who has taken all has granted enough for one item.
        assert rules.credit > 0
        try:
            stream.receive_nowait()
        except trio.WouldBlock:
            return
        raise AssertionError("an item too many")

    trio.run(main)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=300)
@given(bodies=st.lists(st.binary(max_size=30) | messages.map(bodies_of), max_size=6), credit=st.integers(1, 100))
def test_any_bodies_are_items_or_one_error(bodies, credit):
    async def main():
        stream = IncomingStream(
            Grants(Rules(credit)), credit=credit, items=None, max_depth=10, bad_item=lambda _: ProtocolError()
        )
        try:
            for body in bodies:
                stream.on_items(body)
            while True:
                with trio.fail_after(0):
                    await stream.receive()
        except (ProtocolError, trio.TooSlowError):
            pass

    trio.run(main)


# --- whole connections ---


class Service:
    @trpc.method
    async def echo(self, value: bytes) -> bytes:
        return value

    @trpc.method
    async def blobs(self, sizes: list[int]) -> AsyncIterator[bytes]:
        for size in sizes:
            yield bytes(size)

    @trpc.method
    async def fail(self, sizes: list[int]) -> AsyncIterator[bytes]:
        for size in sizes:
            yield bytes(size)
        raise ValueError("enough")

    @trpc.method
    async def measure(self, items: AsyncIterable[bytes], ballast: bytes) -> list[int]:
        return [len(item) async for item in items]

    @trpc.method
    async def some(self, items: trio.abc.ReceiveChannel[bytes], n: int) -> list[int]:
        return [len(await items.receive()) for _ in range(n)]

    @trpc.method
    async def mirror(self, items: AsyncIterable[bytes], times: int) -> AsyncIterator[bytes]:
        async for item in items:
            for _ in range(times):
                yield item


async def produce(sizes, pauses):
    for i, size in enumerate(sizes):
        if pauses and i % pauses == 0:
            await trio.sleep(0.001)
        yield bytes(size)


item_sizes = st.lists(st.integers(0, 20) | st.integers(0, 2000), max_size=12)
calls = st.lists(
    st.tuples(
        st.sampled_from(["echo", "blobs", "leave", "fail", "measure", "some", "mirror"]),
        item_sizes,
        st.integers(0, 3),
    ),
    max_size=6,
)


async def check(proxy, call):
    """One call, and whether what comes of it is what was sent."""
    name, sizes, number = call
    match name:
        case "echo":
            assert len(await proxy.echo(bytes(sum(sizes)))) == sum(sizes)
        case "blobs":
            async with proxy.blobs(sizes) as items:
                got = []
                async for item in items:
                    got.append(len(item))
                    if number:
                        await trio.sleep(0.001 * number)
            assert got == sizes
        case "leave":
            async with proxy.blobs(sizes) as items:
                assert [len(await items.receive()) for _ in sizes[:number]] == sizes[:number]
        case "fail":
            got = []
            try:
                async with proxy.fail(sizes) as items:
                    async for item in items:
                        got.append(len(item))
            except ValueError:
                assert got == sizes
            else:
                raise AssertionError("the error is missing")
        case "measure":
            # The request is large as well.
            assert await proxy.measure(produce(sizes, number), bytes(1000 * number)) == sizes
        case "some":
            taken = min(number, len(sizes))
            assert await proxy.some(produce(sizes, number), taken) == sizes[:taken]
        case "mirror":
            async with proxy.mirror(produce(sizes, 2), number) as items:
                assert [len(item) async for item in items] == [size for size in sizes for _ in range(number)]


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=60)
@given(
    calls=calls,
    windows=st.tuples(st.integers(1, 3000), st.integers(1, 3000)),
    fragment=st.integers(64, 3000),
)
def test_calls_with_streams_at_once(calls, windows, fragment):
    """With any credit and fragments of any size. A breach of the rules would close the connection."""

    async def main():
        ours, theirs = (Limits(stream_credit=credit, max_unsent=5000) for credit in windows)
        # On this clock, whoever waits for ever fails at once.
        with trio.fail_after(1000):
            async with connected(Service(), limits=ours, serve={"limits": theirs}) as (client, _):
                proxy = client.proxy(Service)
                async with trio.open_nursery() as nursery:
                    for call in calls:
                        nursery.start_soon(check, proxy, call)
                assert await client.ping() < math.inf

    with (
        mock.patch.object(_outbox, "FRAGMENT", fragment),
        mock.patch.object(_outbox, "FIRST_FRAGMENT", min(fragment, 100)),
        mock.patch.object(_outgoing_stream, "FRAGMENT", fragment),
    ):
        trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


# --- any frames, for whole connections ---

PACK = _codec.pack
requests = st.sampled_from(
    [
        ("echo", [b"value"], None),
        ("blobs", [[1, 50, 200]], None),
        ("fail", [[1, 50]], None),
        ("measure", [None, b"ballast"], {"1": 0}),
        ("some", [None, 2], {"1": 0}),
        ("mirror", [None, 3], {"2": 0}),
    ]
) | st.tuples(
    st.sampled_from(["measure", "mirror", "none"]),
    st.lists(st.none() | st.binary(max_size=20) | st.integers(0, 5), max_size=3),
    st.none() | st.dictionaries(st.sampled_from(["1", "2"]), st.integers(0, 2), max_size=2),
)
item_bodies = st.lists(st.binary(max_size=30), max_size=4).map(bodies_of) | st.just(b"\x91\xc0")
credit_bodies = st.integers(0, 200).map(lambda size: PACK(size, max_depth=1))
BODIES = {
    Kind.ARGUMENT_ITEMS: item_bodies,
    Kind.RESULT_ITEMS: item_bodies,
    Kind.ARGUMENT_CREDIT: credit_bodies,
    Kind.RESULT_CREDIT: credit_bodies,
    Kind.ARGUMENT_END: st.just(b"\xc0"),
    Kind.RESULT: st.just(b"\xc0") | item_bodies,
}
REPLIES = [Kind.RESULT, Kind.ERROR, Kind.CANCELLED, Kind.EXPIRED]
OF_ARGUMENTS = {Kind.ARGUMENT_ITEMS, Kind.ARGUMENT_END, Kind.ARGUMENT_CREDIT, Kind.ARGUMENT_STOP}


@st.composite
def likely_frames(draw, kinds, calls):
    """Frames of some kinds, most of them in a form that may be right; a message may be in two fragments.

    ``calls`` are those that there are, each with the numbers of its streams.
    """
    frames, calls = [], dict(calls)

    def rarely():
        return draw(st.integers(0, 29)) == 29

    for kind in draw(st.lists(st.sampled_from(kinds), min_size=3, max_size=20)):
        call_id = draw(st.sampled_from(sorted(calls))) if calls else 1
        bodies = BODIES.get(kind, st.just(b""))
        if kind in {Kind.REQUEST, Kind.NOTIFY}:
            method, args, streams = draw(requests)
            call_id = max(calls, default=0) + 1
            calls[call_id] = [int(number) for number in streams or ()]
            bodies = st.just(PACK([f"Service.{method}", args, None, None, None, streams], max_depth=64))
        stream = 0
        if kind in OF_ARGUMENTS:
            ids = [call_id for call_id, streams in calls.items() if streams]
            call_id = draw(st.sampled_from(ids)) if ids and not rarely() else call_id
            stream = draw(st.integers(1, 3)) if rarely() else draw(st.sampled_from(calls.get(call_id) or [1]))
        body = draw(st.binary(max_size=5) if rarely() else bodies)
        cut = draw(st.integers(0, 40))
        parts = [(body, 0)]
        if 0 < cut < len(body) and kind in FRAGMENTED:
            parts = [(body[:cut], MORE), (body[cut:], CONTINUED)]
        frames += [encode_frame(kind, call_id, part, flags=flags, stream=stream) for part, flags in parts]
        if rarely():
            frames[-2:] = frames[:-3:-1]
    return frames


OPENING = PREAMBLE + encode_frame(Kind.HELLO, 0, Hello(10_000, 10, 64, (FRAGMENTS, STREAMS), 100).encode())


async def send_some(stream, frames):
    """What they cause happens in between."""
    with contextlib.suppress(trio.BrokenResourceError):
        for data in frames:
            await stream.send_all(data)
            await trio.sleep(0.001)


async def all_of(stream):
    """The kinds of what is sent to this side, for some time or to the end."""
    reader, kinds = FrameReader(max_body=1 << 20), []
    with trio.move_on_after(10), contextlib.suppress(trio.ClosedResourceError):
        while data := await stream.receive_some(65536):
            kinds += [frame.kind for frame in reader.feed(data)]
    return kinds


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=150)
@given(
    frames=likely_frames(
        [
            *[Kind.REQUEST] * 3,
            *[Kind.ARGUMENT_ITEMS] * 4,
            Kind.ARGUMENT_END,
            Kind.CANCEL,
            Kind.RESULT_CREDIT,
            Kind.NOTIFY,
        ],
        {},
    )
)
def test_any_frames_for_a_server(frames):
    """It answers, or says goaway and closes; a mistake of its own would be in the log."""

    async def main():
        ours, theirs = trio.testing.memory_stream_pair()
        with trio.fail_after(1000):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(trpc.serve_stream, Service(), theirs)
                await ours.send_all(OPENING)
                await send_some(ours, [*frames, encode_frame(Kind.PING, 7)])
                kinds = await all_of(ours)
                nursery.cancel_scope.cancel()
        assert kinds[0] == Kind.HELLO
        assert (Kind.PONG in kinds) != (Kind.GOAWAY in kinds)

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=150)
@given(
    frames=likely_frames(
        [*[Kind.RESULT_ITEMS] * 6, *[Kind.ARGUMENT_CREDIT] * 3, Kind.ARGUMENT_STOP, *REPLIES],
        {1: [1, 2], 2: [1, 2], 3: [1], 4: [1]},
    )
)
def test_any_frames_for_a_client(frames):
    """Each call comes to a value or an error."""

    async def main():
        ours, theirs = trio.testing.memory_stream_pair()
        ended = 0

        async def value(client):
            nonlocal ended
            try:
                await client.call("Service.measure", produce([5] * 3, 0), produce([50], 0))
            except trpc.RPCError:
                pass
            ended += 1

        async def items(client):
            nonlocal ended
            try:
                async with client.stream("Service.mirror", produce([5] * 3, 0)) as stream:
                    async for _ in stream:
                        pass
            except trpc.RPCError:
                pass
            ended += 1

        with trio.fail_after(1000):
            async with trio.open_nursery() as nursery:
                await ours.send_all(OPENING)
                async with trpc.connect_stream(theirs) as client:
                    async with trio.open_nursery() as callers:
                        for call in (value, value, items, items):
                            callers.start_soon(call, client)
                        await trio.sleep(1)
                        await send_some(ours, frames)
                        nursery.start_soon(all_of, ours)
                        await trio.sleep(1)
                        await ours.aclose()
        assert ended == 4

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
