"""Draws the results: ``python -m tests.benchmarks.charts RESULTS.json CHART.svg [sequential|flight|echo|stream ...]``.

Plain SVG with a background of its own, light or dark as the reader's system is, so that it can be read on any page; and
narrow, so that it can be read on a telephone.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING
from xml.sax.saxutils import escape

from . import figures

if TYPE_CHECKING:
    from collections.abc import Sequence

WIDTH = 480
SHOWN = 620
"""How wide it is on a screen that has the room."""
MARGIN = 14
LABELS = 190
BARS = 226
ROW = 24
BAR = 15
LINE = 14
FOOTER_CHARACTERS = 84

STYLE = """
svg { --card: #ffffff; --edge: #d0d7de; --text: #1f2328; --soft: #57606a; --ours: #0b62c4; --theirs: #9aa4af;
  --floor: #d6dbe1; }
@media (prefers-color-scheme: dark) { svg { --card: #14181d; --edge: #363d46; --text: #e6edf3; --soft: #a3adb8;
  --ours: #4a9df0; --theirs: #6b7682; --floor: #3a424c; } }
text { font: 13px system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif; fill: var(--text); }
.card { fill: var(--card); stroke: var(--edge); } .title { font-size: 15px; font-weight: 700; } .ours { font-weight: 700; }
.soft { fill: var(--soft); font-size: 12px; } .foot { fill: var(--soft); font-size: 10.5px; } .label { text-anchor: end; }
rect.ours { fill: var(--ours); } rect.theirs { fill: var(--theirs); } rect.floor { fill: var(--floor); }
"""


@dataclasses.dataclass(frozen=True)
class Chart:
    """What one chart shows.

    Attributes:
        work: the workload.
        title: its headline.
        reference: the contestant that is 1; None: the slowest.
        rates: bars are calls or items per second and not the time of one, so that a longer one is better.
    """

    work: str
    title: str
    reference: str | None
    rates: bool = False


CHARTS = {
    "sequential": Chart("sequential_async", "One call at a time, on one core", "trio_floor"),
    "flight": Chart("flight_async", "100 calls in flight on one connection", None, rates=True),
    "echo": Chart("echo_1m", "1 MiB there and back", "blocking_sockets"),
    "stream": Chart("stream_down", "A stream of small items, from server to client", None, rates=True),
}


@dataclasses.dataclass(frozen=True)
class Row:
    key: str
    name: str
    value: float


def rows(chart: Chart, results: dict) -> tuple[list[Row], str]:
    """The bars, best first, and the name of the one that is 1."""
    work = results["calls"][chart.work]
    order = list(work["summary"])
    if chart.reference is None:
        reference = order[-1]
    else:
        reference = chart.reference if chart.reference in order else work["reference"]
    names = {key: contestant["name"] for key, contestant in results["contestants"].items()}
    bars = []
    for key in order:
        pair = work["rounds"][key], work["rounds"][reference]
        ratio = figures.ratio(*(reversed(pair) if chart.rates else pair))
        if ratio is not None:
            bars.append(Row(key, names[key], ratio.middle))
    return bars, names[reference]


def footer(results: dict, keys: Sequence[str]) -> list[str]:
    """When, on what, and with which versions."""
    machine = results["machine"]
    # The baselines' versions are those of Python and Trio, which are said anyway.
    named = [results["contestants"][key] for key in dict.fromkeys(keys)]
    versions = [f"{c['name']} {c['version']}" for c in named if c["peer"] or c["name"] == "trpc"]
    versions += [f"{name} {version}" for name, version in machine["packages"].items()]
    text = f"{results['date']}; {machine['cores']} x {machine['cpu']}; {machine['python']}; {', '.join(versions)}"
    return textwrap.wrap(text, FOOTER_CHARACTERS)


def draw(chart: Chart, bars: Sequence[Row], reference: str, results: dict, top: float) -> tuple[list[str], float]:
    """The elements of one chart that begins at ``top``, and where it ends."""
    y = top + 26
    parts = [_text(MARGIN, y, chart.title, "title")]
    y += 18
    unit = results["calls"][chart.work]["unit"]
    what = f"{unit}s per second" if chart.rates else f"time of one {unit}"
    better = "longer" if chart.rates else "shorter"
    parts.append(_text(MARGIN, y, f"{what}, {reference} = 1; {better} is better", "soft"))
    y += 8
    longest = max((row.value for row in bars), default=1.0)
    for row in bars:
        length = max(1.0, BARS * row.value / longest)
        whose = "ours" if row.key == "trpc_" else "theirs" if results["contestants"][row.key]["peer"] else "floor"
        place = f'x="{LABELS}" y="{y + 4:.1f}" width="{length:.1f}" height="{BAR}" rx="2"'
        parts += [
            _text(LABELS - 8, y + 16, row.name, f"label {whose}"),
            f'<rect {place} class="{whose}"/>',
            _text(LABELS + length + 7, y + 16, _number(row.value), whose),
        ]
        y += ROW
    return parts, y + 4


def picture(names: Sequence[str], results: dict) -> str:
    """The SVG: one chart below the other, of those that were measured."""
    parts, keys, y = [], [], 0.0
    charts = [CHARTS[name] for name in names if results["calls"].get(CHARTS[name].work, {}).get("summary")]
    for chart in charts:
        bars, reference = rows(chart, results)
        keys += [row.key for row in bars]
        more, y = draw(chart, bars, reference, results, y)
        parts += more
    for line in footer(results, keys):
        y += LINE
        parts.append(_text(MARGIN, y, line, "foot"))
    y += MARGIN
    title = escape("; ".join(chart.title for chart in charts))
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y:.0f}" width="{SHOWN}"'
        f' height="{y * SHOWN / WIDTH:.0f}" role="img">'
    )
    card = f'<rect x="0.5" y="0.5" width="{WIDTH - 1}" height="{y - 1:.0f}" rx="10" class="card"/>'
    return "\n".join([head, f"<title>{title}</title>", f"<style>{STYLE}</style>", card, *parts, "</svg>", ""])


def _number(value: float) -> str:
    return f"{value:.2f}" if value < 10 else f"{value:.1f}" if value < 100 else f"{value:.0f}"


def _text(x: float, y: float, text: str, style: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{style}">{escape(text)}</text>'


def main() -> None:
    match sys.argv[1:]:
        case [source, target, *names] if set(names) <= CHARTS.keys():
            results = json.loads(Path(source).read_text(encoding="utf-8"))
            Path(target).write_text(picture(names or list(CHARTS), results), encoding="utf-8")
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main()
