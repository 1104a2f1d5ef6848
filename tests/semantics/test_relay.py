"""The task that reads runs handlers itself. To them, to callers and to each other this must not make a difference.

What is compared: a handler that is run by the reader, one that is run by a worker, and one that has a new task of its
own, which is how Trio would do it. See ``ways.py`` and ``handlers.py`` in this folder.
"""

from __future__ import annotations

import collections
import contextlib
import contextvars
import random

import pytest
import trio
import trio.testing
from semantics.handlers import ENDLESS, HANDLERS, NEVER_WAIT, THREADS, Inner, Scene, var
from support import RawPeer, connected, raw_client_of, settle

import trpc
from trpc import _codec, _reader
from trpc._connection import Connection
from trpc._frames import encode_frame
from trpc._messages import Kind, encode_request

# Between the things that handlers do, which are at multiples of 0.01.
TIMES = [0.005, 0.055, 0.105, 0.155, 0.205, 0.255]


def encoded(call_id, method, *args, time_left=None, metadata=None, kind=Kind.REQUEST):
    return encode_frame(kind, call_id, encode_request(method, list(args), {}, time_left, metadata, max_depth=64))


@contextlib.asynccontextmanager
async def bounded():
    """The block ends, and has no deadline in effect for that."""

    async def watch():
        await trio.sleep(10_000)
        raise trio.TooSlowError

    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch)
        yield
        nursery.cancel_scope.cancel()


class Service:
    """Runs a handler by its name; its scene is where the test looks."""

    def __init__(self, ways, inner):
        self.ways = ways
        self.inner = inner
        self.scenes = {}
        self.server = None
        self.task = None

    @trpc.method
    async def run(self, name: str, key: int) -> object:
        self.ways.check()
        self.task = trio.lowlevel.current_task()
        scene = self.scenes[key] = Scene(self.inner)
        scene.note_surroundings("begin")
        calls = [
            (call.method, call.started <= scene.start, call.deadline == float("inf")) for call in self.server.calls
        ]
        scene.note(f"{calls if key < 0 else '-'}")
        try:
            value = await HANDLERS[name](scene)
            scene.note(f"value {value if type(value) is not object else '-'}")
            return value
        except BaseException as exc:
            scene.note(f"raised {shape(exc)}")
            raise
        finally:
            scene.note_surroundings("end")
            scene.note("end")
            self.task = None


def shape(exc):
    """What can be compared of an exception; children of a nursery that are cancelled end in any order."""
    if isinstance(exc, BaseExceptionGroup):
        return type(exc).__name__, exc.message, sorted(map(repr, map(shape, exc.exceptions)))
    # What Trio says of a cancel has addresses in it.
    text = "" if isinstance(exc, trio.Cancelled) else str(exc)
    return type(exc).__name__, text, isinstance(exc, trpc.RemoteError)


async def outcome_of(client, server, service, name, mode, seconds):
    """Calls one handler; all that can be seen of it from both sides."""
    start = trio.current_time()
    with trio.CancelScope() as scope:
        if mode == "deadline":
            scope.deadline = start + seconds
        try:
            async with trio.open_nursery() as nursery:
                if mode == "cancel":
                    nursery.start_soon(_cancel_later, scope, seconds)
                result = await client.call("Service.run", name, -1)
                nursery.cancel_scope.cancel()
        except* Exception as group:
            result = shape(group.exceptions[0])
    scene = service.scenes.pop(-1, None)
    if scene is not None:
        assert scene.log[-1][1] == "end", "nothing of the handler goes on behind its end"
    assert server.calls == ()
    return (
        "cancelled" if scope.cancelled_caught else result,
        None if name in THREADS else round(trio.current_time() - start, 6),
        # Tasks that are cancelled together end in any order.
        None if scene is None else sorted((0 if name in THREADS else at, str(text)) for at, text in scene.log),
    )


async def _cancel_later(scope, seconds):
    await trio.sleep(seconds)
    scope.cancel()


