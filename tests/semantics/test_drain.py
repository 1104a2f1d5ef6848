"""The soft stop of a server: what was accepted is finished, and nothing else is begun."""

from __future__ import annotations

import contextlib
import math
from collections.abc import AsyncIterable, AsyncIterator

import pytest
import trio
import trio.testing
from support import (
    assert_nothing_left,
    connected,
    connection_of,
    cut_into,
    joined,
    raw_client_of,
    settle,
    start_call,
)

import trpc
from trpc import _codec
from trpc._frames import CONTINUED, MORE, PREAMBLE, encode_frame
from trpc._messages import Kind, encode_request

servers: list[trpc.Server] = []


@pytest.fixture(autouse=True)
def note_servers(monkeypatch):
    init = trpc.Server.__init__

    def noting(self, *args, **kwargs):
        init(self, *args, **kwargs)
        servers.append(self)

    monkeypatch.setattr(trpc.Server, "__init__", noting)
    yield
    servers.clear()


def server_of(peer):
    """The server at the other end of a raw client."""
    return servers[-1]


class Service:
    def __init__(self):
        self.begun = []
        self.ended = []
        self.server = None

    @contextlib.contextmanager
    def handling(self, what):
        self.begun.append(what)
        try:
            yield
        except BaseException as exc:
            self.ended.append((what, type(exc).__name__))
            raise
        self.ended.append((what, "value"))

    @trpc.method
    async def sleep(self, seconds: float) -> float:
        with self.handling(seconds):
            await trio.sleep(seconds)
        return seconds

    @trpc.method
    def plain(self, value: object) -> object:
        with self.handling(value):
            return value

    @trpc.method
    async def until_draining(self) -> AsyncIterator[int]:
        with self.handling("stream"):
            draining = trpc.current_call().draining
            number = 0
            while not draining.is_set():
                yield number
                number += 1
                with trio.move_on_after(1):
                    await draining.wait()
            yield -1

    @trpc.method
    async def endless(self) -> AsyncIterator[int]:
        with self.handling("stream"):
            while True:
                yield 0
                await trio.sleep(1)

    @trpc.method
    async def total(self, numbers: AsyncIterable[int]) -> int:
        return sum([number async for number in numbers])

    @trpc.method
    async def shielded(self, seconds: float) -> None:
        with self.handling("shielded"), trio.CancelScope(shield=True):
            await trio.sleep(seconds)

    @trpc.method
    async def blob(self, size: int) -> bytes:
        await trio.sleep(1)
        return bytes(size)

    @trpc.method
    async def drain_itself(self, grace: float) -> None:
        with self.handling("drain"):
            await self.server.drain(grace)

    @trpc.method
    async def call_back_later(self) -> object:
        await trio.sleep(2)
        return await trpc.current_call().client.call("Back.echo", "back")


class Back:
    @trpc.method
    async def echo(self, text: str) -> str:
        return text


def request_of(method, *args, time_left=None):
    return joined(encode_request(method, list(args), {}, time_left, None, max_depth=64))


async def took(function, *args):
    start = trio.current_time()
    await function(*args)
    return trio.current_time() - start


async def test_accepted_calls_finish_and_later_ones_are_refused(autojump_clock):
    service, outcomes = Service(), {}
    async with connected(service) as (client, server), trio.open_nursery() as nursery:
        for seconds in 1, 3:
            start_call(nursery, outcomes, seconds, client.call, "Service.sleep", seconds)
        await settle()
        assert not server.is_draining
        nursery.start_soon(server.drain, 5)
        await settle()
        assert server.is_draining
        for _ in range(2):
            with pytest.raises(trpc.Unavailable, match="the server takes no more calls, as it is about to stop"):
                await client.call("Service.plain", "later")
        with pytest.raises(trpc.Unavailable):
            await client.notify("Service.plain", "later")
        with pytest.raises(trpc.Unavailable):
            async with client.stream("Service.endless"):
                pytest.fail("entered")
        await trio.sleep(2)
        assert outcomes == {1: 1}
        assert len(server.calls) == 1
        await trio.sleep(2)
        assert outcomes == {1: 1, 3: 3}
        assert server.connections == ()
        with pytest.raises(trpc.Unavailable):
            await client.call("Service.plain", "later")
        connection = connection_of(client)
    assert sorted(service.begun) == [1, 3]
    assert_nothing_left(connection)


