"""The limits, with the reason for its default beside each."""

from __future__ import annotations

import dataclasses
import math
from typing import Final

KiB: Final = 1024
MiB: Final = 1024 * KiB

# Half of what the length field of a frame can say; more than anybody wants in memory at once.
MAX_SIZE: Final = 2**31


@dataclasses.dataclass(frozen=True, kw_only=True)
class Limits:
    """What one side accepts from the other. Frozen; the same class serves both sides.

    Sizes are in bytes, times in seconds of Trio's clock. A side announces its limits in its hello, and
    the other obeys them before it sends, so that a limit is met as a clear local error.

    Raises:
        ValueError: a limit is not a positive number, or not an integer where it counts something.
    """

    max_message_size: int = 16 * MiB
    """Body of one request or reply. Large enough for an image or a table, small enough that the 1,000
    connections of a busy server cannot fill its memory with one message each."""

    max_hello_size: int = 16 * KiB
    """Body of the first message, which comes from somebody unknown. A hello has some hundred bytes;
    the rest is room for credentials."""

    max_depth: int = 64
    """Nesting of arrays and maps in a message. Hand-written data is below 10; recursive code that walks
    it must not meet Python's recursion limit."""

    max_calls: int = 1000
    """Calls in flight per connection, counted until the handler has ended; an open stream is one. With a Trio
    task and its scopes at a few KiB each, this is some MiB per connection."""

    max_unsent: int = 4 * MiB
    """Bytes that wait to be written to a peer that reads slowly, a large message counting for a MiB. Above it
    in answers to what the peer has sent, it is not read any more until it reads; above it in all, new calls to it
    wait, and so do the producers of streams."""

    stream_credit: int = 512 * KiB
    """Bytes of one stream that its sender may be ahead of its consumer here. Each open stream may hold as
    much, and one item more. It bounds the speed over a network to this much per round trip."""

    max_streams: int = 128
    """Arguments of the peer's calls that are streams, per connection. With their credit, 64 MiB. It is not announced:
    a call over it gets an ``Overloaded``."""

    max_incomplete: int = 64 * MiB
    """Bytes of the peer's requests that arrive in fragments and are not complete yet: some large requests at
    once, and no more memory for a peer that begins many and completes none. One request always fits."""

    hello_timeout: float = 5.0
    """Seconds until the peer's hello has to be there. It is the first thing that a peer sends, so this is
    one round trip and some patience."""

    max_call_time: float = math.inf
    """Seconds that a handler may run. No bound by default: the caller's deadline is the bound."""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if not value > 0:
                raise ValueError(f"Limits.{field.name} must be positive, not {value!r}")
            # Those without a fraction are counted in whole numbers, on the wire too.
            if isinstance(field.default, int) and not (isinstance(value, int) and value <= MAX_SIZE):
                raise ValueError(f"Limits.{field.name} must be an integer up to {MAX_SIZE}, not {value!r}")
