"""The tasks of one connection: each does a job, and waits for the next one when it is done.

To start a task takes as long as a small call in all, and a cancel scope half as long, so both are kept from
job to job. A handler does not notice, because each call runs in a context of its own, and none in a scope
that was cancelled for another: after a cancel the worker leaves its scope and enters a new one.

Workers that have waited for long end, so that a connection is small again some seconds after a busy time.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Coroutine
from typing import Any, Final, Protocol, cast

import trio

# As for what handlers raise.
logger = logging.getLogger("trpc.handler")

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

    def on_scope_left_open(self) -> None:
        """It has ended, and has not left a cancel scope that it had entered."""
        ...


class Worker:
    """One task of a connection.

    Attributes:
        scope: what :attr:`call` runs in; cancelled for that call only.
        call: told how it ended, if it did not end by itself.
        deadline: in effect inside of the scope, which has none of its own but for a call.
        is_spent: whether the scope was cancelled, or is not the innermost any more: it is good for no other call.
        suspect: the call that is likely to have left another scope open inside of it.
        job: what to do next, for a worker that waits.
    """

    __slots__ = ("call", "deadline", "is_spent", "job", "scope", "suspect")

    def __init__(self) -> None:
        self.scope: trio.CancelScope
        self.call: ScopedCall | None = None
        self.deadline = math.inf
        self.is_spent = False
        self.suspect: ScopedCall | None = None
        self.job: Job | None = None

    def reset_scope(self) -> None:
        """A call that was cancelled, or had a deadline, has ended by itself: what came too late is not for the next."""
        self.is_spent = self.scope.cancel_called
        self.scope.deadline = math.inf

    def check_scope(self, call: ScopedCall) -> None:
        """Sees to it that a scope which a handler has not left has no effect on the next call.

        That is what becomes of a ``with trio.move_on_after`` in an async generator that is not read to its end.
        Without a deadline it is seen only when the worker leaves its own scope. Until then the next calls run inside
        of it, and one that is cancelled then is answered with Trio's error instead of its cancel.
        """
        if trio.current_effective_deadline() != self.deadline:
            self.is_spent = True
            self.suspect = call


Job = Callable[[Worker], Coroutine[Any, Any, None]]


class Workers:
    """Runs jobs, each in a task of the connection's nursery.

    Attributes:
        nursery: that nursery; None as long as there is none.
    """

    __slots__ = ("_ended", "_idle", "_least_idle", "_retires", "nursery")

    def __init__(self) -> None:
        self.nursery: trio.Nursery | None = None
        # The last that became idle gets the next job, so that those that are not needed stay at the front.
        self._idle: dict[trio.lowlevel.Task, Worker] = {}
        self._least_idle = 0
        """The smallest number of idle workers since the last look."""
        self._retires = False
        self._ended = False

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
    async def work(self, job: Job) -> None:  # noqa: C901, PLR0912 - all ways in which a job ends
        """A worker's life: the job that it is started for, and those that follow."""
        worker = Worker()
        next_job: Job | None = job
        while next_job is not None:
            leaves = False
            try:
                with trio.CancelScope() as worker.scope:
                    worker.is_spent = False
                    worker.suspect = None
                    worker.deadline = trio.current_effective_deadline()
                    while next_job is not None:
                        await next_job(worker)
                        if worker.is_spent:
                            break
                        next_job = await self._next_job(worker)
                    leaves = True
            except trio.Cancelled:  # the connection ends
                raise
            except BaseException as exc:
                if worker.call is not None:
                    worker.call.on_raised(exc)
                elif leaves or isinstance(exc.__context__, trio.Cancelled):
                    # Raised by the scope that is left: there is another inside of it.
                    if worker.suspect is not None:
                        worker.suspect.on_scope_left_open()
                    else:
                        logger.exception("a handler has left a cancel scope open")
                    if not leaves:  # the connection ends
                        raise cast("trio.Cancelled", exc.__context__) from None
                else:
                    raise
            else:
                if worker.scope.cancelled_caught and worker.call is not None:
                    worker.call.on_cancelled()
            worker.call = None
            next_job = next_job and await self._next_job(worker)

    async def _next_job(self, worker: Worker) -> Job | None:
        """Waits for one; None: this worker is not needed any more."""
        if self._ended:
            return None
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
    def end(self) -> None:
        """After the cancel of the nursery: ends also those that a handler has left behind in a shield."""
        self._ended = True
        for task in self._idle:
            trio.lowlevel.reschedule(task)
        self._idle.clear()

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
