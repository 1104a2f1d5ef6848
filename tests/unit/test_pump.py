"""Taking items from their producer: what is gathered, what leaves at once, and what the producer notices of all that."""

import math

import pytest
import trio
import trio.testing
from support import settle, start_call

from trpc import InvalidArguments, MessageTooLarge
from trpc import _codec as codec
from trpc._pump import ItemError, pump

# Seconds after which others get their turn.
MAX_TIME = 0.0005


class Stream:
    """Takes items; notes in which portions they have been sent, and why."""

    def __init__(self, *, full_at=math.inf):
        self.full_at = full_at
        self.gathered = []
        self.sent = []
        self.is_over = False
        self.may_send = trio.Event()
        self.may_send.set()

    @property
    def is_full(self):
        return len(self.gathered) >= self.full_at

    @property
    def items(self):
        return [item for _, *items in self.sent for item in items]

    def add(self, item):
        if item == "bad":
            raise codec.EncodeError("it is bad")
        if item == "large":
            raise MessageTooLarge("an item is too large")
        self.gathered.append(item)

    def send_soon(self):
        self._send("soon")

    def send(self, *, alone):
        assert not alone
        self._send("last")

    async def wait_sent(self):
        self._send("wait")
        await trio.lowlevel.checkpoint()
        await self.may_send.wait()

    def _send(self, why):
        if self.gathered:
            self.sent.append([why, *self.gathered])
            self.gathered.clear()


@pytest.fixture
async def stream():
    return Stream()


@pytest.fixture
def still(mock_clock):
    """Time stands still, so that nobody's turn is over."""
    return mock_clock


class Producers:
    """All that items may come from: each gives these."""

    @staticmethod
    def generator(items):
        async def generate():
            for item in items:
                yield item

        return generate()

    @staticmethod
    def waiting_generator(items):
        async def generate():
            for item in items:
                await trio.lowlevel.checkpoint()
                yield item
            await trio.lowlevel.checkpoint()

        return generate()

    @staticmethod
    def iterator(items):
        class Iterator:
            def __init__(self):
                self.left = list(items)

            def __aiter__(self):
                return self

            async def __anext__(self):
                if not self.left:
                    raise StopAsyncIteration
                return self.left.pop(0)

        return Iterator()

    @staticmethod
    def iterable(items):
        class Iterable:
            def __aiter__(self):
                return Producers.iterator(items)

        return Iterable()

    @staticmethod
    def awaitables(items):
        """Its ``__anext__`` gives something that can be awaited, but is no coroutine."""

        class Awaitable:
            def __init__(self, coroutine):
                self.coroutine = coroutine

            def __await__(self):
                return self.coroutine.__await__()

        inner = Producers.waiting_generator(items)

        class Iterator:
            def __aiter__(self):
                return self

            def __anext__(self):
                return Awaitable(inner.__anext__())

        return Iterator()

    @staticmethod
    def channel(items):
        send, receive = trio.open_memory_channel(math.inf)
        for item in items:
            send.send_nowait(item)
        send.close()
        return receive

    @staticmethod
    def other_channel(items):
        inner = Producers.channel(items)

        class Channel(trio.abc.ReceiveChannel):
            async def receive(self):
                return await inner.receive()

            async def aclose(self):
                await inner.aclose()

        return Channel()


