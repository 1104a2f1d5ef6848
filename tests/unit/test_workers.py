"""Workers: tasks that do one job after the other, and end when there is nothing to do for long."""

import contextvars
import math

import pytest
import trio
import trio.testing

from trpc._workers import Worker, Workers

# Seconds between two looks for those that are not needed.
IDLE_TIME = 2.0


class Call:
    """What runs in a worker's scope; notes how it ended."""

    def __init__(self, *, raises=None):
        self.ends: list[object] = []
        self.raises = raises

    def on_cancelled(self):
        self.ends.append("cancelled")

    def on_raised(self, exc):
        self.ends.append(exc)
        if self.raises is not None:
            raise self.raises

    def on_scope_left_open(self):
        self.ends.append("a scope is open")


class Team:
    """Workers, and how many tasks they are."""

    def __init__(self, nursery):
        self.workers = Workers()
        self.workers.nursery = nursery
        self.run = self.workers.run
        self.done: list[tuple[object, trio.lowlevel.Task]] = []

    @property
    def tasks(self):
        # One more looks for those that are idle, as long as there are any.
        return len(self.workers.nursery.child_tasks) - self.workers._retires

    def job(self, name=None):
        """A job that ends at once."""

        async def job(_):
            self.done.append((name, trio.lowlevel.current_task()))

        return job

    @property
    def names(self):
        return [name for name, _ in self.done]


@pytest.fixture
async def team(nursery):
    return Team(nursery)


async def settle():
    await trio.testing.wait_all_tasks_blocked()


class Gate:
    """A job that waits for the test."""

    def __init__(self, call=None):
        self.call = call
        self.worker: Worker | None = None
        self.task = None
        self.event = trio.Event()

    async def __call__(self, worker):
        self.worker = worker
        self.task = trio.lowlevel.current_task()
        worker.call = self.call
        await self.event.wait()
        if self.call is not None:
            worker.call = None
            worker.reset_scope()

    def open(self):
        self.event.set()


# --- jobs and tasks ---


async def test_a_job_is_run(team):
    team.run(team.job("a"))
    assert team.done == []
    await settle()
    assert team.names == ["a"]


async def test_one_job_after_the_other_is_done_by_one_worker(team):
    for i in range(10):
        team.run(team.job(i))
        await settle()
    assert team.names == list(range(10))
    assert len({task for _, task in team.done}) == 1
    assert team.tasks == 1


async def test_jobs_at_the_same_time_have_a_worker_each(team):
    gates = [Gate() for _ in range(5)]
    for gate in gates:
        team.run(gate)
    await settle()
    assert len({gate.task for gate in gates}) == 5
    assert len({id(gate.worker) for gate in gates}) == 5
    for gate in gates:
        gate.open()
    await settle()
    assert team.tasks == 5
    again = [Gate() for _ in range(6)]
    for gate in again:
        team.run(gate)
    await settle()
    assert {gate.task for gate in gates} < {gate.task for gate in again}
    assert team.tasks == 6
    for gate in again:
        gate.open()


async def test_the_last_that_became_idle_gets_the_next_job(team):
    gates = [Gate() for _ in range(3)]
    for gate in gates:
        team.run(gate)
    await settle()
    for i in (1, 0, 2):
        gates[i].open()
        await settle()
    for i in (2, 0, 1):
        gate = Gate()
        team.run(gate)
        await settle()
        assert gate.task is gates[i].task


async def test_a_job_may_run_another(team):
    async def outer(_):
        team.run(team.job("inner"))
        team.done.append(("outer", None))

    team.run(outer)
    await settle()
    assert team.names == ["outer", "inner"]


async def test_a_job_may_hand_its_work_on_and_stay(team):
    # As the one that reads does when the handler that it runs waits.
    gate = Gate()
    readers = []

    async def read(worker):
        readers.append(trio.lowlevel.current_task())
        if len(readers) < 3:
            team.run(read)
            await gate(worker)

    team.run(read)
    await settle()
    assert len(set(readers)) == 3
    gate.open()
    await settle()
    assert team.tasks == 3


async def test_work_begins_in_the_task_that_calls_it(team, nursery):
    async def work():
        await team.workers.work(team.job("first"))

    nursery.start_soon(work)
    await settle()
    team.run(team.job("second"))
    await settle()
    assert team.names == ["first", "second"]
    assert len({task for _, task in team.done}) == 1


