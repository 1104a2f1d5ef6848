"""Fragments: when a message is complete, what is given up, and what must not be."""

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings
from support import joined

from trpc import Limits, ProtocolError
from trpc._fragments import FRAGMENTED, REQUESTS, Fragments
from trpc._frames import CONTINUED, MORE, Cutter, Frame, FrameReader, frame_of
from trpc._messages import Kind
from trpc._share import Share

FIRST, MIDDLE, LAST = MORE, MORE | CONTINUED, CONTINUED
FRAME = Frame(Kind.RESULT, 7, b"abc", FIRST)
# So large that the limit counts that is set here, and not the room that there is in any case.
UNIT = 2000
OF_STREAMS = {Kind.ARGUMENT_ITEMS, Kind.RESULT_ITEMS}


def begin_of(kind, call_id=1, stream=0):
    """What is given for the first fragment of a message: of one of a stream, that it begins."""
    return Frame(kind, call_id, b"", MORE, stream) if kind in OF_STREAMS else None


class Incomplete:
    """The fragments of a connection, and what was asked of the first ones."""

    def __init__(self, *, max_requests=10, max_size=UNIT * 1000, max_body=UNIT * 1000):
        limits = Limits(max_calls=max_requests, max_bytes_in_flight=max_size, max_message_size=1)
        self.share = Share(limits)
        self.fragments = Fragments(limits, self.share)
        self.max_body = max_body
        self.asked: list[Frame] = []
        self.begins = True

    def add(self, frame):
        def begins(first):
            self.asked.append(first)
            return self.begins

        return self.fragments.add(frame, begins, max_body=self.max_body)

    def add_all(self, kind, *bodies, call_id=1, stream=0):
        """Adds a message in fragments; gives what came of each."""
        last = len(bodies) - 1
        return [
            self.add(Frame(kind, call_id, body, MORE * (i < last) | CONTINUED * (i > 0), stream))
            for i, body in enumerate(bodies)
        ]

    def begin(self, kind, body=b"x", call_id=1, stream=0):
        assert self.add(Frame(kind, call_id, body, FIRST, stream)) == begin_of(kind, call_id, stream)

    def rest_is_lost(self, kind, call_id=1, stream=0):
        """Whether the rest of a message has no effect."""
        return self.add(Frame(kind, call_id, b"rest", LAST, stream)) is None


@pytest.fixture
def incomplete():
    return Incomplete()


# --- putting together ---


@pytest.mark.parametrize("kind", sorted(FRAGMENTED))
@pytest.mark.parametrize("number", [2, 3, 20])
def test_a_message_is_given_when_it_is_complete(incomplete, kind, number):
    bodies = [b"%02d" % i for i in range(number)]
    first, *more, whole = incomplete.add_all(kind, *bodies, stream=3)
    assert first == begin_of(kind, stream=3)
    assert more == [None] * (number - 2)
    assert whole == Frame(kind, 1, b"".join(bodies), 0, 3)
    assert len(incomplete.fragments) == 0


def test_parts_may_be_views_of_what_was_read(incomplete):
    buffer = memoryview(b"abcdef")
    assert incomplete.add_all(Kind.RESULT, buffer[:2], buffer[2:5], buffer[5:])[-1].body == b"abcdef"


def test_only_the_first_fragment_is_asked_about(incomplete):
    incomplete.add_all(Kind.RESULT, b"a", b"b", b"c")
    assert incomplete.asked == [Frame(Kind.RESULT, 1, b"a", FIRST)]


def test_messages_are_told_apart_by_kind_id_and_stream(incomplete):
    keys = [
        (kind, call_id, stream)
        for kind in (Kind.ARGUMENT_ITEMS, Kind.RESULT)
        for call_id in (1, 2)
        for stream in (1, 2)
    ]
    for number, key in enumerate(keys):
        incomplete.begin(key[0], b"a%d" % number, *key[1:])
    assert len(incomplete.fragments) == len(keys)
    for number, (kind, call_id, stream) in enumerate(keys):
        whole = incomplete.add(Frame(kind, call_id, b"b%d" % number, LAST, stream))
        assert whole == Frame(kind, call_id, b"a%db%d" % (number, number), 0, stream)


