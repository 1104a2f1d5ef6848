"""The connections of a world: their ends, their limits, and what has been done to them."""

from __future__ import annotations

import dataclasses
import math

import trio

import trpc
import trpc.testing

# More than any handler takes.
LONG = 500

LIMITS = {
    "max_calls": [1, 2, 5],
    "max_message_size": [400, 2_000, 30_000],
    "max_bytes_in_flight": [400, 2_000, 30_000],
    "max_server_bytes_in_flight": [70_000, 200_000],
    "max_unsent": [500, 5_000, 50_000],
    "stream_credit": [50, 1_000, 20_000],
    "max_streams": [1, 3],
    "max_call_time": [0.01, 1, 100],
    "control_burst": [5, 20],
    "control_rate": [1.0, 20.0],
}
# Those that may end a connection on which nothing but time passes.
TIMEOUTS = {
    "hello_timeout": [0.5, 1.0],
    "write_timeout": [0.5, 1.0],
    "frame_timeout": [0.5, 1.0],
    "keepalive_interval": [0.5, 1.0, 5.0],
    "keepalive_timeout": [0.5, 1.0, 5.0],
    "idle_timeout": [0.5, 1.0, 10.0],
}
# What makes calls fail although nothing is wrong.
BYTES = {"max_bytes_in_flight", "max_server_bytes_in_flight"}
CONTROL = {"control_burst", "control_rate"}
SMALL = {"max_calls", "max_streams"} | BYTES | CONTROL


class Listener(trio.abc.Listener):
    """Accepts the streams that it is given."""

    def __init__(self):
        self._send, self._receive = trio.open_memory_channel(0)

    async def connect(self, stream):
        await self._send.send(stream)

    async def accept(self):
        return await self._receive.receive()

    async def aclose(self):
        self._receive.close()
        await trio.lowlevel.checkpoint()


@dataclasses.dataclass(eq=False)
class Generation:
    """One server, until another one takes its place.

    Attributes:
        listener, server: its own.
        grace: that of its drain, once it has begun.
    """

    listener: Listener
    server: trpc.Server
    grace: float | None = None


@dataclasses.dataclass(eq=False)
class Link:
    """One connection, and what has been done to it.

    Attributes:
        number: its place in ``World.links``.
        line: what is between the client and the server.
        ours, theirs: their streams.
        generation: the server.
        is_cut: whether it was made to break, or may have.
        is_left: whether the client is closed while it is used.
        has_timeouts: whether a connection of the world may end because time passes.
        token: what the client shows.
        is_refused: whether the server does not accept that.
    """

    number: int
    line: trpc.testing.Link
    ours: object
    theirs: object
    generation: Generation
    client_limits: trpc.Limits
    server_limits: trpc.Limits
    is_cut: bool = False
    is_left: bool = False
    has_timeouts: bool = False
    token: str | None = None
    is_refused: bool = False

    @property
    def name(self):
        return f"link {self.number}"

    @property
    def smallest_message(self):
        return min(self.client_limits.max_message_size, self.server_limits.max_message_size)

    def has_small(self, names=SMALL):
        """Whether one side has a limit of these that is not the default."""
        return any(
            getattr(limits, name) != getattr(trpc.Limits(), name)
            for limits in (self.client_limits, self.server_limits)
            for name in names
        )

    @property
    def has_small_bytes(self):
        return self.has_small(BYTES)

    @property
    def has_call_time(self):
        return math.inf not in {self.client_limits.max_call_time, self.server_limits.max_call_time} or (
            self.client_limits.max_call_time != self.server_limits.max_call_time
        )

    def limits_of(self, call):
        """Those of the side that is called."""
        return self.client_limits if call.depth % 2 else self.server_limits

    @property
    def may_be_refused(self):
        """Whether a server may say that it takes no more calls, or give up a client that is too slow or sends too much."""
        return self.generation.grace is not None or self.is_cut or self.has_timeouts or self.has_small(CONTROL)

    @property
    def may_miss_refusal(self):
        """Whether the server cannot wait for the client's end, so that its close may come before its last words are read."""
        is_ended = self.generation.grace is not None or self.is_refused
        return is_ended and not isinstance(self.theirs, trio.abc.HalfCloseableStream)

    def may_be_lost(self, call):
        grace = self.generation.grace
        is_drained = grace is not None and (call.method == "ping" or grace < LONG)
        # A ping is in no order with calls: it is lost with a connection that is refused.
        is_refused = self.is_refused and call.method == "ping"
        return self.is_cut or self.is_left or is_drained or is_refused or self.has_timeouts or self.has_small(CONTROL)