async def outcomes_in(ways, way, name):
    """All outcomes of one handler that runs in one way."""
    ways.choose(way)
    outcomes = {}
    tasks = trio.lowlevel.current_statistics().tasks_living
    async with connected(Inner(), cancel_grace=100) as (inner, inner_server):
        service = Service(ways, inner)
        async with connected(service, cancel_grace=100) as (client, server):
            service.server = server
            # So that there is a worker which waits for a job.
            async with trio.open_nursery() as nursery:
                for key in range(3):
                    nursery.start_soon(client.call, "Service.run", "one_checkpoint", key)
            if name not in ENDLESS:
                outcomes["plain"] = await outcome_of(client, server, service, name, "plain", None)
            if name not in NEVER_WAIT + THREADS:
                for mode in ("cancel", "deadline"):
                    for seconds in TIMES:
                        key = f"{mode} {seconds}"
                        outcomes[key] = await outcome_of(client, server, service, name, mode, seconds)
            if name not in THREADS:
                # What was done to the scopes of these is not to be seen by others.
                outcomes["next"] = await outcome_of(client, server, service, "moves_on", "plain", None)
            assert not client._caller._in_flight
            assert client.late_replies == 0
        assert inner_server.calls == ()
    await settle()
    assert trio.lowlevel.current_statistics().tasks_living == tasks
    return outcomes


@pytest.mark.parametrize("way", ["inline", "worker"])
@pytest.mark.parametrize("name", [name for name in HANDLERS if name not in THREADS])
async def test_a_handler_does_not_notice_how_it_is_run(autojump_clock, ways, name, way):
    """For all that the caller and the handler can see; cancelled or expired at any time."""
    async with bounded():
        assert await outcomes_in(ways, way, name) == await outcomes_in(ways, "task", name)


@pytest.mark.parametrize("way", ["inline", "worker"])
@pytest.mark.parametrize("name", THREADS)
async def test_a_handler_with_a_thread_does_not_notice_it_either(ways, name, way):
    async with bounded():
        assert await outcomes_in(ways, way, name) == await outcomes_in(ways, "task", name)


class CancelAfterSteps(trio.abc.Instrument):
    """Cancels call 1 of a connection after so many steps of its handler's task."""

    def __init__(self, service, steps):
        self.service = service
        self.steps_left = steps

    def after_task_step(self, task):
        if task is self.service.task:
            self.steps_left -= 1
            if self.steps_left == 0:
                (connection,) = self.service.server._connections
                connection._dispatcher.on_cancel(1)


@contextlib.asynccontextmanager
async def raw_client_and_server(service, **options):
    """A raw peer that is open, and the server that it talks to."""
    async with trio.open_nursery() as nursery:
        ours, theirs = trio.testing.memory_stream_pair()

        async def start(task_status):
            await trpc.serve_stream(service, theirs, task_status=task_status, **options)

        server = await nursery.start(start)
        peer = RawPeer(ours)
        await peer.open()
        yield peer, server
        nursery.cancel_scope.cancel()


async def cancelled_after(ways, way, name, steps):
    """What comes of a handler that is cancelled after so many steps; None if it has fewer."""
    ways.choose(way)
    async with connected(Inner(), cancel_grace=100) as (inner, _):
        service = Service(ways, inner)
        async with raw_client_and_server(service) as (peer, service.server):
            instrument = CancelAfterSteps(service, steps)
            trio.lowlevel.add_instrument(instrument)
            try:
                await peer.stream.send_all(encoded(1, "Service.run", name, 1))
                reply = await peer.receive()
            finally:
                trio.lowlevel.remove_instrument(instrument)
            # The connection is as good as before.
            await peer.stream.send_all(encoded(2, "Service.run", "nursery_with_children", 2))
            assert (await peer.receive())[:2] == (Kind.RESULT, 2)
            assert service.server.calls == ()
        if instrument.steps_left > 0:
            return None
        return Kind(reply.kind).name, bytes(reply.body), sorted(map(str, service.scenes[1].log))


@pytest.mark.parametrize("way", ["inline", "worker"])
@pytest.mark.parametrize("name", [name for name in HANDLERS if name not in NEVER_WAIT + THREADS + ENDLESS])
@pytest.mark.parametrize("order", ["oldest first", "youngest first"])
async def test_a_cancel_after_each_step_of_a_handler(autojump_clock, monkeypatch, ways, name, way, order):
    # Else Trio runs the tasks that are ready in any order, and the handler and its children have more or fewer steps.
    monkeypatch.setattr(trio._core._run, "_ALLOW_DETERMINISTIC_SCHEDULING", True)
    monkeypatch.setattr(trio._core._run._r, "random", lambda: 1)
    monkeypatch.setattr(trio._core._run._r, "shuffle", list.reverse if order == "oldest first" else lambda _: None)
    steps = 0
    outcome = ...
    async with bounded():
        while outcome is not None:
            steps += 1
            outcome = await cancelled_after(ways, way, name, steps)
            assert outcome == await cancelled_after(ways, "task", name, steps)
    assert steps > 1


