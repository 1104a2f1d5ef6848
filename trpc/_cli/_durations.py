"""Durations, as they are written on the command line and shown."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Any, Final

import click

if TYPE_CHECKING:
    _SecondsType = click.ParamType[float]
else:
    # Before click 8.4 it takes no parameter.
    _SecondsType = click.ParamType

_UNITS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "": 1.0}
_DURATION: Final = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)(ms|s|m|h|)", re.ASCII)


class Duration(_SecondsType):
    """Seconds, from ``2``, ``2s``, ``500ms``, ``1.5m`` or ``1h``."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """The seconds of what was written. It is more than 0."""
        if isinstance(value, int | float):
            return float(value)
        match = _DURATION.fullmatch(str(value).strip())
        seconds = float(match[1]) * _UNITS[match[2]] if match else 0.0
        if not 0 < seconds < math.inf:
            self.fail(f"{value!r} is not a duration above 0, such as 2s, 500ms, 1.5m or 1h", param, ctx)
        return seconds


DURATION: Final = Duration()


def shown(seconds: float) -> str:
    """A short time with three digits: ``0.123 ms``, ``45.6 ms``, ``1.20 s``."""
    if seconds < 1:
        milliseconds = seconds * 1000
        return f"{milliseconds:.{3 if milliseconds < 1 else 2 if milliseconds < 10 else 1 if milliseconds < 100 else 0}f} ms"
    return f"{seconds:.2f} s" if seconds < 10 else f"{seconds:.1f} s"


def shown_long(seconds: float) -> str:
    """A time as clocks have it: ``4.2s``, ``3m05s``, ``2h07m``, ``3d04h``."""
    if seconds < 60:
        return f"{seconds:.1f}s"
    minutes, rest = divmod(int(seconds), 60)
    if minutes < 60:
        return f"{minutes}m{rest:02}s"
    hours, minutes = divmod(minutes, 60)
    if hours < 24:
        return f"{hours}h{minutes:02}m"
    return f"{hours // 24}d{hours % 24:02}h"
