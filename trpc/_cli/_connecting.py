"""The server of a command: its URL and what it takes to connect to it."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import logging
import math
import os
import ssl
from typing import TYPE_CHECKING, Any, Final

import click
import trio

from .. import Unavailable, connect
from ._durations import DURATION
from ._exits import CommandError, ExitCode

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Generator, Mapping

    from .. import Client

# Seconds for connecting, where nothing else says how long.
_CONNECT: Final = 10.0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A server, and what is shown to it.

    Attributes:
        url: where it is.
        token: shown to it.
        tls_ca: a file with the certificates to trust, in place of the system's.
        tls_cert: a file with the certificate that is shown.
        tls_key: a file with its key, if that is not in the same one.
        timeout: seconds for the command, or for each of its calls; None: as long as it takes.
    """

    url: str
    token: str | None = dataclasses.field(default=None, repr=False)
    tls_ca: str | None = None
    tls_cert: str | None = None
    tls_key: str | None = None
    timeout: float | None = None

    @contextlib.asynccontextmanager
    async def connected(self, *, cancel_grace: float = 0.0) -> AsyncGenerator[Client, None]:
        """A connection to it: ``async with target.connected() as client``.

        Args:
            cancel_grace: seconds that the end of a handler is waited for, when its call was cancelled.

        Raises:
            CommandError: the URL or an option is wrong.
            Unavailable: nobody is there, or not within some seconds.
        """
        is_connected = False
        _keep_log_quiet()
        try:
            with trio.fail_after(_CONNECT) as scope:
                async with connect(
                    self.url, ssl_context=self._context(), token=self.token, cancel_grace=cancel_grace
                ) as client:
                    is_connected, scope.deadline = True, math.inf
                    yield client
        except trio.TooSlowError:
            if is_connected:
                raise
            raise Unavailable(f"cannot connect to {self.url} within {_CONNECT:g} s") from None
        except ValueError as exc:
            if is_connected:
                raise
            raise CommandError(str(exc)) from None

    def _context(self) -> ssl.SSLContext | None:
        if self.tls_key and not self.tls_cert:
            raise CommandError("--tls-key is the key of a certificate, which is missing", hint="--tls-cert FILE")
        if not (self.tls_ca or self.tls_cert):
            return None
        try:
            context = ssl.create_default_context(cafile=self.tls_ca)
            if self.tls_cert:
                context.load_cert_chain(self.tls_cert, self.tls_key)
        except OSError as exc:  # ssl.SSLError is one
            raise bad_file(exc, self.tls_ca, self.tls_cert, self.tls_key) from None
        return context


def bad_file(exc: OSError, *names: str | None) -> CommandError:
    """What to say of files with certificates that cannot be loaded. ``ssl`` does not say which it was."""
    files = ", ".join(name for name in names if name)
    return CommandError(f"cannot load {files}: {exc.strerror or exc}", hint="PEM files are expected")


def _keep_log_quiet() -> None:
    """Why a connection ends is in the error as well, and an error is one line."""
    logger = logging.getLogger("trpc")
    if not logger.hasHandlers():
        logger.addHandler(logging.NullHandler())


def target_of(values: Mapping[str, Any]) -> Target:
    """The server that the parameters of a command name."""
    fields = {field.name for field in dataclasses.fields(Target)}
    return Target(**{name: value for name, value in values.items() if name in fields})


def check_token(token: str | None) -> None:
    """Refuses a token that is empty, given or in TRPC_TOKEN: it would be taken for none, and let everybody in.

    Raises:
        CommandError: it is.
    """
    # To click, a variable that is empty is one that is not there.
    if token == "" or (token is None and os.environ.get("TRPC_TOKEN") == ""):
        raise CommandError(
            "the token is empty, as a setting is that was forgotten",
            hint="without --token and TRPC_TOKEN there is none",
        )


def target_options(*, timeout: float | None = None, what: str = "Give up after this time") -> Callable[[Any], Any]:
    """Gives a command the argument URL and the options of a :class:`Target`, which its function gets as the first.

    Args:
        timeout: the default, in seconds.
        what: what the timeout means.
    """
    default = "as long as it takes" if timeout is None else f"{timeout:g}s"
    options = (
        click.argument("url"),
        click.option("--token", envvar="TRPC_TOKEN", help="Shown to the server. TRPC_TOKEN keeps it out of `ps`."),
        click.option("--tls-ca", metavar="FILE", help="Trust these certificates, not the system's."),
        click.option("--tls-cert", metavar="FILE", help="Show this certificate."),
        click.option("--tls-key", metavar="FILE", help="Its key, if it is in another file."),
        click.option("--timeout", type=DURATION, default=timeout, help=f"{what}, such as 2s or 500ms.  [{default}]"),
    )

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(function)
        def command(**values: Any) -> None:
            check_token(values["token"])
            target = target_of(values)
            for field in dataclasses.fields(Target):
                values.pop(field.name, None)
            function(target, **values)

        for option in reversed(options):
            option(command)
        return command

    return decorate


@contextlib.contextmanager
def time_limit(seconds: float | None) -> Generator[trio.CancelScope, None, None]:
    """``trio.fail_after`` whose error says how long it was.

    Raises:
        CommandError: the time is over.
    """
    with trio.move_on_after(math.inf if seconds is None else seconds) as scope:
        yield scope
    if scope.cancelled_caught:
        raise CommandError(f"no answer within {seconds:g} s", ExitCode.TIMEOUT, hint="--timeout gives it more")
