"""The pages on security and reliability: each row names tests that are there, and the defaults are the real ones."""

import ast
import dataclasses
import functools
import math
import pathlib
import re

import pytest

import trpc
from trpc._limits import KiB, MiB

ROOT = pathlib.Path(__file__).parents[2]
PAGES = {name: (ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8") for name in ("security", "reliability")}
UNITS = {"KiB": KiB, "MiB": MiB, "s": 1, "a second": 1, "": 1}
TEST = re.compile(r"`(tests/[\w/.]+)::(\w+)`")


def rows():
    """(page, heading, cells) of each row whose table has a column for tests."""
    for page, text in PAGES.items():
        heading, has_tests = "", False
        for line in text.splitlines():
            if line.startswith("#"):
                heading = line.lstrip("# ")
            cells = [cell.strip() for cell in line.strip("|").split("|")] if line.startswith("|") else None
            if cells is None:
                has_tests = False
            elif cells[-1] == "shown by":
                has_tests = True
            elif has_tests and set(cells[0]) != {"-"}:
                yield page, heading, cells


ROWS = list(rows())


@functools.cache
def names_in(path):
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    return {function.name for function in functions if function.name.startswith("test_")}


@pytest.mark.parametrize(("page", "heading", "cells"), ROWS, ids=[f"{page}-{cells[0]}" for page, _, cells in ROWS])
def test_each_row_names_tests(page, heading, cells):
    assert TEST.search(cells[-1])


@pytest.mark.parametrize("page", PAGES)
def test_each_test_is_there(page):
    named = TEST.findall(PAGES[page])
    assert named
    missing = [f"{path}::{name}" for path, name in named if name not in names_in(path)]
    assert not missing


@pytest.mark.parametrize("page", PAGES)
def test_no_name_of_a_test_is_misspelt(page):
    assert len(TEST.findall(PAGES[page])) == PAGES[page].count("::")


def test_each_limit_has_its_row_with_its_default():
    said = {cells[0].strip("`"): cells[1] for _, heading, cells in ROWS if heading == "Limits"}
    limits = trpc.Limits()
    assert list(said) == [field.name for field in dataclasses.fields(limits)]
    for name, text in said.items():
        if text == "none":
            value = math.inf
        else:
            number, _, unit = text.partition(" ")
            value = float(number) * UNITS[unit]
        assert value == getattr(limits, name), name


def test_no_row_is_lost():
    """The tables are to have at least a row for each limit, input and fault that the library promises to stand."""
    counts = {}
    for page, heading, _ in ROWS:
        counts[page, heading] = counts.get((page, heading), 0) + 1
    assert counts[("security", "Bad input")] >= 13
    assert counts[("security", "Attacks")] >= 18
    assert counts[("reliability", "Faults")] >= 20
