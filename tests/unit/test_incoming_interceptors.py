"""Interceptors of the serving side."""

import dataclasses
import logging
import threading
from collections.abc import AsyncIterable, AsyncIterator

import pytest
import trio
import trio.testing
from support import connected, raw_client_of, settle

import trpc
from trpc._messages import Kind


class Service:
    def __init__(self):
        self.ran = []

    @trpc.method
    async def echo(self, value: object, *, key: int = 0) -> object:
        self.ran.append(("echo", value, key))
        return value

    @trpc.method
    def plain(self, numbers: dict[int, str]) -> dict[int, str]:
        self.ran.append(("plain", numbers))
        return numbers

    @trpc.method(in_thread=True)
    def thread(self) -> bool:
        return threading.current_thread() is threading.main_thread()

    @trpc.method
    def metadata(self) -> dict:
        return dict(trpc.current_call().metadata)

    @trpc.method
    async def fail(self) -> None:
        raise trpc.Overloaded("some other server's")

    @trpc.method
    async def forever(self) -> None:
        await trio.sleep_forever()

    @trpc.method
    async def count(self, to: int) -> AsyncIterator[int]:
        for number in range(to):
            yield number
        self.ran.append("counted")

    @trpc.method
    async def total(self, numbers: AsyncIterable[int]) -> int:
        return sum([number async for number in numbers])

    @trpc.method
    async def call_back(self) -> object:
        return await trpc.current_call().client.call("Service.echo", "back")


def serving(*interceptors, service=None, **options):
    return connected(service or Service(), serve={"interceptors": interceptors}, **options)


class Notes:
    """Notes what it sees, and lets all through."""

    def __init__(self):
        self.calls = []
        self.results = []

    async def __call__(self, call, proceed):
        self.calls.append(call)
        current = trpc.current_call()
        assert (current.method, current.peer, current.metadata) == (call.method, call.peer, call.metadata)
        result = await proceed(call)
        self.results.append(result)
        return result


async def test_each_kind_of_method():
    notes, service = Notes(), Service()
    async with serving(notes, service=service) as (client, server):
        proxy = client.proxy(Service)
        with trpc.metadata(tenant="x"):
            assert await proxy.echo(5, key=2) == 5
        assert await proxy.plain({1: "a"}) == {1: "a"}
        assert await proxy.thread() is False
        async with proxy.count(100) as numbers:
            assert [number async for number in numbers] == list(range(100))

        async def items():
            yield 1
            yield 2

        assert await proxy.total(items()) == 3
        await client.notify("Service.echo", "one-way")
        await settle()
        (peer,) = {connection.peer for connection in server.connections}
    first = notes.calls[0]
    assert first == trpc.Call("Service.echo", (5,), {"key": 2}, {"tenant": "x"}, peer, is_incoming=True)
    assert [call.method.split(".")[1] for call in notes.calls] == ["echo", "plain", "thread", "count", "total", "echo"]
    # Converted, as the handler gets them.
    assert notes.calls[1].args == ({1: "a"},)
    # A stream gives nothing but its items.
    assert notes.results == [5, {1: "a"}, False, None, 3, "one-way"]
    assert ("echo", "one-way", 0) in service.ran


async def test_arguments_metadata_and_results_are_changed():
    async def change(call, proceed):
        if call.method == "Service.metadata":
            result = await proceed(dataclasses.replace(call, metadata={**call.metadata, "user": "ada"}))
            assert trpc.current_call().metadata == {"tenant": "x"}
            return {**result, "seen": True}
        return await proceed(dataclasses.replace(call, args=("changed",), kwargs={"key": 7}))

    service = Service()
    async with serving(change, service=service) as (client, _):
        with trpc.metadata(tenant="x"):
            assert await client.call("Service.metadata") == {"tenant": "x", "user": "ada", "seen": True}
        assert await client.call("Service.echo", "given") == "changed"
    assert service.ran == [("echo", "changed", 7)]


async def test_one_that_does_not_proceed():
    async def answer(call, proceed):
        return "instead"

    service = Service()
    async with serving(answer, service=service) as (client, _):
        assert await client.call("Service.echo", 1) == "instead"
        async with client.stream("Service.count", 5) as numbers:
            assert [number async for number in numbers] == []

        async def items():
            yield 1

        assert await client.call("Service.total", items()) == "instead"
    assert service.ran == []


@pytest.mark.parametrize(
    "cls", [trpc.Overloaded, trpc.Unavailable, trpc.Unauthenticated, trpc.InvalidArguments, trpc.MethodNotFound]
)
async def test_a_refusal_arrives_as_it_is(cls):
    async def refuse(call, proceed):
        await trio.lowlevel.checkpoint()
        raise cls("not now")

    service = Service()
    async with serving(refuse, service=service) as (client, _):
        with pytest.raises(cls, match="^not now$") as caught:
            await client.call("Service.echo", 1)
        assert type(caught.value) is cls
        with pytest.raises(cls, match="^not now$"):
            async with client.stream("Service.count", 5) as numbers:
                await numbers.receive()
        await client.notify("Service.echo", 1)
        await settle()
    assert service.ran == []


