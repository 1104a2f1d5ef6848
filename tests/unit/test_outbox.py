"""The outbox: what is written, in which order, and how far a frame has come whatever happens to the stream."""

import collections
import contextlib
import itertools
import math

import hypothesis.strategies as st
import pytest
import trio
import trio.testing
from hypothesis import HealthCheck, given, settings

from trpc._outbox import Outbox
from trpc._outgoing import Outgoing, State
from trpc._transport import StreamTransport
from trpc._workers import Workers

# What a transport takes at once: a stream nothing, a socket all, or part of it.
NOTHING, ALL = 0, math.inf


class FakeTransport:
    """A transport that takes so many bytes at once, and whose writes wait for the test.

    Each waits for ``finish()``, unless it is ``open``.
    """

    address = "fake"

    def __init__(self, *, takes=NOTHING, is_open=False):
        self.takes = takes
        self.open = is_open
        self.sent: list[bytes] = []
        self.interrupted: list[bytes] = []
        self.writing: bytes | None = None
        self.error: Exception | None = None
        self._outcome: Exception | None = None
        self._parked = trio.lowlevel.ParkingLot()

    def send_nowait(self, chunks):
        data = self._join(chunks)
        if self.error is not None:
            raise self.error
        taken = min(self.takes, len(data))
        self.takes -= taken
        if taken:
            self.sent.append(data[:taken])
        return taken

    async def send(self, chunks):
        self.writing = data = self._join(chunks)
        try:
            if self.open:
                await trio.lowlevel.checkpoint()
            else:
                await self._parked.park()
        except BaseException:
            self.interrupted.append(data)
            raise
        finally:
            self.writing = None
        if self._outcome is not None:
            raise self._outcome
        self.sent.append(data)

    def _join(self, chunks):
        assert self.writing is None, "two writes at once"
        data = b"".join(chunks)
        assert data, "an empty write"
        return data

    def finish(self):
        """The write that waits is done."""
        assert self.writing is not None
        self._parked.unpark()

    def fail(self, exc):
        """The write that waits fails."""
        self._outcome = exc
        self.finish()


class FakeWorkers:
    """Starts a task for each job."""

    def __init__(self, nursery):
        self.nursery = nursery
        self.jobs = 0

    def run(self, job):
        self.jobs += 1
        self.nursery.start_soon(job, None)


class Box:
    """An outbox that is not held any more, its transport and its workers."""

    def __init__(self, nursery, *, max_unsent=1000, held=False, **transport):
        self.transport = FakeTransport(**transport)
        self.workers = FakeWorkers(nursery)
        self.errors: list[Exception] = []
        self.outbox = Outbox(self.transport, max_unsent=max_unsent, workers=self.workers, on_error=self.errors.append)
        self.put = self.outbox.put
        self.answer = self.outbox.answer
        if not held:
            self.outbox.flush()

    async def writing(self, data, **options):
        """Puts a frame and waits until it is being written."""
        frame = self.put(data, **options)
        await settle()
        assert frame.state is State.WRITING
        return frame

    @property
    def nothing_is_counted(self):
        return (self.outbox.unsent, self.outbox.unsent_answers) == (0, 0)

    async def end(self):
        """Has everything written."""
        self.transport.open = True
        if self.transport.writing is not None:
            self.transport.finish()
        self.outbox.close(within=math.inf)
        await self.outbox.finish()
        assert self.nothing_is_counted


@pytest.fixture
async def new_box(nursery):
    """Makes boxes. No cancel reaches a writer, so they are ended here, else a failing test would hang."""
    boxes = []

    def make(**options):
        boxes.append(Box(nursery, **options))
        return boxes[-1]

    yield make
    for box in boxes:
        box.outbox.close(within=0)


@contextlib.asynccontextmanager
async def running(**options):
    """A box with a nursery of its own; a failing test ends it too."""
    async with trio.open_nursery() as nursery:
        box = Box(nursery, **options)
        try:
            yield box
        except BaseException:
            box.outbox.close(within=0)
            raise


async def settle():
    await trio.testing.wait_all_tasks_blocked()


