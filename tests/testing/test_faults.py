"""Each kind of fault, seen by a client and a service."""

from __future__ import annotations

import dataclasses
import math
import random
import sys
from collections.abc import AsyncIterator

import pytest
import trio
import trio.testing

import trpc
from trpc.testing import Faults, Link, connected


class Service:
    def __init__(self):
        self.runs = 0

    @trpc.method
    async def echo(self, value: object) -> object:
        self.runs += 1
        return value

    @trpc.method
    async def wait(self, seconds: float) -> None:
        await trio.sleep(seconds)

    @trpc.method
    async def numbers(self, count: int) -> AsyncIterator[int]:
        for number in range(count):
            yield number


@pytest.mark.parametrize(
    "wrong",
    [
        {"latency": -1},
        {"latency": math.inf},
        {"latency": math.nan},
        {"latency": "1"},
        {"jitter": -0.1},
        {"jitter": True},
        {"bandwidth": 0},
        {"bandwidth": math.nan},
        {"slices": 0},
        {"slices": 1.5},
        {"window": 0},
        {"window": None},
        {"cut_after": -1},
        {"cut_after": 2.0},
        {"cut": "off"},
        {"cut": []},
        {"drop": 5},
        {"drop": range(10, 2, -1)},
        {"drop": range(0, 10, 2)},
        {"corrupt": range(-5, 5)},
        {"corrupt": [1, 2]},
    ],
    ids=str,
)
def test_what_is_no_fault(wrong):
    ((name, value),) = wrong.items()
    with pytest.raises(ValueError) as caught:
        Faults(**wrong)
    assert str(caught.value).startswith(f"Faults.{name} is ")
    assert str(caught.value).endswith(f"not {value!r}")


def test_they_are_frozen_and_say_what_is_not_as_by_default():
    faults = Faults(latency=0.1, drop=range(3))
    assert repr(faults) == "Faults(latency=0.1, drop=range(0, 3))"
    assert repr(Faults()) == "Faults()"
    with pytest.raises(dataclasses.FrozenInstanceError):
        faults.latency = 1
    assert dataclasses.replace(faults, drop=None) == Faults(latency=0.1)


def test_a_link_says_what_it_is():
    link = Link(7, there=Faults(latency=0.1))
    assert repr(link) == (
        "<Link seed=7 there=<Faults(latency=0.1), 0 bytes sent, 0 received> back=<no faults, 0 bytes sent, 0 received>>"
    )
    assert repr(link.there) == "<Faults(latency=0.1), 0 bytes sent, 0 received>"


async def test_latency(autojump_clock):
    link = Link(there=Faults(latency=2), back=Faults(latency=0.5))
    async with connected(Service(), link=link) as client:
        start = trio.current_time()
        assert await client.call("Service.echo", 1) == 1
        assert trio.current_time() - start == 2.5
        # A cancelled call waits for its handler's end, at most so long.
        with pytest.raises(trio.TooSlowError), trio.fail_after(1):
            await client.call("Service.echo", 1)
        assert trio.current_time() - start == 2.5 + 1 + 1
        link.back.faults = Faults()
        assert await client.ping() == 2


async def test_jitter(autojump_clock):
    async def times(seed):
        async with connected(Service(), link=Link(seed, there=Faults(latency=1, jitter=1))) as client:
            await client.ping()
            return [await client.ping() for _ in range(5)]

    seen = await times(1)
    assert [round(time, 6) for time in seen] == [round(time, 6) for time in await times(1)]
    assert seen != await times(2)
    assert len(set(seen)) == 5
    assert all(1 <= time <= 2 for time in seen)


async def test_a_generator_of_random_numbers_is_a_seed_as_well(autojump_clock):
    rng = random.Random(5)
    async with connected(Service(), link=Link(rng, there=Faults(jitter=1))) as client:
        await client.ping()
    assert rng.random() != random.Random(5).random()


