"""Handlers of all kinds: what a user may write in one, and what a relay of readers could get wrong about it.

Each is a function of a :class:`Scene`; times are those of a mock clock, so that what happens when is exact.
"""

from __future__ import annotations

import contextlib
import contextvars
import math
import threading

import outcome
import trio

import trpc

var = contextvars.ContextVar("var", default="unset")

HANDLERS = {}


def handler(function):
    HANDLERS[function.__name__] = function
    return function


class Scene:
    """One call of a handler.

    Attributes:
        log: what happened, as pairs of a time and a text.
        inner: a client of another server.
    """

    def __init__(self, inner):
        self.log = []
        self.inner = inner
        self.start = trio.current_time()

    def note(self, text):
        self.log.append((round(trio.current_time() - self.start, 6), text))

    def note_surroundings(self, when):
        deadline = trio.current_effective_deadline()
        left = deadline if deadline == math.inf else round(deadline - self.start, 6)
        call = trpc.current_call()
        said = call.deadline if call.deadline == math.inf else round(call.deadline - self.start, 6)
        self.note(f"{when}: {var.get()}, {left}, {call.method}, {said}, {dict(call.metadata)}")

    async def child(self, name, seconds, error=None):
        try:
            await trio.sleep(seconds)
        except trio.Cancelled:
            self.note(f"{name} cancelled")
            raise
        self.note(f"{name} slept")
        if error is not None:
            raise error


class Inner:
    """The service of the other server."""

    @trpc.method
    async def wait(self, seconds: float) -> str:
        await trio.sleep(seconds)
        return f"{trpc.current_call().metadata} {var.get()}"

    @trpc.method
    async def fail(self) -> None:
        await trio.sleep(0.1)
        raise LookupError("inner")


# --- that do not wait ---


@handler
async def returns(scene):
    return 1


@handler
async def raises(scene):
    raise KeyError("k")


@handler
async def raises_a_group(scene):
    raise ExceptionGroup("outer", [ValueError("a"), ExceptionGroup("inner", [OSError(2, "b")])])


@handler
async def scopes_without_a_wait(scene):
    with trio.move_on_after(0.05), trio.fail_after(0.01), trio.CancelScope(shield=True):
        await trio.lowlevel.checkpoint_if_cancelled()
        scene.note_surroundings("inside")
    return "done"


@handler
async def generator_without_a_wait(scene):
    async def numbers():
        yield 1
        yield 2

    async with contextlib.aclosing(numbers()) as stream:
        return [n async for n in stream]


@handler
async def sets_a_variable(scene):
    var.set("mine")
    return var.get()


@handler
async def cannot_be_sent(scene):
    return object()


# --- that wait ---


@handler
async def one_checkpoint(scene):
    await trio.lowlevel.checkpoint()
    return 1


@handler
async def many_checkpoints(scene):
    for number in range(5):
        await trio.lowlevel.checkpoint()
        scene.note(number)
    return 1


@handler
async def shielded_checkpoints(scene):
    for number in range(3):
        await trio.lowlevel.cancel_shielded_checkpoint()
        scene.note(number)
    return 1


@handler
async def raises_later(scene):
    await trio.sleep(0.1)
    raise OSError(2, "no such file")


@handler
async def a_variable_around_a_wait(scene):
    token = var.set("first")
    await trio.sleep(0.1)
    scene.note(var.get())
    var.set("second")
    await trio.lowlevel.checkpoint()
    scene.note(var.get())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_sees_and_sets, scene)
    scene.note(var.get())
    var.reset(token)
    return var.get()


async def _sees_and_sets(scene):
    scene.note(f"child: {var.get()}")
    var.set("child")
    await trio.sleep(0.1)
    scene.note(f"child: {var.get()}, {trpc.current_call().method}")


@handler
async def nursery_with_children(scene):
    async with trio.open_nursery() as nursery:
        nursery.start_soon(scene.child, "a", 0.1)
        nursery.start_soon(scene.child, "b", 0.2)
        await nursery.start(_started, scene)
        await trio.sleep(0.05)
        scene.note_surroundings("inside")
    return "done"


async def _started(scene, task_status):
    await trio.sleep(0.02)
    task_status.started()
    await scene.child("c", 0.3)


@handler
async def empty_nursery(scene):
    async with trio.open_nursery():
        pass
    return "done"


@handler
async def child_that_fails(scene):
    async with trio.open_nursery() as nursery:
        nursery.start_soon(scene.child, "a", 1)
        nursery.start_soon(scene.child, "b", 0.1, ValueError("b"))
        await trio.sleep_forever()


@handler
async def nursery_cancelled_by_itself(scene):
    async with trio.open_nursery() as nursery:
        nursery.start_soon(scene.child, "a", 1)
        await trio.sleep(0.1)
        nursery.cancel_scope.cancel()
    return nursery.cancel_scope.cancelled_caught


@handler
async def moves_on(scene):
    with trio.move_on_after(0.1) as scope:
        await trio.sleep(0.3)
    scene.note_surroundings("after")
    await trio.sleep(0.1)
    return scope.cancelled_caught


@handler
async def fails_after(scene):
    with trio.fail_after(0.1):
        await trio.sleep(0.3)


@handler
async def nested_scopes(scene):
    with trio.move_on_after(0.25) as outer:
        with trio.move_on_after(0.15):
            with trio.CancelScope() as inner:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(_cancel_later, inner, 0.1)
                    await trio.sleep(1)
            scene.note(f"inner {inner.cancelled_caught}")
            await trio.sleep(1)
        scene.note("middle")
        await trio.sleep(1)
    return outer.cancelled_caught


