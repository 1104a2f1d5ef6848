"""Servers in memory and their clients: nothing is left of them, and what is raised comes out as it is."""

from __future__ import annotations

import inspect
import signal
from collections.abc import AsyncIterable, AsyncIterator

import pytest
import trio
import trio.testing
from certificates import client_context, server_context

import trpc
from trpc.testing import ConnectOptions, Faults, Link, Recorder, ServeOptions, connected, serving


class Service:
    def __init__(self):
        self.log = []

    @trpc.method
    async def add(self, a: int, b: int) -> int:
        return a + b

    @trpc.method
    async def wait(self, seconds: float) -> str:
        try:
            await trio.sleep(seconds)
        except trio.Cancelled:
            self.log.append("cancelled")
            raise
        return "waited"

    @trpc.method
    async def fail(self, kind: str) -> None:
        raise {"exit": SystemExit(3), "interrupt": KeyboardInterrupt(), "error": ValueError("planned")}[kind]

    @trpc.method
    async def fail_twice(self) -> None:
        raise BaseExceptionGroup("both", [SystemExit(3), ValueError("beside")])

    @trpc.method
    async def count(self, n: int) -> AsyncIterator[int]:
        for number in range(n):
            yield number

    @trpc.method
    async def total(self, numbers: AsyncIterable[int]) -> int:
        return sum([number async for number in numbers])

    @trpc.method
    async def tenant(self) -> str:
        return f"{trpc.current_call().peer.identity}"

    @trpc.method
    async def call_back(self) -> int:
        return await trpc.current_call().client.call("Own.double", 4)


class Own:
    @trpc.method
    async def double(self, n: int) -> int:
        return 2 * n


async def test_calls_streams_and_calls_back():
    async with connected(Service(), service=Own()) as client:
        proxy = client.proxy(Service)
        assert await proxy.add(1, 2) == 3
        async with proxy.count(3) as items:
            assert [item async for item in items] == [0, 1, 2]

        async def numbers():
            yield 1
            yield 2

        assert await client.call("Service.total", numbers()) == 3
        assert await proxy.call_back() == 8
        assert str(client.peer) == "MemoryStream"


async def test_a_message_larger_than_the_window():
    async with connected({"Echo": Echo()}) as client:
        assert await client.call("Echo.echo", bytes(3_000_000)) == bytes(3_000_000)


class Echo:
    @trpc.method
    async def echo(self, data: bytes) -> bytes:
        return data


async def test_options_of_both_sides():
    def authenticate(credentials):
        return "ann" if credentials.has_token("secret") else None

    serve = {"authenticate": authenticate, "limits": trpc.Limits(max_message_size=500)}
    async with connected(Service(), serve=serve, token="secret") as client:
        assert await client.proxy(Service).tenant() == "ann"
    async with connected(Service(), serve=serve) as client:
        with pytest.raises(trpc.Unauthenticated):
            await client.proxy(Service).tenant()
    async with connected(Service(), serve={"reflection": True}) as client:
        (service,) = await client.proxy(trpc.Reflection).services()
        assert service["name"] == "Service"


@pytest.mark.parametrize(
    ("options", "function"), [(ServeOptions, trpc.serve_listeners), (ConnectOptions, trpc.connect_stream)]
)
def test_all_options_are_there(options, function):
    parameters = inspect.signature(function).parameters.values()
    # Nobody else reaches what is in memory.
    own = {p.name for p in parameters if p.kind is p.KEYWORD_ONLY} - {"task_status", "allow_insecure"}
    assert options.__optional_keys__ == own


async def test_what_the_block_raises_comes_out_as_it_is():
    error = ValueError("the test's")
    with pytest.raises(ValueError) as caught:
        async with connected(Service()) as client:
            await client.call("Service.add", 1, 2)
            raise error
    assert caught.value is error
    assert error.__context__ is None
    group = ExceptionGroup("the test's", [ValueError("x"), KeyError("y")])
    with pytest.raises(ExceptionGroup) as caught:
        async with serving(Service()):
            raise group
    assert caught.value is group


async def test_what_a_handler_raises_is_the_callers():
    async with connected(Service()) as client:
        with pytest.raises(ValueError, match="planned"):
            await client.call("Service.fail", "error")


@pytest.mark.parametrize(("kind", "cls"), [("exit", SystemExit), ("interrupt", KeyboardInterrupt)])
async def test_what_ends_a_program_comes_out_of_the_block(kind, cls):
    ended = False
    with pytest.raises(cls) as caught:
        async with connected(Service()) as client:
            with pytest.raises(trpc.RemoteError):
                await client.call("Service.fail", kind)
            try:
                await trio.sleep_forever()
            finally:
                ended = True
    assert ended
    assert not isinstance(caught.value.__context__, trio.Cancelled)


