"""docs/comparison.md and the tests that it names: each row has its evidence, and the evidence is there."""

from __future__ import annotations

import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from .processes import needs

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).parent
PAGE = (ROOT / "docs" / "comparison.md").read_text()
README = (ROOT / "README.md").read_text()
TABLES, EVIDENCE = PAGE.split("(what-shows-it)=")
OTHERS = {"trpc": "trpc", "gRPC": "gRPC (asyncio)", "RPyC": "RPyC", "Pyro5": "Pyro5"}


def rows(text, columns):
    """The rows of the tables with so many columns, below their heads."""
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.split("|")[1:-1]]
        if len(cells) == columns and cells[0] not in {"", "row", "---"}:
            yield cells


def table(text):
    return {first: dict(zip(OTHERS, others, strict=True)) for first, *others in rows(text, 5)}


@pytest.mark.parametrize("file, packages", [("ask_grpc.py", ["grpc"]), ("ask_threads.py", ["rpyc", "Pyro5"])])
def test_the_others_were_asked(file, packages):
    """In a process of its own: what these libraries leave behind would be in the way of other tests."""
    for package in packages:
        needs(package)
    command = [sys.executable, "-m", "pytest", "-q", "--no-header", "-p", "no:cacheprovider", HERE / file]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stdout
    assert "skipped" not in done.stdout


def test_each_row_has_its_evidence():
    shown = [row for row, _ in rows(EVIDENCE, 2)]
    without_speed = TABLES.replace("## Speed", "## Which one").split("## Which one")[0]
    assert [*table(without_speed), "Speed"] == shown


def test_the_tests_are_there():
    named = re.findall(r"`(\w+\.py)::(\w+)`", PAGE)
    assert len(named) > 20
    for file, test in named:
        assert re.search(rf"^(async )?def {test}\(", (HERE / file).read_text(), re.MULTILINE), f"{file}::{test}"


def test_each_test_is_named():
    tests = {
        (file.name, test)
        for file in [*HERE.glob("ask_*.py"), HERE / "test_comparison_trpc.py"]
        for test in re.findall(r"^(?:async )?def (test_\w+)\(", file.read_text(), re.MULTILINE)
    }
    assert tests == set(re.findall(r"`(\w+\.py)::(\w+)`", PAGE))


def test_the_readme_says_the_same():
    short, long = table(README.replace("](docs/", "](")), table(PAGE)
    assert len(short) >= 8
    assert {row: cells for row, cells in long.items() if row in short} == short


# --- speed ---

CHARTS = {
    "time of a call, one at a time": "One call at a time, on one core",
    "calls per second, 100 in flight on one connection": "100 calls in flight on one connection",
    "time of 1 MiB there and back": "1 MiB there and back",
}


def charts():
    """The bars of each chart in docs/_static/performance.svg."""
    texts = [
        element.text
        for element in ET.parse(ROOT / "docs" / "_static" / "performance.svg").iter()
        if element.tag.endswith("}text")
    ]
    found, bars = {}, {}
    for text, following in zip(texts, [*texts[1:], ""], strict=True):
        if text in CHARTS.values():
            bars = found[text] = {}
        elif re.fullmatch(r"[\d.]+", following):
            bars[text] = float(following)
    return found


@pytest.mark.parametrize("row, title", CHARTS.items())
def test_speed_is_that_of_the_chart(row, title):
    bars = charts()[title]
    for name, cell in table(PAGE)[row].items():
        if cell != "–":
            assert float(cell) == pytest.approx(bars[OTHERS[name]] / bars["trpc"], rel=0.12)
        else:
            assert OTHERS[name] not in bars
