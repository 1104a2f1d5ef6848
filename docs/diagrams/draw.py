"""Draws the diagrams of the documentation: ``python docs/diagrams/draw.py`` writes ``docs/_static/diagrams/*.svg``.

Each ``NAME.txt`` in this folder becomes ``NAME.svg``. Time goes down, a line of text is a step::

    lanes: caller | client | server | handler     columns, numbered from 1; "-": no name
    process: 1-2 caller's process                 a panel behind these columns
    1 -> 2: await call                            something is called, or told, within a process
    2 => 3: REQUEST 7                             a message on its way between processes
    2 ~> 3: CANCEL 7                              the same, so slow that it crosses the next one
    2 xx 3: the connection breaks
    4 + / 4 -                                     it is busy from here / until here
    1 ! cancel                                    an event
    4 # works                                     a remark; "1-2 #" is in the middle between these columns
    1 [ Caller.call | takes a place               a step that has a name in the code, and what it does
    * users | listening, connecting               a layer, and what is in it
    --- cancel_grace                              time passes
    = what it comes to                            a line below

All drawings have a background of their own, light or dark as the reader's system is, so that they can be read on any
page. They are narrow, so that they can be read on a telephone.
"""

from __future__ import annotations

import dataclasses
import math
import re
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING
from xml.sax.saxutils import escape

if TYPE_CHECKING:
    from collections.abc import Iterator

SOURCES = Path(__file__).parent
TARGETS = SOURCES.parent / "_static" / "diagrams"

WIDTH = 480
SHOWN = 580
"""How wide it is on a screen that has the room."""
MARGIN = 8
HEAD = 26
ROW = 32
LINE = 16
CHARACTER = 6.3
"""About as wide as a letter of a remark is."""
CAPTION = 58
"""Letters in a line below."""

LANES = {1: (240,), 2: (124, 356), 3: (62, 240, 418), 4: (58, 170, 310, 422)}

STYLE = """
svg { --card: #ffffff; --edge: #d0d7de; --panel: #f1f4f8; --text: #1f2328; --soft: #57606a; --line: #9aa4af;
  --wire: #0b62c4; --bad: #c6232f; --busy: #b6d3f5; }
@media (prefers-color-scheme: dark) { svg { --card: #14181d; --edge: #363d46; --panel: #1e242b; --text: #e6edf3;
  --soft: #a3adb8; --line: #707a86; --wire: #64aefb; --bad: #ff7b72; --busy: #2d5a8c; } }
text { font: 13px system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif; fill: var(--text);
  text-anchor: middle; }
.over { paint-order: stroke; stroke: var(--panel); stroke-width: 5px; stroke-linejoin: round; }
.gap { stroke: var(--card); }
.name { font-weight: 600; } .soft { fill: var(--soft); font-size: 12px; } .code { font-family: ui-monospace,
  "SFMono-Regular", "DejaVu Sans Mono", monospace; font-size: 12px; font-weight: 600; }
.wiretext { fill: var(--wire); font-weight: 600; } .badtext { fill: var(--bad); font-weight: 600; }
.card { fill: var(--card); stroke: var(--edge); } .panel { fill: var(--panel); }
.box { fill: var(--card); stroke: var(--line); } .pill { fill: var(--bad); } .pilltext { fill: var(--card);
  font-weight: 600; }
.busy { fill: var(--busy); stroke: var(--line); } .lane, .time { stroke: var(--line); stroke-dasharray: 2 4; }
.call { stroke: var(--text); stroke-width: 1.3; fill: none; } .callhead { fill: var(--text); }
.wire { stroke: var(--wire); stroke-width: 2; fill: none; } .wirehead { fill: var(--wire); }
.broken { stroke: var(--bad); stroke-width: 2; stroke-dasharray: 6 4; } .cross { stroke: var(--bad); stroke-width: 3; }
"""

STATEMENT = re.compile(r"(?P<lane>\d)(?:-(?P<to>\d))? (?P<sign>(?:->|=>|~>|xx) \d:?|[-+!#\[]) ?(?P<text>.*)")


class SourceError(Exception):
    """A line that says nothing that can be drawn."""