def states(frames):
    return [frame.state for frame in frames]


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


# --- by a writer ---


async def test_a_frame_is_written(new_box):
    box = new_box()
    frame = box.put(b"abc")
    assert frame.state is State.QUEUED
    assert box.outbox.unsent == 3
    await settle()
    assert frame.state is State.WRITING
    assert box.transport.writing == b"abc"
    assert box.outbox.unsent == 3
    box.transport.finish()
    await settle()
    assert frame.state is State.WRITTEN
    assert box.transport.sent == [b"abc"]
    assert box.outbox.unsent == 0
    assert frame.data == b"", "what is written is not kept"
    await box.end()


async def test_frames_that_wait_share_a_write_in_their_order(new_box):
    box = new_box()
    await box.writing(b"first")
    frames = [box.put(bytes([i])) for i in range(100)]
    box.transport.finish()
    await settle()
    assert box.transport.writing == bytes(range(100))
    assert {frame.state for frame in frames} == {State.WRITING}
    box.transport.finish()
    await settle()
    assert {frame.state for frame in frames} == {State.WRITTEN}
    await box.end()


async def test_control_frames_go_first(new_box):
    box = new_box()
    await box.writing(b"first")
    for data, control in [(b"a", False), (b"X", True), (b"b", False), (b"Y", True)]:
        box.put(data, control=control)
    box.transport.finish()
    await settle()
    assert box.transport.writing == b"XYab"
    await box.end()


async def test_a_control_frame_overtakes_large_frames_that_wait(new_box):
    box = new_box()
    large = [bytes([i]) * 64 * 1024 for i in range(3)]
    for data in large:
        box.put(data)
    await settle()
    box.put(b"!", control=True)
    await box.end()
    assert box.transport.sent == [large[0], b"!" + large[1], large[2]]


async def test_a_write_is_not_made_larger_than_it_has_to_be(new_box):
    box = new_box()
    await box.writing(b"first")
    for _ in range(10):
        box.put(bytes(30_000))
    box.transport.open = True
    box.transport.finish()
    await settle()
    # A batch takes frames until it has 64 KiB, so the last one may exceed it by a frame.
    assert [len(data) for data in box.transport.sent] == [5, 90_000, 90_000, 90_000, 30_000]
    await box.end()


@pytest.mark.parametrize("takes", [NOTHING, 1, 500_000, ALL])
@pytest.mark.parametrize("data", [bytes(1_000_000), (b"head", bytes(499_996), bytes(500_000))])
async def test_a_frame_larger_than_a_batch_is_written_whole(new_box, takes, data):
    box = new_box(takes=takes, is_open=True)
    frame = box.put(data)
    await settle()
    assert frame.state is State.WRITTEN
    assert b"".join(box.transport.sent) == (b"" if type(data) is bytes else b"head") + bytes(
        1_000_000 if type(data) is bytes else 999_996
    )
    assert box.nothing_is_counted
    await box.end()


async def test_the_writer_ends_and_another_one_is_run(new_box):
    box = new_box(is_open=True)
    for i in range(3):
        box.put(b"%d" % i)
        await settle()
    assert box.transport.sent == [b"0", b"1", b"2"]
    assert box.workers.jobs == 3
    await box.end()


async def test_one_writer_is_enough(new_box):
    box = new_box()
    for i in range(10):
        box.put(b"%d" % i)
    await settle()
    for i in range(10):
        box.put(b"%d" % i)
    box.outbox.flush()
    box.transport.finish()
    await settle()
    assert box.workers.jobs == 1
    assert box.transport.writing == b"0123456789"
    await box.end()


async def test_frames_in_pieces_are_written_with_others(new_box):
    box = new_box()
    await box.writing(b"first")
    box.put((b"a", b"b"))
    box.answer((b"c", b"", b"d"))
    box.put(b"e")
    assert (box.outbox.unsent, box.outbox.unsent_answers) == (10, 2)
    box.transport.finish()
    await settle()
    assert box.transport.writing == b"abcde"
    await box.end()


