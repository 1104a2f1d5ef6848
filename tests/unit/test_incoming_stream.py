"""A stream of items as its consumer sees it: their order, who gets them, their end, and what is granted to the sender."""

import hypothesis.strategies as st
import msgpack
import pytest
import trio
import trio.testing
from hypothesis import given, settings
from support import settle, start_call

from trpc import ProtocolError
from trpc import _codec as codec
from trpc._incoming_stream import IncomingStream
from trpc._messages import ITEMS_COST
from trpc._signature import StreamOf

# How many items, or seconds of them, a consumer has at a stretch.
TURN = 64
MAX_TIME = 0.0005


class Sender:
    """Notes what it is told."""

    def __init__(self, stream=None):
        self.stream = stream
        self.granted = []
        self.left = 0
        self.may_end = trio.Event()
        self.may_end.set()

    def grant(self, size):
        self.granted.append(size)

    async def leave(self):
        self.left += 1
        await trio.lowlevel.checkpoint()
        await self.may_end.wait()


def pack(items):
    return msgpack.packb(items)


def end_with(error=None):
    """What is awaited behind the last item."""

    async def end():
        await trio.lowlevel.checkpoint()
        return error

    return end


class BadItem(Exception):
    pass


class Incoming:
    """A stream and its sender."""

    def __init__(self, *, hint=None, credit=10_000, max_depth=10):
        self.sender = Sender()
        self.stream = IncomingStream(
            self.sender,
            credit=credit,
            items=None if hint is None else StreamOf(codec.converter(hint), codec.converter(list[hint]), False, False),
            max_depth=max_depth,
            bad_item=BadItem,
        )
        self.sender.stream = self.stream
        self.receive = self.stream.receive
        self.receive_nowait = self.stream.receive_nowait

    def items(self, *items):
        self.stream.on_items(pack(list(items)))

    def end(self, error=None):
        self.stream.on_end(end_with(error))

    async def all(self):
        return [item async for item in self.stream]

    def consume(self, nursery, outcomes, key):
        start_call(nursery, outcomes, key, self.receive)


@pytest.fixture
async def incoming():
    return Incoming()


# --- items ---


async def test_items_come_in_their_order(incoming):
    incoming.items(1, 2)
    incoming.items(3)
    incoming.items(*range(4, 40))
    incoming.end()
    assert await incoming.all() == list(range(1, 40))


@pytest.mark.parametrize("number", [1, 15, 16, 300, 70_000])
async def test_messages_of_any_number_of_items(number):
    incoming = Incoming(credit=1_000_000)
    incoming.items(*range(number))
    incoming.end()
    assert await incoming.all() == list(range(number))


async def test_a_message_may_be_a_view_of_what_was_read(incoming):
    incoming.stream.on_items(memoryview(pack([b"a", "b"])))
    assert await incoming.receive() == b"a"
    assert await incoming.receive() == "b"


async def test_a_message_without_items_is_passed_over(incoming, nursery):
    outcomes = {}
    incoming.consume(nursery, outcomes, "a")
    await settle()
    incoming.items()
    await settle()
    assert outcomes == {}
    incoming.items()
    incoming.items(1)
    await settle()
    assert outcomes == {"a": 1}
    with pytest.raises(trio.WouldBlock):
        incoming.items()
        incoming.receive_nowait()


async def test_who_waits_gets_what_comes(incoming, nursery):
    outcomes = {}
    incoming.consume(nursery, outcomes, "a")
    await settle()
    assert outcomes == {}
    incoming.items(1)
    await settle()
    assert outcomes == {"a": 1}


async def test_items_without_a_hint_are_plain(incoming):
    incoming.items(None, [1, {"a": b"x"}], "x")
    incoming.end()
    assert await incoming.all() == [None, [1, {"a": b"x"}], "x"]


