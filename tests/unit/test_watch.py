"""What is looked at: times in looks, and a connection that is looked at by hand."""

from __future__ import annotations

import math
import types

import pytest
import trio
import trio.testing

from trpc import Limits
from trpc._watch import Looks, Watch, Watched


@pytest.mark.parametrize(
    ("times", "tick"),
    [
        ({}, 1.0),
        ({"keepalive_interval": 2}, 0.5),
        ({"keepalive_timeout": 0.1}, 0.025),
        ({"write_timeout": 1}, 0.25),
        ({"frame_timeout": 3.9}, 0.975),
        ({"idle_timeout": 0.4}, 0.1),
        ({"hello_timeout": 0.1, "drain_grace": 0.1}, 1.0),
        (dict.fromkeys(["keepalive_interval", "keepalive_timeout", "write_timeout", "frame_timeout"], math.inf), 1.0),
    ],
)
def test_a_look_each_second_or_four_in_the_shortest_time(times, tick):
    assert Looks(Limits(**times)).tick == pytest.approx(tick)


@pytest.mark.parametrize("seconds", [0.1, 1, 1.5, 20, 1e9])
def test_no_time_is_met_early(seconds):
    names = ["keepalive_interval", "keepalive_timeout", "write_timeout", "frame_timeout", "idle_timeout"]
    looks = Looks(Limits(**dict.fromkeys(names, seconds)))
    # The one that counts first may be just behind what it counts from.
    assert looks.ping * looks.tick >= seconds
    assert (looks.lost - looks.ping) * looks.tick >= seconds
    for number in (looks.write, looks.frame, looks.idle):
        assert seconds <= (number - 1) * looks.tick < seconds + looks.tick


def test_a_time_without_bound_is_no_number_of_looks():
    names = ["keepalive_interval", "keepalive_timeout", "write_timeout", "frame_timeout", "idle_timeout"]
    looks = Looks(Limits(**dict.fromkeys(names, math.inf)))
    assert {looks.ping, looks.lost, looks.write, looks.frame, looks.idle} == {math.inf}


class Fake(Watched):
    """One whose state the test says."""

    __slots__ = ("_caller", "_dispatcher", "_lost", "_outbox", "_protocol", "_transport", "ended", "pings", "unsent")

    def __init__(self):
        super().__init__()
        self._is_read = True
        self._lost = False
        self.unsent = 0
        self.pings = 0
        self.ended = []
        self._dispatcher = types.SimpleNamespace(is_busy=False)
        self._caller = None
        self._outbox = types.SimpleNamespace(
            written=0, is_waiting=False, is_full_of_answers=False, put=lambda data, *, control: self.note(data, control)
        )
        self._protocol = types.SimpleNamespace(
            frames=types.SimpleNamespace(inside_frame=False), progress=None, ping=lambda: (1, b"ping")
        )
        self._transport = types.SimpleNamespace(unsent=lambda: self.unsent)

    def note(self, data, control):
        assert (data, control) == (b"ping", True)
        self.pings += 1

    def _lose(self, reason):
        self.ended.append(str(reason))
        self._lost = True

    def _give_up(self, error):
        self._lose(error)


def looks(**times):
    names = ["keepalive_interval", "keepalive_timeout", "write_timeout", "frame_timeout", "idle_timeout"]
    return Looks(Limits(**{**dict.fromkeys(names, math.inf), **times}))


def look(fake, times, how, each=lambda: None):
    for _ in range(times):
        each()
        fake.look(how)
    return fake.ended


def test_a_write_that_makes_no_progress():
    how = looks(write_timeout=5)
    fake = Fake()
    assert look(fake, 100, how) == []
    fake._outbox.is_waiting = True
    assert look(fake, 6, how) == []
    assert look(fake, 1, how) == ["the peer has not read anything for 5 s"]
    assert look(fake, 100, how) == ["the peer has not read anything for 5 s"], "once is enough"


