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
_HANDLER: Final = "the handler to end"
_CONNECTION: Final = "the connection to end"


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
        self._nursery: trio.Nursery | None = None
        self._waits_for = _CONNECTION
        self._is_late = False

    @contextlib.contextmanager
    def call_is_open(self, scope: trio.CancelScope) -> Generator[None, None, None]:
        """Within it, what a cancelled command waits for is a handler; that is said, too, if ``scope`` has timed out."""
        ended = trio.Event()
        self._waits_for = _HANDLER
        if self._nursery is not None and scope.deadline < math.inf:
            self._nursery.start_soon(self._tell_of_timeout, scope.deadline, ended)
        try:
            yield
        finally:
            self._waits_for = _CONNECTION
            self._is_late = False
            ended.set()

    async def _tell_of_timeout(self, deadline: float, ended: trio.Event) -> None:
        with trio.CancelScope(shield=True):
            with trio.move_on_at(deadline + _SOON):
                await ended.wait()
            if not ended.is_set() and not self.signal:
                self._is_late = True
                click.echo(f"trpc: timeout, waiting for {_HANDLER} (Ctrl-C does not wait)", err=True)

    async def cancel_on_signal(
        self, nursery: trio.Nursery, ended: trio.Event, task_status: trio.TaskStatus[None]
    ) -> None:
        """Waits for a signal, and cancels the command, which sets ``ended``; the next signal ends the process."""
        self._nursery = nursery
        with trio.open_signal_receiver(*_SIGNALS) as signals:
            task_status.started()
            self.signal = await anext(signals)
        self.at = trio.current_time()
        nursery.cancel_scope.cancel()
        # Python's own handler would raise an exception, which waits for the end of the connection as the command does.
        before = {number: signal.signal(number, signal.SIG_DFL) for number in _SIGNALS}
        if self._is_late:
            signal.raise_signal(self.signal)
        try:
            with trio.CancelScope(shield=True):
                with trio.move_on_after(_SOON):
                    await ended.wait()
                if not ended.is_set():
                    click.echo(f"trpc: waiting for {self._waits_for} (Ctrl-C again does not wait)", err=True)
                await ended.wait()
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def run(
    command: Callable[[Interruption], Awaitable[None]], *, ends_by_interrupt: bool = False, executes: bool = False
) -> None:
    """Runs a command to its end. SIGINT (Ctrl-C) or SIGTERM cancels it; a second one ends the process.

    Args:
        command: an async function.
        ends_by_interrupt: Ctrl-C is how the command ends, and nothing is said of it.
        executes: it makes calls of which it matters whether they were executed.

    Raises:
        CommandError: it failed or was cancelled.
        click.exceptions.Exit: nobody reads its output.
    """
    interruption = Interruption()
    with errors_explained(interruption, executes=executes):
        trio.run(_until_signal, command, interruption)
    if interruption.signal == signal.SIGINT and ends_by_interrupt:
        return
    if interruption.signal:
        code = ExitCode.TERMINATED if interruption.signal == signal.SIGTERM else ExitCode.INTERRUPTED
        raise CommandError(interruption.note, code)


@contextlib.contextmanager
def errors_explained(
    interruption: Interruption | None = None, *, executes: bool = False
) -> Generator[None, None, None]:
    """Makes of what ``trio.run`` raises what the process is to end with.

    Args:
        interruption: what to say of Ctrl-C.
        executes: see :func:`run`.

    Raises:
        CommandError, click.exceptions.Exit: see :func:`run`.
    """
    try:
        yield
    except BaseException as exc:  # raised again, as what it means for the process
        errors = list(leaves(exc))
        if any(isinstance(error, KeyboardInterrupt) for error in errors):
            # The second one, or one before the command has begun.
            raise CommandError(interruption.note if interruption else "stopped", ExitCode.INTERRUPTED) from None
        if all(isinstance(error, OutputClosedError) for error in errors):
            raise click.exceptions.Exit(ExitCode.OUTPUT_CLOSED) from None
        error = explained(exc, executes=executes)
        if error is None:
            raise
        raise error from None


async def _until_signal(command: Callable[[Interruption], Awaitable[None]], interruption: Interruption) -> None:
    ended = trio.Event()
    async with trio.open_nursery() as nursery:
        # Only there can Python receive signals.
        if threading.current_thread() is threading.main_thread():
            await nursery.start(interruption.cancel_on_signal, nursery, ended)
        try:
            await command(interruption)
        finally:
            ended.set()
        # It was faster than the signal, if there was one.
        interruption.signal = 0
        nursery.cancel_scope.cancel()