async def _cancel_later(scope, seconds):
    await trio.sleep(seconds)
    scope.cancel()


@handler
async def cancelled_before_the_wait(scene):
    with trio.CancelScope() as scope:
        scope.cancel()
        await trio.lowlevel.checkpoint_if_cancelled()
    return scope.cancelled_caught


@handler
async def shields_for_a_while(scene):
    with trio.CancelScope(shield=True):
        scene.note_surroundings("shielded")
        await trio.sleep(0.2)
        scene.note("slept")
    await trio.lowlevel.checkpoint()
    return "done"


@handler
async def shields_and_returns(scene):
    with trio.CancelScope(shield=True):
        await trio.sleep(0.2)
    return "done"


@handler
async def cleans_up_slowly(scene):
    try:
        await trio.sleep(0.3)
    finally:
        with trio.CancelScope(shield=True):
            await trio.sleep(0.1)
        scene.note("cleaned up")
    return "done"


@handler
async def swallows_the_cancel(scene):
    try:
        await trio.sleep(0.3)
    except trio.Cancelled:
        return "swallowed"
    return "done"


@handler
async def swallows_and_waits(scene):
    for _ in range(3):
        try:
            await trio.sleep(0.1)
        except trio.Cancelled:
            scene.note("again")
    return "done"


@handler
async def fails_on_cancel(scene):
    try:
        await trio.sleep(0.3)
    except trio.Cancelled:
        raise ValueError("while cleaning up") from None


@handler
async def a_group_with_the_cancel(scene):
    try:
        await trio.sleep(0.3)
    except trio.Cancelled as exc:
        raise BaseExceptionGroup("mixed", [exc, ValueError("beside")]) from None


@handler
async def a_child_fails_on_cancel(scene):
    async def child():
        try:
            await trio.sleep(0.3)
        finally:
            raise ValueError("child")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(child)
        nursery.start_soon(scene.child, "other", 0.2)


@handler
async def memory_channels(scene):
    send, receive = trio.open_memory_channel(0)

    async def produce():
        async with send:
            for number in range(3):
                await trio.sleep(0.05)
                await send.send(number)

    async with receive, trio.open_nursery() as nursery:
        nursery.start_soon(produce)
        return [number async for number in receive]


@handler
async def events_and_locks(scene):
    lock, event, condition = trio.Lock(), trio.Event(), trio.Condition()

    async def other():
        async with lock:
            scene.note("other has it")
            await trio.sleep(0.1)
            event.set()
        await trio.sleep(0.1)
        async with condition:
            condition.notify_all()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(other)
        await trio.sleep(0.01)
        async with lock:
            scene.note("handler has it")
        await event.wait()
        async with condition:
            await condition.wait()
    async with trio.Semaphore(1), trio.CapacityLimiter(1):
        scene.note("limited")
    return "done"


@handler
async def async_generator(scene):
    async def numbers():
        try:
            for number in range(3):
                await trio.sleep(0.1)
                yield number
        finally:
            scene.note("generator ended")

    async with contextlib.aclosing(numbers()) as stream:
        async for number in stream:
            if number == 1:
                return "left early"
    return "never"


@handler
async def context_manager_with_a_nursery(scene):
    @contextlib.asynccontextmanager
    async def background():
        async with trio.open_nursery() as nursery:
            nursery.start_soon(scene.child, "background", 1)
            yield
            nursery.cancel_scope.cancel()

    async with background(), contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(trio.lowlevel.checkpoint)
        await trio.sleep(0.1)
    return "done"


@handler
async def parked_by_hand(scene):
    task = trio.lowlevel.current_task()

    async def wake():
        await trio.sleep(0.1)
        if not aborted:
            trio.lowlevel.reschedule(task, outcome.Value("woken"))

    def abort(raise_cancel):
        aborted.append(True)
        return trio.lowlevel.Abort.SUCCEEDED

    aborted = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(wake)
        return await trio.lowlevel.wait_task_rescheduled(abort)


@handler
async def calls_another_server(scene):
    with trpc.metadata(hop="second"):
        return await scene.inner.call("Inner.wait", 0.2)


@handler
async def calls_many_times(scene):
    async def one(seconds):
        scene.note(await scene.inner.call("Inner.wait", seconds))

    async with trio.open_nursery() as nursery:
        for seconds in (0.05, 0.1, 0.15):
            nursery.start_soon(one, seconds)


@handler
async def an_error_of_another_server(scene):
    await scene.inner.call("Inner.fail")


@handler
async def waits_for_ever(scene):
    with contextlib.ExitStack() as stack:
        stack.callback(scene.note, "ended")
        await trio.sleep_forever()


# --- with threads: their time is not the mock clock's, so they take none ---


@handler
async def thread(scene):
    var.set("before")

    def work():
        seen = f"{var.get()} {trpc.current_call().method}"
        var.set("thread")
        trio.from_thread.run(trio.lowlevel.checkpoint)
        return f"{seen} {trio.from_thread.run_sync(var.get)} {threading.current_thread() is threading.main_thread()}"

    scene.note(await trio.to_thread.run_sync(work))
    return var.get()


NEVER_WAIT = (
    "returns",
    "raises",
    "raises_a_group",
    "scopes_without_a_wait",
    "generator_without_a_wait",
    "sets_a_variable",
    "cannot_be_sent",
)
ENDLESS = ("waits_for_ever",)
# How long that takes is not for the clock to say.
THREADS = ("thread",)