def batch(rng, size):
    """Requests for one segment, and cancels that follow later, by the time."""
    requests, cancels = [], {}
    for call_id in range(1, size + 1):
        name = rng.choice([name for name in HANDLERS if name not in ENDLESS + THREADS])
        time_left = None if rng.random() < 0.6 else rng.choice(TIMES)
        requests.append(encoded(call_id, "Service.run", name, call_id, time_left=time_left))
        if rng.random() < 0.3:
            # Not at the time of a deadline: either could be first.
            cancels.setdefault(rng.choice(TIMES) + 0.002, []).append(encode_frame(Kind.CANCEL, call_id))
    return b"".join(requests), [(at, b"".join(cancels[at])) for at in sorted(cancels)]


async def outcomes_of_batch(ways, way, requests, cancels, size):
    ways.choose(way)
    replies = {}
    async with connected(Inner(), cancel_grace=100) as (inner, _):
        service = Service(ways, inner)
        async with raw_client_and_server(service) as (peer, service.server), trio.open_nursery() as nursery:

            async def cancel():
                start = trio.current_time()
                for at, frames in cancels:
                    await trio.sleep_until(start + at)
                    await peer.stream.send_all(frames)

            await peer.stream.send_all(requests)
            nursery.start_soon(cancel)
            while len(replies) < size:
                frame = await peer.receive()
                assert frame.id not in replies, "one reply for each call"
                replies[frame.id] = Kind(frame.kind).name, bytes(frame.body)
            nursery.cancel_scope.cancel()
            await settle()
            (connection,) = service.server._connections
            assert connection.calls == []
            assert not connection._protocol._open_incoming
            assert connection._outbox.unsent == 0
    logs = {key: sorted(map(str, scene.log)) for key, scene in service.scenes.items()}
    return replies, logs


@pytest.mark.parametrize("way", ["inline", "worker"])
@pytest.mark.parametrize("seed", range(8))
async def test_handlers_that_begin_behind_one_another_in_one_reader(autojump_clock, ways, seed, way):
    """Many requests in one segment, of handlers that wait and that do not, with deadlines and later cancels."""
    size = 60
    requests, cancels = batch(random.Random(seed), size)
    async with bounded():
        expected = await outcomes_of_batch(ways, "task", requests, cancels, size)
        outcomes = await outcomes_of_batch(ways, way, requests, cancels, size)
    for call_id in range(1, size + 1):
        assert [found.get(call_id) for found in outcomes] == [found.get(call_id) for found in expected]


async def test_a_handler_that_overran_its_deadline_concerns_no_other_one(mock_clock):
    """The scope that it ran in is over then, and the next request is in the same segment."""

    class Burns:
        @trpc.method
        def burn(self) -> str:
            mock_clock.jump(1)
            return "late"

        @trpc.method
        async def burn_and_fail(self) -> None:
            mock_clock.jump(1)
            raise ValueError

        @trpc.method
        async def wait(self) -> float:
            await trio.lowlevel.checkpoint()
            return trio.current_effective_deadline()

    async with raw_client_of(Burns()) as peer:
        await peer.open()
        call_id = 0
        for method, kind in [("burn", Kind.RESULT), ("burn_and_fail", Kind.ERROR)] * 2:
            await peer.stream.send_all(
                encoded(call_id + 1, f"Burns.{method}", time_left=0.5)
                + encoded(call_id + 2, "Burns.wait")
                + encoded(call_id + 3, "Burns.wait", time_left=1000)
                + encoded(call_id + 4, "Burns.wait")
            )
            replies = {}
            while len(replies) < 4:
                frame = await peer.receive()
                replies[frame.id - call_id] = frame
            assert [replies[n].kind for n in range(1, 5)] == [kind, Kind.RESULT, Kind.RESULT, Kind.RESULT]
            deadlines = [_codec.unpack(replies[n].body, max_depth=8) for n in (2, 4)]
            assert deadlines == [float("inf")] * 2
            call_id += 4


