"""Which calls were made: an interceptor that writes them down, and what a test can ask it."""

from __future__ import annotations

import copy
from collections import deque
from typing import TYPE_CHECKING, Any, Final, Literal

import trio

from ._recorded_call import ExpectedCall, RecordedCall, expected

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import NoReturn

    from .. import Call, Proceed

# Of the service that is built in; a test has not made them.
_BUILT_IN: Final = "trpc."
# Lines in a message. More of them are not read.
_MOST: Final = 50


class Recorder:
    """Writes down the calls of a server or a client: it is an interceptor.

    Give it to ``connected(..., recorder=recorder)`` or ``serving(..., recorder=recorder)``, or, for any server or client, as
    ``interceptors=[recorder]``. On the serving side it sees the calls whose handler runs, those that give a stream
    as well. On the client's it sees the calls as they are made, those too that fail before any handler runs, and none that
    gives a stream; see :data:`trpc.Interceptor`. One recorder can be used for several connections, one after the other or
    at once.

    A call is recorded when it begins, in that order, with copies of its arguments: what is changed in them later does not
    change the record. What cannot be copied is kept as it is, and so are streams, of which the items are not recorded. Calls
    of the built-in service ``trpc`` are left out.

    Attributes:
        calls: all of them, in the order in which they began.
    """

    def __init__(self) -> None:
        self.calls: list[RecordedCall] = []
        self._has_called = trio.lowlevel.ParkingLot()

    async def __call__(self, call: Call, proceed: Proceed) -> Any:
        """The interceptor."""
        if call.method.startswith(_BUILT_IN):
            return await proceed(call)
        record = RecordedCall(
            method=call.method,
            args=tuple(_copied(value) for value in call.args),
            kwargs={name: _copied(value) for name, value in call.kwargs.items()},
            metadata=dict(call.metadata),
            peer=call.peer,
            started=trio.current_time(),
        )
        self.calls.append(record)
        self._has_called.unpark_all()
        outcome: Literal["returned", "raised", "cancelled"] = "returned"
        try:
            value = await proceed(call)
            record.value = _copied(value)
        except BaseException as exc:
            _, rest = BaseExceptionGroup("", [exc]).split(trio.Cancelled)
            outcome = "cancelled" if rest is None else "raised"
            record.error = None if rest is None else exc
            raise
        finally:
            record.ended = trio.current_time()
            record.outcome = outcome
        return value

    def calls_of(self, method: str) -> list[RecordedCall]:
        """Those of one method, such as ``"Calculator.add"``."""
        return [call for call in self.calls if call.method == method]

    def clear(self) -> None:
        """Forgets all calls so far. Those that are running are not recorded any more."""
        self.calls.clear()

    def assert_called(self, method: str, /, *args: object, **kwargs: object) -> RecordedCall:
        """Checks that a method was called, and gives the last such call.

        Args:
            method: its name on the wire, such as ``"Calculator.add"``.
            *args: what it was called with, as :func:`expected` takes it: without any, here and with keywords, the arguments
                do not matter; ``NO_ARGUMENTS`` stands for none.
            **kwargs: as well.

        Raises:
            AssertionError: it was not. The message has the calls that were made instead, one in a line.
        """
        __tracebackhide__ = True
        want = expected(method, *args, **kwargs)
        found = self._found(want)
        if not found:
            self._fail(f"{want} was not called")
        return found[-1]

    def assert_called_once(self, method: str, /, *args: object, **kwargs: object) -> RecordedCall:
        """Checks that a method was called once in all, and with these arguments; gives that call.

        Args:
            method: its name on the wire.
            *args: as for :meth:`assert_called`: without any, they do not matter.
            **kwargs: as well.

        Raises:
            AssertionError: it was not, or more often.
        """
        __tracebackhide__ = True
        number = len(self.calls_of(method))
        if number > 1:
            self._fail(f"{method} was called {number} times, not once")
        return self.assert_called(method, *args, **kwargs)

    def assert_not_called(self, method: str | None = None, /, *args: object, **kwargs: object) -> None:
        """Checks that a method was not called, with these arguments if there are any; None: that nothing was.

        Nothing tells whether there is such a method: with a wrong name it passes for ever.

        Args:
            method: its name on the wire.
            *args: as for :meth:`assert_called`.
            **kwargs: as well.

        Raises:
            AssertionError: it was.
        """
        __tracebackhide__ = True
        if method is None:
            if self.calls:
                self._fail("there should be no calls")
            return
        want = expected(method, *args, **kwargs)
        if found := self._found(want):
            self._fail(f"{want} was called, {_times(len(found))}")

    def assert_calls(self, expected: Iterable[str | ExpectedCall], *, any_order: bool = False) -> None:
        """Checks that these calls were made, in this order, and no others.

        Args:
            expected: for each of them the name of its method, if the arguments do not matter, or
                ``expected("Calculator.add", 1, 2)``.
            any_order: the order does not matter, as where several tasks call.

        Raises:
            AssertionError: it was not so. The message says what differs first, and has the calls that were made.
            TypeError: what is expected is a text, or not all in it are texts and expected calls.
        """
        __tracebackhide__ = True
        if isinstance(expected, str):
            raise TypeError(f"assert_calls takes a list of calls, as in [{expected!r}], not a text")
        wanted = [_expected(want) for want in expected]
        if any_order:
            missing, others = _unmatched(wanted, self.calls)
            if missing is not None:
                self._fail(f"{missing} was not called, or not so often")
        else:
            for position, want in enumerate(wanted):
                if position == len(self.calls):
                    self._fail(f"call {position + 1} should be {want}, but there were only {_number(position)}")
                if not want.matches(self.calls[position]):
                    self._fail(f"call {position + 1} should be {want}, and is {self.calls[position]}")
            others = self.calls[len(wanted) :]
        if others:
            self._fail(
                f"there should be {_number(len(wanted))}, and there were {len(self.calls)}; not expected: {others[0]}"
            )

    async def wait_called(self, method: str, /, *args: object, **kwargs: object) -> RecordedCall:
        """Waits until a method has been called, if it has not yet, and gives the first such call; it may be running still.

        Cancelled: nothing has changed. With a clock that jumps, put ``trio.fail_after`` around it, so that a call that never
        comes fails the test.

        Args:
            method: its name on the wire.
            *args: as for :meth:`assert_called`.
            **kwargs: as well.
        """
        want = expected(method, *args, **kwargs)
        await trio.lowlevel.checkpoint()
        while not (found := self._found(want)):
            await self._has_called.park()
        return found[0]

    def __repr__(self) -> str:
        return f"<Recorder of {_number(len(self.calls))}>"

    def _found(self, want: ExpectedCall) -> list[RecordedCall]:
        return [call for call in self.calls if want.matches(call)]

    def _fail(self, problem: str) -> NoReturn:
        __tracebackhide__ = True
        if not self.calls:
            raise AssertionError(f"{problem}; no calls were made")
        lines = [f"  {call}" for call in self.calls[:_MOST]]
        if len(self.calls) > _MOST:
            lines.append(f"  and {len(self.calls) - _MOST} more")
        raise AssertionError("\n".join([f"{problem}; these calls were made:", *lines]))


