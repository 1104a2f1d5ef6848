"""Plays ``systemctl --user``, ``journalctl --user`` and ``loginctl`` for the tutorial: starts what a unit says, and stops it.

It knows what the tutorial's unit uses of systemd, and refuses the rest.
"""

from __future__ import annotations

import configparser
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

HOME = Path(os.environ["HOME"])
RUNTIME = Path(os.environ["XDG_RUNTIME_DIR"])
UNITS = HOME / ".config/systemd/user"
KNOWN = {
    "Unit": {"Description", "After"},
    "Service": {"Type", "WorkingDirectory", "ExecStart", "Restart", "RestartSec", "TimeoutStopSec"},
    "Install": {"WantedBy"},
}


def read_unit(name: str) -> configparser.SectionProxy:
    parser = configparser.ConfigParser(interpolation=None, delimiters="=")
    parser.optionxform = str
    parser.read_string((UNITS / f"{name}.service").read_text())
    for section in parser.sections():
        if unknown := set(parser[section]) - KNOWN[section]:
            sys.exit(f"{section}: {unknown} is not played here")
    return parser["Service"]


def expanded(text: str) -> str:
    return text.replace("%h", str(HOME)).replace("%t", str(RUNTIME))


def start(name: str) -> None:
    """Returns when it has said something: people do not type as fast as they could call it."""
    service = read_unit(name)
    log_file = RUNTIME / f"{name}.log"
    with log_file.open("ab") as log:
        size = log.tell()
        process = subprocess.Popen(
            shlex.split(expanded(service["ExecStart"])),
            cwd=expanded(service["WorkingDirectory"]),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    (RUNTIME / f"{name}.pid").write_text(str(process.pid))
    while process.poll() is None and log_file.stat().st_size == size:
        time.sleep(0.02)


def is_active(name: str) -> int | None:
    """Its process, if it runs."""
    try:
        pid = int((RUNTIME / f"{name}.pid").read_text())
        os.kill(pid, 0)
        if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
            return None
    except OSError:
        return None
    return pid


def stop(name: str) -> None:
    if (pid := is_active(name)) is None:
        return
    os.kill(pid, signal.SIGTERM)
    until = time.monotonic() + float(read_unit(name).get("TimeoutStopSec", "90"))
    while is_active(name):
        if time.monotonic() > until:
            os.kill(pid, signal.SIGKILL)
        time.sleep(0.02)


def main() -> None:
    match sys.argv[1:]:
        case ["systemctl", "--user", "daemon-reload"] | ["loginctl", "enable-linger"]:
            pass
        case ["systemctl", "--user", "enable", "--now", name]:
            print(f"Created symlink {UNITS}/default.target.wants/{name}.service -> {UNITS}/{name}.service.")
            start(name)
        case ["systemctl", "--user", "restart", name]:
            stop(name)
            start(name)
        case ["systemctl", "--user", "stop", name]:
            stop(name)
        case ["systemctl", "--user", "is-active", name]:
            print("active" if is_active(name) else "inactive")
        case ["journalctl", "--user", "--unit", name, "--output", "cat"]:
            print((RUNTIME / f"{name}.log").read_text(), end="")
        case _:
            sys.exit(f"this is not played here: {shlex.join(sys.argv[1:])}")


if __name__ == "__main__":
    main()
