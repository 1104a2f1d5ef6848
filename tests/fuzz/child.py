"""``python -m tests.fuzz.child TARGET [libFuzzer's options and folders]``: fuzzes one target in this process."""

from __future__ import annotations

import shlex
import sys
import tempfile
import warnings
from pathlib import Path

import atheris

from tests.fuzz.targets import load

# What is imported from here on counts for the coverage, so trpc must not be among what is imported above.
with atheris.instrument_imports(include=["trpc"], enable_loader_override=False):
    import trpc  # noqa: F401

STARTS_ITSELF = ("-merge=1", "-set_cover_merge=1", "-minimize_crash=1")


class Unraisable:
    """Keeps what Python could only have printed: a coroutine that was not awaited, an error in a __del__."""

    def __init__(self) -> None:
        self.seen: list[BaseException] = []
        sys.unraisablehook = self._keep
        warnings.simplefilter("error")

    def _keep(self, unraisable: sys.UnraisableHookArgs) -> None:
        self.seen.append(unraisable.exc_value or RuntimeError(unraisable.err_msg))

    def check(self) -> None:
        if self.seen:
            raise AssertionError("an exception that nobody could get") from self.seen[0]


def _as_a_command(name: str, folder: str) -> str:
    """To merge and to minimise, libFuzzer starts itself again, as a command without arguments of its own."""
    command = Path(folder, "child")
    command.write_text(f'#!/bin/sh\nexec {shlex.join([sys.executable, "-m", "tests.fuzz.child", name])} "$@"\n')
    command.chmod(0o700)
    return str(command)


def main() -> None:
    name, *options = sys.argv[1:]
    target = load(name)
    unraisable = Unraisable()

    def run(data: bytes) -> None:
        target.run(data)
        unraisable.check()

    starts_itself = any(option.startswith(STARTS_ITSELF) for option in options)
    command = _as_a_command(name, tempfile.mkdtemp()) if starts_itself else sys.argv[0]
    atheris.Setup([command, f"-max_len={target.MAX_LEN}", *options], run)
    # It ends the process.
    atheris.Fuzz()


main()
