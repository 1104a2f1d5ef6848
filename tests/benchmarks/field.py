"""The field of contestants: who takes part, with which interpreter each runs, and who cannot."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

from .child import Child, ChildFailedError

FOLDER = Path(__file__).parent / "contestants"

OWN = ("trpc_", "trio_floor", "trio_stream", "asyncio_protocol", "blocking_sockets")
"""Those that need nothing but what trpc needs. All others in the folder are peers."""

ABOUT_PATIENCE = 60.0
"""Seconds to import a contestant's library for the first time."""


@dataclasses.dataclass(frozen=True)
class Contestant:
    """One script, and what it says about itself."""

    key: str
    python: str
    name: str
    version: str
    work: tuple[str, ...]

    @property
    def is_peer(self) -> bool:
        return self.key not in OWN

    def command(self, *args: str) -> list[str]:
        return [self.python, str(FOLDER / f"{self.key}.py"), *args]


def peer_keys() -> list[str]:
    """The scripts that are not this project's own, by name."""
    scripts = sorted(path.stem for path in FOLDER.glob("*.py"))
    return [key for key in scripts if key not in OWN and not key.startswith("_")]


def gather(keys: list[str], peer_python: str | None) -> tuple[list[Contestant], dict[str, str]]:
    """The contestants that can run, in the order of ``keys``, and for each of the others the reason."""
    present, absent = [], {}
    for key in keys:
        python = sys.executable if key in OWN else peer_python
        if python is None:
            absent[key] = "a peer: add --peers"
            continue
        try:
            present.append(_introduce(key, python))
        except ChildFailedError as exc:
            absent[key] = str(exc)
    return present, absent


def _introduce(key: str, python: str) -> Contestant:
    child = Child([python, str(FOLDER / f"{key}.py"), "about"])
    try:
        about = child.hear(keys=("name", "version", "work"), patience=ABOUT_PATIENCE)
    finally:
        child.close()
    return Contestant(key, python, about["name"], str(about["version"]), tuple(about["work"]))
