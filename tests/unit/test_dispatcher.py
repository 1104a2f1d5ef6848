"""Handlers: what becomes of them and of what they leave behind."""

import pytest
import trio
import trio.testing
from support import connected, settle

import trpc


class Service:
    def __init__(self):
        self.notes: list[object] = []

    @trpc.method
    async def note(self, value: object, waits: bool) -> None:
        if waits:
            await trio.lowlevel.checkpoint()
        self.notes.append(value)

    @trpc.method
    async def leaves_a_scope(self, waits: bool) -> str:
        scope = trio.move_on_after(5)
        scope.__enter__()
        if waits:
            await trio.lowlevel.checkpoint()
        return "result"

    @trpc.method
    async def sleep(self, seconds: float) -> str:
        await trio.sleep(seconds)
        return "slept"


both = pytest.mark.parametrize("waits", [False, True])


@both
async def test_a_one_way_call_runs_to_its_end_and_there_is_no_reply(waits):
    service = Service()
    async with connected(service) as (client, server):
        await client.notify("Service.note", 1, waits)
        # The next one has the reply that the first has not.
        await client.proxy(Service).note(2, waits)
        await settle()
        assert sorted(service.notes) == [1, 2]
        assert server.calls == ()


@both
async def test_a_deadline_that_a_handler_leaves_behind_is_logged_and_does_not_reach_others(
    waits, autojump_clock, caplog
):
    async with connected(Service()) as (client, _):
        proxy = client.proxy(Service)
        assert await proxy.leaves_a_scope(waits) == "result"
        # The deadline of the scope that was left open would be over.
        assert await proxy.sleep(100) == "slept"
        assert await proxy.sleep(100) == "slept"
    (record,) = [record for record in caplog.records if "cancel scope" in record.getMessage()]
    assert record.name == "trpc.handler"
    assert "Service.leaves_a_scope" in record.getMessage()


@both
async def test_a_call_after_one_that_has_left_a_deadline_behind_can_be_cancelled(waits, autojump_clock):
    async with connected(Service()) as (client, server):
        proxy = client.proxy(Service)
        await proxy.leaves_a_scope(waits)
        with trio.move_on_after(1) as scope:
            await proxy.sleep(100)
        assert scope.cancelled_caught
        assert trio.current_time() < 2
        assert server.calls == ()
