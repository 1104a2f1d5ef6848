"""README.md: what it links to is there, and the two commands are where tools look for them."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from cli.terminal import in_terminal

from .processes import started

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()


@pytest.mark.parametrize("target", sorted(set(re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", README))))
def test_links_lead_somewhere(target):
    assert (ROOT / target).exists()


@pytest.mark.parametrize("section", ["Run it", "Test it"])
def test_the_commands_are_one_line_at_the_head_of_their_section(section):
    assert re.search(rf"^## {section}\n\n```sh\n[^\n]+\n```$", README, re.MULTILINE)


def test_the_program_is_short():
    (program,) = re.findall(r"^```python\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    assert len([line for line in program.splitlines() if line.strip()]) <= 20


def test_the_command_line():
    """What is typed into the terminal, at the port that the server gets."""
    pytest.importorskip("click")
    (session,) = re.findall(r"^```console\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    (serve, answer), *others = re.findall(r"^\$ trpc (.*)\n((?:(?!\$ ).*\n)*)", session, re.MULTILINE)
    url = serve.split()[-1]
    program = [sys.executable, "-m", "trpc"]
    command = [*program, *shlex.split(serve.replace(url, "tcp://127.0.0.1:0"))]
    with started(command, None, stderr=subprocess.PIPE) as server:
        actual = server.stdout.readline().strip()
        assert server.stderr.readline() == answer.replace(url, actual).strip() + "\n"
        for line, output in others:
            # In a terminal, as there it looks different.
            with in_terminal(*shlex.split(line.replace(url, actual)), width=200) as terminal:
                terminal.end()
            shown = re.sub(r"\x1b\[[0-9;]*m", "", terminal.text).strip()
            expected = ".*".join(map(re.escape, output.strip().split("...")))
            assert re.fullmatch(expected, shown, re.DOTALL), shown
    assert len(others) == 3
