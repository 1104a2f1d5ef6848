"""The outbox: in which way a frame leaves, what can be taken back, and how far a frame has come whatever happens."""

import collections
import itertools
import math

import hypothesis.strategies as st
import pytest
import trio
import trio.testing
from hypothesis import HealthCheck, given, settings
from unit.boxes import ALL, NOTHING, running, settle, states

from trpc._frames import CONTINUED, HEADER_SIZE, MORE, encode_frame, frame_of
from trpc._outgoing import Batch, Outgoing, State

HEADER = HEADER_SIZE + 4
# In these tests; in fact a fragment is larger.
FRAGMENT = 128 * 1024


@pytest.fixture(autouse=True)
def sizes_of_these_tests(monkeypatch):
    monkeypatch.setattr("trpc._outbox.FRAGMENT", FRAGMENT)
    monkeypatch.setattr("trpc._outbox.FIRST_FRAGMENT", FRAGMENT)
    monkeypatch.setattr("trpc._writer._MAX_AT_ONCE", 8 * FRAGMENT)


# --- writing at once ---


@pytest.mark.parametrize("control", [False, True])
@pytest.mark.parametrize("data", [b"abc", (b"ab", b"c")])
async def test_a_frame_is_written_in_the_task_that_puts_it_in(new_box, data, control):
    box = new_box(takes=ALL)
    frame = box.put(data, control=control)
    assert frame.state is State.WRITTEN
    assert box.transport.sent == [b"abc"]
    assert frame.data == b"", "what is written is not kept"
    assert frame.size == 3
    assert box.nothing_is_counted
    assert box.workers.jobs == 0
    assert not box.outbox.discard(frame)
    await box.end()


@pytest.mark.parametrize("control", [False, True])
@pytest.mark.parametrize("data", [b"abc", (b"ab", b"c")])
async def test_an_answer_is_written_in_the_task_that_puts_it_in(new_box, data, control):
    box = new_box(takes=ALL)
    box.answer(data, control=control)
    assert box.transport.sent == [b"abc"]
    assert box.nothing_is_counted
    assert box.workers.jobs == 0
    await box.end()


async def test_an_object_may_stand_for_the_frame(new_box):
    box = new_box(takes=ALL)
    mine = Outgoing()
    assert box.put(b"abc", mine) is mine
    assert mine.state is State.WRITTEN
    await box.end()


async def test_frames_that_others_follow_are_written_together(new_box):
    box = new_box(takes=ALL)
    frames = [box.put(bytes([i]), alone=False) for i in range(50)]
    for i in range(50, 100):
        box.answer(bytes([i]), alone=False)
    assert states(frames) == [State.QUEUED] * 50
    assert (box.outbox.unsent, box.outbox.unsent_answers) == (100, 50)
    await settle()
    assert box.transport.sent == [bytes(range(100))]
    assert states(frames) == [State.WRITTEN] * 50
    assert box.nothing_is_counted
    assert box.workers.jobs == 1
    await box.end()


async def test_none_overtakes_a_frame_that_waits(new_box):
    box = new_box(takes=ALL)
    box.put(b"a", alone=False)
    box.put(b"b")
    box.answer(b"c")
    box.put(b"D", control=True)
    assert box.transport.sent == []
    await settle()
    assert box.transport.sent == [b"Dabc"]
    await box.end()


@pytest.mark.parametrize("how", ["put", "answer"])
@pytest.mark.parametrize("data", [b"abcdefgh", (b"abc", b"d", b"", b"efgh")])
@pytest.mark.parametrize("taken", range(9))
async def test_what_the_transport_does_not_take_at_once_follows(new_box, how, data, taken):
    box = new_box(takes=taken)
    getattr(box, how)(data)
    # Whatever else is put in meanwhile comes after it, control frames too.
    behind = box.put(b"behind")
    first = box.put(b"!", control=True)
    assert box.transport.sent == ([b"abcdefgh"[:taken]] if taken else [])
    assert box.outbox.unsent == len(b"behind!") + (8 if taken < 8 else 0)
    assert box.outbox.unsent_answers == (8 if taken < 8 and how == "answer" else 0)
    assert states([behind, first]) == [State.QUEUED] * 2
    await settle()
    if 0 < taken < 8:
        assert box.transport.writing == b"abcdefgh"[taken:]
        box.transport.finish()
        await settle()
        assert box.transport.writing == b"!behind"
    else:
        assert box.transport.writing == (b"!behind" if taken else b"!abcdefghbehind")
    await box.end()
    assert b"".join(box.transport.sent) == (b"abcdefgh!behind" if taken else b"!abcdefghbehind")


@pytest.mark.parametrize("taken", range(1, 8))
async def test_a_frame_of_which_some_has_left_cannot_be_taken_back(new_box, taken):
    box = new_box(takes=taken)
    frame = box.put(b"abcdefgh")
    assert frame.state is State.WRITING
    assert not box.outbox.discard(frame)
    assert box.outbox.unsent == 8
    await settle()
    box.transport.finish()
    await settle()
    assert frame.state is State.WRITTEN
    assert b"".join(box.transport.sent) == b"abcdefgh"
    await box.end()


async def test_a_frame_that_the_transport_does_not_take_can_be_taken_back(new_box):
    box = new_box()
    frame = box.put(b"abc")
    assert box.outbox.discard(frame)
    assert box.nothing_is_counted
    await settle()
    await box.end()
    assert box.transport.sent == []


