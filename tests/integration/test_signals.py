"""SIGTERM and SIGINT, sent to servers that are real processes."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import trio
from processes import ROOT, Lines
from support import start_call

import trpc

PROGRAM = Path(__file__).with_name("signal_service.py")
SIGNALS = [signal.SIGTERM, signal.SIGINT]


class Server:
    """A process, what it has said, and a client of it."""

    def __init__(self, process, lines, client, nursery):
        self.process = process
        self.lines = lines
        self.client = client
        self.nursery = nursery
        self.outcomes = {}

    async def start_call(self, key, seconds):
        """Returns when the server has begun it."""
        start_call(self.nursery, self.outcomes, key, self.client.call, "Jobs.work", seconds)
        # The server reads in order.
        while not self.client._caller._in_flight:
            await trio.lowlevel.checkpoint()
        await self.client.call("Jobs.echo", "x")

    async def send(self, number):
        """Returns when the server has told the client so."""
        self.process.send_signal(number)
        while not self.client._caller._went_away:
            await trio.sleep(0.001)

    async def end(self):
        """Its exit code, and what it has written on stderr."""
        with trio.fail_after(30):
            return await self.process.wait(), (await self.process.stderr.receive_some(100_000)).decode()


@contextlib.asynccontextmanager
async def served(grace):
    process = await trio.lowlevel.open_process(
        [sys.executable, "-W", "error", str(PROGRAM), str(grace)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    try:
        async with process.stdout, process.stderr:
            lines = Lines(process.stdout)
            async with trpc.connect(await lines.next()) as client, trio.open_nursery() as nursery:
                yield Server(process, lines, client, nursery)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()


@pytest.mark.parametrize("number", SIGNALS)
async def test_without_calls(number):
    async with served(60) as server:
        await server.client.ping()
        await server.send(number)
        assert await server.lines.next() == "stopped"
        assert await server.end() == (0, "")


@pytest.mark.parametrize("number", SIGNALS)
async def test_a_call_is_finished_and_later_ones_are_refused(number):
    async with served(60) as server:
        await server.start_call("call", 0.5)
        await server.send(number)
        with pytest.raises(trpc.Unavailable):
            await server.client.call("Jobs.echo", "x")
        assert await server.lines.next() == "stopped"
        assert await server.end() == (0, "")
    assert server.outcomes == {"call": "worked"}


async def test_when_the_grace_is_over_it_stops():
    async with served(0.2) as server:
        await server.start_call("call", 1000)
        await server.send(signal.SIGTERM)
        assert await server.lines.next() == "cancelled"
        assert await server.lines.next() == "stopped"
        assert await server.end() == (0, "")
    assert isinstance(server.outcomes["call"], trpc.ConnectionLost)


@pytest.mark.parametrize("first", SIGNALS)
@pytest.mark.parametrize("second", SIGNALS)
async def test_the_second_signal_stops_it_hard(first, second):
    async with served(1000) as server:
        await server.start_call("call", 1000)
        await server.send(first)
        server.process.send_signal(second)
        assert await server.lines.next() == "cancelled"
        assert await server.lines.next() == "stopped"
        assert await server.end() == (0, "")
    assert isinstance(server.outcomes["call"], trpc.ConnectionLost)


async def test_a_client_that_does_not_read_does_not_keep_it():
    """Of two connections, one is of a process that was stopped, so to speak: it never answers the end."""
    async with served(1000) as server:
        host, port = server.client.peer.address.rsplit(":", 1)
        async with await trio.open_tcp_stream(host, int(port)):
            await server.client.ping()
            server.process.send_signal(signal.SIGTERM)
            assert await server.lines.next() == "stopped"
            assert await server.end() == (0, "")
