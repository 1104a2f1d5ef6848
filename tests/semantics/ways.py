"""The ways in which a handler can run, to be chosen by a test. A handler must not be able to tell them apart."""

from __future__ import annotations

import trio

from trpc import _dispatcher
from trpc._connection import Connection
from trpc._workers import Workers

WAYS = ("inline", "worker", "task")


class Ways:
    """Has every handler run in one way.

    ``inline``: in the task that reads, by the relay, whatever it did before.
    ``worker``: in a worker, one that has waited for a job if there is one.
    ``task``: in a new task of the connection's nursery that does nothing else. This is what the others are compared to.

    Attributes:
        way: the one that was chosen.
    """

    def __init__(self, monkeypatch):
        self.way = "inline"
        self._reader = None
        self._handle = Connection._handle
        self._monkeypatch = monkeypatch
        self._plain = {name: getattr(Workers, name) for name in ("run", "_next_job")}
        ways = self

        def handle(connection, worker):
            ways._reader = trio.lowlevel.current_task()
            try:
                return ways._handle(connection, worker if ways.way == "inline" else None)
            finally:
                ways._reader = None

        monkeypatch.setattr(Connection, "_handle", handle)
        # The relay's own guess of which handler is going to wait.
        monkeypatch.setattr(_dispatcher, "_LIKELY", 10**9)

    def choose(self, way):
        """For connections that are opened from now on."""
        assert way in WAYS
        self.way = way
        for name, plain in self._plain.items():
            self._monkeypatch.setattr(Workers, name, plain)
        if way == "task":

            def run(workers, job):
                workers.nursery.start_soon(workers.work, job)

            async def next_job(workers, worker):
                return None

            self._monkeypatch.setattr(Workers, "run", run)
            self._monkeypatch.setattr(Workers, "_next_job", next_job)

    def check(self):
        """To be called by a handler before it waits: whether it runs in the way that was chosen."""
        task = trio.lowlevel.current_task()
        if self.way == "inline":
            assert task is self._reader
        else:
            assert self._reader is None
