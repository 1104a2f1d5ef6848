"""Looking at a run: what is logged, and what hangs."""

from __future__ import annotations

import contextlib
import logging
import os
import sys

import trio
import trio.lowlevel


class Recorder(logging.Handler):
    """Looks at what trpc logs, which nobody else sees meanwhile: a mistake of its own is a problem."""

    def __init__(self, on_record, problems):
        super().__init__()
        self._on_record = on_record
        self._problems = problems

    def emit(self, record):
        self._on_record(f"log {record.levelname} {record.msg}")
        if "internal error" in record.msg or record.levelno > logging.ERROR:
            self._problems.append(logging.Formatter().format(record))


@contextlib.contextmanager
def recorded(patch, on_record, problems):
    """With a :class:`Recorder` in place of all other handlers."""
    logger, recorder = logging.getLogger("trpc"), Recorder(on_record, problems)
    patch.setattr(logger, "propagate", False)
    logger.addHandler(recorder)
    try:
        yield
    finally:
        logger.removeHandler(recorder)


async def watch(seed, hangs):
    """Says what hangs, if nothing can cancel it."""
    await trio.sleep(2 * hangs)
    print(f"seed {seed} hangs, and cannot be cancelled:", file=sys.__stderr__)
    print_tasks()
    os._exit(1)


def print_tasks():
    """All tasks, and where they are."""

    def below(task):
        yield task
        for nursery in task.child_nurseries:
            for child in nursery.child_tasks:
                yield from below(child)

    for task in below(trio.lowlevel.current_root_task()):
        print(task, file=sys.__stderr__)
        for frame, line in task.iter_await_frames():
            print(f"    {frame.f_code.co_filename}:{line} {frame.f_code.co_qualname}", file=sys.__stderr__)
    sys.__stderr__.flush()
