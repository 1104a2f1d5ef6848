"""Exit codes, and what is said of an error: one line, with a hint."""

from __future__ import annotations

import enum
import sys
from typing import TYPE_CHECKING, Any, Final, cast

import click
import trio

from .. import (
    ConnectionLost,
    DeadlineExceeded,
    InvalidArguments,
    MessageTooLarge,
    MethodNotFound,
    Overloaded,
    ProtocolError,
    RemoteError,
    RPCError,
    Unauthenticated,
    Unavailable,
)
from ._text import one_line

if TYPE_CHECKING:
    from collections.abc import Iterator


class ExitCode(enum.IntEnum):
    """What the process ends with."""

    OK = 0
    FAILED = 1
    """The handler raised an exception, or its result could not be had."""
    USAGE = 2
    """The command line is wrong, or the arguments, or there is no such method."""
    UNREACHABLE = 3
    """There was no server that would execute it, or the connection was lost."""
    TIMEOUT = 4
    INTERRUPTED = 130
    OUTPUT_CLOSED = 141
    """Whoever read the output has gone, as with ``| head -1``: what the shell gives for SIGPIPE."""
    TERMINATED = 143


class CommandError(click.ClickException):
    """Ends the program with one line on standard error.

    Args:
        message: a sentence; what others have written in it is made harmless.
        code: what the process ends with.
        hint: what to do about it; put behind the message.
    """

    def __init__(self, message: str, code: ExitCode = ExitCode.USAGE, *, hint: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.hint = hint

    def show(self, file: Any = None) -> None:
        """Writes the line."""
        line = f"{self.message} ({self.hint})" if self.hint else self.message
        click.echo(f"trpc: {one_line(line)}", file=file or sys.stderr)


class OutputClosedError(Exception):
    """Nobody reads the output any more. Nothing is said of it."""


_CODES: tuple[tuple[type[Exception], ExitCode], ...] = (
    # Some are two things: a timeout in the handler is both of these.
    (DeadlineExceeded, ExitCode.TIMEOUT),
    (RemoteError, ExitCode.FAILED),
    (InvalidArguments, ExitCode.USAGE),
    (MethodNotFound, ExitCode.USAGE),
    (MessageTooLarge, ExitCode.FAILED),
    (Unauthenticated, ExitCode.UNREACHABLE),
    (Unavailable, ExitCode.UNREACHABLE),
    (Overloaded, ExitCode.UNREACHABLE),
    (ConnectionLost, ExitCode.UNREACHABLE),
    (ProtocolError, ExitCode.UNREACHABLE),
    (RPCError, ExitCode.FAILED),
    (trio.TooSlowError, ExitCode.TIMEOUT),
)


def leaves(exc: BaseException) -> Iterator[BaseException]:
    """The exceptions in a group, and in those in it; or the exception itself."""
    if isinstance(exc, BaseExceptionGroup):
        for inner in cast("BaseExceptionGroup[BaseException]", exc).exceptions:
            yield from leaves(inner)
    else:
        yield exc


def explained(exc: BaseException, *, executes: bool = True) -> CommandError | None:
    """What to end with because of ``exc``, which may be a group; None if it is a mistake in the program.

    Args:
        exc: what was raised.
        executes: it matters to people whether something was executed.
    """
    errors = list(leaves(exc))
    for error in errors:
        if isinstance(error, CommandError):
            return error
    codes = [code_of_class(type(error)) for error in errors]
    if None in codes:
        return None
    text = "; ".join(dict.fromkeys(_text_of(error) for error in errors))
    return CommandError(text, codes[0] or ExitCode.FAILED, hint=_hint_of(errors[0], executes=executes))


def code_of_class(cls: type[BaseException]) -> ExitCode | None:
    """The exit code for errors of that class; None if it is none that is expected."""
    return next((code for known, code in _CODES if issubclass(cls, known)), None)


def _text_of(exc: BaseException) -> str:
    if isinstance(exc, RemoteError):
        # As a builtin exception it does not say what it is.
        return f"{exc.type_name}: {exc.message}" if exc.message else exc.type_name
    text = str(exc) or type(exc).__name__
    for in_python, in_a_shell in _ADVICE:
        text = text.replace(in_python, in_a_shell)
    return text


# What the library advises those who write Python, and what that is here.
_ADVICE: Final = (
    ("ssl_context=ssl.create_default_context(cafile='ca.pem')", "--tls-ca FILE"),
    (", see ssl_context.load_cert_chain()", ", see --tls-cert"),
    (", such as trpc.connect(url, token=...)", ""),
)


_HINTS: tuple[tuple[type[Exception], str], ...] = (
    (DeadlineExceeded, "that was a limit of the server's, not --timeout"),
    (RemoteError, ""),
    (Unauthenticated, "show who you are with --token or TRPC_TOKEN, or with --tls-cert"),
    (Overloaded, "it was not executed: try again later"),
    (MethodNotFound, "`trpc list URL` shows what there is"),
    (ProtocolError, "is this the address of a trpc server, and is it with TLS, as in tls://host:port, or without?"),
)


def _hint_of(exc: BaseException, *, executes: bool) -> str:
    if isinstance(exc, ConnectionLost):
        if not executes:
            return ""
        return "it may have been executed" if exc.maybe_executed else "it was not executed"
    return next((hint for known, hint in _HINTS if isinstance(exc, known)), "")