async def test_what_is_queued_is_tried_again_before_it_is_waited_for(new_box):
    box = new_box()
    frame = box.put(b"abcdef")
    box.transport.takes = 4
    await settle()
    assert box.transport.sent == [b"abcd"]
    assert box.transport.writing == b"ef"
    assert frame.state is State.WRITING
    await box.end()
    assert frame.state is State.WRITTEN


# --- held ---


async def test_a_new_outbox_is_held(new_box):
    box = new_box(held=True, takes=ALL)
    frame = box.put(b"a")
    box.answer(b"b")
    box.put(b"C", control=True)
    await settle()
    assert box.transport.sent == []
    assert box.workers.jobs == 0, "nobody can run one yet"
    box.outbox.flush()
    assert box.transport.sent == [b"Cab"]
    assert frame.state is State.WRITTEN
    assert box.nothing_is_counted
    await box.end()


@pytest.mark.parametrize("taken", [*range(7), ALL])
async def test_flush_writes_what_is_held(new_box, taken):
    box = new_box(takes=taken)
    box.outbox.held = True
    frame = box.put(b"ab")
    box.answer(b"cd")
    box.answer((b"e", b"f"))
    assert box.outbox.unsent == 6
    assert box.outbox.unsent_answers == 4
    await settle()
    assert box.transport.sent == []
    box.outbox.flush()
    assert not box.outbox.held
    assert b"".join(box.transport.sent) == b"abcdef"[: min(6, taken)]
    assert frame.state is (State.QUEUED if taken == 0 else State.WRITTEN if taken >= 6 else State.WRITING)
    assert box.workers.jobs == (taken < 6)
    await settle()
    assert box.transport.writing == (b"abcdef"[taken:] if taken < 6 else None)
    await box.end()
    assert b"".join(box.transport.sent) == b"abcdef"


@pytest.mark.parametrize("taken", [*range(4), ALL])
async def test_flush_of_a_single_answer(new_box, taken):
    box = new_box(takes=taken)
    box.outbox.held = True
    box.answer(b"abc")
    assert (box.outbox.unsent, box.outbox.unsent_answers) == (3, 3)
    box.outbox.flush()
    assert b"".join(box.transport.sent) == b"abc"[: min(3, taken)]
    assert (box.outbox.unsent, box.outbox.unsent_answers) == ((0, 0) if taken >= 3 else (3, 3))
    await box.end()
    assert b"".join(box.transport.sent) == b"abc"


async def test_flush_of_nothing(new_box):
    box = new_box(takes=ALL)
    box.outbox.held = True
    box.outbox.flush()
    box.outbox.flush()
    assert box.transport.sent == []
    assert box.workers.jobs == 0
    await box.end()


async def test_flush_writes_batch_after_batch(new_box):
    box = new_box(takes=250_000)
    box.outbox.held = True
    frames = [box.put(bytes(30_000)) for _ in range(10)]
    box.outbox.flush()
    assert [len(data) for data in box.transport.sent] == [90_000, 90_000, 70_000]
    assert states(frames) == [State.WRITTEN] * 6 + [State.WRITING] * 3 + [State.QUEUED]
    assert box.outbox.unsent == 120_000
    await box.end()
    assert sum(map(len, box.transport.sent)) == 300_000


async def test_flush_stops_where_the_transport_takes_no_more(new_box):
    box = new_box(takes=90_000)
    box.outbox.held = True
    frames = [box.put(bytes(30_000)) for _ in range(4)]
    box.outbox.flush()
    assert states(frames) == [State.WRITTEN] * 3 + [State.QUEUED]
    assert box.outbox.discard(frames[3])
    await box.end()
    assert sum(map(len, box.transport.sent)) == 90_000


async def test_flush_leaves_it_to_the_writer_that_is_at_work(new_box):
    box = new_box(takes=2)
    await box.writing(b"abcd")
    box.outbox.held = True
    box.put(b"ef")
    box.transport.takes = ALL
    box.outbox.flush()
    assert box.transport.sent == [b"ab"]
    box.transport.finish()
    await settle()
    assert box.transport.sent == [b"ab", b"cd", b"ef"]
    assert box.workers.jobs == 1
    await box.end()


async def test_what_is_held_may_be_taken_back(new_box):
    box = new_box(takes=ALL)
    box.outbox.held = True
    frames = [box.put(bytes([i])) for i in range(3)]
    for frame in frames:
        assert box.outbox.discard(frame)
    assert box.nothing_is_counted
    box.outbox.flush()
    assert box.transport.sent == []
    assert box.put(b"next").state is State.WRITTEN
    await box.end()


async def test_a_held_control_frame_goes_first(new_box):
    box = new_box(takes=ALL)
    box.outbox.held = True
    box.answer(b"a")
    box.answer(b"B", control=True)
    box.put(b"c")
    box.put(b"D", control=True)
    box.outbox.flush()
    assert box.transport.sent == [b"BDac"]
    await box.end()


async def test_a_control_frame_alone_is_held_as_well(new_box):
    box = new_box(takes=ALL)
    box.outbox.held = True
    box.answer(b"a", control=True)
    assert box.transport.sent == []
    box.outbox.flush()
    assert box.transport.sent == [b"a"]
    assert box.nothing_is_counted
    await box.end()


# --- taking back ---


async def test_a_queued_frame_can_be_taken_back(new_box):
    box = new_box()
    await box.writing(b"first")
    kept, taken = box.put(b"kept"), box.put(b"taken")
    assert box.outbox.discard(taken)
    assert taken.state is State.UNSENT
    assert taken.data == b"", "nothing is left of it"
    assert box.outbox.unsent == len(b"first" + b"kept")
    box.transport.finish()
    await settle()
    assert box.transport.writing == b"kept"
    assert kept.state is State.WRITING
    await box.end()
    assert box.transport.sent == [b"first", b"kept"]
    assert box.outbox.unsent == 0


