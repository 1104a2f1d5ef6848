"""Draws the results: ``python -m tests.benchmarks.charts RESULTS.json CHART.svg [sequential|flight|echo|stream ...]``.

Plain SVG, with a transparent background and in tones between light and dark, so that it can be read on both.
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

WIDTH = 760
LABELS = 210
BARS = 440
ROW = 26
BAR = 16
LINE = 15
FOOTER_CHARACTERS = 125

TEXT = "#7b828c"
OURS = "#3f8fd4"
THEIRS = "#8b95a5"


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
    named = [results["contestants"][key] for key in keys]
    versions = [f"{c['name']} {c['version']}" for c in named if c["peer"] or c["name"] == "trpc"]
    versions += [f"{name} {version}" for name, version in machine["packages"].items()]
    text = f"{results['date']}; {machine['cores']} x {machine['cpu']}; {machine['python']}; {', '.join(versions)}"
    return textwrap.wrap(text, FOOTER_CHARACTERS)


def draw(chart: Chart, results: dict, top: float) -> tuple[list[str], float]:
    """The elements of one chart that begins at ``top``, and where it ends."""
    bars, reference = rows(chart, results)
    y = top + 22
    parts = [_text(0, y, chart.title, size=16, weight="bold")]
    y += 18
    unit = results["calls"][chart.work]["unit"]
    what = f"{unit}s per second" if chart.rates else f"time of one {unit}"
    better = "longer" if chart.rates else "shorter"
    parts.append(_text(0, y, f"{what}, {reference} = 1; {better} is better"))
    y += 10
    longest = max((row.value for row in bars), default=1.0)
    for row in bars:
        length = max(1.0, BARS * row.value / longest)
        ours = row.key == "trpc_"
        without_rpc = not ours and not results["contestants"][row.key]["peer"]
        place = f'x="{LABELS}" y="{y + 5:.1f}" width="{length:.1f}" height="{BAR}" rx="2"'
        parts += [
            _text(LABELS - 8, y + 17, row.name, anchor="end", weight="bold" if ours else "normal"),
            f'<rect {place} fill="{OURS if ours else THEIRS}" fill-opacity="{0.45 if without_rpc else 1}"/>',
            _text(LABELS + length + 7, y + 17, _number(row.value), weight="bold" if ours else "normal"),
        ]
        y += ROW
    y += 4
    for line in footer(results, [row.key for row in bars]):
        y += LINE
        parts.append(_text(0, y, line, size=11))
    return parts, y + 12


def picture(names: Sequence[str], results: dict) -> str:
    """The SVG: one chart below the other, of those that were measured."""
    parts, y = [], 0.0
    charts = [CHARTS[name] for name in names if results["calls"].get(CHARTS[name].work, {}).get("summary")]
    for chart in charts:
        more, y = draw(chart, results, y)
        parts += more
    title = escape("; ".join(chart.title for chart in charts))
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y:.0f}" width="{WIDTH}" height="{y:.0f}" '
        f'role="img" font-family="system-ui, sans-serif" fill="{TEXT}">'
    )
    return "\n".join([head, f"<title>{title}</title>", *parts, "</svg>", ""])


def _number(value: float) -> str:
    return f"{value:.2f}" if value < 10 else f"{value:.1f}" if value < 100 else f"{value:.0f}"


def _text(x: float, y: float, text: str, *, size: int = 13, weight: str = "normal", anchor: str = "start") -> str:
    place = f'x="{x:.1f}" y="{y:.1f}" font-size="{size}" font-weight="{weight}" text-anchor="{anchor}"'
    return f"<text {place}>{escape(text)}</text>"


def main() -> None:
    match sys.argv[1:]:
        case [source, target, *names] if set(names) <= CHARTS.keys():
            results = json.loads(Path(source).read_text(encoding="utf-8"))
            Path(target).write_text(picture(names or list(CHARTS), results), encoding="utf-8")
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main()
