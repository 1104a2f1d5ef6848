"""What is done around calls, on either side: the types, and how several are put around one call."""

from __future__ import annotations

import dataclasses
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from ._messages import MetadataValue
    from ._peer import Peer


@dataclasses.dataclass(frozen=True, slots=True)
class Call:
    """A call, as an interceptor sees it: ``dataclasses.replace(call, args=...)`` makes another one to proceed with.

    Attributes:
        method: its name on the wire, such as ``"Calculator.add"``. It cannot be replaced.
        args: positional arguments: as the handler gets them on the serving side, as they were given on the other.
        kwargs: those with a keyword.
        metadata: what travels with it; empty if nothing.
        peer: who has called on the serving side, who is called on the other. It cannot be replaced.
        is_incoming: whether this is the serving side.
    """

    method: str
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    metadata: Mapping[str, MetadataValue]
    peer: Peer
    is_incoming: bool = False


Proceed = Callable[[Call], Awaitable[Any]]
Interceptor = Callable[[Call, Proceed], Awaitable[Any]]
"""``async def interceptor(call, proceed)``; it gives what the call gives, as a rule what ``await proceed(call)`` does."""


def checked(interceptors: Iterable[Interceptor]) -> tuple[Interceptor, ...]:
    """The same, as they are kept.

    Raises:
        TypeError: one cannot be called, or is given without a sequence around it.
    """
    if callable(interceptors):
        raise TypeError(f"interceptors is a sequence of them: interceptors=[{interceptors!r}]")
    interceptors = tuple(interceptors)
    for interceptor in interceptors:
        if not callable(interceptor):
            raise TypeError(
                f"an interceptor is an async function with two parameters, call and proceed, not {interceptor!r}"
            )
    return interceptors


async def intercepted(interceptors: Sequence[Interceptor], call: Call, handle: Proceed) -> Any:
    """Makes a call with interceptors around it, the first one outermost; gives what that gives.

    Args:
        interceptors: what is put around it.
        call: what the outermost one gets.
        handle: what is done when the innermost one proceeds.

    Raises:
        Exception: whatever the outermost one raises.
    """

    async def innermost(final: Call) -> Any:
        if final.method != call.method or final.peer is not call.peer:
            raise ValueError(f"{call.method}: an interceptor cannot have the call go to another method or peer")
        return await handle(final)

    proceed: Proceed = innermost
    for interceptor in reversed(interceptors):
        proceed = _around(interceptor, proceed)
    return await proceed(call)


def _around(interceptor: Interceptor, proceed: Proceed) -> Proceed:
    return lambda call: interceptor(call, proceed)
