"""One server, one well-behaved client and one attacker, each a process, and what an attack does to the others."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from typing import TYPE_CHECKING

from . import orders
from .catalogue import ATTACKS, LIMITS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import trustme

LEAD = 0.2
"""Seconds that an attack has before its effect on the others is measured."""

GOOD_CONNECTIONS = 2


class Field:
    """The three processes."""

    def __init__(self, server: orders.Process, good: orders.Process, attacker: orders.Process) -> None:
        self.server, self.good, self.attacker = server, good, attacker

    def state(self) -> dict:
        return self.good.ask({"do": "state"}, keys=["connections"], patience=60)

    def call(self, seconds: float, *, newcomers: bool = True) -> dict:
        """What the well-behaved client sees."""
        order = {"do": "call", "seconds": seconds, "newcomers": newcomers}
        return self.good.ask(order, keys=["calls", "failures", "p99"], patience=seconds + 120)

    def attack(self, *names: str, seconds: float) -> dict:
        """What the well-behaved client sees beside some attacks at once, and what becomes of the others."""
        attacks = [ATTACKS[name] for name in names]
        before = self.server.reset_peak()
        self.attacker.tell({"attacks": names, "seconds": LEAD + seconds})
        self.attacker.hear(keys=["ready"], patience=60)
        time.sleep(LEAD)
        beside = self.call(seconds, newcomers=not any(attack.full for attack in attacks))
        done = self.attacker.hear(keys=names, patience=60)
        growth = self.server.peak() - before
        idle = orders.wait_until(self.is_idle, 20)
        return {"beside": beside, "growth": growth, "attacks": done, "left": None if idle else self.state()}

    def is_idle(self) -> bool:
        """Whether nothing of the attacker is left at the server."""
        state = self.state()
        # The question itself is one call.
        return state["connections"] == GOOD_CONNECTIONS and state["calls"] <= 1


def faults(result: dict) -> list[str]:
    """What is not as it has to be, apart from how long anything took."""
    found = []
    attacks = {name: ATTACKS[name] for name in result["attacks"]}
    beside = result["beside"]
    if beside["failures"]:
        found.append(f"{beside['failures']} calls failed: {beside['first_failures']}")
    bound = sum(attack.growth for attack in attacks.values())
    if result["growth"] > bound:
        found.append(f"memory grew by {result['growth'] >> 20} MiB; the bound is {bound >> 20}")
    for name, attack in attacks.items():
        ends = result["attacks"][name]["ends"]
        if not ends:
            found.append(f"{name} had no connection")
        if attack.must_close and "open" in ends:
            found.append(f"{name}: {ends['open']} connections were not closed")
    if result["left"]:
        found.append(f"something is left: {result['left']}")
    return found


def certificate(folder: Path, authority: trustme.CA) -> list[str]:
    """Files with a certificate for this machine, and its key."""
    issued = authority.issue_cert("127.0.0.1", "localhost")
    paths = [folder / "certificate.pem", folder / "key.pem"]
    issued.cert_chain_pems[0].write_to_path(paths[0])
    issued.private_key_pem.write_to_path(paths[1])
    return [str(path) for path in paths]


@contextlib.contextmanager
def field(certificate: list[str]) -> Iterator[Field]:
    """Starts the three; they end with this."""
    processes = []
    python = [sys.executable, "-m"]

    def start(module: str, *args: object) -> orders.Process:
        processes.append(orders.Process([*python, f"tests.attacks.{module}", *map(str, args)]))
        return processes[-1]

    try:
        server = start("target", json.dumps(LIMITS), *certificate)
        ports = server.hear(keys=["plain"], patience=30)
        yield Field(server, start("good", ports["plain"]), start("attacker", ports["plain"], ports["tls"]))
    finally:
        for process in reversed(processes):
            process.close()
