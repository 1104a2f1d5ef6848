"""The connection ends: from the peer, by a fault, or from this side."""

from __future__ import annotations

import signal

import pytest
import trio
from support import RawPeer, client_of_raw_peer, connected, connection_of, raw_client_of, settle, start_call

import trpc
from trpc._frames import MAGIC, PREAMBLE, encode_frame
from trpc._messages import Kind


class Service:
    def __init__(self):
        self.log = []

    @trpc.method
    async def wait(self) -> None:
        try:
            await trio.sleep_forever()
        finally:
            self.log.append("ended")

    @trpc.method
    async def stubborn(self, seconds: float) -> str:
        with trio.CancelScope(shield=True):
            await trio.sleep(seconds)
        self.log.append("stubborn ended")
        return "done"

    @trpc.method
    async def note(self, text: str) -> None:
        self.log.append(text)

    @trpc.method
    def echo(self, text: str) -> str:
        return text


async def test_every_call_ends_at_once_when_the_peer_closes():
    async with client_of_raw_peer() as (client, peer):
        await peer.open()
        outcomes = {}
        async with trio.open_nursery() as nursery:
            for key in range(10):
                start_call(nursery, outcomes, key, client.call, "A.b")
            start_call(nursery, outcomes, "ping", client.ping)
            await settle()
            await peer.stream.aclose()
        assert all(type(outcomes[key]) is trpc.ConnectionLost for key in range(10))
        assert all(isinstance(outcomes[key], trio.BrokenResourceError) for key in range(10))
        assert all(outcomes[key].maybe_executed for key in range(10))
        assert len({id(outcomes[key]) for key in range(10)}) == 10, "one exception object must not be raised twice"
        assert type(outcomes["ping"]) is trpc.ConnectionLost
        for call in (client.call, client.notify):
            with pytest.raises(trpc.ConnectionLost) as later:
                await call("A.b")
            assert not later.value.maybe_executed
        with pytest.raises(trpc.ConnectionLost):
            await client.ping()


@pytest.mark.transports("memory", reason="lockstep: a write waits until the peer reads")
async def test_maybe_executed_is_false_for_requests_that_were_not_written():
    async with client_of_raw_peer(lockstep=True, hello={"max_calls": 1}) as (client, peer):
        outcomes = {}
        async with trio.open_nursery() as nursery:
            start_call(nursery, outcomes, "open", peer.open)
            start_call(nursery, outcomes, "written", client.call, "A.b")
            await settle()
            start_call(nursery, outcomes, "waits for a slot", client.call, "A.c")
            await settle()
            await peer.stream.aclose()
        assert outcomes["waits for a slot"].maybe_executed is False
        assert outcomes["written"].maybe_executed is True


@pytest.mark.transports("memory", reason="lockstep: a write waits until the peer reads")
async def test_maybe_executed_is_false_for_a_request_in_the_queue():
    async with client_of_raw_peer(lockstep=True) as (client, peer):
        outcomes = {}
        await settle()  # the hello is being written
        async with trio.open_nursery() as nursery:
            start_call(nursery, outcomes, "queued", client.call, "A.b")
            start_call(nursery, outcomes, "notify", client.notify, "A.b")
            await settle()
            await peer.stream.aclose()
        assert type(outcomes["queued"]) is trpc.ConnectionLost
        assert outcomes["queued"].maybe_executed is False
        assert type(outcomes["notify"]) is trpc.ConnectionLost


async def test_a_cancelled_call_that_waits_for_its_acknowledgement_stays_cancelled(autojump_clock):
    async with client_of_raw_peer() as (client, peer):
        await peer.open()
        async with trio.open_nursery() as nursery:
            outcomes = {}
            start_call(nursery, outcomes, "call", client.call, "A.b")
            await settle()
            nursery.cancel_scope.cancel()
            with trio.CancelScope(shield=True):
                await settle()
                assert outcomes == {}, "it waits"
                await peer.stream.aclose()
        assert outcomes == {"call": "cancelled"}


