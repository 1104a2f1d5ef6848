"""Calls on their way out: what is waited for before they leave."""

import pytest
import trio
import trio.testing
from support import Scripted, client_of_raw_peer, connected, settle, start_call

import trpc
from trpc._connection import Connection
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


@pytest.mark.parametrize("how", ["call", "notify", "ping"])
async def test_a_write_that_fails_at_once(nursery, how):
    transport = Scripted()
    connection = Connection(transport, limits=trpc.Limits(), table={})
    caller = connection.caller
    nursery.start_soon(connection.run)
    await settle()
    transport.send_error = error = trio.BrokenResourceError("reset")
    with pytest.raises(trpc.ConnectionLost) as caught:
        await (caller.ping() if how == "ping" else getattr(caller, how)("A.b", [1], None))
    assert caught.value.__cause__ is error
    # No byte of it has left.
    assert not caught.value.maybe_executed
    await settle()
    assert transport.closed


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