async def test_taking_back_twice_is_as_once(new_box):
    box = new_box()
    await box.writing(b"first")
    frame = box.put(b"x")
    assert box.outbox.discard(frame)
    assert box.outbox.discard(frame)
    assert box.outbox.unsent == len(b"first")
    await box.end()


async def test_a_frame_that_is_being_written_cannot_be_taken_back(new_box):
    box = new_box()
    frame = await box.writing(b"abc")
    assert not box.outbox.discard(frame)
    assert frame.state is State.WRITING
    assert box.outbox.unsent == 3
    box.transport.finish()
    await settle()
    assert frame.state is State.WRITTEN
    assert not box.outbox.discard(frame)
    assert frame.state is State.WRITTEN
    await box.end()


async def test_taking_back_all_that_waits_leaves_nothing_to_write(new_box):
    box = new_box()
    frame = box.put(b"x")
    assert box.outbox.discard(frame)
    await settle()
    assert box.transport.writing is None
    await box.writing(b"next")
    await box.end()
    assert box.transport.sent == [b"next"]


@pytest.mark.parametrize("kept", [0, 1, 50, 150, 400])
async def test_what_was_taken_back_takes_no_memory(new_box, kept):
    box = new_box(takes=ALL)
    box.outbox.held = True
    rest = [box.put(b"%04d" % i) for i in range(kept)]
    for i in range(1000):
        frame = box.put(b"x" * 100)
        if i == 500:
            rest.append(box.put(b"in the middle"))
        assert box.outbox.discard(frame)
        assert len(box.outbox._queue.frames) <= 2 * len(rest) + 102
        assert box.outbox.unsent == sum(item.size for item in rest)
    box.outbox.flush()
    assert box.transport.sent == [b"".join(b"%04d" % i for i in range(kept)) + b"in the middle"]
    assert states(rest) == [State.WRITTEN] * (kept + 1)
    await box.end()


async def test_what_was_taken_back_before_is_not_counted_when_the_queue_is_written(new_box):
    box = new_box(takes=ALL)
    for _ in range(3):
        box.outbox.held = True
        kept = box.put(b"kept")
        for _ in range(90):
            assert box.outbox.discard(box.put(b"x"))
        box.outbox.flush()
        assert kept.state is State.WRITTEN
        # Else the queue would be gone through again and again, as if it were full of them.
        assert box.outbox._empty == 0
    await box.end()


# --- fragments ---


def large(call_id=1, parts=3, extra=0):
    """A frame whose body is so many fragments, and some bytes."""
    return encode_frame(0x20, call_id, bytes([call_id]) * (parts * FRAGMENT + extra))


def shapes(frames):
    return [(frame.id, len(frame.body), frame.flags) for frame in frames]


@pytest.mark.parametrize("cuts", [False, True])
async def test_a_large_frame_is_cut_if_the_peer_takes_it(new_box, cuts):
    box = new_box(takes=ALL, cuts=cuts)
    frame = box.put(large())
    assert frame.state is State.WRITTEN
    assert frame.data == b""
    if cuts:
        assert shapes(box.frames) == [
            (1, FRAGMENT, MORE),
            (1, FRAGMENT, MORE | CONTINUED),
            (1, FRAGMENT, CONTINUED),
        ]
    else:
        assert shapes(box.frames) == [(1, 3 * FRAGMENT, 0)]
    assert box.nothing_is_counted
    await box.end()


@pytest.mark.parametrize("pieces", [1, 2])
@pytest.mark.parametrize("less", [0, 1])
async def test_a_frame_is_large_if_it_is_larger_than_a_fragment(new_box, less, pieces):
    box = new_box(takes=ALL, cuts=True)
    data = encode_frame(0x20, 1, bytes(FRAGMENT - HEADER + 1 - less))
    box.put(data if pieces == 1 else (data[:20], data[20:]))
    # A frame of one byte more than a fragment may still be one, as that counts the body.
    assert shapes(box.frames) == [(1, FRAGMENT - HEADER + 1 - less, 0)]
    await box.end()


@pytest.mark.parametrize("takes", [NOTHING, 1, HEADER, FRAGMENT, FRAGMENT + HEADER, 2 * FRAGMENT, ALL])
@pytest.mark.parametrize("how", ["put", "answer"])
@pytest.mark.parametrize("alone", [False, True])
@pytest.mark.parametrize("held", [False, True])
async def test_a_large_frame_leaves_whole_however_much_is_taken_at_once(new_box, how, takes, alone, held):
    box = new_box(takes=takes, cuts=True, is_open=True)
    box.outbox.held = held
    data = large(extra=7)
    getattr(box, how)(frame_of(0x20, 1, data[HEADER:]), alone=alone)
    done = {ALL: 3, FRAGMENT + HEADER: 1, 2 * FRAGMENT: 1}.get(takes, 0) if alone and not held else 0
    assert box.outbox.unsent == (0 if done == 3 else len(data) - done * FRAGMENT)
    if held:
        assert box.transport.sent == []
        box.outbox.flush()
    await settle()
    assert b"".join(frame.body for frame in box.frames) == data[HEADER:]
    assert box.nothing_is_counted
    await box.end()


