"""Streams between real processes over loopback: memory, kills, and what goes on beside them."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
import trio
from processes import python
from stream_service import Streams, resident

import trpc

SERVICE = Path(__file__).with_name("stream_service.py")
MiB = 1024 * 1024

MILLION = 1_000_000
SIZE = 100


async def wait_for(proxy, **expected):
    """Asks until the state is as expected; each question is a round trip, so this is no busy loop."""
    with trio.fail_after(30):
        while (state := await proxy.state()) | expected != state:
            pass


async def wait_until_it_stalls(proxy):
    """Asks until the producer has not advanced for some round trips."""
    same, last = 0, -1
    with trio.fail_after(30):
        while same < 100:
            produced = (await proxy.state())["produced"]
            same = same + 1 if produced == last else 0
            last = produced
    return last


async def test_a_million_items_for_a_consumer_that_stops_now_and_then():
    async with python(SERVICE, "serve") as (_, url, _lines), trpc.connect(url) as client:
        streams = client.proxy(Streams)
        async with streams.items(1000, SIZE) as items:
            async for _ in items:
                pass
        before = (await streams.state())["resident"], resident()
        most = before
        number = 0
        async with streams.items(MILLION, SIZE) as items:
            async for item in items:
                assert int.from_bytes(item[:8], "big") == number
                number += 1
                if number % 200_000 == 1:
                    # Its producer is ahead by the credit, and no more. Others go on.
                    ahead = await wait_until_it_stalls(streams) - 1000 - number
                    assert ahead <= 2 * trpc.Limits().stream_credit / SIZE
                    for value in range(10):
                        assert await streams.small(value) == value
                    now = (await streams.state())["resident"], resident()
                    most = max(most[0], now[0]), max(most[1], now[1])
        assert number == MILLION
        # All of it would be 100 MiB on the wire, and more in Python.
        assert most[0] - before[0] < 16 * MiB
        assert most[1] - before[1] < 16 * MiB


async def test_a_million_items_for_a_handler():
    sent = 0

    async def produce():
        nonlocal sent
        for number in range(MILLION):
            sent += 1
            yield number.to_bytes(8, "big") + bytes(SIZE - 8)

    async with python(SERVICE, "serve") as (_, url, _lines), trpc.connect(url) as client:
        streams = client.proxy(Streams)
        before = (await streams.state())["resident"], resident()
        assert await streams.count(produce()) == MILLION
        assert sent == MILLION
        assert (await streams.state())["resident"] - before[0] < 16 * MiB
        assert resident() - before[1] < 16 * MiB


async def test_kill_9_of_the_server_while_streams_are_open():
    closed = []

    async def endless():
        number = 0
        try:
            while True:
                yield number.to_bytes(8, "big")
                number += 1
        finally:
            closed.append(number)

    outcomes = []

    async def send(streams):
        with pytest.raises(trpc.ConnectionLost):
            await streams.count(endless())
        outcomes.append("sender")

    async def receive(streams):
        number = 0
        with pytest.raises(trpc.ConnectionLost):  # noqa: PT012 - it comes behind the items
            async with streams.items(10**12, SIZE) as items:
                async for item in items:
                    assert int.from_bytes(item[:8], "big") == number
                    number += 1
        assert number
        outcomes.append("receiver")

    async with python(SERVICE, "serve") as (process, url, _lines), trpc.connect(url) as client:
        streams = client.proxy(Streams)
        with trio.fail_after(30):
            async with trio.open_nursery() as nursery:
                for _ in range(3):
                    nursery.start_soon(send, streams)
                    nursery.start_soon(receive, streams)
                await wait_for(streams, running=6)
                process.send_signal(signal.SIGKILL)
        assert sorted(outcomes) == ["receiver"] * 3 + ["sender"] * 3
        assert len(closed) == 3


async def test_kill_9_of_the_client_while_streams_are_open():
    async with python(SERVICE, "serve") as (_, url, _lines), trpc.connect(url) as observer:
        streams = observer.proxy(Streams)
        async with python(SERVICE, "read", url) as (process, line, _lines2):
            assert line == "reading"
            await wait_for(streams, running=2)
            process.send_signal(signal.SIGKILL)
            await wait_for(streams, running=0, ended=2)


async def test_a_client_that_is_stopped_and_continued_loses_nothing():
    async with python(SERVICE, "serve") as (process, url, _lines), trpc.connect(url) as client:
        streams = client.proxy(Streams)
        number = 0
        async with streams.items(50_000, SIZE) as items:
            async for item in items:
                assert int.from_bytes(item[:8], "big") == number
                number += 1
                if number in {1, 20_000}:
                    process.send_signal(signal.SIGSTOP)
                    process.send_signal(signal.SIGCONT)
        assert number == 50_000
        await wait_for(streams, running=0, ended=1)
