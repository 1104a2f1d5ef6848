"""Whoever follows the tutorial word by word, from an empty folder, sees what it says."""

from __future__ import annotations

import difflib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.follow_tutorial import PAGE, Follower, PageIsWrong, follow, matches
from tests.docs.pages import DOCS, ROOT, Block, blocks_of

# What is on these pages is held by tests beside them.
COMMANDS_ELSEWHERE = {"command-line.md", "testing.md"}

needs_shell = pytest.mark.skipif(
    not (shutil.which("setsid") and shutil.which("bash") and Path(sys.prefix, "bin", "activate").exists()),
    reason="it takes bash, setsid and a virtual environment",
)


@needs_shell
def test_tutorial():
    follower = follow()
    assert len(follower.files) >= 10
    assert follower.commands >= 40


@needs_shell
@pytest.mark.parametrize("page", ["scripts.md"])
def test_other_pages_with_terminals(page):
    follower = follow(DOCS / page, path=f"{sys.prefix}/bin:")
    assert follower.commands


@needs_shell
@pytest.mark.parametrize(
    "texts, problem",
    [
        (["$ echo a\nb\n"], "it says\nb\n"),
        (["$ echo a\n$ true\n"], "it says\n\n"),
        (["$ echo a; sleep 0.1; echo b\na\n", "$ true\n"], "it has printed more than the page says"),
        (["^C\n"], "nothing runs there"),
        (["$ sh -c 'echo on; exec cat'\non\n", "^C\nended\n"], "it says\n...ended"),
    ],
)
def test_what_is_wrong_is_noticed(texts, problem, tmp_path):
    follower = Follower(tmp_path, says=lambda _: None)
    with pytest.raises(PageIsWrong) as caught:
        follower.follow([Block("page.md", 1, "console", "Terminal 1", text) for text in texts])
    assert problem in str(caught.value)


def commands():
    """Those that are typed in the folder of the checkout, with what they print."""
    for path in sorted(DOCS.glob("*.md")):
        for block in blocks_of(path):
            if block.language == "console" and not block.caption and path.name not in COMMANDS_ELSEWHERE:
                for step in block.text.split("$ ")[1:]:
                    command, _, output = step.partition("\n")
                    yield pytest.param(command, output, id=block.where)


@needs_shell
@pytest.mark.parametrize("command, output", list(commands()))
def test_commands_in_the_checkout(command, output):
    environment = {**os.environ, "PATH": f"{sys.prefix}/bin:{os.environ['PATH']}"}
    result = subprocess.run(
        ["bash", "-c", command], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, check=True
    )
    assert matches(output, result.stdout)


def test_all_code_of_the_tutorial_is_followed():
    assert all(block.caption for block in blocks_of(PAGE))


def test_what_has_changed_is_marked():
    """Where the tutorial shows a file again, the lines that are new are emphasized, and no others."""
    files = {}
    for block in blocks_of(PAGE):
        name, _, addition = block.caption.partition(", ")
        if block.language != "python" or addition:
            continue
        lines = block.text.splitlines()
        if name in files:
            changes = difflib.SequenceMatcher(None, files[name], lines, autojunk=False).get_opcodes()
            new = {
                number for kind, _, _, start, end in changes if kind != "equal" for number in range(start + 1, end + 1)
            }
            empty = {number for number, line in enumerate(lines, 1) if not line}
            assert block.emphasized - empty == new - empty, block.where
        files[name] = lines


@pytest.mark.parametrize(
    "expected, actual, is_match",
    [
        ("a\nb", "a\nb\n", True),
        ("a", "a\nb", False),
        ("a ... c", "a b c", True),
        ("a\n...\nc", "a\nb\nb\nc", True),
        ("...", "", True),
        ("took ... ms", "took 3 s", False),
        ("A   B", "A\tB", True),
    ],
)
def test_matches(expected, actual, is_match):
    assert matches(expected, actual) is is_match