async def test_what_is_counted_gets_less_with_each_fragment(new_box):
    box = new_box(cuts=True)
    answered = encode_frame(0x20, 2, bytes(FRAGMENT + 5))
    frame = box.put(large(extra=5))
    box.answer((answered[:HEADER], answered[HEADER:]))
    counts = []
    await settle()
    while box.transport.writing is not None:
        box.transport.finish()
        await settle()
        counts.append((box.outbox.unsent, box.outbox.unsent_answers))
    rest = HEADER + 5
    # The first writes have something of each. Headers of more fragments are nobody's: they were not put in.
    assert counts == [(2 * FRAGMENT + 2 * rest, rest), (FRAGMENT + rest, 0), (rest, 0), (0, 0)]
    assert frame.state is State.WRITTEN
    await box.end()


@pytest.mark.parametrize("how", ["put", "answer"])
async def test_small_and_control_frames_go_between_fragments(new_box, how):
    box = new_box(cuts=True)
    large_one = large(1)
    getattr(box, how)(frame_of(0x20, 1, large_one[HEADER:]))
    await settle()
    box.put(encode_frame(1, 2, b"small"))
    box.answer(encode_frame(1, 3, b"answer"))
    box.put(encode_frame(1, 4, b"control"), control=True)
    await box.end()
    assert [frame.id for frame in box.frames] == [1, 4, 2, 3, 1, 1]
    assert b"".join(bytes(frame.body) for frame in box.frames if frame.id == 1) == large_one[HEADER:]


async def test_large_bulk_takes_turns(new_box):
    box = new_box(cuts=True)
    for call_id in (1, 2, 3):
        box.put(large(call_id, parts=4), bulk=True)
    await box.end()
    assert [frame.id for frame in box.frames] == [1, 2, 3] * 4


async def test_large_requests_leave_one_after_the_other(new_box, monkeypatch):
    monkeypatch.setattr("trpc._outbox.FIRST_FRAGMENT", 100)
    box = new_box(cuts=True)
    for call_id in (1, 2, 3):
        box.put(large(call_id, parts=2))
    await box.end()
    rest = FRAGMENT - 100
    assert shapes(box.frames) == [
        *[(call_id, 100, MORE) for call_id in (1, 2, 3)],
        *[
            (call_id, size, flags)
            for call_id in (1, 2, 3)
            for size, flags in ((FRAGMENT, MORE | CONTINUED), (rest, CONTINUED))
        ],
    ]


async def test_bulk_goes_last_in_its_order(new_box):
    box = new_box(takes=ALL)
    for data in (b"a", b"b"):
        box.put(data, bulk=True, alone=False)
    box.answer(b"c", bulk=True, alone=False)
    box.put(b"small", alone=False)
    box.answer(b"answer", alone=False)
    box.put(b"!", control=True, alone=False)
    assert (box.outbox.unsent, box.outbox.unsent_answers) == (15, 7)
    await settle()
    assert box.transport.sent == [b"!smallanswerabc"]
    assert box.nothing_is_counted
    await box.end()


async def test_bulk_may_leave_at_once(new_box):
    box = new_box(takes=ALL)
    assert box.put(b"a", bulk=True).state is State.WRITTEN
    box.answer(b"b", bulk=True)
    assert box.transport.sent == [b"a", b"b"]
    # But not in front of another one.
    box.put(b"c", bulk=True, alone=False)
    box.answer(b"d")
    box.put(b"e", bulk=True)
    await settle()
    assert box.transport.sent[2:] == [b"dce"]
    await box.end()


@pytest.mark.parametrize("cuts", [False, True])
async def test_a_large_answer_is_bulk_though_it_says_nothing(new_box, cuts):
    box = new_box(cuts=cuts)
    await box.writing(encode_frame(1, 9))
    answer = large(1)
    box.answer((answer[:HEADER], answer[HEADER:]))
    box.answer(encode_frame(1, 2))
    await box.end()
    assert [frame.id for frame in box.frames] == [9, 2, *[1] * (3 if cuts else 1)]


async def test_a_held_bulk_answer(new_box):
    box = new_box(takes=ALL)
    box.outbox.held = True
    box.answer(b"items", bulk=True)
    box.answer(b"answer")
    assert box.transport.sent == []
    box.outbox.flush()
    assert box.transport.sent == [b"answeritems"]
    await box.end()


# Taken back at each point: queued, then with so many fragments on their way.


@pytest.mark.parametrize("bulk", [False, True])
async def test_a_large_frame_that_has_not_begun_is_taken_back(new_box, bulk):
    box = new_box(cuts=True)
    await box.writing(encode_frame(1, 9))
    frame, behind = box.put(large(1), bulk=bulk), box.put(large(2), bulk=bulk)
    assert box.outbox.discard(frame)
    assert box.outbox.discard(frame)
    assert frame.state is State.UNSENT
    assert box.outbox.unsent == HEADER + behind.size
    await box.end()
    assert {frame.id for frame in box.frames} == {9, 2}


@pytest.mark.parametrize("answered", [False, True])
@pytest.mark.parametrize("done", [0, 1, 2])
async def test_a_large_frame_is_taken_back_in_the_middle(new_box, done, answered):
    """With so many fragments written, and the next one being written."""
    box = new_box(cuts=True)
    frame = Outgoing()
    frame.is_answer = answered
    box.put(large(1), frame)
    await settle()
    for _ in range(done):
        box.transport.finish()
        await settle()
    other = box.put(large(2, parts=2))
    is_last = done == 2
    assert frame.state is State.WRITING
    # Some of it has left, so that nobody may say that it was not executed.
    for _ in range(2):
        assert not box.outbox.discard(frame)
    if is_last:
        assert frame.state is State.WRITING
    else:
        assert frame.state is State.BROKEN
        assert frame.data == b"", "it is not kept"
        assert box.outbox.unsent == other.size
        assert box.outbox.unsent_answers == 0
    await box.end()
    assert [(f.id, f.flags) for f in box.frames] == [
        *[(1, MORE), (1, MORE | CONTINUED), (1, CONTINUED)][: done + 1],
        (2, MORE),
        (2, CONTINUED),
    ]
    assert frame.state is (State.WRITTEN if is_last else State.BROKEN)


