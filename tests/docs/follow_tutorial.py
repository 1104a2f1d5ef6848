"""Follows ``docs/tutorial.md`` word by word, in an empty folder: ``python -m tests.docs.follow_tutorial``.

* A block with a file's name above it is written to that file; ``NAME, at the end`` and ``at the top`` are added to it.
* A ``console`` block is typed into the terminal that is named above it: a shell of its own, as somebody would have it open.
  What it prints is compared with the lines behind the command, in which ``...`` stands for anything. ``^C`` is typed too. A
  block without a command says what the terminal shows meanwhile. Only the last command of a block may go on running, and what
  it prints by then is to be said.

What is not done as it is written: port 4000 is a free one; the package comes from this checkout instead of the index, and
without ``--install`` from the environment that this runs in; ``systemctl --user`` is played by a small program, so that
nothing of the user's own is touched.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import termios
import threading
import time
from pathlib import Path

from tests.docs.pages import DOCS, ROOT, Block, blocks_of

PAGE = DOCS / "tutorial.md"
PORT = "4000"
# Seconds for one command; making a real environment takes longer.
PATIENCE = 60.0
INSTALLING = 600.0
_MARK = "\x01prompt:"
_PROMPT = re.compile(rf"{_MARK}(\d+)\x02\n?")


class PageIsWrong(Exception):
    """What the page says is not what happens."""


def matches(expected: str, actual: str, *, is_whole: bool = True) -> bool:
    """Whether it is what the page says; ``...`` stands for anything within a line, or for whole lines."""
    pattern = r"(?s:.*?)".join(re.escape(part) for part in _plain(expected).split("..."))
    return re.fullmatch(pattern if is_whole else f"{pattern}(?s:.*)", _plain(actual)) is not None


def _plain(text: str) -> str:
    # How wide the columns of a table are depends on what is in them.
    return "\n".join(re.sub(r"(?<=\S)[ \t]+", " ", line).rstrip() for line in text.strip("\n").splitlines())


class Terminal:
    """A terminal with a shell in it."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        ours, theirs = os.openpty()
        attributes = termios.tcgetattr(theirs)
        attributes[1] &= ~termios.ONLCR  # no \r
        attributes[3] &= ~(termios.ECHO | termios.ECHOCTL)
        termios.tcsetattr(theirs, termios.TCSANOW, attributes)
        termios.tcsetwinsize(theirs, (50, 200))
        self._shell = subprocess.Popen(
            ["setsid", "--ctty", "bash", "--norc", "--noprofile", "--noediting", "-i"],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            cwd=folder,
            env=environment,
        )
        os.close(theirs)
        self._file = ours
        self._text = ""
        self._has_text = threading.Condition()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()
        self.is_busy = True
        self.command = ""

    def _read(self) -> None:
        with contextlib.suppress(OSError):  # the last process that had it open has ended
            while some := os.read(self._file, 65536):
                with self._has_text:
                    self._text += some.decode(errors="replace")
                    self._has_text.notify()

    def type(self, text: str) -> None:
        os.write(self._file, text.encode())

    def wait_for_prompt(self, patience: float = PATIENCE) -> str:
        """What was printed before it."""
        self._wait(lambda: _PROMPT.search(self._text), patience, "it does not end")
        self.is_busy = False
        match = _PROMPT.search(self._text)
        assert match is not None
        output, self._text = self._text[: match.start()], self._text[match.end() :]
        return output

    def wait_for_output(self, expected: str, patience: float = PATIENCE) -> str:
        """Waits until it prints that, and perhaps ends."""

        def has_come() -> object:
            output = _PROMPT.sub("", self._text)
            # Whole lines only.
            return output.endswith("\n") and matches(expected, output)

        self._wait(lambda: has_come() or _PROMPT.search(self._text), patience, f"it does not print\n{expected}")
        if _PROMPT.search(self._text):
            return self.wait_for_prompt()
        output, self._text = self._text, ""
        return output

    def _wait(self, condition, patience: float, problem: str) -> None:
        with self._has_text:
            if not self._has_text.wait_for(condition, patience):
                raise PageIsWrong(f"{problem}; within {patience:g} s it has printed\n{self._text}")

    def close(self) -> None:
        if self.is_busy:
            if not _PROMPT.search(self._text):
                self.type("\x03")
            with contextlib.suppress(PageIsWrong):
                self.wait_for_prompt(10)
        with contextlib.suppress(OSError):
            self.type("exit\n")
        try:
            self._shell.wait(5)
        except subprocess.TimeoutExpired:
            # What it runs, and the shell.
            with contextlib.suppress(OSError):
                os.killpg(os.tcgetpgrp(self._file), signal.SIGKILL)
            self._shell.kill()
            self._shell.wait()
        self._reader.join()
        os.close(self._file)


