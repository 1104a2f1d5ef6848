"""The program: its commands, and how it ends."""

from __future__ import annotations

import errno
import os
import sys
from typing import Any, Final

import click

from .. import __version__
from ._bench import bench
from ._call import call
from ._completing import completion
from ._describe import describe
from ._exits import CommandError, ExitCode
from ._list import list_
from ._output import give_up_output, output_error
from ._ping import ping
from ._serve import serve
from ._stub import stub
from ._top import top

PROGRAM: Final = "trpc"

# Of output that goes to a file or a device: it is full, or broken.
_CANNOT_WRITE: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF})


@click.group(
    PROGRAM,
    context_settings={"help_option_names": ["-h", "--help"]},
    invoke_without_command=True,
    epilog="Exit codes: 0 done, 1 the method raised an error, 2 wrong command line or arguments, 3 no connection or not"
    " executed, 4 timeout, 130 Ctrl-C, 143 SIGTERM.",
)
@click.version_option(__version__, message="%(prog)s %(version)s")
@click.pass_context
def app(ctx: click.Context) -> None:
    """Serve and call trpc services. A URL is tcp://host:port, tls://host:port or unix:///path."""
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help(), err=True)
        ctx.exit(ExitCode.USAGE)


for _command in (serve, call, list_, describe, ping, top, bench, stub, completion):
    app.add_command(_command)


def run_app(args: list[str] | None = None) -> None:
    """Runs the program on a command line, by default that of this process, and ends the process.

    Raises:
        SystemExit: always, with the exit code.
    """
    _open_what_is_closed()
    sys.exit(_run(args))


def _open_what_is_closed() -> None:
    """Sees to it that no connection gets the number of a standard stream that is closed, and that one can print."""
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:
            nowhere = os.open(os.devnull, os.O_RDWR)
            # Of standard input it is still known that there is none.
            if name != "stdin":
                setattr(sys, name, open(nowhere, "w", encoding="utf-8"))  # noqa: SIM115, PTH123 - until the process ends


def _run(args: list[str] | None) -> int:
    try:
        result: Any = app.main(args, prog_name=PROGRAM, standalone_mode=False)
    except click.UsageError as exc:
        hint = f"`{exc.ctx.command_path} --help` explains it" if exc.ctx else ""
        message = exc.format_message().removesuffix(".")
        CommandError(message, hint=hint).show()
        return ExitCode.USAGE
    except click.ClickException as exc:
        exc.show()
        return exc.code if isinstance(exc, CommandError) else exc.exit_code
    except (click.Abort, KeyboardInterrupt):
        CommandError("cancelled").show()
        return ExitCode.INTERRUPTED
    except OSError as exc:
        if exc.errno not in _CANNOT_WRITE:
            raise
        give_up_output()
        output_error(exc).show()
        return ExitCode.FAILED
    # What a command has ended with, if it was click.exceptions.Exit.
    return result if isinstance(result, int) else ExitCode.OK
