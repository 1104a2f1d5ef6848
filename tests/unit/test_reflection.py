"""The service by which a server describes itself: who has it, who may call it, and what it says."""

from __future__ import annotations

import dataclasses
import math
import os

import pytest
import trio
import trio.testing
from certificates import client_context, server_context
from support import connected, settle, start_call

import trpc
from trpc import _reflection
from trpc._incoming_call import IncomingCall
from trpc._service import table_of
from trpc.testing import Link, serving


class Worker:
    """Works."""

    @trpc.method
    async def work(self) -> None:
        await trio.sleep_forever()

    @trpc.method
    async def stubborn(self) -> None:
        with trio.CancelScope(shield=True):
            await trio.sleep(100)

    @trpc.method
    async def quick(self, x: int) -> int:
        return x


class Other:
    @trpc.method
    async def secret(self) -> None:
        """Not for all."""


async def names_of(client):
    services = await client.proxy(trpc.Reflection).services()
    return [f"{service['name']}.{method['name']}" for service in services for method in service["methods"]]


ALL = ["Worker.work", "Worker.stubborn", "Worker.quick"]


async def has(url, method, **options):
    async with trpc.connect(url, **options) as client:
        try:
            await client.call(method)
        except trpc.MethodNotFound:
            return False
        return True


async def what_it_has(url, **options):
    return [await has(url, method, **options) for method in ("trpc.services", "trpc.activity")]


# --- which servers describe themselves ---


async def test_on_the_loopback_and_on_unix_sockets_it_is_there(nursery, tmp_path_factory):
    path = tmp_path_factory.mktemp("s") / "s"
    for server in (
        await nursery.start(trpc.serve_tcp, Worker(), 0),
        await nursery.start(trpc.serve_unix, Worker(), path),
        await nursery.start(trpc.serve_listeners, Worker(), await trio.open_tcp_listeners(0, host="127.0.0.1")),
    ):
        assert await what_it_has(server.url) == [True, True]


async def test_with_tls_too(nursery):
    async def serve(task_status):
        await trpc.serve_tcp(Worker(), 0, ssl_context=server_context(), task_status=task_status)

    server = await nursery.start(serve)
    assert await what_it_has(server.url, ssl_context=client_context()) == [True, True]


async def serve_all(nursery, *, listeners=None, **options):
    """A server that others could reach, at an address at which this machine does."""
    listeners = listeners or await trio.open_tcp_listeners(0, host="0.0.0.0")

    async def serve(task_status):
        await trpc.serve_listeners(Worker(), listeners, allow_insecure=True, task_status=task_status, **options)

    server = await nursery.start(serve)
    return server.url.replace("0.0.0.0", "127.0.0.1")


async def test_where_others_can_reach_it_there_is_none(nursery):
    assert await what_it_has(await serve_all(nursery)) == [False, False]


async def test_one_listener_that_others_can_reach_is_enough(nursery):
    local, public = [await trio.open_tcp_listeners(0, host=host) for host in ("127.0.0.1", "0.0.0.0")]
    assert await what_it_has(await serve_all(nursery, listeners=[*local, *public])) == [False, False]


async def test_there_it_is_by_choice_and_activity_only_for_those_who_are_allowed(nursery):
    assert await what_it_has(await serve_all(nursery, reflection=True)) == [True, False]
    url = await serve_all(nursery, reflection=True, authorize=lambda peer, method: True)
    assert await what_it_has(url) == [True, True]


@pytest.mark.parametrize(("host", "expected"), [("::1", True), ("::", False)])
async def test_on_ipv6(nursery, host, expected):
    try:
        listeners = await trio.open_tcp_listeners(0, host=host)
    except OSError:
        pytest.skip("no IPv6 here")
    url = await serve_all(nursery, listeners=listeners)
    assert await has(url.replace("[::]", "[::1]"), "trpc.services") is expected


class Foreign:
    """A listening socket of a family that is not known here, as those between virtual machines are."""

    family = 40

    def __init__(self, real):
        self._real = real
        self.accept, self.close = real.accept, real.close

    def getsockname(self):
        return (2**32 - 1, self._real.getsockname()[1])


async def test_sockets_of_other_families_are_served_and_nothing_is_said_of_them(nursery):
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listener.socket.getsockname()[1]
    listener.socket = Foreign(listener.socket)
    await serve_all(nursery, listeners=[listener])
    assert await what_it_has(f"tcp://127.0.0.1:{port}") == [False, False]


async def test_it_can_be_turned_off(nursery):
    async def serve(task_status):
        await trpc.serve_tcp(Worker(), 0, reflection=False, task_status=task_status)

    server = await nursery.start(serve)
    assert await what_it_has(server.url) == [False, False]


@pytest.mark.parametrize("reflection, expected", [(None, False), (True, True)])
async def test_over_other_streams_it_is_by_choice(reflection, expected):
    async with connected(Worker(), serve={"reflection": reflection}) as (client, _):
        if expected:
            assert await names_of(client) == ALL
        else:
            with pytest.raises(trpc.MethodNotFound):
                await names_of(client)