async def test_jobs_see_the_context_of_the_nursery_and_not_of_who_gives_them(team):
    variable = contextvars.ContextVar("variable", default="unset")
    seen = []

    async def job(_):
        seen.append(variable.get())

    team.run(job)
    await settle()
    variable.set("set by who gives the next job")
    team.run(job)
    await settle()
    assert seen == ["unset", "unset"]


# --- when there is nothing to do for long ---


async def test_workers_that_were_idle_for_long_end(team, autojump_clock):
    gates = [Gate() for _ in range(5)]
    for gate in gates:
        team.run(gate)
    await settle()
    for gate in gates:
        gate.open()
    await settle()
    assert team.tasks == 5
    await trio.sleep(2 * IDLE_TIME + 1)
    assert len(team.workers.nursery.child_tasks) == 0
    # And there are new ones when there is something to do.
    team.run(team.job("again"))
    await settle()
    assert team.names == ["again"]
    assert team.tasks == 1


async def test_a_worker_that_is_needed_now_and_then_stays(team, mock_clock):
    tasks = set()
    for _ in range(20):
        team.run(team.job())
        await settle()
        mock_clock.jump(0.9 * IDLE_TIME)
        await settle()
        tasks.add(team.done[-1][1])
    assert len(tasks) == 1


async def test_only_those_end_that_are_not_needed(team, mock_clock):
    gates = [Gate() for _ in range(10)]
    for gate in gates:
        team.run(gate)
    await settle()
    for gate in gates:
        gate.open()
    await settle()
    for _ in range(8):
        pair = [Gate(), Gate()]
        for gate in pair:
            team.run(gate)
        await settle()
        for gate in pair:
            gate.open()
        await settle()
        mock_clock.jump(IDLE_TIME / 2)
        await settle()
    assert team.tasks == 2


async def test_one_that_is_at_work_does_not_end(team, autojump_clock):
    gate = Gate()
    team.run(gate)
    team.run(team.job())
    await trio.sleep(5 * IDLE_TIME)
    assert team.tasks == 1
    gate.open()
    await settle()
    team.run(team.job("after it"))
    await settle()
    assert team.done[-1] == ("after it", gate.task)


async def test_a_job_that_comes_when_the_last_worker_is_about_to_end_is_done(team, mock_clock):
    team.run(team.job())
    await settle()
    first = team.done[0][1]
    while first in team.workers.nursery.child_tasks:
        mock_clock.jump(IDLE_TIME / 4)
        # Not settled: the job comes between the look and the end of the worker, in each pass of the event loop.
        await trio.lowlevel.checkpoint()
        await trio.lowlevel.checkpoint()
        if first not in team.workers._idle:
            team.run(team.job("late"))
            break
    await settle()
    assert team.names == [None, "late"]


async def test_idle_workers_end_again_after_all_had_ended(team, autojump_clock):
    for _ in range(3):
        team.run(team.job())
        await settle()
        assert team.tasks == 1
        await trio.sleep(2 * IDLE_TIME + 1)
        assert len(team.workers.nursery.child_tasks) == 0


# --- calls and their scope ---


async def test_a_call_that_ends_by_itself_is_told_nothing(team):
    call = Call()
    gate = Gate(call)
    team.run(gate)
    await settle()
    scope = gate.worker.scope
    gate.open()
    await settle()
    assert call.ends == []
    assert gate.worker.call is None
    team.run(second := Gate(Call()))
    await settle()
    assert second.worker.scope is scope, "a scope is kept from call to call"
    second.open()


async def test_a_call_that_is_cancelled_is_told_so_and_the_worker_goes_on(team):
    call = Call()
    gate = Gate(call)
    team.run(gate)
    await settle()
    scope = gate.worker.scope
    scope.cancel()
    await settle()
    assert call.ends == ["cancelled"]
    assert gate.worker.call is None
    team.run(second := Gate(Call()))
    await settle()
    assert second.task is gate.task
    assert second.worker.scope is not scope
    assert not second.worker.scope.cancel_called
    second.open()
    await settle()
    assert second.call.ends == []