async def test_handlers_of_a_lost_connection_are_cancelled_and_others_are_not():
    service = Service()
    async with connected(service) as (client, _), raw_client_of(service) as peer:
        await peer.open()
        await peer.send_request(1, "Service.wait")
        await settle()
        async with trio.open_nursery() as nursery:
            outcomes = {}
            start_call(nursery, outcomes, "other", client.proxy(Service).wait)
            await settle()
            await peer.stream.aclose()
            await settle()
            assert service.log == ["ended"]
            assert outcomes == {}
            nursery.cancel_scope.cancel()


async def test_calls_fail_at_once_although_a_handler_of_the_server_shields(autojump_clock):
    """The server's connection lingers on for its handler; the socket is gone all the same."""
    service = Service()
    async with connected(service) as (client, server), raw_client_of(service) as peer:
        await peer.open()
        await peer.send_request(1, "Service.stubborn", 5)
        await settle()
        await peer.stream.aclose()
        assert await client.proxy(Service).echo("x") == "x"
        await trio.sleep(6)
        assert service.log == ["stubborn ended"]


@pytest.mark.parametrize(
    ("sent", "match"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "text protocol, such as HTTP"),
        (b"\x15\x03\x01\x00\x02\x02\x46", "but TLS"),
        (b"\x00", "does not speak trpc"),
        (MAGIC + b"\x07", "version 7 of the protocol, this side version 1"),
        (PREAMBLE + encode_frame(Kind.PING, 1), "not a hello"),
        (PREAMBLE + b"\xff\xff\xff\xff", "length 4294967295"),
        (PREAMBLE + b"\0\0\0\0", "length 0"),
    ],
)
async def test_a_peer_that_is_no_trpc_server_is_a_protocol_error_of_the_first_call(sent, match):
    async with client_of_raw_peer() as (client, peer):
        await peer.stream.send_all(sent)
        with pytest.raises(trpc.ProtocolError, match=match):
            await client.call("A.b")
        with pytest.raises(trpc.ProtocolError, match=match):
            await client.call("A.b")


async def test_a_client_that_is_no_trpc_client_is_refused_within_the_first_bytes(caplog):
    for sent in (b"G", b"\x16\x03", MAGIC[:3] + b"?"):
        async with raw_client_of(Service()) as peer:
            await peer.stream.send_all(sent)
            await _read_to_end(peer)
    assert len([r for r in caplog.records if "does not speak trpc" in r.getMessage()]) == 3


async def _read_to_end(peer):
    with trio.fail_after(5):
        while await peer.stream.receive_some():
            pass


@pytest.mark.parametrize(
    "send",
    [
        encode_frame(0x55, 1),
        encode_frame(Kind.HELLO, 0, b"\x80"),
        encode_frame(Kind.RESULT, 9, b"\xc0"),
        encode_frame(Kind.PONG, 9),
        encode_frame(Kind.CANCEL, 9),
        encode_frame(Kind.PING, 9, b"x"),
        encode_frame(Kind.PING, 9, flags=1),
        encode_frame(Kind.PING, 9, stream=1),
        encode_frame(Kind.REQUEST, 0, b"\x90"),
        b"\xff\xff\xff\xff",
    ],
)
async def test_a_peer_that_breaks_the_protocol_hears_why_and_is_cut_off(send, caplog):
    service = Service()
    async with raw_client_of(service) as peer:
        await peer.open()
        await peer.send_request(1, "Service.wait")
        await settle()
        await peer.stream.send_all(send)
        goaway = await peer.receive()
        assert (goaway.kind, goaway.id) == (Kind.GOAWAY, 1)
        assert await peer.receive() is None
        assert service.log == ["ended"]
    assert any("closing the connection" in r.getMessage() for r in caplog.records)


