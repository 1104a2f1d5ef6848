"""A log of calls, for either side."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import trio

from ._exceptions import public_name

if TYPE_CHECKING:
    from ._interceptors import Call, Proceed

logger = logging.getLogger("trpc.calls")


async def log_calls(call: Call, proceed: Proceed) -> Any:
    """An interceptor that logs how each call has ended, and how long it took, under ``trpc.calls``.

    ``Calculator.add from 127.0.0.1:51234: done after 0.4 ms`` on the serving side, ``to`` the peer on the other. At
    DEBUG what has returned, at INFO what was cancelled, at WARNING what has failed or run into its deadline. Of an
    error there is the class and not the text, as arguments, metadata and messages may be secret.

    Args:
        call: what is logged.
        proceed: makes the call.

    Raises:
        BaseException: what the call raises; a cancel is logged, and passes too.
    """
    start = trio.current_time()
    deadline = trio.current_effective_deadline()
    level, outcome = logging.DEBUG, "done"
    try:
        return await proceed(call)
    except trio.Cancelled:
        level, outcome = logging.INFO, "cancelled"
        if trio.current_time() >= deadline:
            level, outcome = logging.WARNING, "the deadline has passed"
        raise
    except BaseException as exc:  # raised again: it is only noted
        level, outcome = logging.WARNING, public_name(type(exc))
        raise
    finally:
        way = "from" if call.is_incoming else "to"
        milliseconds = (trio.current_time() - start) * 1000
        logger.log(level, "%s %s %s: %s after %.1f ms", call.method, way, call.peer, outcome, milliseconds)