async def test_a_deadline_is_a_cancel_and_that_of_the_next_call_is_none(team, autojump_clock):
    call = Call()
    gate = Gate(call)
    team.run(gate)
    await settle()
    gate.worker.scope.deadline = trio.current_time() + 1
    await trio.sleep(1.5)
    assert call.ends == ["cancelled"]
    team.run(second := Gate(Call()))
    await settle()
    assert second.task is gate.task
    assert second.worker.scope.deadline == math.inf
    await trio.sleep(100)
    assert second.call.ends == []
    second.open()


async def test_the_deadline_of_a_call_ends_with_it(team, autojump_clock):
    gate = Gate(Call())
    team.run(gate)
    await settle()
    gate.worker.scope.deadline = trio.current_time() + 1
    gate.open()
    await settle()
    team.run(second := Gate(Call()))
    await trio.sleep(1.5)
    assert second.task is gate.task
    assert second.call.ends == []
    second.open()


async def test_a_cancel_that_comes_too_late_does_not_reach_the_next_call(team):
    gate = Gate(Call())
    team.run(gate)
    await settle()
    gate.open()
    # The wait is over, so that this is not delivered; but it would be at the next wait.
    gate.worker.scope.cancel()
    await settle()
    assert gate.call.ends == []
    team.run(second := Gate(Call()))
    await settle()
    assert second.task is gate.task
    assert not second.worker.is_spent
    second.open()
    await settle()
    assert second.call.ends == []


async def test_a_call_that_ends_although_it_is_cancelled_leaves_a_spent_scope(team):
    call = Call()
    spent = []

    async def job(worker):
        worker.call = call
        worker.scope.cancel()
        worker.call = None
        worker.reset_scope()
        spent.append(worker.is_spent)

    team.run(job)
    await settle()
    assert spent == [True]
    assert call.ends == []
    gate = Gate(Call())
    team.run(gate)
    await settle()
    assert team.tasks == 1
    assert not gate.worker.is_spent
    assert not gate.worker.scope.cancel_called
    gate.open()
    await settle()
    assert gate.call.ends == []


async def test_a_spent_worker_waits_outside_of_its_scope(team):
    async def job(worker):
        worker.call = Call()
        worker.scope.cancel()
        worker.call = None
        worker.reset_scope()

    for _ in range(5):
        team.run(job)
        await settle()
        assert team.tasks == 1


ERRORS = [ValueError("x"), KeyboardInterrupt(), ExceptionGroup("g", [ValueError("x")])]


@pytest.mark.parametrize("error", ERRORS, ids=repr)
async def test_a_call_that_raises_is_told_and_the_worker_goes_on(team, error):
    call = Call()

    async def job(worker):
        worker.call = call
        await trio.lowlevel.checkpoint()
        raise error

    team.run(job)
    await settle()
    assert call.ends == [error]
    team.run(team.job("next"))
    await settle()
    assert team.names == ["next"]
    assert team.tasks == 1


async def test_a_call_that_raises_while_it_is_cancelled(team):
    call = Call()
    gate = Gate(call)

    async def job(worker):
        try:
            await gate(worker)
        finally:
            raise ValueError("on the way out")

    team.run(job)
    await settle()
    gate.worker.scope.cancel()
    await settle()
    (error,) = call.ends
    assert isinstance(error, ValueError)


async def test_the_cancel_of_its_scope_is_not_in_the_group_that_a_call_raises(team):
    call = Call()

    async def fails():
        try:
            await trio.sleep_forever()
        finally:
            raise ValueError("on the way out")

    async def job(worker):
        worker.call = call
        async with trio.open_nursery() as inner:
            inner.start_soon(fails)
            inner.start_soon(trio.sleep_forever)
            await trio.testing.wait_all_tasks_blocked()
            worker.scope.cancel()

    team.run(job)
    await settle()
    await settle()
    (error,) = call.ends
    assert isinstance(error, ExceptionGroup)
    matched, rest = error.split(ValueError)
    assert matched is not None
    assert rest is None


async def test_what_must_not_stay_with_the_call_goes_on():
    call = Call(raises=SystemExit("the server ends"))

    async def job(worker):
        worker.call = call
        raise KeyError

    with pytest.raises(BaseExceptionGroup) as caught:
        async with trio.open_nursery() as nursery:
            Team(nursery).run(job)
    assert caught.group_contains(SystemExit)
    assert len(call.ends) == 1


