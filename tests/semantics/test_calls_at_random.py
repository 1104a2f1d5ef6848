"""Tasks that call beside one another over one connection, and every way in which one of them can end."""

from __future__ import annotations

import contextlib
import random
import signal

import pytest
import trio
import trio.testing
from support import client_of_raw_peer, connected, connection_of, settle, start_call

import trpc
from trpc import _reader
from trpc._exceptions import encode_status
from trpc._frames import encode_frame
from trpc._messages import Kind, encode_request

writes_at_once = pytest.mark.transports("socket", reason="the peer writes in the middle of a pass")


class Service:
    def __init__(self):
        self.running = 0

    @trpc.method
    async def echo(self, value: int) -> int:
        return value

    @trpc.method
    async def sleep(self, seconds: float, value: int) -> int:
        self.running += 1
        try:
            await trio.sleep(seconds)
        finally:
            self.running -= 1
        return value

    @trpc.method
    async def stubborn(self, seconds: float, value: int) -> int:
        with trio.CancelScope(shield=True):
            await trio.sleep(seconds)
        return value

    @trpc.method
    async def clean_up(self, seconds: float) -> None:
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(seconds)

    @trpc.method
    async def fail(self, value: int) -> None:
        raise ValueError(value)


def assert_empty(client):
    """Nothing is left of any call."""
    connection, caller = connection_of(client), client._caller
    assert not caller._in_flight
    assert not caller._pings
    assert not caller._acknowledgements._waiting
    assert caller._slots.taken == 0
    assert not connection._protocol._open_outgoing
    assert connection._outbox.unsent == 0


@contextlib.asynccontextmanager
async def calling(**options):
    """A client, a raw peer, a call in flight, and its request: ``(client, peer, call, request)``."""
    async with client_of_raw_peer(**options) as (client, peer):
        await peer.open()
        async with trio.open_nursery() as nursery:
            call = Call(nursery, client)
            with trio.fail_after(5):
                request = await peer.receive()
            await settle()
            yield client, peer, call, request
            call.scope.cancel()
        assert_empty(client)


class Call:
    """A call in a task of its own."""

    def __init__(self, nursery, client, method="A.b"):
        self.scope = trio.CancelScope()
        self.outcome = None
        nursery.start_soon(self._run, client, method)

    async def _run(self, client, method):
        with self.scope:
            try:
                self.outcome = await client.call(method)
            except Exception as exc:
                self.outcome = exc
        if self.scope.cancelled_caught:
            self.outcome = "cancelled"


async def run_while_clock_stands(times=20):
    for _ in range(times):
        await trio.lowlevel.checkpoint()


# --- the cancel of one of them ---


class CancelAtStep(trio.abc.Instrument):
    """Cancels a call after so many steps of any task."""

    def __init__(self, step):
        self.steps_left = step
        self.scope = None

    def after_task_step(self, task):
        if self.scope is not None:
            self.steps_left -= 1
            if self.steps_left == 0:
                self.scope.cancel()


def run_with_a_cancel(step, grace, method, args, other_grace):
    """A call that is cancelled after so many steps, beside others; whether the cancel came before it had ended."""
    instrument = CancelAtStep(step)

    async def main():
        tasks = trio.lowlevel.current_statistics().tasks_living
        outcomes = {}
        service = Service()
        with trio.fail_after(100):
            async with connected(service, cancel_grace=grace) as (client, server):

                async def first():
                    with trio.CancelScope() as instrument.scope:
                        try:
                            outcomes["first"] = await client.call(method, *args)
                        except ValueError as exc:
                            outcomes["first"] = int(str(exc))
                    if instrument.scope.cancelled_caught:
                        outcomes["first"] = "cancelled"
                    instrument.scope = None

                async with trio.open_nursery() as nursery:
                    nursery.start_soon(first)
                    for _ in range(2):
                        await trio.lowlevel.checkpoint()
                    for key in range(3):
                        start_call(nursery, outcomes, key, client.call, "Service.sleep", 0.05 * key, key)
                    start_call(nursery, outcomes, "echo", client.call, "Service.echo", 5)
                    start_call(nursery, outcomes, "ping", client.ping)
                assert outcomes.pop("ping") >= 0
                assert {key: outcomes[key] for key in (0, 1, 2, "echo")} == {0: 0, 1: 1, 2: 2, "echo": 5}
                assert outcomes["first"] in ("cancelled", 7)
                # And the connection is read as before.
                assert await client.call("Service.echo", 8) == 8
                with trio.fail_after(other_grace):
                    while server.calls:
                        await trio.sleep(0.01)
                await client.ping()
                assert_empty(client)
            await settle()
            assert service.running == 0
        assert trio.lowlevel.current_statistics().tasks_living == tasks

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0), instruments=[instrument])
    return instrument.steps_left <= 0


