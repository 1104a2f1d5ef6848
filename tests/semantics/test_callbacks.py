"""Calls from the server to the client, in both directions' handlers, and nested to any depth."""

from __future__ import annotations

import contextlib
import math
from collections.abc import AsyncIterable, AsyncIterator

import pytest
import trio
import trio.testing
from support import assert_nothing_left, connected, connection_of, open_generators, raw_client_of, settle, start_call

import trpc
from trpc._messages import Kind


class Both:
    """Served by either side, under a name for each; a call goes to and fro as often as it says."""

    def __init__(self, other):
        self.other = other
        self.running = 0
        self.deepest = 0
        self.ended = []
        self.clients = []
        self.event = trio.Event()

    @contextlib.contextmanager
    def handling(self, what):
        self.running += 1
        try:
            yield trpc.current_call().client
        except BaseException as exc:
            self.ended.append((what, type(exc).__name__))
            raise
        else:
            self.ended.append((what, "value"))
        finally:
            self.running -= 1

    @trpc.method
    async def bounce(self, depth: int, wait: float = 0) -> int:
        with self.handling(depth) as client:
            self.deepest = max(self.deepest, depth)
            if depth == 0:
                await trio.sleep(wait)
                return 0
            return 1 + await client.call(f"{self.other}.bounce", depth - 1, wait)

    @trpc.method
    async def bounce_stream(self, depth: int) -> AsyncIterator[int]:
        with self.handling(depth) as client:
            if depth == 0:
                for number in range(5):
                    yield number
                return
            async with client.stream(f"{self.other}.bounce_stream", depth - 1) as items:
                async for item in items:
                    yield item + 1

    @trpc.method
    async def bounce_argument(self, depth: int, numbers: AsyncIterable[int]) -> int:
        with self.handling(depth) as client:
            if depth == 0:
                return sum([number async for number in numbers])
            return await client.call(f"{self.other}.bounce_argument", depth - 1, numbers)

    @trpc.method
    async def fail(self, depth: int) -> None:
        with self.handling(depth) as client:
            if depth == 0:
                raise KeyError("deep")
            await client.call(f"{self.other}.fail", depth - 1)

    @trpc.method
    async def deadlines(self, depth: int) -> list[float]:
        with self.handling(depth) as client:
            call = trpc.current_call()
            assert call.deadline == trio.current_effective_deadline()
            mine = call.deadline
            if depth == 0:
                return [mine]
            with trio.move_on_after(100):
                return [mine, *await client.call(f"{self.other}.deadlines", depth - 1)]

    @trpc.method
    async def fan(self, depth: int, width: int) -> int:
        """Calls back so many times at once, each of which does it again."""
        with self.handling(depth) as client:
            if depth == 0:
                return 1
            total = 0

            async def one():
                nonlocal total
                value = await client.call(f"{self.other}.fan", depth - 1, width)
                total += value

            async with trio.open_nursery() as nursery:
                for _ in range(width):
                    nursery.start_soon(one)
            return total + 1

    @trpc.method
    async def keep(self) -> None:
        self.clients.append(trpc.current_call().client)

    @trpc.method
    async def echo(self, value: object) -> object:
        return value

    @trpc.method
    async def wait(self) -> None:
        with self.handling("wait"):
            await self.event.wait()

    @trpc.method
    async def back_when_told(self) -> str:
        with self.handling("back") as client:
            await self.event.wait()
            return await client.call(f"{self.other}.echo", "back")

    @trpc.method
    async def back_from_a_child(self) -> list[str]:
        """The child is one of the handler as well."""
        got = []

        async def child(client):
            got.append(await client.call(f"{self.other}.echo", "child"))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(child, trpc.current_call().client)
        return got

    @trpc.method(in_thread=True)
    def back_from_a_thread(self) -> str:
        client = trpc.current_call().client
        return trio.from_thread.run(client.call, f"{self.other}.echo", "thread")

    @trpc.method
    async def metadata(self, depth: int) -> list:
        mine = dict(trpc.current_call().metadata)
        if depth == 0:
            return [mine]
        return [mine, *await trpc.current_call().client.call(f"{self.other}.metadata", depth - 1)]

    @trpc.method
    async def chat(self, lines: AsyncIterable[str]) -> AsyncIterator[str]:
        """Each line goes through the caller once more, in a chat of its own."""
        with self.handling("chat") as client:
            async with client.stream(f"{self.other}.shout", lines) as shouted:
                async for line in shouted:
                    yield line + "!"

    @trpc.method
    async def shout(self, lines: AsyncIterable[str]) -> AsyncIterator[str]:
        with self.handling("shout"):
            async for line in lines:
                yield line.upper()


@contextlib.contextmanager
def raises_at_the_other_end(name):
    """What a handler got from its call back is an error of this handler's, for its own caller."""
    with pytest.raises(trpc.RemoteError) as error:
        yield error
    assert error.value.type_name == name