@pytest.mark.parametrize("workers", ["real", "fake"])
async def test_over_a_stream(nursery, workers):
    ours, theirs = trio.testing.memory_stream_pair()
    if workers == "real":
        real = Workers()
        real.nursery = nursery
    outbox = Outbox(
        StreamTransport(ours, "memory"),
        max_unsent=10,
        workers=real if workers == "real" else FakeWorkers(nursery),
        on_error=pytest.fail,
    )
    outbox.flush()
    outbox.put(b"abc")
    outbox.put((b"d", b"e"))
    assert await theirs.receive_some() == b"abcde"
    outbox.put(b"f")
    assert await theirs.receive_some() == b"f"
    outbox.close(within=1)
    await outbox.finish()


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
        assert len(box.outbox._frames) <= 2 * len(rest) + 102
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


# --- room ---


async def test_full_is_above_the_limit(new_box):
    box = new_box(max_unsent=5)
    await box.writing(b"12345")
    assert not box.outbox.is_full
    box.put(b"6")
    assert box.outbox.is_full
    assert not box.outbox.is_full_of_answers
    await box.end()
    assert not box.outbox.is_full


async def test_full_of_answers_is_above_the_limit_in_answers_alone(new_box):
    box = new_box(max_unsent=5)
    await box.writing(b"123456")
    box.answer(b"123")
    box.answer((b"4", b"5"))
    assert not box.outbox.is_full_of_answers
    box.answer(b"6", control=True)
    assert box.outbox.is_full_of_answers
    await box.end()
    assert not box.outbox.is_full_of_answers


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


# --- the end ---


async def test_close_writes_what_is_queued_and_takes_no_more(new_box, nursery):
    box = new_box()
    await box.writing(b"first")
    queued = [box.put(b"a"), box.put(b"B", control=True)]
    box.outbox.close(within=math.inf)
    late = [box.put(b"late"), box.put((b"late",), control=True)]
    assert states(late) == [State.UNSENT] * 2
    assert all(box.outbox.discard(frame) for frame in late)
    box.answer(b"late")
    box.answer((b"late",), control=True)
    box.outbox.flush()
    assert box.outbox.unsent == len(b"firstaB")
    box.transport.finish()
    await settle()
    assert box.transport.writing == b"Ba"
    ended = trio.Event()

    async def finishes():
        await box.outbox.finish()
        ended.set()

    nursery.start_soon(finishes)
    await settle()
    assert not ended.is_set()
    box.transport.finish()
    await ended.wait()
    assert states(queued) == [State.WRITTEN] * 2
    assert box.errors == []
    assert box.nothing_is_counted


@pytest.mark.parametrize("takes", [NOTHING, 1, ALL])
async def test_finish_writes_what_is_held(new_box, takes):
    box = new_box(held=True, takes=takes, is_open=True)
    frame = box.put(b"abc")
    box.answer(b"def")
    box.outbox.close(within=10)
    await box.outbox.finish()
    assert frame.state is State.WRITTEN
    assert b"".join(box.transport.sent) == b"abcdef"
    assert box.nothing_is_counted
    assert box.workers.jobs == 0


async def test_finish_of_an_idle_outbox(new_box):
    box = new_box()
    box.outbox.close(within=10)
    await box.outbox.finish()
    assert box.transport.sent == []
    assert box.put(b"late").state is State.UNSENT


async def test_finish_after_the_stream_broke(new_box):
    box = new_box()
    await box.writing(b"abc")
    box.transport.fail(trio.BrokenResourceError())
    await settle()
    box.outbox.close(within=math.inf)
    await box.outbox.finish()
    assert box.nothing_is_counted


@pytest.mark.parametrize("how", ["a writer is at work", "a writer will run", "held"])
async def test_a_write_that_never_ends_is_cut_after_the_time_given(new_box, autojump_clock, how):
    box = new_box(held=how == "held")
    writing = box.put(b"half")
    if how == "a writer is at work":
        await settle()
        queued = box.put(b"behind it")
    start = trio.current_time()
    box.outbox.close(within=3)
    await box.outbox.finish()
    assert trio.current_time() - start == pytest.approx(3)
    assert box.transport.interrupted == [b"half"]
    assert box.transport.sent == []
    assert writing.state is State.BROKEN
    assert not box.outbox.discard(writing)
    if how == "a writer is at work":
        assert queued.state is State.UNSENT
        assert box.outbox.discard(queued)
    assert box.nothing_is_counted
    assert box.errors == [], "it is the owner who ended it"