KINDS = ["generator", "waiting_generator", "iterator", "iterable", "awaitables", "channel", "other_channel"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("number", [0, 1, 2, 100])
@pytest.mark.parametrize("full_at", [1, 2, 7, math.inf])
async def test_all_items_are_sent_in_their_order(kind, number, full_at):
    stream = Stream(full_at=full_at)
    await pump(getattr(Producers, kind)(range(number)), stream)
    assert stream.items == list(range(number))
    assert stream.gathered == []


@pytest.mark.parametrize("kind", KINDS)
async def test_it_is_a_point_where_others_run_and_a_cancel_strikes(kind, stream):
    with trio.testing.assert_checkpoints():
        await pump(getattr(Producers, kind)([1]), stream)


# --- gathering ---


async def test_what_is_there_at_once_is_gathered(stream, still):
    await pump(Producers.generator(range(50)), stream)
    assert stream.sent == [["wait", *range(50)]]


@pytest.mark.parametrize("kind", ["generator", "iterator", "channel"])
async def test_it_is_sent_when_it_is_full(kind, still):
    stream = Stream(full_at=20)
    await pump(getattr(Producers, kind)(range(50)), stream)
    assert stream.sent == [["wait", *range(20)], ["wait", *range(20, 40)], ["wait", *range(40, 50)]]


async def test_as_soon_as_the_producer_waits_what_is_gathered_leaves(stream, still, nursery):
    events = [trio.Event() for _ in range(3)]

    async def produce():
        yield 1
        yield 2
        await events[0].wait()
        yield 3
        await events[1].wait()
        await events[2].wait()
        yield 4

    nursery.start_soon(pump, produce(), stream)
    await settle()
    assert stream.sent == [["soon", 1, 2]]
    events[0].set()
    await settle()
    assert stream.sent == [["soon", 1, 2], ["soon", 3]]
    events[1].set()
    await settle()
    assert len(stream.sent) == 2
    events[2].set()
    await settle()
    assert stream.sent[2:] == [["wait", 4]]


async def test_a_producer_that_takes_long_lets_others_run(stream, mock_clock):
    async def produce():
        for i in range(6):
            mock_clock.jump(MAX_TIME * 0.4)
            yield i

    await pump(produce(), stream)
    assert stream.sent == [["wait", 0, 1, 2], ["wait", 3, 4, 5]]


async def test_after_a_wait_the_next_item_leaves_at_once(stream, mock_clock, nursery):
    event = trio.Event()

    async def produce():
        await event.wait()
        yield 1
        await trio.sleep_forever()

    nursery.start_soon(pump, produce(), stream)
    await settle()
    mock_clock.jump(10)
    event.set()
    await settle()
    assert stream.sent == [["wait", 1]]
    nursery.cancel_scope.cancel()


async def test_what_is_in_a_channel_is_taken_at_once(stream, still, nursery):
    send, receive = trio.open_memory_channel(math.inf)
    nursery.start_soon(pump, receive, stream)
    await settle()
    for i in range(30):
        send.send_nowait(i)
    await settle()
    # The one that was waited for, and all that were there by then.
    assert stream.sent == [["soon", *range(30)]]
    send.send_nowait(30)
    await settle()
    assert stream.sent[1:] == [["soon", 30]]
    send.close()
    await settle()


async def test_a_channel_without_a_buffer(stream, nursery):
    send, receive = trio.open_memory_channel(0)
    nursery.start_soon(pump, receive, stream)
    for i in range(5):
        await send.send(i)
    send.close()
    await settle()
    assert stream.items == list(range(5))


async def test_a_channel_that_is_closed_by_somebody_else_is_an_error_behind_its_items(stream, still):
    send, receive = trio.open_memory_channel(math.inf)
    send.send_nowait(1)

    async def closes():
        stream.may_send = trio.Event()
        await receive.aclose()
        stream.may_send.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(closes)
        with pytest.raises(trio.ClosedResourceError):
            await pump(receive, stream)
    assert stream.items == [1]


# --- the end ---


class Boom(Exception):
    pass


@pytest.mark.parametrize("waits", [False, True])
async def test_what_the_producer_raises_comes_behind_its_items(stream, still, waits):
    error = Boom()

    async def produce():
        yield 1
        yield 2
        if waits:
            await trio.lowlevel.checkpoint()
        raise error

    with pytest.raises(Boom) as caught:
        await pump(produce(), stream)
    assert caught.value is error
    assert stream.items == [1, 2]


async def test_what_the_producer_raises_waits_for_its_items(stream, nursery):
    stream.may_send = trio.Event()

    async def produce():
        yield 1
        raise Boom

    outcomes = {}
    start_call(nursery, outcomes, "pump", pump, produce(), stream)
    await settle()
    assert outcomes == {}
    stream.may_send.set()
    await settle()
    assert isinstance(outcomes["pump"], Boom)


async def test_the_end_waits_for_its_items(stream, nursery):
    stream.may_send = trio.Event()
    outcomes = {}
    start_call(nursery, outcomes, "pump", pump, Producers.generator([1]), stream)
    await settle()
    assert outcomes == {}
    stream.may_send.set()
    await settle()
    assert outcomes == {"pump": None}


async def test_what_is_no_exception_comes_out_at_once(stream, still):
    async def produce():
        yield 1
        raise SystemExit(3)

    with pytest.raises(SystemExit):
        await pump(produce(), stream)
    # It ends more than this: nothing is waited for, but what was there may leave.
    assert stream.sent == [["last", 1]]


@pytest.mark.parametrize(
    ("item", "reason", "match"),
    [
        ("bad", InvalidArguments, "an item cannot be sent: it is bad"),
        ("large", MessageTooLarge, "an item is too large"),
    ],
)
@pytest.mark.parametrize("kind", ["generator", "iterator", "channel"])
async def test_an_item_that_cannot_be_sent_ends_it_behind_those_before(stream, still, kind, item, reason, match):
    with pytest.raises(ItemError, match=match) as caught:
        await pump(getattr(Producers, kind)([1, 2, item, 3]), stream)
    assert type(caught.value.reason) is reason
    assert str(caught.value.reason) == match
    assert caught.value.__cause__ is not None
    assert stream.items == [1, 2]


async def test_it_ends_when_nobody_wants_more(stream, still):
    async def produce():
        for i in range(100):
            if i == 5:
                stream.is_over = True
            yield i

    await pump(produce(), stream)
    assert stream.items == [0, 1, 2, 3, 4, 5]


# --- closing ---


class Closing:
    """A generator that notes its end."""

    def __init__(self, *, number=math.inf, error=None):
        self.ends = []
        self.number = number
        self.error = error

    async def items(self):
        i = 0
        try:
            while i < self.number:
                yield i
                i += 1
            if self.error is not None:
                raise self.error
        except BaseException as exc:
            self.ends.append(type(exc))
            raise
        finally:
            # It may still wait for something.
            with trio.CancelScope(shield=True):
                await trio.lowlevel.checkpoint()
            self.ends.append("closed")


async def test_a_generator_is_closed_at_its_end(stream):
    closing = Closing(number=3)
    await pump(closing.items(), stream)
    assert closing.ends == ["closed"]


async def test_a_generator_is_closed_when_it_raises(stream):
    closing = Closing(number=3, error=Boom())
    with pytest.raises(Boom):
        await pump(closing.items(), stream)
    assert closing.ends == [Boom, "closed"]


async def test_a_generator_is_closed_when_an_item_cannot_be_sent(stream):
    ends = []

    async def produce():
        try:
            yield "bad"
        finally:
            await trio.lowlevel.checkpoint()
            ends.append("closed")

    with pytest.raises(ItemError):
        await pump(produce(), stream)
    assert ends == ["closed"]


async def test_a_generator_is_closed_when_nobody_wants_more(stream):
    closing = Closing()
    stream.is_over = True
    generator = closing.items()
    await pump(generator, stream)
    assert closing.ends == [], "it has not begun"
    with pytest.raises(StopAsyncIteration):
        await anext(generator)


async def test_a_generator_that_another_object_hands_out_is_closed_too(stream):
    closing = Closing(number=2)

    class Iterable:
        def __aiter__(self):
            return closing.items()

    stream.full_at = 1
    stream.may_send = trio.Event()
    with trio.move_on_after(0):
        await pump(Iterable(), stream)
    assert closing.ends[-1] == "closed"


@pytest.mark.parametrize("kind", ["channel", "other_channel"])
async def test_a_channel_is_not_closed(stream, kind):
    send, receive = trio.open_memory_channel(math.inf)
    send.send_nowait(1)
    closed = []

    class Channel(trio.abc.ReceiveChannel):
        async def receive(self):
            return await receive.receive()

        async def aclose(self):
            closed.append(True)

    source = receive if kind == "channel" else Channel()
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pump, source, stream)
            await settle()
            scope.cancel()
    assert not closed
    # Somebody else may read on.
    send.send_nowait(2)
    assert await receive.receive() == 2