async def test_serving_returns_when_the_last_call_has_ended(autojump_clock):
    service, outcomes = Service(), {}
    ours, theirs = trio.testing.memory_stream_pair()
    async with trio.open_nursery() as nursery:
        server = None

        async def serve(task_status):
            await trpc.serve_stream(service, theirs, task_status=task_status)
            outcomes["served"] = trio.current_time()

        server = await nursery.start(serve)
        async with trpc.connect_stream(ours) as client, trio.open_nursery() as calls:
            start_call(calls, outcomes, "call", client.call, "Service.sleep", 3)
            await settle()
            start = trio.current_time()
            assert await took(server.drain) == pytest.approx(3, abs=0.5)
    assert outcomes["call"] == 3
    assert outcomes["served"] - start == pytest.approx(3, abs=0.5)


async def test_a_call_that_is_cancelled_or_runs_into_its_deadline_meanwhile(autojump_clock):
    service = Service()
    async with connected(service) as (client, server), trio.open_nursery() as nursery:
        scope = trio.CancelScope()

        async def call(scope):
            with scope:
                await client.call("Service.sleep", 100)

        nursery.start_soon(call, scope)
        nursery.start_soon(call, trio.move_on_after(2))
        await settle()
        async with trio.open_nursery() as draining:
            draining.start_soon(server.drain)
            await trio.sleep(1)
            scope.cancel()
            start = trio.current_time()
        assert trio.current_time() - start == pytest.approx(1, abs=0.5)
    assert service.ended == [(100, "Cancelled")] * 2


async def test_the_goaway_names_the_last_call(autojump_clock):
    service = Service()
    async with raw_client_of(service) as peer, trio.open_nursery() as nursery:
        await peer.open()
        server = server_of(peer)
        await peer.send_request(3, "Service.sleep", 2)
        await peer.send_request(7, "Service.plain", "x", kind=Kind.NOTIFY)
        await settle()
        nursery.start_soon(server.drain)
        frame = await peer.receive()
        assert (frame.kind, frame.id) == (Kind.GOAWAY, 7)
        # They have crossed it on the wire: nothing is said to them, as the GOAWAY has.
        await peer.send_request(8, "Service.plain", "later")
        await peer.send_request(9, "Service.plain", "later", kind=Kind.NOTIFY)
        await peer.send_request(10, "Service.nothing")
        await peer.send(Kind.CANCEL, 8)
        await peer.send(Kind.PING, 1)
        assert (await peer.receive()).kind == Kind.PONG
        frame = await peer.receive()
        assert (frame.kind, frame.id) == (Kind.RESULT, 3)
        assert await peer.receive() is None
        await peer.stream.aclose()
    assert service.begun == [2, "x"]


async def test_requests_that_are_parsed_and_not_handled_yet(autojump_clock):
    """They are below the last one that was received, so they are executed."""
    service = Service()
    async with raw_client_of(service, limits=trpc.Limits(max_calls=1000)) as peer, trio.open_nursery() as nursery:
        await peer.open()
        number = 200
        body = request_of("Service.plain", "x")
        # In one piece: the connection leaves the event loop to others long before the last of them.
        await peer.stream.send_all(b"".join(encode_frame(Kind.REQUEST, i, body) for i in range(1, number + 1)))
        while not service.begun:
            await trio.lowlevel.checkpoint()
        assert len(service.begun) < number
        server = server_of(peer)
        nursery.start_soon(server.drain)
        goaways, replies = [], []
        while (frame := await peer.receive()) is not None:
            (goaways if frame.kind == Kind.GOAWAY else replies).append(frame.id)
        await peer.stream.aclose()
    assert goaways == [number]
    assert sorted(replies) == list(range(1, number + 1))
    assert len(service.begun) == number


@pytest.mark.parametrize("ends", ["complete", "cancel", "never"])
async def test_a_request_of_which_fragments_are_missing(autojump_clock, ends):
    """It has been accepted with its first one."""
    service = Service()
    async with raw_client_of(service) as peer, trio.open_nursery() as nursery:
        await peer.open()
        body = request_of("Service.plain", "x" * 100)
        await peer.send(Kind.REQUEST, 1, body[:50], flags=MORE)
        await settle()
        start = trio.current_time()
        nursery.start_soon(server_of(peer).drain, 5)
        frame = await peer.receive()
        assert (frame.kind, frame.id) == (Kind.GOAWAY, 1)
        await trio.sleep(2)
        if ends == "complete":
            await peer.send(Kind.REQUEST, 1, body[50:], flags=CONTINUED)
            assert await peer.receive_value() == "x" * 100
        elif ends == "cancel":
            await peer.send(Kind.CANCEL, 1)
            assert (await peer.receive()).kind == Kind.CANCELLED
        assert await peer.receive() is None
        assert trio.current_time() - start == pytest.approx(5 if ends == "never" else 2, abs=0.5)
        await peer.stream.aclose()


