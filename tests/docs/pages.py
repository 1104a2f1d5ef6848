"""The blocks of the documentation's pages, for the tests that write, run and compare them."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"

_FENCE = re.compile(r"^(?P<fence>`{3,})(?P<head>[^\n`]*)\n(?P<body>.*?)^(?P=fence)$", re.MULTILINE | re.DOTALL)
_OPTION = re.compile(r"^:([a-z-]+): *(.*)$")


@dataclasses.dataclass(frozen=True)
class Block:
    """What is between two fences."""

    page: str
    line: int
    language: str
    caption: str
    text: str
    emphasized: frozenset[int] = frozenset()

    @property
    def where(self) -> str:
        return f"{self.page}:{self.line}"


def blocks_of(path: Path) -> list[Block]:
    """All code blocks of a page, in its order: those of Markdown, and those of the directive ``{code-block}``."""
    text = path.read_text()
    page = path.relative_to(ROOT).as_posix()
    found = []
    for match in _FENCE.finditer(text):
        head = match["head"].strip()
        lines = match["body"].splitlines(keepends=True)
        caption, emphasized = "", frozenset()
        line = text.count("\n", 0, match.start()) + 2
        if head.startswith("{"):
            directive, _, language = head.partition("}")
            if directive != "{code-block":
                continue
            while lines and (option := _OPTION.match(lines[0].rstrip("\n"))):
                if option[1] == "caption":
                    caption = option[2].strip("`")
                if option[1] == "emphasize-lines":
                    emphasized = _numbers(option[2])
                del lines[0]
                line += 1
            while lines and not lines[0].strip():
                del lines[0]
                line += 1
            head = language.strip()
        found.append(Block(page, line, head, caption, "".join(lines), emphasized))
    return found


def _numbers(text: str) -> frozenset[int]:
    """Those of ``1,4-6``."""
    ranges = [part.partition("-") for part in text.split(",")]
    return frozenset(number for first, _, last in ranges for number in range(int(first), int(last or first) + 1))


def pages() -> list[Path]:
    """Every page, and the texts at the root."""
    return [*(ROOT / name for name in ("README.md", "CONTRIBUTING.md")), *sorted(DOCS.glob("*.md"))]
