"""Requests: what is waited for before they leave, what a nested call must not wait for, and how they are taken back."""

import pytest
import trio
import trio.testing
from support import client_of_raw_peer, connected, cut_into, settle, start_call

import trpc
from trpc._messages import ALWAYS_ACCEPTED, Kind, decode_request

# More than may be sent to a peer of which nothing is known.
LARGE = bytes(2 * ALWAYS_ACCEPTED)


async def test_a_request_that_is_large_waits_for_the_peers_hello(nursery):
    outcomes = {}
    async with client_of_raw_peer() as (client, peer):
        start_call(nursery, outcomes, "large", client.call, "A.b", LARGE)
        await settle()
        await peer.open()
        frame = await peer.receive()
        assert (frame.kind, frame.id) == (Kind.REQUEST, 1)
        assert decode_request(frame.body, max_depth=64).args == [LARGE]
        await peer.send_result(1, "done")
        await settle()
        assert outcomes == {"large": "done"}


async def test_a_request_that_the_peer_does_not_accept_waits_for_the_hello_and_is_not_sent(nursery):
    outcomes = {}
    async with client_of_raw_peer(hello={"max_message_size": ALWAYS_ACCEPTED}) as (client, peer):
        start_call(nursery, outcomes, "large", client.call, "A.b", LARGE)
        await settle()
        assert outcomes == {}
        await peer.open()
        await settle()
        assert isinstance(outcomes["large"], trpc.MessageTooLarge)
        start_call(nursery, outcomes, "small", client.call, "A.b", 1)
        frame = await peer.receive()
        assert decode_request(frame.body, max_depth=64).args == [1]
        await peer.send_result(frame.id, "done")
        await settle()
        assert outcomes["small"] == "done"


async def test_a_request_that_waits_for_the_hello_may_be_cancelled(nursery):
    async with client_of_raw_peer() as (client, peer):
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as calls:
                calls.start_soon(client.call, "A.b", LARGE)
                await settle()
                scope.cancel()
        assert scope.cancelled_caught
        start_call(nursery, outcomes := {}, "next", client.call, "A.b", 1)
        await peer.open()
        frame = await peer.receive()
        assert decode_request(frame.body, max_depth=64).args == [1]
        await peer.send_result(frame.id, "done")
        await settle()
        assert outcomes == {"next": "done"}


@pytest.mark.parametrize("large", [False, True])
async def test_calls_wait_for_room_and_then_all_leave(nursery, large):
    argument = LARGE if large else b"x" * 100
    outcomes = {}
    async with client_of_raw_peer(lockstep=True, limits=trpc.Limits(max_unsent=50)) as (client, peer):
        async with trio.open_nursery() as opening:
            opening.start_soon(peer.open)
        for i in range(4):
            start_call(nursery, outcomes, i, client.call, "A.b", i, argument)
            await settle()
        seen = []
        for _ in range(4):
            frame = await peer.receive()
            seen.append(decode_request(frame.body, max_depth=64).args[0])
            await peer.send_result(frame.id, "done")
        await settle()
        assert sorted(seen) == [0, 1, 2, 3]
        assert outcomes == dict.fromkeys(range(4), "done")


async def test_one_way_calls_do_not_make_the_next_call_one_of_many():
    """They have no replies: what they counted would stay, and every later call would wait for a writer."""

    class Service:
        @trpc.method
        def nothing(self) -> None: ...

    async with connected(Service()) as (client, _):
        await client.call("Service.nothing")
        await client.notify("Service.nothing")
        await client.notify("Service.nothing")
        assert client._caller._is_alone()


# --- calls that handlers make ---


class Back:
    """What a server calls back."""

    def __init__(self):
        self.started = trio.Event()
        self.go_on = trio.Event()

    @trpc.method
    async def wait(self) -> str:
        self.started.set()
        await self.go_on.wait()
        return "waited"

    @trpc.method
    def nothing(self) -> None: ...


class Front:
    """Its handlers call back."""

    def __init__(self):
        self.outcomes = {}

    @trpc.method
    async def call(self, method: str) -> object:
        return await trpc.current_call().client.call(method)

    @trpc.method
    async def keep(self) -> None:
        self.client = trpc.current_call().client


async def test_a_handler_does_not_wait_for_a_place(nursery):
    """Those in flight may be waiting for it."""
    back = Back()
    async with connected(Front(), service=back, limits=trpc.Limits(max_calls=1)) as (client, _):
        start_call(nursery, outcomes := {}, "first", client.call, "Front.call", "Back.wait")
        await back.started.wait()
        # This side allows one call at a time; the other one is asked for more.
        async with trio.open_nursery() as calls:
            start_call(calls, outcomes, "second", client.call, "Front.call", "Back.nothing")
            await settle()
            assert outcomes == {}, "it waits for its own place"
            back.go_on.set()
        assert outcomes == {"first": "waited", "second": None}


