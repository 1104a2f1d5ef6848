"""The field of contestants: who takes part, with which interpreter each runs, and who cannot."""

from __future__ import annotations

import ast
import dataclasses
import sys
from pathlib import Path

from .child import Child, ChildFailedError

FOLDER = Path(__file__).parent / "contestants"

OWN = ("trpc_", "trio_floor", "trio_stream", "asyncio_protocol", "blocking_sockets")
"""Those that need nothing but what trpc needs. All others in the folder are peers."""

ABOUT_PATIENCE = 60.0
"""Seconds to import a contestant's library for the first time."""


WITHOUT = "without_"
"""How the name of trpc without one of its techniques begins; see ``contestants/_without.py``."""


def _is_own(key: str) -> bool:
    return key in OWN or key.startswith(WITHOUT)


def _script(key: str) -> list[str]:
    if key.startswith(WITHOUT):
        return [str(FOLDER / "_without.py"), key.removeprefix(WITHOUT)]
    return [str(FOLDER / f"{key}.py")]


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
        return not _is_own(self.key)

    def command(self, *args: str) -> list[str]:
        return [self.python, *_script(self.key), *args]


def peer_keys() -> list[str]:
    """The scripts that are not this project's own, by name."""
    scripts = sorted(path.stem for path in FOLDER.glob("*.py"))
    return [key for key in scripts if key not in OWN and not key.startswith("_")]


def techniques() -> list[str]:
    """What trpc can be without: the functions of ``_without.py``, which is not imported here, as it changes trpc."""
    tree = ast.parse((FOLDER / "_without.py").read_text(encoding="utf-8"))
    return [node.name for node in tree.body if isinstance(node, ast.FunctionDef)]


def gather(keys: list[str], peer_python: str | None) -> tuple[list[Contestant], dict[str, str]]:
    """The contestants that can run, in the order of ``keys``, and for each of the others the reason."""
    present, absent = [], {}
    for key in keys:
        python = sys.executable if _is_own(key) else peer_python
        if python is None:
            absent[key] = "a peer: add --peers"
            continue
        try:
            present.append(_introduce(key, python))
        except ChildFailedError as exc:
            absent[key] = str(exc)
    return present, absent


def _introduce(key: str, python: str) -> Contestant:
    child = Child([python, *_script(key), "about"])
    try:
        about = child.hear(keys=("name", "version", "work"), patience=ABOUT_PATIENCE)
    finally:
        child.close()
    return Contestant(key, python, about["name"], str(about["version"]), tuple(about["work"]))
