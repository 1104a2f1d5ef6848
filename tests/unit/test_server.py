"""The handle of a running server, and the ways to start one."""

import os
import stat
from functools import partial

import pytest
import trio
import trio.testing
from support import connected, settle, start_call

import trpc
from trpc import _server


class Echo:
    @trpc.method
    def echo(self, text: str) -> str:
        return text


async def check(url):
    async with trpc.connect(url) as client:
        assert await client.proxy(Echo).echo("x") == "x"


@pytest.fixture
def short_path(tmp_path_factory):
    """A place for Unix sockets: their paths have to be short."""
    return tmp_path_factory.mktemp("s")


async def test_a_server_over_a_stream_has_no_url():
    async with connected(Echo()) as (_, server):
        assert server.urls == []
        with pytest.raises(RuntimeError, match="this server has no URL"):
            _ = server.url


async def test_on_a_unix_socket(nursery, short_path):
    path = short_path / "socket"
    server = await nursery.start(trpc.serve_unix, Echo(), path)
    assert server.urls == [server.url]
    assert server.url == f"unix://{path}"
    await check(server.url)


async def test_on_listeners_that_are_open(nursery, short_path):
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    more = await trio.open_tcp_listeners(0, host="127.0.0.1")
    server = await nursery.start(trpc.serve_listeners, Echo(), [*listeners, *more])
    assert len(set(server.urls)) == 2
    assert server.url == server.urls[0]
    for url in server.urls:
        await check(url)
    server.urls.clear()
    assert len(server.urls) == 2, "what it gives is a copy"


class Slow:
    def __init__(self):
        self.begun = []

    @trpc.method
    async def sleep(self, seconds: float) -> float:
        self.begun.append(seconds)
        await trio.sleep(seconds)
        return seconds


@pytest.fixture(params=["tcp", "unix", "listeners"])
def serve(request, short_path):
    """A function that serves on sockets of each kind, with the server and whether it serves."""

    async def run(service, task_status, **options):
        if request.param == "tcp":
            await trpc.serve_tcp(service, 0, task_status=task_status, **options)
        elif request.param == "unix":
            await trpc.serve_unix(service, short_path / "socket", task_status=task_status, **options)
        else:
            listeners = [listener for _ in range(2) for listener in await trio.open_tcp_listeners(0, host="127.0.0.1")]
            await trpc.serve_listeners(service, listeners, task_status=task_status, **options)

    return run


async def test_drained_it_listens_no_more_finishes_its_calls_and_returns(serve, autojump_clock):
    service, outcomes, served = Slow(), {}, []
    async with trio.open_nursery() as nursery:

        async def run(task_status):
            await serve(service, task_status)
            served.append(trio.current_time())

        server = await nursery.start(run)
        urls = server.urls
        async with trpc.connect(urls[0]) as one, trpc.connect(urls[-1]) as other, trpc.connect(urls[0]) as idle:
            await idle.ping()
            for seconds, client in (2, one), (3, other):
                start_call(nursery, outcomes, seconds, client.call, "Slow.sleep", seconds)
            await settle()
            while len(server.calls) < 2:
                await trio.lowlevel.checkpoint()
            assert not server.is_draining
            nursery.start_soon(server.drain)
            await settle()
            assert server.is_draining
            for url in urls:
                with pytest.raises(trpc.Unavailable):
                    async with trpc.connect(url):
                        pytest.fail("connected")
            with pytest.raises(trpc.Unavailable):
                await idle.call("Slow.sleep", 0)
            assert not served
            await trio.sleep(4)
            assert served
            assert outcomes == {2: 2, 3: 3}
    assert sorted(service.begun) == [2, 3]


async def test_drained_without_any_connection(serve):
    async with trio.open_nursery() as nursery:
        server = await nursery.start(serve, Slow())
        await server.drain()
        await server.drain()
    assert server.connections == server.calls == ()
    with pytest.raises(trpc.Unavailable):
        async with trpc.connect(server.url):
            pytest.fail("connected")


async def test_a_handler_that_shields_itself_keeps_only_what_serves_it(autojump_clock):
    class Shielded:
        @trpc.method
        async def sleep(self, seconds: float) -> None:
            with trio.CancelScope(shield=True):
                await trio.sleep(seconds)

    served, outcomes = [], {}
    async with trio.open_nursery() as nursery:

        async def run(task_status):
            await trpc.serve_tcp(Shielded(), 0, task_status=task_status)
            served.append(trio.current_time())

        server = await nursery.start(run)
        async with trpc.connect(server.url) as client, trio.open_nursery() as calls:
            start_call(calls, outcomes, "call", client.call, "Shielded.sleep", 100)
            while not server.calls:
                await trio.lowlevel.checkpoint()
            start = trio.current_time()
            await server.drain(1)
            assert trio.current_time() - start < 6
        assert isinstance(outcomes["call"], trpc.ConnectionLost)
        assert not served
    assert served[0] - start == pytest.approx(100, abs=1)


