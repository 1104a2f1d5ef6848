"""Cancels and pings that wait for their turn."""

from __future__ import annotations

import math
import types

import pytest
import trio
import trio.testing
from unit.boxes import FakeWorkers

from trpc import Limits
from trpc._control import Control
from trpc._messages import Hello
from trpc._outgoing_call import OutgoingCall
from trpc._protocol import Protocol
from trpc._rate import Rate

# Nine tenths of it are used: one a second.
RATE = 1 / 0.9


class Turns:
    """One whose peer takes four at once, of which two are used, and a few a second, of which one is."""

    def __init__(self, nursery, *, burst=4, rate=RATE, greeted=True):
        self.sent = []
        self.protocol = Protocol(Limits())
        if greeted:
            self.protocol.peer = Hello(1, 1, 1, control_burst=burst, control_rate=rate)
        outbox = types.SimpleNamespace(put=lambda data, *, control, alone: self.note(data, control, alone))
        self.control = Control(self.protocol, outbox, FakeWorkers(nursery))

    def note(self, data, control, alone):
        assert control
        self.sent.append((trio.current_time(), int.from_bytes(data[8:16], "big"), alone))

    def call(self):
        call = OutgoingCall("A.b", None)
        call.id, _ = self.protocol.request(b"")
        return call

    def cancel(self, number):
        calls = [self.call() for _ in range(number)]
        for call in calls:
            self.control.cancel(call, alone=True)
        return calls

    @property
    def ids(self):
        return [call_id for _, call_id, _ in self.sent]

    @property
    def times(self):
        return [round(when, 6) for when, _, _ in self.sent]

    async def ping(self, name):
        await self.control.wait()
        self.sent.append((trio.current_time(), name, True))


async def test_half_of_the_burst_leaves_at_once_and_the_rest_in_order_at_nine_tenths_of_the_rate(autojump_clock):
    async with trio.open_nursery() as nursery:
        turns = Turns(nursery)
        turns.cancel(6)
        assert turns.ids == [1, 2]
    assert turns.ids == [1, 2, 3, 4, 5, 6]
    assert turns.times == [0, 0, 1, 2, 3, 4]
    assert [alone for _, _, alone in turns.sent] == [True] * 2 + [False] * 4


async def test_nobody_goes_ahead_of_who_waits(autojump_clock):
    async with trio.open_nursery() as nursery:
        turns = Turns(nursery)
        turns.cancel(3)
        nursery.start_soon(turns.ping, "ping")
        await trio.testing.wait_all_tasks_blocked()
        turns.cancel(1)
        assert turns.ids == [1, 2]
    assert turns.ids == [1, 2, 3, "ping", 4]


async def test_what_has_ended_is_left_out_and_takes_no_turn(autojump_clock):
    async with trio.open_nursery() as nursery:
        turns = Turns(nursery)
        calls = turns.cancel(7)
        turns.protocol.forget_request(calls[2].id)
        turns.protocol.forget_request(calls[4].id)
        turns.control.forget(calls[5])
        turns.control.forget(calls[0])
    assert turns.ids == [1, 2, 4, 7]
    assert turns.times == [0, 0, 1, 2]


async def test_a_ping_that_is_cancelled_takes_no_turn(autojump_clock):
    async with trio.open_nursery() as nursery:
        turns = Turns(nursery)
        turns.cancel(2)
        with trio.move_on_after(0.5) as scope:
            await turns.ping("ping")
        assert scope.cancelled_caught
        turns.cancel(1)
    assert turns.ids == [1, 2, 3]
    assert turns.times == [0, 0, 1]


async def test_a_ping_that_has_its_turn_does_not_wait(autojump_clock):
    async with trio.open_nursery() as nursery:
        turns = Turns(nursery)
        with trio.testing.assert_no_checkpoints():
            await turns.control.wait()


async def test_the_end_lets_who_waits_go_on(autojump_clock):
    async with trio.open_nursery() as nursery:
        turns = Turns(nursery)
        turns.cancel(4)
        nursery.start_soon(turns.ping, "ping")
        await trio.testing.wait_all_tasks_blocked()
        turns.control.on_lost()
    assert turns.ids == [1, 2, "ping"]
    assert turns.times[2] == 0


@pytest.mark.parametrize("used", [0, 1, 3])
async def test_until_the_hello_one_leaves(autojump_clock, used):
    async with trio.open_nursery() as nursery:
        turns = Turns(nursery, greeted=False)
        turns.cancel(used)
        await trio.sleep(10_000)
        assert turns.ids == [1][:used]
        turns.protocol.peer = Hello(1, 1, 1, control_burst=4, control_rate=RATE)
        turns.control.on_hello()
        await trio.testing.wait_all_tasks_blocked()
        turns.cancel(5 - used)
    # The one before it counts.
    assert turns.times == [[10_000, 10_000, 10_001, 10_002, 10_003], [0, 10_000, 10_001, 10_002, 10_003]][used > 0]


async def test_a_hello_without_a_bound(autojump_clock):
    async with trio.open_nursery() as nursery:
        turns = Turns(nursery, greeted=False)
        turns.cancel(3)
        turns.protocol.peer = Hello(1, 1, 1)
        turns.control.on_hello()
        await trio.testing.wait_all_tasks_blocked()
        turns.cancel(1000)
        assert turns.ids == list(range(1, 1004))


async def test_one_at_least_is_used(autojump_clock):
    async with trio.open_nursery() as nursery:
        turns = Turns(nursery, burst=1, rate=RATE / 4)
        turns.cancel(3)
    assert turns.times == [0, 4, 8]


async def test_what_is_sent_without_end_is_always_taken(autojump_clock):
    async with trio.open_nursery() as nursery:
        turns = Turns(nursery, burst=40, rate=10.0)
        turns.cancel(500)
    # As much arrives together as was sent in two seconds, all the time.
    taken = Rate(40, 10.0)
    arrivals = [2 * math.ceil(when / 2) for when in turns.times]
    assert all(taken.spend(when) for when in arrivals)
    # And more than three quarters of what could be.
    assert arrivals[-1] < (500 / 10) / 0.75


async def test_a_new_worker_for_those_that_come_later(autojump_clock):
    async with trio.open_nursery() as nursery:
        turns = Turns(nursery)
        turns.cancel(3)
        await trio.sleep(100)
        turns.cancel(3)
    assert turns.times == [0, 0, 1, 100, 100, 101]
    assert turns.control._workers.jobs == 2