def _copied(value: Any) -> Any:
    if hasattr(value, "__aiter__"):
        return value
    try:
        return copy.deepcopy(value)
    except Exception:  # noqa: BLE001 - whatever a class does to say that it has no copies
        return value


def _expected(want: str | ExpectedCall) -> ExpectedCall:
    return want if isinstance(want, ExpectedCall) else expected(want)


def _unmatched(
    wanted: Sequence[ExpectedCall], calls: Sequence[RecordedCall]
) -> tuple[ExpectedCall | None, list[RecordedCall]]:
    """The first expected call that no call is left for, or None; and the calls that are left.

    What is expected may be several of the calls, so that which one it gets is changed when another one wants that.
    """
    call_of: dict[int, int] = {}
    want_of: dict[int, int] = {}
    for new, missing in enumerate(wanted):
        reached_by: dict[int, int] = {}
        free: int | None = None
        queue = deque([new])
        while queue and free is None:
            want = queue.popleft()
            for number, call in enumerate(calls):
                if number in reached_by or not wanted[want].matches(call):
                    continue
                reached_by[number] = want
                if number not in want_of:
                    free = number
                    break
                queue.append(want_of[number])
        if free is None:
            return missing, []
        # Each on the way gets the one that it has reached, and leaves its own to who has reached that.
        given: int | None = free
        while given is not None:
            want = want_of[given] = reached_by[given]
            own = call_of.get(want)
            call_of[want] = given
            given = own
    return None, [call for number, call in enumerate(calls) if number not in want_of]


def _number(count: int) -> str:
    return "1 call" if count == 1 else f"{count} calls"


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"
