"""The interceptors of the serving side: around the handler, with its arguments as it gets them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from ._context import current_call, enter_call, leave_call
from ._errors import InvalidArguments, MethodNotFound, Overloaded, RPCError, Unauthenticated, Unavailable
from ._interceptors import Call, intercepted
from ._replies import NotRunError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from ._incoming_call import IncomingCall
    from ._service import BoundMethod

# What says of itself that nothing was executed. It reaches the caller as that, if it is true.
_NOT_EXECUTED: Final = frozenset({InvalidArguments, MethodNotFound, Overloaded, Unauthenticated, Unavailable})


async def run_intercepted(
    call: IncomingCall,
    bound: BoundMethod,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    run: Callable[[IncomingCall, BoundMethod, Call], Awaitable[Any]],
) -> Any:
    """Runs the interceptors, and the handler as often as they proceed; gives what the outermost one gives.

    Args:
        call: one of the peer's, which is the current one.
        bound: its method.
        args: positional arguments, converted.
        kwargs: those with a keyword, as well.
        run: runs the handler.

    Raises:
        NotRunError: an interceptor refuses the call.
        Exception: whatever the outermost one raises.
    """
    current = current_call()
    has_run = False

    async def handle(given: Call) -> Any:
        nonlocal has_run
        if has_run and (call.items is not None or call.streams):
            raise RuntimeError(f"{bound.name} has streams, so that an interceptor can proceed with it only once")
        has_run = True
        if given.metadata is current.metadata:
            return await run(call, bound, given)
        token = enter_call(current._replace(metadata=given.metadata))
        try:
            return await run(call, bound, given)
        finally:
            leave_call(token)

    original = Call(bound.name, tuple(args), kwargs, current.metadata, current.peer, is_incoming=True)
    try:
        value = await intercepted(call.owner.interceptors, original, handle)
    except RPCError as exc:
        if has_run or type(exc) not in _NOT_EXECUTED:
            raise
        raise NotRunError(exc) from exc
    # A stream has its items, and nothing else.
    return value if call.items is None else None
