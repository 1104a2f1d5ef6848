"""What others have written, made harmless for a terminal; and names that are near."""

from __future__ import annotations

import difflib
import unicodedata
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

# Control characters; those that change the direction of what follows, or cannot be seen; and what is no Unicode.
_HARMFUL: Final = frozenset({"Cc", "Cf", "Cs", "Co", "Zl", "Zp"})
# Part of how people write: emoji are joined by it.
_HARMLESS: Final = frozenset({"\u200d"})

# How much alike names are, from 0 to 1: to be named at all, and beside a better one.
_NEAR: Final = 0.6
_ALIKE: Final = 0.08

# Characters of an error.
_MAX_LINE: Final = 1000


def clean(text: str, *, keep: str = "\n\t") -> str:
    """``text`` with escapes in the place of what could drive a terminal, except for the characters to keep."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(_shown(character, keep) for character in text)


def _shown(character: str, keep: str) -> str:
    if character in keep or character in _HARMLESS or unicodedata.category(character) not in _HARMFUL:
        return character
    return character.encode("unicode_escape").decode("ascii")


def one_line(text: str) -> str:
    """``text`` for an error: harmless, not too long, and in one line."""
    text = clean(" ".join(text.split()), keep="")
    return text if len(text) <= _MAX_LINE else text[:_MAX_LINE] + "…"


def near(name: str, names: Iterable[str]) -> str:
    """``did you mean Calculator.add?``, or nothing if there is no such name."""
    matcher = difflib.SequenceMatcher(b=name.lower())
    scores: dict[str, float] = {}
    for known in names:
        matcher.set_seq1(known.lower())
        scores[known] = matcher.ratio()
    best = max(scores.values(), default=0.0)
    # Names with the same service are all a little alike.
    found = sorted(
        (known for known, score in scores.items() if score >= max(_NEAR, best - _ALIKE)), key=scores.__getitem__
    )
    found = found[:-4:-1]
    return f"did you mean {' or '.join(found)}?" if found else ""
