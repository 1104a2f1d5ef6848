"""The attacks: what each sends, what may become of its connections, and what it may cost."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from . import calls, crude, streams

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from .peers import Peer

MiB = 1024 * 1024

LIMITS = {
    # The connections of the flood and of some others; the well-behaved have theirs before that.
    "max_connections": 600,
    # What is waited for in an attack that takes seconds. All other limits are the default ones.
    "hello_timeout": 2.0,
    "tls_timeout": 2.0,
    "write_timeout": 1.0,
    "frame_timeout": 1.0,
    "keepalive_interval": 2.0,
    "keepalive_timeout": 2.0,
}

GROWTH = 48 * MiB
"""What the server's memory may grow by if nothing else is said: some buffers for each connection, the tasks of 1,000
calls on some of them, and what the allocator does not give back."""

TIMES = 20.0
"""How many times as long the slowest hundredth of the others' calls may take. What is refused or waits takes next to no
time; the rest is what a machine with two processors and three busy processes needs."""

SATURATED = 100.0
"""The same, where each connection of the attacker's has its turn of some milliseconds in each pass of the server's event
loop, and a call waits for one pass or two. Alone, it takes less than a millisecond."""

ONE_LARGE = 1000.0
"""The same, where one message takes as long as one of the largest size may take, some tenths of a second: nothing else
runs meanwhile."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Attack:
    """One of them.

    Attributes:
        once: what it does on one connection, behind which it waits until the server has closed it.
        make: makes what is sent, once, before time counts.
        connections: how many at once. When one is closed, the next one is opened.
        must_close: the server has to close every connection within ``patience`` seconds.
        reads: whether it takes what the server sends.
        growth: bytes that the server's memory may grow by.
        times: how many times as long as without it may the slowest hundredth of the others' calls take.
        port: the one for TLS or the plain one.
        full: it takes all connections that the server has, so that nobody can come newly.
    """

    once: Callable[[Peer], Awaitable[None]]
    make: Callable[[], object] | None = None
    connections: int = 4
    must_close: bool = False
    patience: float = 0.0
    reads: bool = True
    growth: int = GROWTH
    times: float = TIMES
    port: str = "plain"
    full: bool = False

    def prepare(self) -> None:
        if self.make is not None:
            self.make()


def _closed(once, patience=5.0, **options) -> Attack:
    """One whose connections the server has to close."""
    return Attack(once=once, must_close=True, patience=patience, **options)


def _open(once, **options) -> Attack:
    """One that keeps to the rules, though it means no good: it may stay."""
    return Attack(once=once, **options)


ATTACKS = {
    "zero_length": _closed(crude.zero_length),
    "over_limit": _closed(crude.over_limit),
    "longest": _closed(crude.longest),
    "http": _closed(crude.http),
    "tls_to_plain": _closed(crude.tls_to_plain),
    "random_bytes": _closed(crude.random_bytes),
    "connection_flood": _open(crude.idle, connections=1000, full=True, patience=1.0),
    "slow_handshake": _closed(crude.half_hello, connections=200),
    "stalled_tls": _closed(crude.half_tls, connections=100, port="tls"),
    # As many bytes as all connections together may have in flight.
    "half_frames": _closed(crude.half_frame, connections=100, growth=560 * MiB),
    # For each connection what waits to be written, and the requests that are read in one go.
    "never_reads": _closed(calls.never_reads, connections=8, reads=False, growth=8 * 8 * MiB),
    "rapid_reset": _closed(calls.rapid_reset, times=SATURATED),
    "ping_flood": _closed(calls.ping_flood, times=SATURATED),
    "unknown_methods": _closed(calls.unknown_methods, times=SATURATED),
    "bad_arguments": _closed(calls.bad_arguments, times=SATURATED),
    "notify_flood": _open(calls.notify_flood, times=SATURATED),
    "notify_overload": _closed(calls.notify_overload, times=SATURATED),
    "header_bomb": _open(calls.header_bomb, make=calls.header_bomb_frame, growth=64 * MiB, times=SATURATED),
    # The message itself, twice, and as many containers as a body may have.
    "empty_maps": _open(
        calls.empty_maps, make=calls.empty_maps_frame, connections=1, growth=(2 * 16 + 25 + 48) * MiB, times=SATURATED
    ),
    "deep": _open(calls.deep, make=calls.deep_frame),
    # What all connections together may have in flight, and twice that where bytes are copied out of a message.
    "calls_in_flight": _open(calls.calls_in_flight, connections=20, growth=2 * 560 * MiB, times=SATURATED),
    # 40 times what is on the wire.
    "huge_metadata": _open(
        calls.huge_metadata, make=calls.huge_metadata_frame, connections=1, growth=16 * 40 * MiB, times=ONE_LARGE
    ),
    "ids_reused": _closed(calls.ids_reused),
    "ids_decreasing": _closed(calls.ids_decreasing),
    "future_cancels": _closed(calls.future_cancels),
    "fragments_unfinished": _open(streams.fragments_unfinished, connections=20, growth=600 * MiB),
    "streams_unfed": _closed(streams.unfed, times=SATURATED),
    # Each stream that waits for credit holds what was gathered for it: 1,000 on each connection.
    "streams_uncredited": _closed(streams.uncredited, connections=2, growth=96 * MiB, times=SATURATED),
    "credit_overflow": _closed(streams.credit_overflow, times=SATURATED),
    "credit_beyond": _closed(streams.credit_beyond),
}
