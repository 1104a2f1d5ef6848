"""One run of Trio for a command: signals cancel it, and errors become exit codes."""

from __future__ import annotations

import contextlib
import math
import signal
import threading
from typing import TYPE_CHECKING, Final

import click
import trio

from ._exits import CommandError, ExitCode, OutputClosedError, explained, leaves

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Generator


_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)
# Seconds that a command takes for its end before something is said of it.
_SOON: Final = 1.0


class Interruption:
    """Whether a signal has cancelled the command.

    Attributes:
        signal: which one; 0 if none.
        at: when, in Trio's time.
        note: what is said of it at the end.
    """

    def __init__(self) -> None:
        self.signal = 0
        self.at = math.inf
        self.note = "cancelled"


def run(command: Callable[[Interruption], Awaitable[None]], *, ends_by_interrupt: bool = False) -> None:
    """Runs a command to its end. SIGINT (Ctrl-C) or SIGTERM cancels it; a second one ends the process.

    Args:
        command: an async function.
        ends_by_interrupt: Ctrl-C is how the command ends, and nothing is said of it.

    Raises:
        CommandError: it failed or was cancelled.
        click.exceptions.Exit: nobody reads its output.
    """
    interruption = Interruption()
    with errors_explained(interruption):
        trio.run(_until_signal, command, interruption)
    if interruption.signal == signal.SIGINT and ends_by_interrupt:
        return
    if interruption.signal:
        code = ExitCode.TERMINATED if interruption.signal == signal.SIGTERM else ExitCode.INTERRUPTED
        raise CommandError(interruption.note, code)


@contextlib.contextmanager
def errors_explained(interruption: Interruption | None = None) -> Generator[None, None, None]:
    """Makes of what ``trio.run`` raises what the process is to end with.

    Args:
        interruption: what to say of Ctrl-C.

    Raises:
        CommandError, click.exceptions.Exit: see :func:`run`.
    """
    try:
        yield
    except BaseException as exc:
        errors = list(leaves(exc))
        if any(isinstance(error, KeyboardInterrupt) for error in errors):
            # The second one, or one before the command has begun.
            raise CommandError(interruption.note if interruption else "stopped", ExitCode.INTERRUPTED) from None
        if all(isinstance(error, OutputClosedError) for error in errors):
            raise click.exceptions.Exit(ExitCode.OUTPUT_CLOSED) from None
        error = explained(exc)
        if error is None:
            raise
        raise error from None


async def _until_signal(command: Callable[[Interruption], Awaitable[None]], interruption: Interruption) -> None:
    ended = trio.Event()
    async with trio.open_nursery() as nursery:
        # Only there can Python receive signals.
        if threading.current_thread() is threading.main_thread():
            await nursery.start(_cancel_on_signal, nursery.cancel_scope, interruption, ended)
        try:
            await command(interruption)
        finally:
            ended.set()
        # It was faster than the signal, if there was one.
        interruption.signal = 0
        nursery.cancel_scope.cancel()


async def _cancel_on_signal(
    scope: trio.CancelScope, interruption: Interruption, ended: trio.Event, task_status: trio.TaskStatus[None]
) -> None:
    with trio.open_signal_receiver(*_SIGNALS) as signals:
        task_status.started()
        interruption.signal = await anext(signals)
    interruption.at = trio.current_time()
    scope.cancel()
    # Python's own handler would raise an exception, which waits for the end of the connection as the command does.
    before = {number: signal.signal(number, signal.SIG_DFL) for number in _SIGNALS}
    try:
        with trio.CancelScope(shield=True):
            with trio.move_on_after(_SOON):
                await ended.wait()
            if not ended.is_set():
                click.echo("trpc: waiting for the handler to end (Ctrl-C again does not wait)", err=True)
            await ended.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