async def test_the_rest_of_a_request_that_has_crossed_the_goaway_is_not_waited_for(autojump_clock):
    service = Service()
    async with raw_client_of(service) as peer, trio.open_nursery() as nursery:
        await peer.open()
        await peer.send_request(1, "Service.sleep", 2)
        await settle()
        start = trio.current_time()
        nursery.start_soon(server_of(peer).drain, 60)
        frame = await peer.receive()
        assert (frame.kind, frame.id) == (Kind.GOAWAY, 1)
        # A caller that hears of the GOAWAY in the middle of a request does not send the rest of it.
        await peer.send(Kind.REQUEST, 2, request_of("Service.plain", "x" * 100)[:50], flags=MORE)
        assert (await peer.receive()).kind == Kind.RESULT
        assert await peer.receive() is None
        assert trio.current_time() - start == pytest.approx(2, abs=0.5)
        await peer.stream.aclose()


async def test_a_large_request_is_under_way(autojump_clock, monkeypatch):
    """On a client of the library's, at any moment of it: it is executed and answered, or neither."""
    cut_into(monkeypatch, 1000, 4000)
    for passes in range(0, 60, 3):
        service, outcomes = Service(), {}
        async with connected(service) as (client, server), trio.open_nursery() as nursery:
            await client.ping()
            start_call(nursery, outcomes, "call", client.call, "Service.plain", "x" * 100_000)
            for _ in range(passes):
                await trio.lowlevel.checkpoint()
            assert await took(server.drain, 60) < 5
        if service.begun:
            assert outcomes["call"] == "x" * 100_000
        else:
            assert isinstance(outcomes["call"], trpc.Unavailable)


async def test_streams_end_in_order_when_they_watch_it(autojump_clock):
    service = Service()
    async with connected(service) as (client, server), client.stream("Service.until_draining") as numbers:
        assert [await numbers.receive(), await numbers.receive()] == [0, 1]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.drain)
            *_, last = [number async for number in numbers]
        assert last == -1
        assert server.connections == ()
    assert service.ended == [("stream", "value")]


async def test_streams_that_do_not_watch_it_are_cut(autojump_clock):
    service = Service()
    async with connected(service) as (client, server):
        async with client.stream("Service.endless") as numbers:
            assert await numbers.receive() == 0
            assert await took(server.drain, 3) == pytest.approx(3, abs=0.5)
            with pytest.raises(trpc.ConnectionLost):
                while True:
                    await numbers.receive()
    assert service.ended in ([("stream", "Cancelled")], [("stream", "GeneratorExit")])


async def test_a_stream_of_the_callers_is_read_to_its_end(autojump_clock):
    outcomes = {}

    async def slow():
        for number in range(5):
            yield number
            await trio.sleep(1)

    async with connected(Service()) as (client, server), trio.open_nursery() as nursery:
        start_call(nursery, outcomes, "call", client.call, "Service.total", slow())
        await settle()
        assert await took(server.drain, 60) == pytest.approx(5, abs=0.5)
    assert outcomes == {"call": 10}


async def test_calls_back_are_made_while_it_drains(autojump_clock):
    outcomes = {}
    async with connected(Service(), service=Back()) as (client, server), trio.open_nursery() as nursery:
        start_call(nursery, outcomes, "call", client.call, "Service.call_back_later")
        await settle()
        await server.drain()
    assert outcomes == {"call": "back"}


async def test_what_is_left_after_the_grace_is_cut(autojump_clock):
    service, outcomes = Service(), {}
    async with connected(service) as (client, server), trio.open_nursery() as nursery:
        start_call(nursery, outcomes, "short", client.call, "Service.sleep", 1)
        start_call(nursery, outcomes, "long", client.call, "Service.sleep", 100)
        await settle()
        assert await took(server.drain, 4) == pytest.approx(4, abs=0.5)
    assert outcomes["short"] == 1
    assert type(outcomes["long"]) is trpc.ConnectionLost
    assert outcomes["long"].maybe_executed
    assert service.ended == [(1, "value"), (100, "Cancelled")]


async def test_without_grace_it_is_cut_at_once(autojump_clock):
    outcomes = {}
    async with connected(Service()) as (client, server), trio.open_nursery() as nursery:
        start_call(nursery, outcomes, "call", client.call, "Service.sleep", 100)
        await settle()
        assert await took(server.drain, 0) < 1
        await settle()
        assert isinstance(outcomes["call"], trpc.ConnectionLost)
        with pytest.raises(trpc.Unavailable):
            await client.call("Service.plain", "later")


