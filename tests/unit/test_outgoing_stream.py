"""A stream of items to the peer: how they are put into messages, what they wait for, and its end."""

import decimal

import hypothesis.strategies as st
import msgpack
import pytest
import trio
import trio.testing
from hypothesis import given, settings
from support import start_call
from unit.boxes import ALL, NOTHING, settle

from trpc import Limits, MessageTooLarge, ProtocolError
from trpc import _codec as codec
from trpc._frames import PREAMBLE, encode_frame
from trpc._messages import ITEMS_COST, MAX_CREDIT, Hello, Kind
from trpc._outgoing import State
from trpc._outgoing_stream import OutgoingStream
from trpc._protocol import Protocol

# In these tests; in fact a fragment is larger.
FRAGMENT = 128 * 1024
# What is gathered at most.
MAX_ITEMS, MAX_BYTES = 64, 128 * 1024


def cost(*items):
    """What a message with these items costs."""
    return len(msgpack.packb(list(items))) + ITEMS_COST


class Outgoing:
    """A stream, and what it writes to."""

    def __init__(
        self,
        box,
        *,
        credit=4_000_000,
        kind=Kind.RESULT_ITEMS,
        number=0,
        has_typed_keys=False,
        protocol=None,
        max_depth=10,
        max_message_size=1 << 24,
    ):
        self.box = box
        if protocol is None:
            protocol = Protocol(Limits())
            hello = Hello(max_message_size, 10, max_depth, ("fragments", "streams"), credit)
            protocol.receive(PREAMBLE + encode_frame(Kind.HELLO, 0, hello.encode()))
        self.protocol = protocol
        self.stream = OutgoingStream(protocol, box.outbox, kind, 7, number, has_typed_keys=has_typed_keys)

    def add(self, *items):
        for item in items:
            self.stream.add(item)

    @property
    def frames(self):
        return self.box.frames

    @property
    def messages(self):
        """The items of each message that was written."""
        seen, body = [], b""
        for frame in self.frames:
            body += bytes(frame.body)
            if not frame.flags & 1:
                seen.append(msgpack.unpackb(body) if body else None)
                body = b""
        return seen


@pytest.fixture
def new_stream(new_box, monkeypatch):
    """Makes streams to a peer, over a transport that takes all."""
    monkeypatch.setattr("trpc._outbox.FRAGMENT", FRAGMENT)
    monkeypatch.setattr("trpc._outgoing_stream.FRAGMENT", FRAGMENT)

    def make(*, takes=ALL, cuts=True, max_unsent=1 << 30, is_open=False, **options):
        return Outgoing(new_box(takes=takes, cuts=cuts, max_unsent=max_unsent, is_open=is_open), **options)

    return make


# --- messages ---


@pytest.mark.parametrize("number", [1, 2, 15, 16, 17, 63, 64, 300])
async def test_what_is_gathered_leaves_in_one_message(new_stream, number):
    out = new_stream(kind=Kind.ARGUMENT_ITEMS, number=3)
    out.add(*range(number))
    assert out.frames == []
    out.stream.send(alone=True)
    (frame,) = out.frames
    assert (frame.kind, frame.id, frame.stream, frame.flags) == (Kind.ARGUMENT_ITEMS, 7, 3, 0)
    assert frame.body == msgpack.packb(list(range(number)))
    out.stream.send(alone=True)
    assert len(out.frames) == 1


async def test_an_item_is_encoded_when_it_is_added(new_stream):
    out = new_stream()
    item = [1]
    out.add(item)
    item.append(2)
    out.add(item)
    out.stream.send(alone=True)
    assert out.messages == [[[1], [1, 2]]]


async def test_items_of_any_type(new_stream):
    out = new_stream()
    out.add(None, decimal.Decimal("1.5"), {"a": (1, 2)}, b"x")
    out.stream.send(alone=True)
    assert out.messages == [[None, "1.5", {"a": [1, 2]}, b"x"]]


@pytest.mark.parametrize("has_typed_keys", [False, True])
async def test_keys_travel_as_text_if_the_hint_reads_them_back(new_stream, has_typed_keys):
    out = new_stream(has_typed_keys=has_typed_keys)
    if not has_typed_keys:
        with pytest.raises(codec.EncodeError):
            out.add({1: "a"})
        return
    out.add({1: "a"}, {"b": {2: "c"}})
    out.stream.send(alone=True)
    assert out.messages == [[{"1": "a"}, {"b": {"2": "c"}}]]
    with pytest.raises(codec.EncodeError):
        out.add({1: "a", "1": "b"})