async def test_what_ends_a_program_with_something_beside_it_comes_as_a_group():
    with pytest.raises(BaseExceptionGroup) as caught:
        async with connected(Service()) as client:
            await client.notify("Service.fail_twice")
            await trio.sleep_forever()
    assert caught.value.subgroup(SystemExit) is not None


@pytest.mark.parametrize("kind", ["exit", "interrupt"])
@pytest.mark.parametrize(
    "own", [AssertionError("found"), ExceptionGroup("found", [ValueError(1), trpc.Unavailable("x")])]
)
async def test_what_ends_a_program_hides_nothing_that_the_block_has_found(kind, own):
    with pytest.raises(BaseExceptionGroup) as caught:
        async with connected(Service()) as client:
            with pytest.raises(trpc.RemoteError):
                await client.call("Service.fail", kind)
            raise own
    end, found = caught.value.exceptions
    assert isinstance(end, SystemExit | KeyboardInterrupt)
    assert (found, found.__context__) == (own, None)


async def test_what_has_cancelled_the_block_is_no_finding():
    with pytest.raises(BaseExceptionGroup) as caught:
        async with connected(Service()) as client:
            await client.notify("Service.fail", "exit")
            async with trio.open_nursery() as nursery:
                nursery.start_soon(trio.sleep_forever)
                try:
                    await trio.sleep_forever()
                finally:
                    raise AssertionError("found")
    end, found = caught.value.exceptions
    assert isinstance(end, SystemExit)
    assert [type(exc) for exc in found.exceptions] == [AssertionError]


@pytest.mark.parametrize("method", ["fail", "wait"])
async def test_how_the_block_hears_of_an_end_is_the_context_of_that(method):
    with pytest.raises(SystemExit) as caught:
        async with connected(Service()) as client:
            if method == "fail":
                await client.call("Service.fail", "exit")
            else:
                await client.notify("Service.fail", "exit")
                await client.call("Service.wait", 1000)
    assert isinstance(caught.value.__context__, trpc.RPCError)


async def test_nothing_is_left(autojump_clock):
    living = trio.lowlevel.current_statistics().tasks_living
    service = Service()
    async with serving(service) as memory:
        async with memory.connect() as client, trio.open_nursery() as nursery:
            nursery.start_soon(client.call, "Service.wait", 1000)
            await trio.sleep(1)
            assert [call.method for call in memory.server.calls] == ["Service.wait"]
            nursery.cancel_scope.cancel()
        assert service.log == ["cancelled"]
        assert memory.server.calls == ()
    assert memory.server.ended.is_set()
    assert trio.lowlevel.current_statistics().tasks_living == living
    with pytest.raises(trpc.ConnectionLost):
        await client.call("Service.add", 1, 2)


async def test_leaving_the_server_first_ends_its_handlers_and_its_clients(autojump_clock):
    service, outcomes = Service(), []

    async def use(memory):
        async with memory.connect() as client:
            try:
                await client.call("Service.wait", 1000)
            except trpc.ConnectionLost as exc:
                outcomes.append(exc.maybe_executed)

    async with trio.open_nursery() as nursery:
        async with serving(service) as memory:
            nursery.start_soon(use, memory)
            await trio.sleep(1)
    assert service.log == ["cancelled"]
    assert outcomes == [True]


async def test_a_cancelled_block_is_left_in_order(autojump_clock):
    """The server is there until then, so that the handler's end is waited for."""
    service = Service()
    with trio.move_on_after(1) as scope:
        async with connected(service, cancel_grace=50) as client:
            await client.call("Service.wait", 1000)
    assert scope.cancelled_caught
    assert service.log == ["cancelled"]
    assert trio.current_time() == 1


async def test_a_block_that_is_cancelled_before_it_begins():
    with trio.CancelScope() as scope:
        scope.cancel()
        async with connected(Service()):
            raise AssertionError("not reached")
    assert scope.cancelled_caught


async def test_several_clients_and_a_drain(autojump_clock):
    async with serving(Service()) as memory:
        async with memory.connect() as one, memory.connect() as other:
            assert len(memory.server.connections) == 2
            assert await one.call("Service.add", 1, 2) == await other.call("Service.add", 2, 1)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(one.call, "Service.wait", 2)
                await trio.sleep(1)
                await memory.server.drain(grace=5)
                with pytest.raises(trpc.Unavailable):
                    await other.call("Service.add", 1, 2)
        assert trio.current_time() == 2
        with pytest.raises(trpc.Unavailable, match="the server in memory takes no more connections"):
            async with memory.connect():
                pass


async def test_the_server_knows_of_a_client_that_has_connected():
    async with serving(Service()) as memory:
        for number in range(1, 5):
            async with memory.connect():
                assert len(memory.server.connections) == 1, number
            await trio.testing.wait_all_tasks_blocked()


