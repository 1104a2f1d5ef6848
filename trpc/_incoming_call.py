"""One call that the peer has made: what is known of it, and how it is run and ends."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Protocol

from ._activity import CallInfo

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from typing import Any

    import trio

    from ._activity import CallState
    from ._client import Client
    from ._errors import RPCError
    from ._incoming_stream import IncomingStream
    from ._interceptors import Interceptor
    from ._messages import Request
    from ._outgoing_stream import OutgoingStream
    from ._peer import Peer
    from ._service import BoundMethod
    from ._workers import Worker


class Owner(Protocol):
    """What runs the calls of one connection, and replies: its dispatcher."""

    peer: Peer
    interceptors: tuple[Interceptor, ...]

    @property
    def client(self) -> Client:
        """For calls in the other direction."""
        ...

    @property
    def draining(self) -> trio.Event:
        """Set when no more calls are accepted."""
        ...

    def begin(self, call: IncomingCall, worker: Worker) -> Coroutine[Any, Any, None] | None:
        """Runs the handler until it waits; gives what is left of it then."""
        ...

    def finish_cancelled(self, call: IncomingCall) -> None:
        """The handler has ended by the cancel of its scope."""
        ...

    def report_open_scope(self, call: IncomingCall) -> None:
        """The handler has not left a cancel scope that it had entered."""
        ...

    def finish_raised(self, call: IncomingCall, exc: BaseException) -> None:
        """The handler has raised. Raises what must not stay with the call."""
        ...


class IncomingCall:
    """One call of the peer's, until its handler has ended and the reply is queued."""

    __slots__ = (
        "bad_item",
        "cancelled",
        "deadline",
        "expires",
        "id",
        "is_held",
        "items",
        "method",
        "one_way",
        "owner",
        "request",
        "scope",
        "size",
        "started",
        "streams",
    )

    def __init__(
        self,
        owner: Owner,
        call_id: int,
        method: BoundMethod,
        request: Request,
        started: float,
        one_way: bool,
        size: int,
    ) -> None:
        self.owner = owner
        self.id = call_id
        self.method = method
        self.request = request
        self.one_way = one_way
        self.size = size
        self.is_held = False
        """Whether its size counts among the bytes in flight."""
        self.started = started
        self.deadline = math.inf
        self.expires = False
        """Whether the deadline is the caller's; else it is a limit of this side."""
        self.scope: trio.CancelScope | None = None
        """What the handler runs in, once it does."""
        self.cancelled = False
        self.items: OutgoingStream | None = None
        """The stream that is its result."""
        self.streams: dict[int, IncomingStream] | None = None
        """Its arguments that are streams."""
        self.bad_item: RPCError | None = None
        """What the handler was told of an item that does not fit."""

    @property
    def info(self) -> CallInfo:
        """How it is now, for people to look at."""
        scope = self.scope
        if scope is None:
            state: CallState = "waiting"
        else:
            state = "cancelling" if self.cancelled or scope.cancel_called else "running"
        return CallInfo(self.method.name, self.owner.peer, self.started, self.deadline, state)

    async def run(self, worker: Worker) -> None:
        """Runs it in a worker that does nothing else meanwhile."""
        suspended = self.owner.begin(self, worker)
        if suspended is not None:
            await suspended

    def on_cancelled(self) -> None:
        self.owner.finish_cancelled(self)

    def on_scope_left_open(self) -> None:
        self.owner.report_open_scope(self)

    def on_raised(self, exc: BaseException) -> None:
        self.owner.finish_raised(self, exc)