@dataclasses.dataclass
class Drawing:
    """A diagram, as far as it is drawn: what is behind, what is in front, and how far down it goes."""

    lanes: list[str] = dataclasses.field(default_factory=list[str])
    processes: list[tuple[int, int, str]] = dataclasses.field(default_factory=list[tuple[int, int, str]])
    behind: list[str] = dataclasses.field(default_factory=list[str])
    front: list[str] = dataclasses.field(default_factory=list[str])
    captions: list[str] = dataclasses.field(default_factory=list[str])
    busy: dict[int, float] = dataclasses.field(default_factory=dict[int, float])
    y: float = 0
    slope_end: float = 0

    def x(self, lane: int) -> float:
        return LANES[len(self.lanes)][lane - 1]

    def text(self, x: float, y: float, text: str, style: str, *, is_plate: bool = False) -> None:
        """Text around ``x``, moved so that it stays in the picture; on a plate that covers what is behind it."""
        width = len(text) * CHARACTER
        half = width / 2 + MARGIN + 6
        x = min(max(x, half), WIDTH - half)
        if is_plate:
            place = f'x="{x - width / 2:.1f}" y="{y - 12:.1f}" width="{width:.1f}"'
            self.front.append(f'<rect {place} height="{LINE}" class="panel"/>')
        self.front.append(f'<text x="{x:.1f}" y="{y:.1f}" class="{style}">{escape(text)}</text>')

    def row(self, height: float = ROW) -> float:
        """Goes down; gives the middle of the row."""
        self.y += height
        return self.y - height / 2

    # --- what a line of the source can say ---

    def arrow(self, one: int, sign: str, other: int, text: str) -> None:
        """From a lane to another. The text stands above it."""
        is_slow = sign == "~>"
        if not is_slow:
            self.y = max(self.y, self.slope_end)
        y = self.row() + 8
        towards = 1 if other > one else -1
        begin = self.x(one) + towards * (4 if one in self.busy else 0)
        end = self.x(other) - towards * (5 if other in self.busy else 1)
        drop, angle = 0.0, 0.0
        if is_slow:
            # What comes next begins beside it, as it crosses this one.
            self.y -= 0.2 * ROW
            drop = 1.35 * ROW
            angle = towards * math.degrees(math.atan2(drop, abs(end - begin)))
            self.slope_end = y + drop
        style = "call" if sign == "->" else "wire"
        self.front.append(
            f'<path d="M{begin:.1f} {y:.1f} L{end - 5 * towards:.1f} {y + drop * 0.96:.1f}" class="{style}"/>'
            f'<path d="M{end:.1f} {y + drop:.1f} l{-9 * towards} -4.5 v9 z" class="{style}head"'
            f' transform="rotate({angle:.0f} {end:.1f} {y + drop:.1f})"/>'
        )
        x = begin + (end - begin) * (0.3 if drop else 0.5)
        self.text(x, y - 6 + (-4 if drop else 0), text, "over" + (" wiretext" if style == "wire" else ""))

    def breaks(self, one: int, other: int, text: str) -> None:
        y, begin, end = self.row() + 8, self.x(one), self.x(other)
        middle = (begin + end) / 2
        self.front.append(
            f'<path d="M{begin:.1f} {y:.1f} H{end:.1f}" class="broken"/>'
            f'<path d="M{middle - 6:.1f} {y - 6:.1f} l12 12 m-12 0 l12 -12" class="cross"/>'
        )
        self.text(middle, y - 10, text, "over badtext")

    def begins(self, lane: int) -> None:
        self.busy[lane] = self.y

    def ends(self, lane: int) -> None:
        top = self.busy.pop(lane)
        self.behind.append(
            f'<rect x="{self.x(lane) - 4:.1f}" y="{top - 8:.1f}" width="8" height="{self.y - top + 8:.1f}" rx="3"'
            ' class="busy"/>'
        )

    def event(self, lane: int, text: str) -> None:
        y, width = self.row() + 2, len(text) * 7.2 + 18
        x = min(max(self.x(lane), width / 2 + MARGIN + 4), WIDTH - width / 2 - MARGIN - 4)
        place = f'x="{x - width / 2:.1f}" y="{y - 11:.1f}" width="{width:.1f}"'
        self.front.append(f'<rect {place} height="22" rx="11" class="pill"/>')
        self.front.append(f'<text x="{x:.1f}" y="{y + 4.5:.1f}" class="pilltext">{escape(text)}</text>')

    def remark(self, lane: int, to: int, text: str) -> None:
        lines = text.split(" / ")
        self.y = max(self.y, self.slope_end)
        y = self.row(LINE * len(lines) + 8) - LINE * (len(lines) - 1) / 2 + 6
        for number, line in enumerate(lines):
            self.text((self.x(lane) + self.x(to)) / 2, y + LINE * number, line, "over soft", is_plate=True)

    def step(self, lane: int, text: str) -> None:
        name, _, what = text.partition(" | ")
        height = 38 if what else 24
        top, x = self.y + 4, self.x(lane)
        self.y += height + 6
        self.front.append(f'<rect x="{x - 104:.1f}" y="{top:.1f}" width="208" height="{height}" rx="5" class="box"/>')
        self.text(x, top + 16, name, "code")
        if what:
            self.text(x, top + 31, what, "soft")

    def layer(self, text: str) -> None:
        name, _, what = text.partition(" | ")
        top = self.y + 3
        self.y += 44
        place = f'x="{MARGIN * 3}" y="{top:.1f}" width="{WIDTH - 6 * MARGIN}"'
        self.front.append(f'<rect {place} height="38" rx="5" class="box"/>')
        self.text(WIDTH / 2, top + 16, name, "name")
        self.text(WIDTH / 2, top + 31, what, "soft")

    def time(self, text: str) -> None:
        y = self.row()
        self.front.append(f'<path d="M{MARGIN * 2} {y:.1f} H{WIDTH - MARGIN * 2}" class="time"/>')
        self.text(WIDTH / 2, y + 4, text, "over soft gap")

    def say(self, line: str) -> None:
        """One line of the source."""
        if line.startswith("lanes: "):
            self.lanes = ["" if name == "-" else name for name in line.removeprefix("lanes: ").split(" | ")]
        elif line.startswith("process: "):
            lanes, _, name = line.removeprefix("process: ").partition(" ")
            self.processes.append((int(lanes[0]), int(lanes[-1]), name))
        elif line.startswith("--- "):
            self.time(line.removeprefix("--- "))
        elif line.startswith("* "):
            self.layer(line.removeprefix("* "))
        elif line.startswith("= "):
            self.captions.append(line.removeprefix("= "))
        elif match := STATEMENT.fullmatch(line):
            self.state(int(match["lane"]), int(match["to"] or match["lane"]), match["sign"], match["text"])
        else:
            raise SourceError(line)

    def state(self, lane: int, to: int, sign: str, text: str) -> None:
        """A line that begins with the number of a lane."""
        match sign[:2].strip():
            case "+":
                self.begins(lane)
            case "-":
                self.ends(lane)
            case "!":
                self.event(lane, text)
            case "#":
                self.remark(lane, to, text)
            case "[":
                self.step(lane, text)
            case "xx":
                self.breaks(lane, int(sign[3]), text)
            case arrow:
                self.arrow(lane, arrow, int(sign[3]), text)

    # --- the whole ---

    def heads(self, bottom: float) -> Iterator[str]:
        """What is behind all: panels, names, and the lines of the lanes."""
        top = MARGIN + (20 if self.processes else 0)
        for first, last, name in self.processes:
            # Between two processes there is room for the network, unless the boxes of the steps need it.
            gap = 0.5 * MARGIN if len(self.lanes) == 2 else 3 * MARGIN
            begin = MARGIN * 1.5 if first == 1 else (self.x(first - 1) + self.x(first)) / 2 + gap
            end = WIDTH - MARGIN * 1.5 if last == len(self.lanes) else (self.x(last) + self.x(last + 1)) / 2 - gap
            place = f'x="{begin:.1f}" y="{MARGIN * 1.5}" width="{end - begin:.1f}" height="{bottom - MARGIN * 1.5:.1f}"'
            yield f'<rect {place} rx="8" class="panel"/>'
            yield f'<text x="{(begin + end) / 2:.1f}" y="{MARGIN * 1.5 + 16}" class="soft">{escape(name)}</text>'
        for lane, name in enumerate(self.lanes, 1):
            x = self.x(lane)
            width = max(len(name) * 7.4 + 14, 56)
            yield f'<path d="M{x} {top + 6} V{bottom:.1f}" class="lane"/>'
            if name:
                yield f'<rect x="{x - width / 2:.1f}" y="{top + 6}" width="{width:.1f}" height="{HEAD}" rx="5" class="box"/>'
                yield f'<text x="{x}" y="{top + 23.5}" class="name">{escape(name)}</text>'

    def svg(self) -> str:
        for lane in list(self.busy):
            self.ends(lane)
        bottom = self.y + 10
        end = bottom
        lines = [line for caption in self.captions for line in textwrap.wrap(caption, CAPTION)]
        for line in lines:
            end += LINE + 2
            self.front.append(f'<text x="{WIDTH / 2}" y="{end:.1f}" class="name">{escape(line)}</text>')
        end += 2 * MARGIN if lines else MARGIN * 1.5
        return picture([*self.heads(bottom), *self.behind, *self.front], end)


