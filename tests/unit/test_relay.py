"""A coroutine that was begun outside of Trio's sight, and goes on in a task as if it had been begun there."""

import contextlib
import contextvars
import functools
import types

import pytest
import trio
import trio.testing

from trpc._relay import resume

variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")


class Ended(Exception):
    """The coroutine has ended without waiting."""


def begin(function, *args, context=None):
    """Runs a coroutine until it waits for the first time; gives what is left of it, to be awaited."""
    context = contextvars.copy_context() if context is None else context
    coroutine = function(*args)
    try:
        yielded = context.run(coroutine.send, None)
    except StopIteration as stop:
        raise Ended(stop.value) from None
    return resume(coroutine, yielded, context.run)


@types.coroutine
def swap(value):
    """Gives a value to whoever drives the coroutine, and gets one."""
    return (yield value)


# --- whatever is given to the coroutine and taken from it ---


def test_each_value_goes_through_as_it_is():
    async def function():
        return [await swap(i) for i in range(3)]

    rest = begin(function)
    objects = [object() for _ in range(3)]
    assert rest.send(None) == 0
    assert rest.send(objects[0]) == 1
    assert rest.send(objects[1]) == 2
    with pytest.raises(StopIteration) as caught:
        rest.send(objects[2])
    assert caught.value.value == objects


def test_what_is_thrown_in_goes_through_and_may_be_caught():
    async def function():
        try:
            await swap("first")
        except KeyError as exc:
            return await swap(exc)

    rest = begin(function)
    assert rest.send(None) == "first"
    error = KeyError("k")
    assert rest.throw(error) is error
    with pytest.raises(StopIteration) as caught:
        rest.send("result")
    assert caught.value.value == "result"


@pytest.mark.parametrize(
    "error", [ValueError("x"), KeyboardInterrupt(), SystemExit(1), BaseExceptionGroup("g", [KeyError()])]
)
def test_what_is_not_caught_comes_out(error):
    async def function():
        await swap("first")

    rest = begin(function)
    rest.send(None)
    with pytest.raises(type(error)) as caught:
        rest.throw(error)
    assert caught.value is error


def test_what_the_coroutine_raises_comes_out():
    error = ValueError("its own")

    async def function():
        await swap("first")
        raise error

    rest = begin(function)
    rest.send(None)
    with pytest.raises(ValueError, match="its own") as caught:
        rest.send(None)
    assert caught.value is error


def test_a_coroutine_that_is_closed_cleans_up():
    ends = []

    async def function():
        try:
            await swap("first")
        finally:
            ends.append("cleaned up")

    rest = begin(function)
    rest.send(None)
    rest.close()
    assert ends == ["cleaned up"]


# --- the context ---


def test_each_step_runs_in_the_context_of_the_coroutine():
    seen = []

    async def function():
        for i in range(3):
            seen.append(variable.get())
            variable.set(f"step {i}")
            with contextlib.suppress(KeyError):
                await swap(i)
        seen.append(variable.get())

    context = contextvars.copy_context()
    context.run(variable.set, "its own")
    rest = begin(function, context=context)
    rest.send(None)
    rest.send(None)
    variable.set("of somebody else")
    rest.throw(KeyError())
    with pytest.raises(StopIteration):
        rest.send(None)
    assert seen == ["its own", "step 0", "step 1", "step 2"]
    assert variable.get() == "of somebody else"
    assert context[variable] == "step 2"


def test_each_step_is_run_by_what_was_given():
    steps = []

    async def function():
        with contextlib.suppress(KeyError):
            await swap("first")
        await swap("second")
        return "result"

    def run(step, argument):
        steps.append((step.__name__, argument))
        return step(argument)

    coroutine = function()
    rest = resume(coroutine, coroutine.send(None), run)
    assert rest.send(None) == "first"
    error = KeyError()
    assert rest.throw(error) == "second"
    with pytest.raises(StopIteration) as caught:
        rest.send("answer")
    assert caught.value.value == "result"
    assert steps == [("throw", error), ("send", "answer")]


# --- in a task ---


async def test_it_goes_on_as_a_task_does():
    event = trio.Event()

    async def function(argument):
        await event.wait()
        await trio.lowlevel.checkpoint()
        return argument

    rest = begin(function, "value")
    event.set()
    assert await rest == "value"


async def test_an_exception_has_the_coroutine_in_its_traceback():
    async def function():
        await trio.lowlevel.checkpoint()
        raise LookupError("from the coroutine")

    rest = begin(function)
    with pytest.raises(LookupError, match="from the coroutine") as caught:
        await rest
    assert "function" in [entry.name for entry in caught.traceback]


async def test_without_a_wait_nothing_is_left_to_go_on_with():
    async def function():
        return "at once"

    with pytest.raises(Ended, match="at once"):
        begin(function)
    await trio.lowlevel.checkpoint()


async def test_the_current_task_is_the_same_all_the_time():
    seen = []

    async def function():
        for _ in range(3):
            seen.append(trio.lowlevel.current_task())
            await trio.lowlevel.checkpoint()

    await begin(function)
    assert seen == [trio.lowlevel.current_task()] * 3


async def test_context_variables_are_those_of_the_coroutine_and_of_its_tasks():
    seen = []

    async def child():
        seen.append(variable.get())

    async def function():
        variable.set("its own")
        await trio.lowlevel.checkpoint()
        seen.append(variable.get())
        async with trio.open_nursery() as nursery:
            # Trio takes the context that is current, which is the one that is entered here.
            nursery.start_soon(child)
        seen.append(await trio.to_thread.run_sync(variable.get))

    variable.set("of the task")
    await begin(function)
    assert seen == ["its own"] * 3
    assert variable.get() == "of the task"


async def test_two_at_a_time_have_a_context_each():
    seen = []

    async def function(name):
        variable.set(name)
        for _ in range(3):
            await trio.lowlevel.checkpoint()
            seen.append((name, variable.get()))

    async with trio.open_nursery() as nursery:
        for name in "ab":
            rest = functools.partial(begin, function, name)

            async def run(rest=rest):
                await rest()

            nursery.start_soon(run)
    assert sorted(set(seen)) == [("a", "a"), ("b", "b")]


async def test_a_cancel_reaches_it():
    ends = []

    async def function():
        try:
            await trio.sleep_forever()
        except trio.Cancelled:
            ends.append("cancelled")
            raise

    with trio.CancelScope() as scope:
        rest = begin(function)
        scope.cancel()
        await rest
    assert scope.cancelled_caught
    assert ends == ["cancelled"]


async def test_scopes_and_shields_inside_of_it(autojump_clock):
    steps = []

    async def function():
        with trio.move_on_after(1):
            await trio.sleep_forever()
        steps.append("its own deadline")
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(1)
            steps.append("cleaned up")

    with trio.move_on_after(5) as scope:
        await begin(function)
    assert scope.cancelled_caught
    assert steps == ["its own deadline", "cleaned up"]
    assert trio.current_time() == 6


async def test_a_scope_that_is_open_when_it_waits_for_the_first_time(autojump_clock):
    async def function():
        with trio.fail_after(1):
            await trio.sleep_forever()

    with pytest.raises(trio.TooSlowError):
        await begin(function)
    # The task is in the scopes that it was in before.
    await trio.lowlevel.checkpoint()


async def test_a_nursery_that_is_open_when_it_waits_for_the_first_time():
    async def fails():
        raise ValueError("in the child")

    async def function():
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fails)

    with pytest.raises(ExceptionGroup) as caught:
        await begin(function)
    assert caught.group_contains(ValueError, match="in the child")