async def test_items_of_a_hint_that_takes_anything_are_plain():
    incoming = Incoming()
    stream = IncomingStream(
        incoming.sender, credit=100, items=StreamOf(None, None, False, False), max_depth=5, bad_item=BadItem
    )
    stream.on_items(pack([1, [b"x"]]))
    assert [stream.receive_nowait(), stream.receive_nowait()] == [1, [b"x"]]


async def test_items_are_what_their_hint_says():
    incoming = Incoming(hint=tuple[int, str] | None)
    incoming.items([1, "a"], None)
    incoming.end()
    assert await incoming.all() == [(1, "a"), None]


# --- several consumers ---


async def test_each_item_goes_to_one_consumer(incoming, nursery):
    seen = []

    async def consume():
        async for item in incoming.stream:
            seen.append(item)
            await trio.lowlevel.checkpoint()

    for _ in range(3):
        nursery.start_soon(consume)
    for i in range(0, 30, 3):
        incoming.items(i, i + 1, i + 2)
        await settle()
    assert sorted(seen) == list(range(30))
    incoming.end()


@pytest.mark.parametrize("messages", [[5], [1, 1, 1, 1, 1], [2, 3], [4, 1]])
async def test_nobody_is_left_waiting_while_there_are_items(incoming, nursery, messages):
    outcomes = {}
    for key in range(5):
        incoming.consume(nursery, outcomes, key)
    await settle()
    for number in messages:
        incoming.items(*["x"] * number)
    await settle()
    assert outcomes == dict.fromkeys(range(5), "x")


async def test_who_waits_longest_is_first(incoming, nursery):
    outcomes = {}
    for key in range(3):
        incoming.consume(nursery, outcomes, key)
        await settle()
    incoming.items("a", "b", "c")
    await settle()
    assert outcomes == {0: "a", 1: "b", 2: "c"}


async def test_an_item_that_somebody_else_takes_first_is_waited_for_on(incoming, nursery):
    outcomes = {}
    incoming.consume(nursery, outcomes, "a")
    await settle()
    incoming.items(1)
    assert incoming.receive_nowait() == 1
    await settle()
    assert outcomes == {}
    incoming.items(2)
    await settle()
    assert outcomes == {"a": 2}


@pytest.mark.parametrize("how", ["receive", "receive_nowait"])
async def test_who_takes_one_of_several_wakes_the_next(incoming, nursery, how):
    outcomes = {}
    for key in "ab":
        incoming.consume(nursery, outcomes, key)
    await settle()
    # One is woken for the message; somebody else is there before it runs.
    incoming.items(1, 2, 3)
    if how == "receive_nowait":
        assert incoming.receive_nowait() == 1
    else:
        incoming.consume(nursery, outcomes, "c")
    await settle()
    assert sorted(outcomes.values()) == ([2, 3] if how == "receive_nowait" else [1, 2, 3])


async def test_all_consumers_hear_of_the_end(incoming, nursery):
    outcomes = {}
    for key in range(3):
        incoming.consume(nursery, outcomes, key)
    await settle()
    incoming.items("last")
    incoming.end()
    await settle()
    kinds = sorted(type(outcome).__name__ for outcome in outcomes.values())
    assert kinds == ["EndOfChannel", "EndOfChannel", "str"]


# --- a cancel loses nothing ---


async def test_a_cancel_before_an_item_is_taken(incoming):
    incoming.items(1, 2)
    assert await incoming.receive() == 1
    for _ in range(3):
        with trio.CancelScope() as scope:
            scope.cancel()
            await incoming.receive()
        assert scope.cancelled_caught
    assert await incoming.receive() == 2


async def test_a_cancel_of_who_waits(incoming, nursery):
    with trio.CancelScope() as scope:
        scope.cancel()
        await incoming.receive()
    assert scope.cancelled_caught
    incoming.items(1)
    assert await incoming.receive() == 1


