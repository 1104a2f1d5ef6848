"""The table of ``trpc top``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from rich.console import Group
from rich.table import Table
from rich.text import Text

from ._durations import shown_long
from ._text import one_line

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import RenderableType

    from .. import Activity

_COLUMNS: Final = ("METHOD", "PEER", "AGE", "TIME LEFT", "STATE")
# Lines around the rows: the head, and the head of the table with its line.
_AROUND: Final = 5
# Columns of a terminal that has no room for all of the table's.
_NARROW: Final = 60
_STYLES: Final = {"waiting": "yellow", "running": "green", "cancelling": "red", "": "dim"}

_Row = tuple[str, str, str, str, str]


def head_of(url: str, activity: Activity) -> str:
    """The line above the table."""
    parts = [
        url,
        f"trpc {activity['version']}",
        f"pid {activity['pid']}",
        f"up {shown_long(activity['age'])}",
        f"{activity['connections']} connection{'s' * (activity['connections'] != 1)}",
        f"{activity['calls']} call{'s' * (activity['calls'] != 1)}",
    ]
    return one_line(", ".join(parts))


def _rows(activity: Activity) -> Iterator[_Row]:
    """One for each call, and for each connection that has none; the oldest calls first."""
    for connection in activity["busiest"]:
        peer = one_line(connection["peer"])
        if connection["pid"] is not None:
            peer += f" (pid {connection['pid']})"
        for call in connection["calls"]:
            left = call["time_left"]
            time_left = "" if left is None else shown_long(left) if left > 0 else "over"
            yield one_line(call["method"]), peer, shown_long(call["age"]), time_left, call["state"]
        hidden = connection["in_flight"] - len(connection["calls"])
        if hidden > 0:
            yield f"… {hidden} more", peer, "", "", ""
        elif not connection["calls"]:
            yield "", peer, shown_long(connection["age"]), "", ""


def lines_of(activity: Activity) -> list[str]:
    """The table as text, with a tab between two columns."""
    return ["\t".join(row) for row in (_COLUMNS, *_rows(activity))]


def screen_of(url: str, activity: Activity, width: int, height: int | None) -> RenderableType:
    """The table for a terminal of that size; with all of its lines, if there is no height."""
    rows = list(_rows(activity))
    room = len(rows) if height is None else max(1, height - _AROUND)
    table = Table(box=None, width=width, pad_edge=False, header_style="bold reverse", expand=True)
    hidden = {"TIME LEFT"} if width < _NARROW else set[str]()
    for name in _COLUMNS:
        if name in hidden:
            continue
        is_number = name in {"AGE", "TIME LEFT"}
        table.add_column(name, justify="right" if is_number else "left", no_wrap=True, ratio=None if is_number else 1)
    for row in rows[:room]:
        table.add_row(
            *(
                Text(cell, _STYLES.get(cell, "") if name == "STATE" else "" if row[0] else "dim")
                for name, cell in zip(_COLUMNS, row, strict=True)
                if name not in hidden
            )
        )
    parts: list[RenderableType] = [Text(head_of(url, activity), "bold"), "", table]
    if height is not None:
        parts.append(Text(f"… and {len(rows) - room} lines more" if len(rows) > room else "q ends", "dim"))
    return Group(*parts)
