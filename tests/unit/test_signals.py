"""Which signals are received, and what each of them does to the server."""

import importlib
import signal

import pytest
import trio
import trio.testing
from support import connected, settle, start_call

import trpc
from trpc import _signals


class Service:
    @trpc.method
    async def sleep(self, seconds: float) -> str:
        await trio.sleep(seconds)
        return "slept"


async def start(nursery, server, **options):
    nursery.start_soon(lambda: trpc.drain_on_signal(server, **options))
    await settle()


async def until_delivered():
    # Python runs the handler between two instructions, and Trio wakes the task from there.
    await trio.lowlevel.checkpoint()
    await settle()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_one_signal_drains(number, autojump_clock):
    outcomes = {}
    before = signal.getsignal(number)
    async with connected(Service()) as (client, server), trio.open_nursery() as nursery:
        await client.ping()
        await start(nursery, server)
        assert signal.getsignal(number) is not before
        start_call(nursery, outcomes, "call", client.call, "Service.sleep", 5)
        await settle()
        signal.raise_signal(number)
        await until_delivered()
        assert server.is_draining
        with pytest.raises(trpc.Unavailable):
            await client.call("Service.sleep", 0)
    assert outcomes == {"call": "slept"}
    assert signal.getsignal(number) is before


async def test_the_grace_is_passed_on(autojump_clock):
    outcomes = {}
    async with connected(Service()) as (client, server), trio.open_nursery() as nursery:
        start_call(nursery, outcomes, "call", client.call, "Service.sleep", 5)
        await settle()
        await start(nursery, server, grace=2)
        begin = trio.current_time()
        signal.raise_signal(signal.SIGTERM)
    assert isinstance(outcomes["call"], trpc.ConnectionLost)
    assert trio.current_time() - begin == pytest.approx(2, abs=0.5)


async def test_the_second_signal_does_not_wait(autojump_clock):
    outcomes = {}
    before = signal.getsignal(signal.SIGTERM)
    async with connected(Service()) as (client, server), trio.open_nursery() as nursery:
        start_call(nursery, outcomes, "call", client.call, "Service.sleep", 100)
        await settle()
        await start(nursery, server, grace=50)
        begin = trio.current_time()
        signal.raise_signal(signal.SIGTERM)
        await until_delivered()
        await trio.sleep(3)
        assert not outcomes
        signal.raise_signal(signal.SIGINT)
        await until_delivered()
        assert signal.getsignal(signal.SIGTERM) is before
    assert isinstance(outcomes["call"], trpc.ConnectionLost)
    assert trio.current_time() - begin == pytest.approx(3, abs=0.5)


@pytest.mark.parametrize("how", ["drained", "cancelled", "the stream ends"])
async def test_it_ends_with_the_server(how, autojump_clock):
    before = signal.getsignal(signal.SIGTERM)
    scope = trio.CancelScope()

    async def serve(task_status):
        with scope:
            if how == "the stream ends":
                await trpc.serve_stream(Service(), theirs, task_status=task_status)
            else:
                await trpc.serve_tcp(Service(), 0, task_status=task_status)

    ours, theirs = trio.testing.memory_stream_pair()
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            server = await nursery.start(serve)
            await start(nursery, server)
            if how == "drained":
                await server.drain()
            elif how == "cancelled":
                scope.cancel()
            else:
                await ours.aclose()
    assert signal.getsignal(signal.SIGTERM) is before


async def test_it_ends_at_once_if_the_server_has_ended():
    async with connected(Service()) as (_, server):
        await server.drain()
        await settle()
        await trpc.drain_on_signal(server)


async def test_cancelled_before_any_signal():
    before = signal.getsignal(signal.SIGTERM)
    async with connected(Service()) as (client, server):
        async with trio.open_nursery() as nursery:
            await start(nursery, server)
            nursery.cancel_scope.cancel()
        assert signal.getsignal(signal.SIGTERM) is before
        assert not server.is_draining
        assert await client.call("Service.sleep", 0) == "slept"


async def test_a_wrong_grace_is_found_at_once():
    async with connected(Service()) as (_, server):
        with pytest.raises(ValueError, match="the grace is a number of seconds, not -1"):
            await trpc.drain_on_signal(server, grace=-1)


def test_a_platform_without_one_of_them(monkeypatch):
    assert _signals.SIGNALS == [signal.SIGTERM, signal.SIGINT]
    with monkeypatch.context() as patch:
        patch.delattr(signal, "SIGTERM")
        assert importlib.reload(_signals).SIGNALS == [signal.SIGINT]
    importlib.reload(_signals)
