"""The whole programs in the documentation run, each in a process of its own, and print what the page says."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.docs.follow_tutorial import matches
from tests.docs.pages import blocks_of, pages


def programs():
    """Each complete program, with the text block that follows it, if any. Blocks with a file's name are for those who follow a page."""
    for page in pages():
        blocks = blocks_of(page)
        for number, block in enumerate(blocks):
            if block.language == "python" and "trio.run(" in block.text and not block.caption:
                following = blocks[number + 1] if number + 1 < len(blocks) else None
                output = following.text if following is not None and following.language == "text" else None
                yield pytest.param(block.text, output, id=block.where)


@pytest.mark.parametrize("program, output", list(programs()))
def test_program(program, output, tmp_path):
    file = tmp_path / "program.py"
    file.write_text(program)
    # In a process of its own: it is a program, and type hints are looked up in its module.
    result = subprocess.run(
        [sys.executable, "-W", "error", str(file)], capture_output=True, text=True, timeout=60, check=False
    )
    assert result.returncode == 0, result.stderr
    if output is not None:
        assert matches(output, result.stdout), result.stdout


def test_there_are_programs():
    assert len(list(programs())) >= 20