@pytest.mark.parametrize("grace", [0, 0.05, 1])
@pytest.mark.parametrize(
    ("method", "args"),
    [("sleep", (0.12, 7)), ("stubborn", (0.12, 7)), ("echo", (7,)), ("fail", (7,)), ("clean_up", (0.2,))],
)
def test_a_cancel_at_every_step_concerns_no_other_call(grace, method, args):
    step = 1
    # This one ends by its cancel only.
    last = 30 if method == "clean_up" else 10_000
    while step <= last and run_with_a_cancel(step, grace, f"Service.{method}", args, 1):
        step += 1
    assert step > 3


@pytest.mark.parametrize(
    ("kind", "body", "outcome"),
    [
        (Kind.RESULT, b"\x07", 7),
        (Kind.ERROR, encode_status(trpc.Overloaded("busy")), trpc.Overloaded),
        (Kind.CANCELLED, b"", "cancelled"),
        (Kind.EXPIRED, b"", "cancelled"),
    ],
)
async def test_what_a_call_gets_that_waits_for_the_acknowledgement_of_its_cancel(kind, body, outcome):
    async with calling() as (client, peer, call, request):
        call.scope.cancel()
        assert (await peer.receive())[:2] == (Kind.CANCEL, request.id)
        await settle()
        assert call.outcome is None, "it waits"
        await peer.send(kind, request.id, body)
        await settle()
        assert call.outcome == outcome or type(call.outcome) is outcome


async def test_a_reply_that_is_there_when_the_call_is_cancelled_is_delivered():
    async with calling() as (client, peer, call, request):
        await peer.send_result(request.id, 7)
        call.scope.cancel()
        await settle()
        assert call.outcome == 7


@pytest.mark.parametrize("grace", [0, 1])
async def test_the_grace(autojump_clock, grace):
    async with calling(cancel_grace=grace) as (client, peer, call, request):
        start = trio.current_time()
        call.scope.cancel()
        with trio.fail_after(100):
            while call.outcome is None:
                await trio.sleep(0.01)
        assert call.outcome == "cancelled"
        assert trio.current_time() - start == pytest.approx(grace, abs=0.02)
        assert client._caller._slots.taken == 1, "the peer counts the call until its handler has ended"
        assert (await peer.receive()).kind == Kind.CANCEL
        await peer.send_result(request.id, "late")
        await settle()
        assert client.late_replies == 1


@writes_at_once
@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize("kind", [Kind.RESULT, Kind.CANCELLED])
async def test_the_grace_is_over_in_the_pass_in_which_the_reply_is_read(mock_clock, monkeypatch, kind, first):
    """The task is woken once, whichever is first."""
    async with calling(cancel_grace=1) as (client, peer, call, request):
        call.scope.cancel()
        assert (await peer.receive()).kind == Kind.CANCEL
        await settle()
        # Which task of a pass is the first one.
        monkeypatch.setattr(trio._core._run._r, "random", lambda: first)
        # Written at once, and the time is over: both are seen next.
        peer.stream.socket._sock.send(encode_frame(kind, request.id, b"\xc0" if kind == Kind.RESULT else b""))
        mock_clock.jump(1)
        await settle()
        assert call.outcome in ("cancelled", None)
        assert call.outcome == "cancelled" or kind == Kind.RESULT
        assert not connection_of(client)._lost