class Pair:
    """A client and a server that serve each other."""

    def __init__(self):
        self.at_server, self.at_client = Both("Client"), Both("Server")

    @contextlib.asynccontextmanager
    async def connected(self, *, limits=None, client_limits=None, **options):
        before = open_generators()
        options["service"] = {"Client": self.at_client}
        async with connected({"Server": self.at_server}, limits=client_limits, serve={"limits": limits}, **options) as (
            client,
            server,
        ):
            (self.connection,) = server._connections
            self.server = server
            yield client
            if not connection_of(client)._lost:
                await client.ping()
            await settle()
            assert_nothing_left(connection_of(client), self.connection)
        assert self.at_server.running == self.at_client.running == 0
        assert [generator for generator in open_generators() if generator not in before] == []


@pytest.mark.parametrize("depth", [0, 1, 2, 50])
async def test_calls_back_are_nested(depth):
    pair = Pair()
    async with pair.connected() as client:
        assert await client.call("Server.bounce", depth) == depth


async def test_several_deep_ones_at_once():
    pair = Pair()
    async with pair.connected() as client, trio.open_nursery() as nursery:
        outcomes = {}
        for key in range(10):
            start_call(nursery, outcomes, key, client.call, "Server.bounce", 50 - key)
    assert outcomes == {key: 50 - key for key in range(10)}


async def test_calls_back_that_fan_out():
    pair = Pair()
    async with pair.connected() as client:
        assert await client.call("Server.fan", 5, 3) == sum(3**level for level in range(6))


@pytest.mark.parametrize("depth", [1, 2, 20])
async def test_streams_through_calls_back(depth):
    pair = Pair()
    async with pair.connected() as client:
        async with client.stream("Server.bounce_stream", depth) as items:
            assert [item async for item in items] == [number + depth for number in range(5)]

        async def numbers():
            for number in range(100):
                yield number

        assert await client.call("Server.bounce_argument", depth, numbers()) == 4950


@pytest.mark.parametrize("credit", [1, 100, 256 * 1024])
async def test_a_chat_through_a_call_back(credit):
    pair = Pair()
    limits = trpc.Limits(stream_credit=credit)
    async with pair.connected(limits=limits, client_limits=limits) as client:
        send, receive = trio.open_memory_channel(0)
        async with client.stream("Server.chat", receive) as items:
            for number in range(50):
                await send.send(f"line {number}")
                assert await items.receive() == f"LINE {number}!"
            await send.aclose()
            assert [item async for item in items] == []


async def test_leaving_a_stream_early_ends_all_that_is_behind_it():
    pair = Pair()
    async with pair.connected() as client:
        async with client.stream("Server.bounce_stream", 9) as items:
            assert await items.receive() == 9
        assert pair.at_server.running == pair.at_client.running == 0


async def test_an_error_passes_through_all_of_them():
    pair = Pair()
    async with pair.connected() as client:
        with pytest.raises(KeyError) as error:
            await client.call("Server.fail", 7)
        assert error.value.message == "'deep'"
        assert len(pair.at_server.ended) == len(pair.at_client.ended) == 4


async def test_a_deadline_passes_through_all_of_them(autojump_clock):
    pair = Pair()
    async with pair.connected() as client:
        start = trio.current_time()
        with trio.fail_after(10):
            deadlines = await client.call("Server.deadlines", 6)
        assert deadlines == pytest.approx([start + 10] * 7)
        # And without one, each has only its caller's.
        deadlines = await client.call("Server.deadlines", 2)
        assert deadlines == [math.inf, pytest.approx(start + 100), pytest.approx(start + 100)]
        with pytest.raises(trio.TooSlowError), trio.fail_after(1):
            await client.call("Server.bounce", 9, 1000)
        assert trio.current_time() - start == pytest.approx(1)
        ends = [end for _, end in pair.at_server.ended + pair.at_client.ended if end != "value"]
        assert ends == ["Cancelled"] * 10


@pytest.mark.parametrize("depth", [1, 9, 50])
@pytest.mark.parametrize("grace", [0, 1])
async def test_a_cancel_passes_through_all_of_them(autojump_clock, depth, grace):
    pair = Pair()
    async with pair.connected(cancel_grace=grace) as client:
        start = trio.current_time()
        with trio.move_on_after(0.5) as scope:
            await client.call("Server.bounce", depth, 1000)
        assert scope.cancelled_caught
        assert trio.current_time() - start == pytest.approx(0.5), "nobody waits for a grace to be over"
        await settle()
        assert pair.at_server.running == pair.at_client.running == 0
        ends = [end for _, end in pair.at_server.ended + pair.at_client.ended]
        assert ends == ["Cancelled"] * (depth + 1)


