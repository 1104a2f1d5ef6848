"""Draws what was sampled, as plain SVG, in tones that can be read on light and on dark."""

from __future__ import annotations

from typing import TYPE_CHECKING
from xml.sax.saxutils import escape

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

WIDTH, HEIGHT, GAP, LEFT, TOP = 760, 70, 40, 70, 34
TEXT, LINE, FRAME = "#7b828c", "#3f8fd4", "#8b95a5"
# An hour of samples has more points than there are pixels.
POINTS = 1000


def picture(title: str, times: Sequence[float], columns: Mapping[str, Sequence[float]]) -> str:
    """One panel for each column, one below the other, each from 0."""
    height = TOP + len(columns) * (HEIGHT + GAP)
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" '
        f'role="img" font-family="system-ui, sans-serif" font-size="12" fill="{TEXT}">'
    )
    parts = [
        head,
        f"<title>{escape(title)}</title>",
        f'<text x="0" y="16" font-size="16" font-weight="bold">{escape(title)}</text>',
    ]
    for number, (name, values) in enumerate(columns.items()):
        parts += _panel(name, times, values, TOP + number * (HEIGHT + GAP))
    return "\n".join([*parts, "</svg>", ""])


def _panel(name: str, times: Sequence[float], values: Sequence[float], top: float) -> list[str]:
    most, last = max([*values, 1]), max([*times, 1e-9])
    step = max(1, len(values) // POINTS)
    points = " ".join(
        f"{LEFT + (WIDTH - LEFT) * time / last:.1f},{top + 8 + HEIGHT * (1 - value / most):.1f}"
        for time, value in list(zip(times, values, strict=True))[::step]
    )
    bottom = top + 8 + HEIGHT
    return [
        f'<text x="{LEFT}" y="{top + 2:.0f}" font-weight="bold">{escape(name)}</text>',
        f'<text x="{LEFT - 6}" y="{top + 16:.0f}" text-anchor="end">{most:g}</text>',
        f'<text x="{LEFT - 6}" y="{bottom:.0f}" text-anchor="end">0</text>',
        f'<text x="{WIDTH}" y="{bottom + 14:.0f}" text-anchor="end">{last / 60:.1f} min</text>',
        f'<path d="M{LEFT} {top + 8:.0f}V{bottom:.0f}H{WIDTH}" fill="none" stroke="{FRAME}"/>',
        f'<polyline points="{points}" fill="none" stroke="{LINE}"/>',
    ]