async def test_the_rest_of_a_frame_is_cut_after_the_time_given(new_box, autojump_clock):
    box = new_box(takes=2)
    frame = box.put(b"half")
    box.outbox.close(within=3)
    await box.outbox.finish()
    assert box.transport.sent == [b"ha"]
    assert box.transport.interrupted == [b"lf"]
    assert frame.state is State.BROKEN
    assert box.nothing_is_counted


async def test_close_may_shorten_the_time_but_not_extend_it(new_box, autojump_clock):
    box = new_box()
    await box.writing(b"half")
    start = trio.current_time()
    box.outbox.close(within=10)
    box.outbox.close(within=2)
    box.outbox.close(within=60)
    await box.outbox.finish()
    assert trio.current_time() - start == pytest.approx(2)


async def test_all_writes_of_a_close_share_its_time(new_box, nursery, autojump_clock):
    box = new_box()
    await box.writing(b"first")
    queued = box.put(b"second")
    start = trio.current_time()
    box.outbox.close(within=5)

    async def finishes_the_first():
        await trio.sleep(4)
        box.transport.finish()

    nursery.start_soon(finishes_the_first)
    await box.outbox.finish()
    assert trio.current_time() - start == pytest.approx(5)
    assert box.transport.sent == [b"first"]
    assert queued.state is State.BROKEN


@pytest.mark.parametrize("when", ["before the writer runs", "while it writes"])
async def test_a_cancel_from_outside_does_not_cut_a_write(when):
    async with running() as box:
        frame = box.put(b"whole")
        if when == "while it writes":
            await settle()
        box.workers.nursery.cancel_scope.cancel()
        with trio.CancelScope(shield=True):
            await settle()
            assert box.transport.writing == b"whole"
            box.transport.finish()
            await settle()
            assert frame.state is State.WRITTEN
            # A reply that is ready after the cancel still leaves.
            box.put(b"reply")
            await settle()
            box.transport.finish()
            box.outbox.close(within=math.inf)
            await box.outbox.finish()
    assert box.transport.sent == [b"whole", b"reply"]
    assert box.transport.interrupted == []


ERRORS = [trio.BrokenResourceError("reset"), trio.ClosedResourceError("closed")]


@pytest.mark.parametrize("error", ERRORS)
async def test_a_write_that_fails_is_reported_and_ends_it(new_box, error):
    box = new_box()
    writing = await box.writing(b"half")
    control, queued, taken = box.put(b"c", control=True), box.put(b"q"), box.put(b"t")
    box.answer(b"a")
    box.outbox.discard(taken)
    box.transport.fail(error)
    await settle()
    assert box.errors == [error]
    assert writing.state is State.BROKEN
    assert control.state is queued.state is taken.state is State.UNSENT
    assert box.nothing_is_counted
    late = box.put(b"late")
    box.answer(b"late")
    assert late.state is State.UNSENT
    assert box.nothing_is_counted


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("how", ["put", "answer"])
@pytest.mark.parametrize("data", [b"abc", (b"a", b"bc")])
async def test_a_transport_that_is_found_broken_at_once(new_box, error, how, data):
    box = new_box(takes=ALL)
    box.transport.error = error
    frame = getattr(box, how)(data)
    if how == "put":
        # The transport has taken no byte of it.
        assert frame.state is State.UNSENT
        assert box.outbox.discard(frame)
    assert box.nothing_is_counted
    assert box.errors == [], "who puts something in does not find the connection taken apart"
    assert box.put(b"next").state is State.UNSENT
    await settle()
    assert box.errors == [error]
    assert box.workers.jobs == 1
    box.outbox.close(within=1)
    await box.outbox.finish()


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("number", [1, 2])
async def test_a_transport_that_is_found_broken_by_a_flush(new_box, error, number):
    box = new_box(takes=ALL)
    box.outbox.held = True
    for _ in range(number):
        box.answer(b"abc")
    frame = box.put(b"def") if number > 1 else None
    box.transport.error = error
    box.outbox.flush()
    assert box.nothing_is_counted
    assert box.errors == []
    if frame is not None:
        assert frame.state is State.UNSENT
    await settle()
    assert box.errors == [error]


