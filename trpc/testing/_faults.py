"""What can be wrong with the way of the bytes in one direction of a connection."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, Final, Literal


@dataclasses.dataclass(frozen=True, kw_only=True, repr=False)
class Faults:
    """How bytes travel in one direction of a connection. By default: all at once, and without a limit.

    Offsets count the bytes of that direction from the beginning of the connection; ``Direction.sent`` says how many there
    are. It is frozen: ``dataclasses.replace(faults, latency=1)`` makes another one.

    Attributes:
        latency: seconds that each byte is on its way.
        jitter: up to so many seconds more, chosen anew for each write; with a ``bandwidth``, for each packet. The order stays.
        bandwidth: bytes per second. A write arrives bit by bit then, in packets of 1,024 bytes.
        slices: a read gives at most so many bytes, often fewer; 1: one at a time; None: all that has arrived.
        window: bytes that may be on their way, or wait to be read, before writing has to wait.
        cut_after: the connection is cut behind so many bytes; None: it is not.
        cut: how. ``"eof"``: the reader sees the end of the stream, and all further bytes are swallowed, as if the sender's
            system had gone. ``"reset"``: the reader gets the bytes before, then both ends break.
        drop: bytes at these offsets never arrive, and nobody is told: ``range(100, 120)``, or all from there on with
            ``range(100, sys.maxsize)``. None: all arrive.
        corrupt: bytes at these offsets arrive with all their bits inverted. None: all arrive as they were sent.

    Raises:
        ValueError: one of them is no such number, or no such range.
    """

    latency: float = 0.0
    jitter: float = 0.0
    bandwidth: float = math.inf
    slices: int | None = None
    window: int = 64 * 1024
    cut_after: int | None = None
    cut: Literal["eof", "reset"] = "reset"
    drop: range | None = None
    corrupt: range | None = None

    def __post_init__(self) -> None:
        for name in ("latency", "jitter"):
            value = getattr(self, name)
            self._check(name, _is_number(value) and 0 <= value < math.inf, "a number of seconds, 0 or more")
        self._check("bandwidth", _is_number(self.bandwidth) and self.bandwidth > 0, "bytes per second, more than 0")
        self._check("slices", self.slices is None or _is_count(self.slices, 1), "a number of bytes, 1 or more, or None")
        self._check("window", _is_count(self.window, 1), "a number of bytes, 1 or more")
        is_offset = self.cut_after is None or _is_count(self.cut_after, 0)
        self._check("cut_after", is_offset, "a number of bytes, 0 or more, or None")
        self._check("cut", self.cut in ("eof", "reset"), 'either "eof" or "reset"')
        for name in ("drop", "corrupt"):
            is_range = getattr(self, name) is None or _is_range(getattr(self, name))
            self._check(name, is_range, "a range of offsets, such as range(100, 120), with no step, or None")

    def _check(self, name: str, is_right: bool, wanted: str) -> None:
        if not is_right:
            raise ValueError(f"Faults.{name} is {wanted}, not {getattr(self, name)!r}")

    def __repr__(self) -> str:
        """With what is not as by default."""
        changed = [
            f"{field.name}={value!r}"
            for field in dataclasses.fields(self)
            if (value := getattr(self, field.name)) != field.default
        ]
        return f"Faults({', '.join(changed)})"


# Of users without types, too.
def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_count(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _is_range(value: Any) -> bool:
    return isinstance(value, range) and value.step == 1 and value.start >= 0


# All is well.
NO_FAULTS: Final = Faults()
