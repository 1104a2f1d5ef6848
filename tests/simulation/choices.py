"""What a seed says of its world."""

from __future__ import annotations

import dataclasses
import math

import trpc
from trpc.testing import Faults

from .links import LIMITS, LONG, TIMEOUTS


class Choices:
    """What is the same for all of one world, and how the lines in it are.

    Args:
        rng: decides.
    """

    def __init__(self, rng):
        self.rng = rng
        self.is_calm = rng.random() < 0.4
        self.is_slow = rng.random() < 0.3
        self.is_large = rng.random() < 0.1
        self.is_in_bytes = rng.random() < 0.15
        self.fragment = rng.choice([None, None, 100, 1_000])
        self.fault_time = 0.0 if self.is_calm else rng.choice([0.05, 1, 1, 10, 100])
        # With short ones, there is something to do in every moment.
        self.has_timeouts = not self.is_calm and self.fault_time < 100 and rng.random() < 0.3
        self.server_limits = self._limits()
        self.clients = rng.choice([1, 1, 2, 2, 3, 4] if not self.is_large else [3, 4])
        self.drain_at = rng.choice([0, 0.01, 0.1, 1, 10]) if rng.random() < 0.3 else None
        self.drain_grace = rng.choice([LONG, LONG, 0, 0.1, 3])
        self.restarts_after = rng.choice([0, 0, 0.5, 20])
        self.ends_by_drain = rng.random() < 0.3
        self.authenticates = rng.random() < 0.3
        self.intercepts = rng.random() < 0.3
        self.has_outgoing_interceptors = rng.random() < 0.3

    def _limits(self):
        rng = self.rng
        share = rng.choice([0, 0, 0.2, 0.5])
        chosen = {name: rng.choice(values) for name, values in LIMITS.items() if rng.random() < share}
        if self.has_timeouts:
            chosen |= {name: rng.choice(values) for name, values in TIMEOUTS.items() if rng.random() < 0.3}
        return trpc.Limits(**chosen)

    def options(self):
        """What was chosen, for people to read."""
        plain = trpc.Limits()
        changed = {
            name: value
            for name, value in dataclasses.asdict(self.server_limits).items()
            if value != getattr(plain, name)
        }
        return {
            name: value
            for name, value in vars(self).items()
            if isinstance(value, bool | int | float | None)
            and name not in {"seed", "trace"}
            and not name.startswith("_")
        } | {"server_limits": changed}

    def faults(self):
        return self._faults(), self._faults()

    def _faults(self):
        rng = self.rng
        if rng.random() < 0.4:
            return Faults()
        bandwidth = rng.choice([math.inf, math.inf, 1e6, 50e3])
        cut_after = None
        if not self.is_calm and rng.random() < 0.25:
            cut_after = int(rng.expovariate(1 / rng.choice([50, 300, 5_000])))
        slow = [0, 0, 0.001, 0.05] if not self.is_slow else [0, 0.05, 0.5]
        return Faults(
            slices=rng.choice([1, 5] if self.is_in_bytes else [None, None, None, 300, 1_000]),
            latency=rng.choice(slow),
            jitter=rng.choice(slow),
            bandwidth=bandwidth,
            window=rng.choice([64 * 1024, 64 * 1024, 20_000, 5_000] if not self.is_in_bytes else [64 * 1024, 500]),
            cut_after=cut_after,
            cut=rng.choice(["eof", "reset"]),
        )
