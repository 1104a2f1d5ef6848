"""Connecting: options, what may be called back, and how the block is left."""

import math
from collections.abc import AsyncIterable, AsyncIterator

import pytest
import trio
import trio.testing
from support import connected, settle

import trpc


@pytest.mark.parametrize("grace", [-1, -0.001, math.nan])
@pytest.mark.parametrize("connect", [trpc.connect, trpc.connect_stream])
def test_a_grace_that_is_no_time_is_refused(connect, grace):
    with pytest.raises(ValueError, match="cancel_grace is a number of seconds, not"):
        connect("tcp://127.0.0.1:1", cancel_grace=grace)


# --- what may be called back ---


class Progress:
    """What a client offers."""

    def __init__(self, name="progress"):
        self.name = name
        self.seen = []

    @trpc.method
    def report(self, done: float) -> str:
        self.seen.append(done)
        return self.name

    @trpc.method
    async def lines(self, number: int) -> AsyncIterator[str]:
        for i in range(number):
            yield f"{self.name} {i}"

    @trpc.method
    async def collect(self, items: AsyncIterable[int]) -> list[int]:
        return [item async for item in items]

    @trpc.method
    async def deeper(self, levels: int) -> int:
        return levels if levels == 0 else await trpc.current_call().client.proxy(Job).deeper(levels - 1)


class Job:
    """What the server offers: each method calls its caller back."""

    def __init__(self):
        self.clients = []

    @trpc.method
    async def run(self) -> str:
        client = trpc.current_call().client
        self.clients.append(client)
        return await client.proxy(Progress).report(0.5)

    @trpc.method
    async def read(self) -> list[str]:
        async with trpc.current_call().client.proxy(Progress).lines(3) as lines:
            return [line async for line in lines]

    @trpc.method
    async def send(self) -> list[int]:
        async def numbers():
            for i in range(3):
                yield i

        return await trpc.current_call().client.proxy(Progress).collect(numbers())

    @trpc.method
    async def relay(self) -> AsyncIterator[str]:
        async with trpc.current_call().client.proxy(Progress).lines(3) as lines:
            async for line in lines:
                yield line

    @trpc.method
    async def deeper(self, levels: int) -> int:
        return levels if levels == 0 else await trpc.current_call().client.proxy(Progress).deeper(levels - 1)


async def test_a_handler_calls_its_caller_back():
    progress, job = Progress(), Job()
    async with connected(job, service=progress) as (client, server):
        proxy = client.proxy(Job)
        assert await proxy.run() == "progress"
        assert progress.seen == [0.5]
        assert await proxy.read() == ["progress 0", "progress 1", "progress 2"]
        assert await proxy.send() == [0, 1, 2]
        async with proxy.relay() as lines:
            assert [line async for line in lines] == ["progress 0", "progress 1", "progress 2"]
        assert await proxy.deeper(20) == 0
        assert server.calls == ()


@pytest.mark.parametrize("make", [list, tuple])
async def test_several_services_may_be_offered(make):
    class Other:
        @trpc.method
        def other(self) -> str:
            return "other"

    class Both:
        @trpc.method
        async def both(self) -> list[str]:
            client = trpc.current_call().client
            return [await client.call("Progress.report", 1.0), await client.call("Other.other")]

    async with connected(Both(), service=make([Progress(), Other()])) as (client, _):
        assert await client.call("Both.both") == ["progress", "other"]


async def test_a_service_may_be_offered_under_a_name():
    class Named:
        @trpc.method
        async def call(self) -> list[str]:
            client = trpc.current_call().client
            return [await client.proxy(Progress, name=name).report(1) for name in ("one", "two")]

    async with connected(Named(), service={"one": Progress("a"), "two": Progress("b")}) as (client, _):
        assert await client.call("Named.call") == ["a", "b"]


async def test_without_a_service_nothing_can_be_called_back():
    async with connected(Job()) as (client, _):
        with pytest.raises(trpc.RemoteError, match="there is no method 'Progress.report'") as caught:
            await client.proxy(Job).run()
        assert caught.value.type_name == "MethodNotFound"