async def test_the_deadline_of_one_call_beside_another(autojump_clock):
    async with connected(Service()) as (client, server):
        start = trio.current_time()
        async with trio.open_nursery() as nursery:
            outcomes = {}
            with trio.move_on_after(1) as scope:
                start_call(nursery, outcomes, "other", client.call, "Service.sleep", 3, 5)
                await client.call("Service.sleep", 100, 1)
            assert scope.cancelled_caught
            assert trio.current_time() - start == pytest.approx(1)
        assert outcomes == {"other": 5}
        with pytest.raises(trio.TooSlowError), trio.fail_after(0.5):
            await client.call("Service.sleep", 100, 1)
        assert server.calls == ()
        assert_empty(client)


# --- others beside it ---


async def test_replies_in_any_order():
    async with calling() as (client, peer, call, request), trio.open_nursery() as nursery:
        others = [Call(nursery, client) for _ in range(5)]
        ids = [(await peer.receive()).id for _ in others]
        for call_id in reversed(ids):
            await peer.send_result(call_id, call_id)
            await settle()
        assert sorted(other.outcome for other in others) == ids
        assert call.outcome is None
        await peer.send_result(request.id, 1)
        await settle()
        assert call.outcome == 1


async def test_replies_in_one_segment_with_requests_of_the_peer(caplog):
    """More of them than are handled in one pass, so that the replies behind them wait for the next one."""
    async with calling() as (client, peer, call, request), trio.open_nursery() as nursery:
        other = Call(nursery, client)
        second = await peer.receive()
        asked = [
            encode_frame(Kind.NOTIFY, number, encode_request("A.b", [], {}, None, None, max_depth=8))
            for number in range(1, 3 * _reader._MAX_REQUESTS)
        ]
        replies = [encode_frame(Kind.RESULT, reply.id, b"\xc3") for reply in (request, second)]
        middle = _reader._MAX_REQUESTS
        await peer.stream.send_all(b"".join([*asked[:middle], replies[0], *asked[middle:], replies[1]]))
        await settle()
        assert (call.outcome, other.outcome) == (True, True)


async def test_two_tasks_that_call_in_turns(autojump_clock):
    async with connected(Service()) as (client, _):
        done = []

        async def calls(key, seconds):
            for number in range(50):
                assert await client.call("Service.sleep", seconds, number) == number
                if number % 3 == key:
                    await trio.sleep(seconds / 3)
            done.append(key)

        with trio.fail_after(1000):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(calls, 0, 0.003)
                nursery.start_soon(calls, 1, 0.005)
        assert sorted(done) == [0, 1]
        assert_empty(client)


@pytest.mark.parametrize("in_flight", [0, 1])
async def test_a_ping_in_either_direction(autojump_clock, in_flight):
    async with client_of_raw_peer(cancel_grace=0) as (client, peer), trio.open_nursery() as nursery:
        await peer.open()
        calls = [Call(nursery, client) for _ in range(in_flight)]
        requests = [await peer.receive() for _ in calls]
        await trio.sleep(10)
        start = trio.current_time()
        await peer.send(Kind.PING, 77)
        assert (await peer.receive())[:2] == (Kind.PONG, 77)
        outcomes = {}
        for key in range(2):
            start_call(nursery, outcomes, key, client.ping)
        for _ in range(2):
            ping = await peer.receive()
            assert ping.kind == Kind.PING
            await peer.send(Kind.PONG, ping.id)
        await run_while_clock_stands()
        assert outcomes == {0: 0, 1: 0}
        assert trio.current_time() == start
        for call, request in zip(calls, requests, strict=True):
            assert call.outcome is None
            await peer.send_result(request.id, 1)
            await settle()
            assert call.outcome == 1
        assert_empty(client)


