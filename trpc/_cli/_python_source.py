"""Python source, written piece by piece: strings that others have chosen stay strings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ._text import clean

if TYPE_CHECKING:
    from collections.abc import Sequence

LINE: Final = 120
INDENT: Final = "    "


def quoted(value: object) -> str:
    """A literal, with double quotes where that takes no more escapes."""
    text = repr(value)
    if isinstance(value, str | bytes) and text.endswith("'") and '"' not in text:
        prefix, _, body = text.partition("'")
        return f'{prefix}"{body[:-1]}"'
    return text


def docstring(text: str, indent: str) -> list[str]:
    """The lines of a docstring; none, if there is nothing to say."""
    lines = [_docstring_line(line).rstrip() for line in text.splitlines()]
    while lines and not lines[-1]:
        lines.pop()
    if not lines:
        return []
    lines[0] = f'"""{lines[0]}'
    if len(lines) == 1:
        return [f'{indent}{lines[0]}"""']
    return [f"{indent}{line}" if line else "" for line in [*lines, '"""']]


def _docstring_line(line: str) -> str:
    line = line.replace("\\", "\\\\")
    if '"""' in line or line.rstrip().endswith('"'):
        line = line.replace('"', '\\"')
    # What it escapes is then an escape of Python's.
    return clean(line, keep="")


def bracketed(start: str, parts: Sequence[str], end: str, indent: str) -> list[str]:
    """``start``, the parts with commas between, and ``end``: in one line, in three, or in one for each part."""
    line = f"{indent}{start}{', '.join(parts)}{end}"
    inner = f"{indent}{INDENT}{', '.join(parts)}"
    if len(line) <= LINE or not parts:
        return [line]
    if len(inner) <= LINE:
        return [f"{indent}{start}", inner, f"{indent}{end}"]
    # A bare star or slash is followed by a comma as well.
    return [f"{indent}{start}", *(f"{indent}{INDENT}{part}," for part in parts), f"{indent}{end}"]
