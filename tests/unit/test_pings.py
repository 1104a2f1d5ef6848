"""Pings: who waits for which answer."""

import pytest
import trio
import trio.testing
from support import settle

from trpc import Limits
from trpc._frames import encode_frame
from trpc._messages import Kind
from trpc._pings import Pings
from trpc._protocol import Protocol


class FakeOutbox:
    def __init__(self):
        self.sent: list[bytes] = []

    def put(self, data, *, control):
        assert control, "no large message delays it"
        self.sent.append(data)


class Waits:
    """Tasks that wait for an answer, and what they got."""

    def __init__(self, nursery):
        self.outbox = FakeOutbox()
        self.pings = Pings(Protocol(Limits()), self.outbox)
        self.nursery = nursery
        self.results: dict[int, float | None] = {}

    async def start(self, *, scope=None):
        number = len(self.outbox.sent) + 1

        async def ping():
            with scope or trio.CancelScope():
                self.results[number] = await self.pings.ping()

        self.nursery.start_soon(ping)
        await settle()
        assert self.outbox.sent[-1] == encode_frame(Kind.PING, number)
        return number


@pytest.fixture
async def waits(nursery):
    return Waits(nursery)


async def test_the_answer_says_how_long_it_took(waits, mock_clock):
    number = await waits.start()
    assert len(waits.pings) == 1
    mock_clock.jump(2.5)
    waits.pings.on_pong(number)
    await settle()
    assert waits.results == {number: 2.5}
    assert len(waits.pings) == 0


async def test_each_answer_is_that_of_its_ping(waits, mock_clock):
    first = await waits.start()
    mock_clock.jump(1)
    second = await waits.start()
    mock_clock.jump(1)
    waits.pings.on_pong(second)
    await settle()
    assert waits.results == {second: 1}
    waits.pings.on_pong(first)
    await settle()
    assert waits.results == {second: 1, first: 2}


async def test_nobody_waits_for_the_answer_any_more(waits):
    scope = trio.CancelScope()
    number = await waits.start(scope=scope)
    scope.cancel()
    await settle()
    assert len(waits.pings) == 0
    waits.pings.on_pong(number)
    assert waits.results == {}


async def test_a_second_answer_has_no_effect(waits):
    number = await waits.start()
    waits.pings.on_pong(number)
    waits.pings.on_pong(number)
    await settle()
    assert list(waits.results) == [number]


async def test_the_end_of_the_connection_ends_all_waits(waits):
    numbers = [await waits.start() for _ in range(3)]
    waits.pings.on_pong(numbers[1])
    waits.pings.on_lost()
    await settle()
    assert [waits.results[number] is None for number in numbers] == [True, False, True]
    assert len(waits.pings) == 0