@pytest.mark.parametrize("grace", [-1, float("nan")])
async def test_a_grace_is_checked_before_anything_is_done(serve, nursery, grace):
    server = await nursery.start(serve, Slow())
    with pytest.raises(ValueError, match="the grace is a number of seconds, not"):
        await server.drain(grace)
    assert not server.is_draining
    async with trpc.connect(server.url) as client:
        assert await client.call("Slow.sleep", 0) == 0


async def test_a_connection_that_is_accepted_while_it_drains(autojump_clock):
    """Over a stream that a listener of the user's own had accepted already."""
    ours, theirs = trio.testing.memory_stream_pair()
    async with trio.open_nursery() as nursery:
        server = await nursery.start(trpc.serve_tcp, Slow(), 0)
        async with trpc.connect(server.url) as client, trio.open_nursery() as calls:
            calls.start_soon(client.call, "Slow.sleep", 2)
            while not server.calls:
                await trio.lowlevel.checkpoint()
            calls.start_soon(server.drain)
            await settle()
            calls.start_soon(lambda: server.serve_stream(theirs))
            async with trpc.connect_stream(ours) as late:
                with pytest.raises(trpc.Unavailable):
                    await late.call("Slow.sleep", 0)


async def test_the_number_of_connections_is_bounded_and_newcomers_are_told(autojump_clock):
    async with trio.open_nursery() as nursery:
        limits = trpc.Limits(max_connections=1)
        server = await nursery.start(partial(trpc.serve_tcp, Slow(), 0, limits=limits))
        async with trpc.connect(server.url) as first:
            await first.ping()
            async with trpc.connect(server.url) as second:
                with pytest.raises(trpc.Unavailable, match="1 connections are open, the most that are served"):
                    await second.call("Slow.sleep", 0)
            assert await first.call("Slow.sleep", 0) == 0
        nursery.cancel_scope.cancel()


async def test_those_that_cannot_be_told_are_closed(autojump_clock, monkeypatch):
    monkeypatch.setattr(_server, "_MAX_TURNED_AWAY", 0)
    async with trio.open_nursery() as nursery:
        limits = trpc.Limits(max_connections=1)
        server = await nursery.start(partial(trpc.serve_tcp, Slow(), 0, limits=limits))
        async with trpc.connect(server.url) as first:
            await first.ping()
            with pytest.raises(trpc.ConnectionLost):
                async with trpc.connect(server.url) as second:
                    await second.call("Slow.sleep", 0)
        nursery.cancel_scope.cancel()


async def test_a_unix_socket_is_handed_over(nursery, short_path):
    """The next server listens there while the one before it still has a call."""
    path = short_path / "socket"
    gate = trio.Event()

    class Waits(Echo):
        @trpc.method
        async def wait(self) -> str:
            await gate.wait()
            return "done"

    old = await nursery.start(trpc.serve_unix, Waits(), path)
    async with trpc.connect(old.url) as client:
        async with trio.open_nursery() as calls:

            @calls.start_soon
            async def call():
                assert await client.call("Echo.wait") == "done"

            while not old.calls:
                await trio.lowlevel.checkpoint()
            calls.start_soon(old.drain)
            while path.exists():
                await trio.lowlevel.checkpoint()
            new = await nursery.start(trpc.serve_unix, Echo(), path)
            await check(new.url)
            gate.set()
    await check(new.url)
    nursery.cancel_scope.cancel()


async def test_a_unix_socket_for_the_group_and_its_peers(nursery, short_path):
    seen = []

    def authenticate(credentials):
        seen.append(credentials)
        return credentials.unix.uid

    async def start(task_status):
        await trpc.serve_unix(Echo(), short_path / "s", mode=0o660, authenticate=authenticate, task_status=task_status)

    server = await nursery.start(start)
    assert stat.S_IMODE((short_path / "s").stat().st_mode) == 0o660
    async with trpc.connect(server.url) as client:
        assert await client.proxy(Echo).echo("x") == "x"
        assert client.peer.unix == (os.getpid(), os.getuid(), os.getgid())
        peer = server.connections[0].peer
        assert peer.identity == os.getuid()
        assert peer.unix == seen[0].unix == client.peer.unix
    nursery.cancel_scope.cancel()
