"""The outbox: what is written, in which order, and how far a frame has come whatever happens to the stream."""

import contextlib
import math

import pytest
import trio
import trio.testing

from trpc._outbox import Outbox, Outgoing, State
from trpc._transport import StreamTransport


class FakeTransport:
    """A transport whose writes wait for the test: each one for ``finish()``, unless it is ``open``."""

    address = "fake"

    def __init__(self, *, is_open=False):
        self.open = is_open
        self.sent: list[bytes] = []
        self.interrupted: list[bytes] = []
        self.writing: bytes | None = None
        self._outcome: Exception | None = None
        self._parked = trio.lowlevel.ParkingLot()

    async def send(self, data):
        assert self.writing is None, "two writes at once"
        assert data, "an empty write"
        self.writing = data
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

    def finish(self):
        """The write that waits is done."""
        assert self.writing is not None
        self._parked.unpark()

    def fail(self, exc):
        """The write that waits fails."""
        self._outcome = exc
        self.finish()


class Box:
    """An outbox, its transport, and its running writer."""

    def __init__(self, nursery, *, max_unsent=1000, is_open=False):
        self.transport = FakeTransport(is_open=is_open)
        self.outbox = Outbox(self.transport, max_unsent=max_unsent)
        self.errors: list[Exception] = []
        self.ended = trio.Event()
        self.put = self.outbox.put
        nursery.start_soon(self._run)

    async def _run(self):
        try:
            await self.outbox.run(self.errors.append)
        finally:
            self.ended.set()

    async def writing(self, data):
        """Puts a frame and waits until it is being written."""
        frame = self.put(data)
        await settle()
        assert frame.state is State.WRITING
        return frame

    async def end(self):
        self.transport.open = True
        if self.transport.writing is not None:
            self.transport.finish()
        self.outbox.close(within=math.inf)
        await self.ended.wait()


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
async def running(outbox, on_error=pytest.fail):
    """The writer of an outbox in a nursery of its own; a failing test ends it too."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(outbox.run, on_error)
        try:
            yield nursery
        except BaseException:
            outbox.close(within=0)
            raise


async def settle():
    await trio.testing.wait_all_tasks_blocked()


# --- writing ---


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


async def test_a_frame_larger_than_a_batch_is_written_whole(new_box):
    box = new_box(is_open=True)
    box.put(bytes(1_000_000))
    await settle()
    assert [len(data) for data in box.transport.sent] == [1_000_000]
    await box.end()


async def test_the_writer_sleeps_and_wakes_again(new_box):
    box = new_box(is_open=True)
    for i in range(3):
        box.put(b"%d" % i)
        await settle()
    assert box.transport.sent == [b"0", b"1", b"2"]
    await box.end()


async def test_frames_put_before_the_writer_runs_are_written():
    transport = FakeTransport(is_open=True)
    outbox = Outbox(transport, max_unsent=10)
    outbox.put(b"early")
    async with running(outbox):
        await settle()
        assert transport.sent == [b"early"]
        outbox.close(within=1)


async def test_over_a_stream():
    ours, theirs = trio.testing.memory_stream_pair()
    outbox = Outbox(StreamTransport(ours, "memory"), max_unsent=10)
    async with running(outbox):
        outbox.put(b"abc")
        assert await theirs.receive_some() == b"abc"
        outbox.close(within=1)


# --- taking back ---


async def test_a_queued_frame_can_be_taken_back(new_box):
    box = new_box()
    await box.writing(b"first")
    kept, taken = box.put(b"kept"), box.put(b"taken")
    assert box.outbox.discard(taken)
    assert taken.state is State.UNSENT
    assert len(box.outbox._frames) == 1, "nothing is left of it"
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


async def test_taking_back_all_that_waits_leaves_the_writer_asleep(new_box):
    box = new_box()
    frame = box.put(b"x")
    assert box.outbox.discard(frame)
    await settle()
    assert box.transport.writing is None
    await box.writing(b"next")
    await box.end()
    assert box.transport.sent == [b"next"]


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


async def test_wait_written_for_a_frame_that_is_done_is_a_checkpoint(new_box):
    box = new_box(is_open=True)
    written = box.put(b"abc")
    await settle()
    with trio.testing.assert_checkpoints():
        assert await box.outbox.wait_written(written)
    unsent = Outgoing(b"x")
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
    await box.end()
    assert not box.outbox.is_full


async def test_with_room_there_is_no_wait(new_box, nursery):
    box = new_box(max_unsent=5)
    with trio.testing.assert_no_checkpoints():
        await box.outbox.wait_for_room()
    await box.end()


async def waiting_for_room(box, nursery, number=1):
    ended = []

    async def waits():
        await box.outbox.wait_for_room()
        ended.append(box.outbox.is_full)

    for _ in range(number):
        nursery.start_soon(waits)
    await settle()
    return ended


async def test_room_is_there_when_enough_is_written(new_box, nursery):
    box = new_box(max_unsent=5)
    await box.writing(b"123456")
    box.put(b"789012")
    ended = await waiting_for_room(box, nursery, 3)
    assert ended == []
    box.transport.finish()
    await settle()
    assert ended == [], "the second frame is over the limit as well"
    box.transport.finish()
    await settle()
    assert ended == [False] * 3
    await box.end()


async def test_room_is_there_when_enough_is_taken_back(new_box, nursery):
    box = new_box(max_unsent=5)
    await box.writing(b"1")
    frames = [box.put(b"2345"), box.put(b"6789")]
    ended = await waiting_for_room(box, nursery)
    box.outbox.discard(frames[0])
    await settle()
    assert ended == [False]
    await box.end()


async def test_who_waits_looks_again(new_box, nursery):
    box = new_box(max_unsent=5)
    await box.writing(b"1")
    frame = box.put(b"23456")
    ended = await waiting_for_room(box, nursery, 2)
    box.outbox.discard(frame)
    # Before those who wait have run, somebody else takes the room.
    box.put(b"23456")
    await settle()
    assert ended == []
    box.transport.finish()
    await settle()
    assert ended == [False] * 2
    await box.end()


async def test_waiting_for_room_can_be_cancelled(new_box):
    box = new_box(max_unsent=1)
    await box.writing(b"123")
    with trio.CancelScope() as scope:
        scope.cancel()
        await box.outbox.wait_for_room()
    assert scope.cancelled_caught
    await box.end()


@pytest.mark.parametrize("how", ["close", "break"])
async def test_waiting_for_room_ends_with_the_connection(new_box, nursery, how):
    box = new_box(max_unsent=1)
    await box.writing(b"123")
    ended = await waiting_for_room(box, nursery, 2)
    if how == "close":
        box.outbox.close(within=math.inf)
    else:
        box.transport.fail(trio.BrokenResourceError())
    await settle()
    assert len(ended) == 2
    with trio.testing.assert_no_checkpoints():
        await box.outbox.wait_for_room()
    if how == "close":
        await box.end()


# --- the end ---


async def test_close_writes_what_is_queued_and_takes_no_more(new_box):
    box = new_box()
    await box.writing(b"first")
    queued = [box.put(b"a"), box.put(b"B", control=True)]
    box.outbox.close(within=math.inf)
    late = [box.put(b"late"), box.put(b"late", control=True)]
    assert [frame.state for frame in late] == [State.UNSENT] * 2
    assert all(box.outbox.discard(frame) for frame in late)
    box.transport.finish()
    await settle()
    assert box.transport.writing == b"Ba"
    box.transport.finish()
    await box.ended.wait()
    assert [frame.state for frame in queued] == [State.WRITTEN] * 2
    assert box.errors == []
    assert box.outbox.unsent == 0


async def test_close_of_an_idle_outbox(new_box):
    box = new_box()
    await settle()
    box.outbox.close(within=10)
    await settle()
    assert box.ended.is_set()


async def test_an_idle_writer_that_is_cancelled_after_all_takes_no_more(new_box):
    box = new_box()
    await settle()
    box.outbox._scope.cancel()
    await box.ended.wait()
    assert box.put(b"late").state is State.UNSENT
    assert box.errors == []


async def test_close_before_the_writer_has_started():
    transport = FakeTransport(is_open=True)
    outbox = Outbox(transport, max_unsent=10)
    frame = outbox.put(b"abc")
    outbox.close(within=10)
    await outbox.run(pytest.fail)
    assert frame.state is State.WRITTEN
    assert transport.sent == [b"abc"]


async def test_a_write_that_never_ends_is_cut_after_the_time_given(new_box, autojump_clock):
    box = new_box()
    writing = await box.writing(b"half")
    queued = box.put(b"behind it")
    start = trio.current_time()
    box.outbox.close(within=3)
    await box.ended.wait()
    assert trio.current_time() - start == pytest.approx(3)
    assert box.transport.interrupted == [b"half"]
    assert box.transport.sent == []
    assert (writing.state, queued.state) == (State.BROKEN, State.UNSENT)
    assert not box.outbox.discard(writing)
    assert box.outbox.discard(queued)
    assert box.outbox.unsent == 0
    assert box.errors == [], "it is the owner who ended it"


async def test_close_may_shorten_the_time_but_not_extend_it(new_box, autojump_clock):
    box = new_box()
    await box.writing(b"half")
    start = trio.current_time()
    box.outbox.close(within=10)
    box.outbox.close(within=2)
    box.outbox.close(within=60)
    await box.ended.wait()
    assert trio.current_time() - start == pytest.approx(2)


async def test_all_writes_of_a_close_share_its_time(new_box, autojump_clock):
    box = new_box()
    await box.writing(b"first")
    queued = box.put(b"second")
    start = trio.current_time()
    box.outbox.close(within=5)
    await trio.sleep(4)
    box.transport.finish()
    await box.ended.wait()
    assert trio.current_time() - start == pytest.approx(5)
    assert queued.state is State.BROKEN


async def test_a_cancel_from_outside_does_not_cut_a_write():
    transport = FakeTransport()
    outbox = Outbox(transport, max_unsent=100)
    async with running(outbox) as nursery:
        frame = outbox.put(b"whole")
        await settle()
        nursery.cancel_scope.cancel()
        with trio.CancelScope(shield=True):
            await settle()
            assert transport.writing == b"whole"
            transport.finish()
            await settle()
            assert frame.state is State.WRITTEN
            # A reply that is ready after the cancel still leaves.
            outbox.put(b"reply")
            await settle()
            transport.finish()
        outbox.close(within=math.inf)
    assert transport.sent == [b"whole", b"reply"]
    assert transport.interrupted == []


@pytest.mark.parametrize("error", [trio.BrokenResourceError("reset"), trio.ClosedResourceError("closed")])
async def test_a_write_that_fails_is_reported_and_ends_it(new_box, error):
    box = new_box()
    writing = await box.writing(b"half")
    control, queued, taken = box.put(b"c", control=True), box.put(b"q"), box.put(b"t")
    box.outbox.discard(taken)
    box.transport.fail(error)
    await box.ended.wait()
    assert box.errors == [error]
    assert writing.state is State.BROKEN
    assert control.state is queued.state is taken.state is State.UNSENT
    assert box.outbox.unsent == 0
    late = box.put(b"late")
    assert late.state is State.UNSENT
    assert box.outbox.unsent == 0


async def test_every_frame_of_a_batch_that_fails_is_broken(new_box):
    box = new_box()
    await box.writing(b"first")
    batch = [box.put(b"a"), box.put(b"b")]
    box.transport.finish()
    await settle()
    box.transport.fail(trio.BrokenResourceError())
    await box.ended.wait()
    assert [frame.state for frame in batch] == [State.BROKEN] * 2


async def test_what_was_written_before_the_failure_stays_written(new_box):
    box = new_box()
    first = await box.writing(b"first")
    box.transport.finish()
    await settle()
    await box.writing(b"second")
    box.transport.fail(trio.BrokenResourceError())
    await box.ended.wait()
    assert first.state is State.WRITTEN


async def test_an_unexpected_error_of_the_transport_leaves_no_frame_in_between():
    transport = FakeTransport()
    outbox = Outbox(transport, max_unsent=100)
    with pytest.raises(ExceptionGroup) as caught:
        async with running(outbox):
            writing, queued = outbox.put(b"w"), None
            await settle()
            queued = outbox.put(b"q")
            transport.fail(RuntimeError("a bug"))
    assert caught.group_contains(RuntimeError, match="a bug")
    assert writing.state is State.BROKEN
    assert queued is not None
    assert queued.state is State.UNSENT


async def test_an_error_of_the_callback_still_settles_every_frame():
    def on_error(_):
        raise RuntimeError("in the callback")

    transport = FakeTransport()
    outbox = Outbox(transport, max_unsent=100)
    with pytest.raises(ExceptionGroup) as caught:
        async with running(outbox, on_error):
            frame = outbox.put(b"w")
            await settle()
            transport.fail(trio.BrokenResourceError())
    assert caught.group_contains(RuntimeError, match="in the callback")
    assert frame.state is State.BROKEN
