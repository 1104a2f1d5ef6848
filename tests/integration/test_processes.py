"""Two and more real processes over loopback: cancels, deadlines and kills."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
import trio
from busy_service import Busy
from processes import python

import trpc

SERVICE = Path(__file__).with_name("busy_service.py")


async def wait_for(proxy, **expected):
    """Asks until the counts are as expected; each question is a round trip, so this is no busy loop."""
    with trio.fail_after(30):
        while (counts := await proxy.counts()) | expected != counts:
            pass


async def test_when_a_cancelled_scope_has_exited_the_handler_and_its_children_have_ended():
    async with python(SERVICE, "serve") as (_, url, _lines):
        async with trpc.connect(url) as client, trpc.connect(url) as observer:
            watch = observer.proxy(Busy)
            with trio.fail_after(30), trio.CancelScope() as scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(client.proxy(Busy).wait)
                    await wait_for(watch, running=1, children=2)
                    scope.cancel()
            assert scope.cancelled_caught
            assert await watch.counts() == {"running": 0, "children": 0, "ended": 1}
            for _ in range(5):
                with trio.move_on_after(0.02):
                    await client.proxy(Busy).wait()
                counts = await watch.counts()
                assert (counts["running"], counts["children"]) == (0, 0)


async def test_a_chain_of_three_processes_under_one_fail_after():
    async with (
        python(SERVICE, "serve") as (_, back, _1),
        python(SERVICE, "serve", back) as (_, middle, _2),
        python(SERVICE, "serve", middle) as (_, front, _3),
    ):
        async with (
            trpc.connect(front, cancel_grace=10) as client,
            trpc.connect(back) as to_back,
            trpc.connect(middle) as to_middle,
        ):
            start = trio.current_time()
            with pytest.raises(trio.TooSlowError), trio.fail_after(1):
                await client.proxy(Busy).chain()
            # The margin is for a machine that is busy with other things; the grace would be ten seconds more.
            assert 1 <= trio.current_time() - start < 4
            for server in (client, to_middle, to_back):
                assert await server.proxy(Busy).counts() == {"running": 0, "children": 0, "ended": 1}


async def test_kill_9_of_the_server_with_1000_calls_in_flight():
    async with python(SERVICE, "serve") as (process, url, _lines):
        outcomes = []

        async def one(proxy):
            try:
                await proxy.wait()
            except trpc.ConnectionLost as exc:
                outcomes.append(exc)

        async with trpc.connect(url) as client, trpc.connect(url) as observer:
            with trio.fail_after(60):
                async with trio.open_nursery() as nursery:
                    for _ in range(1000):
                        nursery.start_soon(one, client.proxy(Busy))
                    await wait_for(observer.proxy(Busy), running=1000)
                    process.send_signal(signal.SIGKILL)
        assert len(outcomes) == 1000
        assert all(exc.maybe_executed for exc in outcomes)


async def test_kill_9_of_a_client_cancels_its_handlers_and_no_others():
    async with python(SERVICE, "serve") as (_, url, _lines), trpc.connect(url) as client:
        watch = client.proxy(Busy)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch.wait)
            await wait_for(watch, running=1)
            async with python(SERVICE, "call", url, 50) as (victim, line, _):
                assert line == "calling"
                assert (await watch.counts())["running"] == 51
                victim.send_signal(signal.SIGKILL)
                await wait_for(watch, running=1, children=2, ended=50)
            assert (await watch.counts())["running"] == 1
            nursery.cancel_scope.cancel()


async def test_a_stopped_server_is_waited_for_and_goes_on():
    async with python(SERVICE, "serve") as (process, url, _lines), trpc.connect(url) as client:
        proxy = client.proxy(Busy)
        assert await proxy.work(0, 1) == 1
        process.send_signal(signal.SIGSTOP)
        with trio.move_on_after(0.1) as scope:
            await proxy.work(0, 2)
        assert scope.cancelled_caught
        process.send_signal(signal.SIGCONT)
        assert await proxy.work(0, 3) == 3


async def test_system_exit_in_a_handler_ends_the_server_process_but_the_caller_hears():
    async with python(SERVICE, "serve") as (process, url, _lines), trpc.connect(url) as client:
        with pytest.raises(trpc.RemoteError, match="SystemExit"):
            await client.proxy(Busy).exits()
        with trio.fail_after(30):
            await process.wait()


async def test_a_server_that_is_not_there():
    async with python(SERVICE, "serve") as (process, url, _lines):
        process.kill()
        await process.wait()
        with pytest.raises(trpc.Unavailable, match=f"nothing listens at {url}") as error:
            async with trpc.connect(url):
                pass
        assert isinstance(error.value, ConnectionRefusedError)