def test_behind_a_message_another_one_may_begin(incomplete):
    for _ in range(2):
        assert incomplete.add_all(Kind.RESULT_ITEMS, b"a", b"b")[-1].body == b"ab"
    assert len(incomplete.asked) == 2


@settings(deadline=None)
@given(
    messages=st.lists(st.tuples(st.binary(min_size=1, max_size=20), st.integers(1, 8)), min_size=1, max_size=5),
    data=st.data(),
)
def test_in_whatever_turns_they_come(messages, data):
    incomplete = Incomplete()
    cutters = {
        call_id: Cutter(frame_of(Kind.RESULT, call_id, body), size, size)
        for call_id, (body, size) in enumerate(messages, 1)
    }
    # What fits in one fragment is no fragment.
    whole = {call_id for call_id, cutter in cutters.items() if cutter.next_size == cutter.left}
    seen = {}
    reader = FrameReader(max_body=1000)
    reader.feed(b"\x93trpc\r\n\x01")
    while cutters:
        call_id = data.draw(st.sampled_from(sorted(cutters)))
        (frame,) = reader.feed(joined(tuple(map(bytes, cutters[call_id].next()))))
        if not cutters[call_id].advance():
            del cutters[call_id]
        message = frame if call_id in whole else incomplete.add(frame)
        if message is not None:
            seen[call_id] = bytes(message.body)
    assert seen == {call_id: body for call_id, (body, _) in enumerate(messages, 1)}
    assert len(incomplete.fragments) == 0


# --- what must not be ---


@pytest.mark.parametrize("kind", [*(kind for kind in Kind if kind not in FRAGMENTED), 0x99])
@pytest.mark.parametrize("flags", [FIRST, MIDDLE, LAST])
def test_other_kinds_are_never_in_fragments(incomplete, kind, flags):
    with pytest.raises(ProtocolError, match=f"flags {flags:#04x} on a message of kind {int(kind):#04x}"):
        incomplete.add(FRAME._replace(kind=kind, flags=flags))
    assert incomplete.asked == []


@pytest.mark.parametrize("bit", [0x04, 0x08, 0x10, 0x20, 0x40, 0x80])
@pytest.mark.parametrize("flags", [0, FIRST, MIDDLE, LAST])
def test_other_flags_mean_nothing_yet(incomplete, bit, flags):
    with pytest.raises(ProtocolError, match=f"flags {flags | bit:#04x} on a message"):
        incomplete.add(FRAME._replace(flags=flags | bit))


@pytest.mark.parametrize("flags", [FIRST, MIDDLE, LAST])
def test_a_fragment_has_a_body(incomplete, flags):
    with pytest.raises(ProtocolError, match="a fragment without a body"):
        incomplete.add(FRAME._replace(body=b"", flags=flags))
    incomplete.begin(Kind.RESULT)
    with pytest.raises(ProtocolError, match="a fragment without a body"):
        incomplete.add(FRAME._replace(id=1, body=b"", flags=flags))


def test_a_message_does_not_begin_in_the_middle_of_another_one(incomplete):
    incomplete.begin(Kind.RESULT)
    with pytest.raises(ProtocolError, match="begins in the middle of another one"):
        incomplete.begin(Kind.RESULT)
    assert len(incomplete.asked) == 1


@pytest.mark.parametrize("number", [1, 2, 5])
def test_all_fragments_together_are_limited(number):
    incomplete = Incomplete(max_body=10)
    bodies = [b"x"] * (number - 1)
    assert incomplete.add_all(Kind.RESULT, *bodies, b"x" * (10 - len(bodies) - 1), b"x")[-1].body == b"x" * 10
    with pytest.raises(ProtocolError, match="more than 10 bytes, the longest accepted here, in fragments"):
        incomplete.add_all(Kind.RESULT, *bodies, b"x" * (11 - len(bodies)), b"x")


def test_the_limit_is_that_of_the_time():
    incomplete = Incomplete(max_body=5)
    incomplete.begin(Kind.RESULT, b"12345")
    incomplete.max_body = 6
    assert incomplete.add(Frame(Kind.RESULT, 1, b"6", LAST)).body == b"123456"


# --- what is not kept ---