async def test_a_cancel_that_comes_behind_the_item(incoming, nursery):
    """Who is woken for it takes it, although a cancel comes before it runs."""
    outcomes = {}
    scope = trio.CancelScope()

    async def consume():
        with scope:
            outcomes["a"] = await incoming.receive()

    nursery.start_soon(consume)
    await settle()
    incoming.items(1)
    scope.cancel()
    await settle()
    assert outcomes == {"a": 1}


async def test_a_cancel_of_one_who_waits_leaves_the_item_for_the_next(incoming, nursery):
    outcomes = {}
    scope = trio.CancelScope()

    async def consume():
        with scope:
            outcomes["a"] = await incoming.receive()

    nursery.start_soon(consume)
    await settle()
    incoming.consume(nursery, outcomes, "b")
    await settle()
    scope.cancel()
    incoming.items(1)
    await settle()
    assert outcomes == {"b": 1}


@settings(deadline=None, max_examples=200)
@given(
    steps=st.lists(
        st.one_of(
            st.tuples(st.just("items"), st.integers(0, 4)),
            st.tuples(st.sampled_from(["receive", "nowait", "settle"])),
            st.tuples(st.just("cancel"), st.integers(0, 10)),
        ),
        max_size=40,
    )
)
def test_whatever_happens_each_item_is_received_once_and_nobody_waits_beside_one(steps):
    async def history():
        incoming = Incoming(credit=100_000)
        sent, seen, scopes = 0, [], []
        waiting = 0

        async def consume(scope):
            nonlocal waiting
            waiting += 1
            with scope:
                seen.append(await incoming.receive())
            waiting -= 1

        async with trio.open_nursery() as nursery:
            for step, *args in steps:
                match step:
                    case "items":
                        incoming.items(*range(sent, sent + args[0]))
                        sent += args[0]
                    case "receive":
                        scopes.append(trio.CancelScope())
                        nursery.start_soon(consume, scopes[-1])
                    case "nowait":
                        try:
                            seen.append(incoming.receive_nowait())
                        except trio.WouldBlock:
                            pass
                    case "cancel" if scopes:
                        scopes[args[0] % len(scopes)].cancel()
                    case "settle":
                        await trio.testing.wait_all_tasks_blocked()
                        assert not waiting or len(seen) == sent
            await trio.testing.wait_all_tasks_blocked()
            assert sorted(seen) == list(range(sent))[: len(seen)]
            assert not waiting or len(seen) == sent
            nursery.cancel_scope.cancel()

    trio.run(history)


# --- turns ---


async def lets_others_run(function):
    """Whether it does, beside being a point where a cancel can strike."""
    try:
        with trio.testing.assert_checkpoints():
            await function()
    except AssertionError:
        return False
    return True


async def test_others_run_after_some_items(mock_clock):
    incoming = Incoming(credit=100_000)
    incoming.items(*range(5 * TURN))
    turns = [i for i in range(5 * TURN) if await lets_others_run(incoming.receive)]
    assert turns == [0, TURN, 2 * TURN, 3 * TURN, 4 * TURN]


async def test_others_run_after_some_time(mock_clock):
    incoming = Incoming(credit=100_000)
    incoming.items(*range(10))
    assert await lets_others_run(incoming.receive)
    for _ in range(2):
        mock_clock.jump(MAX_TIME * 0.9)
        assert not await lets_others_run(incoming.receive)
        mock_clock.jump(MAX_TIME * 0.2)
        assert await lets_others_run(incoming.receive)


async def test_who_has_waited_begins_a_turn(mock_clock, nursery):
    incoming = Incoming(credit=100_000)
    outcomes = {}
    incoming.consume(nursery, outcomes, "a")
    await settle()
    mock_clock.jump(1)
    incoming.items(*range(TURN + 2))
    await settle()
    assert outcomes == {"a": 0}
    turns = [i for i in range(TURN + 1) if await lets_others_run(incoming.receive)]
    assert turns == [TURN]


