"""The processes of a soak, and what is sampled of them."""

from __future__ import annotations

import csv
import os
import random
import statistics
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING
from unittest import mock

import trustme

from tests.attacks import orders
from tests.attacks.catalogue import ATTACKS
from tests.attacks.run import certificate

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.attacks.orders import Process

# All but those whose very purpose is to take as much memory, or as much time of the processor, as is allowed: that would
# be all that the figures show.
BAD_PEERS = sorted(
    ATTACKS.keys()
    - {"connection_flood", "half_frames", "calls_in_flight", "fragments_unfinished", "empty_maps", "huge_metadata"}
    - {"header_bomb", "never_reads", "notify_flood", "deep"}
) + ["never_reads"]
BAD_SECONDS = 0.05
BAD_CONNECTIONS = 2

# What has to be flat, and how far the last quarter may be above the second one: a part of it, and so much. The samples
# are taken between calls. Idle tasks end only some seconds after they were needed, and how many were is chance; so is how
# scattered over its pages the memory is that has been given back to the allocator. A leak of 20 bytes a call is above it.
FLAT = {
    "server_resident_mib": (0.1, 4.0),
    "server_descriptors": (0.0, 2.0),
    "server_connections": (0.0, 2.0),
    "server_tasks": (0.0, 12.0),
    "client_resident_mib": (0.1, 4.0),
    "client_descriptors": (0.0, 2.0),
    "client_tasks": (0.0, 8.0),
}
COLUMNS = ["seconds", *FLAT, "server_calls", "server_mistakes", "calls", "attacks", "cores"]
MiB = 1024 * 1024


class Run:
    """A soak from start to end.

    Attributes:
        rows: the samples.
        wrong: outcomes of well-behaved calls that should not have been.
        left: what the server had more at the end than at the beginning.
    """

    def __init__(self, folder: Path, *, seed: int = 0) -> None:
        self._folder = folder
        self._chance = random.Random(seed)
        self._processes: list[Process] = []
        self._not_closed: list[str] = []
        self._next: list[str] = []
        self.rows: list[dict[str, float]] = []
        self.done: dict[str, int] = {}
        self.wrong: list[str] = []
        self.calls = 0
        self.attacks = 0
        self.left: dict[str, int] = {}

    def go(self, seconds: float, interval: float) -> None:
        """Runs for so long, and ends all processes, whatever happens."""
        try:
            # Large messages are mapped, and so given back at once. By default the allocator learns to keep them, and
            # its memory would be all that one sees.
            with mock.patch.dict(os.environ, MALLOC_MMAP_THRESHOLD_=str(128 * 1024)):
                self._run(seconds, interval)
        finally:
            for process in reversed(self._processes):
                process.begin_stop()
            for process in reversed(self._processes):
                process.close()

    def _start(self, module: str, *args: object) -> Process:
        process = orders.Process([sys.executable, "-m", module, *map(str, args)])
        self._processes.append(process)
        return process

    def _run(self, seconds: float, interval: float) -> None:
        authority = trustme.CA()
        authority_file = self._folder / "authority.pem"
        authority.cert_pem.write_to_path(authority_file)
        server = self._start("tests.soak.server", *certificate(self._folder, authority))
        ports = server.hear(keys=["plain"], patience=30)
        where = ports["plain"], ports["tls"]
        watching = self._start("tests.soak.client", "watching", *where, authority_file, 0)
        first = ask(watching)["server"]
        lasting = self._start("tests.soak.client", "lasting", *where, authority_file, 1)
        coming = [self._start("tests.soak.client", "coming", *where, authority_file, seed) for seed in (2, 3)]
        attacker = self._start("tests.attacks.attacker", *where)
        with (self._folder / "samples.csv").open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            for row in self._samples(seconds, interval, watching, [lasting, *coming], attacker):
                writer.writerow(row)
                file.flush()
        self._note([lasting, *coming], "pause")
        for process in (lasting, *coming, attacker):
            process.stop()

        def is_as_before() -> bool:
            # Only the one that watches is there, as in the beginning.
            now = ask(watching)["server"]
            self.left = {key: now[key] - first[key] for key in now if key != "resident" and now[key] > first[key]}
            return not self.left

        orders.wait_until(is_as_before, 30)

    def _samples(
        self, seconds: float, interval: float, watching: Process, clients: list[Process], attacker: Process
    ) -> Iterator[dict[str, float]]:
        start = time.monotonic()
        used = self._processor_time()
        while (now := time.monotonic() - start) < seconds:
            self._attack(attacker)
            time.sleep(max(0.0, interval - (time.monotonic() - start - now)))
            # In the middle of calls, most of what there is would be their arguments and results.
            client = self._note(clients, "pause")
            sample = {"server": ask(watching)["server"], "client": client}
            self._note(clients, "resume")
            row = {"seconds": round(time.monotonic() - start, 1)}
            for side in ("server", "client"):
                row[f"{side}_resident_mib"] = round(sample[side]["resident"] / MiB, 2)
                for key in ("descriptors", "tasks"):
                    row[f"{side}_{key}"] = sample[side][key]
            for key in ("connections", "calls", "mistakes"):
                row[f"server_{key}"] = sample["server"][key]
            row["calls"] = self.calls
            row["attacks"] = self.attacks
            row["cores"] = round((self._processor_time() - used) / (time.monotonic() - start), 3)
            self.rows.append(row)
            yield row

    def _attack(self, attacker: Process) -> None:
        if not self._next:
            # Each of them early on, so that what the first time leaves behind is not taken for growth.
            self._next = self._chance.sample(BAD_PEERS, len(BAD_PEERS))
        name = self._next.pop()
        attacker.tell({"attacks": [name], "seconds": BAD_SECONDS, "connections": BAD_CONNECTIONS})
        attacker.hear(keys=["ready"], patience=60)
        ends = attacker.hear(keys=[name], patience=60)[name]["ends"]
        self.attacks += 1
        if ATTACKS[name].must_close and "open" in ends:
            self._not_closed.append(f"{name}: {ends['open']} connections of the attacker's were not closed")

    def _note(self, clients: list[Process], order: str) -> dict[str, int]:
        """What the clients have done so far, and what was wrong with it. Returns what the first of them holds."""
        for process in clients:
            process.tell({"do": order})
        results = [process.hear(keys=["wrong"], patience=90) for process in clients]
        self.calls = sum(result["calls"] for result in results)
        self.done = {}
        for result in results:
            for name, count in result["done"].items():
                self.done[name] = self.done.get(name, 0) + count
        self.wrong = self._not_closed + [wrong for result in results for wrong in result["wrong"]]
        return results[0]["client"]

    def _processor_time(self) -> float:
        """Seconds of all processes together, of those that are still there."""
        ticks = 0
        for process in self._processes:
            try:
                fields = Path(f"/proc/{process.pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
            except OSError:
                continue
            ticks += int(fields[11]) + int(fields[12])
        return ticks / os.sysconf("SC_CLK_TCK")


def ask(process: Process) -> dict:
    return process.ask({"do": "sample"}, keys=["wrong"], patience=90)


def verdicts(rows: list[dict[str, float]]) -> dict[str, tuple[float, float, bool]]:
    """For each column the median of the second quarter and of the last one, and whether it is flat."""
    quarter = len(rows) // 4
    second, last = rows[quarter : 2 * quarter], rows[-quarter:]
    found = {}
    for column, (part, more) in FLAT.items():
        before = statistics.median(row[column] for row in second)
        after = statistics.median(row[column] for row in last)
        found[column] = before, after, after <= before + max(before * part, more)
    return found
