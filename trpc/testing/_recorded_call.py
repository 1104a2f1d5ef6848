"""One call that was made, and what a test expects of one."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, Final, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .. import Peer
    from .._messages import MetadataValue

# Characters of a value in a message: enough to know it by.
_LONG: Final = 200


@dataclasses.dataclass(eq=False, kw_only=True)
class RecordedCall:
    """A call that a :class:`Recorder` has seen. ``str(call)`` is a line such as ``Calculator.add(1, 2) -> 3``.

    Attributes:
        method: its name on the wire, such as ``"Calculator.add"``.
        args: positional arguments, as they were when the call began. On the serving side: all that were sent and that the
            handler takes so.
        kwargs: those with a keyword.
        metadata: what came with it; empty if nothing.
        peer: who has called, or who is called if the recorder is the client's.
        started: when it began, in ``trio.current_time()`` seconds.
        ended: when it ended; None: it is running.
        outcome: what has become of it: ``"running"``, ``"returned"``, ``"raised"`` or ``"cancelled"``.
        value: what it has returned, as it was then. None of a method that gives a stream: it has returned when that ended.
        error: what it has raised, or None.
    """

    method: str
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    metadata: Mapping[str, MetadataValue]
    peer: Peer
    started: float
    ended: float | None = None
    outcome: Literal["running", "returned", "raised", "cancelled"] = "running"
    value: Any = None
    error: BaseException | None = None

    def __str__(self) -> str:
        called = written(self.method, self.args, self.kwargs)
        if self.outcome == "returned":
            return f"{called} -> {_short(self.value)}"
        if self.outcome == "raised":
            return f"{called} raised {_short(self.error)}"
        return f"{called} {'is running' if self.outcome == 'running' else 'was cancelled'}"

    def __repr__(self) -> str:
        return f"<{self}>"


@dataclasses.dataclass(frozen=True, slots=True)
class ExpectedCall:
    """What :func:`expected` gives.

    Attributes:
        method: the name on the wire.
        args: positional arguments; None: any arguments, those with a keyword as well.
        kwargs: those with a keyword.
    """

    method: str
    args: tuple[Any, ...] | None
    kwargs: Mapping[str, Any]

    def matches(self, call: RecordedCall) -> bool:
        """Whether it is such a call."""
        if self.method != call.method:
            return False
        # The expected value is on the left: what equals anything is asked first.
        return self.args is None or (self.args == call.args and self.kwargs == call.kwargs)

    def __str__(self) -> str:
        return f"{self.method}(...)" if self.args is None else written(self.method, self.args, self.kwargs)


class _NoArguments:
    """Stands for no arguments in what is expected of a call, as ``recorder.assert_called("Stock.report", NO_ARGUMENTS)``."""

    def __repr__(self) -> str:
        return "NO_ARGUMENTS"


NO_ARGUMENTS: Final = _NoArguments()
"""Stands for no arguments in what is expected of a call, as ``recorder.assert_called("Stock.report", NO_ARGUMENTS)``."""


def expected(method: str, /, *args: object, **kwargs: object) -> ExpectedCall:
    """A call with these arguments and no others, for ``recorder.assert_calls([expected("Calculator.add", 1, 2)])``.

    Without arguments: a call with any. ``expected("Stock.report", NO_ARGUMENTS)``: one that has none.

    Arguments are compared with ``==``; ``unittest.mock.ANY`` equals all of them. On the calling side they are as the caller has
    written them. On the serving side they are those that the handler gets: converted to the types that it takes, and
    positional wherever it takes them so. What the caller has left out is not among them, though the handler has a
    default for it.

    Raises:
        TypeError: the method is no text, or there are other arguments beside ``NO_ARGUMENTS``.
    """
    if not isinstance(method, str):  # pyright: ignore[reportUnnecessaryIsInstance] - of users without types
        raise TypeError(
            f'a call is the name of its method, then its arguments, as in "Calculator.add", 1, 2; the name is not {method!r}'
        )
    if not any(value is NO_ARGUMENTS for value in args):
        return ExpectedCall(method, args if args or kwargs else None, kwargs)
    if len(args) > 1 or kwargs:
        raise TypeError("NO_ARGUMENTS goes with no others")
    return ExpectedCall(method, (), {})


def written(method: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str:
    """A call, as one writes it."""
    texts = [*map(_short, args), *(f"{name}={_short(value)}" for name, value in kwargs.items())]
    return f"{method}({', '.join(texts)})"


def _short(value: object) -> str:
    try:
        text = repr(value)
    except Exception as exc:  # noqa: BLE001 - a message about something else must not fail for that
        text = f"<{type(value).__name__}, whose repr() raised {type(exc).__name__}>"
    return text if len(text) <= _LONG else f"{text[: _LONG - 40]}...{text[-20:]}"
