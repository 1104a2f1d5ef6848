"""Interceptors of the calling side."""

import dataclasses
from collections.abc import AsyncIterable, AsyncIterator

import pytest
import trio
from support import client_of_raw_peer, connected, settle

import trpc
from trpc._caller import Caller


class Service:
    def __init__(self):
        self.ran = []
        self.failures = 0

    @trpc.method
    async def echo(self, value: object, *, key: int = 0) -> object:
        self.ran.append((value, key))
        return value

    @trpc.method
    async def squares(self, numbers: list[int]) -> dict[int, int]:
        return {number: number**2 for number in numbers}

    @trpc.method
    async def flaky(self) -> str:
        self.failures += 1
        if self.failures < 3:
            raise ConnectionResetError("try again")
        return "at last"

    @trpc.method
    def metadata(self) -> dict:
        return dict(trpc.current_call().metadata)

    @trpc.method
    async def time_left(self) -> float:
        return trpc.current_call().deadline - trio.current_time()

    @trpc.method
    async def count(self, to: int) -> AsyncIterator[int]:
        for number in range(to):
            yield number

    @trpc.method
    async def total(self, numbers: AsyncIterable[int]) -> int:
        return sum([number async for number in numbers])


def calling(*interceptors, service=None, **options):
    return connected(service or Service(), interceptors=interceptors, **options)


class Notes:
    def __init__(self):
        self.calls = []
        self.results = []

    async def __call__(self, call, proceed):
        self.calls.append(call)
        result = await proceed(call)
        self.results.append(result)
        return result


async def items():
    yield 1
    yield 2


async def test_each_way_to_call():
    notes, service = Notes(), Service()
    async with calling(notes, service=service) as (client, _):
        proxy, untyped = client.proxy(Service), client.proxy("Service")
        with trpc.metadata(tenant="x"):
            assert await client.call("Service.echo", 1, key=2) == 1
        assert await proxy.squares([3]) == {3: 9}
        assert await proxy.total(items()) == 3
        assert await untyped.echo(4) == 4
        assert await untyped.total(items()) == 3
        assert await client.call("Service.total", items()) == 3
        assert await client.notify("Service.echo", "one-way") is None
        await settle()
        expected = trpc.Call("Service.echo", (1,), {"key": 2}, {"tenant": "x"}, client.peer)
        assert await client.ping() >= 0
        assert client.late_replies == 0
    assert notes.calls[0] == expected
    methods = [call.method.split(".")[1] for call in notes.calls]
    assert methods == ["echo", "squares", "total", "echo", "total", "total", "echo"]
    # What the caller gets: converted to what the proxy's class says.
    assert notes.results == [1, {3: 9}, 3, 4, 3, 3, None]
    assert service.ran == [(1, 2), (4, 0), ("one-way", 0)]
    # As they were given, streams included.
    assert hasattr(notes.calls[2].args[0], "__aiter__")


async def test_calls_that_are_entered_are_not_intercepted():
    notes = Notes()
    async with calling(notes) as (client, _):
        calls = (
            client.stream("Service.count", 2),
            client.proxy(Service).count(2),
            client.proxy("Service").count(2),
        )
        for call in calls:
            async with call as numbers:
                assert [number async for number in numbers] == [0, 1]
    assert notes.calls == []


async def test_arguments_metadata_and_results_are_changed():
    async def change(call, proceed):
        if call.method == "Service.metadata":
            return {**await proceed(dataclasses.replace(call, metadata={"token": b"t"})), "seen": True}
        return await proceed(dataclasses.replace(call, args=("changed",), kwargs={"key": 7}))

    service = Service()
    async with calling(change, service=service) as (client, _):
        with trpc.metadata(tenant="x"):
            assert await client.call("Service.metadata") == {"token": b"t", "seen": True}
        assert await client.proxy(Service).echo("given") == "changed"
        await client.notify("Service.echo", "given")
        await settle()
    assert service.ran == [("changed", 7)] * 2


async def test_metadata_that_cannot_be_sent():
    async def change(call, proceed):
        return await proceed(dataclasses.replace(call, metadata={"token": []}))

    async with calling(change) as (client, _):
        with pytest.raises(TypeError, match="metadata 'token' must be"):
            await client.call("Service.metadata")


async def test_an_interceptor_sees_arguments_before_they_are_checked():
    async def change(call, proceed):
        return await proceed(dataclasses.replace(call, args=([1],)))

    async with calling(change) as (client, _):
        assert await client.proxy(Service).squares(object()) == {1: 1}


async def test_retries(autojump_clock):
    async def retry(call, proceed):
        while True:
            try:
                return await proceed(call)
            except ConnectionResetError:
                await trio.sleep(1)

    async with calling(retry) as (client, _):
        start = trio.current_time()
        assert await client.proxy(Service).flaky() == "at last"
        assert trio.current_time() - start == pytest.approx(2)


async def test_each_attempt_carries_what_is_left_of_the_time(autojump_clock):
    async def late(call, proceed):
        await trio.sleep(2)
        return await proceed(call)

    async with calling(late) as (client, _):
        with trio.fail_after(5):
            assert await client.call("Service.time_left") == pytest.approx(3)


async def test_one_that_does_not_proceed():
    async def never(call, proceed):
        return "from here"

    async with client_of_raw_peer(interceptors=[never]) as (client, peer):
        assert await client.call("A.b") == "from here"
        await client.notify("A.b")
        assert client._caller.plain.protocol.last_sent == 0


async def test_calls_that_a_client_makes_while_it_is_called_back():
    class Server:
        @trpc.method
        async def call_back(self) -> object:
            return await trpc.current_call().client.call("Back.ask")

        @trpc.method
        def name(self) -> str:
            return "server"

    class Back:
        @trpc.method
        async def ask(self) -> object:
            return await trpc.current_call().client.call("Server.name")

    notes = Notes()
    async with connected(Server(), service=Back(), interceptors=[notes]) as (client, _):
        assert await client.call("Server.call_back") == "server"
    assert [call.method for call in notes.calls] == ["Server.call_back", "Server.name"]
    assert not any(call.is_incoming for call in notes.calls)


async def test_a_refused_call_is_told_to_the_interceptor():
    seen = []

    async def note(call, proceed):
        try:
            return await proceed(call)
        except trpc.RPCError as exc:
            seen.append(type(exc).__mro__)
            raise

    async with calling(note) as (client, _):
        with pytest.raises(trpc.MethodNotFound):
            await client.call("Service.nothing")
        with pytest.raises(trpc.InvalidArguments):
            await client.call("Service.echo", object())
    with pytest.raises(trpc.ConnectionLost):
        await client.notify("Service.echo", 1)
    expected = trpc.MethodNotFound, trpc.InvalidArguments, trpc.ConnectionLost
    assert all(cls in classes for cls, classes in zip(expected, seen, strict=True))


async def test_without_interceptors_nothing_is_in_between():
    async with connected(Service()) as (client, _):
        assert type(client._caller) is Caller


async def test_an_interrupt_strikes_in_an_interceptor_as_in_other_code_of_the_user():
    struck = []

    async def interceptor(call, proceed):
        struck.append(trio.lowlevel.currently_ki_protected())
        return await proceed(call)

    async with calling(interceptor) as (client, _):
        await client.call("Service.echo", 1)
        await client.proxy(Service).echo(1)
        await client.proxy(Service).total(items())
        await client.notify("Service.echo", 1)
    assert struck == [False] * 4
