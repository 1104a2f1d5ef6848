"""Cancelled calls that wait for the end of their handlers: each for its time, and no longer."""

import pytest
import trio
import trio.testing
from support import settle
from unit.boxes import FakeWorkers

from trpc._acknowledgements import Acknowledgements
from trpc._outgoing_call import OutgoingCall

GRACE = 3


class Waiting:
    """Calls whose tasks wait, and when and how each of them went on."""

    def __init__(self, nursery):
        self.nursery = nursery
        self.workers = FakeWorkers(nursery)
        self.acknowledgements = Acknowledgements(self.workers, GRACE)
        self.ends = {}

    async def begin(self, name, *, raises=None):
        """A call of which the task is parked, and that is cancelled."""
        call = OutgoingCall(name, None)

        def raise_cancel():
            if raises is not None:
                raise raises
            return name

        async def run():
            call.task = trio.lowlevel.current_task()
            try:
                value = await trio.lowlevel.wait_task_rescheduled(lambda _: trio.lowlevel.Abort.FAILED)
            except Exception as exc:
                value = exc
            self.ends[name] = (trio.current_time() - self.start, value)

        self.start = trio.current_time()
        self.nursery.start_soon(run)
        await settle(1)
        self.acknowledgements.begin(call, raise_cancel)
        return call


@pytest.fixture
async def waiting(nursery):
    return Waiting(nursery)


async def test_an_acknowledgement_ends_the_wait_with_the_cancel(waiting, autojump_clock):
    call = await waiting.begin("a")
    assert call.cancelled
    waiting.acknowledgements.end(call)
    assert (call.awaited, call.task) == (False, None)
    await settle(1)
    assert waiting.ends == {"a": (0, "a")}


async def test_what_the_cancel_raises_is_raised_in_the_task(waiting, autojump_clock):
    error = KeyError("its own")
    call = await waiting.begin("a", raises=error)
    waiting.acknowledgements.end(call)
    await settle(1)
    assert waiting.ends == {"a": (0, error)}


async def test_without_an_acknowledgement_it_ends_after_the_grace(waiting, autojump_clock):
    call = await waiting.begin("a")
    await trio.sleep(GRACE + 1)
    assert waiting.ends == {"a": (pytest.approx(GRACE), "a")}
    assert not call.awaited


async def test_each_has_a_grace_of_its_own(waiting, autojump_clock):
    await waiting.begin("a")
    await trio.sleep(1)
    await waiting.begin("b")
    await trio.sleep(1)
    waiting.start -= 1
    start = waiting.start
    await waiting.begin("c")
    waiting.start = start
    await trio.sleep(2 * GRACE)
    assert {name: when for name, (when, _) in waiting.ends.items()} == pytest.approx({"a": 3, "b": 4, "c": 5})
    assert waiting.workers.jobs == 1, "one looks after all of them"


async def test_what_has_ended_is_not_looked_after_any_more(waiting, autojump_clock):
    first, second = await waiting.begin("a"), await waiting.begin("b")
    waiting.acknowledgements.end(first)
    await trio.sleep(GRACE + 1)
    assert waiting.ends == {"a": (0, "a"), "b": (pytest.approx(GRACE), "b")}
    assert first.task is second.task is None


async def test_something_else_may_come_instead(waiting, autojump_clock):
    call = await waiting.begin("a")
    waiting.acknowledgements.forget(call)
    waiting.acknowledgements.forget(call)
    await trio.sleep(GRACE + 1)
    assert waiting.ends == {}
    trio.lowlevel.reschedule(call.task)
    await settle(1)
    assert waiting.ends == {"a": (pytest.approx(GRACE + 1), None)}


async def test_when_none_is_left_it_ends_and_begins_again(waiting, autojump_clock):
    for number in range(1, 4):
        await waiting.begin(str(number))
        await trio.sleep(2 * GRACE)
        assert len(waiting.ends) == number
        assert waiting.workers.jobs == number


async def test_two_that_end_at_the_same_time(waiting, autojump_clock):
    await waiting.begin("a")
    await waiting.begin("b")
    await trio.sleep(GRACE + 1)
    assert waiting.ends == {"a": (pytest.approx(GRACE), "a"), "b": (pytest.approx(GRACE), "b")}
