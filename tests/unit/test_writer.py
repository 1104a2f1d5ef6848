"""Writing what is queued: in which order, how much at a time, and what becomes of it when the transport breaks."""

import math

import pytest
import trio
import trio.testing
from unit.boxes import ALL, NOTHING, FakeWorkers, running, settle, states

from trpc._frames import encode_frame
from trpc._outbox import Outbox
from trpc._outgoing import Outgoing, State
from trpc._transport import StreamTransport
from trpc._workers import Workers

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


# --- full ---


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


# --- items of streams ---


def items(data):
    """A frame with items, which has a count of its own."""
    frame = Outgoing()
    frame.is_item = True
    frame.data = data
    return frame


async def test_items_are_counted_apart_from_the_others(new_box):
    box = new_box(max_unsent=5)
    box.put(b"123", items(b"123"), bulk=True)
    assert (box.outbox.unsent, box.outbox.unsent_items) == (0, 3)
    assert not box.outbox.is_full_of_items
    box.put(b"456", items(b"456"), bulk=True)
    assert box.outbox.is_full_of_items
    assert not box.outbox.is_full
    assert not box.outbox.is_full_of_answers
    box.put(b"1234567")
    assert box.outbox.is_full
    await box.end()
    assert not box.outbox.is_full_of_items
    assert box.outbox.unsent_items == 0


@pytest.mark.parametrize("takes", [NOTHING, 1, 3, ALL])
async def test_items_that_are_written_count_no_more(new_box, takes):
    box = new_box(takes=takes, is_open=True)
    frame = box.put(b"123", items(b"123"), bulk=True)
    await settle()
    assert frame.state is State.WRITTEN
    assert box.outbox.unsent_items == 0
    await box.end()


@pytest.mark.parametrize("how", ["take back", "break"])
async def test_items_that_are_not_written_count_no_more(new_box, how):
    box = new_box()
    await box.writing(b"first")
    frame = box.put(b"123", items(b"123"), bulk=True)
    if how == "take back":
        assert box.outbox.discard(frame)
    else:
        box.transport.fail(trio.BrokenResourceError())
        await settle()
    assert box.outbox.unsent_items == 0


async def test_who_waits_for_room_for_items_is_called_in_turn(new_box):
    box = new_box(max_unsent=5)
    called = []

    def puts(name):
        def put():
            called.append(name)
            box.put(b"12345", items(b"12345"), bulk=True, alone=False)

        return put

    for _ in range(2):
        box.put(b"123456", items(b"123456"), bulk=True)
    for name in "abc":
        box.outbox.call_with_room(puts(name))
    await settle()
    assert called == []
    box.transport.finish()
    await settle()
    # With five bytes more it is not full, with ten it is.
    assert called == ["a", "b"]
    box.transport.finish()
    await settle()
    assert called == ["a", "b", "c"]
    await box.end()


async def test_who_wants_no_room_any_more_is_not_called(new_box):
    box = new_box(max_unsent=5)
    called = []
    box.put(b"123456", items(b"123456"), bulk=True)
    functions = [lambda: called.append("a"), lambda: called.append("b")]
    box.outbox.forget_room(functions[0])
    for function in functions:
        box.outbox.call_with_room(function)
    box.outbox.call_with_room(functions[1])
    box.outbox.forget_room(functions[0])
    box.outbox.forget_room(functions[0])
    await box.end()
    assert called == ["b"]


@pytest.mark.parametrize("how", ["close", "break"])
async def test_the_end_makes_room_for_items_that_go_nowhere(new_box, how):
    box = new_box(max_unsent=5)
    box.put(b"123456", items(b"123456"), bulk=True)
    await settle()
    called = []
    box.outbox.call_with_room(lambda: called.append(box.put(b"x", items(b"x")).state))
    if how == "close":
        await box.end()
    else:
        box.transport.fail(trio.BrokenResourceError())
        await settle()
    assert called == [State.UNSENT]


async def test_how_many_frames_wait(new_box):
    box = new_box()
    assert box.outbox.queued == 0
    await box.writing(b"first")
    assert box.outbox.queued == 0
    box.put(b"a")
    box.put(b"b", control=True)
    box.put(b"c", bulk=True)
    box.answer(b"d")
    assert box.outbox.queued == 4
    await box.end()
    assert box.outbox.queued == 0


async def test_a_closed_one_takes_no_more(new_box):
    box = new_box()
    assert not box.outbox.is_closed
    box.outbox.close(within=1)
    assert box.outbox.is_closed
    await box.outbox.finish()


async def test_of_a_large_frame_not_all_is_counted(new_box):
    """What is small does not have to wait for it."""
    most = 1024 * 1024
    box = new_box(max_unsent=2 * most)
    box.put(bytes(3 * most))
    assert box.outbox.unsent == most
    box.put(bytes(most))
    assert box.outbox.unsent == 2 * most
    assert not box.outbox.is_full
    await box.end()
    assert box.outbox.unsent == 0


async def test_of_a_large_frame_in_fragments_not_all_is_counted(new_box, monkeypatch):
    most = 1024 * 1024
    box = new_box(cuts=True)
    frame = box.put(encode_frame(0x20, 1, bytes(3 * most)), bulk=True)
    counts = [box.outbox.unsent]
    await settle()
    while box.transport.writing is not None:
        box.transport.finish()
        await settle()
        counts.append(box.outbox.unsent)
    assert frame.state is State.WRITTEN
    assert counts[0] == counts[1] == most
    assert counts == sorted(counts, reverse=True)
    assert counts[-1] == 0
    await box.end()