async def test_over_a_socket_of_this_machine_it_is_there():
    ours, theirs = trio.socket.socketpair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trpc.serve_stream, Worker(), trio.SocketStream(theirs))
        async with trpc.connect_stream(trio.SocketStream(ours)) as client:
            assert await names_of(client) == ALL


# --- its name ---


@pytest.mark.parametrize("reflection", [None, False])
@pytest.mark.parametrize("name", ["trpc", "trpc.more"])
async def test_the_name_is_taken(name, reflection):
    with pytest.raises(
        ValueError, match=f"the name '{name}' is kept for the service by which a server describes itself"
    ):
        await trpc.serve_tcp({name: Worker()}, 0, reflection=reflection)


@pytest.mark.parametrize("reflection", ["off", 1, "activity"])
async def test_an_option_that_is_neither_on_nor_off(reflection):
    with pytest.raises(TypeError, match="reflection is True, False or None, not"):
        await trpc.serve_tcp(Worker(), 0, reflection=reflection)


async def test_it_is_not_among_what_it_describes(nursery):
    server = await nursery.start(trpc.serve_tcp, [Worker(), Other()], 0)
    async with trpc.connect(server.url) as client:
        assert await names_of(client) == [*ALL, "Other.secret"]


# --- who may ---


async def test_of_methods_that_a_client_may_not_call_it_says_nothing():
    allowed = {"trpc.services", "Worker.quick"}
    options = {"reflection": True, "authorize": lambda peer, method: method in allowed}
    async with connected([Worker(), Other()], serve=options) as (client, _):
        assert await names_of(client) == ["Worker.quick"]
        with pytest.raises(trpc.Unauthenticated):
            await client.proxy(trpc.Reflection).activity()
        allowed.add("Other.secret")
        assert await names_of(client) == ["Worker.quick", "Other.secret"]
        allowed.remove("trpc.services")
        with pytest.raises(trpc.Unauthenticated):
            await names_of(client)


async def test_classes_are_named_alike_for_all_and_shown_to_those_who_may_call_what_needs_them():
    one, other, inner = (dataclasses.make_dataclass("Item", [("x", kind)]) for kind in (int, str, bytes))
    outer = dataclasses.make_dataclass("Outer", [("items", list[inner])])

    class Typed:
        @trpc.method
        async def first(self, item: one) -> None: ...

        @trpc.method
        async def second(self) -> other | None: ...

        @trpc.method
        async def third(self, item: outer) -> None: ...

    # As if they were written in the class itself, where hints are no text.
    for name, hints in {"first": {"item": one}, "second": {"return": other | None}, "third": {"item": outer}}.items():
        vars(Typed)[name].__annotations__.update(hints)
    allowed = {"trpc.services", "Typed.second"}
    options = {"reflection": True, "authorize": lambda peer, method: method in allowed}
    async with connected(Typed(), serve=options) as (client, _):
        for more, expected in [("Typed.second", ["Item_2"]), ("Typed.third", ["Item_2", "Outer", "Item_3"])]:
            allowed.add(more)
            (typed,) = await client.call("trpc.services")
            assert [info["name"] for info in typed["types"]] == expected


async def test_what_an_interceptor_does_to_an_answer_is_done_to_that_one():
    seen = []

    async def poison(call, proceed):
        services = await proceed(call)
        seen.append([method["name"] for method in services[0]["methods"]])
        for method in services[0]["methods"]:
            method["parameters"].append("poison")
        services[0]["methods"].clear()
        return services

    async with connected(Worker(), serve={"reflection": True, "interceptors": [poison]}) as (client, _):
        await names_of(client)
        await names_of(client)
    assert seen[0] == seen[1] == ["work", "stubborn", "quick"]


async def test_errors_name_it_as_callers_know_it():
    async with connected(Worker(), serve=LOCAL) as (client, _):
        with pytest.raises(trpc.InvalidArguments, match="^Reflection.activity: argument 'most': Expected `int`"):
            await client.call("trpc.activity", "all")


async def test_its_methods_go_through_the_interceptors():
    seen = []

    async def note(call, proceed):
        seen.append(call.method)
        return await proceed(call)

    async with connected(Worker(), serve={"reflection": True, "interceptors": [note]}) as (client, _):
        await names_of(client)
    assert seen == ["trpc.services"]


# --- what goes on ---

LOCAL = {"reflection": True, "authorize": lambda peer, method: True}