async def test_a_large_frame_is_taken_back_between_two_fragments(new_box):
    box = new_box(cuts=True)
    frame = box.put(large(1))
    behind = box.put(encode_frame(1, 2))
    await settle()
    box.transport.finish()
    await settle()
    # The small one is being written, alone or with the second fragment.
    assert not box.outbox.discard(frame)
    await box.end()
    assert behind.state is State.WRITTEN
    assert [f.id for f in box.frames] in ([1, 2], [1, 2, 1])
    assert box.frames[-1].flags & MORE or box.frames[-1].id == 2


@pytest.mark.parametrize("wait", ["wait_for_room", "wait_until_answered"])
async def test_there_is_room_when_a_large_frame_is_taken_back_in_the_middle(new_box, nursery, wait):
    box = new_box(cuts=True, max_unsent=1000)
    frame = Outgoing()
    frame.is_answer = True
    box.put(large(), frame)
    await settle()
    ended = await waiting(box, nursery, 2, wait)
    assert ended == []
    box.outbox.discard(frame)
    await settle()
    assert ended == [False] * 2
    await box.end()


@pytest.mark.parametrize("done", [0, 1])
async def test_a_large_frame_is_broken_in_the_middle(new_box, done):
    box = new_box(cuts=True)
    begun, queued = box.put(large(1)), box.put(large(2))
    await settle()
    for _ in range(done):
        box.transport.finish()
        await settle()
    box.transport.fail(trio.BrokenResourceError())
    await settle()
    assert states([begun, queued]) == [State.BROKEN, State.BROKEN if done else State.UNSENT]
    assert not box.outbox.discard(begun)
    assert box.nothing_is_counted


@pytest.mark.parametrize("takes", [FRAGMENT + HEADER, FRAGMENT + HEADER + 1])
async def test_a_large_frame_whose_second_fragment_fails_at_once(new_box, takes):
    box = new_box(takes=takes, cuts=True)
    frame = box.put(large())
    assert frame.state is State.WRITING
    box.transport.error = error = trio.BrokenResourceError()
    if box.transport.writing is not None:
        box.transport.fail(error)
    await settle()
    if box.transport.writing is not None:
        box.transport.fail(error)
        await settle()
    assert frame.state is State.BROKEN
    assert box.errors == [error]
    assert box.nothing_is_counted


async def test_waiting_until_a_large_frame_is_written(new_box):
    box = new_box(cuts=True)
    frame = box.put(large())
    results = []

    async def waits():
        results.append(await box.outbox.wait_written(frame))

    async with trio.open_nursery() as inner:
        inner.start_soon(waits)
        await settle()
        for _ in range(3):
            assert results == []
            box.transport.finish()
            await settle()
    assert results == [True]
    await box.end()


@pytest.mark.parametrize("begun", [False, True])
async def test_a_cancelled_wait_for_a_large_frame(new_box, begun):
    box = new_box(cuts=True)
    if not begun:
        await box.writing(encode_frame(1, 9))
    frame = box.put(large(1))
    await settle()
    with trio.CancelScope() as scope:
        scope.cancel()
        await box.outbox.wait_written(frame)
    assert scope.cancelled_caught
    await box.end()
    assert frame.state is (State.WRITTEN if begun else State.UNSENT)


async def test_waiting_for_a_large_frame_that_is_taken_back_in_the_middle(new_box):
    box = new_box(cuts=True)
    frame = box.put(large())
    results = []

    async def waits():
        results.append(await box.outbox.wait_written(frame))

    async with trio.open_nursery() as inner:
        inner.start_soon(waits)
        await settle()
        box.outbox.discard(frame)
    assert results == [False]
    await box.end()


# --- waiting until it is written ---


async def test_wait_written(new_box):
    box = new_box()
    frame = box.put(b"abc")
    results = []

    async def waits():
        results.append(await box.outbox.wait_written(frame))

    async with trio.open_nursery() as inner:
        inner.start_soon(waits)
        await settle()
        assert results == []
        box.transport.finish()
    assert results == [True]
    await box.end()


@pytest.mark.parametrize("takes", [NOTHING, 1, ALL])
async def test_wait_written_for_a_frame_that_is_written_by_a_flush(new_box, takes):
    box = new_box(takes=takes, is_open=True)
    box.outbox.held = True
    frame = box.put(b"abc")
    results = []

    async def waits():
        results.append(await box.outbox.wait_written(frame))

    async with trio.open_nursery() as inner:
        inner.start_soon(waits)
        await settle()
        assert results == []
        box.outbox.flush()
    assert results == [True]
    await box.end()


async def test_wait_written_for_a_frame_that_is_done_is_a_checkpoint(new_box):
    box = new_box(is_open=True)
    written = box.put(b"abc")
    await settle()
    with trio.testing.assert_checkpoints():
        assert await box.outbox.wait_written(written)
    unsent = Outgoing()
    unsent.state = State.UNSENT
    with trio.testing.assert_checkpoints():
        assert not await box.outbox.wait_written(unsent)
    await box.end()


async def test_wait_written_cancelled_before_it_is_being_written(new_box):
    box = new_box()
    await box.writing(b"first")
    frame = box.put(b"abc")
    with trio.CancelScope() as scope:
        scope.cancel()
        await box.outbox.wait_written(frame)
    assert scope.cancelled_caught
    assert frame.state is State.UNSENT
    await box.end()
    assert box.transport.sent == [b"first"]


