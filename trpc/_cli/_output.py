"""Standard output: blocks nobody, and ends quietly when nobody reads it any more."""

from __future__ import annotations

import io
import os
import select
import sys
from typing import TYPE_CHECKING, Any, Final

import trio
from rich.console import Console

from ._exits import CommandError, ExitCode, OutputClosedError

if TYPE_CHECKING:
    from collections.abc import Callable

# A pipe that is writable takes as much without waiting (PIPE_BUF of Linux).
_AT_ONCE: Final = 4096


def is_terminal() -> bool:
    """Whether standard output is one."""
    return sys.stdout.isatty()


def console() -> Console:
    """For what is laid out for a terminal. Nothing in the text means anything to it."""
    return Console(markup=False, highlight=False, emoji=False, soft_wrap=True)


def print_text(text: str) -> None:
    """Prints some lines.

    Raises:
        OutputClosedError: nobody reads it.
        CommandError: it cannot be written.
    """
    _guarded(_write_all, encoded(text + "\n"))


async def write(data: bytes) -> None:
    """Writes and flushes. Where the reader is slow, other tasks run meanwhile. Cancelled: some of it may be written.

    Raises:
        OutputClosedError: nobody reads it.
        CommandError: it cannot be written.
    """
    await trio.lowlevel.checkpoint()
    if len(data) <= _AT_ONCE and _is_writable():
        _guarded(_write_all, data)
    else:
        await trio.to_thread.run_sync(_guarded, _write_all, data, abandon_on_cancel=True)


def encoded(text: str) -> bytes:
    """``text`` as standard output takes it."""
    return text.encode(sys.stdout.encoding or "utf-8", "backslashreplace")


def _guarded(function: Callable[..., None], *args: Any) -> None:
    try:
        function(*args)
    except OSError as exc:
        give_up_output()
        if isinstance(exc, BrokenPipeError):
            raise OutputClosedError from None
        raise output_error(exc) from None


def give_up_output() -> None:
    """What is left to be written goes nowhere, and so does not fail again when Python flushes it at its end."""
    descriptor = _descriptor()
    if descriptor is not None:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, descriptor)
        os.close(nowhere)


def output_error(exc: OSError) -> CommandError:
    """What is said of output that could not be written."""
    return CommandError(f"cannot write to standard output: {exc.strerror}", ExitCode.FAILED)


def _write_all(data: bytes) -> None:
    descriptor = _descriptor()
    sys.stdout.flush()
    if descriptor is None:
        sys.stdout.buffer.write(data)
        sys.stdout.flush()
        return
    # Past Python's buffer, whose lock a thread that was left behind would hold at exit.
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def _is_writable() -> bool:
    descriptor = _descriptor()
    if descriptor is None:
        return True
    poll = select.poll()
    poll.register(descriptor, select.POLLOUT)
    return bool(poll.poll(0))


def _descriptor() -> int | None:
    try:
        return sys.stdout.fileno()
    except (AttributeError, io.UnsupportedOperation):
        return None