async def test_an_error_outside_of_a_call_is_a_mistake_and_goes_on():
    async def job(_):
        raise RuntimeError("a mistake")

    with pytest.raises(ExceptionGroup) as caught:
        async with trio.open_nursery() as nursery:
            team = Team(nursery)
            team.run(team.job())
            await settle()
            team.run(job)
    assert caught.group_contains(RuntimeError, match="a mistake")


async def test_a_scope_that_is_cancelled_without_a_call_ends_nothing_else(team):
    # It is no call's any more, and nobody is told.
    async def job(worker):
        worker.scope.cancel()
        await trio.sleep_forever()

    team.run(job)
    await settle()
    team.run(team.job("next"))
    await settle()
    assert team.names == ["next"]
    assert team.tasks == 1


# --- scopes that a call has not left ---


def leaves_open(call, scope):
    """A call that enters a scope and ends inside of it, as one that does not read an async generator to its end."""

    async def job(worker):
        worker.call = call
        await trio.lowlevel.checkpoint()
        scope.__enter__()
        await trio.lowlevel.checkpoint()
        worker.call = None
        worker.check_scope(call)

    return job


async def test_a_deadline_that_a_call_leaves_behind_is_not_that_of_the_next_one(team, autojump_clock):
    call = Call()
    team.run(leaves_open(call, trio.move_on_after(1)))
    await settle()
    await settle()
    assert call.ends == ["a scope is open"]
    team.run(gate := Gate(Call()))
    await trio.sleep(0.5)
    assert team.tasks == 1
    assert not gate.worker.is_spent
    await trio.sleep(10)
    assert gate.call.ends == []
    gate.open()
    await settle()
    team.run(second := Gate(Call()))
    await settle()
    second.worker.scope.cancel()
    await settle()
    assert second.call.ends == ["cancelled"]


async def test_a_call_that_leaves_all_its_scopes_is_told_nothing(team):
    call = Call()

    async def job(worker):
        with trio.move_on_after(5):
            await trio.lowlevel.checkpoint()
        worker.check_scope(call)
        team.done.append((worker.is_spent, trio.lowlevel.current_task()))

    team.run(job)
    await settle()
    team.run(job)
    await settle()
    assert team.names == [False, False]
    assert call.ends == []
    assert team.tasks == 1


async def test_a_deadline_around_the_connection_is_nobodys_mistake(autojump_clock):
    call = Call()
    with trio.move_on_after(100):
        async with trio.open_nursery() as nursery:
            team = Team(nursery)

            async def job(worker):
                worker.check_scope(call)
                team.done.append((worker.is_spent, None))

            for _ in range(2):
                team.run(job)
                await settle()
            # Somebody moves it.
            nursery.cancel_scope.deadline = trio.current_time() + 50
            for _ in range(2):
                team.run(job)
                await settle()
            nursery.cancel_scope.cancel()
    assert team.names[0] is team.names[1] is team.names[3] is False
    assert call.ends == []


async def test_a_scope_without_a_deadline_that_a_call_leaves_behind_does_no_harm(team, autojump_clock):
    team.run(leaves_open(Call(), trio.CancelScope()))
    await settle()
    gate = Gate(Call())
    team.run(gate)
    await settle()
    assert team.tasks == 1
    gate.open()
    await settle()
    # Its worker ends, and none of the others notices.
    await trio.sleep(3 * IDLE_TIME)
    team.run(team.job("next"))
    await settle()
    assert team.names == ["next"]


@pytest.mark.parametrize("at_work", [False, True])
async def test_a_scope_that_a_call_leaves_behind_is_not_an_error_of_the_connection_when_that_ends(at_work):
    async with trio.open_nursery() as nursery:
        team = Team(nursery)
        team.run(leaves_open(Call(), trio.CancelScope()))
        await settle()
        if at_work:
            team.run(Gate())
            await settle()
        assert team.tasks == 1
        nursery.cancel_scope.cancel()


def leaves_a_shield(worker):
    """A call that ends inside of a shield, so that no cancel reaches its worker any more."""
    return leaves_open(Call(), trio.CancelScope(shield=True))(worker)