async def test_bandwidth(autojump_clock):
    link = Link(there=Faults(bandwidth=1000))
    async with connected(Service(), link=link) as client:
        await client.ping()
        start, sent = trio.current_time(), link.there.sent
        await client.call("Service.echo", bytes(10_000))
        assert trio.current_time() - start == pytest.approx((link.there.sent - sent) / 1000)


async def test_slices_change_nothing_but_how_it_comes(autojump_clock):
    link = Link(3, there=Faults(slices=1), back=Faults(slices=3))
    async with connected(Service(), link=link) as client:
        assert await client.call("Service.echo", list(range(100))) == list(range(100))
        async with client.stream("Service.numbers", 20) as numbers:
            assert [number async for number in numbers] == list(range(20))


async def sizes_of_call():
    """How many bytes each direction has before a call, and behind it."""
    link = Link()
    async with connected(Service(), link=link) as client:
        await client.ping()
        before = link.there.sent, link.back.sent
        assert await client.call("Service.echo", 7) == 7
        return before, (link.there.sent, link.back.sent)


@pytest.mark.parametrize("cut", ["eof", "reset"])
@pytest.mark.parametrize("direction", ["there", "back"])
async def test_cut_at_every_byte_of_a_call(autojump_clock, direction, cut):
    before, after = await sizes_of_call()
    side = ["there", "back"].index(direction)
    for offset in range(before[side], after[side] + 1):
        service = Service()
        link = Link(**{direction: Faults(cut_after=offset, cut=cut)})
        outcome = None
        async with connected(service, link=link) as client:
            # It comes back before anything is cut, or is itself behind the cut.
            try:
                await client.ping()
                outcome = await client.call("Service.echo", 7)
            except trpc.ConnectionLost as exc:
                outcome = exc
        has_arrived = service.runs == 1
        assert service.runs <= 1
        if direction == "there":
            assert has_arrived == (offset == after[0]), offset
        if isinstance(outcome, trpc.ConnectionLost):
            assert outcome.maybe_executed or not has_arrived, offset
        else:
            assert outcome == 7
            assert has_arrived
        if direction == "back":
            assert (outcome == 7) == (offset == after[1]), offset


async def test_faults_that_are_set_before_the_link_is_used():
    link = Link()
    link.back.faults = Faults(cut_after=0)
    async with connected(Service(), link=link) as client:
        with pytest.raises(trpc.ConnectionLost):
            await client.ping()


async def test_a_cut_that_is_set_when_it_is_due_is_made_at_once():
    link = Link()
    async with connected(Service(), link=link) as client:
        await client.ping()
        link.there.faults = Faults(cut_after=3)
        with pytest.raises(trpc.ConnectionLost):
            await client.call("Service.echo", 7)


class Texts:
    @trpc.method
    async def repeat(self, times: int, text: str) -> str:
        return times * text


LOST, PROTOCOL = "ConnectionLost", "ProtocolError"
REFUSED, UNAVAILABLE = "InvalidArguments", "Unavailable"


@pytest.mark.parametrize(
    ("direction", "damage", "outcomes"),
    [
        ("there", "drop all", {LOST, UNAVAILABLE}),
        ("back", "drop all", {LOST}),
        ("there", "drop", {LOST, PROTOCOL, UNAVAILABLE, REFUSED}),
        ("back", "drop", {LOST, PROTOCOL, "another value"}),
        ("there", "corrupt", {LOST, PROTOCOL, UNAVAILABLE, REFUSED, "another value", "no answer"}),
        ("back", "corrupt", {LOST, PROTOCOL, "no answer"}),
    ],
)
async def test_what_damage_to_a_call_comes_to(autojump_clock, direction, damage, outcomes):
    """At each byte of a call; docs/testing.md says so. There is no checksum: TCP has one, and TLS a better one."""
    link = Link()
    async with connected(Texts(), link=link) as client:
        await client.ping()
        start = getattr(link, direction).sent
        await client.call("Texts.repeat", 3, "abc")
        end = getattr(link, direction).sent
    seen = set()
    for offset in range(start, end):
        fault, whole = damage.partition(" ")[::2]
        link = Link(**{direction: Faults(**{fault: range(offset, sys.maxsize if whole else offset + 1)})})
        async with connected(Texts(), link=link) as client:
            await client.ping()
            try:
                with trio.fail_after(10_000):
                    value = await client.call("Texts.repeat", 3, "abc")
            except trpc.RPCError as exc:
                seen.add(type(exc).__name__)
            except trio.TooSlowError:
                seen.add("no answer")
            else:
                assert value != "abcabcabc"
                seen.add("another value")
    assert seen == outcomes