class Follower:
    """Does what the page says, block by block."""

    def __init__(self, home: Path, *, installs: bool = False, says=print, path: str = "") -> None:
        self._home = home
        self._installs = installs
        self._says = says
        # Where a terminal opens is not the home directory: a page that needs that one has to go there.
        self._folder = self._start = home / "somewhere"
        self._start.mkdir()
        self._port = free_port()
        self._terminals: dict[str, Terminal] = {}
        self.commands = 0
        self.files: set[str] = set()
        programs = home / ".local" / "bin"
        runtime = home / "run"
        programs.mkdir(parents=True)
        runtime.mkdir(mode=0o700)
        for name in "systemctl", "journalctl", "loginctl":
            program = programs / name
            # What it prints is shown when it is done: what is typed next may need what it has started.
            program.write_text(
                f'#!/bin/sh\nsaid=$({sys.executable} {Path(__file__).parent / "systemd.py"} {name} "$@")\ncode=$?\n'
                '[ -z "$said" ] || printf "%s\\n" "$said"\nexit $code\n'
            )
            program.chmod(0o755)
        if shutil.which("systemd-analyze") is None:
            (programs / "systemd-analyze").symlink_to("/bin/true")
        kept = {
            name: value
            for name, value in os.environ.items()
            if name in {"PATH", "LANG", "LC_ALL", "TMPDIR", "PYENV_ROOT", "PYTHONPATH"}
        }
        self._environment = kept | {
            "HOME": str(home),
            "XDG_RUNTIME_DIR": str(runtime),
            "PATH": f"{programs}:{path}{kept['PATH']}",
            "PS1": "",
            "PS2": "",
            "PROMPT_COMMAND": r"""printf '\001prompt:%s\002\n' $?""",
            "VIRTUAL_ENV_DISABLE_PROMPT": "1",
            "TERM": "dumb",
            "NO_COLOR": "1",
            "COLUMNS": "200",
            "PYTHONDONTWRITEBYTECODE": "1",
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        }

    def follow(self, blocks: list[Block]) -> None:
        try:
            for block in blocks:
                try:
                    self._do(block)
                except PageIsWrong as exc:
                    raise PageIsWrong(f"{block.where}: {exc}") from None
        finally:
            for terminal in self._terminals.values():
                terminal.close()
            subprocess.run(
                [self._home / ".local/bin/systemctl", "--user", "stop", "auction"], env=self._environment, check=False
            )

    def _do(self, block: Block) -> None:
        text = block.text.replace(PORT, self._port)
        if block.language == "console":
            self._use(block.caption, text)
        elif block.caption:
            self._write(block.caption, text)
        else:
            raise PageIsWrong("the block says neither a file's name nor is it of a terminal")

    def _write(self, caption: str, text: str) -> None:
        name, _, addition = caption.partition(", ")
        path = self._folder / name
        self._says(f"--- {caption}")
        match addition:
            case "":
                path.write_text(text)
            case "at the top":
                path.write_text(text + path.read_text())
            case "at the end":
                path.write_text(f"{path.read_text()}\n{text}")
            case _:
                raise PageIsWrong(f"what is meant by {addition!r}?")
        self.files.add(name)

    def _use(self, name: str, text: str) -> None:
        if not name:
            raise PageIsWrong("the block does not say which terminal it is of")
        if name not in self._terminals:
            self._terminals[name] = terminal = Terminal(self._start, self._environment)
            terminal.wait_for_prompt()
        terminal = self._terminals[name]
        steps = re.split(r"^(?=\$ |\^C$)", text, flags=re.MULTILINE)
        if steps[0]:
            actual = terminal.wait_for_output(steps[0])
            self._compare(steps[0], actual)
        for number, step in enumerate(steps[1:], 1):
            self._step(name, terminal, step, is_last=number == len(steps) - 1)

    def _step(self, name: str, terminal: Terminal, step: str, *, is_last: bool) -> None:
        line, _, expected = step.partition("\n")
        while line.endswith("\\"):
            more, _, expected = expected.partition("\n")
            line += f"\n{more.removeprefix('> ')}"
        if line == "^C":
            if not terminal.is_busy:
                raise PageIsWrong("^C, but nothing runs there")
            terminal.type("\x03")
            # What it has said before that, the page may leave away.
            self._compare(f"...{expected}", terminal.wait_for_prompt())
            return
        command = line.removeprefix("$ ")
        self._says(f"{name}: {command}")
        self.commands += 1
        if terminal.is_busy and (rest := terminal.wait_for_prompt()).strip():
            raise PageIsWrong(f"before {command!r} it has printed more than the page says:\n{rest}")
        terminal.is_busy = True
        terminal.type(f"{self._as_done(command)}\n")
        if is_last and expected.strip():
            self._compare(expected, terminal.wait_for_output(expected))
        else:
            self._compare(expected, terminal.wait_for_prompt(INSTALLING if self._installs else PATIENCE))
        for entered in re.findall(r"\bcd\b *([\w./~-]*)", command):
            # Without a folder, and with ~, it is the home directory; that of another terminal is where its files are, too.
            self._folder = self._home / entered[2:] if entered[:1] in {"", "~"} else self._folder / entered

    def _as_done(self, command: str) -> str:
        if command.startswith("pip install"):
            return (
                command.replace("trio-trpc[", f"{ROOT}[").replace("pip install", "pip install -q")
                if self._installs
                else ":"
            )
        if command == "python3 -m venv .venv":
            return f"{sys.executable} -m venv .venv" if self._installs else f"ln -s {sys.prefix} .venv"
        return command

    def _compare(self, expected: str, actual: str) -> None:
        if not matches(expected, actual):
            raise PageIsWrong(f"it says\n{expected}\nbut there is\n{actual}")


def free_port() -> str:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return str(sock.getsockname()[1])


def follow(page: Path = PAGE, **options) -> Follower:
    """Follows the page in a new folder, which is removed.

    Raises:
        PageIsWrong: something is not as it says.
    """
    # Not where pytest puts its folders: the path of a Unix socket has 107 bytes.
    home = Path(tempfile.mkdtemp(prefix="tutorial-"))
    try:
        follower = Follower(home, **options)
        follower.follow([block for block in blocks_of(page) if block.caption or block.language == "console"])
    finally:
        shutil.rmtree(home)
    return follower


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--install", action="store_true", help="make an environment, and install this checkout there")
    arguments = parser.parse_args()
    start = time.monotonic()
    try:
        follower = follow(installs=arguments.install)
    except PageIsWrong as exc:
        sys.exit(str(exc))
    print(
        f"{len(follower.files)} files and {follower.commands} commands, in {time.monotonic() - start:.1f} s: as the page says"
    )


if __name__ == "__main__":
    main()
