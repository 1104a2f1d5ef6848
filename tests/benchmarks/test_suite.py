"""The benchmarks run, and their results can be drawn. How fast anything is, is not tested: that is the machine's."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

ROOT = Path(__file__).resolve().parents[2]
WORK = ("sequential_async", "flight_async", "echo_1k", "stream_down", "stream_up_64k")


def run(*args):
    return subprocess.run(
        [sys.executable, "-m", *map(str, args)], cwd=ROOT, check=True, capture_output=True, text=True, timeout=100
    ).stdout


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """What the command prints, and the file that it saves."""
    file = tmp_path_factory.mktemp("benchmarks") / "results.json"
    options = [
        "--rounds",
        1,
        "--seconds",
        0.01,
        "--only",
        ",".join([*WORK, "latency"]),
        "--contestants",
        "trpc_,trio_stream",
    ]
    return run("tests.benchmarks", *options, "--json", file), file


def test_every_figure_is_there(measured):
    output, file = measured
    results = json.loads(file.read_text())
    assert results["date"]
    assert results["machine"]["cores"] > 0
    assert results["absent"] == {}
    assert set(results["calls"]) == set(WORK)
    for name, work in results["calls"].items():
        assert work["failures"] == {}
        assert set(work["rounds"]) == ({"trpc_"} if name == "flight_async" else {"trpc_", "trio_stream"})
        for bursts in work["rounds"].values():
            assert len(bursts) == 1
            assert all(value > 0 for burst in bursts for value in burst.values())
        for figures in work["summary"].values():
            ratio = figures.pop("ratio")
            assert all(value > 0 for value in (*figures.values(), *ratio.values()))
        assert name in output


def test_calls_are_timed_beside_every_load(measured):
    output, file = measured
    (latency,) = json.loads(file.read_text())["latency"].values()
    assert latency["failures"] == {}
    assert set(latency["summary"]) == {"idle", "streams_small", "streams_64k", "reply_64m", "unread"}
    for load, figures in latency["summary"].items():
        assert figures["calls"] > 0
        assert (figures["moved_per_second"] > 0) == (load not in {"idle", "unread"})
        assert 0 < figures["p50"]["seconds"] <= figures["p99"]["seconds"]
        assert load in output


def test_the_targets_that_were_measured_have_a_verdict(measured):
    _, file = measured
    targets = json.loads(file.read_text())["targets"]
    decided = [row["what"] for row in targets if row["verdict"] != "not measured"]
    assert decided == [
        "sequential_async: time / trio_stream",
        "stream_up_64k: rate / trio_stream",
        "latency: 99 % beside reply_64m / idle",
        "latency: 99 % beside streams_64k / idle",
        "latency: 99 % beside streams_small / idle",
    ]


def test_charts_are_xml(measured, tmp_path):
    _, file = measured
    picture = tmp_path / "picture.svg"
    run("tests.benchmarks.charts", file, picture)
    texts = [element.text for element in ET.parse(picture).iter("{http://www.w3.org/2000/svg}text")]
    assert texts.count("trpc") == 3  # of the four charts one is of 1 MiB, which was not measured