@pytest.mark.parametrize("passes", range(5))
async def test_a_client_that_is_cancelled_while_it_connects_leaves_nothing(passes):
    async with serving(Service()) as memory, trio.open_nursery() as nursery:

        async def use():
            async with memory.connect():
                await trio.sleep_forever()

        nursery.start_soon(use)
        for _ in range(passes):
            await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()
        with trio.CancelScope(shield=True):
            await trio.testing.wait_all_tasks_blocked()
        assert memory.server.connections == ()


async def test_too_many_connections():
    async with serving(Service(), limits=trpc.Limits(max_connections=1)) as memory:
        async with memory.connect(), memory.connect() as refused:
            with pytest.raises(trpc.Unavailable, match="1 connections are open"):
                await refused.call("Service.add", 1, 2)


async def test_a_service_that_cannot_be_served():
    living = trio.lowlevel.current_statistics().tasks_living
    with pytest.raises(TypeError, match="has no methods"):
        async with connected(object()):
            raise AssertionError("not reached")
    with pytest.raises(TypeError, match="interceptors"):
        async with serving(Service(), interceptors=print):
            raise AssertionError("not reached")
    with pytest.raises(ValueError, match="cancel_grace"):
        async with connected(Service(), cancel_grace=-1):
            raise AssertionError("not reached")
    assert trio.lowlevel.current_statistics().tasks_living == living


async def test_a_link_is_for_one_connection(autojump_clock):
    link = Link(7, there=Faults(latency=0.5))
    async with connected(Service(), link=link):
        pass
    with pytest.raises(RuntimeError, match=r"<Link seed=7 there=<Faults\(latency=0.5\).* has a connection already"):
        async with connected(Service(), link=link):
            raise AssertionError("not reached")


@pytest.mark.parametrize("wrong", [{"bogus": 1}, {"cancel_grace": -1}, {"server_hostname": "a"}])
async def test_a_wrong_option_leaves_the_link_as_it_was(wrong):
    link = Link()
    async with serving(Service()) as memory:
        with pytest.raises((TypeError, ValueError), match=next(iter(wrong))):
            async with memory.connect(link=link, **wrong):
                raise AssertionError("not reached")
        async with memory.connect(link=link) as client:
            assert await client.call("Service.add", 1, 2) == 3


async def test_over_tls(autojump_clock):
    serve = {"ssl_context": server_context()}
    options = {"ssl_context": client_context(), "server_hostname": "127.0.0.1"}
    async with connected(Service(), serve=serve, link=Link(there=Faults(latency=1)), **options) as client:
        assert await client.call("Service.add", 1, 2) == 3


async def test_interceptors_go_inside_of_the_recorder():
    recorder = Recorder()

    async def triple(call, proceed):
        return 3 * await proceed(call)

    async with connected(Service(), recorder=recorder, serve={"interceptors": [triple]}) as client:
        assert await client.call("Service.add", 1, 2) == 9
    assert recorder.calls[0].value == 9


@pytest.mark.parametrize("method", ["add", "wait"])
def test_ctrl_c_comes_out_as_it_is(method):
    """As Trio delivers it: to the main task, wherever that waits."""

    async def main():
        async with connected(Service()) as client:
            await client.call("Service.add", 1, 2)
            signal.raise_signal(signal.SIGINT)
            await client.call(f"Service.{method}", *((1, 2) if method == "add" else (1000,)))

    with pytest.raises(KeyboardInterrupt):
        trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


def test_ctrl_c_while_the_server_starts(monkeypatch):
    @trio.lowlevel.enable_ki_protection
    async def serve(services, listeners, *, task_status):
        signal.raise_signal(signal.SIGINT)
        await trio.sleep_forever()

    async def main():
        async with connected(Service()):
            raise AssertionError("not reached")

    monkeypatch.setattr("trpc.testing._memory_server.serve_listeners", serve)
    with pytest.raises(KeyboardInterrupt):
        trio.run(main)


def test_ctrl_c_while_a_handler_is_waited_for():
    """What the nursery gets while the block is being left comes out of the group."""
    outcomes = []

    async def main():
        release = trio.Event()

        class Slow:
            @trpc.method
            async def end(self) -> None:
                try:
                    await trio.sleep_forever()
                finally:
                    with trio.CancelScope(shield=True):
                        await release.wait()
                    outcomes.append("ended")

        @trio.lowlevel.enable_ki_protection
        async def interrupt():
            await trio.testing.wait_all_tasks_blocked()
            signal.raise_signal(signal.SIGINT)
            await trio.testing.wait_all_tasks_blocked()
            release.set()

        async with trio.open_nursery() as nursery:
            with pytest.raises(KeyboardInterrupt):
                async with serving(Slow()) as memory:
                    async with memory.connect(cancel_grace=0) as client:
                        await client.notify("Slow.end")
                        await trio.testing.wait_all_tasks_blocked()
                    nursery.start_soon(interrupt)
            outcomes.append("interrupted")

    trio.run(main)
    assert outcomes == ["ended", "interrupted"]