@pytest.mark.parametrize("what", ["bytes that are taken", "bytes that leave the system", "writes that end"])
def test_a_write_that_makes_progress(what):
    how = looks(write_timeout=5)
    fake = Fake()
    fake._outbox.is_waiting = True
    fake.unsent = 1000
    for _ in range(20):
        assert look(fake, 5, how) == []
        if what == "bytes that are taken":
            fake._outbox.written += 1
        elif what == "bytes that leave the system":
            fake.unsent -= 1
        else:
            fake._outbox.is_waiting = False
            assert look(fake, 1, how) == []
            fake._outbox.is_waiting = True


def test_a_ping_after_silence_and_the_end_after_more():
    how = looks(keepalive_interval=4, keepalive_timeout=4)
    fake = Fake()
    look(fake, 3, how)
    assert fake.pings == 0
    look(fake, 1, how)
    assert fake.pings == 1
    assert look(fake, 4, how) == []
    assert look(fake, 1, how) == ["nothing has come for 8 s, not even the answer to a ping"]
    assert fake.pings == 1


def test_whatever_is_heard_ends_the_silence():
    how = looks(keepalive_interval=4, keepalive_timeout=4)
    fake = Fake()
    for number in range(1, 20):
        assert look(fake, 7, how) == []
        fake._heard = True
        assert look(fake, 1, how) == []
        assert fake.pings == number


@pytest.mark.parametrize("why", ["it is not read", "nobody reads"])
def test_silence_that_is_none(why):
    how = looks(keepalive_interval=4, keepalive_timeout=4, frame_timeout=4)
    fake = Fake()
    fake._outbox.is_full_of_answers = why == "it is not read"
    fake._is_read = why == "it is not read"
    fake._protocol.frames.inside_frame = True
    assert look(fake, 100, how) == []
    assert fake.pings == 0


def test_a_frame_that_is_not_completed():
    how = looks(frame_timeout=4)
    fake = Fake()
    fake._protocol.frames.inside_frame = True

    def hears():
        fake._heard = True

    assert look(fake, 5, how, hears) == []
    fake._unfinished_for = 0  # as the reader does with each frame that is complete
    assert look(fake, 5, how, hears) == []
    fake._protocol.frames.inside_frame = False
    assert look(fake, 1, how) == []
    fake._protocol.frames.inside_frame = True
    assert look(fake, 5, how, hears) == []
    assert look(fake, 1, how) == ["a frame was begun and not completed within 4 s"]


@pytest.mark.parametrize("whose", ["the peer's", "ours"])
def test_no_calls(whose):
    how = looks(idle_timeout=4)
    fake = Fake()
    assert look(fake, 5, how) == []
    busy = types.SimpleNamespace(is_waiting=True)
    if whose == "ours":
        fake._caller = busy
    else:
        fake._dispatcher.is_busy = True
    assert look(fake, 100, how) == []
    busy.is_waiting = False
    fake._dispatcher.is_busy = False
    assert look(fake, 5, how) == []
    assert look(fake, 1, how) == ["there was no call for 4 s"]


async def test_one_task_looks_at_all_and_others_get_their_turn(autojump_clock):
    watch = Watch(Limits())
    fakes = [Fake() for _ in range(450)]
    watch.connections.update(fakes)
    assert not watch.runs
    passes = 0

    async def count():
        nonlocal passes
        await trio.sleep(20)
        while any(fake.pings == 0 for fake in fakes):
            passes += 1
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch.run)
        await trio.testing.wait_all_tasks_blocked()
        assert watch.runs
        async with trio.open_nursery() as counting:
            counting.start_soon(count)
        assert passes >= 2
        assert trio.current_time() == 20
        nursery.cancel_scope.cancel()
    assert not watch.runs
    assert all(fake.pings == 1 for fake in fakes)


async def test_a_connection_that_leaves_while_all_are_looked_at(autojump_clock):
    watch = Watch(Limits())

    class Leaves(Fake):
        __slots__ = ()

        def _lose(self, reason):
            super()._lose(reason)
            watch.connections.discard(self)

    watch.connections.update(Leaves() for _ in range(3))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch.run)
        await trio.sleep(50)
        assert not watch.connections
        nursery.cancel_scope.cancel()