async def test_each_item_is_a_point_where_a_cancel_strikes(incoming):
    incoming.items(*range(3 * TURN))
    for i in range(3 * TURN):
        with trio.CancelScope() as scope:
            scope.cancel()
            await incoming.receive()
        assert scope.cancelled_caught
        assert await incoming.receive() == i


# --- without waiting ---


async def test_receive_nowait(incoming):
    with pytest.raises(trio.WouldBlock):
        incoming.receive_nowait()
    incoming.items(1, 2)
    incoming.items(3)
    assert [incoming.receive_nowait() for _ in range(3)] == [1, 2, 3]
    with pytest.raises(trio.WouldBlock):
        incoming.receive_nowait()


@pytest.mark.parametrize("error", [None, ValueError("x")])
async def test_the_end_is_for_receive(incoming, error):
    incoming.items(1)
    incoming.end(error)
    assert incoming.receive_nowait() == 1
    with pytest.raises(trio.WouldBlock):
        incoming.receive_nowait()
    with pytest.raises(trio.EndOfChannel if error is None else ValueError):
        await incoming.receive()


# --- the end ---


async def test_the_end_is_behind_the_items_and_stays(incoming):
    incoming.items(1, 2)
    assert not incoming.stream.has_ended
    incoming.end()
    assert incoming.stream.has_ended
    assert await incoming.receive() == 1
    assert await incoming.receive() == 2
    for _ in range(3):
        with pytest.raises(trio.EndOfChannel):
            await incoming.receive()
    assert await incoming.all() == []


async def test_what_the_producer_raised_is_behind_the_items(incoming):
    incoming.items(1)
    incoming.end(ValueError("its own"))
    assert await incoming.receive() == 1
    for _ in range(2):
        with pytest.raises(ValueError, match="its own"):
            await incoming.receive()


async def test_the_first_end_counts(incoming):
    incoming.end(ValueError("first"))
    incoming.end()
    with pytest.raises(ValueError, match="first"):
        await incoming.receive()


async def test_waiting_for_the_end(incoming, nursery):
    ended = []

    async def wait():
        await incoming.stream.wait_ended()
        ended.append(True)

    nursery.start_soon(wait)
    await settle()
    incoming.stream.close()
    await settle()
    assert not ended
    incoming.end()
    await settle()
    assert ended
    await incoming.stream.wait_ended()


# --- closing ---


@pytest.mark.parametrize("how", ["aclose", "close"])
async def test_a_closed_stream_gives_nothing(incoming, nursery, how):
    outcomes = {}
    incoming.items(1, 2)
    incoming.items(3)
    assert await incoming.receive() == 1
    if how == "close":
        incoming.stream.close()
    else:
        await incoming.stream.aclose()
    with pytest.raises(trio.ClosedResourceError):
        await incoming.receive()
    with pytest.raises(trio.ClosedResourceError):
        incoming.receive_nowait()
    with pytest.raises(trio.ClosedResourceError):
        await incoming.all()
    # What still comes is dropped, and its end too.
    incoming.items(4)
    incoming.end()
    with pytest.raises(trio.ClosedResourceError):
        await incoming.receive()
    assert outcomes == {}


@pytest.mark.parametrize("how", ["aclose", "close"])
async def test_who_waits_hears_of_the_close(incoming, nursery, how):
    outcomes = {}
    for key in range(2):
        incoming.consume(nursery, outcomes, key)
    await settle()
    if how == "close":
        incoming.stream.close()
    else:
        await incoming.stream.aclose()
    await settle()
    assert [type(outcome) for outcome in outcomes.values()] == [trio.ClosedResourceError] * 2


async def test_aclose_leaves_the_sender_and_waits_for_it(incoming, nursery):
    incoming.sender.may_end = trio.Event()
    outcomes = {}
    start_call(nursery, outcomes, "close", incoming.stream.aclose)
    await settle()
    assert incoming.sender.left == 1
    assert outcomes == {}
    incoming.sender.may_end.set()
    await settle()
    assert outcomes == {"close": None}
    with trio.testing.assert_checkpoints():
        await incoming.stream.aclose()