async def test_the_default_grace_is_a_limit(autojump_clock):
    async with connected(Service(), serve={"limits": trpc.Limits(drain_grace=7)}) as (client, server):
        async with trio.open_nursery() as nursery:
            start_call(nursery, {}, "call", client.call, "Service.sleep", 100)
            await settle()
            assert await took(server.drain) == pytest.approx(7, abs=0.5)


async def test_a_handler_that_shields_itself_does_not_keep_it(autojump_clock):
    service, outcomes = Service(), {}
    async with connected(service) as (client, server), trio.open_nursery() as nursery:
        start_call(nursery, outcomes, "call", client.call, "Service.shielded", 50)
        await settle()
        assert await took(server.drain, 2) < 6
        assert isinstance(outcomes["call"], trpc.ConnectionLost)
        assert service.ended == []
    # But what serves it waits for the handler, as a nursery does.
    assert service.ended == [("shielded", "value")]


async def test_replies_are_written_before_the_close(autojump_clock, transport):
    """To a peer that reads slowly."""
    size = 300_000
    async with raw_client_of(Service(), limits=trpc.Limits(keepalive_interval=math.inf)) as peer:
        await peer.open()
        for call_id in range(1, 11):
            await peer.send_request(call_id, "Service.blob", size)
        await settle()
        done = trio.Event()
        async with trio.open_nursery() as nursery:

            async def drain():
                await server_of(peer).drain(1000)
                done.set()

            nursery.start_soon(drain)
            received = 0
            while data := await peer.stream.receive_some(50_000):
                received += len(data)
                # A memory stream takes all that is written at once; a socket keeps less than one of them.
                assert transport == "memory" or received > 9 * size or not done.is_set()
                await trio.sleep(1)
            await peer.stream.aclose()
    assert received > 10 * size


@pytest.mark.transports("socket", reason="a memory stream takes all that is written")
async def test_a_peer_that_does_not_read_is_cut(autojump_clock):
    async with raw_client_of(Service(), limits=trpc.Limits(write_timeout=math.inf)) as peer:
        await peer.open()
        for call_id in range(1, 11):
            await peer.send_request(call_id, "Service.blob", 1_000_000)
        await settle()
        assert await took(server_of(peer).drain, 20) == pytest.approx(22, abs=2.5)
        await peer.stream.aclose()


async def test_twice(autojump_clock):
    outcomes, done = {}, []
    async with connected(Service()) as (client, server), trio.open_nursery() as nursery:
        start_call(nursery, outcomes, "call", client.call, "Service.sleep", 50)
        await settle()

        async def drain(grace):
            start = trio.current_time()
            await server.drain(grace)
            done.append((grace, trio.current_time() - start))

        nursery.start_soon(drain, 100)
        await trio.sleep(1)
        nursery.start_soon(drain, 200)
        await trio.sleep(1)
        nursery.start_soon(drain, 3)
        await trio.sleep(60)
        assert sorted(done) == [
            (3, pytest.approx(3, abs=0.5)),
            (100, pytest.approx(5, abs=0.5)),
            (200, pytest.approx(4, abs=0.5)),
        ]
        # Once more, when all is over.
        assert await took(server.drain, 100) < 0.5
    assert isinstance(outcomes["call"], trpc.ConnectionLost)


async def test_cancelled_it_accepts_no_more_calls_and_cuts_nothing(autojump_clock):
    outcomes = {}
    async with connected(Service()) as (client, server), trio.open_nursery() as nursery:
        start_call(nursery, outcomes, "call", client.call, "Service.sleep", 50)
        await settle()
        with trio.move_on_after(1) as scope:
            await server.drain(2)
        assert scope.cancelled_caught
        await trio.sleep(10)
        with pytest.raises(trpc.Unavailable):
            await client.call("Service.plain", "later")
        assert not outcomes
        await trio.sleep(50)
        assert outcomes == {"call": 50}
        assert server.connections == ()


@pytest.mark.parametrize("cancelled", [False, True])
async def test_it_is_a_checkpoint(cancelled):
    async with connected(Service()) as (_, server):
        with trio.testing.assert_checkpoints(), trio.CancelScope() as scope:
            if cancelled:
                scope.cancel()
            await server.drain()
        assert scope.cancelled_caught is cancelled
        assert server.is_draining