@pytest.mark.parametrize("kind", sorted(FRAGMENTED))
def test_what_does_not_begin_is_dropped(incomplete, kind):
    incomplete.begins = False
    assert incomplete.add_all(kind, b"a", b"b", b"c") == [None] * 3
    assert len(incomplete.fragments) == 0
    incomplete.begins = True
    assert incomplete.add_all(kind, b"a", b"b")[-1].body == b"ab"


def test_what_is_refused_by_an_error_is_not_kept(incomplete):
    def begins(_):
        raise ProtocolError("no")

    with pytest.raises(ProtocolError, match="no"):
        incomplete.fragments.add(FRAME, begins, max_body=100)
    assert len(incomplete.fragments) == 0


def test_the_rest_of_what_was_never_begun_is_dropped(incomplete):
    assert incomplete.rest_is_lost(Kind.RESULT)
    assert incomplete.asked == []


def test_a_request_is_given_up(incomplete):
    incomplete.begin(Kind.REQUEST, call_id=1)
    incomplete.begin(Kind.REQUEST, call_id=2)
    incomplete.begin(Kind.NOTIFY, call_id=3)
    assert incomplete.fragments.drop_request(1)
    assert not incomplete.fragments.drop_request(1)
    assert not incomplete.fragments.drop_request(3), "nobody cancels it"
    assert incomplete.rest_is_lost(Kind.REQUEST, 1)
    assert incomplete.add(Frame(Kind.REQUEST, 2, b"y", LAST)).body == b"xy"


def test_a_reply_is_given_up_with_the_items_before_it(incomplete):
    kinds = [Kind.RESULT, Kind.ERROR, Kind.RESULT_ITEMS]
    for call_id in (1, 2):
        for kind in kinds:
            incomplete.begin(kind, call_id=call_id)
    # Of the call of the same id in the other direction.
    incomplete.begin(Kind.REQUEST, call_id=1)
    incomplete.begin(Kind.ARGUMENT_ITEMS, call_id=1, stream=1)
    incomplete.fragments.drop_reply(1)
    incomplete.fragments.drop_reply(1)
    assert all(incomplete.rest_is_lost(kind, 1) for kind in kinds)
    assert not any(incomplete.rest_is_lost(kind, 2) for kind in kinds)
    assert not incomplete.rest_is_lost(Kind.REQUEST, 1)
    assert not incomplete.rest_is_lost(Kind.ARGUMENT_ITEMS, 1, 1)


def test_items_of_an_argument_are_given_up(incomplete):
    for stream in (1, 2):
        incomplete.begin(Kind.ARGUMENT_ITEMS, stream=stream)
    incomplete.fragments.drop_items(1, 1)
    assert incomplete.rest_is_lost(Kind.ARGUMENT_ITEMS, stream=1)
    assert not incomplete.rest_is_lost(Kind.ARGUMENT_ITEMS, stream=2)


def test_all_that_belongs_to_the_arguments_of_a_call_is_given_up(incomplete):
    arguments = [(Kind.ARGUMENT_ITEMS, stream) for stream in (1, 2)]
    for call_id in (1, 2):
        for kind, stream in arguments:
            incomplete.begin(kind, call_id=call_id, stream=stream)
    # Of our call with the same id.
    incomplete.begin(Kind.RESULT, call_id=1)
    incomplete.fragments.drop_arguments(1)
    assert all(incomplete.rest_is_lost(kind, 1, stream) for kind, stream in arguments)
    assert not any(incomplete.rest_is_lost(kind, 2, stream) for kind, stream in arguments)
    assert not incomplete.rest_is_lost(Kind.RESULT, 1)


# --- requests are limited in all ---


def units(text):
    """As many bytes for each character."""
    return text.encode() * UNIT


@pytest.mark.parametrize("kind", sorted(REQUESTS))
@pytest.mark.parametrize("where", ["first", "middle", "last"])
def test_a_request_for_which_there_is_no_room(kind, where):
    incomplete = Incomplete(max_size=10 * UNIT)
    incomplete.begin(Kind.REQUEST, units("12345"), call_id=1)
    texts = {"first": ["123456"], "middle": ["1234", "56", "7"], "last": ["1234", "56"]}[where]
    bodies = [units(text) for text in texts]
    if where == "first":
        assert incomplete.add(Frame(kind, 2, bodies[0], FIRST)) == Frame(kind, 2, b"", MORE)
    else:
        outcomes = incomplete.add_all(kind, *bodies, call_id=2)
        assert outcomes[:2] == [None, Frame(kind, 2, b"", MORE)]
    # What follows is dropped, and there is room for others.
    assert incomplete.rest_is_lost(kind, 2)
    assert incomplete.add_all(kind, units("123"), units("45"), call_id=3)[-1].body == units("123") + units("45")
    whole = incomplete.add(Frame(Kind.REQUEST, 1, units("67890"), LAST))
    assert whole.body == units("12345") + units("67890")


