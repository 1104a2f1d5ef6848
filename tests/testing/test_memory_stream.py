"""The streams in memory: without faults they are as Trio wants them, and each fault does to bytes what it says."""

from __future__ import annotations

import functools

import pytest
import trio
import trio.testing

from trpc.testing import Faults, Link

# Trio's checks send until they hear that the other end is closed. If that takes time, it never passes on this clock.
PLAIN = {"plain": Faults(), "slices": Faults(slices=5_000), "window": Faults(window=1_000)}


async def pair_of(**options):
    return Link(1, **options).streams()


@pytest.mark.parametrize("faults", PLAIN.values(), ids=PLAIN)
async def test_it_is_a_stream(autojump_clock, faults):
    make = functools.partial(pair_of, there=faults, back=faults)
    await trio.testing.check_half_closeable_stream(make, None)


async def test_it_is_a_stream_that_blocks(autojump_clock):
    async def clogged(**options):
        ours, theirs = await pair_of(there=Faults(window=500), back=Faults(window=500), **options)
        await ours.send_all(bytes(500))
        await theirs.send_all(bytes(500))
        return ours, theirs

    await trio.testing.check_half_closeable_stream(pair_of, clogged)
    make = functools.partial(pair_of, half_closeable=False)
    await trio.testing.check_two_way_stream(make, functools.partial(clogged, half_closeable=False))


async def test_the_same_seed_does_the_same(autojump_clock):
    async def times():
        link = Link(7, there=Faults(slices=5, latency=1, jitter=1))
        ours, theirs = link.streams()
        for _ in range(3):
            await ours.send_all(b"0123456789")
        await ours.send_eof()
        start, seen = trio.current_time(), []
        while data := await theirs.receive_some():
            seen.append((data, round(trio.current_time() - start, 9)))
        return seen

    seen = await times()
    assert seen == await times()
    assert b"".join(data for data, _ in seen) == b"0123456789" * 3
    assert [time for _, time in seen] == sorted(time for _, time in seen)
    assert 1 <= seen[0][1] <= seen[-1][1] <= 2


async def test_bandwidth(autojump_clock):
    link = Link(1, there=Faults(bandwidth=1024, latency=1))
    ours, theirs = link.streams()
    await ours.send_all(bytes(10 * 1024))
    received = 0
    while received < 10 * 1024:
        received += len(await theirs.receive_some())
        assert received == pytest.approx((trio.current_time() - 1) * 1024)


@pytest.mark.parametrize("cut", ["eof", "reset"])
@pytest.mark.parametrize("after", [0, 1, 5, 10])
async def test_cut(autojump_clock, cut, after):
    link = Link(1, there=Faults(cut_after=after, cut=cut))
    ours, theirs = link.streams()
    if after or cut == "eof":
        await ours.send_all(b"01234")
        if after > 5 or cut == "eof":
            await ours.send_all(b"56789")
    received = b""
    while len(received) < after and (data := await theirs.receive_some()):
        received += data
    assert received == b"0123456789"[:after]
    if cut == "eof":
        assert await theirs.receive_some() == b""
        return
    for failing in (theirs.receive_some, ours.receive_some):
        with pytest.raises(trio.BrokenResourceError):
            await failing()
    for stream in (ours, theirs):
        with pytest.raises(trio.BrokenResourceError):
            await stream.send_all(b"x")


async def test_stall_one_way_and_heal(autojump_clock):
    link = Link(1)
    ours, theirs = link.streams()
    link.there.stall(5)
    await ours.send_all(b"late")
    await theirs.send_all(b"soon")
    assert await ours.receive_some() == b"soon"
    assert trio.current_time() == 0
    assert await theirs.receive_some() == b"late"
    assert trio.current_time() == 5
    link.stall()
    await ours.send_all(b"healed")
    with trio.move_on_after(1000) as scope:
        await theirs.receive_some()
    assert scope.cancelled_caught
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_heal_later, link)
        assert await theirs.receive_some() == b"healed"
    assert trio.current_time() == 1006


async def _heal_later(link):
    await trio.sleep(1)
    link.heal()


async def test_a_peer_that_leaves_is_not_heard_of_in_a_silence(autojump_clock):
    link = Link(1, there=Faults(window=10))
    ours, theirs = link.streams()
    link.stall()
    await ours.send_all(b"0123456789")
    await theirs.aclose()
    with trio.move_on_after(10) as scope:
        await ours.send_all(b"x")
    assert scope.cancelled_caught
    link.heal()
    with pytest.raises(trio.BrokenResourceError):
        await ours.send_all(b"x")


async def test_reset_wakes_who_waits():
    link = Link(1, there=Faults(window=1))
    ours, theirs = link.streams()

    async def fails(function, *args):
        with pytest.raises(trio.BrokenResourceError):
            await function(*args)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(fails, ours.send_all, b"0123")
        nursery.start_soon(fails, ours.receive_some)
        await trio.testing.wait_all_tasks_blocked()
        link.reset()
    await fails(theirs.receive_some)
