"""Frames on their way out: how they are put together to be written, and what is left when some of it has left."""

import itertools

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from trpc._outgoing import BATCH, Batch, Outgoing, State, is_taken_back, size_of, without_first

# From this size on, bytes are not copied to be joined with others.
LARGE = 16 * 1024


def entry(data, state=State.QUEUED):
    frame = Outgoing()
    frame.data = data
    frame.size = size_of(data)
    frame.state = state
    return frame


def batch_of(*queues):
    batch = Batch()
    counts = [batch.add(queue) for queue in queues]
    return batch, counts


# --- frames ---


@pytest.mark.parametrize(("data", "size"), [(b"", 0), (b"abc", 3), ((b"a", b"", b"bc"), 3), ((), 0)])
def test_size_of(data, size):
    assert size_of(data) == size


def test_a_new_frame_is_queued_and_has_no_bytes():
    frame = Outgoing()
    assert (frame.state, frame.size, frame.data, frame.waiter, frame.is_answer) == (State.QUEUED, 0, b"", None, False)


@pytest.mark.parametrize("state", State)
def test_what_is_not_queued_any_more_was_taken_back(state):
    assert is_taken_back(entry(b"x", state)) is (state is not State.QUEUED)


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