async def test_goaway_fails_what_was_not_accepted_and_what_comes_later():
    from trpc._exceptions import encode_status

    async with client_of_raw_peer() as (client, peer):
        await peer.open()
        outcomes = {}
        async with trio.open_nursery() as nursery:
            start_call(nursery, outcomes, 1, client.call, "A.b")
            first = await peer.receive()
            start_call(nursery, outcomes, 2, client.call, "A.b")
            await peer.receive()
            await peer.send(Kind.GOAWAY, first.id, encode_status(trpc.Unavailable("restarting")))
            await settle()
            assert type(outcomes[2]) is trpc.Unavailable
            with pytest.raises(trpc.Unavailable, match="restarting"):
                await client.call("A.b")
            await peer.send_result(first.id, "finished")
        assert outcomes[1] == "finished"


async def test_no_hello_in_time(autojump_clock):
    async with client_of_raw_peer(limits=trpc.Limits(hello_timeout=3)) as (client, _peer):
        start = trio.current_time()
        with pytest.raises(trpc.ConnectionLost, match="no hello within 3 s"):
            await client.call("A.b")
        assert trio.current_time() - start == pytest.approx(3)
    async with raw_client_of(Service(), limits=trpc.Limits(hello_timeout=3)) as peer:
        start = trio.current_time()
        await _read_to_end(peer)
        assert trio.current_time() - start == pytest.approx(3)


async def test_hello_timeout_does_not_end_an_idle_connection(autojump_clock):
    async with connected(Service()) as (client, _):
        assert await client.proxy(Service).echo("a") == "a"
        await trio.sleep(3600)
        assert await client.proxy(Service).echo("b") == "b"


async def test_end_of_stream_inside_a_frame():
    async with client_of_raw_peer() as (client, peer):
        await peer.open()
        async with trio.open_nursery() as nursery:
            outcomes = {}
            start_call(nursery, outcomes, "call", client.call, "A.b")
            # Else its close would break the stream, and not end it.
            await peer.receive()
            await peer.stream.send_all(b"\0\0\0")
            await peer.stream.aclose()
        assert type(outcomes["call"]) is trpc.ConnectionLost
        assert "inside a frame" in str(outcomes["call"])


async def test_closing_the_client_cancels_the_calls_of_other_tasks(autojump_clock):
    service = Service()
    outcomes = {}
    async with trio.open_nursery() as nursery:
        async with connected(service) as (client, server):
            start_call(nursery, outcomes, "wait", client.proxy(Service).wait)
            start_call(nursery, outcomes, "value", client.proxy(Service).stubborn, 0.5)
            await settle()
        assert "ended" in service.log
    assert isinstance(outcomes["wait"], trpc.ConnectionLost)
    assert isinstance(outcomes["wait"], trio.ClosedResourceError)
    assert outcomes["value"] == "done", "a result that comes within the grace is delivered"


@pytest.mark.parametrize("grace", [0, 2])
async def test_closing_the_client_is_bounded(autojump_clock, grace):
    outcomes = {}
    async with trio.open_nursery() as nursery:
        async with client_of_raw_peer(cancel_grace=grace) as (client, peer):
            await peer.open()
            start_call(nursery, outcomes, "call", client.call, "A.b")
            await settle()
            nursery.start_soon(_close_later, peer.stream, grace + 5)
            start = trio.current_time()
            await connection_of(client).close(orderly=True)
            assert trio.current_time() - start == pytest.approx(grace)
    assert isinstance(outcomes["call"], trio.ClosedResourceError)


async def _close_later(stream, seconds):
    await trio.sleep(seconds)
    await stream.aclose()


@pytest.mark.transports("memory", reason="lockstep: a write waits until the peer reads")
async def test_closing_takes_back_requests_that_were_not_written():
    outcomes = {}
    async with trio.open_nursery() as nursery:
        async with client_of_raw_peer(lockstep=True) as (client, peer):
            await settle()
            start_call(nursery, outcomes, "call", client.call, "A.b")
            await settle()
            nursery.start_soon(_read_everything, peer.stream)
            await connection_of(client).close(orderly=True)
    assert isinstance(outcomes["call"], trio.ClosedResourceError)
    assert outcomes["call"].maybe_executed is False


