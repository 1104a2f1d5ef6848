"""Signals that ask a server to stop."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Any, Final

import trio

from ._server import check_grace

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from ._server import Server

# Those that this platform has.
SIGNALS: Final = [getattr(signal, name) for name in ("SIGTERM", "SIGINT") if hasattr(signal, name)]


async def drain_on_signal(
    server: Server, *, grace: float | None = None, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    """Waits for SIGTERM or SIGINT (Ctrl-C), and then stops the server softly, as :meth:`Server.drain` does.

    When it returns, ``serve_tcp()``, or whichever it was, does so too: a program that has nothing else to do ends, with
    exit code 0::

        async with trio.open_nursery() as nursery:
            server = await nursery.start(trpc.serve_tcp, Calculator(), 4000)
            await nursery.start(trpc.drain_on_signal, server)

    A second signal stops it hard, as ``server.drain(0)`` does. From then on signals have the effect that they have
    without this: a third one ends the program at once. So does one that comes before this has begun.

    It returns, too, when the server has ended in another way, as by a ``drain()`` from elsewhere.

    Cancelled: signals have the effect that they had before; otherwise as ``Server.drain``.

    Args:
        server: what is stopped. Only one task at a time gets signals.
        grace: seconds; None: ``Limits.drain_grace``.
        task_status: told when signals are received.

    Raises:
        RuntimeError: this is not the main thread, which alone can receive signals in Python.
        ValueError: the grace is not 0 or more.
    """
    check_grace(grace)
    is_urgent = True
    with trio.open_signal_receiver(*SIGNALS) as signals:
        task_status.started()
        if not await _comes_before_end(signals, server):
            return
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_cancel_on_signal, signals, nursery.cancel_scope)
            await server.drain(grace)
            is_urgent = False
            nursery.cancel_scope.cancel()
    if is_urgent:
        await server.drain(0)


async def _comes_before_end(signals: AsyncIterator[Any], server: Server) -> bool:
    """Waits for a signal or the end of the server; whether it was a signal."""
    has_come = False
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_cancel_at_end, server, nursery.cancel_scope)
        await anext(signals)
        has_come = True
        nursery.cancel_scope.cancel()
    return has_come


async def _cancel_at_end(server: Server, scope: trio.CancelScope) -> None:
    await server.ended.wait()
    scope.cancel()


async def _cancel_on_signal(signals: AsyncIterator[Any], scope: trio.CancelScope) -> None:
    await anext(signals)
    scope.cancel()