@pytest.mark.parametrize("bad", [object(), 2**64, {1: "a"}, [[[[[[[[[[1]]]]]]]]]], {"a": {1: 2}}])
async def test_an_item_that_cannot_be_encoded_is_not_taken(new_stream, bad):
    out = new_stream()
    out.add(1)
    with pytest.raises(codec.EncodeError):
        out.add(bad)
    out.add(2)
    out.stream.send(alone=True)
    assert out.messages == [[1, 2]]


async def test_an_item_may_be_as_deep_as_its_message_allows(new_stream):
    out = new_stream(max_depth=3)
    out.add([[1]])
    with pytest.raises(codec.EncodeError, match="nested deeper than 2"):
        out.add([[[1]]])
    out.stream.send(alone=True)
    assert out.messages == [[[[1]]]]


@pytest.mark.parametrize("limit", [1000, 100_000])
async def test_an_item_may_be_as_large_as_a_message_of_it(new_stream, limit):
    out = new_stream(max_message_size=limit)
    # The heads of the item and of its message.
    most = limit - 1 - (3 if limit == 1000 else 5)
    with pytest.raises(MessageTooLarge, match=f"an item has {limit} bytes, and the peer accepts less than {limit}"):
        out.add(bytes(most + 1))
    out.add(bytes(most))
    out.add(1)
    out.stream.send(alone=True)
    assert len(out.frames[0].body) == limit
    assert out.messages == [[bytes(most)], [1]]


async def test_a_message_is_no_larger_than_the_peer_accepts(new_stream):
    out = new_stream(max_message_size=1000)
    out.add(*[bytes(300)] * 7)
    out.stream.send(alone=True)
    assert [len(message) for message in out.messages] == [3, 3, 1]
    assert all(len(frame.body) <= 1000 for frame in out.frames)


@pytest.mark.parametrize("extra", [0, 5])
async def test_large_bytes_are_not_copied(new_stream, extra):
    item = bytes(codec.LARGE + extra)
    out = new_stream(takes=NOTHING, cuts=False)
    seen = []
    out.box.transport.send_nowait = lambda chunks: seen.extend(chunks) or len(b"".join(chunks))
    out.add(item)
    out.stream.send(alone=True)
    assert any(chunk is item or getattr(chunk, "obj", None) is item for chunk in seen)
    assert b"".join(seen)[16:] == msgpack.packb([item])


async def test_large_bytes_have_a_message_of_their_own(new_stream):
    out = new_stream()
    large = bytes(codec.LARGE)
    out.add(1, 2, large, 3, large, large, 4, 5)
    out.stream.send(alone=True)
    assert out.messages == [[1, 2], [large], [3], [large], [large], [4, 5]]
    out.add(6, 7)
    out.stream.send(alone=True)
    assert out.messages[-1] == [6, 7]


async def test_it_is_full_with_so_many_items_or_bytes(new_stream):
    out = new_stream()
    out.add(*[0] * (MAX_ITEMS - 1))
    assert not out.stream.is_full
    out.add(0)
    assert out.stream.is_full
    out.stream.send(alone=True)
    assert not out.stream.is_full
    out.add(bytes(MAX_BYTES - 6))
    assert not out.stream.is_full
    out.add(0)
    assert out.stream.is_full
    out.stream.send(alone=True)
    assert not out.stream.is_full
    out.add(bytes(MAX_BYTES))
    assert out.stream.is_full


async def test_nothing_is_written_when_the_producer_has_begun_to_wait(new_stream):
    out = new_stream()
    out.stream.send_soon()
    out.add(1)
    out.stream.send_soon()
    assert out.frames == []
    await settle()
    assert out.messages == [[1]]


async def test_items_go_behind_what_is_small(new_stream):
    out = new_stream()
    out.add(1)
    out.stream.send(alone=False)
    out.box.answer(encode_frame(Kind.RESULT, 1))
    await settle()
    assert [frame.kind for frame in out.frames] == [Kind.RESULT, Kind.RESULT_ITEMS]


# --- credit ---


