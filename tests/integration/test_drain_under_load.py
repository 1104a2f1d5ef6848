"""A server is replaced by another one while clients call without pause: nothing is lost, and nothing runs twice."""

from __future__ import annotations

import contextlib
import json
import signal
from collections import Counter
from pathlib import Path

import pytest
import trio
from drain_service import Counted
from processes import python

import trpc

SERVICE = Path(__file__).with_name("drain_service.py")
CLIENTS = 100
GRACE = 10.0


async def said(lines, expected):
    with trio.fail_after(60):
        assert await lines.next() == expected


async def ended(process, lines, report):
    """Has a server drain, and returns what it has begun."""
    process.send_signal(signal.SIGTERM)
    await said(lines, "draining")
    await said(lines, "drained")
    with trio.fail_after(30):
        assert await process.wait() == 0
    return json.loads(report.read_text())


@pytest.mark.parametrize("kind", ["calls", "streams"])
async def test_a_server_is_replaced_under_load(tmp_path, kind):
    reports = tmp_path / "first.json", tmp_path / "second.json"
    async with contextlib.AsyncExitStack() as stack:
        first, url, first_lines = await stack.enter_async_context(python(SERVICE, "serve", 0, GRACE, reports[0]))
        callers = [
            await stack.enter_async_context(python(SERVICE, "call", url, kind, CLIENTS // 2, name)) for name in "ab"
        ]
        assert [line for _, line, _ in callers] == ["calling"] * 2
        before = await ended(first, first_lines, reports[0])
        port = url.rpartition(":")[2]
        second, _, second_lines = await stack.enter_async_context(python(SERVICE, "serve", port, GRACE, reports[1]))
        results = []
        for process, _, lines in callers:
            process.send_signal(signal.SIGUSR1)
            await said(lines, "calling again")
            process.send_signal(signal.SIGTERM)
            with trio.fail_after(60):
                results.append(json.loads(await lines.next()))
        after = await ended(second, second_lines, reports[1])

    assert [result["wrong"] for result in results] == [[], []]
    times = Counter(before["begun"] + after["begun"])
    assert [key for key, count in times.items() if count > 1] == [], "executed twice"
    done = Counter(key for result in results for key in result["done"])
    assert set(done.values()) == {1}
    # Each was tried until it was done: what was executed was told, and what was told was executed.
    assert done.keys() == times.keys()
    assert before["ended"] == len(before["begun"]) > 0
    assert after["ended"] == len(after["begun"]) > 0
    # Every client has been cut off from the first server, by an error that says so.
    refused = sum((Counter(result["refused"]) for result in results), Counter())
    assert refused["Unavailable"] >= CLIENTS
    assert sum(result["connections"] for result in results) >= 2 * CLIENTS


async def test_what_does_not_end_within_the_grace_is_cut(tmp_path):
    report = tmp_path / "report.json"
    outcomes = {}
    async with python(SERVICE, "serve", 0, 0.5, report) as (process, url, lines), trpc.connect(url) as client:
        counted = client.proxy(Counted)

        async def never(key):
            with pytest.raises(trpc.ConnectionLost) as error:
                await counted.never(key)
            outcomes[key] = error.value

        async def late(key):
            # Given up at once, and not when the rest is cut.
            with pytest.raises(trpc.Unavailable):
                await counted.at_once(key)
            outcomes[key] = "refused"

        async with trio.open_nursery() as nursery:
            for number in range(10):
                nursery.start_soon(never, f"never {number}")
            assert await counted.later("in time") == "in time"
            process.send_signal(signal.SIGTERM)
            await said(lines, "draining")
            await client.ping()
            nursery.start_soon(late, "late")
            with trio.fail_after(30):
                assert await lines.next() == "drained"
                assert await process.wait() == 0
    assert outcomes.pop("late") == "refused"
    assert len(outcomes) == 10
    assert all(exc.maybe_executed for exc in outcomes.values())
    begun = json.loads(report.read_text())
    assert sorted(begun["begun"]) == sorted([*outcomes, "in time"])
    assert begun["ended"] == 1