async def test_calls_back_from_children_and_threads():
    pair = Pair()
    async with pair.connected() as client:
        assert await client.call("Server.back_from_a_child") == ["child"]
        assert await client.call("Server.back_from_a_thread") == "thread"


async def test_metadata_goes_one_hop():
    pair = Pair()
    async with pair.connected() as client:
        with trpc.metadata(tenant="a"):
            assert await client.call("Server.metadata", 2) == [{"tenant": "a"}, {}, {}]


# --- limits ---


async def test_no_call_back_waits_for_handlers_that_may_wait_for_it(autojump_clock):
    """The client allows two calls, and both of them wait for what the third is to bring."""
    pair = Pair()
    async with pair.connected(client_limits=trpc.Limits(max_calls=2)) as client, trio.open_nursery() as nursery:
        outcomes = {}
        await client.call("Server.keep")
        (kept,) = pair.at_server.clients
        with trio.fail_after(100):
            async with trio.open_nursery() as calls:
                for key in range(2):
                    start_call(calls, outcomes, key, client.call, "Server.back_when_told")
                await settle()
                # From outside of any handler.
                for _ in range(2):
                    start_call(nursery, outcomes, object(), kept.call, "Client.wait")
                await settle()
                pair.at_server.event.set()
            assert [outcomes[key].type_name for key in range(2)] == ["Overloaded"] * 2
            pair.at_client.event.set()


@pytest.mark.parametrize(("max_calls", "depth"), [(1, 1), (1, 10), (2, 3), (3, 5), (3, 50)])
@pytest.mark.parametrize("who", ["server", "client"])
async def test_a_nest_deeper_than_the_limit_is_overloaded_and_does_not_hang(autojump_clock, max_calls, depth, who):
    pair = Pair()
    limits = trpc.Limits(max_calls=max_calls)
    options = {"limits": limits} if who == "server" else {"client_limits": limits}
    async with pair.connected(**options) as client:
        with trio.fail_after(100):
            assert await client.call("Server.bounce", 1) == 1
            if depth > 2 * max_calls:
                with raises_at_the_other_end("Overloaded"):
                    await client.call("Server.bounce", depth)
            else:
                assert await client.call("Server.bounce", depth) == depth
            # And from many at once.
            async with trio.open_nursery() as nursery:
                outcomes = {}
                for key in range(10):
                    start_call(nursery, outcomes, key, client.call, "Server.bounce", 4)
            assert {getattr(outcome, "type_name", outcome) for outcome in outcomes.values()} <= {4, "Overloaded"}
            assert await client.call("Server.bounce", 1) == 1


async def test_outside_of_handlers_calls_to_the_client_wait_for_their_turn(autojump_clock):
    pair = Pair()
    async with pair.connected(client_limits=trpc.Limits(max_calls=2)) as client:
        await client.call("Server.keep")
        (kept,) = pair.at_server.clients
        outcomes = {}
        async with trio.open_nursery() as nursery:
            for key in range(5):
                start_call(nursery, outcomes, key, kept.call, "Client.bounce", 0, 1)
            await trio.sleep(1.5)
            assert len(outcomes) == 2
        assert outcomes == dict.fromkeys(range(5), 0)
        assert trio.current_time() == pytest.approx(3)


# --- the client of a handler, and who has none ---


async def test_the_client_of_a_call_is_kept_and_used_later():
    pair = Pair()
    async with pair.connected() as client:
        await client.call("Server.keep")
        await client.call("Server.keep")
        kept, again = pair.at_server.clients
        assert kept is again
        assert await kept.call("Client.echo", 1) == 1
        assert await kept.call("Client.bounce", 5) == 5
        assert await kept.ping() >= 0
        await kept.notify("Client.echo", 1)
        async with kept.stream("Client.bounce_stream", 1) as items:
            assert [item async for item in items] == [1, 2, 3, 4, 5]
        assert await client.call("Server.echo", 2) == 2
    with pytest.raises(trpc.ConnectionLost) as error:
        await kept.call("Client.echo", 1)
    assert not error.value.maybe_executed
    with pytest.raises(trpc.ConnectionLost):
        async with kept.stream("Client.bounce_stream", 1):
            pass
    with pytest.raises(trpc.ConnectionLost):
        await kept.ping()


async def test_a_client_that_serves_nothing():
    class Back:
        @trpc.method
        async def back(self, method: str) -> object:
            return await trpc.current_call().client.call(method)

        @trpc.method
        async def back_stream(self, method: str) -> list:
            async with trpc.current_call().client.stream(method) as items:
                return [item async for item in items]

    async with connected(Back()) as (client, _):
        for method in ("Client.echo", "Back.back", "", "x"):
            for back in ("Back.back", "Back.back_stream"):
                with raises_at_the_other_end("MethodNotFound") as error:
                    await client.call(back, method)
                assert f"there is no method '{method}'" in error.value.message