async def test_who_only_notifies_sees_what_the_peer_sends(autojump_clock):
    async with client_of_raw_peer() as (client, peer), trio.open_nursery() as nursery:
        await peer.open()

        async def notify():
            while True:
                await client.notify("A.b")
                await trio.sleep(0.01)

        async def until(kind):
            with trio.fail_after(1):
                while (await peer.receive()).kind != kind:
                    pass

        nursery.start_soon(notify)
        await trio.sleep(1)
        for number in range(3):
            await peer.send(Kind.PING, number)
            await until(Kind.PONG)
        nursery.cancel_scope.cancel()


@pytest.mark.transports("socket", reason="a memory stream takes any number of bytes")
async def test_a_peer_that_pings_a_client_with_a_call_and_does_not_read_is_not_read_either(autojump_clock):
    # Else the number of the pings would end the connection.
    limits = trpc.Limits(max_unsent=5_000, control_burst=2**31)
    async with calling(limits=limits, cancel_grace=0) as (client, peer, call, request):
        sent = 0
        with trio.move_on_after(10):
            while sent < 1_000_000:
                await peer.stream.send_all(encode_frame(Kind.PING, 1) * 100)
                sent += 100
        assert sent < 1_000_000
        # As many as may wait beside calls and their replies, and those of one read.
        assert connection_of(client)._outbox.unsent < 200_000

        async def read():
            with contextlib.suppress(trio.ClosedResourceError):
                while await peer.receive() is not None:
                    pass

        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            with trio.fail_after(100):
                while connection_of(client)._outbox.unsent:
                    await trio.sleep(0.1)
            await peer.send_result(request.id, 5)
            await settle()
            nursery.cancel_scope.cancel()
        assert call.outcome == 5


async def test_notifications_beside_a_call():
    async with calling() as (client, peer, call, request):
        for _ in range(3):
            await client.notify("A.c")
            assert (await peer.receive()).kind == Kind.NOTIFY
        await peer.send_result(request.id, 1)
        await settle()
        assert call.outcome == 1


# --- the end of the connection ---


@pytest.mark.parametrize("accepted", [True, False])
async def test_a_goaway_with_calls_in_flight(accepted):
    async with calling() as (client, peer, call, request), trio.open_nursery() as nursery:
        other = Call(nursery, client)
        await peer.receive()
        await peer.send(Kind.GOAWAY, request.id if accepted else 0, encode_status(trpc.Unavailable("restarting")))
        await settle()
        assert type(other.outcome) is trpc.Unavailable
        with pytest.raises(trpc.Unavailable):
            await client.call("A.b")
        if accepted:
            assert call.outcome is None
            await peer.send_result(request.id, 1)
            await settle()
            assert call.outcome == 1
        else:
            assert type(call.outcome) is trpc.Unavailable


async def test_a_reply_behind_a_goaway_that_has_failed_its_call():
    """A mistake of the peer's; none of the library's own."""
    async with client_of_raw_peer() as (client, peer), trio.open_nursery() as nursery:
        await peer.open()
        call = Call(nursery, client)
        request = await peer.receive()
        await settle()
        goaway = encode_frame(Kind.GOAWAY, 0, encode_status(trpc.Unavailable("restarting")))
        await peer.stream.send_all(goaway + encode_frame(Kind.RESULT, request.id, b"\xc0"))
        await settle()
        assert isinstance(call.outcome, trpc.Unavailable)
        assert_empty(client)


@pytest.mark.parametrize("how", ["closes", "breaks the protocol", "cuts off"])
async def test_the_connection_is_lost_with_calls_and_a_ping_in_flight(how):
    async with calling() as (client, peer, call, request), trio.open_nursery() as nursery:
        others = [Call(nursery, client) for _ in range(3)]
        start_call(nursery, outcomes := {}, "ping", client.ping)
        for _ in range(4):
            await peer.receive()
        if how == "breaks the protocol":
            await peer.send(0x7F)
        else:
            if how == "cuts off":
                await peer.stream.send_all(b"\0\0\0")
            await peer.stream.aclose()
        await settle()
        for ended in (call, *others):
            assert type(ended.outcome) is trpc.ConnectionLost
            assert ended.outcome.maybe_executed
        assert type(outcomes["ping"]) is trpc.ConnectionLost
        with pytest.raises(trpc.ConnectionLost):
            await client.call("A.b")


