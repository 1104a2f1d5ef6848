"""``trpc serve --reload``: a process that starts the server anew whenever a file changes.

This process has the listening sockets, and the server inherits them. So the port stays the same, and who connects while
there is no server waits for the next one.
"""

from __future__ import annotations

import enum
import math
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any, Final

import click
import trio

from ._exits import CommandError
from ._listeners import listening_sockets, place_of
from ._running import errors_explained

if TYPE_CHECKING:
    import socket
    from collections.abc import Mapping

# Seconds for calls in flight, where nothing else is said: who has changed a file wants to see it.
_GRACE: Final = 1.0
# Seconds beyond, for a handler that shields itself.
_PATIENCE: Final = 5.0

_TEXTS: Final = ("url", "tls_cert", "tls_key", "client_ca")
_FLAGS: Final = ("allow_insecure", "log_calls", "tracebacks")


class _Event(enum.Enum):
    CHANGED = enum.auto()
    ENDED = enum.auto()
    SIGNAL = enum.auto()


def reload(values: Mapping[str, Any]) -> None:
    """Runs ``trpc serve`` with these options, again and again.

    Raises:
        CommandError: it cannot begin, or was stopped by a signal that was no SIGINT or SIGTERM.
    """
    try:
        import watchfiles  # noqa: F401, PLC0415  # pyright: ignore[reportUnusedImport] - to say so at once
    except ModuleNotFoundError:
        raise CommandError("--reload needs watchfiles", hint="pip install 'trio-trpc[cli]'") from None
    place = place_of(values["url"])
    sockets = [] if place.path else listening_sockets(place)
    try:
        with errors_explained():
            trio.run(_Reloader(values, sockets).run)
    finally:
        for listening in sockets:
            listening.close()


class _Reloader:
    def __init__(self, values: Mapping[str, Any], sockets: list[socket.socket]) -> None:
        self._command = _command(values, sockets)
        self._environment = {**os.environ, **({"TRPC_TOKEN": values["token"]} if values["token"] is not None else {})}
        self._descriptors = [listening.fileno() for listening in sockets]
        self._patience = _grace_of(values) + _PATIENCE
        self._send, self._events = trio.open_memory_channel[_Event](math.inf)
        self._signal = 0
        self._stop = trio.Event()

    async def run(self) -> None:
        """Until a signal comes."""
        async with trio.open_nursery() as nursery:
            await nursery.start(self._receive_signals)
            nursery.start_soon(self._watch)
            try:
                while await self._serve(nursery):
                    pass
            finally:
                # A cancel would wait for the thread that watches, some seconds.
                self._stop.set()
            nursery.cancel_scope.cancel()

    async def _serve(self, nursery: trio.Nursery) -> bool:
        """Runs the server once; returns whether it is to be run again."""
        # In a group of its own, so that Ctrl-C does not reach it twice; and with a pipe that ends when this process does.
        process = await trio.lowlevel.open_process(
            self._command,
            stdin=subprocess.PIPE,
            pass_fds=self._descriptors,
            env=self._environment,
            process_group=0,
        )
        assert process.stdin is not None
        async with process.stdin:
            nursery.start_soon(self._wait, process)
            event = await self._events.receive()
            if event is _Event.ENDED:
                click.echo(
                    f"trpc: the server has ended (exit code {process.returncode}): waiting for a change", err=True
                )
                return await self._events.receive() is _Event.CHANGED
            is_asked = False
            while event is not _Event.ENDED:
                if event is _Event.SIGNAL:
                    # A second one stops it at once, as without this process.
                    process.send_signal(self._signal)
                elif not (is_asked or self._signal):
                    click.echo("trpc: a file has changed: starting anew", err=True)
                    process.send_signal(signal.SIGTERM)
                    nursery.start_soon(self._kill_after, process)
                    is_asked = True
                event = await self._events.receive()
            return not self._signal

    async def _wait(self, process: trio.Process) -> None:
        await process.wait()
        self._send.send_nowait(_Event.ENDED)

    async def _kill_after(self, process: trio.Process) -> None:
        with trio.move_on_after(self._patience):
            await process.wait()
        if process.returncode is None:
            process.kill()

    async def _receive_signals(self, task_status: trio.TaskStatus[None]) -> None:
        with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            task_status.started()
            async for number in signals:
                self._signal = number
                self._send.send_nowait(_Event.SIGNAL)

    async def _watch(self) -> None:
        from watchfiles import PythonFilter, awatch  # noqa: PLC0415 - only this command needs it

        async for _ in awatch(os.getcwd(), watch_filter=PythonFilter(), stop_event=self._stop):  # noqa: PTH109 - as text
            self._send.send_nowait(_Event.CHANGED)


def _command(values: Mapping[str, Any], sockets: list[socket.socket]) -> list[str]:
    """The command line of the server itself."""
    command = [sys.executable, "-m", str(__package__).partition(".")[0], "serve", values["target"]]
    for name in _TEXTS:
        if values[name]:
            command += [_option(name), values[name]]
    command += [_option(name) for name in _FLAGS if values[name]]
    if values["reflection"] is not None:
        command.append("--reflection" if values["reflection"] else "--no-reflection")
    # Never as 1e-05, which is not understood.
    command += ["--grace", f"{_grace_of(values):.12f}s"]
    for listening in sockets:
        command += ["--descriptor", str(listening.fileno())]
    return command


def _grace_of(values: Mapping[str, Any]) -> float:
    return _GRACE if values["grace"] is None else float(values["grace"])


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"