async def test_only_what_is_marked_is_served_to_the_server():
    class Own:
        @trpc.method
        def shown(self) -> int:
            return 1

        def hidden(self) -> int:
            return 2

    class Back:
        @trpc.method
        async def back(self, method: str) -> object:
            return await trpc.current_call().client.call(method)

    async with connected(Back(), service=[Own()]) as (client, _):
        assert await client.call("Back.back", "Own.shown") == 1
        for name in ("hidden", "__init__", "_x", "shown.__call__"):
            with raises_at_the_other_end("MethodNotFound"):
                await client.call("Back.back", f"Own.{name}")


@pytest.mark.parametrize("service", [int, object(), [], {"": Both("x")}])
async def test_a_service_that_cannot_be_served(service):
    ours, theirs = trio.testing.memory_stream_pair()
    with pytest.raises((TypeError, ValueError)):
        async with trpc.connect_stream(ours, service=service):
            pass
    await ours.aclose()
    await theirs.aclose()


async def test_several_services_of_a_client():
    class One:
        @trpc.method
        def name(self) -> str:
            return "one"

    class Two:
        @trpc.method
        def name(self) -> str:
            return "two"

    class Back:
        @trpc.method
        async def names(self) -> list[str]:
            client = trpc.current_call().client
            return [await client.proxy(One).name(), await client.proxy("Two").name()]

    async with connected(Back(), service=[One(), Two()]) as (client, _):
        assert await client.proxy(Back).names() == ["one", "two"]


async def test_the_peer_that_a_client_sees():
    peers = []

    class Own:
        @trpc.method
        def who(self) -> None:
            peers.append(trpc.current_call().peer)

    class Back:
        @trpc.method
        async def back(self) -> None:
            client = trpc.current_call().client
            peers.append(client.peer)
            assert client.peer is trpc.current_call().peer
            await client.call("Own.who")

    async with connected(Back(), service=Own()) as (client, _):
        await client.call("Back.back")
        assert peers[1] is client.peer


# --- the end ---


async def test_a_handler_that_calls_back_is_cancelled_when_the_connection_is_lost(autojump_clock):
    served = Both("Client")
    async with raw_client_of({"Server": served}) as peer:
        peer.hello = type(peer.hello)(2**20, 100, 64, ("streams",), 1000)
        await peer.open()
        await peer.send_request(1, "Server.bounce", 1)
        await peer.send_request(2, "Server.bounce_stream", 1)
        assert (await peer.receive()).kind == Kind.REQUEST
        assert (await peer.receive()).kind == Kind.REQUEST
        start = trio.current_time()
        await peer.stream.aclose()
        await settle()
        assert served.running == 0
        assert trio.current_time() == start
    # By the cancel, or by what the call back raises: both are there.
    assert {end for _, end in served.ended} <= {"Cancelled", "ConnectionLost"}


@pytest.mark.parametrize("method", ["bounce", "bounce_stream"])
@pytest.mark.parametrize("depth", [0, 1, 2, 7])
async def test_a_server_that_is_cancelled_ends_although_its_handlers_call_back(autojump_clock, method, depth):
    at_server, at_client = Both("Client"), Both("Server")
    at_client.event = at_server.event
    outcomes = {}
    ours, theirs = trio.testing.memory_stream_pair()
    async with trio.open_nursery() as clients:
        async with trio.open_nursery() as servers:

            async def serve(task_status):
                await trpc.serve_stream({"Server": at_server}, theirs, task_status=task_status)

            async def use(client):
                if method == "bounce":
                    await client.call("Server.bounce", depth, math.inf)
                else:
                    async with client.stream("Server.bounce_stream", depth):
                        await trio.sleep_forever()

            async def connect():
                async with trpc.connect_stream(ours, service={"Client": at_client}) as client:
                    with contextlib.suppress(trpc.RPCError), trio.move_on_after(10):
                        await use(client)
                    outcomes["client"] = trio.current_time()

            await servers.start(serve)
            clients.start_soon(connect)
            await trio.sleep(1)
            servers.cancel_scope.cancel()
        assert trio.current_time() < 5, "within the grace and the time to write what is left"
        assert at_server.running == 0
    assert at_client.running == 0
    assert "client" in outcomes


async def test_a_client_that_is_closed_ends_its_handlers(autojump_clock):
    at_server, at_client = Both("Client"), Both("Server")
    outcomes = {}
    async with trio.open_nursery() as nursery:
        async with connected({"Server": at_server}, service={"Client": at_client}) as (client, _):
            start_call(nursery, outcomes, "call", client.call, "Server.bounce", 5, math.inf)
            await trio.sleep(1)
            assert at_client.running == at_server.running == 3
        assert at_client.running == at_server.running == 0
    assert isinstance(outcomes["call"], trio.ClosedResourceError)
