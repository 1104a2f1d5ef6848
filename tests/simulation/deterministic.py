"""Trio, made to do the same again: with the same seed, a run on a MockClock gives the same trace in any process."""

from __future__ import annotations

import contextlib
import itertools
import random
import weakref

import pytest
import trio

from trpc import _watch

# Trio shuffles the tasks of each pass, and Hypothesis' plugin for it seeds that in the same way.
_run = trio._core._run


class OrderedSet(dict):
    """A set that is gone through in the order in which its members came, and not in that of their addresses."""

    def __init__(self, members=()):
        super().__init__((member, None) for member in members)

    def add(self, member):
        self[member] = None

    def discard(self, member):
        self.pop(member, None)

    def remove(self, member):
        del self[member]

    def update(self, members):
        for member in members:
            self[member] = None

    def difference_update(self, members):
        for member in members:
            self.pop(member, None)


class Numbers:
    """In place of ``id()``: numbers in the order in which they are asked for. Scopes with one deadline end in it."""

    def __init__(self):
        self._numbers = weakref.WeakKeyDictionary()
        self._next = itertools.count()

    def __call__(self, thing):
        number = self._numbers.get(thing)
        if number is None:
            number = self._numbers[thing] = next(self._next)
        return number


_init_status = _run.CancelStatus.__attrs_post_init__
_init_watch = _watch.Watch.__init__


def _ordered_status(status):
    status._children, status._tasks = OrderedSet(), OrderedSet()
    _init_status(status)


def _ordered_watch(watch, limits):
    _init_watch(watch, limits)
    watch.connections = OrderedSet()


@contextlib.contextmanager
def deterministic(seed):
    """What Trio leaves to chance, to the hash seed or to addresses in memory is decided by the seed.

    Gives a ``pytest.MonkeyPatch`` for more that should last as long.
    """
    with pytest.MonkeyPatch.context() as patch:
        rng = random.Random(seed)
        patch.setattr(_run._r, "random", rng.random)
        patch.setattr(_run, "_ALLOW_DETERMINISTIC_SCHEDULING", True)
        patch.setattr(_run._r, "shuffle", rng.shuffle)
        patch.setattr(_run.CancelStatus, "__attrs_post_init__", _ordered_status)
        patch.setattr(_run, "id", Numbers(), raising=False)
        patch.setattr(_watch.Watch, "__init__", _ordered_watch)
        yield patch