async def test_a_nursery_around_the_yield_is_left_when_it_is_closed(stream):
    ends = []

    async def produce():
        async with trio.open_nursery() as inner:
            inner.start_soon(trio.sleep_forever)
            try:
                while True:
                    yield 1
                    stream.is_over = True
            finally:
                ends.append("closed")

    await pump(produce(), stream)
    assert ends == ["closed"]


async def test_what_a_nursery_around_the_yield_raises_beside_is_not_lost(stream):
    async def produce():
        async with trio.open_nursery():
            try:
                yield 1
                stream.is_over = True
                yield 2
            finally:
                raise Boom

    with pytest.raises(ExceptionGroup) as caught:
        await pump(produce(), stream)
    assert caught.group_contains(Boom)
    assert not isinstance(caught.value, GeneratorExit)


# --- what happens while it waits ---


async def test_a_cancel_strikes_a_generator_where_it_has_yielded(stream, nursery):
    stream.full_at = 1
    stream.may_send = trio.Event()
    closing = Closing()
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as inner:
            inner.start_soon(pump, closing.items(), stream)
            await settle()
            scope.cancel()
    assert scope.cancelled_caught
    assert closing.ends == [trio.Cancelled, "closed"]


async def test_a_cancel_strikes_a_generator_where_it_waits(stream):
    ends = []

    async def produce():
        yield 1
        try:
            await trio.sleep_forever()
        except trio.Cancelled:
            ends.append("cancelled")
            raise

    with trio.CancelScope() as scope:
        async with trio.open_nursery() as inner:
            inner.start_soon(pump, produce(), stream)
            await settle()
            scope.cancel()
    assert scope.cancelled_caught
    assert ends == ["cancelled"]