@pytest.mark.parametrize("connect", [trpc.connect, trpc.connect_stream])
@pytest.mark.parametrize("service", [Progress, object(), [], 5, {"a": Progress}])
def test_a_service_that_cannot_be_served_is_refused_at_once(connect, service):
    with pytest.raises(TypeError):
        connect("tcp://127.0.0.1:1", service=service)


async def test_the_client_of_a_handler_lasts_as_long_as_the_connection():
    progress, job = Progress(), Job()
    async with connected(job, service=progress) as (client, _):
        await client.proxy(Job).run()
        (kept,) = job.clients
        assert str(kept.peer)
        # Of use outside of a handler as well.
        assert await kept.proxy(Progress).report(0.7) == "progress"
    await settle()
    with pytest.raises(trpc.ConnectionLost):
        await kept.proxy(Progress).report(0.9)
    assert progress.seen == [0.5, 0.7]


async def test_each_connection_is_called_back_for_itself():
    job = Job()
    one, two = Progress("one"), Progress("two")
    async with trio.open_nursery() as nursery:
        server = await nursery.start(trpc.serve_tcp, job, 0)
        async with trpc.connect(server.url, service=one) as first, trpc.connect(server.url, service=two) as second:
            assert await first.proxy(Job).run() == "one"
            assert await second.proxy(Job).run() == "two"
        nursery.cancel_scope.cancel()
    assert job.clients[0] is not job.clients[1]


async def test_a_lost_connection_ends_what_handlers_call_back():
    class Waits:
        @trpc.method
        async def wait(self) -> None:
            started.set()
            await trio.sleep_forever()

    class Calls:
        @trpc.method
        async def call(self) -> None:
            try:
                await trpc.current_call().client.call("Waits.wait")
            except BaseException as exc:
                ends.append(type(exc))
                raise

    started, ends = trio.Event(), []
    async with trio.open_nursery() as nursery:
        ours, theirs = trio.testing.memory_stream_pair()
        nursery.start_soon(trpc.serve_stream, Calls(), theirs)
        async with trpc.connect_stream(ours, service=Waits()) as client:
            await client.notify("Calls.call")
            await started.wait()
        await settle()
    assert len(ends) == 1


async def test_a_cancelled_server_ends_calls_back_at_once():
    class Shields:
        @trpc.method
        async def wait(self) -> None:
            started.set()
            with trio.CancelScope(shield=True):
                await go_on.wait()

    class Calls:
        @trpc.method
        async def call(self) -> None:
            await trpc.current_call().client.call("Shields.wait")

    started, go_on = trio.Event(), trio.Event()
    ours, theirs = trio.testing.memory_stream_pair()
    async with trio.open_nursery() as outer:
        async with trio.open_nursery() as serving:
            serving.start_soon(trpc.serve_stream, Calls(), theirs)

            @outer.start_soon
            async def connect():
                async with trpc.connect_stream(ours, service=Shields()) as client:
                    with pytest.raises(trpc.ConnectionLost):
                        await client.call("Calls.call")
                    go_on.set()

            await started.wait()
            serving.cancel_scope.cancel()
        # It has not waited for an acknowledgement that nobody would read.


# --- how the block is left ---


async def test_what_the_block_raises_comes_out_as_it_is():
    error = KeyError("its own")
    with pytest.raises(KeyError) as caught:
        async with trio.open_nursery() as nursery:
            ours, theirs = trio.testing.memory_stream_pair()
            nursery.start_soon(trpc.serve_stream, Job(), theirs)
            try:
                async with trpc.connect_stream(ours):
                    raise error
            except KeyError as exc:
                nursery.cancel_scope.cancel()
                caught_inside = exc
        raise caught_inside
    assert caught.value is error


async def test_a_stream_is_closed_at_the_end():
    ours, theirs = trio.testing.memory_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trpc.serve_stream, Job(), theirs)
        async with trpc.connect_stream(ours) as client:
            await client.ping()
    with pytest.raises(trio.ClosedResourceError):
        await ours.send_all(b"x")


@pytest.mark.parametrize("url", ["", "tcp://", "tcp://host", "http://host:1", "unix://", "tcp://host:port"])
async def test_a_url_that_is_none(url):
    with pytest.raises(ValueError):
        async with trpc.connect(url):
            pytest.fail("the block was entered")
