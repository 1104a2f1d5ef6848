"""The limits, with the reason for its default beside each."""

from __future__ import annotations

import dataclasses
import math
from typing import Final

KiB: Final = 1024
MiB: Final = 1024 * KiB

# Half of what the length field of a frame can say; more than anybody wants in memory at once.
MAX_SIZE: Final = 2**31
# Something a second: once in thirty years.
MIN_RATE: Final = 1e-9


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

    max_bytes_in_flight: int = 64 * MiB
    """Bytes of the peer's messages that are held here for it, per connection: requests whose handlers have not ended, large
    messages that are on their way. Decoded, they may be many times as large: docs/memory.md has the formula. Four of the
    largest messages at once. It is announced, and the other side keeps its calls below it."""

    max_server_bytes_in_flight: int = 512 * MiB
    """The same, of all connections of a server together. Eight connections at their limit. A connection with less
    than 64 KiB is always served."""

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

    max_connections: int = 10_000
    """Connections of a server at once; those above are told so and closed. An idle one takes some 10 KiB here and
    as much in the kernel, which is 200 MiB; most systems want to be asked for more descriptors before that."""

    hello_timeout: float = 5.0
    """Seconds until the peer's hello has to be there, and once more for ``authenticate``. The hello is the first thing
    that a peer sends, so this is one round trip and some patience."""

    tls_timeout: float = 10.0
    """Seconds for the TLS handshake: two round trips and the work of a slow machine, which is more than a hello takes."""

    write_timeout: float = 10.0
    """Seconds in which a write has to make progress: be it a byte, over sockets and TLS over sockets. Of other streams it
    is seen for each 64 KiB only, so give more time to one below 6.5 KiB/s. A peer that reads nothing at all for so long
    is stopped or gone, and what waits for it takes memory here."""

    frame_timeout: float = 30.0
    """Seconds in which a frame that has begun has to be complete; who sends a byte now and then does not hold a buffer
    for longer. Large messages come in frames of about a MiB, so this is a line of 35 KiB/s. Over a slower one a message of
    that size never arrives, however often it is repeated: raise this on the side that receives it."""

    keepalive_interval: float = 20.0
    """Seconds of silence after which the peer is pinged. Below the 30 s after which the first middleboxes forget a
    connection, and rare enough to cost nothing."""

    keepalive_timeout: float = 20.0
    """Seconds in which anything has to come after that ping. A network that loses packets for 10 s is survived."""

    idle_timeout: float = math.inf
    """Seconds without a call in flight, in either direction, after which a connection is closed. No bound by default:
    to keep one is cheap, and to make one is not."""

    max_call_time: float = math.inf
    """Seconds that a handler may run. No bound by default: the caller's deadline is the bound."""

    control_burst: int = 1000
    """Cancels, pings and requests that are refused before a handler runs, which the peer may send at once. All the calls
    that it may have in flight can be cancelled together. Beyond it the connection is closed."""

    control_rate: float = 100.0
    """And how many more each second. They cost the peer nothing, and this side some work each (rapid reset,
    CVE-2023-44487). It is announced, and the other side of a connection keeps its cancels below it: with the defaults
    500 at once, and 90 a second. If it has more, they wait, while the handlers run on and keep their places. For
    clients that leave more streams or calls than that, raise both on the server."""

    drain_grace: float = 10.0
    """Seconds that ``server.drain()`` gives the calls in flight, if it is not told. Service managers wait for 10 s
    (``docker stop``) to 90 s (systemd) before they kill."""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if not value > 0:
                raise ValueError(f"Limits.{field.name} must be positive, not {value!r}")
            if field.name == "control_rate" and value < MIN_RATE:
                raise ValueError(f"Limits.control_rate must be at least {MIN_RATE}, not {value!r}")
            # Those without a fraction are counted in whole numbers, on the wire too.
            if isinstance(field.default, int) and not (isinstance(value, int) and value <= MAX_SIZE):
                raise ValueError(f"Limits.{field.name} must be an integer up to {MAX_SIZE}, not {value!r}")