async def test_wait_written_cancelled_while_it_is_being_written(new_box):
    box = new_box()
    frame = await box.writing(b"abc")
    with trio.CancelScope() as scope:
        scope.cancel()
        await box.outbox.wait_written(frame)
    assert scope.cancelled_caught
    assert frame.state is State.WRITING
    box.transport.finish()
    await settle()
    assert frame.state is State.WRITTEN
    await box.end()


@pytest.mark.parametrize("queued", [True, False])
async def test_wait_written_ends_when_the_stream_breaks(new_box, queued):
    box = new_box()
    frame = await box.writing(b"abc")
    if queued:
        frame = box.put(b"behind it")
    results = []

    async def waits():
        results.append(await box.outbox.wait_written(frame))

    async with trio.open_nursery() as inner:
        inner.start_soon(waits)
        await settle()
        box.transport.fail(trio.BrokenResourceError("reset"))
    assert results == [False]
    assert frame.state is (State.UNSENT if queued else State.BROKEN)


async def test_wait_written_ends_when_the_frame_is_taken_back(new_box):
    box = new_box()
    await box.writing(b"first")
    frame = box.put(b"abc")
    results = []

    async def waits():
        results.append(await box.outbox.wait_written(frame))

    async with trio.open_nursery() as inner:
        inner.start_soon(waits)
        await settle()
        box.outbox.discard(frame)
    assert results == [False]
    await box.end()


# --- what is told when a frame has left ---


def told(frame):
    """Notes how far it was when that was told."""
    calls = []
    frame.on_left = lambda: calls.append(frame.state)
    return calls


@pytest.mark.parametrize("cuts", [False, True])
async def test_who_wants_to_know_is_told_when_a_frame_has_left(new_box, cuts):
    box = new_box(cuts=cuts)
    frame = box.put(large())
    calls = told(frame)
    await settle()
    while box.transport.writing is not None:
        assert calls == []
        box.transport.finish()
        await settle()
    assert calls == [State.WRITTEN]
    await box.end()


@pytest.mark.parametrize("begun", [False, True])
@pytest.mark.parametrize("how", ["taken back", "broken"])
async def test_who_wants_to_know_is_told_that_a_frame_will_not_leave(new_box, begun, how):
    box = new_box(cuts=True)
    if not begun:
        await box.writing(encode_frame(1, 9))
    frame = box.put(large(1))
    calls = told(frame)
    await settle()
    if how == "broken":
        box.transport.fail(trio.BrokenResourceError())
        await settle()
    else:
        box.outbox.discard(frame)
        box.outbox.discard(frame)
    assert calls == [State.BROKEN if begun else State.UNSENT]


# --- room ---


@pytest.mark.parametrize("wait", ["wait_for_room", "wait_until_answered"])
async def test_with_room_there_is_no_wait(new_box, wait):
    box = new_box(max_unsent=5)
    with trio.testing.assert_no_checkpoints():
        await getattr(box.outbox, wait)()
    await box.end()


async def waiting(box, nursery, number=1, wait="wait_for_room"):
    ended = []

    async def waits():
        await getattr(box.outbox, wait)()
        ended.append(box.outbox.is_full)

    for _ in range(number):
        nursery.start_soon(waits)
    await settle()
    return ended


async def test_room_is_there_when_enough_is_written(new_box, nursery):
    box = new_box(max_unsent=5)
    await box.writing(b"123456")
    box.put(b"789012")
    ended = await waiting(box, nursery, 3)
    assert ended == []
    box.transport.finish()
    await settle()
    assert ended == [], "the second frame is over the limit as well"
    box.transport.finish()
    await settle()
    assert ended == [False] * 3
    await box.end()


async def test_all_is_answered_when_enough_is_written(new_box, nursery):
    box = new_box(max_unsent=5)
    box.answer(b"123456")
    await settle()
    box.answer((b"789", b"012"))
    box.put(b"this does not count")
    ended = await waiting(box, nursery, 3, "wait_until_answered")
    box.transport.finish()
    await settle()
    assert ended == [], "the second answer is over the limit as well"
    box.transport.finish()
    await settle()
    assert ended == [False] * 3
    await box.end()


@pytest.mark.parametrize("wait", ["wait_for_room", "wait_until_answered"])
@pytest.mark.parametrize("takes", [NOTHING, 3, ALL])
@pytest.mark.parametrize("answers", [[b"123456"], [(b"123", b"456")], [b"123", b"456"]])
async def test_room_is_there_when_what_was_held_is_written(new_box, nursery, wait, takes, answers):
    box = new_box(max_unsent=5, takes=takes, is_open=True)
    box.outbox.held = True
    for data in answers:
        box.answer(data)
    ended = await waiting(box, nursery, 2, wait)
    assert ended == []
    box.outbox.flush()
    await settle()
    assert ended == [False] * 2
    await box.end()


async def test_room_is_there_when_enough_is_taken_back(new_box, nursery):
    box = new_box(max_unsent=5)
    await box.writing(b"1")
    frames = [box.put(b"2345"), box.put(b"6789")]
    ended = await waiting(box, nursery)
    box.outbox.discard(frames[0])
    await settle()
    assert ended == [False]
    await box.end()


async def test_who_waits_looks_again(new_box, nursery):
    box = new_box(max_unsent=5)
    await box.writing(b"1")
    frame = box.put(b"23456")
    ended = await waiting(box, nursery, 2)
    box.outbox.discard(frame)
    # Before those who wait have run, somebody else takes the room.
    box.put(b"23456")
    await settle()
    assert ended == []
    box.transport.finish()
    await settle()
    assert ended == [False] * 2
    await box.end()


