"""Accepting connections, and ceasing to."""

from __future__ import annotations

import contextlib
import os
import socket
from typing import TYPE_CHECKING, Any, Final

import trio

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence


# Connections that the kernel may have ready.
_MAX_BACKLOG: Final = 1024


class Listening:
    """The listeners of a server.

    Args:
        listeners: closed at the end.
        serve: serves one connection.
        nursery: where that runs.
        on_stop: called when it listens no more, if that is not by a cancel.

    Attributes:
        ended: set when it has accepted its last connection.
    """

    def __init__(
        self,
        listeners: Sequence[trio.abc.Listener[trio.abc.Stream]],
        serve: Callable[[trio.abc.Stream], Awaitable[None]],
        nursery: trio.Nursery,
        on_stop: Callable[[], None] | None = None,
    ) -> None:
        self._listeners = listeners
        self._serve = serve
        self._nursery = nursery
        self._on_stop = on_stop
        self.ended = trio.Event()
        self._scope = trio.CancelScope()
        self._backlogs: list[socket.socket] = []

    async def run(self, *, task_status: trio.TaskStatus[Any] = trio.TASK_STATUS_IGNORED) -> None:
        """Accepts connections until it is stopped or cancelled. Survives a full table of descriptors.

        The kernel has connections that nobody has accepted yet, and their clients may have sent a call. When this is
        stopped, they are accepted as well, so that they are told.
        """
        try:
            with self._scope:
                await trio.serve_listeners(
                    self._serve, list(self._listeners), handler_nursery=self._nursery, task_status=task_status
                )
            for backlog in self._backlogs:
                self._accept_all(backlog)
        finally:
            self.ended.set()
            for backlog in self._backlogs:
                backlog.close()

    def stop(self) -> None:
        """Listens no more."""
        if self._scope.cancel_called:
            return
        for listener in self._listeners:
            if isinstance(listener, trio.SocketListener) and os.name == "posix":
                # The listener is closed by its cancel; this keeps the socket listening for that moment.
                with contextlib.suppress(OSError):  # there is no descriptor left for it
                    self._backlogs.append(socket.socket(fileno=os.dup(listener.socket.fileno())))
        self._scope.cancel()
        if self._on_stop is not None:
            self._on_stop()

    def _accept_all(self, backlog: socket.socket) -> None:
        # As many as there can have been; more may come all the while.
        for _ in range(_MAX_BACKLOG):
            try:
                accepted, _ = backlog.accept()
            except OSError:  # there are no more, or they cannot be accepted
                return
            accepted.setblocking(False)
            stream = trio.SocketStream(trio.socket.from_stdlib_socket(accepted))
            self._nursery.start_soon(self._serve, stream)