async def test_there_is_the_credit_that_the_peer_has_announced(new_stream):
    out = new_stream(credit=cost(1, 2, 3) + 2)
    out.add(1, 2, 3)
    out.stream.send(alone=True)
    out.add(4)
    # Of what is left of it, one item may be sent, though it costs more.
    out.stream.send(alone=True)
    out.add(5)
    out.stream.send(alone=True)
    assert out.messages == [[1, 2, 3], [4]]


async def test_to_a_peer_without_streams_nothing_is_sent(new_stream):
    protocol = Protocol(Limits())
    protocol.receive(PREAMBLE + encode_frame(Kind.HELLO, 0, Hello(1000, 10, 10).encode()))
    out = new_stream(protocol=protocol)
    out.add(1)
    out.stream.send(alone=True)
    assert out.frames == []


@pytest.mark.parametrize("number", range(1, 12))
async def test_as_many_items_leave_as_there_is_credit_for(new_stream, number):
    out = new_stream(credit=1)
    out.add("uses it up")
    out.stream.send(alone=True)
    out.add(*["abcd"] * 20)
    debt = cost("uses it up") - 1
    # Two bytes of its head may be spared by a message of less than 16 items.
    out.stream.grant(debt + cost(*["abcd"] * number) + 2)
    await settle()
    assert [len(message) for message in out.messages][:2] == [1, number]
    assert all(len(message) == 1 for message in out.messages[2:])


@pytest.mark.parametrize("size", [100, 5000, 300_000])
async def test_one_item_over_the_credit_is_sent_and_then_nothing(new_stream, size):
    out = new_stream(credit=50, is_open=True)
    out.add(bytes(size), 1)
    out.stream.send(alone=True)
    await settle()
    assert out.messages == [[bytes(size)]]
    debt = cost(bytes(size)) - 50
    out.stream.grant(debt)
    await settle()
    assert len(out.messages) == 1, "the credit is 0"
    out.stream.grant(1)
    await settle()
    assert out.messages == [[bytes(size)], [1]]


async def test_credit_that_comes_while_the_producer_waits_for_something_else(new_stream):
    out = new_stream(credit=1)
    out.add(1)
    out.stream.send(alone=True)
    out.add(2)
    out.stream.send_soon()
    out.stream.grant(100)
    assert len(out.messages) == 1, "the reader has other things to do"
    await settle()
    assert out.messages == [[1], [2]]


async def test_credit_is_limited(new_stream):
    out = new_stream(credit=100)
    out.stream.grant(MAX_CREDIT - 100)
    with pytest.raises(ProtocolError, match=f"a stream with a credit of {MAX_CREDIT + 1}"):
        out.stream.grant(1)


@settings(deadline=None)
@given(
    credit=st.integers(1, 200),
    steps=st.lists(
        st.one_of(st.tuples(st.just("add"), st.integers(0, 100)), st.tuples(st.just("grant"), st.integers(1, 200))),
        max_size=40,
    ),
)
def test_whatever_is_added_and_granted_the_rules_are_obeyed(credit, steps):
    class Outbox:
        """Takes all that is put in."""

        is_full_of_items = False

        def __init__(self):
            self.bodies = []

        def put(self, data, frame, *, bulk, alone):
            assert bulk
            assert frame.is_item
            frame.state = State.WRITTEN
            body = data[16:] if isinstance(data, bytes) else b"".join(data[1:])
            self.bodies.append(body)
            items = msgpack.unpackb(body)
            nonlocal balance
            assert items
            assert balance > 0
            assert len(items) == 1 or len(body) + ITEMS_COST <= balance
            balance -= len(body) + ITEMS_COST
            sent.extend(items)

    balance, added, sent = credit, [], []
    protocol = Protocol(Limits())
    hello = Hello(1 << 20, 10, 10, ("streams",), credit)
    protocol.receive(PREAMBLE + encode_frame(Kind.HELLO, 0, hello.encode()))
    stream = OutgoingStream(protocol, Outbox(), Kind.RESULT_ITEMS, 1, 0, has_typed_keys=False)
    for step, size in steps:
        if step == "add":
            added.append(bytes(size))
            stream.add(added[-1])
            stream.send(alone=True)
        else:
            balance += size
            stream.grant(size)
        assert sent == added[: len(sent)]
        assert balance <= 0 or sent == added, "what may leave has left"


# --- waiting ---


async def test_to_wait_is_always_a_checkpoint(new_stream):
    out = new_stream()
    with trio.testing.assert_checkpoints():
        await out.stream.wait_sent()
    out.add(1)
    with trio.testing.assert_checkpoints():
        await out.stream.wait_sent()
    assert out.messages == [[1]]
    out.stream.end()
    with trio.testing.assert_checkpoints():
        await out.stream.wait_sent()