@pytest.mark.parametrize("way", ["inline", "worker", "task"])
async def test_the_deadline_of_a_call_is_not_that_of_the_next_one(autojump_clock, ways, way):
    """In one segment, so that one task may run both."""
    ways.choose(way)

    class Quick:
        @trpc.method
        def plain(self) -> float:
            return trio.current_effective_deadline()

        @trpc.method
        async def without_a_wait(self) -> float:
            return trio.current_effective_deadline()

        @trpc.method
        async def raises(self) -> None:
            raise ValueError

        @trpc.method
        async def wait(self) -> float:
            await trio.sleep(10)
            return trio.current_effective_deadline()

    async with raw_client_of(Quick()) as peer:
        await peer.open()
        call_id = 0
        for method in ("plain", "without_a_wait", "raises"):
            for other in ("plain", "without_a_wait", "wait"):
                await peer.stream.send_all(
                    encoded(call_id + 1, f"Quick.{method}", time_left=5) + encoded(call_id + 2, f"Quick.{other}")
                )
                replies = {}
                while len(replies) < 2:
                    frame = await peer.receive()
                    replies[frame.id - call_id] = frame
                assert replies[1].kind == (Kind.ERROR if method == "raises" else Kind.RESULT)
                assert _codec.unpack(replies[2].body, max_depth=8) == float("inf")
                call_id += 2


@pytest.mark.parametrize("way", ["as it comes", "inline", "worker"])
@pytest.mark.parametrize("waits", [False, True])
@pytest.mark.parametrize("open_scope", [lambda: trio.move_on_after(5), trio.CancelScope], ids=["timeout", "scope"])
async def test_a_scope_that_a_handler_leaves_open_concerns_no_other_one(
    autojump_clock, request, caplog, open_scope, waits, way
):
    """An async generator that is not read to its end. In a task of the handler's own, the scope would go with it."""
    if way != "as it comes":
        request.getfixturevalue("ways").choose(way)
    left = []

    class Careless:
        @trpc.method
        async def first(self) -> int:
            async def numbers():
                with open_scope():
                    yield 1
                    yield 2

            left.append(numbers())
            async for number in left[-1]:
                if waits:
                    await trio.lowlevel.checkpoint()
                return number
            return 0

        @trpc.method
        async def deadline(self) -> float:
            return trio.current_effective_deadline()

        @trpc.method
        async def wait(self) -> float:
            await trio.sleep(10)
            return trio.current_effective_deadline()

    tasks = trio.lowlevel.current_statistics().tasks_living
    async with bounded(), connected(Careless()) as (client, server), connected(Careless()) as (other, _):
        for _ in range(3):
            assert await client.call("Careless.first") == 1
            for method in ("deadline", "wait", "deadline"):
                assert await client.call(f"Careless.{method}") == float("inf")
        async with trio.open_nursery() as nursery:
            for method in ("first", "wait", "first", "wait"):
                nursery.start_soon(client.call, f"Careless.{method}")
        assert await other.call("Careless.wait") == float("inf")
        assert server.calls == ()
    await settle()
    assert trio.lowlevel.current_statistics().tasks_living == tasks


# --- what a call sets ---


class Sets:
    def __init__(self, limiter):
        self.limiter = limiter

    def look(self, value):
        seen = [var.get(), trpc.current_call().method.removeprefix("Sets."), trpc.current_call().metadata.get("value")]
        var.set(value)
        _metadata_of_others.set(value)
        return seen

    @trpc.method
    def plain(self, value: str) -> list:
        return self.look(value)

    @trpc.method
    async def without_a_wait(self, value: str) -> list:
        return self.look(value)

    @trpc.method
    async def that_waits(self, value: str) -> list:
        seen = self.look(value)
        await trio.sleep(0.001)
        assert var.get() == value
        return seen

    @trpc.method
    async def that_waits_first(self, value: str) -> list:
        await trio.lowlevel.checkpoint()
        return self.look(value)

    @trpc.method
    async def that_fails(self, value: str) -> None:
        raise ValueError(*self.look(value))

    @trpc.method
    async def with_a_child(self, value: str) -> list:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep, 0.001)
            return self.look(value)

    @trpc.method(in_thread=True)
    def in_a_thread(self, value: str) -> list:
        return self.look(value)

    @trpc.method
    async def that_leaves_metadata(self, value: str) -> list:
        seen = self.look(value)
        trpc.metadata(value="of a handler").__enter__()
        return seen