async def test_a_cancel_of_an_iterator_that_is_no_generator(stream):
    stream.full_at = 1
    stream.may_send = trio.Event()
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as inner:
            inner.start_soon(pump, Producers.iterator([1, 2]), stream)
            await settle()
            scope.cancel()
    assert scope.cancelled_caught
    assert stream.items == [1]


async def test_a_scope_around_the_yield_does_what_it_says(autojump_clock):
    """Also while the consumer does not read."""
    stream = Stream(full_at=1)
    stream.may_send = trio.Event()
    steps = []

    async def produce():
        with trio.move_on_after(5) as scope:
            while True:
                yield "inside"
        steps.append((trio.current_time(), scope.cancelled_caught))
        stream.may_send.set()
        yield "outside"
        await trio.sleep(1)
        yield "later"

    start = trio.current_time()
    await pump(produce(), stream)
    ((when, was_caught),) = steps
    assert (when - start, was_caught) == (5, True)
    assert stream.items == ["inside", "outside", "later"]


async def test_a_timeout_around_the_yield_is_raised(autojump_clock):
    stream = Stream(full_at=1)
    stream.may_send = trio.Event()

    async def produce():
        with trio.fail_after(5):
            yield 1

    async def sends():
        await trio.sleep(7)
        stream.may_send.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(sends)
        with pytest.raises(trio.TooSlowError):
            await pump(produce(), stream)


async def test_a_generator_that_ends_on_its_scope(autojump_clock):
    stream = Stream(full_at=1)
    stream.may_send = trio.Event()

    async def produce():
        with trio.move_on_after(5):
            yield 1
        stream.may_send.set()

    await pump(produce(), stream)
    assert stream.items == [1]


async def test_an_item_that_a_generator_yields_on_its_scope_may_be_bad(autojump_clock):
    stream = Stream(full_at=1)
    stream.may_send = trio.Event()

    async def produce():
        with trio.move_on_after(5):
            yield 1
        stream.may_send.set()
        yield "bad"

    with pytest.raises(ItemError):
        await pump(produce(), stream)


async def test_what_a_generator_raises_on_its_cancel_comes_out(stream):
    stream.full_at = 1
    stream.may_send = trio.Event()

    async def produce():
        try:
            yield 1
        finally:
            raise Boom("on the way out")

    outcomes = {}

    async def run():
        try:
            await pump(produce(), stream)
        except Boom as exc:
            outcomes["pump"] = exc

    with trio.CancelScope() as scope:
        async with trio.open_nursery() as inner:
            inner.start_soon(run)
            await settle()
            scope.cancel()
    assert str(outcomes["pump"]) == "on the way out"


async def test_what_a_generator_raises_from_something_else_keeps_its_cause(stream):
    cause = KeyError("cause")

    async def produce():
        try:
            yield 1
            await trio.sleep_forever()
        finally:
            raise Boom from cause

    with trio.CancelScope() as scope:
        scope.cancel()
        with pytest.raises(Boom) as caught:
            await pump(produce(), stream)
    assert caught.value.__cause__ is cause


async def test_items_are_produced_in_one_task_and_context(stream):
    stream.full_at = 2
    tasks = set()

    async def produce():
        for i in range(10):
            tasks.add(trio.lowlevel.current_task())
            yield i
            if i == 5:
                await trio.lowlevel.checkpoint()
        tasks.add(trio.lowlevel.current_task())

    await pump(produce(), stream)
    assert tasks == {trio.lowlevel.current_task()}


async def test_what_cannot_be_iterated(stream):
    class Broken:
        def __aiter__(self):
            raise Boom

    with pytest.raises(Boom):
        await pump(Broken(), stream)