@pytest.mark.parametrize("others", [0, 2])
async def test_workers_in_a_shield_that_a_call_left_behind_end_with_the_connection(others):
    async with trio.open_nursery() as nursery:
        team = Team(nursery)
        gates = [Gate() for _ in range(others)]
        for job in (leaves_a_shield, *gates):
            team.run(job)
        await settle()
        for gate in gates:
            gate.open()
        await settle()
        assert team.tasks == others + 1
        nursery.cancel_scope.cancel()
        team.workers.end()
    assert not team.workers._idle


async def test_a_worker_in_a_shield_ends_when_its_job_has_ended_after_the_connection():
    async with trio.open_nursery() as nursery:
        team = Team(nursery)
        team.run(leaves_a_shield)
        await settle()
        team.run(gate := Gate())
        await settle()
        nursery.cancel_scope.cancel()
        team.workers.end()
        assert gate.task in nursery.child_tasks
        gate.open()


# --- the end of the connection ---


@pytest.mark.parametrize("idle", [0, 1, 3])
@pytest.mark.parametrize("at_work", [0, 1, 3])
async def test_all_end_with_the_nursery(idle, at_work):
    calls = [Call() for _ in range(at_work)]
    async with trio.open_nursery() as nursery:
        team = Team(nursery)
        gates = [Gate() for _ in range(idle)]
        for gate in gates:
            team.run(gate)
        await settle()
        busy = [Gate(call) for call in calls]
        for gate in busy:
            team.run(gate)
        await settle()
        for gate in gates:
            gate.open()
        await settle()
        assert team.tasks == idle + at_work
        nursery.cancel_scope.cancel()
    assert all(call.ends == [] for call in calls), "not by a cancel of the call"
    assert not team.workers._idle


async def test_a_job_that_comes_while_the_connection_ends_is_run():
    ran = []

    async def job(_):
        ran.append("before it can be cancelled")
        await trio.lowlevel.checkpoint()
        ran.append("not reached")

    async with trio.open_nursery() as nursery:
        team = Team(nursery)
        team.run(team.job())
        await settle()
        nursery.cancel_scope.cancel()
        # The idle worker is being cancelled.
        team.run(job)
        team.run(job)
    assert ran == ["before it can be cancelled"] * 2


async def test_a_job_that_was_given_just_before_the_connection_ends_is_run():
    ran = []

    async def job(_):
        ran.append("before it can be cancelled")
        await trio.lowlevel.checkpoint()
        ran.append("not reached")

    async with trio.open_nursery() as nursery:
        team = Team(nursery)
        team.run(team.job())
        await settle()
        team.run(job)
        nursery.cancel_scope.cancel()
    assert ran == ["before it can be cancelled"]


async def test_a_job_that_shields_itself_is_done_although_the_connection_ends():
    async with trio.open_nursery() as nursery:
        team = Team(nursery)
        done = []

        async def job(_):
            with trio.CancelScope(shield=True):
                await trio.lowlevel.checkpoint()
                done.append(True)

        team.run(job)
        nursery.cancel_scope.cancel()
    assert done == [True]


async def test_a_call_that_was_cancelled_as_the_connection_ends_is_told_nothing():
    call = Call()
    async with trio.open_nursery() as nursery:
        team = Team(nursery)
        gate = Gate(call)
        team.run(gate)
        await settle()
        gate.worker.scope.cancel()
        nursery.cancel_scope.cancel()
    assert call.ends == []
    assert not team.workers._idle


async def test_a_call_that_fails_as_the_connection_ends_is_told():
    call = Call()

    async def job(worker):
        worker.call = call
        try:
            await trio.sleep_forever()
        finally:
            raise ValueError("on the way out")

    async with trio.open_nursery() as nursery:
        Team(nursery).run(job)
        await settle()
        nursery.cancel_scope.cancel()
    (error,) = call.ends
    assert isinstance(error, ValueError)


async def test_an_interrupt_does_not_strike_inside_of_a_job_that_does_not_say_so(team):
    protected = []

    async def job(_):
        protected.append(trio.lowlevel.currently_ki_protected())

    team.run(job)
    await settle()
    team.run(job)
    await settle()
    assert protected == [True, True]