_metadata_of_others = contextvars.ContextVar("of others")


@pytest.mark.parametrize("way", ["as it comes", "inline", "worker", "task"])
async def test_what_a_call_sets_is_seen_by_no_other_call(request, caplog, way):
    """Whichever call comes next in the same task, on the same connection or another one."""
    if way != "as it comes":
        request.getfixturevalue("ways").choose(way)
    rng = random.Random(5)
    methods = [name for name in vars(Sets) if name != "look" and not name.startswith("_")]
    var.set("server")
    service = Sets(trio.CapacityLimiter(2))
    async with connected(service) as (one, _), connected(service) as (two, _):
        var.set("client")

        async def calls(client, seed):
            rng = random.Random(seed)
            for number in range(60):
                method, value = rng.choice(methods), f"{seed} {number}"
                with trpc.metadata(**({"value": value} if number % 2 else {})):
                    try:
                        seen = await client.call(f"Sets.{method}", value)
                    except ValueError as exc:
                        seen = list(exc.args[0]) if len(exc.args) == 1 and type(exc.args[0]) is list else exc.args
                        assert str(exc) == str(("server", method, value if number % 2 else None))
                        continue
                assert seen == ["server", method, value if number % 2 else None]

        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                for seed in range(8):
                    nursery.start_soon(calls, rng.choice([one, two]), seed)
        assert var.get() == "client"
        assert _metadata_of_others.get(None) is None
        with pytest.raises(RuntimeError, match="only inside a method"):
            trpc.current_call()


async def test_metadata_around_the_server_is_not_sent_by_its_handlers():
    class Front:
        def __init__(self, client):
            self.client = client

        @trpc.method
        async def ask(self) -> dict:
            return await self.client.call("Back.seen")

    class Back:
        @trpc.method
        def seen(self) -> dict:
            return dict(trpc.current_call().metadata)

    async with connected(Back()) as (to_back, _):
        with trpc.metadata(value="around the server"):
            async with connected(Front(to_back)) as (client, _):
                for _ in range(3):
                    assert await client.call("Front.ask") == {}
                assert await to_back.call("Back.seen") == {"value": "around the server"}


# --- fairness ---


class Passes(trio.abc.Instrument):
    """Counts the passes of the event loop."""

    def __init__(self):
        self.number = 0

    def before_io_wait(self, timeout):
        self.number += 1


@pytest.fixture
async def passes():
    instrument = Passes()
    trio.lowlevel.add_instrument(instrument)
    yield instrument
    trio.lowlevel.remove_instrument(instrument)


class Hog:
    """Notes in which pass each request of the busy connection was handled."""

    def __init__(self, passes, burn=lambda: None):
        self.passes = passes
        self.burn = burn
        self.handled = collections.Counter()
        self.times = {}

    def work(self):
        self.handled[self.passes.number] += 1
        self.times.setdefault(self.passes.number, []).append(trio.current_time())
        self.burn()

    @trpc.method
    def plain(self) -> None:
        self.work()

    @trpc.method
    async def without_a_wait(self) -> None:
        self.work()

    @trpc.method
    async def one_checkpoint(self) -> None:
        self.work()
        await trio.lowlevel.checkpoint()

    @trpc.method
    def quiet(self) -> int:
        return self.passes.number


# Of a call and its answer: the request is written and read, the answer is written and read.
MOST_PASSES = 12


async def call_quietly(client, passes, times):
    """Calls one after the other; in how many passes each is answered, at the most."""
    most = 0
    for _ in range(times):
        before = passes.number
        with trio.fail_after(60):
            await client.call("Hog.quiet")
        most = max(most, passes.number - before)
    return most


def burn_cpu():
    for _ in range(3000):
        pass