async def test_a_handler_that_finds_no_place_is_overloaded(nursery):
    back = Back()
    front = Front()
    limits = trpc.Limits(max_calls=1)
    async with connected(front, service=back, limits=limits) as (client, server):
        await client.call("Front.keep")
        # Not a handler: it holds the only place.
        start_call(nursery, outcomes := {}, "held", front.client.call, "Back.wait")
        await back.started.wait()
        with pytest.raises(trpc.RemoteError, match="1 calls to the peer are in flight, the most it allows") as caught:
            await client.call("Front.call", "Back.nothing")
        assert caught.value.type_name == "Overloaded"
        # Who is no handler waits.
        start_call(nursery, outcomes, "next", front.client.call, "Back.nothing")
        await settle()
        assert outcomes == {}
        back.go_on.set()
        await settle()
        assert outcomes == {"held": "waited", "next": None}
        assert await client.call("Front.call", "Back.nothing") is None


async def test_the_time_left_of_a_handler_is_that_of_its_calls(autojump_clock):
    back = Back()
    async with connected(Front(), service=back) as (client, server):
        with trio.move_on_after(5) as scope:
            await client.call("Front.call", "Back.wait")
        assert scope.cancelled_caught
        await settle()
        assert server.calls == ()


# --- taking back ---


@pytest.mark.parametrize("how", ["cancel", "close"])
async def test_a_request_that_has_not_left_is_taken_back(how):
    async with client_of_raw_peer(lockstep=True) as (client, peer):
        async with trio.open_nursery() as opening:
            opening.start_soon(peer.open)
        outcomes = {}
        async with trio.open_nursery() as calls:
            start_call(calls, outcomes, "first", client.call, "A.b", bytes(100_000))
            await settle()
            start_call(calls, outcomes, "second", client.call, "A.b", 2)
            await settle()
            if how == "cancel":
                calls.cancel_scope.cancel()
                with trio.CancelScope(shield=True):
                    assert decode_request((await peer.receive()).body, max_depth=64).args == [bytes(100_000)]
                    assert (await peer.receive()).kind == Kind.CANCEL
                    await peer.send(Kind.CANCELLED, 1)
            else:
                calls.start_soon(client._caller.close)
                await settle()
                assert isinstance(outcomes["second"], trpc.ConnectionLost)
                assert not outcomes["second"].maybe_executed
                assert (await peer.receive()).id == 1
                assert (await peer.receive()).kind == Kind.CANCEL
                await peer.send(Kind.CANCELLED, 1)
        if how == "cancel":
            assert outcomes == {"first": "cancelled", "second": "cancelled"}
        else:
            assert outcomes["first"].maybe_executed
        assert not peer.frames


async def test_a_large_request_that_is_taken_back_in_the_middle_is_cancelled(nursery, monkeypatch):
    cut_into(monkeypatch, 50_000)
    monkeypatch.setattr("trpc._outbox.FIRST_FRAGMENT", 50_000)
    hello = {"features": ("fragments",)}
    async with client_of_raw_peer(lockstep=True, hello=hello) as (client, peer):
        async with trio.open_nursery() as opening:
            opening.start_soon(peer.open)
        await settle()
        scope = trio.CancelScope()

        async def call():
            with scope:
                await client.call("A.b", bytes(200_000))

        nursery.start_soon(call)
        await settle()
        scope.cancel()
        first = await peer.receive()
        assert (first.kind, first.flags, len(first.body)) == (Kind.REQUEST, 1, 50_000)
        # No more of it.
        assert (await peer.receive()).kind == Kind.CANCEL
        await peer.send(Kind.CANCELLED, 1)
        await settle()
        assert scope.cancelled_caught
        start_call(nursery, {}, "next", client.call, "A.b", 1)
        frame = await peer.receive()
        assert (frame.id, frame.flags) == (2, 0)
        await peer.send_result(2, None)
        await settle()


@pytest.mark.parametrize("place", [0, 1, 3])
async def test_a_cancel_while_a_place_is_waited_for(nursery, place):
    async with client_of_raw_peer(limits=trpc.Limits(max_calls=1)) as (client, peer):
        await peer.open()
        outcomes = {}
        scopes = [trio.CancelScope() for _ in range(4)]

        async def call(number):
            with scopes[number]:
                outcomes[number] = await client.call("A.b", number)

        for number in range(4):
            nursery.start_soon(call, number)
            await settle()
        if place:
            scopes[place].cancel()
        await settle()
        seen = []
        for _ in range(3 if place else 4):
            frame = await peer.receive()
            assert not peer.frames, "one at a time"
            seen += decode_request(frame.body, max_depth=64).args
            await peer.send_result(frame.id, None)
            await settle()
        assert seen == [number for number in range(4) if number != place or not place]