async def _read_everything(stream):
    try:
        while await stream.receive_some():
            pass
    except trio.ClosedResourceError:
        pass


async def test_a_client_after_its_end_says_so():
    async with connected(Service()) as (client, _):
        proxy = client.proxy(Service)
        untyped = client.proxy("Service")
    for call in (lambda: proxy.echo("x"), lambda: untyped.echo("x"), lambda: client.call("Service.echo", "x")):
        with pytest.raises(trpc.ConnectionLost, match="client is closed") as error:
            await call()
        assert isinstance(error.value, trio.ClosedResourceError)
        assert error.value.maybe_executed is False
    with pytest.raises(trpc.ConnectionLost, match="client is closed"):
        await client.notify("Service.echo", "x")


async def test_what_the_body_raises_is_not_wrapped_in_a_group():
    with pytest.raises(ValueError, match="mine"):
        async with client_of_raw_peer() as (_, peer):
            await peer.stream.aclose()
            raise ValueError("mine")
    ours, theirs = trio.testing.memory_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trpc.serve_stream, Service(), theirs)
        with pytest.raises(trpc.MethodNotFound):
            async with trpc.connect_stream(ours) as client:
                await client.call("Service.nothing")


async def test_a_notification_arrives_although_the_client_leaves_at_once():
    service = Service()
    async with connected(service) as (client, _):
        await client.notify("Service.note", "hello")
    assert service.log == ["hello"]


async def test_notifications_never_reply_whatever_happens(caplog):
    service = Service()
    async with raw_client_of(service, limits=trpc.Limits(max_calls=1)) as peer:
        await peer.open()
        for call_id, (method, *args) in enumerate(
            [("note", "a"), ("nothing",), ("note",), ("note", 1), ("echo", "x"), ("stubborn", "x")], start=1
        ):
            await peer.send_request(call_id, f"Service.{method}", *args, kind=Kind.NOTIFY)
            await settle()
        await peer.send(Kind.NOTIFY, 7, b"\xc1")
        await peer.send_request(8, "Service.note", "late", kind=Kind.NOTIFY, time_left=-1)
        await peer.send_request(9, "Service.wait", kind=Kind.NOTIFY, time_left=0.001)
        await settle()
        await peer.send(Kind.CANCEL, 9)
        await peer.send_request(10, "Service.note", "too many", kind=Kind.NOTIFY)
        await peer.send(Kind.PING, 1)
        assert (await peer.receive())[:2] == (Kind.PONG, 1)
    assert service.log[0] == "a"
    assert "late" not in service.log
    assert "too many" not in service.log


async def test_notify_whose_handler_fails_is_logged_only(caplog):
    class Fails:
        @trpc.method
        async def boom(self) -> None:
            raise ValueError("one way")

        @trpc.method
        async def exits(self) -> None:
            raise SystemExit

    async with connected(Fails()) as (client, _):
        await client.notify("Fails.boom")
        await client.ping()
        await settle()
    assert "Fails.boom" in caplog.text
    with pytest.raises(BaseExceptionGroup):
        async with connected(Fails()) as (client, _):
            await client.notify("Fails.exits")
            await trio.sleep_forever()


@pytest.mark.transports("socket", reason="opens its own")
async def test_a_hard_stop_of_the_server_ends_handlers_and_callers():
    service = Service()
    outcomes = {}
    async with trio.open_nursery() as clients:
        async with trio.open_nursery() as nursery:
            server = await nursery.start(trpc.serve_tcp, service, 0)

            async def client_of():
                async with trpc.connect(server.url) as client:
                    start_call(clients, outcomes, "call", client.proxy(Service).wait)
                    await settle()
                    stopped.set()
                    await ended.wait()

            stopped, ended = trio.Event(), trio.Event()
            clients.start_soon(client_of)
            await stopped.wait()
            with trio.fail_after(5):
                while not server.calls:
                    await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()
        assert service.log == ["ended"]
        assert server.connections == ()
        ended.set()
    assert type(outcomes["call"]) is trpc.ConnectionLost