async def test_refusals_cost_the_caller_as_others_do():
    async def refuse(call, proceed):
        raise trpc.Overloaded("not now")

    limits = trpc.Limits(control_burst=3, control_rate=1e-6)
    async with raw_client_of(Service(), limits=limits, interceptors=[refuse]) as peer:
        await peer.open()
        for call_id in range(1, 4):
            await peer.send_request(call_id, "Service.echo", 1)
            assert (await peer.receive_error(call_id))["message"] == "not now"
        await peer.send_request(4, "Service.echo", 1)
        assert (await peer.receive()).kind == Kind.GOAWAY


async def test_what_the_handler_raises_is_never_a_refusal():
    async def look(call, proceed):
        with pytest.raises(trpc.Overloaded):
            await proceed(call)
        # The handler has run, which a refusal would deny.
        raise trpc.Unavailable("later")

    for interceptors, name in ((), "Overloaded"), ([Notes()], "Overloaded"), ([look], "Unavailable"):
        async with serving(*interceptors) as (client, _):
            with pytest.raises(trpc.RemoteError) as caught:
                await client.call("Service.fail")
            assert caught.value.type_name == name


async def test_other_errors_are_as_the_handlers(caplog):
    async def fail(call, proceed):
        if call.method == "Service.count":
            await proceed(call)
        raise KeyError("missing")

    async with serving(fail) as (client, _):
        with pytest.raises(KeyError, match="missing"):
            await client.call("Service.echo", 1)
        async with client.stream("Service.count", 2) as numbers:
            assert [await numbers.receive(), await numbers.receive()] == [0, 1]
            with pytest.raises(KeyError):
                await numbers.receive()
    assert {record.name for record in caplog.records if record.levelno >= logging.ERROR} == {"trpc.handler"}


async def test_arguments_that_do_not_fit_never_get_there():
    notes = Notes()
    async with serving(notes) as (client, _):
        with pytest.raises(trpc.InvalidArguments):
            await client.call("Service.plain", "x")
        with pytest.raises(trpc.MethodNotFound):
            await client.call("Service.nothing")
    assert notes.calls == []


async def test_proceeding_twice():
    async def twice(call, proceed):
        return [await proceed(call), await proceed(call)]

    async with serving(twice) as (client, _):
        assert await client.call("Service.echo", 1) == [1, 1]
        async with client.stream("Service.count", 1) as numbers:
            assert await numbers.receive() == 0
            with pytest.raises(RuntimeError, match="can proceed with it only once"):
                await numbers.receive()

        async def items():
            yield 1

        with pytest.raises(RuntimeError, match="can proceed with it only once"):
            await client.call("Service.total", items())


async def test_a_cancel_and_a_deadline(autojump_clock):
    ended = []

    async def note(call, proceed):
        deadline = trio.current_effective_deadline()
        assert deadline == trpc.current_call().deadline
        try:
            return await proceed(call)
        except trio.Cancelled:
            ended.append(trio.current_time())
            raise

    async with serving(note) as (client, server):
        start = trio.current_time()
        with trio.move_on_after(3):
            await client.call("Service.forever")
        await settle()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.call, "Service.forever")
            await trio.sleep(1)
            nursery.cancel_scope.cancel()
        assert [time - start for time in ended] == pytest.approx([3, 4])
        assert server.calls == ()


async def test_one_that_has_a_task_of_its_own_proceed():
    async def in_a_child(call, proceed):
        async with trio.open_nursery() as nursery:
            results = []

            async def run():
                results.append(await proceed(dataclasses.replace(call, metadata={"a": 1})))

            nursery.start_soon(run)
        return results[0]

    async with serving(in_a_child) as (client, _):
        assert await client.call("Service.metadata") == {"a": 1}
        async with client.stream("Service.count", 3) as numbers:
            assert [number async for number in numbers] == [0, 1, 2]


async def test_a_scope_that_one_leaves_open_is_not_for_the_next_call(autojump_clock, caplog):
    async def leaves_a_scope(call, proceed):
        if call.args == ("first",):
            trio.move_on_after(5).__enter__()
        return await proceed(call)

    class Plain:
        @trpc.method
        def echo(self, text: str) -> str:
            return text

        @trpc.method
        async def sleep(self, seconds: float) -> str:
            await trio.sleep(seconds)
            return "slept"

    async with serving(leaves_a_scope, service=Plain()) as (client, _):
        assert await client.call("Plain.echo", "first") == "first"
        assert await client.call("Plain.sleep", 10) == "slept"
    assert "has left a cancel scope open" in caplog.text


async def test_calls_back_are_not_intercepted():
    """Those that a server makes, and those that a client serves."""
    notes, theirs = Notes(), Notes()

    async def around(call, proceed):
        assert not call.is_incoming
        theirs.calls.append(call)
        return await proceed(call)

    options = {"service": Service(), "interceptors": [around]}
    async with connected(Service(), serve={"interceptors": [notes]}, **options) as (client, _):
        assert await client.call("Service.call_back") == "back"
    for calls in notes.calls, theirs.calls:
        assert [call.method for call in calls] == ["Service.call_back"]


@pytest.mark.parametrize("wrong, error", [(5, "not iterable"), ([5], "an async function"), (Notes(), "a sequence")])
async def test_mistakes(wrong, error):
    ours, theirs = trio.testing.memory_stream_pair()
    with pytest.raises(TypeError, match=error):
        await trpc.serve_stream(Service(), theirs, interceptors=wrong)
    with pytest.raises(TypeError, match=error):
        trpc.connect_stream(ours, interceptors=wrong)
