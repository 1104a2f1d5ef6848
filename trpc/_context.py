"""The current call: what a handler may know of the call that it serves."""

from __future__ import annotations

import contextvars
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import trio

    from ._client import Client
    from ._messages import MetadataValue
    from ._peer import Peer


class HasClient(Protocol):
    """Where the client of a connection comes from."""

    @property
    def client(self) -> Client:
        """For calls in the other direction."""
        ...


class CallOwner(HasClient, Protocol):
    """What runs a call."""

    @property
    def draining(self) -> trio.Event:
        """Set when no more calls are accepted."""
        ...


class CurrentCall(NamedTuple):
    """The call that a handler serves.

    Attributes:
        method: its name on the wire, such as ``"Calculator.add"``.
        peer: who called.
        metadata: what the caller sent with ``trpc.metadata``; empty if nothing.
        deadline: absolute, in ``trio.current_time()`` seconds; ``math.inf`` if there is none.
        owner: where the others come from; of no use otherwise.
    """

    method: str
    peer: Peer
    metadata: Mapping[str, MetadataValue]
    deadline: float
    owner: CallOwner

    def __repr__(self) -> str:
        return f"<call of {self.method} from {self.peer}, metadata {self.metadata!r}, deadline {self.deadline}>"

    @property
    def client(self) -> Client:
        """For calls back to the caller, of what it serves with ``trpc.connect(url, service=...)``.

        It is the same for all calls of a connection, and usable as long as that lasts. A call that a handler makes
        is bounded by its own deadline, and cancelled with it. If as many calls to the peer are in flight as it allows,
        one that a handler makes raises ``Overloaded``: it might wait for ever for those that wait for it.
        """
        return self.owner.client

    @property
    def draining(self) -> trio.Event:
        """Set when the server is about to stop: a handler that runs for long, or streams, should come to its end.

        See ``Server.drain``. Nothing sets it for what a client serves, with ``trpc.connect(url, service=...)``.
        """
        return self.owner.draining


_current_call: contextvars.ContextVar[CurrentCall] = contextvars.ContextVar("trpc.current_call")


def current_call() -> CurrentCall:
    """The call that is being handled; also in threads and tasks that its handler started.

    Raises:
        RuntimeError: not inside a handler.
    """
    try:
        return _current_call.get()
    except LookupError:
        raise RuntimeError("trpc.current_call() works only inside a method that a peer has called") from None


def is_handling_for(peer: Peer) -> bool:
    """Whether a call of this peer's is being handled here."""
    call = _current_call.get(None)
    return call is not None and call.peer is peer


# Makes a call the current one of this context; without a function around it, as this is done for each call.
enter_call: Callable[[CurrentCall], contextvars.Token[CurrentCall]] = _current_call.set
# Makes the one before it the current one again.
leave_call: Callable[[contextvars.Token[CurrentCall]], None] = _current_call.reset