async def test_with_a_stream_it_is_closed_at_the_end(incoming):
    async with incoming.stream as same:
        assert same is incoming.stream
    assert incoming.sender.left == 1


# --- items that cannot be ---


BAD = {
    b"\xc1": "cannot be read",
    b"": "cannot be read",
    b"\x92\x01": "cannot be read",
    b"\x91\x01\x01": "cannot be read",
    b"\x91" * 11 + b"\x01": "nested deeper than 10",
    b"\x91\xd6\xff\0\0\0\0": "cannot be read",
    b"\x01": "is not an array of items",
    b"\xc0": "is not an array of items",
    b"\x81\xa1a\x01": "is not an array of items",
    b"\xc4\x01\x91": "is not an array of items",
}


@pytest.mark.parametrize("body", BAD)
async def test_a_message_that_cannot_be_read_is_an_error_behind_what_came_before(incoming, body):
    incoming.items(1)
    incoming.stream.on_items(body)
    incoming.items(2)
    assert await incoming.receive() == 1
    for _ in range(2):
        with pytest.raises(ProtocolError, match=BAD[body]):
            await incoming.receive()
    assert incoming.sender.left > 0, "nothing more of it is wanted"
    incoming.items(3)
    incoming.end()
    with pytest.raises(ProtocolError, match=BAD[body]):
        await incoming.receive()


async def test_a_message_that_cannot_be_read_is_none_without_waiting(incoming):
    incoming.stream.on_items(b"\xc1")
    for _ in range(2):
        with pytest.raises(trio.WouldBlock):
            incoming.receive_nowait()
    with pytest.raises(ProtocolError):
        await incoming.receive()


@pytest.mark.parametrize("before", range(4))
@pytest.mark.parametrize("how", ["receive", "receive_nowait"])
async def test_the_items_before_one_that_does_not_fit_are_given(before, how):
    incoming = Incoming(hint=int)
    incoming.items(*range(before), "no number", 7)
    incoming.items(8)
    for i in range(before):
        assert (await incoming.receive() if how == "receive" else incoming.receive_nowait()) == i
    if how == "receive_nowait":
        with pytest.raises(trio.WouldBlock):
            incoming.receive_nowait()
    for _ in range(2):
        with pytest.raises(BadItem, match="Expected `int`, got `str`"):
            await incoming.receive()
    assert incoming.sender.left > 0


async def test_an_item_that_does_not_fit_behind_the_end(incoming):
    incoming = Incoming(hint=int)
    incoming.items(1, "x")
    incoming.end()
    assert await incoming.receive() == 1
    with pytest.raises(BadItem):
        await incoming.receive()


async def test_every_consumer_hears_of_an_item_that_does_not_fit(nursery):
    incoming = Incoming(hint=int)
    outcomes = {}
    for key in range(3):
        incoming.consume(nursery, outcomes, key)
    await settle()
    incoming.items(1, "x")
    await settle()
    assert sorted(type(outcome).__name__ for outcome in outcomes.values()) == ["BadItem", "BadItem", "int"]


async def test_items_that_fit_one_by_one_though_not_together():
    """A constructor of the user's may do what it likes."""
    incoming = Incoming()

    def fails(_):
        raise codec.DecodeError("not these")

    stream = IncomingStream(
        incoming.sender, credit=100, items=StreamOf(str, fails, False, False), max_depth=5, bad_item=BadItem
    )
    stream.on_items(pack([1, 2]))
    assert [stream.receive_nowait(), stream.receive_nowait()] == ["1", "2"]


# --- credit ---


def cost(*items):
    return len(pack(list(items))) + ITEMS_COST


