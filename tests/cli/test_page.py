"""docs/command-line.md: the blocks for a shell do what the page says, the table of commands is whole, so is that of exit codes."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from cli.running import invoke
from cli.terminal import ends_with_parent
from docs.pages import DOCS, blocks_of

from trpc._cli._exits import ExitCode

PAGE = DOCS / "command-line.md"
TEXT = PAGE.read_text(encoding="utf-8")
BASH = shutil.which("bash")

SERVICES = """
from collections.abc import AsyncIterable, AsyncIterator

import trpc


class Statistics:
    @trpc.method
    async def total(self, numbers: AsyncIterable[float]) -> float:
        return sum([number async for number in numbers])


class Log:
    @trpc.method
    async def tail(self) -> AsyncIterator[str]:
        for number in range(10**9):
            yield f"line {number}"


class Orders:
    @trpc.method
    async def place(self, order: dict[str, int]) -> int:
        if not order:
            raise ValueError("nothing is ordered")
        return sum(order.values())


everything = [Statistics(), Log(), Orders()]
"""


@pytest.fixture(scope="module")
def shell(tmp_path_factory):
    """Runs a script in bash, beside a server with the services that the page speaks of."""
    folder = tmp_path_factory.mktemp("page")
    (folder / "services.py").write_text(SERVICES)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "HOME": str(folder), "PATH": path}
    trpc = [sys.executable, "-m", "trpc"]
    with subprocess.Popen(
        [*trpc, "serve", "services:everything"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        cwd=folder,
        preexec_fn=ends_with_parent,
    ) as server:
        url = server.stdout.readline().strip()

        def run(script, url=url):
            return subprocess.run(
                [BASH, "-c", script],
                env={**environment, "url": url},
                cwd=folder,
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )

        run.folder = folder
        yield run
        server.terminate()


def block_with(text):
    (block,) = [block for block in blocks_of(PAGE) if block.language == "sh" and text in block.text]
    return block.text


pytestmark = pytest.mark.skipif(BASH is None, reason="needs bash")


def test_streams(shell):
    done = shell(block_with("Statistics.total"))
    assert (done.returncode, done.stdout, done.stderr) == (0, "6.5\nline 0\nline 1\nline 2\n", "")


@pytest.mark.parametrize(
    ("order", "expected"),
    [('{"pens": 2, "ink": 3}', ("5\n", "", 0)), ("{}", ("", "trpc: ValueError: nothing is ordered\n", 1))],
)
def test_script(shell, order, expected):
    (shell.folder / "order.json").write_text(order)
    done = shell(block_with("Orders.place"))
    assert ((shell.folder / "result.json").read_text(), done.stderr, done.returncode) == expected


def test_script_without_a_server(shell):
    (shell.folder / "order.json").write_text("{}")
    done = shell(block_with("Orders.place"), url="tcp://127.0.0.1:1")
    assert (done.returncode, done.stdout) == (0, "not reached, or lost on the way: see the message\n")


def test_completion(shell):
    bash, zsh, fish = [line.partition("#")[0] for line in block_with("trpc completion bash").splitlines()]
    done = shell(f"{bash}\ncomplete -p trpc")
    assert (done.returncode, done.stderr) == (0, "")
    assert "trpc" in done.stdout
    done = shell(f"mkdir -p ~/.config/fish/completions; {fish}")
    assert (done.returncode, done.stderr) == (0, "")
    assert "trpc" in (shell.folder / ".config/fish/completions/trpc.fish").read_text()
    assert "compdef" in shell(re.search(r"\$\((.*)\)", zsh)[1]).stdout


def test_no_block_is_left_out():
    ours = {"Statistics.total", "Orders.place", "trpc completion bash"}
    # The one installs, which the tutorial's test does; the other serves, as most tests here do.
    others = {"pip install", "trpc serve examples.calculator.service:Calculator"}
    for block in blocks_of(PAGE):
        if block.language == "sh":
            assert [text for text in ours | others if text in block.text], block.where


def test_each_command_is_in_the_table():
    commands = re.findall(r"^  (\w+)  ", invoke("--help").output, re.MULTILINE)
    assert commands
    assert set(re.findall(r"^\| `trpc (\w+)", TEXT, re.MULTILINE)) == set(commands)


def test_each_exit_code_is_in_the_table():
    table = TEXT[TEXT.index("## Exit codes") :]
    assert [int(code) for code in re.findall(r"^\| (\d+) \|", table, re.MULTILINE)] == sorted(ExitCode)


@pytest.mark.parametrize("command", ["serve", "list", "call", "ping", "top", "bench", "stub"])
def test_each_option_that_is_named_is_there(command):
    heading = {"serve": "Serving", "list": "Looking at a server", "call": "Calling"}.get(command, command.capitalize())
    section = TEXT[TEXT.index(f"\n## {heading}\n") + 4 :].partition("\n## ")[0]
    named = set(re.findall(r"`(--[a-z-]+)[ `]", section))
    helped = invoke(command, "--help").output
    missing = {option for option in named if option not in helped}
    # What it says of how others are served.
    assert missing <= {"--token"}
