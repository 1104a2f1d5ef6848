"""Cancels, pings and refused requests: what a peer may send of them, and what this side sends."""

from __future__ import annotations

import dataclasses

import msgpack
import pytest
import trio
from semantics.peers import SIDES, under_test
from support import client_of_raw_peer, connected, connection_of, joined, settle, start_call

import trpc
from trpc._exceptions import Code
from trpc._frames import encode_frame
from trpc._messages import Kind, encode_request

KiB = 1024
LIMITS = trpc.Limits(control_burst=20, control_rate=2.0, max_calls=100)

both_sides = pytest.mark.parametrize("side", SIDES)


class Service:
    def __init__(self):
        self.running = 0

    @trpc.method
    def echo(self, value: int) -> int:
        return value

    @trpc.method
    async def fails(self) -> None:
        raise ValueError("on purpose")

    @trpc.method
    async def hold(self) -> None:
        self.running += 1
        try:
            await trio.sleep_forever()
        finally:
            self.running -= 1


def encoded(call_id, method, *args, kind=Kind.REQUEST):
    return encode_frame(kind, call_id, joined(encode_request(method, list(args), None, None, None, max_depth=64)))


# What costs a token each: from how many, and from the first id that is not used.
COSTS = {
    "pings": lambda number, _: encode_frame(Kind.PING, 1) * number,
    "cancels of a call that is open": lambda number, free: (
        encoded(free, "Service.hold") + encode_frame(Kind.CANCEL, free) * number
    ),
    "cancels of a finished call": lambda number, free: (
        encoded(free, "Service.echo", 1) + encode_frame(Kind.CANCEL, free) * number
    ),
    "cancels of a one-way call": lambda number, free: (
        encoded(free, "Service.echo", 1, kind=Kind.NOTIFY) + encode_frame(Kind.CANCEL, free) * number
    ),
    "cancels of so many calls": lambda number, free: b"".join(
        encoded(free + i, "Service.hold") + encode_frame(Kind.CANCEL, free + i) for i in range(number)
    ),
    "cancels of incomplete requests": lambda number, free: b"".join(
        encode_frame(Kind.REQUEST, free + i, b"\x92", flags=1) + encode_frame(Kind.CANCEL, free + i)
        for i in range(number)
    ),
    "unknown methods": lambda number, free: b"".join(encoded(free + i, "Service.no") for i in range(number)),
    "one-way calls of unknown methods": lambda number, free: b"".join(
        encoded(free + i, "Service.no", kind=Kind.NOTIFY) for i in range(number)
    ),
    "wrong arguments": lambda number, free: b"".join(encoded(free + i, "Service.echo", "1") for i in range(number)),
    "missing arguments": lambda number, free: b"".join(encoded(free + i, "Service.echo") for i in range(number)),
    "bodies that cannot be read": lambda number, free: b"".join(
        encode_frame(Kind.REQUEST, free + i, b"\xc1") for i in range(number)
    ),
    "too many calls": lambda number, free: b"".join(
        encoded(free + i, "Service.hold") for i in range(LIMITS.max_calls + number)
    ),
}

every_cost = pytest.mark.parametrize("what", COSTS)


async def until_pong(peer, number):
    while (frame := await peer.receive()).kind != Kind.PONG or frame.id != number:
        assert frame.kind != Kind.GOAWAY
    return frame


async def until_end(peer):
    """The status in the GOAWAY; None if the peer's end is reset, as it has not read all that was sent to it."""
    status = None
    try:
        while (frame := await peer.receive()) is not None:
            if frame.kind == Kind.GOAWAY:
                status = msgpack.unpackb(frame.body)
    except trio.BrokenResourceError:
        return status
    assert status is not None
    return status


@every_cost
@both_sides
async def test_control_burst_at_the_limit(autojump_clock, side, what):
    async with under_test(side, Service(), limits=LIMITS) as (peer, connection):
        await peer.stream.send_all(COSTS[what](LIMITS.control_burst, 1))
        await settle()
        assert not connection()._lost
        await trio.sleep(0.6)  # there is one again
        await peer.send(Kind.PING, 99)
        await until_pong(peer, 99)


@every_cost
@both_sides
@pytest.mark.parametrize("above", [1, 2000])
async def test_control_burst_above_the_limit_is_told_and_closed(autojump_clock, side, what, above):
    async with under_test(side, Service(), limits=LIMITS) as (peer, connection):
        await peer.stream.send_all(COSTS[what](LIMITS.control_burst + above, 1))
        status = await until_end(peer)
        if above == 1 or status is not None:
            assert status["code"] == Code.UNAVAILABLE
            assert status["message"] == "more than 20 cancels, pings and refused requests at once, or 2.0 a second"
        await settle()
        assert connection()._lost
        assert not connection().calls


