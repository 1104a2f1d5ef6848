"""A coroutine that is begun in a task which would rather do something else if it has to wait.

The task that reads a connection runs the handler of a request right there. Most handlers never wait, and
then no task was needed for them. One that does has yielded something for Trio, at its first ``await`` that
is not ready. The reading is then passed on to another task, and this one gives Trio what the handler has
yielded, and the handler whatever Trio answers, until it has ended: from there on it is a task like any other.

Neither side notices. What is yielded and sent is not looked at, and Trio's notion of the current task was
this task from the handler's first step on.
"""

from __future__ import annotations

import types
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Generator


@types.coroutine
def resume(coroutine: Coroutine[Any, Any, Any], yielded: object, run: Callable[..., Any]) -> Generator[Any, Any, Any]:
    """Goes on with a coroutine that has been sent its first None; gives its result.

    Args:
        coroutine: has yielded once.
        yielded: what that was.
        run: calls a function with one argument, in the context that the coroutine was begun in.
    """
    while True:
        try:
            answer = yield yielded
        except BaseException as exc:  # noqa: BLE001 - the coroutine's to handle
            step: Callable[[Any], Any] = coroutine.throw
            argument: object = exc
        else:
            step, argument = coroutine.send, answer
        try:
            yielded = run(step, argument)
        except StopIteration as stop:
            return stop.value