async def test_it_is_sent_before_others_run(new_stream, nursery):
    out = new_stream()
    out.add(1)
    outcomes = {}
    nursery.start_soon(lambda: trio.lowlevel.checkpoint())
    with trio.CancelScope() as scope:
        scope.cancel()
        await out.stream.wait_sent()
    assert scope.cancelled_caught
    assert out.messages == [[1]]
    assert outcomes == {}


async def test_waiting_for_credit(new_stream, nursery):
    out = new_stream(credit=1)
    outcomes = {}
    out.add(*range(5))
    start_call(nursery, outcomes, "sent", out.stream.wait_sent)
    await settle()
    assert out.messages == [[0]]
    assert outcomes == {}
    out.stream.grant(1)
    await settle()
    assert out.messages == [[0]], "it was in debt"
    out.stream.grant(cost(0) + cost(1, 2))
    await settle()
    assert out.messages[:2] == [[0], [1, 2]]
    assert outcomes == {}
    out.stream.grant(1000)
    await settle()
    assert sum(out.messages, []) == list(range(5))
    assert outcomes == {"sent": None}


async def test_a_cancel_while_it_waits_for_credit_loses_nothing(new_stream):
    out = new_stream(credit=1)
    out.add(1)
    await out.stream.wait_sent()
    out.add(2, 3)
    for _ in range(2):
        with trio.CancelScope() as scope:
            scope.cancel()
            await out.stream.wait_sent()
        assert scope.cancelled_caught
    # Nobody waits any more: the reader sends.
    out.stream.grant(1000)
    await settle()
    assert out.messages == [[1], [2, 3]]


async def test_items_wait_for_room(new_stream, nursery):
    out = new_stream(takes=NOTHING, max_unsent=50)
    outcomes = {}
    out.add(bytes(100))
    await out.stream.wait_sent()
    assert out.box.outbox.is_full_of_items
    assert not out.box.outbox.is_full, "calls do not wait behind them"
    out.add(1)
    start_call(nursery, outcomes, "sent", out.stream.wait_sent)
    await settle()
    assert outcomes == {}
    assert out.box.transport.writing[-4:] == bytes(4), "the other item has not left"
    out.box.transport.finish()
    await settle()
    assert outcomes == {"sent": None}
    out.box.transport.finish()
    await settle()
    assert out.messages == [[bytes(100)], [1]]


async def test_several_streams_have_room_in_turn(new_stream, nursery):
    out = new_stream(takes=NOTHING, max_unsent=50)
    streams = [out, *(Outgoing(out.box, protocol=out.protocol) for _ in range(2))]
    out.add(bytes(100))
    await out.stream.wait_sent()
    outcomes = {}
    for number, one in enumerate(streams):
        one.add(*[bytes([number]) * 60] * 2)
        start_call(nursery, outcomes, number, one.stream.wait_sent)
        await settle()
    out.box.transport.open = True
    out.box.transport.finish()
    await settle()
    assert [message[0][0] for message in out.messages] == [0, 0, 1, 2]
    assert outcomes == {0: None, 1: None, 2: None}


async def test_room_that_comes_while_the_producer_waits_for_something_else(new_stream):
    out = new_stream(takes=NOTHING, max_unsent=50)
    out.add(bytes(100))
    await out.stream.wait_sent()
    out.add(1)
    out.stream.send_soon()
    # Once is enough.
    out.stream.send_soon()
    await settle()
    out.box.transport.open = True
    out.box.transport.finish()
    await settle()
    assert out.messages == [[bytes(100)], [1]]


@pytest.mark.parametrize("how", ["end", "stop"])
async def test_a_stream_that_has_ended_wants_no_room(new_stream, nursery, how):
    out = new_stream(takes=NOTHING, max_unsent=50, kind=Kind.ARGUMENT_ITEMS, number=1)
    other = Outgoing(out.box, protocol=out.protocol)
    out.add(bytes(100))
    await out.stream.wait_sent()
    outcomes = {}
    for key, one in (("one", out), ("other", other)):
        one.add(1)
        start_call(nursery, outcomes, key, one.stream.wait_sent)
        await settle()
    getattr(out.stream, how)()
    await settle()
    assert outcomes == {"one": None}
    assert len(out.box.outbox._item_waiters) == 1, "nothing holds it"
    out.box.transport.open = True
    out.box.transport.finish()
    await settle()
    assert outcomes == {"one": None, "other": None}
    assert [frame.kind for frame in out.frames] == [Kind.ARGUMENT_ITEMS, Kind.RESULT_ITEMS]