@both_sides
async def test_control_burst_does_not_count_requests_for_which_there_are_no_bytes(autojump_clock, side):
    limits = dataclasses.replace(LIMITS, max_bytes_in_flight=1, max_message_size=70 * KiB, max_server_bytes_in_flight=1)
    async with under_test(side, Service(), limits=limits) as (peer, connection):
        for call_id in range(1, 2 * LIMITS.control_burst):
            await peer.send(Kind.REQUEST, call_id, bytes(65 * KiB))
            assert (await peer.receive_error(call_id))["code"] == Code.OVERLOADED
        assert not connection()._lost


@both_sides
@pytest.mark.parametrize("above", [False, True])
async def test_control_rate_at_it_and_above(autojump_clock, side, above):
    async with under_test(side, Service(), limits=LIMITS) as (peer, connection):
        sent = LIMITS.control_burst
        await peer.stream.send_all(encode_frame(Kind.PING, 1) * sent)
        for _ in range(100):
            await trio.sleep(0.45 if above else 0.5)
            if connection()._lost:
                break
            await peer.send(Kind.PING, 1)
            sent += 1
        await settle()
        assert connection()._lost is above
        if above:
            assert sent > LIMITS.control_burst + 2 * trio.current_time() - 1


@both_sides
async def test_control_rate_what_handlers_raise_costs_nothing(autojump_clock, side):
    async with under_test(side, Service(), limits=LIMITS) as (peer, connection):
        for first in range(1, 1001, 50):
            await peer.stream.send_all(b"".join(encoded(first + i, "Service.fails") for i in range(50)))
            for _ in range(50):
                assert (await peer.receive()).kind == Kind.ERROR
        assert not connection()._lost


@both_sides
async def test_control_rate_calls_and_what_may_be_ignored_cost_nothing(autojump_clock, side):
    async with under_test(side, Service(), limits=LIMITS) as (peer, connection):
        await peer.stream.send_all(encode_frame(0xC1, 1) * 5_000)
        for call_id in range(1, 501):
            await peer.stream.send_all(encoded(call_id, "Service.echo", call_id))
            assert (await peer.receive()).id == call_id
        assert not connection()._lost


# --- what this side sends ---


@pytest.mark.parametrize("cancel_grace", [0, 1, 1000])
async def test_control_rate_5000_cancels_of_a_client_do_not_end_its_connection(autojump_clock, cancel_grace):
    service = Service()
    async with connected(service, cancel_grace=cancel_grace) as (client, server):
        await client.ping()
        cancelled = 0

        async def cancelled_call():
            nonlocal cancelled
            with trio.move_on_after(0.001) as scope:
                await client.call("Service.hold")
            cancelled += scope.cancelled_caught

        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                for _ in range(5_000):
                    nursery.start_soon(cancelled_call)
        assert not scope.cancelled_caught
        assert cancelled == 5_000
        with trio.fail_after(1000):
            while connection_of(client)._caller.is_waiting or server.calls:
                await trio.sleep(1)
        assert service.running == 0
        assert await client.call("Service.echo", 5) == 5


async def test_control_rate_all_calls_that_may_be_in_flight_are_cancelled_at_once(autojump_clock):
    service = Service()
    # A hello that announces more is believed.
    async with connected(service, cancel_grace=1, serve={"limits": trpc.Limits(control_burst=10_000)}) as (client, _):
        await client.ping()
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                for _ in range(1000):
                    nursery.start_soon(client.call, "Service.hold")
                await settle()
                assert service.running == 1000
                start = trio.current_time()
                scope.cancel()
        assert trio.current_time() == start
        assert service.running == 0


# Of which half, four, and nine tenths, one a second, are used.
HELLO = {"control_burst": 8, "control_rate": 1 / 0.9}


async def drain(peer, seen):
    """Notes what comes, and answers nothing."""
    while (frame := await peer.receive()) is not None:
        seen.append((trio.current_time(), Kind(frame.kind), frame.id))


