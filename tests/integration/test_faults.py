"""Peers that are stopped, cut off or killed, networks that go silent, and tables that are full: real processes."""

from __future__ import annotations

import contextlib
import json
import signal
from pathlib import Path

import pytest
import trio
import trio.testing
from fault_service import Faulty
from processes import python

import trpc
from trpc._frames import PREAMBLE, encode_frame
from trpc._messages import Hello, Kind

SERVICE = Path(__file__).with_name("fault_service.py")
BUSY_SERVICE = Path(__file__).with_name("busy_service.py")

# Each is lost after a second of silence; the tests do not look at how long it took, only that it comes.
SHORT = {"keepalive_interval": 0.5, "keepalive_timeout": 0.5}
# Nobody is given up within a test.
PATIENT = {"keepalive_interval": 120.0, "keepalive_timeout": 120.0}
MiB = 1024 * 1024


@contextlib.asynccontextmanager
async def serving(limits, *args):
    async with python(SERVICE, "serve", json.dumps(limits), *args) as (process, url, _lines):
        try:
            yield process, url
        finally:
            # Stopped, it could not be ended by some of the signals.
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGCONT)


async def wait_for(proxy, **expected):
    """Asks until the counts are as expected; each question is a round trip, so this is no busy loop."""
    with trio.fail_after(30):
        while (counts := await proxy.counts()) | expected != counts:
            pass


async def wait_for_connections(proxy, number):
    with trio.fail_after(30):
        while await proxy.connections() != number:
            pass


async def lose(function, *args, outcomes):
    """A call that has to be lost."""
    with pytest.raises(trpc.ConnectionLost) as error:
        await function(*args)
    outcomes.append(error.value)


# --- stopped and killed ---


async def test_calls_to_a_server_that_is_stopped_are_given_up():
    outcomes = []
    async with serving(PATIENT) as (process, url):
        limits = trpc.Limits(**SHORT)
        async with trpc.connect(url, limits=limits) as client, trpc.connect(url) as observer:
            faulty, watch = client.proxy(Faulty), observer.proxy(Faulty)
            with trio.fail_after(30):
                async with trio.open_nursery() as nursery:
                    for _ in range(20):
                        nursery.start_soon(lambda: lose(faulty.wait, outcomes=outcomes))
                    await wait_for(watch, running=20)
                    process.send_signal(signal.SIGSTOP)
                    # One that it cannot even have received.
                    nursery.start_soon(lambda: lose(faulty.plain, 1, outcomes=outcomes))
            assert len(outcomes) == 21
            assert all("nothing has come" in str(exc) for exc in outcomes)
            assert all(exc.maybe_executed for exc in outcomes)
            # As it goes on, it finds that they have gone; and others were patient.
            process.send_signal(signal.SIGCONT)
            await wait_for(watch, running=0, children=0, ended=20)
        async with trpc.connect(url) as client:
            assert await client.proxy(Faulty).plain(2) == 2


async def test_a_server_that_is_stopped_for_less_goes_on():
    limits = {"keepalive_interval": 0.2, "keepalive_timeout": 20.0}
    values = []
    async with serving(limits) as (process, url), trpc.connect(url, limits=trpc.Limits(**limits)) as client:
        faulty = client.proxy(Faulty)
        assert await faulty.plain(1) == 1
        process.send_signal(signal.SIGSTOP)

        async def call(value):
            values.append(await faulty.work(3, value))

        async with trio.open_nursery() as nursery:
            for value in range(20):
                nursery.start_soon(call, value)
            # That is the fault: long enough that both sides ask whether the other one is there.
            await trio.sleep(1)
            assert values == []
            process.send_signal(signal.SIGCONT)
        assert sorted(values) == list(range(20))
        assert await faulty.connections() == 1


async def test_a_client_that_is_stopped_is_closed_and_its_handlers_are_cancelled():
    async with serving(SHORT) as (_, url), trpc.connect(url) as client:
        watch = client.proxy(Faulty)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch.wait)
            async with python(BUSY_SERVICE, "call", url, 50) as (victim, line, _):
                assert line == "calling"
                assert (await watch.counts())["running"] == 51
                victim.send_signal(signal.SIGSTOP)
                await wait_for(watch, running=1, children=2, ended=50)
                await wait_for_connections(watch, 1)
            assert (await watch.counts())["running"] == 1
            nursery.cancel_scope.cancel()


async def test_a_client_that_is_stopped_while_it_is_written_to_is_closed():
    async with serving({**PATIENT, "write_timeout": 0.5}) as (_, url), trpc.connect(url) as client:
        watch = client.proxy(Faulty)
        async with python(SERVICE, "read", url) as (victim, line, _):
            assert line == "reading"
            await wait_for_connections(watch, 2)
            victim.send_signal(signal.SIGSTOP)
            await wait_for_connections(watch, 1)
            assert await watch.plain(1) == 1


async def test_kill_9_of_the_server_in_the_middle_of_large_messages():
    outcomes = []
    async with serving(PATIENT) as (process, url), trpc.connect(url) as client:
        faulty = client.proxy(Faulty)
        assert await faulty.plain(1) == 1
        # It does not read, so that no request is written to its end.
        process.send_signal(signal.SIGSTOP)
        with trio.fail_after(30):
            async with trio.open_nursery() as nursery:
                for _ in range(3):
                    nursery.start_soon(lambda: lose(faulty.sum, bytes(15 * MiB), outcomes=outcomes))
                await trio.testing.wait_all_tasks_blocked(0.1)
                process.send_signal(signal.SIGKILL)
        assert len(outcomes) == 3