@pytest.mark.transports("memory", reason="lockstep: a write waits until the peer reads")
async def test_a_peer_that_does_not_read_stops_being_served_until_it_does(autojump_clock):
    """Its unsent replies are bounded, and nothing is lost."""
    limits = trpc.Limits(max_unsent=50_000)
    async with raw_client_of(Service(), lockstep=True, limits=limits) as peer, trio.open_nursery() as nursery:
        nursery.start_soon(peer.open)
        await settle()
        sent = 0

        async def flood():
            nonlocal sent
            for call_id in range(1, 201):
                await peer.send_request(call_id, "Service.echo", "x" * 1000)
                sent = call_id

        nursery.start_soon(flood)
        await trio.sleep(1)
        assert 40 < sent < 70, "reading has stopped once some 50 replies were waiting"
        received = {(await peer.receive())[:2] for _ in range(200)}
        assert received == {(Kind.RESULT, call_id) for call_id in range(1, 201)}
        assert sent == 200


@pytest.mark.transports("memory", reason="lockstep: a write waits until the peer reads")
async def test_callers_wait_for_room_when_the_server_reads_slowly(autojump_clock):
    """What a client holds for a peer that does not read is bounded, and a wait for room can be cancelled."""
    limits = trpc.Limits(max_unsent=50_000)
    async with client_of_raw_peer(lockstep=True, limits=limits) as (client, peer):
        outcomes = {}
        async with trio.open_nursery() as nursery:
            nursery.start_soon(peer.open)
            await settle()
            for key in range(100):
                start_call(nursery, outcomes, key, client.notify, "A.b", "x" * 1000)
            await settle()
            assert 50_000 < connection_of(client)._outbox.unsent < 53_000
            with trio.move_on_after(1) as scope:
                await client.notify("A.b", "late")
            assert scope.cancelled_caught
            received = 0
            while received < 100:
                frame = await peer.receive()
                assert frame.kind == Kind.NOTIFY
                received += 1
        assert outcomes == dict.fromkeys(range(100))
        assert connection_of(client)._outbox.unsent == 0


@pytest.mark.transports("memory", reason="lockstep: a write waits until the peer reads")
async def test_waiting_for_room_ends_with_the_connection():
    limits = trpc.Limits(max_unsent=5_000)
    async with client_of_raw_peer(lockstep=True, limits=limits) as (client, peer):
        outcomes = {}
        async with trio.open_nursery() as nursery:
            await settle()
            for key in range(20):
                start_call(nursery, outcomes, key, client.call, "A.b", "x" * 1000)
                start_call(nursery, outcomes, -key - 1, client.notify, "A.b", "x" * 1000)
            await settle()
            await peer.stream.aclose()
        assert len(outcomes) == 40
        assert {type(outcome) for outcome in outcomes.values()} == {trpc.ConnectionLost}
        assert not any(outcome.maybe_executed for outcome in outcomes.values())


@pytest.mark.parametrize("calls", [0, 1])
def test_an_interrupt_while_closing_is_not_in_a_group_and_nothing_hangs(calls):
    """Trio delivers Ctrl-C to the main task, which here waits for the connection's end."""

    async def interrupt():
        await trio.testing.wait_all_tasks_blocked()
        signal.raise_signal(signal.SIGINT)

    async def main():
        ours, theirs = trio.testing.memory_stream_pair()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(RawPeer(theirs).open)
            try:
                async with trpc.connect_stream(ours, cancel_grace=60) as client:
                    for _ in range(calls):
                        start_call(nursery, {}, "call", client.call, "A.b")
                        await settle()
                    trio.lowlevel.spawn_system_task(interrupt)
            except KeyboardInterrupt:
                return
            raise AssertionError("there was no interrupt")

    async def bounded():
        with trio.fail_after(30):
            await main()

    trio.run(bounded)


