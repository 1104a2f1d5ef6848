"""Serves a calculator until SIGINT (Ctrl-C) or SIGTERM.

``python -m examples.calculator.server [--host HOST] [--port PORT | --unix PATH]``

The first line on stdout is the URL for clients. Without options it is a free port of this machine.
"""

import argparse
import functools
import logging
import signal
import sys

import trio

import trpc

from .service import Calculator, NothingStored


async def serve(host: str, port: int, unix: str | None) -> None:
    """Serves until a signal arrives. Every handler has ended when this returns."""
    service = Calculator()
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with trio.open_nursery() as nursery:
            if unix is None:
                listen = functools.partial(trpc.serve_tcp, service, port, host=host)
            else:
                listen = functools.partial(trpc.serve_unix, service, unix)
            server: trpc.Server = await nursery.start(listen)
            print(server.url, flush=True)
            await anext(signals)
            nursery.cancel_scope.cancel()


def is_our_fault(record: logging.LogRecord) -> bool:
    """Keeps errors that callers make, such as a division by zero, out of the log: they are told of them."""
    error = record.exc_info[1] if record.exc_info else None
    return not isinstance(error, ArithmeticError | ValueError | NothingStored)


def main() -> None:
    parser = argparse.ArgumentParser(prog="examples.calculator.server", description="Serve a calculator.")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--port", type=int, default=0, help="port to listen on (default: any free one)")
    where.add_argument("--unix", metavar="PATH", help="listen on a Unix socket instead")
    args = parser.parse_args()
    logging.basicConfig(format="server: %(message)s")
    logging.getLogger("trpc.handler").addFilter(is_our_fault)
    problems: list[str] = []
    try:
        trio.run(serve, args.host, args.port, args.unix)
    except* (OSError, ValueError) as group:
        problems += [str(exc) for exc in group.exceptions]
    if problems:
        sys.exit(f"server: {'; '.join(problems)}")


if __name__ == "__main__":
    main()
