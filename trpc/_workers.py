"""The tasks of one connection: each does a job, and waits for the next one when it is done.

To start a task takes as long as a small call in all, and a cancel scope half as long, so both are kept from
job to job. A handler does not notice, because each call runs in a context of its own, and none in a scope
that was cancelled for another: after a cancel the worker leaves its scope and enters a new one.

Workers that have waited for long end, so that a connection is small again some seconds after a busy time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Coroutine
from typing import Any, Final, Protocol

import trio

# Seconds between two looks for workers that waited all the time. Long enough for somebody who calls every
# now and then, short enough that idle connections do not hold memory.
_IDLE_TIME: Final = 2.0


class ScopedCall(Protocol):
    """What a worker does in its scope, and what may end with the scope."""

    def on_cancelled(self) -> None:
        """It has ended because the scope was cancelled."""
        ...

    def on_raised(self, exc: BaseException) -> None:
        """It has raised; no ``Cancelled`` of the scope's own is in it any more. Raises what must not stay here."""
        ...


class Worker:
    """One task of a connection.

    Attributes:
        scope: what :attr:`call` runs in; cancelled for that call only.
        call: told how it ended, if it did not end by itself.
        is_spent: whether the scope was cancelled, so that it is good for no other call.
        job: what to do next, for a worker that waits.
    """

    __slots__ = ("call", "is_spent", "job", "scope")

    def __init__(self) -> None:
        self.scope: trio.CancelScope
        self.call: ScopedCall | None = None
        self.is_spent = False
        self.job: Job | None = None

    def leave_call(self) -> None:
        """The call has ended by itself. If its scope was cancelled, that came too late for it."""
        self.call = None
        self.is_spent = self.scope.cancel_called
        self.scope.deadline = math.inf


Job = Callable[[Worker], Coroutine[Any, Any, None]]


class Workers:
    """Runs jobs, each in a task of the connection's nursery.

    Attributes:
        nursery: that nursery; None as long as there is none.
    """

    __slots__ = ("_idle", "_least_idle", "_retires", "nursery")

    def __init__(self) -> None:
        self.nursery: trio.Nursery | None = None
        # The last that became idle gets the next job, so that those that are not needed stay at the front.
        self._idle: dict[trio.lowlevel.Task, Worker] = {}
        self._least_idle = 0
        """The smallest number of idle workers since the last look."""
        self._retires = False

    @trio.lowlevel.enable_ki_protection
    def run(self, job: Job) -> None:
        """Runs a job in a worker that is idle, or in a new one."""
        if self._idle:
            task, worker = self._idle.popitem()
            self._least_idle = min(self._least_idle, len(self._idle))
            worker.job = job
            trio.lowlevel.reschedule(task)
        else:
            assert self.nursery is not None
            self.nursery.start_soon(self.work, job)

    @trio.lowlevel.enable_ki_protection
    async def work(self, job: Job) -> None:  # noqa: C901 - all ways in which a job ends
        """A worker's life: the job that it is started for, and those that follow."""
        worker = Worker()
        while True:
            try:
                with trio.CancelScope() as worker.scope:
                    worker.is_spent = False
                    while True:
                        await job(worker)
                        if worker.is_spent:
                            break
                        if (next_job := await self._next_job(worker)) is None:
                            return
                        job = next_job
            except trio.Cancelled:  # the connection ends
                raise
            except BaseException as exc:
                if worker.call is None:
                    raise
                worker.call.on_raised(exc)
            else:
                if worker.scope.cancelled_caught and worker.call is not None:
                    worker.call.on_cancelled()
            worker.call = None
            if (next_job := await self._next_job(worker)) is None:
                return
            job = next_job

    async def _next_job(self, worker: Worker) -> Job | None:
        """Waits for one; None: this worker is not needed any more."""
        task = trio.lowlevel.current_task()
        worker.job = None
        self._idle[task] = worker
        if not self._retires:
            self._retires = True
            assert self.nursery is not None
            self.nursery.start_soon(self._retire)

        def abort(_: object) -> trio.lowlevel.Abort:
            del self._idle[task]
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(abort)
        return worker.job

    @trio.lowlevel.enable_ki_protection
    async def _retire(self) -> None:
        """Ends workers that were idle all the time from one look to the next; runs while there are any."""
        while self._idle:
            self._least_idle = len(self._idle)
            await trio.sleep(_IDLE_TIME)
            for task in list(self._idle)[: self._least_idle]:
                del self._idle[task]
                trio.lowlevel.reschedule(task)
        self._retires = False
