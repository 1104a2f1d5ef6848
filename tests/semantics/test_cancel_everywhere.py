"""A cancel at every step of a session, on either side: nothing hangs, nothing is left, nothing else breaks."""

from __future__ import annotations

import gc

import pytest
import trio
import trio.testing
from injection import AtStep
from support import connection_of

import trpc


class Service:
    def __init__(self):
        self.running = 0

    @trpc.method
    async def quick(self, value: int) -> int:
        return value

    @trpc.method
    async def slow(self, value: int) -> int:
        self.running += 1
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(trio.sleep, 0.5)
                await trio.sleep(0.2)
        finally:
            self.running -= 1
        return value

    @trpc.method
    async def fails(self) -> None:
        await trio.sleep(0.1)
        raise KeyError("k")

    @trpc.method
    def inline(self) -> str:
        return "x"


async def use(client):
    proxy = client.proxy(Service)
    assert await proxy.quick(1) == 1
    await client.notify("Service.inline")
    with trio.move_on_after(0.1) as scope:
        await proxy.slow(2)
    assert scope.cancelled_caught
    with pytest.raises(KeyError):
        await proxy.fails()
    await client.ping()
    async with trio.open_nursery() as nursery:
        for n in range(3):
            nursery.start_soon(proxy.slow, n)
        nursery.start_soon(proxy.quick, 5)


def run_session(side, step, grace, tcp):
    """One session with one cancel; says whether the session ended before the cancel came."""
    instrument = AtStep(step)
    service = Service()

    async def main():
        tasks_before = trio.lowlevel.current_statistics().tasks_living
        client_scope, server_scope = trio.CancelScope(), trio.CancelScope()
        with trio.fail_after(30):
            async with trio.open_nursery() as nursery:

                async def serve(task_status):
                    with server_scope:
                        if tcp:
                            await trpc.serve_tcp(service, 0, task_status=task_status)
                        else:
                            await trpc.serve_stream(service, theirs, task_status=task_status)

                ours, theirs = trio.testing.memory_stream_pair()
                server = await nursery.start(serve)
                instrument.do = (client_scope if side == "client" else server_scope).cancel
                connection = None
                try:
                    with client_scope:
                        manager = (
                            trpc.connect(server.url, cancel_grace=grace)
                            if tcp
                            else trpc.connect_stream(ours, cancel_grace=grace)
                        )
                        async with manager as client:
                            connection = connection_of(client)
                            await use(client)
                # What the server's end may do to the client: its calls fail, and nothing else.
                except* (trpc.ConnectionLost, trpc.Unavailable):
                    assert side == "server"
                instrument.do = None
                if connection is not None:
                    caller = connection.caller
                    assert not caller._in_flight
                    assert not caller._pings
                    assert caller._slots.taken == 0
                    assert not connection._protocol._open_outgoing
                    assert connection._outbox.unsent == 0
                server_scope.cancel()
            assert service.running == 0
            assert server.connections == ()
            assert trio.lowlevel.current_statistics().tasks_living == tasks_before

    clock = None if tcp else trio.testing.MockClock(autojump_threshold=0)
    trio.run(main, clock=clock, instruments=[instrument])
    return instrument.steps_left > 0


@pytest.mark.parametrize("grace", [0, 1])
@pytest.mark.parametrize("side", ["client", "server"])
def test_a_cancel_at_every_step(side, grace):
    step = 1
    while not run_session(side, step, grace, tcp=False):
        step += 1
    assert step > 50, "the session is longer than that"
    gc.collect()


@pytest.mark.transports("socket", reason="opens its own")
@pytest.mark.parametrize("side", ["client", "server"])
def test_a_cancel_at_every_seventh_step_over_tcp(side):
    step = 1
    while not run_session(side, step, 1, tcp=True):
        step += 7
    assert step > 50
    gc.collect()
