"""``trpc serve``: a server for services that are somewhere in Python."""

from __future__ import annotations

import dataclasses
import functools
import logging
import os
import socket
import ssl
import sys
import warnings
from typing import TYPE_CHECKING, Any

import click
import trio

from .. import InsecureWarning, Server, drain_on_signal, log_calls, serve_listeners, serve_tcp, serve_unix
from ._connecting import bad_file, check_token
from ._durations import DURATION
from ._exits import CommandError
from ._listeners import Place, place_of
from ._output import is_terminal, print_text
from ._running import errors_explained
from ._targets import check_module, names_of, services_at
from ._text import one_line

if TYPE_CHECKING:
    from .. import Credentials


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Options:
    target: str
    place: Place
    context: ssl.SSLContext | None
    token: str | None
    allow_insecure: bool
    reflection: bool | None
    grace: float | None
    logs_calls: bool
    tracebacks: bool
    descriptors: tuple[int, ...]


@click.command("serve", short_help="Serve a class or an object.")
@click.argument("target", metavar="MODULE:NAME")
@click.option(
    "--url", default="tcp://127.0.0.1:0", show_default=True, help="Where to listen. Port 0: any that is free."
)
@click.option("--tls-cert", metavar="FILE", help="The server's certificate, for tls://host:port.")
@click.option("--tls-key", metavar="FILE", help="Its key, if it is in another file.")
@click.option("--client-ca", metavar="FILE", help="Accept only clients with a certificate of this authority.")
@click.option("--token", envvar="TRPC_TOKEN", help="Accept only clients that show this token.")
@click.option("--allow-insecure", is_flag=True, help="Do not warn that other machines can call it.")
@click.option(
    "--reflection/--no-reflection", default=None, help="Whether it tells what it offers.  [only to this machine]"
)
@click.option("--grace", type=DURATION, help="Time for calls in flight when it is to stop.  [10s; 1s with --reload]")
@click.option("--log-calls", is_flag=True, help="Log each call to standard error.")
@click.option("--tracebacks", is_flag=True, help="Let errors carry the handler's traceback to callers.")
@click.option("--reload", is_flag=True, help="Start it anew whenever a file changes, for development.")
@click.option("--descriptor", "descriptors", type=int, multiple=True, hidden=True)
def serve(**values: Any) -> None:
    """Serve MODULE:NAME, such as shop.service:Orders.

    NAME is a class, which is called without arguments, an object, a list or a mapping of objects, or a function that
    gives one of these. The current directory is looked in first. SIGTERM and Ctrl-C let calls in flight end; a second one
    stops it at once.
    """
    check_token(values["token"])
    place = place_of(values["url"])
    options = _Options(
        target=values["target"],
        place=place,
        context=_context(place, values["tls_cert"], values["tls_key"], values["client_ca"]),
        token=values["token"],
        allow_insecure=values["allow_insecure"],
        reflection=values["reflection"],
        grace=values["grace"],
        logs_calls=values["log_calls"],
        tracebacks=values["tracebacks"],
        descriptors=values["descriptors"],
    )
    if values["reload"]:
        from ._reload import reload  # noqa: PLC0415 - what watches files is not needed without it

        # What no change of a file would mend is said now.
        check_module(options.target)
        reload(values)
        return
    services = services_at(options.target)
    if options.logs_calls:
        logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level=logging.INFO)
        logging.getLogger("trpc.calls").setLevel(logging.DEBUG)
    else:
        logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s")
    warnings.showwarning = _show_warning
    with errors_explained():
        trio.run(_serve, services, options)


def _context(place: Place, certificate: str | None, key: str | None, client_ca: str | None) -> ssl.SSLContext | None:
    if not place.is_tls:
        if certificate or key or client_ca:
            raise CommandError("a certificate is for TLS, which this URL is without", hint="--url tls://host:port")
        return None
    if not certificate:
        raise CommandError(
            "TLS needs a certificate", hint="--tls-cert FILE, and --tls-key FILE if it is not in the same"
        )
    try:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=client_ca)
        context.load_cert_chain(certificate, key)
    except OSError as exc:  # ssl.SSLError is one
        raise bad_file(exc, certificate, key, client_ca) from None
    if client_ca:
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def _show_warning(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
    text = str(message)
    if issubclass(category, InsecureWarning):
        # What it says of Python is for those who write it.
        text = f"{text.partition('. ')[0]} (--token, --tls-cert, or --allow-insecure if the network keeps others away)"
    click.echo(f"trpc: warning: {one_line(text)}", err=True)


async def _serve(services: Any, options: _Options) -> None:
    async with trio.open_nursery() as nursery:
        try:
            server: Server = await nursery.start(_start, services, options)
        except (OSError, TypeError, ValueError) as exc:
            # Without the number that OSError puts before it.
            raise CommandError(exc.strerror or str(exc) if isinstance(exc, OSError) else str(exc)) from None
        await nursery.start(functools.partial(drain_on_signal, server, grace=options.grace))
        if options.descriptors:
            nursery.start_soon(_stop_with_parent, server)
        for url in server.urls:
            click.echo(f"serving {one_line(names_of(services))} at {url}", err=True)
            # For scripts; people have it on the line above.
            if not is_terminal():
                print_text(url)
        await server.ended.wait()
        nursery.cancel_scope.cancel()


async def _start(services: Any, options: _Options, task_status: trio.TaskStatus[Server]) -> None:
    token = options.token
    shared: dict[str, Any] = {
        "authenticate": None if token is None else functools.partial(_has_token, token),
        "interceptors": [log_calls] if options.logs_calls else [],
        "reflection": options.reflection,
        "send_tracebacks": options.tracebacks,
        "task_status": task_status,
    }
    place = options.place
    if place.path:
        await serve_unix(services, place.path, **shared)
        return
    shared |= {"ssl_context": options.context, "allow_insecure": options.allow_insecure}
    if options.descriptors:
        sockets = [socket.socket(fileno=descriptor) for descriptor in options.descriptors]
        listeners = [trio.SocketListener(trio.socket.from_stdlib_socket(listening)) for listening in sockets]
        await serve_listeners(services, listeners, **shared)
    else:
        await serve_tcp(services, place.port, host=place.host, **shared)


def _has_token(token: str, credentials: Credentials) -> str | None:
    return "token" if credentials.has_token(token) else None


async def _stop_with_parent(server: Server) -> None:
    """Standard input is a pipe from the process that starts this one anew; it ends when that does."""
    async with trio.lowlevel.FdStream(os.dup(sys.stdin.fileno())) as pipe:
        async for _ in pipe:
            pass
    await server.drain(0)
