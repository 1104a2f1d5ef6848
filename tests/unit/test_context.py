"""The current call: in which tasks and threads it is known, and what it says of its caller."""

import contextvars
import math

import pytest
import trio
from support import connected, settle

import trpc
from trpc._context import CurrentCall, enter_call, is_handling_for
from trpc._peer import Peer


class Owner:
    """What runs the calls of a connection."""

    def __init__(self):
        self.client = object()


def call(method="A.b", *, peer=None, owner=None, **metadata):
    return CurrentCall(method, peer or Peer("here"), metadata, math.inf, owner or Owner())


async def test_outside_a_handler_there_is_no_current_call():
    with pytest.raises(RuntimeError, match="only inside a method that a peer has called"):
        trpc.current_call()


async def in_a_task_of_its_own(function):
    async with trio.open_nursery() as nursery:
        nursery.start_soon(function)


async def test_the_current_call_is_that_of_the_task_and_its_children():
    async def child(expected):
        assert trpc.current_call() is expected
        assert await trio.to_thread.run_sync(trpc.current_call) is expected

    async def handler():
        mine = call()
        enter_call(mine)
        assert trpc.current_call() is mine
        async with trio.open_nursery() as nursery:
            nursery.start_soon(child, mine)

    await in_a_task_of_its_own(handler)
    with pytest.raises(RuntimeError):
        trpc.current_call()


async def test_a_call_within_a_call_is_the_current_one():
    async def outer():
        enter_call(call("A.outer"))

        async def inner():
            enter_call(call("A.inner"))
            assert trpc.current_call().method == "A.inner"

        await in_a_task_of_its_own(inner)
        assert trpc.current_call().method == "A.outer"

    await in_a_task_of_its_own(outer)


@pytest.mark.parametrize("field", ["method", "peer", "metadata", "deadline", "owner", "client"])
def test_calls_are_frozen(field):
    mine = call()
    before = getattr(mine, field)
    with pytest.raises(AttributeError):
        setattr(mine, field, "other")
    assert getattr(mine, field) is before


def test_a_call_shows_what_is_of_use():
    shown = repr(call("A.b", peer=Peer("there"), tenant="t"))
    assert shown == "<call of A.b from there, metadata {'tenant': 't'}, deadline inf>"


# --- back to the caller ---


def test_the_client_is_that_of_the_owner():
    owner = Owner()
    assert call(owner=owner).client is owner.client


def test_who_is_handled_for():
    peer, other = Peer("a"), Peer("a")
    assert not is_handling_for(peer)

    def handler():
        enter_call(call(peer=peer))
        assert is_handling_for(peer)
        assert not is_handling_for(other)

    contextvars.copy_context().run(handler)
    assert not is_handling_for(peer)


class Service:
    """Notes who has called."""

    def __init__(self):
        self.calls = []

    @trpc.method
    async def note(self, waits: bool) -> None:
        if waits:
            await trio.lowlevel.checkpoint()
        self.calls.append(trpc.current_call())

    @trpc.method
    def inline(self) -> None:
        self.calls.append(trpc.current_call())

    @trpc.method(in_thread=True)
    def thread(self) -> None:
        self.calls.append(trpc.current_call())

    @trpc.method
    async def stream(self, waits: bool):
        if waits:
            await trio.lowlevel.checkpoint()
        self.calls.append(trpc.current_call())
        yield 1


async def test_each_kind_of_handler_has_its_call_and_the_client_of_its_connection():
    service = Service()
    async with connected(service) as (client, server):
        proxy = client.proxy(Service)
        for waits in (False, True):
            await proxy.note(waits)
            async with proxy.stream(waits) as items:
                assert [item async for item in items] == [1]
        await proxy.inline()
        await proxy.thread()
        await settle()
        assert [call.method for call in service.calls] == [
            *["Service.note", "Service.stream"] * 2,
            "Service.inline",
            "Service.thread",
        ]
        assert len({id(call.client) for call in service.calls}) == 1
        assert {type(call.client) for call in service.calls} == {trpc.Client}
        (connection,) = server.connections
        assert {call.peer for call in service.calls} == {connection.peer} == {service.calls[0].client.peer}


async def test_each_connection_has_a_client_of_its_own():
    service = Service()
    async with connected(service) as (one, _), connected(service) as (two, _):
        await one.proxy(Service).inline()
        await two.proxy(Service).inline()
    first, second = (call.client for call in service.calls)
    assert first is not second