async def test_the_connection_is_lost_while_a_cancelled_call_waits():
    async with calling(cancel_grace=100) as (client, peer, call, request):
        call.scope.cancel()
        assert (await peer.receive()).kind == Kind.CANCEL
        await peer.stream.aclose()
        await settle()
        assert call.outcome == "cancelled"


async def test_cancelled_and_then_lost_in_one_pass_is_cancelled():
    async with calling() as (client, peer, call, request):
        call.scope.cancel()
        connection_of(client)._lose(trpc.ConnectionLost("now"))
        await settle()
        assert call.outcome == "cancelled"


@writes_at_once
@pytest.mark.parametrize("seed", range(10))
async def test_what_comes_behind_our_own_end_is_not_read(monkeypatch, caplog, seed):
    """A reply that crosses our close is no mistake of the peer's."""
    async with calling(cancel_grace=0) as (client, peer, call, request):
        monkeypatch.setattr(trio._core._run._r, "random", random.Random(seed).random)
        peer.stream.socket._sock.send(encode_frame(Kind.RESULT, request.id, b"\xc0"))
        # In the pass in which it is seen, before or after it is read.
        await trio.lowlevel.checkpoint()
        connection_of(client)._lose(trpc.ConnectionLost("now"))
        await settle()
        assert call.outcome is None or type(call.outcome) is trpc.ConnectionLost
    assert not [record for record in caplog.records if record.name == "trpc"]


@pytest.mark.parametrize("reply", ["a value", "an acknowledgement", "none"])
async def test_the_client_is_closed_by_another_task(autojump_clock, reply):
    async with calling(cancel_grace=1) as (client, peer, call, request), trio.open_nursery() as nursery:
        start = trio.current_time()
        nursery.start_soon(lambda: connection_of(client).close(orderly=True))
        assert (await peer.receive())[:2] == (Kind.CANCEL, request.id)
        if reply == "a value":
            await peer.send_result(request.id, 5)
        elif reply == "an acknowledgement":
            await peer.send(Kind.CANCELLED, request.id)
        await run_while_clock_stands()
        if reply != "none":
            assert trio.current_time() == start
        with trio.fail_after(5):
            while call.outcome is None:
                await trio.sleep(0.01)
        await peer.stream.aclose()
        if reply == "a value":
            assert call.outcome == 5
        else:
            assert isinstance(call.outcome, trio.ClosedResourceError)


@pytest.mark.parametrize("seconds", [0, 0.001, 0.5, 3])
@pytest.mark.parametrize("ending", ["closes", "goes away"])
async def test_an_idle_client_notices_at_once_what_the_peer_does(autojump_clock, seconds, ending):
    """After short calls, long ones and pauses."""
    async with client_of_raw_peer() as (client, peer), trio.open_nursery() as nursery:
        await peer.open()
        for _ in range(3):
            call = Call(nursery, client)
            request = await peer.receive()
            await trio.sleep(seconds)
            await peer.send_result(request.id, 1)
            await run_while_clock_stands()
            assert call.outcome == 1
            assert_empty(client)
        start = trio.current_time()
        if ending == "closes":
            await peer.stream.aclose()
        else:
            await peer.send(Kind.GOAWAY, request.id, encode_status(trpc.Unavailable("restarting")))
        await run_while_clock_stands()
        assert trio.current_time() == start
        assert connection_of(client)._lost is (ending == "closes")
        assert client._caller._refusal is not None


# --- Ctrl-C ---