async def test_a_value_of_which_one_byte_is_corrupt():
    link = Link()
    async with connected(Service(), link=link) as client:
        await client.call("Service.echo", 7)
        last = link.back.sent - 1
    async with connected(Service(), link=Link(back=Faults(corrupt=range(last, last + 1)))) as client:
        # The last byte of the reply is the 7 itself: msgpack has -8 with all bits inverted.
        assert await client.call("Service.echo", 7) == -8


async def test_a_message_that_is_taken_for_another_kind_has_no_answer(autojump_clock):
    """It is not the keepalive that notices: the connection is there, and answers."""
    link = Link()
    async with connected(Service(), link=link) as client:
        await client.ping()
        kind = link.there.sent + 4
        link.there.faults = Faults(corrupt=range(kind, kind + 1))
        with pytest.raises(trio.TooSlowError), trio.fail_after(10_000):
            await client.ping()
        assert await client.ping() == 0


async def test_corrupt_bytes_are_inverted_and_others_are_not():
    link = Link(there=Faults(corrupt=range(2, 4)))
    ours, theirs = link.streams()
    for data in (b"\x00", b"\x01\x02\x03\x04"):
        await ours.send_all(data)
    assert await theirs.receive_some() == b"\x00\x01\xfd\xfc\x04"
    await ours.send_all(b"\x05")
    assert await theirs.receive_some() == b"\x05"


async def test_dropped_bytes_do_not_arrive(autojump_clock):
    link = Link(there=Faults(drop=range(2, 4), window=3))
    ours, theirs = link.streams()
    seen = []
    link.there.on_sent, link.there.on_received = seen.append, seen.append
    await ours.send_all(b"012")
    await ours.send_all(b"3")
    await ours.send_all(b"4")
    assert await theirs.receive_some() == b"014"
    assert seen == [b"012", b"3", b"4", b"014"]
    assert (link.there.sent, link.there.received) == (5, 3)


async def test_a_black_hole_is_found_by_the_keepalive(autojump_clock):
    link = Link()
    limits = trpc.Limits(keepalive_interval=10, keepalive_timeout=5)
    async with connected(Service(), link=link, limits=limits) as client:
        await client.ping()
        link.there.faults = Faults(drop=range(link.there.sent, sys.maxsize))
        start = trio.current_time()
        with pytest.raises(trpc.ConnectionLost) as caught:
            await client.call("Service.wait", 1000)
        assert caught.value.maybe_executed
        # It is looked at now and then.
        assert 15 <= trio.current_time() - start <= 20


async def test_a_stall_and_its_end(autojump_clock):
    link = Link()
    async with connected(Service(), link=link) as client:
        await client.ping()
        link.stall(3)
        assert link.there.is_stalled
        assert await client.ping() == 3
        assert not link.there.is_stalled
        link.stall()
        with trio.move_on_after(10) as scope:
            await client.ping()
        assert scope.cancelled_caught
        link.heal()
        assert await client.ping() == 0


async def test_heal_takes_all_faults_away(autojump_clock):
    link = Link(there=Faults(latency=100, window=5_000))
    async with connected(Service(), link=link) as client:
        with trio.move_on_after(1):
            await client.ping()
        link.heal()
        assert link.there.faults == Faults(window=5_000)
        assert await client.ping() == 0