async def test_control_rate_of_the_peer_is_kept_with_a_margin(autojump_clock):
    async with client_of_raw_peer(hello=HELLO, cancel_grace=1) as (client, peer):
        await peer.open()
        seen = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(drain, peer, seen)
            await settle()
            start = trio.current_time()
            with trio.CancelScope() as scope:
                async with trio.open_nursery() as calls:
                    for _ in range(10):
                        calls.start_soon(client.call, "A.b")
                    await settle()
                    scope.cancel()
            assert trio.current_time() - start == pytest.approx(1), "the grace is what it was"
            await trio.sleep(100)
            nursery.cancel_scope.cancel()
        cancels = [(round(when - start, 6), call_id) for when, kind, call_id in seen if kind == Kind.CANCEL]
        assert [when for when, _ in cancels] == [0, 0, 0, 0, 1, 2, 3, 4, 5, 6]
        assert sorted(call_id for _, call_id in cancels) == list(range(1, 11))


async def test_control_rate_a_call_that_ends_meanwhile_needs_no_cancel(autojump_clock):
    async with client_of_raw_peer(hello=HELLO, cancel_grace=100) as (client, peer):
        await peer.open()
        seen = []
        async with trio.open_nursery() as nursery:
            outcomes = {}
            with trio.CancelScope() as scope:
                async with trio.open_nursery() as calls:
                    for key in range(10):
                        start_call(calls, outcomes, key, client.call, "A.b")
                    await settle()
                    scope.cancel()
                    nursery.start_soon(drain, peer, seen)
                    await settle()
                    cancelled = [call_id for _, kind, call_id in seen if kind == Kind.CANCEL]
                    assert len(cancelled) == 4
                    for call_id in range(1, 10):
                        if call_id in cancelled:
                            await peer.send(Kind.CANCELLED, call_id)
                        else:
                            await peer.send_result(call_id, 1)
                    await trio.sleep(50)
                    later = [call_id for _, kind, call_id in seen[10:] if kind == Kind.CANCEL]
                    assert later == [*cancelled, *{10} - {*cancelled}]
                    if 10 not in cancelled:
                        await peer.send(Kind.CANCELLED, 10)
            assert not connection_of(client)._caller._control._waiting
            nursery.cancel_scope.cancel()
        assert sorted(outcomes) == list(range(10))


async def test_control_rate_pings_wait_for_their_turn_and_can_be_cancelled(autojump_clock):
    async with connected(Service(), serve={"limits": LIMITS}) as (client, _):
        await client.ping()
        await trio.sleep(10)
        start = trio.current_time()
        times = []
        async with trio.open_nursery() as nursery:

            async def ping():
                await client.ping()
                times.append(trio.current_time() - start)

            for _ in range(12):
                nursery.start_soon(ping)
            await settle()
            with trio.move_on_after(0.5) as scope:
                await client.ping()
            assert scope.cancelled_caught
        # Of what the server takes: half of it at once, and then nine tenths of it a second.
        assert times == [pytest.approx(time) for time in [0] * 10 + [1 / 1.8, 2 / 1.8]]


async def test_control_rate_who_waits_to_ping_hears_of_the_end(autojump_clock):
    async with client_of_raw_peer(hello=HELLO) as (client, peer):
        await peer.open()
        await settle()
        outcomes = {}
        async with trio.open_nursery() as nursery:
            for key in range(6):
                start_call(nursery, outcomes, key, client.ping)
            await settle()
            await peer.stream.aclose()
        assert [type(outcome) for outcome in outcomes.values()] == [trpc.ConnectionLost] * 6


async def test_control_rate_before_the_hello_one_ping_leaves(autojump_clock):
    async with client_of_raw_peer(hello=HELLO) as (client, peer), trio.open_nursery() as nursery:
        outcomes = {}
        for key in range(3):
            start_call(nursery, outcomes, key, client.ping)
        assert (await peer.receive()).kind == Kind.HELLO
        assert (await peer.receive()).kind == Kind.PING
        await settle()
        assert not peer.frames
        with trio.move_on_after(1) as scope:
            await peer.receive()
        assert scope.cancelled_caught
        await peer.stream.send_all(b"\x93trpc\r\n\x01" + encode_frame(Kind.HELLO, 0, peer.hello.encode()))
        for number in (2, 3):
            frame = await peer.receive()
            assert (frame.kind, frame.id) == (Kind.PING, number)
        for number in (1, 2, 3):
            await peer.send(Kind.PONG, number)
        await settle()
        assert sorted(outcomes) == [0, 1, 2]


async def test_control_rate_a_peer_that_announces_none_gets_any_number(autojump_clock):
    async with client_of_raw_peer() as (client, peer), trio.open_nursery() as nursery:
        await peer.open()
        await settle()
        outcomes = {}
        for key in range(3000):
            start_call(nursery, outcomes, key, client.ping)
        for number in range(1, 3001):
            assert (await peer.receive()).id == number
            await peer.send(Kind.PONG, number)
        await settle()
        assert len(outcomes) == 3000