@pytest.mark.parametrize("wait", ["wait_for_room", "wait_until_answered"])
async def test_waiting_for_room_can_be_cancelled(new_box, nursery, wait):
    box = new_box(max_unsent=1)
    box.answer(b"123")
    ended = await waiting(box, nursery, 1, wait)
    with trio.CancelScope() as scope:
        scope.cancel()
        await getattr(box.outbox, wait)()
    assert scope.cancelled_caught
    assert ended == []
    await settle()
    box.transport.finish()
    await settle()
    assert ended == [False], "somebody else's wait goes on"
    await box.end()


@pytest.mark.parametrize("wait", ["wait_for_room", "wait_until_answered"])
@pytest.mark.parametrize("how", ["close", "break"])
async def test_waiting_for_room_ends_with_the_connection(new_box, nursery, how, wait):
    box = new_box(max_unsent=1)
    box.answer(b"123")
    await settle()
    ended = await waiting(box, nursery, 2, wait)
    if how == "close":
        box.outbox.close(within=math.inf)
    else:
        box.transport.fail(trio.BrokenResourceError())
    await settle()
    assert len(ended) == 2
    with trio.testing.assert_no_checkpoints():
        await getattr(box.outbox, wait)()
    if how == "close":
        await box.end()


# --- whatever happens ---

sizes = st.integers(1, 6)
operations = st.one_of(
    st.tuples(st.just("put"), sizes, st.booleans(), st.booleans(), st.booleans()),
    st.tuples(st.just("answer"), sizes, st.booleans(), st.booleans(), st.booleans()),
    st.tuples(st.just("discard"), st.integers(0, 100)),
    st.tuples(st.just("wait written"), st.integers(0, 100)),
    st.tuples(st.just("take at once"), st.sampled_from([0, 1, 2, 5, 8, 20])),
    st.tuples(st.sampled_from(["hold", "flush", "finish a write", "settle", "wait for room", "wait until answered"])),
)
endings = st.sampled_from(["close", "break", "break at once", "time over"])
Put = collections.namedtuple("Put", "data frame control")


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=300)
@given(steps=st.lists(operations, max_size=30), ending=endings, takes=st.sampled_from([NOTHING, 1, 3, ALL]))
def test_frames_leave_whole_and_in_order_or_not_at_all(steps, ending, takes):
    trio.run(history, steps, ending, takes, clock=trio.testing.MockClock(autojump_threshold=0))


async def history(steps, ending, takes):
    async with running(takes=takes, max_unsent=10) as box:
        outbox, transport, nursery = box.outbox, box.transport, box.workers.nursery
        puts: list[Put] = []
        waits = collections.Counter()

        async def waiting_for(name, function, *args):
            waits[name] += 1
            await function(*args)
            waits[name] -= 1

        for step, *args in steps:
            frames = [put.frame for put in puts if put.frame is not None and not put.control]
            match step:
                case "put" | "answer":
                    size, control, alone, in_pieces = args
                    # Each has bytes of its own, which are found again in what is sent.
                    whole = bytes([len(puts)]) * size
                    data = (whole[:1], whole[1:]) if in_pieces else whole
                    frame = getattr(box, step)(data, control=control, alone=alone)
                    puts.append(Put(whole, frame, control))
                case "discard" if frames:
                    frame = frames[args[0] % len(frames)]
                    was = frame.state
                    assert outbox.discard(frame) is (was in {State.QUEUED, State.UNSENT})
                case "wait written" if frames:
                    frame = frames[args[0] % len(frames)]
                    if frame.waiter is None:
                        nursery.start_soon(waiting_for, "written", outbox.wait_written, frame)
                        await settle()
                case "take at once":
                    transport.takes = args[0]
                case "hold":
                    outbox.held = True
                case "flush":
                    outbox.flush()
                case "finish a write" if transport.writing is not None:
                    transport.finish()
                case "settle":
                    await settle()
                    if not outbox.is_full:
                        assert not waits["room"]
                    if not outbox.is_full_of_answers:
                        assert not waits["answered"]
                case "wait for room":
                    nursery.start_soon(waiting_for, "room", outbox.wait_for_room)
                case "wait until answered":
                    nursery.start_soon(waiting_for, "answered", outbox.wait_until_answered)
            assert 0 <= outbox.unsent_answers <= outbox.unsent <= sum(len(put.data) for put in puts)
        await settle()
        if ending == "break at once":
            transport.error = trio.BrokenResourceError()
        if ending.startswith("break") and transport.writing is not None:
            transport.fail(trio.BrokenResourceError())
        if ending == "close":
            transport.open = True
            if transport.writing is not None:
                transport.finish()
        outbox.flush()
        outbox.close(within=1)
        await outbox.finish()
        await settle()
        assert box.nothing_is_counted
        assert not +waits
        assert len(box.errors) <= 1
        check(puts, transport, all_of_it=ending == "close")


def check(puts, transport, *, all_of_it):
    """What has left is whole frames, and perhaps some of one more; each is what its state says."""
    left = [(number, len(list(run))) for number, run in itertools.groupby(b"".join(transport.sent))]
    numbers = [number for number, _ in left]
    assert len(set(numbers)) == len(numbers), "no frame inside of another, none twice"
    assert all(size == len(puts[number].data) for number, size in left[:-1])
    for control in (False, True):
        queue = [number for number in numbers if puts[number].control is control]
        assert queue == sorted(queue), "in their order"
    for number, (data, frame, _) in enumerate(puts):
        size = dict(left).get(number, 0)
        if frame is None:
            assert size == len(data) or not all_of_it
        elif frame.state is State.WRITTEN:
            assert size == len(data)
        elif frame.state is State.UNSENT:
            assert size == 0
        else:
            assert frame.state is State.BROKEN
            assert not all_of_it


