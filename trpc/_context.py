"""What travels with a call without being an argument: the current call, and metadata."""

from __future__ import annotations

import contextlib
import contextvars
import dataclasses
from typing import TYPE_CHECKING, NamedTuple

from ._messages import MetadataValue, is_metadata_value

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping


@dataclasses.dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class Peer:
    """The other end of one connection.

    There is one object per connection, compared by identity and usable as a key of a
    ``weakref.WeakKeyDictionary``: that is how a service keeps state per connection.

    Attributes:
        address: where it is, for people to read: ``"127.0.0.1:51234"``, ``"unix:/run/app.sock"``.
    """

    address: str

    def __str__(self) -> str:
        return self.address


class CurrentCall(NamedTuple):
    """The call that a handler serves.

    Attributes:
        method: its name on the wire, such as ``"Calculator.add"``.
        peer: who called.
        metadata: what the caller sent with ``trpc.metadata``; empty if nothing.
        deadline: absolute, in ``trio.current_time()`` seconds; ``math.inf`` if there is none.
    """

    method: str
    peer: Peer
    metadata: Mapping[str, MetadataValue]
    deadline: float


_current_call: contextvars.ContextVar[CurrentCall] = contextvars.ContextVar("trpc.current_call")
_metadata: contextvars.ContextVar[Mapping[str, MetadataValue] | None] = contextvars.ContextVar(
    "trpc.metadata", default=None
)


def current_call() -> CurrentCall:
    """The call that is being handled; also in threads and tasks that its handler started.

    Raises:
        RuntimeError: not inside a handler.
    """
    try:
        return _current_call.get()
    except LookupError:
        raise RuntimeError("trpc.current_call() works only inside a method that a peer has called") from None


@contextlib.contextmanager
def metadata(**values: MetadataValue) -> Generator[None, None, None]:
    """Calls made inside the ``with`` block carry these values, and those of the blocks around it.

    A handler reads them from ``current_call().metadata``. They go one hop: a handler that wants to pass
    them on says ``with trpc.metadata(**trpc.current_call().metadata)``.

    Raises:
        TypeError: a value is not a str, bytes, int, float, bool or None.
    """
    for key, value in values.items():
        if not is_metadata_value(value):
            raise TypeError(f"metadata {key!r} must be a str, bytes, int, float, bool or None, not {value!r}")
    token = _metadata.set({**(_metadata.get() or {}), **values})
    try:
        yield
    finally:
        _metadata.reset(token)


# What the next call carries. Without a function around it, as it is asked for each call.
outgoing_metadata: Callable[[], Mapping[str, MetadataValue] | None] = _metadata.get


def context_for_calls() -> contextvars.Context:
    """A copy of the present context for handlers to start from: their own calls carry no metadata of somebody else."""
    context = contextvars.copy_context()
    if _metadata.get() is not None:
        context.run(_metadata.set, None)
    return context


# Makes a call the current one of this context; without a function around it, as this is done for each call.
enter_call: Callable[[CurrentCall], object] = _current_call.set