async def test_kill_9_of_a_client_in_the_middle_of_a_large_request():
    async with serving(PATIENT) as (_, url), trpc.connect(url) as client:
        watch = client.proxy(Faulty)
        hello = encode_frame(Kind.HELLO, 0, Hello(1 << 24, 100, 64).encode())
        stream = await trio.open_tcp_stream(*address(url))
        async with stream:
            await stream.send_all(PREAMBLE + hello + encode_frame(Kind.REQUEST, 1, bytes(10 * MiB))[: 5 * MiB])
            await wait_for_connections(watch, 2)
        await wait_for_connections(watch, 1)
        assert await watch.plain(1) == 1


# --- silence ---


def address(url):
    host, port = url.removeprefix("tcp://").split(":")
    return host, int(port)


class Proxy:
    """Forwards bytes, until it is told not to, in one direction or both. It closes nothing then, and says nothing."""

    def __init__(self, url):
        self._address = address(url)
        self._blocked = {"up": trio.CancelScope(), "down": trio.CancelScope()}

    def block(self, *directions):
        for direction in directions:
            self._blocked[direction].cancel()

    async def serve(self, *, task_status):
        async with trio.open_nursery() as nursery:
            listeners = await nursery.start(trio.serve_tcp, self._forward, 0)
            task_status.started(f"tcp://127.0.0.1:{listeners[0].socket.getsockname()[1]}")

    async def _forward(self, client):
        server = await trio.open_tcp_stream(*self._address)
        async with client, server, trio.open_nursery() as nursery:
            nursery.start_soon(self._copy, client, server, "up")
            nursery.start_soon(self._copy, server, client, "down")

    async def _copy(self, source, target, direction):
        with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            with self._blocked[direction]:
                async for data in source:
                    await target.send_all(data)
            if self._blocked[direction].cancelled_caught:
                await trio.sleep_forever()
            await target.send_eof()


@contextlib.asynccontextmanager
async def through_proxy(url):
    async with trio.open_nursery() as nursery:
        proxy = Proxy(url)
        yield proxy, await nursery.start(proxy.serve)
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("directions", [("up",), ("down",), ("up", "down")], ids="-".join)
async def test_a_network_that_goes_silent_is_noticed_by_both_sides(directions):
    outcomes = []
    async with serving(SHORT) as (_, url), trpc.connect(url) as observer, through_proxy(url) as (proxy, through):
        watch = observer.proxy(Faulty)
        async with trpc.connect(through, limits=trpc.Limits(**SHORT)) as client:
            with trio.fail_after(30):
                async with trio.open_nursery() as nursery:
                    for _ in range(5):
                        nursery.start_soon(lambda: lose(client.proxy(Faulty).wait, outcomes=outcomes))
                    await wait_for(watch, running=5)
                    proxy.block(*directions)
            assert len(outcomes) == 5
            await wait_for(watch, running=0, children=0, ended=5)
            await wait_for_connections(watch, 1)


async def test_a_network_that_goes_silent_between_calls_is_noticed_by_the_server():
    async with serving(SHORT) as (_, url), trpc.connect(url) as observer, through_proxy(url) as (proxy, through):
        watch = observer.proxy(Faulty)
        async with trpc.connect(through) as client:
            assert await client.proxy(Faulty).plain(1) == 1
            assert await watch.connections() == 2
            proxy.block("up", "down")
            await wait_for_connections(watch, 1)


# --- full tables ---


async def test_a_full_table_of_descriptors_is_survived():
    files = 40
    async with serving({"hello_timeout": 120.0, **PATIENT}, files) as (_, url), trpc.connect(url) as old:
        faulty = old.proxy(Faulty)
        assert await faulty.plain(1) == 1
        outcomes = []
        async with trio.open_nursery() as nursery:
            async with contextlib.AsyncExitStack() as stack:
                for _ in range(2 * files):
                    await stack.enter_async_context(await trio.open_tcp_stream(*address(url)))
                with trio.fail_after(30):
                    while (connections := await faulty.connections()) < files // 2:
                        pass
                assert connections < files

                async def call_anew():
                    async with trpc.connect(url, limits=trpc.Limits(hello_timeout=120)) as client:
                        outcomes.append(await client.proxy(Faulty).plain(2))

                nursery.start_soon(call_anew)
                for value in range(200):
                    assert await faulty.work(1, value) == value
                assert outcomes == []
            # There is room again: whoever has waited is served, and whoever comes is.
            with trio.fail_after(30):
                while outcomes != [2]:
                    await faulty.plain(1)
        await wait_for_connections(faulty, 1)
        async with trpc.connect(url) as client:
            assert await client.proxy(Faulty).plain(3) == 3


async def test_beyond_the_most_connections_newcomers_are_told_and_others_are_not_concerned():
    async with serving({"max_connections": 5}) as (_, url), contextlib.AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(trpc.connect(url)) for _ in range(4)]
        for client in clients:
            assert await client.proxy(Faulty).plain(1) == 1
        async with trpc.connect(url) as last:
            assert await last.proxy(Faulty).plain(2) == 2
            for _ in range(20):
                async with trpc.connect(url) as client:
                    with pytest.raises(trpc.Unavailable, match="5 connections"):
                        await client.proxy(Faulty).plain(3)
                assert await last.proxy(Faulty).plain(4) == 4
            assert await last.proxy(Faulty).connections() == 5
        await wait_for_connections(clients[0].proxy(Faulty), 4)
        async with trpc.connect(url) as client:
            assert await client.proxy(Faulty).plain(5) == 5
