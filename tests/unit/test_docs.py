"""The programs in the documentation run, and print what it says."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import trpc

ROOT = Path(__file__).parents[2]
PAGES = [
    "README.md",
    "docs/index.md",
    "docs/tutorial.md",
    "docs/streams.md",
    "docs/interceptors.md",
    "docs/logging.md",
    "docs/shutdown.md",
]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def programs():
    """Each complete program, with the text block that follows it, if any."""
    for page in PAGES:
        blocks = BLOCK.findall((ROOT / page).read_text())
        for number, (language, text) in enumerate(blocks, 1):
            if language == "python" and "trio.run(" in text:
                following, output = blocks[number] if number < len(blocks) else ("", "")
                yield pytest.param(text, output if following == "text" else None, id=f"{page}-{number}")


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
        assert result.stdout == output


def test_there_are_programs():
    assert len(list(programs())) >= 5


def test_reference_has_every_public_name():
    text = (ROOT / "docs" / "reference.md").read_text()
    documented = set(re.findall(r"^\.\. auto\w+:: trpc\.(\w+)(?:\(\))?$", text, re.MULTILINE))
    assert documented == set(trpc.__all__)