@pytest.mark.parametrize("how", ["cut", "reset"])
async def test_cut_and_reset(autojump_clock, how):
    service = Service()
    link = Link()
    async with connected(service, link=link) as client:
        await client.ping()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lose, client)
            await trio.sleep(1)
            getattr(link, how)()
        link.heal()
        with pytest.raises(trpc.ConnectionLost) as caught:
            await client.call("Service.echo", 1)
        assert not caught.value.maybe_executed
    assert service.runs == 0


async def lose(client):
    with pytest.raises(trpc.ConnectionLost) as caught:
        await client.call("Service.wait", 100)
    assert caught.value.maybe_executed


async def test_a_link_that_is_cut_before_it_is_used():
    for prepare in (Link.cut, Link.reset):
        link = Link()
        prepare(link)
        async with connected(Service(), link=link) as client:
            with pytest.raises(trpc.ConnectionLost):
                await client.ping()


async def test_a_direction_is_cut_by_hand(autojump_clock):
    for how in ("eof", "reset", None):
        link = Link()
        ours, theirs = link.streams()
        await ours.send_all(b"before")
        link.there.cut(how)
        assert await theirs.receive_some() == b"before"
        if how == "eof":
            assert await theirs.receive_some() == b""
        else:
            with pytest.raises(trio.BrokenResourceError):
                await theirs.receive_some()
    with pytest.raises(ValueError, match='either "eof" or "reset"'):
        link.there.cut("off")


def outside_of_trio(prepare, then):
    """Does something to a link before Trio runs, and something with it when it does."""
    link = Link(there=Faults(latency=1))
    prepare(link)

    async def main():
        # So late that a time which does not count from the beginning of the connection would have passed.
        await trio.sleep(1000)
        async with connected(Service(), link=link) as client:
            await then(link, client)

    with pytest.raises(RuntimeError):
        link.streams()
    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


@pytest.mark.parametrize("prepare", [Link.cut, Link.reset, lambda link: link.there.cut()])
def test_a_link_that_is_cut_outside_of_trio(prepare):
    async def then(link, client):
        with pytest.raises(trpc.ConnectionLost):
            await client.ping()

    outside_of_trio(prepare, then)


@pytest.mark.parametrize("prepare", [lambda link: link.stall(3), lambda link: link.there.stall(3)])
def test_a_link_that_is_stalled_outside_of_trio(prepare):
    async def then(link, client):
        assert link.there.is_stalled
        start = trio.current_time()
        await client.ping()
        assert trio.current_time() - start == 3
        assert await client.ping() == 1
        assert not link.there.is_stalled

    outside_of_trio(prepare, then)


def test_a_link_that_is_healed_outside_of_trio():
    def prepare(link):
        assert not link.there.is_stalled
        link.stall()
        assert link.there.is_stalled
        link.heal()
        assert not link.there.is_stalled

    async def then(link, client):
        assert await client.ping() == 0

    outside_of_trio(prepare, then)


def test_an_end_that_was_made_outside_of_trio_is_healed_when_it_is_used():
    """What is on its way arrives at once then: so does the end, which is as late as everything else."""

    async def then(link, client):
        link.heal()
        start = trio.current_time()
        with pytest.raises(trpc.ConnectionLost):
            await client.ping()
        assert trio.current_time() == start

    outside_of_trio(Link.cut, then)


@pytest.mark.parametrize("seconds", [-1, math.nan])
async def test_a_stall_for_no_time(seconds):
    with pytest.raises(ValueError, match="0 or more"):
        Link().stall(seconds)


async def test_a_larger_window_wakes_who_waits_for_room(autojump_clock):
    link = Link(there=Faults(window=1))
    ours, theirs = link.streams()

    async def widen():
        await trio.sleep(1)
        link.there.faults = Faults(window=100)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(widen)
        await ours.send_all(b"0123456789")
    assert trio.current_time() == 1
    assert await theirs.receive_some() == b"0123456789"