async def test_half_of_the_credit_is_granted_at_once():
    incoming = Incoming(credit=10 * cost(1))
    for _ in range(4):
        incoming.items(1)
    for _ in range(4):
        await incoming.receive()
    assert incoming.sender.granted == []
    incoming.items(1)
    await incoming.receive()
    assert incoming.sender.granted == [5 * cost(1)]
    for _ in range(20):
        incoming.items(1)
        await incoming.receive()
    assert incoming.sender.granted == [5 * cost(1)] * 5


async def test_what_nobody_takes_is_not_granted():
    incoming = Incoming(credit=2 * cost(1))
    incoming.items(1)
    incoming.items(1)
    await settle()
    assert incoming.sender.granted == []
    # A message is paid for when its first item is wanted.
    incoming.receive_nowait()
    assert incoming.sender.granted == [cost(1)]


async def test_items_over_the_credit_are_refused(incoming):
    incoming = Incoming(credit=cost(1, 2))
    incoming.stream.check_credit()
    with pytest.raises(ProtocolError, match=f"items of {cost(1, 2, 3)} bytes on a stream with a credit of"):
        incoming.items(1, 2, 3)
    incoming.items(1, 2)
    with pytest.raises(ProtocolError, match="items on a stream with a credit of 0"):
        incoming.stream.check_credit()
    for items in ([1], [1, 2], []):
        with pytest.raises(ProtocolError, match="items on a stream with a credit of 0"):
            incoming.items(*items)


ONE = [b"\x91", b"\xdc\x00\x01", b"\xdd\x00\x00\x00\x01"]
SEVERAL = [b"\x92\x01", b"\xdc\x00\x02\x01", b"\xdd\x00\x00\x00\x02\x01", b"\xdd\x01\x00\x00\x01"]


@pytest.mark.parametrize("head", ONE)
async def test_one_item_may_cost_more_than_the_credit(head):
    body = head + pack(bytes(1000))
    incoming = Incoming(credit=1)
    incoming.stream.on_items(memoryview(body))
    with pytest.raises(ProtocolError, match=f"items on a stream with a credit of -{len(body) + ITEMS_COST - 1}"):
        incoming.items(1)
    assert await incoming.receive() == bytes(1000)
    assert incoming.sender.granted == [len(body) + ITEMS_COST]
    incoming.stream.check_credit()


@pytest.mark.parametrize("head", SEVERAL)
async def test_several_items_may_not_cost_more_than_the_credit(head):
    incoming = Incoming(credit=100)
    with pytest.raises(ProtocolError, match="on a stream with a credit of 100"):
        incoming.stream.on_items(head + pack(bytes(1000)))


@pytest.mark.parametrize("how", ["ended", "closed", "bad"])
async def test_nothing_is_granted_when_nothing_more_is_wanted(how):
    incoming = Incoming(hint=int, credit=2 * cost(1))
    incoming.items(1)
    if how == "ended":
        incoming.end()
        await incoming.receive()
    elif how == "closed":
        incoming.stream.close()
    else:
        incoming.items("x")
        await incoming.receive()
        incoming.sender.granted.clear()
        with pytest.raises(BadItem):
            await incoming.receive()
    assert incoming.sender.granted == []


@settings(deadline=None)
@given(
    credit=st.integers(1, 300),
    sizes=st.lists(st.integers(0, 100), min_size=1, max_size=30),
)
def test_who_obeys_the_credit_is_never_refused_and_never_stuck(credit, sizes):
    async def history():
        incoming = Incoming(credit=credit)
        left, balance, received = [bytes(size) for size in sizes], credit, []
        while len(received) < len(sizes):
            while left and balance > 0:
                items = [left.pop(0)]
                while left and cost(*items, left[0]) <= balance:
                    items.append(left.pop(0))
                incoming.items(*items)
                balance -= cost(*items)
            # It is never stuck: there is an item, or credit for one.
            received.append(incoming.receive_nowait())
            balance += sum(incoming.sender.granted)
            incoming.sender.granted.clear()
            assert balance <= credit
        assert [len(item) for item in received] == sizes

    trio.run(history)
