"""The program: its commands, and how it ends."""

from __future__ import annotations

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
from ._ping import ping
from ._serve import serve
from ._stub import stub
from ._top import top

PROGRAM: Final = "trpc"


@click.group(
    PROGRAM,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes: 0 done, 1 the method raised an error, 2 wrong command line or arguments, 3 no connection or not"
    " executed, 4 timeout, 130 Ctrl-C, 143 SIGTERM.",
)
@click.version_option(__version__, message="%(prog)s %(version)s")
def app() -> None:
    """Serve and call trpc services. A URL is tcp://host:port, tls://host:port or unix:///path."""


for _command in (serve, call, list_, describe, ping, top, bench, stub, completion):
    app.add_command(_command)


def run_app(args: list[str] | None = None) -> None:
    """Runs the program on a command line, by default that of this process, and ends the process.

    Raises:
        SystemExit: always, with the exit code.
    """
    sys.exit(_run(args))


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
    # What a command has ended with, if it was click.exceptions.Exit.
    return result if isinstance(result, int) else ExitCode.OK
