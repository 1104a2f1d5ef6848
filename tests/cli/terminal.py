"""Programs in a terminal of their own, as a person has them."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TRPC = [sys.executable, "-m", "trpc"]
# Seconds after which a test is given up.
PATIENCE = 60
# Loaded before there is a new process, where it could not be.
_LIBC = ctypes.CDLL(None)


def environment(**others):
    """That of a process that can import the services of these tests, with nothing of this terminal's."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if name not in {"NO_COLOR", "FORCE_COLOR", "TRPC_TOKEN", "COLUMNS", "LINES"}
    }
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    return {**kept, "PYTHONPATH": path, "TERM": "xterm-256color", **others}


def ends_with_parent():
    """In a new process: it is killed when the process of the tests is, which then cannot end it."""
    _LIBC.prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


class Terminal:
    """What a process in a terminal shows."""

    def __init__(self, process, descriptor):
        self.process = process
        self.descriptor = descriptor
        self.output = b""

    @property
    def text(self):
        return self.output.decode(errors="replace").replace("\r\n", "\n")

    def wait_for(self, text, after=0):
        """Reads until the text is there; ``after`` so many characters."""
        end = time.monotonic() + PATIENCE
        while text not in self.text[after:]:
            assert time.monotonic() < end, f"{text!r} is not in {self.text!r}"
            assert self._read(), f"it has ended, and {text!r} is not in {self.text!r}"
        return len(self.text)

    def type(self, text):
        os.write(self.descriptor, text.encode())

    def end(self):
        """Reads to the end; returns the exit code."""
        while self._read():
            pass
        return self.process.wait(PATIENCE)

    def _read(self):
        ready, _, _ = select.select([self.descriptor], [], [], PATIENCE)
        assert ready, f"nothing more comes after {self.text!r}"
        try:
            data = os.read(self.descriptor, 65536)
        except OSError:  # as terminals end on Linux
            return False
        self.output += data
        return bool(data)


@contextlib.contextmanager
def in_terminal(*args, command=TRPC, width=100, height=30, cwd=None, **others):
    """Runs trpc in a terminal: ``with in_terminal("ping", url) as terminal``. Ctrl-C is ``terminal.type("\\x03")``."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))

    def own_terminal():
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)

    process = subprocess.Popen(
        [*command, *args],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=environment(**others),
        cwd=cwd,
        start_new_session=True,
        preexec_fn=own_terminal,
    )
    os.close(theirs)
    try:
        yield Terminal(process, ours)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGKILL)
        process.wait()
        os.close(ours)