async def test_a_producer_that_has_ended_wants_no_room(new_stream):
    out = new_stream(takes=NOTHING, max_unsent=50, kind=Kind.ARGUMENT_ITEMS, number=1)
    out.add(bytes(100))
    await out.stream.wait_sent()
    out.add(1)
    out.stream.send_soon()
    out.stream.end_with(b"\xc0")
    assert not out.box.outbox._item_waiters
    await out.box.end()
    assert [frame.kind for frame in out.frames] == [Kind.ARGUMENT_ITEMS, Kind.ARGUMENT_END]


async def test_a_cancel_while_it_waits_for_room_loses_nothing(new_stream):
    out = new_stream(takes=NOTHING, max_unsent=50)
    out.add(bytes(100))
    await out.stream.wait_sent()
    out.add(1)
    with trio.CancelScope() as scope:
        scope.cancel()
        await out.stream.wait_sent()
    assert scope.cancelled_caught
    await settle()
    out.box.transport.open = True
    out.box.transport.finish()
    await settle()
    assert out.messages == [[bytes(100)], [1]]


@pytest.mark.parametrize("how", ["end", "stop"])
async def test_who_waits_for_credit_hears_of_the_end(new_stream, nursery, how):
    out = new_stream(credit=1)
    outcomes = {}
    out.add(1, 2)
    start_call(nursery, outcomes, "sent", out.stream.wait_sent)
    await settle()
    getattr(out.stream, how)()
    await settle()
    assert outcomes == {"sent": None}
    assert out.messages == [[1]]
    # A grant that has crossed it is without effect.
    out.stream.grant(1000)
    out.add(3)
    out.stream.send(alone=True)
    await settle()
    assert out.messages == [[1]]


# --- large items ---

# More than a fragment each; the first costs all the credit.
LARGE = bytes(FRAGMENT + 1)


async def test_nothing_of_the_stream_comes_between_the_fragments_of_an_item(new_stream, nursery):
    out = new_stream(takes=NOTHING)
    outcomes = {}
    out.add(LARGE)
    start_call(nursery, outcomes, "sent", out.stream.wait_sent)
    await settle()
    assert out.stream.is_full
    out.add(1)
    out.stream.send_soon()
    out.stream.grant(10)
    other = Outgoing(out.box, protocol=out.protocol)
    other.add(2)
    other.stream.send_soon()
    await settle()
    assert outcomes == {}
    while out.box.transport.writing is not None:
        out.box.transport.finish()
        await settle()
    assert outcomes == {"sent": None}
    assert [(frame.flags, len(frame.body)) for frame in out.frames] == [(1, FRAGMENT), (2, 7), (0, 2), (0, 2)]


async def test_an_item_that_has_left_at_once_is_not_waited_for(new_stream):
    out = new_stream(cuts=False)
    out.add(LARGE)
    out.stream.send(alone=True)
    assert not out.stream.is_full
    out.add(1)
    out.stream.send(alone=True)
    assert out.messages == [[LARGE], [1]]


@pytest.mark.parametrize("begun", [False, True])
async def test_a_cancel_while_a_large_item_leaves_has_no_effect_on_it(new_stream, begun):
    out = new_stream(takes=NOTHING)
    if not begun:
        await out.box.writing(encode_frame(Kind.RESULT, 1))
    out.add(LARGE)
    with trio.CancelScope() as scope:
        if begun:
            out.stream.send(alone=True)
            await settle()
        scope.cancel()
        await out.stream.wait_sent()
    assert scope.cancelled_caught
    out.add(1)
    await settle()
    out.box.transport.open = True
    out.box.transport.finish()
    await out.stream.wait_sent()
    await settle()
    assert out.messages[-2:] == [[LARGE], [1]]


async def test_what_is_gathered_behind_a_large_item_leaves_when_that_has_left(new_stream):
    """Although its producer is not there: a scope of its own has fired, and it waits for something else."""
    out = new_stream(takes=NOTHING)
    out.add(LARGE)
    out.stream.send(alone=True)
    out.add(1)
    out.stream.send_soon()
    out.stream.grant(1000)
    await settle()
    out.box.transport.open = True
    out.box.transport.finish()
    await settle()
    assert out.messages == [[LARGE], [1]]