def picture(parts: list[str], height: float) -> str:
    """The file. What it shows is said by the page, as the alternative text."""
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:.0f}" width="{SHOWN}"'
        f' height="{height * SHOWN / WIDTH:.0f}">'
    )
    card = f'<rect x="0.5" y="0.5" width="{WIDTH - 1}" height="{height - 1:.0f}" rx="10" class="card"/>'
    return "\n".join([head, f"<style>{STYLE}</style>", card, *parts, "</svg>", ""])


def draw(source: str) -> str:
    """The SVG of a source.

    Raises:
        SourceError: a line of it cannot be read.
    """
    drawing = Drawing()
    lines = [line for line in source.splitlines() if line.strip()]
    heads = [line for line in lines if line.startswith(("lanes: ", "process: "))]
    for line in heads:
        drawing.say(line)
    drawing.y = MARGIN + (20 if drawing.processes else 0) + (HEAD + 12 if any(drawing.lanes) else 8)
    for line in lines:
        if line not in heads:
            drawing.say(line)
    return drawing.svg()


def main() -> None:
    if len(sys.argv) > 1:
        sys.exit(__doc__)
    for source in sorted(SOURCES.glob("*.txt")):
        (TARGETS / source.with_suffix(".svg").name).write_text(draw(source.read_text()))


if __name__ == "__main__":
    main()
