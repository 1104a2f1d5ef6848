"""Frames on their way out: how they are put together to be written, in which turns, and what is left of them."""

import itertools

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings
from support import joined

from trpc._frames import CONTINUED, HEADER_SIZE, MORE, Cutter, FrameReader, frame_of, size_of
from trpc._outgoing import BATCH, Batch, Outgoing, Queue, State, is_taken_back, without_first

# From this size on, bytes are not copied to be joined with others.
LARGE = 16 * 1024


def entry(data, state=State.QUEUED):
    frame = Outgoing()
    frame.data = data
    frame.size = size_of(data)
    frame.state = state
    return frame


# More than a batch, so that a fragment fills it.
FRAGMENT = BATCH + 1000
FIRST = 100


def large(number, parts, *, size=FRAGMENT, first=None, state=State.QUEUED, is_bulk=False):
    """A frame that leaves in so many fragments; its id is the number."""
    first = size if first is None else first
    pieces = (bytes([number]) * first, *(bytes([number, i]) * (size // 2) for i in range(1, parts)))
    frame = entry(frame_of(0x20, number, pieces), state)
    frame.cutter = Cutter(frame.data, size, first)
    frame.is_bulk = is_bulk
    return frame


def frames_in(data):
    """The frames that some bytes are."""
    reader = FrameReader(max_body=1 << 24)
    reader.feed(b"\x93trpc\r\n\x01")
    return reader.feed(data)


def batch_of(*queues):
    batch = Batch()
    counts = [batch.add(queue) for queue in queues]
    return batch, counts


# --- frames ---


def test_a_new_frame_is_queued_and_has_no_bytes():
    frame = Outgoing()
    assert (frame.state, frame.size, frame.data, frame.waiter, frame.is_answer) == (State.QUEUED, 0, b"", None, False)
    assert (frame.cutter, frame.is_bulk) == (None, False)


@pytest.mark.parametrize("state", State)
def test_what_is_neither_queued_nor_begun_was_taken_back(state):
    assert is_taken_back(entry(b"x", state)) is (state not in {State.QUEUED, State.WRITING})


def test_bytes_alone_cannot_be_taken_back():
    assert not is_taken_back(b"x")


# --- batches ---


def test_an_empty_batch():
    batch, counts = batch_of([], [])
    assert (batch.entries, batch.chunks, batch.size, batch.empty, counts) == ([], [], 0, 0, [0, 0])


def test_small_frames_are_joined():
    queue = [b"a", entry(b"bc"), entry((b"d", b"e")), b"f"]
    batch, counts = batch_of(queue)
    assert batch.chunks == [b"abcdef"]
    assert batch.entries == queue
    assert batch.size == 6
    assert counts == [4]


def test_the_queues_stay_in_their_order():
    control, frames = [b"X", b"Y"], [b"a", b"b"]
    batch, counts = batch_of(control, frames)
    assert b"".join(batch.chunks) == b"XYab"
    assert batch.entries == [b"X", b"Y", b"a", b"b"]
    assert counts == [2, 2]


def test_large_bytes_are_not_copied():
    large = [bytes([i]) * LARGE for i in range(2)]
    batch, _ = batch_of([b"a", b"b", large[0], b"c", entry((b"d", large[1], b"e")), b"f"])
    assert [len(chunk) for chunk in batch.chunks] == [2, LARGE, 2, LARGE, 2]
    assert batch.chunks[1] is large[0]
    assert batch.chunks[3] is large[1]
    assert b"".join(batch.chunks) == b"ab" + large[0] + b"cd" + large[1] + b"ef"


def test_one_byte_less_is_joined():
    batch, _ = batch_of([b"a", bytes(LARGE - 1)])
    assert [len(chunk) for chunk in batch.chunks] == [LARGE]


def test_a_batch_is_full_at_its_size_and_no_frame_is_cut():
    batch, counts = batch_of([b"a" * 30_000] * 10)
    assert counts == [3]
    assert batch.size == 90_000
    batch, counts = batch_of([bytes(BATCH), b"next"])
    assert counts == [1]
    batch, counts = batch_of([bytes(BATCH - 1), b"next", b"one more"])
    assert counts == [2]


def test_a_batch_that_is_full_of_control_frames_takes_no_others():
    batch, counts = batch_of([bytes(BATCH)], [b"a"])
    assert counts == [1, 0]
    assert batch.size == BATCH


def test_what_was_taken_back_is_passed_over():
    queue = [entry(b"x", State.UNSENT), b"a", entry(b"y", State.UNSENT), entry(b"b"), entry(b"z", State.UNSENT)]
    batch, counts = batch_of(queue)
    assert batch.chunks == [b"ab"]
    assert batch.entries == [queue[1], queue[3]]
    assert batch.empty == 3
    assert counts == [5]


def test_what_was_taken_back_does_not_fill_a_batch():
    queue = [entry(bytes(BATCH), State.UNSENT), b"a"]
    batch, counts = batch_of(queue)
    assert (batch.chunks, batch.size, batch.empty, counts) == ([b"a"], 1, 1, [2])


def test_behind_a_full_batch_nothing_is_looked_at():
    batch, counts = batch_of([bytes(BATCH), entry(b"x", State.UNSENT), b"a"])
    assert (batch.empty, counts) == (0, [1])


data = st.one_of(
    st.binary(max_size=5),
    st.sampled_from([LARGE - 1, LARGE, 30_000, BATCH - 1, BATCH]).map(lambda size: b"x" * size),
)
entries = st.one_of(data, st.builds(entry, data | st.lists(data, max_size=4).map(tuple), st.sampled_from(State)))


@settings(deadline=None)
@given(control=st.lists(entries, max_size=8), frames=st.lists(entries, max_size=20))
def test_batches_take_everything_once_and_in_order(control, frames):
    def bytes_of(queue):
        wanted = [item for item in queue if not is_taken_back(item)]
        return b"".join(
            item if type(item) is bytes else b"".join([item.data] if type(item.data) is bytes else item.data)
            for item in wanted
        )

    while control or frames:
        batch = Batch()
        counts = batch.add(control), batch.add(frames)
        taken = control[: counts[0]], frames[: counts[1]]
        assert sum(counts) > 0, "it goes on"
        assert b"".join(batch.chunks) == bytes_of(taken[0]) + bytes_of(taken[1])
        assert batch.size == sum(map(len, batch.chunks))
        assert batch.entries == [item for item in itertools.chain(*taken) if not is_taken_back(item)]
        assert batch.empty == sum(map(is_taken_back, itertools.chain(*taken)))
        if counts[1]:
            assert counts[0] == len(control), "control frames go first"
        del control[: counts[0]], frames[: counts[1]]


# --- fragments ---


def test_of_a_large_frame_a_batch_has_one_fragment():
    frame = large(7, 3)
    batch, counts = batch_of([b"a", frame, b"behind"])
    assert counts == [2], "a fragment fills it"
    assert batch.entries == [b"a"]
    assert batch.begun == [(frame, FRAGMENT)]
    assert batch.size == sum(map(len, batch.chunks)) == 1 + HEADER_SIZE + 4 + FRAGMENT
    (fragment,) = frames_in(b"".join(batch.chunks)[1:])
    assert (fragment.id, len(fragment.body), fragment.flags) == (7, FRAGMENT, MORE)
    assert frame.state is State.QUEUED, "until the batch is taken"


def test_a_fragment_is_not_copied():
    frame = large(7, 2)
    batch, _ = batch_of([frame])
    assert [getattr(chunk, "obj", None) for chunk in batch.chunks] == [None, frame.data[1]]


def test_small_fragments_share_a_batch():
    frames = [large(number, 3, size=10) for number in range(5)]
    batch, counts = batch_of([frames[0], b"", *frames[1:]])
    assert counts == [6]
    assert batch.begun == [(frame, 10) for frame in frames]
    assert [frame.id for frame in frames_in(b"".join(batch.chunks))] == [0, 1, 2, 3, 4]


def test_with_its_last_fragment_a_frame_ends():
    frame = large(7, 2)
    frame.cutter.advance()
    batch, _ = batch_of([frame])
    assert (batch.entries, batch.begun) == ([frame], [])
    (fragment,) = frames_in(b"".join(batch.chunks))
    assert (fragment.flags, len(fragment.body)) == (CONTINUED, FRAGMENT)


# --- the queue ---


def queue_of(*, control=(), frames=(), bulk=()):
    queue = Queue()
    queue.control += control
    queue.frames += frames
    queue.bulk += bulk
    return queue


def leave(queue):
    """Takes a batch; gives it with its bytes."""
    batch = queue.batch()
    data = b"".join(batch.chunks)
    assert len(data) == batch.size
    queue.take(batch)
    return batch, data


def leave_all(queue):
    """Takes all there is, batch by batch."""
    batches = []
    while queue:
        batches.append(leave(queue)[1])
    return batches


def ids_of(batches):
    return [[frame.id for frame in frames_in(data)] for data in batches]


@pytest.mark.parametrize("part", ["control", "frames", "bulk"])
def test_a_queue_is_something_as_long_as_there_is_something_in_it(part):
    assert not Queue()
    assert len(Queue()) == 0
    queue = queue_of(**{part: [b"a", entry(b"b")]})
    assert queue
    assert len(queue) == 2
    leave(queue)
    assert not queue
    assert len(queue) == 0


@pytest.mark.parametrize("is_bulk", [False, True])
def test_a_queue_is_something_as_long_as_a_fragment_is_left(is_bulk):
    queue = queue_of(**{"bulk" if is_bulk else "frames": [large(1, 2, is_bulk=is_bulk)]})
    leave(queue)
    assert queue
    assert len(queue) == 1
    leave(queue)
    assert not queue
    assert len(queue) == 0


def test_the_order_in_which_the_parts_leave():
    queue = queue_of(bulk=[b"e", b"f"], frames=[b"c", b"d"], control=[b"a", b"b"])
    batch, data = leave(queue)
    assert data == b"abcdef"
    assert batch.counts == (2, 2, 2)


@pytest.mark.parametrize("is_bulk", [False, True])
def test_a_batch_stays_in_the_queue_until_it_is_taken(is_bulk):
    frame = large(1, 2, is_bulk=is_bulk)
    queue = queue_of(control=[b"a"], frames=[b"b"])
    (queue.bulk if is_bulk else queue.frames).append(frame)
    first, again = queue.batch(), queue.batch()
    assert b"".join(first.chunks) == b"".join(again.chunks)
    assert len(queue) == 3
    assert frame.state is State.QUEUED
    queue.take(again)
    assert (queue.bulk, queue.begun) == (([frame], []) if is_bulk else ([], [frame]))
    assert frame.state is State.WRITING
    assert len(queue) == 1


def test_what_is_put_in_behind_a_batch_stays():
    queue = queue_of(control=[b"a"], frames=[b"b"], bulk=[b"c"])
    batch = queue.batch()
    queue.control.append(b"x")
    queue.frames.append(b"y")
    queue.bulk.append(b"z")
    queue.take(batch)
    assert (queue.control, queue.frames, queue.bulk) == ([b"x"], [b"y"], [b"z"])


def test_bulk_is_not_starved_by_what_goes_before_it():
    queue = queue_of(frames=[bytes(BATCH)] * 3, bulk=[b"x", b"y"])
    assert [data[BATCH:] for data in leave_all(queue)] == [b"x", b"y", b""]


def test_what_is_small_goes_before_bulk():
    queue = queue_of(bulk=[bytes(BATCH)] * 3)
    leave(queue)
    queue.frames.append(b"small")
    queue.control.append(b"!")
    batches = leave_all(queue)
    assert batches[0][:6] == b"!small"


def test_large_bulk_takes_turns():
    queue = queue_of(bulk=[large(number, 3, is_bulk=True) for number in range(3)])
    assert ids_of(leave_all(queue)) == [[0], [1], [2]] * 3


def test_fragments_take_turns_with_items_of_streams():
    frame = large(1, 3, is_bulk=True)
    items = [bytes([i]) * BATCH for i in range(3)]
    queue = queue_of(bulk=[frame, *items])
    batches = leave_all(queue)
    # Items that wait go before the second fragment: those that come later do not.
    assert [len(data) for data in batches] == [FRAGMENT + 16, BATCH, BATCH, BATCH, FRAGMENT + 16, FRAGMENT + 16]
    assert batches[1:4] == items


def test_large_requests_begin_in_their_order_and_leave_one_after_the_other():
    """So that the peer has hardly more than one of them incomplete."""
    queue = queue_of(frames=[large(number, 3, first=FIRST) for number in range(3)])
    flat = [i for ids in ids_of(leave_all(queue)) for i in ids]
    assert flat == [0, 1, 2, 0, 0, 1, 1, 2, 2]


def test_the_rest_of_a_request_has_a_fragment_in_each_batch():
    queue = queue_of(frames=[large(1, 4, first=FIRST)])
    leave(queue)
    queue.frames += [frame_of(0x20, 2, bytes(BATCH)) for _ in range(2)]
    queue.bulk += [large(3, 3, is_bulk=True)]
    assert ids_of(leave_all(queue)) == [[2, 3, 1], [2, 3, 1], [3, 1]]


def test_a_large_request_waits_for_its_turn_among_small_ones():
    frame = large(7, 2, first=FIRST)
    queue = queue_of(frames=[b"before", frame, b"behind"])
    first, second = leave_all(queue)
    assert first.startswith(b"before")
    # The rest goes behind what is small.
    assert first.endswith(b"behind")
    assert len(second) == FRAGMENT + 16


@pytest.mark.parametrize("is_bulk", [False, True])
def test_all_states_of_a_large_frame(is_bulk):
    frame = large(7, 3, is_bulk=is_bulk)
    queue = queue_of(**{"bulk" if is_bulk else "frames": [frame]})
    assert frame.state is State.QUEUED
    for _ in range(2):
        batch, _ = leave(queue)
        assert (batch.entries, batch.begun) == ([], [(frame, FRAGMENT)])
        assert frame.state is State.WRITING
        assert not is_taken_back(frame)
        assert frame.is_bulk is is_bulk
    batch, _ = leave(queue)
    assert (batch.entries, batch.begun) == ([frame], [])
    assert frame.cutter is None
    assert not queue


def test_a_frame_whose_fragments_are_one_leaves_whole():
    frame = large(7, 1)
    queue = queue_of(frames=[large(1, 3, first=FIRST)])
    leave(queue)
    queue.frames.append(frame)
    batch, _ = leave(queue)
    assert batch.entries == [frame]
    assert frame.cutter is None
    assert len(queue.begun) == 1, "it is that of the other one"


def test_what_is_left():
    taken, begun, queued = entry(b"t", State.UNSENT), large(1, 2, state=State.WRITING), entry(b"q")
    broken, request = large(2, 2, state=State.BROKEN), large(3, 2, state=State.WRITING)
    queue = queue_of(control=[b"a"], frames=[taken, queued], bulk=[begun, broken, b"c"])
    queue.begun.append(request)
    assert queue.left() == [b"a", queued, begun, b"c", request]


@pytest.mark.parametrize("is_bulk", [False, True])
@pytest.mark.parametrize("begun", [False, True])
def test_removing_a_frame(is_bulk, begun):
    frame = large(1, 3, is_bulk=is_bulk)
    queue = queue_of(**{"bulk" if is_bulk else "frames": [frame]})
    if begun:
        leave(queue)
    # Among those that are small its place stays, for it may be one of many.
    assert queue.remove(frame) is (is_bulk or begun)
    assert len(queue) == (0 if is_bulk or begun else 1)


@settings(deadline=None)
@given(data=st.data())
def test_whatever_is_queued_leaves_once_and_whole(data):
    queue = Queue()
    put, seen = [], b""
    small = st.sampled_from([b"", b"x", bytes(BATCH)])
    for number in range(data.draw(st.integers(1, 25))):
        kind = data.draw(st.sampled_from(["control", "frames", "bulk", "large", "large bulk", "take", "take back"]))
        match kind:
            case "take":
                seen += leave(queue)[1]
            case "take back":
                # As an outbox does it with one that has not begun.
                waiting = [e for e in queue.frames if not isinstance(e, bytes) and e.state is State.QUEUED]
                if waiting:
                    frame = data.draw(st.sampled_from(waiting))
                    frame.state = State.UNSENT
                    put = [one for one in put if one[0] is not frame]
            case "large" | "large bulk":
                frame = large(
                    number,
                    data.draw(st.integers(2, 4)),
                    size=data.draw(st.sampled_from([10, FRAGMENT])),
                    first=data.draw(st.sampled_from([1, FIRST])),
                    is_bulk=kind == "large bulk",
                )
                (queue.bulk if frame.is_bulk else queue.frames).append(frame)
                put.append((frame, number))
            case _:
                frame = entry(frame_of(0x20, number, data.draw(small)))
                getattr(queue, kind).append(frame)
                put.append((frame, number))
    seen += b"".join(leave_all(queue))
    bodies = {}
    for fragment in frames_in(seen):
        assert bool(fragment.flags & CONTINUED) == (fragment.id in bodies)
        bodies[fragment.id] = bodies.get(fragment.id, b"") + bytes(fragment.body)
    assert bodies == {number: joined(frame.data)[16:] for frame, number in put}


# --- what is left ---


@pytest.mark.parametrize("size", range(10))
def test_without_first(size):
    chunks = [b"ab", b"", b"cde", memoryview(b"f"), b"ghi"]
    rest = without_first(chunks, size)
    assert b"".join(rest) == b"abcdefghi"[size:]
    assert all(rest), "no chunk is empty"


def test_without_first_copies_nothing():
    large = bytes(100_000)
    (rest,) = without_first([b"a", large], 5)
    assert rest.obj is large
    assert len(rest) == 100_000 - 4
    (again,) = without_first([rest], 10)
    assert again.obj is large


@settings(deadline=None)
@given(chunks=st.lists(st.binary(max_size=4), max_size=6), sizes=st.lists(st.integers(0, 5), max_size=8))
def test_without_first_again_and_again(chunks, sizes):
    whole = b"".join(chunks)
    for size in sizes:
        chunks = without_first(chunks, size)
        whole = whole[size:]
        assert b"".join(chunks) == whole