async def test_activity(autojump_clock):
    async with connected(Worker(), serve=LOCAL) as (client, server):
        outcomes = {}
        async with trio.open_nursery() as nursery:
            start_call(nursery, outcomes, "work", client.call, "Worker.work")
            await settle()
            await trio.sleep(2)

            async def stubborn():
                with trio.move_on_after(10):
                    await client.call("Worker.stubborn")

            nursery.start_soon(stubborn)
            await settle()
            await trio.sleep(3)
            reflection = client.proxy(trpc.Reflection)
            activity = await reflection.activity()
            assert activity == {
                "version": trpc.__version__,
                "pid": os.getpid(),
                "age": pytest.approx(5),
                "connections": 1,
                "calls": 2,
                "busiest": [
                    {
                        "peer": "MemoryStream",
                        "pid": None,
                        "age": pytest.approx(5),
                        "in_flight": 2,
                        "calls": [
                            {"method": "Worker.work", "age": pytest.approx(5), "time_left": None, "state": "running"},
                            {
                                "method": "Worker.stubborn",
                                "age": pytest.approx(3),
                                "time_left": pytest.approx(7),
                                "state": "running",
                            },
                        ],
                    }
                ],
            }
            await trio.sleep(20)
            ((_, late),) = [connection["calls"] for connection in (await reflection.activity())["busiest"]]
            assert late["state"] == "cancelling"
            assert late["time_left"] == pytest.approx(-13)
            assert [call.state for call in server.calls if call.method == "Worker.stubborn"] == ["cancelling"]
            nursery.cancel_scope.cancel()


def test_a_call_that_has_not_begun_waits():
    class Owner:
        peer = trpc.Peer("script")

    method = table_of(Worker())["Worker.work"]
    call = IncomingCall(Owner(), 1, method, None, started=2.0, one_way=False, size=3)
    assert call.info == trpc.CallInfo("Worker.work", Owner.peer, 2.0, math.inf, "waiting")


class Asking(Worker):
    @trpc.method
    async def large(self) -> bytes:
        return bytes(100_000)

    @trpc.method
    async def ask(self) -> None:
        await trpc.current_call().client.call("Worker.work")


async def test_a_call_that_waits_as_its_caller_does_not_read():
    link = Link()
    async with (
        serving(Asking(), limits=trpc.Limits(max_unsent=1000)) as memory,
        memory.connect(link=link, service=Worker()) as client,
        trio.open_nursery() as nursery,
    ):
        # As the server waits for an answer, it goes on reading.
        nursery.start_soon(client.call, "Worker.ask")
        await settle()
        link.back.stall()
        nursery.start_soon(client.call, "Worker.large")
        await settle()
        nursery.start_soon(client.call, "Worker.quick", 1)
        await settle()
        states = {call.method: call.state for call in memory.server.calls}
        assert states == {"Worker.ask": "running", "Worker.quick": "waiting"}
        link.heal()
        await settle()
        assert [call.method for call in memory.server.calls] == ["Worker.ask"]
        nursery.cancel_scope.cancel()


async def test_the_oldest_calls_come_first_and_no_more_than_wanted(nursery, monkeypatch):
    monkeypatch.setattr(_reflection, "_MAX_CALLS", 2)
    server = await nursery.start(trpc.serve_tcp, Worker(), 0)
    async with (
        trpc.connect(server.url) as idle,
        trpc.connect(server.url) as young,
        trpc.connect(server.url) as old,
    ):
        await idle.ping()
        for client, number in ((old, 3), (young, 1)):
            for _ in range(number):
                nursery.start_soon(client.call, "Worker.work")
            await until(lambda expected=3 if client is old else 4: len(server.calls) == expected)
        reflection = idle.proxy(trpc.Reflection)
        activity = await reflection.activity()
        assert (activity["connections"], activity["calls"]) == (3, 4)
        assert [(c["in_flight"], len(c["calls"])) for c in activity["busiest"]] == [(3, 2), (1, 1), (0, 0)]
        assert [c["in_flight"] for c in (await reflection.activity(most=1))["busiest"]] == [3]
        for most in (0, -1):
            assert (await reflection.activity(most=most))["busiest"] == []
        assert len((await reflection.activity(most=10**9))["busiest"]) == 3
        nursery.cancel_scope.cancel()


async def until(condition):
    """Over sockets: lets the other side go on until it is so."""
    with trio.fail_after(30):
        while not condition():
            await trio.testing.wait_all_tasks_blocked(0.001)


async def test_processes_at_the_other_end_of_unix_sockets(nursery, tmp_path_factory):
    server = await nursery.start(trpc.serve_unix, Worker(), tmp_path_factory.mktemp("s") / "s")
    async with trpc.connect(server.url) as client:
        (connection,) = (await client.proxy(trpc.Reflection).activity())["busiest"]
        assert connection["pid"] == (os.getpid() if os.uname().sysname == "Linux" else None)


async def test_the_interface_is_none_to_serve():
    with pytest.raises(ValueError, match="the name 'trpc'"):
        await trpc.serve_tcp(trpc.Reflection(), 0)
    for call in (trpc.Reflection().services(), trpc.Reflection().activity()):
        with pytest.raises(NotImplementedError):
            await call