async def test_a_pong_that_nobody_waits_for_any_more():
    async with client_of_raw_peer() as (client, peer):
        await peer.open()
        async with trio.open_nursery() as nursery:
            start_call(nursery, {}, "ping", client.ping)
            ping = await peer.receive()
            nursery.cancel_scope.cancel()
        await peer.send(Kind.PONG, ping.id)
        await peer.send(Kind.PONG, ping.id)
        async with trio.open_nursery() as nursery:
            outcomes = {}
            start_call(nursery, outcomes, "ping", client.ping)
            await peer.send(Kind.PONG, (await peer.receive()).id)
        assert outcomes["ping"] >= 0


async def test_a_server_cut_off_at_every_byte_of_its_hello(autojump_clock):
    """The handler may have run: nothing of this says that the peer does not speak trpc."""
    ours, theirs = trio.testing.memory_stream_pair()
    hello = RawPeer(theirs).hello.encode()
    opening = PREAMBLE + encode_frame(Kind.HELLO, 0, hello)
    for cut in range(len(opening) + 1):
        async with client_of_raw_peer() as (client, peer):
            async with trio.open_nursery() as nursery:
                outcomes = {}
                start_call(nursery, outcomes, "call", client.call, "A.b")
                await settle()
                await peer.stream.send_all(opening[:cut])
                await peer.stream.aclose()
            assert type(outcomes["call"]) is trpc.ConnectionLost
            assert outcomes["call"].maybe_executed


async def test_what_comes_behind_the_end_is_not_read(caplog, monkeypatch):
    """A reply that crosses our own close is no mistake of the peer's."""
    async with client_of_raw_peer() as (client, peer):
        await peer.open()
        async with trio.open_nursery() as nursery:
            start_call(nursery, {}, "call", client.call, "A.b")
            request = await peer.receive()
            connection = connection_of(client)
            monkeypatch.setattr(
                type(connection.caller), "on_pong", lambda *_: connection._lose(trpc.ConnectionLost("now"))
            )
            start_call(nursery, {}, "ping", client.ping)
            ping = await peer.receive()
            await peer.stream.send_all(
                encode_frame(Kind.PONG, ping.id) + encode_frame(Kind.RESULT, request.id, b"\xc0")
            )
    assert not [record for record in caplog.records if record.name == "trpc"]


@pytest.mark.transports("socket", reason="opens its own")
@pytest.mark.parametrize("where", ["reader", "writer", "handler's reply"])
def test_an_interrupt_in_the_middle_of_the_connections_work(where, monkeypatch):
    """Ctrl-C ends the program, at the next point where that is safe, whatever line it hits."""
    from trpc._connection import Connection
    from trpc._outbox import Outbox

    calls = 0

    def interrupting(function):
        def wrapper(*args, **kwargs):
            nonlocal calls
            calls += 1
            if calls == 7:
                signal.raise_signal(signal.SIGINT)
            return function(*args, **kwargs)

        return wrapper

    owner, name = {
        "reader": (Connection, "_handle"),
        "writer": (Outbox, "_put"),
        "handler's reply": (Outbox, "answer"),
    }[where]
    monkeypatch.setattr(owner, name, interrupting(getattr(owner, name)))

    async def main():
        async with trio.open_nursery() as nursery:
            server = await nursery.start(trpc.serve_tcp, Service(), 0)
            async with trpc.connect(server.url) as client, trio.open_nursery() as calls:
                for _ in range(5):
                    calls.start_soon(client.proxy(Service).wait)
                while True:
                    await client.proxy(Service).echo("x")

    async def bounded():
        nonlocal too_late
        with trio.CancelScope(deadline=trio.current_time() + 10) as scope:
            try:
                await main()
            finally:
                too_late = scope.cancel_called

    too_late = None

    with pytest.raises((KeyboardInterrupt, BaseExceptionGroup)) as error:
        trio.run(bounded)
    assert not too_late, "it was the timeout that ended it"
    if isinstance(error.value, BaseExceptionGroup):
        assert error.value.split(KeyboardInterrupt)[1] is None