async def test_a_flush_that_fails_after_a_batch_was_written(new_box):
    box = new_box(takes=ALL)
    box.outbox.held = True
    frames = [box.put(bytes(100_000)) for _ in range(3)]
    send_nowait = box.transport.send_nowait

    def fails_next(chunks):
        box.transport.send_nowait = send_nowait
        box.transport.error = trio.BrokenResourceError()
        return len(b"".join(chunks))

    box.transport.send_nowait = fails_next
    box.outbox.flush()
    assert states(frames) == [State.WRITTEN, State.UNSENT, State.UNSENT]
    assert box.nothing_is_counted
    await settle()
    assert len(box.errors) == 1


@pytest.mark.parametrize("error", ERRORS)
async def test_a_writer_that_finds_the_transport_broken(new_box, error):
    box = new_box()
    frame = box.put(b"abc")
    box.transport.error = error
    await settle()
    assert box.errors == [error]
    assert frame.state in {State.UNSENT, State.BROKEN}
    assert box.nothing_is_counted
    assert box.put(b"late").state is State.UNSENT


async def test_every_frame_of_a_batch_that_fails_is_broken(new_box):
    box = new_box()
    await box.writing(b"first")
    batch = [box.put(b"a"), box.put(b"b")]
    box.transport.finish()
    await settle()
    box.transport.fail(trio.BrokenResourceError())
    await settle()
    assert states(batch) == [State.BROKEN] * 2


@pytest.mark.parametrize("taken", range(1, 6))
async def test_a_frame_of_which_some_has_left_is_broken_by_a_failure(new_box, taken):
    box = new_box(takes=taken)
    box.outbox.held = True
    frames = [box.put(b"abc"), box.put(b"def")]
    box.outbox.flush()
    await settle()
    box.transport.fail(trio.BrokenResourceError())
    await settle()
    assert states(frames) == [State.BROKEN] * 2
    assert box.nothing_is_counted


async def test_what_was_written_before_the_failure_stays_written(new_box):
    box = new_box()
    first = await box.writing(b"first")
    box.transport.finish()
    await settle()
    await box.writing(b"second")
    box.transport.fail(trio.BrokenResourceError())
    await settle()
    assert first.state is State.WRITTEN


async def test_an_unexpected_error_of_the_transport_leaves_no_frame_in_between():
    with pytest.raises(ExceptionGroup) as caught:
        async with running() as box:
            writing, queued = box.put(b"w"), None
            await settle()
            queued = box.put(b"q")
            box.transport.fail(RuntimeError("a bug"))
    assert caught.group_contains(RuntimeError, match="a bug")
    assert writing.state is State.BROKEN
    assert queued is not None
    assert queued.state is State.UNSENT
    assert box.nothing_is_counted


async def test_an_error_of_the_callback_still_settles_every_frame():
    def on_error(_):
        raise RuntimeError("in the callback")

    with pytest.raises(ExceptionGroup) as caught:
        async with running() as box:
            box.outbox._on_error = on_error
            frame = box.put(b"w")
            await settle()
            box.transport.fail(trio.BrokenResourceError())
    assert caught.group_contains(RuntimeError, match="in the callback")
    assert frame.state is State.BROKEN


async def test_the_end_after_an_unexpected_error_does_not_wait_for_the_writer():
    with pytest.raises(ExceptionGroup) as caught:
        async with running() as box:
            box.put(b"w")
            await settle()
            box.transport.fail(RuntimeError("a bug"))
            with trio.CancelScope(shield=True):
                box.outbox.close(within=math.inf)
                await box.outbox.finish()
    assert caught.group_contains(RuntimeError, match="a bug")


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