# --- whatever happens, with fragments ---

steps_with_fragments = st.one_of(
    st.tuples(st.sampled_from(["put", "answer"]), st.integers(0, 40), st.booleans(), st.booleans()),
    st.tuples(st.just("control")),
    st.tuples(st.just("discard"), st.integers(0, 100)),
    st.tuples(st.just("take at once"), st.sampled_from([0, 1, 20, 30, 60, 200])),
    st.tuples(st.sampled_from(["hold", "flush", "finish a write", "settle"])),
)
Message = collections.namedtuple("Message", "body frame bulk")


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=300)
@given(steps=st.lists(steps_with_fragments, max_size=30), ending=endings, takes=st.sampled_from([NOTHING, 1, 25, ALL]))
def test_messages_leave_in_fragments_whole_or_not_at_all(steps, ending, takes):
    with pytest.MonkeyPatch.context() as patch:
        # So that a few bytes are large, and a few frames a batch.
        patch.setattr("trpc._outbox.FRAGMENT", 8)
        patch.setattr("trpc._outbox.FIRST_FRAGMENT", 3)
        patch.setattr("trpc._outgoing.BATCH", 50)
        patch.setitem(Batch.add.__kwdefaults__, "until", 50)
        trio.run(history_with_fragments, steps, ending, takes, clock=trio.testing.MockClock(autojump_threshold=0))


async def history_with_fragments(steps, ending, takes):
    async with running(takes=takes, max_unsent=50, cuts=True) as box:
        outbox, transport = box.outbox, box.transport
        messages: list[Message] = []
        for step, *args in steps:
            number = len(messages)
            match step:
                case "put" | "answer":
                    size, alone, bulk = args
                    body = bytes([number]) * size
                    data = frame_of(0x20, number, (body[:3], body[3:]) if size > 20 else body)
                    frame = getattr(box, step)(data, alone=alone, bulk=bulk)
                    messages.append(Message(body, frame, bulk))
                case "control":
                    messages.append(Message(b"", None, False))
                    box.put(encode_frame(0x20, number), control=True)
                case "discard" if frames := [m.frame for m in messages if m.frame is not None]:
                    frame = frames[args[0] % len(frames)]
                    was = frame.state
                    assert outbox.discard(frame) is (was in {State.QUEUED, State.UNSENT})
                    if was is State.WRITING:
                        assert frame.state in {State.WRITING, State.BROKEN}
                case "take at once":
                    transport.takes = args[0]
                case "hold":
                    outbox.held = True
                case "flush":
                    outbox.flush()
                case "finish a write" if transport.writing is not None:
                    transport.finish()
                case "settle":
                    await settle()
            assert 0 <= outbox.unsent_answers <= outbox.unsent <= sum(HEADER + len(m.body) for m in messages)
        await settle()
        if ending == "break at once":
            transport.error = trio.BrokenResourceError()
        if ending.startswith("break") and transport.writing is not None:
            transport.fail(trio.BrokenResourceError())
        if ending == "close":
            transport.open = True
            if transport.writing is not None:
                transport.finish()
        outbox.flush()
        outbox.close(within=1)
        await outbox.finish()
        await settle()
        assert box.nothing_is_counted
        check_messages(messages, box.frames, all_of_it=ending == "close")


def check_messages(messages, fragments, *, all_of_it):
    """What has left of each message is what its state says, and items are in their order."""
    seen = {}
    for fragment in fragments:
        before = seen.get(fragment.id)
        assert bool(fragment.flags & CONTINUED) is (before is not None)
        assert before is None or before[1], "behind the last fragment"
        assert not fragment.flags or fragment.body
        seen[fragment.id] = (before[0] if before else b"") + bytes(fragment.body), bool(fragment.flags & MORE)
    for number, (body, frame, _) in enumerate(messages):
        left, is_open = seen.get(number, (None, False))
        if left is not None:
            assert body.startswith(left)
            assert is_open or left == body
        if frame is None:
            assert left == body or not all_of_it
        elif frame.state is State.WRITTEN:
            assert left == body
            assert not is_open
        elif frame.state is State.UNSENT:
            assert left is None
        else:
            assert frame.state is State.BROKEN
    # Those that leave in one piece, and the beginnings of the others.
    begins = [f.id for f in fragments if not f.flags & CONTINUED]
    bulk = [number for number in begins if messages[number].bulk]
    others = [number for number in begins if not messages[number].bulk and messages[number].frame is not None]
    assert bulk == sorted(bulk)
    # Answers that are large are bulk, though nobody has said so.
    small = [number for number in others if not is_large(messages[number])]
    requests = [number for number in others if is_large(messages[number])]
    assert small == sorted(small)
    assert requests == sorted(requests)
    assert all_of_it is False or not open_at_once(fragments, messages)


def is_large(message):
    return len(message.body) + HEADER > 8


def open_at_once(fragments, messages):
    """Requests of which more than the first fragment has left, while another one was as far, and not complete."""
    open_now, found = set(), []
    for fragment in fragments:
        message = messages[fragment.id]
        if message.frame is None or message.bulk or not fragment.flags & CONTINUED:
            continue
        found += [(fragment.id, other) for other in open_now if other != fragment.id]
        if fragment.flags & MORE and message.frame.state is State.WRITTEN:
            open_now.add(fragment.id)
        else:
            open_now.discard(fragment.id)
    return found
