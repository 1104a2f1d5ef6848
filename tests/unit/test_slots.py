"""Slots: how many calls may be in flight, and who gets the next one."""

import math

import pytest
import trio
import trio.testing

from trpc._slots import Slots


class Users:
    """Tasks that each want a slot, and give it back when the test says so."""

    def __init__(self, nursery, number):
        self.slots = Slots(number)
        self.nursery = nursery
        self.have: list[object] = []
        self.scopes: dict[object, trio.CancelScope] = {}

    def want(self, name):
        self.scopes[name] = trio.CancelScope()
        self.nursery.start_soon(self._want, name)

    async def _want(self, name):
        with self.scopes[name]:
            # As a caller does it.
            if self.slots.taken < self.slots.number:
                self.slots.taken += 1
            else:
                await self.slots.wait()
            self.have.append(name)

    def give_back(self, name):
        self.have.remove(name)
        self.slots.give_back()


async def settle():
    await trio.testing.wait_all_tasks_blocked()


@pytest.fixture
async def users(nursery):
    return Users(nursery, 2)


async def test_as_many_as_there_are_slots_have_one(users):
    for name in "abcd":
        users.want(name)
        await settle()
    assert users.have == ["a", "b"]
    assert users.slots.taken == 2


async def test_who_has_waited_longest_gets_the_next_one(users):
    for name in "abcd":
        users.want(name)
        await settle()
    users.give_back("b")
    await settle()
    assert users.have == ["a", "c"]
    users.give_back("a")
    users.give_back("c")
    await settle()
    assert users.have == ["d"]
    assert users.slots.taken == 1
    users.give_back("d")
    assert users.slots.taken == 0


async def test_one_that_is_passed_on_is_not_free_meanwhile(users):
    for name in "abc":
        users.want(name)
        await settle()
    users.give_back("a")
    # Before "c" has run, somebody else comes.
    assert users.slots.taken == 2
    users.want("late")
    await settle()
    assert users.have == ["b", "c"]


async def test_who_does_not_wait_any_more_has_none(users):
    for name in "abcd":
        users.want(name)
        await settle()
    users.scopes["c"].cancel()
    await settle()
    users.give_back("a")
    users.give_back("b")
    await settle()
    assert users.have == ["d"]
    assert users.slots.taken == 1


@pytest.mark.parametrize("number", [2, 3, 4, 100, math.inf])
async def test_more_slots_let_those_go_on_who_wait(users, number):
    for name in "abcd":
        users.want(name)
        await settle()
    users.slots.set_number(number)
    await settle()
    assert sorted(users.have) == list("abcd")[: min(4, number)]
    assert users.slots.taken == min(4, number)
    assert users.slots.number == number


async def test_more_slots_when_nobody_waits(users):
    users.want("a")
    await settle()
    users.slots.set_number(3)
    assert users.slots.taken == 1
    for name in "bcd":
        users.want(name)
    await settle()
    assert len(users.have) == 3


async def test_all_are_given_back_after_there_is_no_bound_any_more(users):
    for name in "abcd":
        users.want(name)
        await settle()
    users.slots.set_number(math.inf)
    await settle()
    for name in "abcd":
        users.give_back(name)
    assert users.slots.taken == 0