async def test_a_handler_that_drains_its_own_server(autojump_clock):
    service, outcomes = Service(), {}
    async with connected(service) as (client, service.server), trio.open_nursery() as nursery:
        start_call(nursery, outcomes, "call", client.call, "Service.drain_itself", 2)
        await trio.sleep(10)
        assert isinstance(outcomes["call"], trpc.ConnectionLost)
    assert service.ended == [("drain", "value")], "it is not cancelled while it waits for the others"


async def test_a_handler_that_drains_its_own_server_ends_the_serving(autojump_clock):
    service, outcomes = Service(), {}
    async with trio.open_nursery() as nursery:
        ended = trio.Event()

        async def serve(task_status):
            await trpc.serve_tcp(service, 0, task_status=task_status)
            ended.set()

        service.server = await nursery.start(serve)
        async with trpc.connect(service.server.url) as client:
            start_call(nursery, outcomes, "call", client.call, "Service.drain_itself", 0.1)
            with trio.fail_after(60):
                await ended.wait()
            await settle()
            assert isinstance(outcomes["call"], trpc.ConnectionLost)


@pytest.mark.parametrize("grace", [-1, math.nan])
async def test_a_wrong_grace(grace):
    async with connected(Service()) as (client, server):
        with pytest.raises(ValueError, match="the grace is a number of seconds"):
            await server.drain(grace)
        assert not server.is_draining
        assert await client.call("Service.plain", 1) == 1


async def test_an_endless_grace(autojump_clock):
    outcomes = {}
    async with connected(Service()) as (client, server), trio.open_nursery() as nursery:
        start_call(nursery, outcomes, "call", client.call, "Service.sleep", 1_000)
        await settle()
        assert await took(server.drain, math.inf) == pytest.approx(1_000, abs=1)
    assert outcomes == {"call": 1_000}


@pytest.mark.parametrize("sent", [0, 3, len(PREAMBLE), len(PREAMBLE) + 6])
async def test_before_and_in_the_middle_of_a_hello(autojump_clock, sent):
    service = Service()
    async with raw_client_of(service) as peer:
        hello = PREAMBLE + encode_frame(Kind.HELLO, 0, peer.hello.encode())
        hello += encode_frame(Kind.REQUEST, 1, request_of("Service.plain", "x"))
        await peer.stream.send_all(hello[:sent])
        await settle()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server_of(peer).drain)
            await settle()
            with contextlib.suppress(trio.BrokenResourceError):
                await peer.stream.send_all(hello[sent:])
            assert (await peer.receive()).kind == Kind.HELLO
            frame = await peer.receive()
            assert (frame.kind, frame.id) == (Kind.GOAWAY, 0)
            assert await peer.receive() is None
            await peer.stream.aclose()
    assert service.begun == []


async def test_before_the_first_pass_of_a_connection(autojump_clock):
    """Its client hears of it with its first call, which is not executed."""
    service = Service()
    ours, theirs = trio.testing.memory_stream_pair()
    async with trio.open_nursery() as nursery:
        server = await nursery.start(trpc.serve_stream, service, theirs)
        async with trpc.connect_stream(ours) as client:
            with trio.CancelScope() as scope:
                scope.cancel()
                await server.drain()
            with pytest.raises(trpc.Unavailable):
                await client.call("Service.plain", "x")
    assert service.begun == []


async def test_no_connection_that_is_still_open():
    async with connected(Service()) as (client, server):
        await client.ping()
        await connection_of(client).close(orderly=True)
        await settle()
        assert server.connections == ()
        await server.drain(math.inf)


async def test_handlers_see_it(autojump_clock):
    seen = []

    class Watching:
        @trpc.method
        async def watch(self) -> None:
            draining = trpc.current_call().draining
            seen.append(draining.is_set())
            await draining.wait()
            seen.append(draining.is_set())

    async with connected(Watching()) as (client, server), trio.open_nursery() as nursery:
        nursery.start_soon(client.call, "Watching.watch")
        await settle()
        assert await took(server.drain) < 0.5
    assert seen == [False, True]


async def test_calls_that_are_put_off_are_accepted_too(autojump_clock):
    """Those that wait until a peer that does not read, and is called back, has read its answers."""
    values = []
    async with raw_client_of(Service(), limits=trpc.Limits(max_unsent=100)) as peer, trio.open_nursery() as nursery:
        await peer.open()
        for call_id in range(1, 6):
            await peer.send_request(call_id, "Service.plain", "x" * 1000)
        await settle()
        nursery.start_soon(server_of(peer).drain)
        while (frame := await peer.receive()) is not None:
            if frame.kind == Kind.RESULT:
                values.append(_codec.unpack(frame.body, max_depth=64))
        await peer.stream.aclose()
    assert values == ["x" * 1000] * 5