@pytest.mark.parametrize("end", ["complete", "drop"])
def test_room_is_given_back(end):
    incomplete = Incomplete(max_size=10 * UNIT, max_requests=1)
    for call_id in range(1, 20):
        incomplete.begin(Kind.REQUEST, units("123456"), call_id=call_id)
        if end == "complete":
            assert len(incomplete.add(Frame(Kind.REQUEST, call_id, units("7890"), LAST)).body) == 10 * UNIT
        else:
            assert incomplete.fragments.drop_request(call_id)
        assert incomplete.share.taken == 0


@pytest.mark.parametrize("max_calls", [1, 3])
def test_one_request_fits_in_any_case_beside_the_beginnings_of_others(max_calls):
    limits = Limits(max_bytes_in_flight=1, max_message_size=50_000, max_calls=max_calls)
    fragments = Fragments(limits, Share(limits))
    for call_id in range(2, max_calls + 1):
        assert fragments.add(Frame(Kind.REQUEST, call_id, bytes(1024), FIRST), bool, max_body=50_000) is None
    assert fragments.add(Frame(Kind.REQUEST, 1, bytes(1024), FIRST), bool, max_body=50_000) is None
    assert fragments.add(Frame(Kind.REQUEST, 1, bytes(40_000), MIDDLE), bool, max_body=50_000) is None
    whole = fragments.add(Frame(Kind.REQUEST, 1, bytes(50_000 - 41_024), LAST), bool, max_body=50_000)
    assert len(whole.body) == 50_000


def test_so_many_requests_at_once():
    incomplete = Incomplete(max_requests=2)
    incomplete.begin(Kind.REQUEST, call_id=1)
    incomplete.begin(Kind.NOTIFY, call_id=2)
    for call_id in (3, 4):
        assert incomplete.add(Frame(Kind.REQUEST, call_id, b"x", FIRST)) == Frame(Kind.REQUEST, call_id, b"", MORE)
        assert incomplete.rest_is_lost(Kind.REQUEST, call_id)
    assert not incomplete.rest_is_lost(Kind.NOTIFY, 2)
    incomplete.begin(Kind.REQUEST, call_id=5)


def test_what_answers_this_side_is_not_counted():
    incomplete = Incomplete(max_size=1, max_requests=1, max_body=10_000)
    for kind in sorted(FRAGMENTED - REQUESTS):
        assert incomplete.add_all(kind, bytes(2000), bytes(2000))[-1].body == bytes(4000)
        assert incomplete.share.taken == 0


def test_what_counts_elsewhere_leaves_less_room():
    incomplete = Incomplete(max_size=10 * UNIT)
    incomplete.share.add(9 * UNIT)
    assert incomplete.add(Frame(Kind.REQUEST, 1, units("12"), FIRST)) == Frame(Kind.REQUEST, 1, b"", MORE)
    assert incomplete.share.taken == 9 * UNIT
    incomplete.begin(Kind.REQUEST, units("1"), call_id=2)
    assert incomplete.share.taken == 10 * UNIT
    incomplete.share.give_back(9 * UNIT)
    whole = incomplete.add(Frame(Kind.REQUEST, 2, units("234567890"), LAST))
    assert whole.body == units("1") + units("234567890")
    assert incomplete.share.taken == 0


@pytest.mark.parametrize("kind", sorted(FRAGMENTED))
def test_any_message_is_given_up_by_a_frame_of_it(kind):
    incomplete = Incomplete()
    frame = Frame(kind, 1, b"", LAST)
    assert not incomplete.fragments.drop(frame)
    incomplete.begin(kind)
    assert incomplete.fragments.has(frame)
    assert incomplete.fragments.drop(frame)
    assert not incomplete.fragments.has(frame)
    assert incomplete.share.taken == 0
    assert incomplete.rest_is_lost(kind)