@pytest.mark.parametrize("method", ["plain", "without_a_wait", "one_checkpoint"])
@pytest.mark.parametrize("burn", [lambda: None, burn_cpu], ids=["short", "long"])
async def test_a_connection_that_pipelines_a_thousand_requests_leaves_others_their_turns(passes, method, burn):
    service = Hog(passes, burn)
    async with connected(service) as (client, _), raw_client_of(service) as peer:
        await peer.open()
        await client.ping()
        async with trio.open_nursery() as nursery:

            async def receive():
                for _ in range(1000):
                    assert (await peer.receive()).kind == Kind.RESULT

            nursery.start_soon(receive)
            # In one segment, so that the server has all of it at once.
            await peer.stream.send_all(b"".join(encoded(call_id, f"Hog.{method}") for call_id in range(1, 1001)))
            assert await call_quietly(client, passes, 3) <= MOST_PASSES
            assert service.handled.total() < 1000, "it is still busy"
        assert service.handled.total() == 1000
        assert max(service.handled.values()) <= _reader._MAX_REQUESTS


async def test_requests_of_a_pass_begin_within_the_time_for_one_pass(mock_clock, passes):
    """At most one more is run when the time is over: its beginning is when that is noticed."""
    for step in (0.0003, 0.0007, 0.1):
        service = Hog(passes, burn=lambda step=step: mock_clock.jump(step))
        async with raw_client_of(service) as peer:
            await peer.open()
            await peer.stream.send_all(b"".join(encoded(call_id, "Hog.plain") for call_id in range(1, 101)))
            for _ in range(100):
                assert (await peer.receive()).kind == Kind.RESULT
        assert service.handled.total() == 100
        for times in service.times.values():
            assert sum(time > times[0] + _reader._MAX_TIME for time in times) <= 1
        # It is used, too.
        assert max(service.handled.values()) > _reader._MAX_TIME / step


async def test_a_quiet_connection_beside_one_that_calls_without_pause(passes):
    service = Hog(passes)
    async with connected(service) as (client, _), raw_client_of(service) as peer:
        await peer.open()
        await client.ping()
        async with trio.open_nursery() as nursery:

            async def send():
                call_id = 0
                while True:
                    await peer.stream.send_all(b"".join(encoded(call_id + n, "Hog.plain") for n in range(1, 201)))
                    call_id += 200

            async def receive():
                while (await peer.receive()).kind == Kind.RESULT:
                    pass

            nursery.start_soon(send)
            nursery.start_soon(receive)
            most = await call_quietly(client, passes, 100)
            nursery.cancel_scope.cancel()
        assert most <= MOST_PASSES
        assert service.handled.total() > 100 * _reader._MAX_REQUESTS, "the other one was busy all the time"
        assert max(service.handled.values()) <= _reader._MAX_REQUESTS


@pytest.mark.transports("socket", reason="the peer writes in the middle of a pass")
@pytest.mark.parametrize(
    "frame",
    [
        encode_frame(Kind.CANCEL, 1),
        encode_frame(0xC1, 1),
        encode_frame(Kind.PING, 1),
    ],
    ids=["cancels", "unknown", "pings"],
)
async def test_a_quiet_connection_beside_one_with_always_something_to_read(monkeypatch, passes, frame):
    """Of which nothing counts as a request: what is read in one pass is one read, however much there is."""
    service = Hog(passes)
    reads = collections.Counter()
    plain = Connection._receive

    # Else the number of the frames would end the connection.
    limits = trpc.Limits(control_burst=2**31)
    async with connected(service) as (client, _), raw_client_and_server(service, limits=limits) as (peer, server):
        await peer.stream.send_all(encoded(1, "Hog.plain"))
        assert (await peer.receive())[:2] == (Kind.RESULT, 1)
        await client.ping()
        (busy,) = server._connections
        unsent = b""

        def receive(connection):
            if connection is busy:
                reads[passes.number] += 1
            answer = plain(connection)
            if connection is busy:
                write()
            return answer

        def write():
            nonlocal unsent
            with contextlib.suppress(BlockingIOError):
                unsent = unsent or frame * 100
                unsent = unsent[peer.stream.socket._sock.send(unsent) :]

        async def read():
            while await peer.stream.receive_some():
                pass

        monkeypatch.setattr(Connection, "_receive", receive)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            write()
            most = await call_quietly(client, passes, 50)
            nursery.cancel_scope.cancel()
        assert most <= MOST_PASSES
        assert reads.total() > 50, "the other one was busy all the time"
        assert max(reads.values()) == 1
