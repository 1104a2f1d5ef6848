"""The targets, and where their inputs are. Nothing here needs atheris."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import ModuleType

HERE = Path(__file__).absolute().parent
ROOT = HERE.parents[1]
CORPUS = HERE / "corpus"
FINDINGS = HERE / "findings"
DICTIONARY = HERE / "tokens.dict"
NAMES = ["frames", "codec", "messages", "protocol", "connection"]


def load(name: str) -> ModuleType:
    """A target: ``run(data)`` raises if something is wrong with what trpc makes of the input; MAX_LEN is its length."""
    return importlib.import_module(f"tests.fuzz.fuzz_{name}")


def inputs_of(name: str) -> list[Path]:
    """What is kept for a target: its corpus and what was found."""
    return [path for folder in (CORPUS, FINDINGS) for path in sorted((folder / name).glob("*")) if path.is_file()]