async def test_behind_a_large_item_there_may_be_no_credit(new_stream, nursery):
    out = new_stream(takes=NOTHING, credit=1, is_open=True)
    outcomes = {}
    out.add(LARGE, 1)
    start_call(nursery, outcomes, "sent", out.stream.wait_sent)
    await settle()
    assert out.messages == [[LARGE]]
    assert outcomes == {}
    out.stream.grant(2 * len(LARGE))
    await settle()
    assert out.messages == [[LARGE], [1]]
    assert outcomes == {"sent": None}


@pytest.mark.parametrize("how", ["end", "stop", "end_with"])
@pytest.mark.parametrize("begun", [False, True])
async def test_of_a_large_item_that_nobody_wants_the_rest_does_not_leave(new_stream, nursery, how, begun):
    out = new_stream(takes=NOTHING, kind=Kind.ARGUMENT_ITEMS, number=1)
    if not begun:
        await out.box.writing(encode_frame(Kind.RESULT, 1))
    out.add(bytes(3 * FRAGMENT))
    outcomes = {}
    start_call(nursery, outcomes, "sent", out.stream.wait_sent)
    await settle()
    getattr(out.stream, how)(*[b"\xc0"] if how == "end_with" else [])
    await settle()
    assert outcomes == {"sent": None}
    await out.box.end()
    seen = [frame.kind for frame in out.frames]
    expected = [Kind.ARGUMENT_ITEMS if begun else Kind.RESULT]
    assert seen == expected + [Kind.ARGUMENT_END] * (how == "end_with")


# --- the end ---


@pytest.mark.parametrize("has_scope", [False, True])
async def test_a_stop_cancels_the_producer(new_stream, has_scope):
    out = new_stream(kind=Kind.ARGUMENT_ITEMS, number=1)
    if has_scope:
        out.stream.scope = trio.CancelScope()
    out.add(1)
    out.stream.stop()
    assert out.stream.is_over
    assert not out.stream.call_is_over
    assert not has_scope or out.stream.scope.cancel_called
    # It still says that it has ended.
    out.stream.end_with(b"\xc0")
    (frame,) = out.frames
    assert (frame.kind, frame.id, frame.stream, frame.body) == (Kind.ARGUMENT_END, 7, 1, b"\xc0")
    out.stream.stop()


async def test_the_end_of_the_call_says_nothing(new_stream):
    out = new_stream(kind=Kind.ARGUMENT_ITEMS, number=1)
    out.stream.scope = trio.CancelScope()
    out.stream.end()
    assert out.stream.is_over
    assert out.stream.call_is_over
    assert out.stream.scope.cancel_called
    out.stream.end_with(b"\xc0")
    assert out.frames == []


async def test_what_is_gathered_is_dropped_at_the_end(new_stream):
    out = new_stream()
    out.add(*[bytes(MAX_BYTES)] * 2)
    out.stream.stop()
    out.stream.send(alone=True)
    out.stream.send_soon()
    await settle()
    assert out.frames == []
    # Else its producer would wait again and again for what is there no more.
    assert not out.stream.is_full


async def test_the_end_of_an_argument_goes_behind_its_items(new_stream):
    out = new_stream(takes=NOTHING, kind=Kind.ARGUMENT_ITEMS, number=1)
    await out.box.writing(encode_frame(Kind.RESULT, 1))
    out.add(1)
    out.stream.send(alone=True)
    out.stream.end_with(b"\xc0")
    out.box.put(encode_frame(Kind.RESULT, 2))
    await out.box.end()
    kinds = [Kind.RESULT, Kind.RESULT, Kind.ARGUMENT_ITEMS, Kind.ARGUMENT_END]
    assert [frame.kind for frame in out.frames] == kinds


async def test_the_connection_ends_while_a_large_item_leaves(new_stream, nursery):
    out = new_stream(takes=NOTHING)
    out.add(LARGE)
    outcomes = {}
    start_call(nursery, outcomes, "sent", out.stream.wait_sent)
    await settle()
    out.box.transport.fail(trio.BrokenResourceError())
    await settle()
    assert outcomes == {"sent": None}
    # As the call fails, nobody asks what became of these.
    out.add(LARGE)
    await out.stream.wait_sent()
    assert not out.stream.is_full