@pytest.mark.parametrize("presses", [1, 2])
@pytest.mark.parametrize("reply", [Kind.CANCELLED, Kind.RESULT, None])
def test_an_interrupt_in_a_call(presses, reply):
    """It is raised once the handler has ended or the grace is over; a result that was faster is delivered before."""

    async def main():
        tasks = trio.lowlevel.current_statistics().tasks_living
        with trio.fail_after(1000):
            async with client_of_raw_peer(cancel_grace=5) as (client, peer):
                await peer.open()

                async def press():
                    await settle()
                    for _ in range(presses):
                        signal.raise_signal(signal.SIGINT)
                        await run_while_clock_stands()
                    if reply is not None:
                        await peer.send(reply, 1, b"\xc0" if reply == Kind.RESULT else b"")

                trio.lowlevel.spawn_system_task(press)
                start = trio.current_time()
                value = "none"
                with pytest.raises(KeyboardInterrupt):
                    value = await client.call("A.b")
                    await trio.lowlevel.checkpoint()
                assert value == (None if reply == Kind.RESULT else "none")
                assert trio.current_time() - start == pytest.approx(5 if reply is None else 0)
                # Nobody wakes this task by mistake, and the client is as good as before.
                with trio.move_on_after(1):
                    await trio.sleep_forever()
                async with trio.open_nursery() as nursery:
                    call = Call(nursery, client)
                    while (request := await peer.receive()).kind != Kind.REQUEST or request.id == 1:
                        pass
                    await peer.send_result(request.id, 2)
                assert call.outcome == 2
        # System tasks included.
        await settle()
        assert trio.lowlevel.current_statistics().tasks_living == tasks

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


# --- everything at once ---


async def tangle(rng, client):
    """One task that does something random with the client, again and again."""
    for _ in range(15):
        with trio.CancelScope() as scope:
            choice = rng.random()
            if rng.random() < 0.3:
                scope.deadline = trio.current_time() + rng.choice([0, 0.001, 0.01, 0.02, 0.05])
            seconds, value = rng.choice([0, 0, 0.001, 0.01, 0.02, 0.03]), rng.randrange(1000)
            async with trio.open_nursery() as nursery:
                if rng.random() < 0.3:
                    nursery.start_soon(_cancel_soon, scope, rng.randrange(8), rng.choice([0, 0, 0.01, 0.02]))
                if choice < 0.3:
                    assert await client.call("Service.echo", value) == value
                elif choice < 0.6:
                    assert await client.call("Service.sleep", seconds, value) == value
                elif choice < 0.7:
                    assert await client.call("Service.stubborn", seconds, value) == value
                elif choice < 0.8:
                    with pytest.raises(ValueError, match=str(value)):
                        await client.call("Service.fail", value)
                elif choice < 0.9:
                    assert await client.ping() >= 0
                elif choice < 0.95:
                    # Of a method that does not stay: the client does not count it among the calls that the server allows.
                    await client.notify("Service.echo", value)
                else:
                    scope.deadline = min(scope.deadline, trio.current_time() + 0.03)
                    await client.call("Service.clean_up", seconds)
                nursery.cancel_scope.cancel()
        if rng.random() < 0.4:
            await trio.sleep(rng.choice([0, 0.001, 0.01, 0.02, 0.021, 0.1]))


async def _cancel_soon(scope, passes, seconds):
    if seconds:
        await trio.sleep(seconds)
    for _ in range(passes):
        await trio.lowlevel.checkpoint()
    scope.cancel()


@pytest.mark.parametrize("seed", range(30))
async def test_random_tangles_of_callers(autojump_clock, monkeypatch, seed):
    rng = random.Random(seed)
    monkeypatch.setattr(trio._core._run._r, "random", random.Random(seed).random)
    tasks = trio.lowlevel.current_statistics().tasks_living
    service = Service()
    grace = rng.choice([0, 0.01, 0.02, 1])
    serve = {"limits": trpc.Limits(max_calls=rng.choice([2, 5, 1000]))}
    async with connected(service, cancel_grace=grace, serve=serve) as (client, server):
        with trio.fail_after(1000):
            async with trio.open_nursery() as nursery:
                for _ in range(rng.choice([1, 2, 5, 20])):
                    nursery.start_soon(tangle, random.Random(rng.random()), client)
            while server.calls:
                await trio.sleep(0.01)
            await client.ping()
        assert_empty(client)
        assert await client.call("Service.echo", 1) == 1
        assert not connection_of(client)._lost
    await settle()
    assert service.running == 0
    assert trio.lowlevel.current_statistics().tasks_living == tasks
