"""What the page on systemd says: the units are ones, and the programs work as systemd would start them."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

import pytest
import trio

import trpc
from tests.docs.pages import DOCS, blocks_of

FILES = {Path(block.caption).name: block.text for block in blocks_of(DOCS / "systemd.md") if block.caption}


@pytest.fixture
def folder():
    # Not where pytest puts its folders: the path of a Unix socket has 107 bytes.
    with tempfile.TemporaryDirectory(prefix="systemd-") as name:
        for file, text in FILES.items():
            Path(name, file).write_text(text.replace("/opt/calc/venv/bin/python", sys.executable))
        yield Path(name)


def test_what_is_on_the_page():
    assert set(FILES) == {"calc.service", "calc.py", "calc.socket", "calc_activated.py"}


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not here")
@pytest.mark.parametrize("unit", ["calc.service", "calc.socket"])
def test_units(unit, folder):
    result = subprocess.run(["systemd-analyze", "verify", folder / unit], capture_output=True, text=True, check=False)
    # It speaks of other units of the machine, too.
    assert [line for line in result.stderr.splitlines() if "calc" in line] == []
    assert result.returncode == 0


def test_the_time_to_stop_is_longer_than_the_grace():
    (line,) = (line for line in FILES["calc.service"].splitlines() if line.startswith("TimeoutStopSec="))
    assert int(line.partition("=")[2]) >= trpc.Limits().drain_grace + 5


@contextlib.asynccontextmanager
async def running(command, folder, **options):
    """The program, when it has told systemd that it is ready."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notified:
        notified.bind(str(folder / "notify"))
        notified.setblocking(False)
        environment = {**os.environ, "NOTIFY_SOCKET": str(folder / "notify"), "RUNTIME_DIRECTORY": str(folder)}
        async with trio.open_nursery() as nursery:
            start = partial(trio.run_process, command, cwd=folder, env=environment, **options)
            process = await nursery.start(start)
            try:
                with trio.fail_after(30):
                    await trio.lowlevel.wait_readable(notified)
                assert notified.recv(100) == b"READY=1"
                yield process
            finally:
                process.send_signal(signal.SIGTERM)
                (folder / "notify").unlink()
            # With exit code 0, which run_process asks for.


async def test_the_program(folder):
    async with running([sys.executable, "-m", "calc"], folder):
        assert (folder / "socket").stat().st_mode & 0o777 == 0o660
        async with trpc.connect(f"unix://{folder}/socket") as client:
            assert await client.call("Calculator.add", 1, 2) == 3
    assert not (folder / "socket").exists()


async def test_socket_activation(folder):
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listening:
        listening.bind(str(folder / "listening"))
        listening.listen()
        # It is for the process that has this number; systemd sets it behind its fork.
        script = f"export LISTEN_PID=$$ LISTEN_FDS=1; exec {sys.executable} -m calc_activated 3<&{listening.fileno()}"
        url = f"unix://{folder}/listening"
        for _ in range(2):
            async with running(["bash", "-c", script], folder, pass_fds=[listening.fileno()]):
                async with trpc.connect(url) as client:
                    assert await client.call("Calculator.add", 1, 2) == 3
            # The socket is systemd's, and still there: who connects now waits for the next process.
            assert (folder / "listening").exists()


def test_started_by_somebody_else(folder):
    result = subprocess.run(
        [sys.executable, "-m", "calc_activated"], cwd=folder, capture_output=True, text=True, check=False
    )
    assert result.returncode == 1
    assert "calc.socket" in result.stderr
