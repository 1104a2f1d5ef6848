"""What a recorder has of calls, and what it says of those that were not made."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator
from unittest.mock import ANY

import pytest
import trio
import trio.testing

import trpc
from trpc.testing import NO_ARGUMENTS, Link, Recorder, connected, expected, serving


class Calculator:
    def __init__(self):
        self.history = []

    @trpc.method
    async def add(self, a: float, b: float) -> float:
        return a + b

    @trpc.method
    async def divide(self, a: float, b: float) -> float:
        return a / b

    @trpc.method
    async def wait(self, seconds: float) -> str:
        await trio.sleep(seconds)
        return "waited"

    @trpc.method
    async def keep(self, items: list[int]) -> list[int]:
        self.history = items
        items.append(99)
        return items

    @trpc.method
    async def count(self, n: int) -> AsyncIterator[int]:
        for number in range(n):
            yield number

    @trpc.method
    async def total(self, numbers: AsyncIterable[float], *, scale: float = 1) -> float:
        return scale * sum([number async for number in numbers])

    @trpc.method
    async def mixed(self) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            raise ValueError("beside")


@pytest.fixture
def recorder():
    return Recorder()


def lines(error):
    return str(error.value).splitlines()


async def test_what_is_recorded(autojump_clock, recorder):
    async with connected(Calculator(), recorder=recorder) as client:
        with trpc.metadata(tenant="blue"):
            await client.call("Calculator.add", 1, b=2)
        with pytest.raises(ZeroDivisionError):
            await client.call("Calculator.divide", 1, 0)
        with trio.move_on_after(5):
            await client.call("Calculator.wait", 10)
        with pytest.raises(ExceptionGroup):
            await client.call("Calculator.mixed")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.call, "Calculator.wait", 3)
            running = await recorder.wait_called("Calculator.wait", 3)
            assert (running.outcome, running.ended, running.value) == ("running", None, None)
            assert str(running) == "Calculator.wait(3.0) is running"
    add, divide, wait, mixed, last = recorder.calls
    assert (add.method, add.args, add.kwargs, add.metadata) == ("Calculator.add", (1, 2), {}, {"tenant": "blue"})
    assert (add.outcome, add.value, add.error) == ("returned", 3, None)
    assert str(add.peer) == "MemoryStream"
    assert (divide.outcome, type(divide.error)) == ("raised", ZeroDivisionError)
    assert (wait.outcome, wait.started, wait.ended, wait.error) == ("cancelled", 0, 5, None)
    assert (mixed.outcome, type(mixed.error)) == ("raised", ExceptionGroup)
    assert (last.outcome, last.ended - last.started) == ("returned", 3)
    assert [str(call) for call in recorder.calls[:3]] == [
        "Calculator.add(1.0, 2.0) -> 3.0",
        "Calculator.divide(1.0, 0.0) raised ZeroDivisionError('float division by zero')",
        "Calculator.wait(10.0) was cancelled",
    ]
    assert repr(add) == "<Calculator.add(1.0, 2.0) -> 3.0>"
    assert recorder.calls_of("Calculator.wait") == [wait, last]
    assert repr(recorder) == "<Recorder of 5 calls>"


async def test_streams(recorder):
    async def numbers():
        yield 1
        yield 2

    async with connected(Calculator(), recorder=recorder) as client:
        async with client.stream("Calculator.count", 3) as items:
            assert [item async for item in items] == [0, 1, 2]
        async with client.stream("Calculator.count", 1000) as items:
            await items.receive()
        assert await client.call("Calculator.total", numbers(), scale=2) == 6
    recorder.assert_calls(
        [
            expected("Calculator.count", 3),
            expected("Calculator.count", 1000),
            expected("Calculator.total", ANY, scale=2),
        ]
    )
    whole, left, total = recorder.calls
    assert (whole.outcome, whole.value) == ("returned", None)
    assert left.outcome == "cancelled"
    assert total.value == 6


async def test_what_is_changed_later_does_not_change_the_record(recorder):
    async with connected(Calculator(), recorder=recorder) as client:
        await client.call("Calculator.keep", [1, 2])
    (call,) = recorder.calls
    assert call.args == ([1, 2],)
    assert call.value == [1, 2, 99]


async def test_on_the_calling_side(recorder):
    """Where arguments are anything, and calls fail before they are made."""
    lock = trio.Lock()
    async with connected(Calculator(), interceptors=[recorder]) as client:
        with pytest.raises(trpc.InvalidArguments):
            await client.call("Calculator.add", Uncopyable(), lock)
        with pytest.raises(trpc.MethodNotFound):
            await client.call("Calculator.subtract", 1, 2)
        async with client.stream("Calculator.count", 3) as items:
            await items.receive()
    wrong, unknown = recorder.calls
    assert isinstance(wrong.args[0], Uncopyable)
    assert isinstance(wrong.error, trpc.InvalidArguments)
    assert str(wrong).startswith("Calculator.add(<Uncopyable, whose repr() raised ValueError>, <")
    assert isinstance(unknown.error, trpc.MethodNotFound)


class Uncopyable:
    def __deepcopy__(self, memo):
        raise ValueError("no copies")

    def __repr__(self):
        raise ValueError("no text")


async def test_the_built_in_service_is_left_out(recorder):
    async with connected(Calculator(), recorder=recorder, serve={"reflection": True}) as client:
        assert await client.proxy(trpc.Reflection).services()
        await client.call("Calculator.add", 1, 2)
    recorder.assert_calls(["Calculator.add"])


async def test_one_recorder_for_several_clients(recorder):
    async with serving(Calculator(), recorder=recorder) as memory:
        async with memory.connect() as one, memory.connect(link=Link()) as other:
            await one.call("Calculator.add", 1, 2)
            await other.call("Calculator.add", 3, 4)
    assert recorder.calls[0].peer is not recorder.calls[1].peer
    recorder.clear()
    assert recorder.calls == []
    recorder.assert_not_called()


@pytest.fixture
async def used(recorder):
    async with connected(Calculator(), recorder=recorder) as client:
        await client.call("Calculator.add", 1, 2)
        await client.call("Calculator.add", 3, b=4)
        with pytest.raises(ZeroDivisionError):
            await client.call("Calculator.divide", 1, 0)
    return recorder


MADE = [
    "  Calculator.add(1.0, 2.0) -> 3.0",
    "  Calculator.add(3.0, 4.0) -> 7.0",
    "  Calculator.divide(1.0, 0.0) raised ZeroDivisionError('float division by zero')",
]


async def test_assert_called(used):
    assert used.assert_called("Calculator.add") is used.calls[1]
    assert used.assert_called("Calculator.add", 1, 2) is used.calls[0]
    assert used.assert_called("Calculator.add", ANY, ANY) is used.calls[1]
    with pytest.raises(AssertionError) as error:
        used.assert_called("Calculator.add", 1, b=2)
    assert lines(error) == ["Calculator.add(1, b=2) was not called; these calls were made:", *MADE]
    with pytest.raises(AssertionError) as error:
        used.assert_called("Calculator.wait")
    assert lines(error)[0] == "Calculator.wait(...) was not called; these calls were made:"


async def test_assert_called_once(used):
    assert used.assert_called_once("Calculator.divide") is used.calls[2]
    assert used.assert_called_once("Calculator.divide", 1, 0) is used.calls[2]
    with pytest.raises(AssertionError) as error:
        used.assert_called_once("Calculator.divide", 1, 1)
    assert lines(error)[0] == "Calculator.divide(1, 1) was not called; these calls were made:"
    with pytest.raises(AssertionError) as error:
        used.assert_called_once("Calculator.add", 1, 2)
    assert lines(error) == ["Calculator.add was called 2 times, not once; these calls were made:", *MADE]


async def test_assert_not_called(used):
    used.assert_not_called("Calculator.wait")
    used.assert_not_called("Calculator.add", 5, 6)
    for args, message in [
        (("Calculator.add",), "Calculator.add(...) was called, 2 times"),
        (("Calculator.add", 1, 2), "Calculator.add(1, 2) was called, once"),
        ((), "there should be no calls"),
    ]:
        with pytest.raises(AssertionError) as error:
            used.assert_not_called(*args)
        assert lines(error) == [f"{message}; these calls were made:", *MADE]


async def test_assert_calls(used):
    right = ["Calculator.add", expected("Calculator.add", 3, 4), expected("Calculator.divide", 1, 0)]
    used.assert_calls(right)
    used.assert_calls(reversed(right), any_order=True)
    for wanted, any_order, message in [
        (right[1:], False, "call 1 should be Calculator.add(3, 4), and is Calculator.add(1.0, 2.0) -> 3.0"),
        (right[:2], False, f"there should be 2 calls, and there were 3; not expected: {MADE[2].strip()}"),
        ([*right, "Calculator.wait"], False, "call 4 should be Calculator.wait(...), but there were only 3 calls"),
        (["Calculator.add"] * 3, True, "Calculator.add(...) was not called, or not so often"),
        ([expected("Calculator.add", NO_ARGUMENTS)], True, "Calculator.add() was not called, or not so often"),
        (["Calculator.divide"], True, f"there should be 1 call, and there were 3; not expected: {MADE[0].strip()}"),
    ]:
        with pytest.raises(AssertionError) as error:
            used.assert_calls(wanted, any_order=any_order)
        assert lines(error) == [f"{message}; these calls were made:", *MADE]


ADD = "Calculator.add"


@pytest.mark.parametrize(
    "wanted",
    [
        [ADD, expected(ADD, 1, 2), "Calculator.divide"],
        [ADD, expected(ADD, ANY, 2), "Calculator.divide"],
        ["Calculator.divide", expected(ADD, ANY, ANY), expected(ADD, 1, ANY)],
    ],
)
async def test_in_any_order_each_call_is_given_to_what_fits(used, wanted):
    """Also if the first that is expected could be any of them."""
    used.assert_calls(wanted, any_order=True)


async def test_in_any_order_calls_are_passed_on_from_one_to_the_next(recorder):
    async with connected(Calculator(), recorder=recorder) as client:
        for number in range(50):
            await client.call("Calculator.add", number, number + 1)
    # Each fits two calls that follow each other, or one of them only; there is one way that is right.
    either = [expected("Calculator.add", Between(number - 1, number), ANY) for number in range(1, 50)]
    recorder.assert_calls([*either, expected("Calculator.add", 0, 1)], any_order=True)
    with pytest.raises(AssertionError, match=r"^Calculator.add\(60, 1\) was not called, or not so often;"):
        recorder.assert_calls([*either, expected("Calculator.add", 60, 1)], any_order=True)
    with pytest.raises(
        AssertionError, match=r"there should be 49 calls, .*; not expected: Calculator.add\(49.0, 50.0\)"
    ):
        recorder.assert_calls(either, any_order=True)


class Between:
    def __init__(self, *values):
        self.values = values

    def __eq__(self, other):
        return other in self.values

    __hash__ = None


async def test_calls_without_arguments(recorder):
    async with connected(Calculator(), recorder=recorder) as client:
        with pytest.raises(ExceptionGroup):
            await client.call("Calculator.mixed")
        await client.call("Calculator.add", 1, 2)
    recorder.assert_called_once("Calculator.mixed", NO_ARGUMENTS)
    recorder.assert_called("Calculator.mixed")
    recorder.assert_not_called("Calculator.add", NO_ARGUMENTS)
    recorder.assert_calls([expected("Calculator.mixed", NO_ARGUMENTS), expected("Calculator.add")])
    assert await recorder.wait_called("Calculator.mixed", NO_ARGUMENTS) is recorder.calls[0]
    with pytest.raises(AssertionError, match=r"^Calculator.add\(\) was not called"):
        recorder.assert_called_once("Calculator.add", NO_ARGUMENTS)
    assert repr(NO_ARGUMENTS) == "NO_ARGUMENTS"


async def test_what_is_left_out_is_not_recorded(recorder):
    async with connected(Calculator(), recorder=recorder) as client:
        await client.call("Calculator.total", numbers_of())
        await client.call("Calculator.total", numbers_of(), scale=1)
    recorder.assert_calls([expected("Calculator.total", ANY), expected("Calculator.total", ANY, scale=1)])


async def numbers_of(*numbers):
    for number in numbers:
        yield number


def test_what_is_no_call(recorder):
    wanted = expected("Calculator.add", 1)
    for check in (recorder.assert_called, recorder.assert_called_once, recorder.assert_not_called, expected):
        with pytest.raises(
            TypeError, match=r'a call is the name of its method, then its arguments, as in "Calculator.add"'
        ):
            check(wanted)
    with pytest.raises(TypeError, match="NO_ARGUMENTS goes with no others"):
        recorder.assert_called("Calculator.add", NO_ARGUMENTS, 1)
    with pytest.raises(TypeError, match="NO_ARGUMENTS goes with no others"):
        recorder.assert_not_called("Calculator.add", NO_ARGUMENTS, a=1)
    with pytest.raises(TypeError, match=r"assert_calls takes a list of calls, as in \['Calculator.add'\], not a text"):
        recorder.assert_calls("Calculator.add")
    for any_order in (False, True):
        with pytest.raises(TypeError, match="a call is the name of its method"):
            recorder.assert_calls([None], any_order=any_order)


def test_without_calls(recorder):
    recorder.assert_not_called()
    recorder.assert_calls([])
    with pytest.raises(AssertionError) as error:
        recorder.assert_called("Calculator.add")
    assert str(error.value) == "Calculator.add(...) was not called; no calls were made"


async def test_long_messages_are_cut(recorder):
    async with connected(Calculator(), recorder=recorder) as client:
        await client.call("Calculator.keep", list(range(10_000)))
        for _ in range(60):
            await client.call("Calculator.add", 1, 2)
    with pytest.raises(AssertionError) as error:
        recorder.assert_called("Calculator.wait")
    assert len(lines(error)) == 52
    assert lines(error)[-1] == "  and 11 more"
    assert max(map(len, lines(error))) < 500


async def test_wait_called(autojump_clock, recorder):
    async with connected(Calculator(), recorder=recorder) as client, trio.open_nursery() as nursery:

        async def later():
            await trio.sleep(3)
            await client.call("Calculator.add", 1, 2)
            await trio.sleep(1)
            await client.call("Calculator.add", 3, 4)

        nursery.start_soon(later)
        with trio.fail_after(100):
            call = await recorder.wait_called("Calculator.add", 3, 4)
        assert call.started == trio.current_time() == 4
        with trio.testing.assert_checkpoints():
            assert await recorder.wait_called("Calculator.add") is recorder.calls[0]
        with trio.move_on_after(1) as scope:
            await recorder.wait_called("Calculator.divide")
        assert scope.cancelled_caught
