"""What tests share that have something happen after each step of a session in turn, such as a cancel."""

from __future__ import annotations

import contextlib
import os
import random

import pytest
import trio
from support import cut_into

# Instead of one of the events after each step, in turns: all of them, each in a run of its own. Takes some minutes.
EVERY = bool(os.environ.get("TRPC_EVERY_STEP"))


class AtStep(trio.abc.Instrument):
    """Does something after so many steps of any task, counted while there is something to do."""

    def __init__(self, step):
        self.steps_left = step
        self.do = None

    def after_task_step(self, task):
        if self.do is not None:
            self.steps_left -= 1
            if self.steps_left == 0:
                self.do()


@contextlib.contextmanager
def in_order(seed):
    """The tasks of a pass run in an order that the seed says; large messages are small ones."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trio._core._run._r, "random", random.Random(seed).random)
        cut_into(patch, 1000, 2000)
        yield patch
