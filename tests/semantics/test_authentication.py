"""Who may connect and what it may call: what callers, handlers and the log see of it."""

from __future__ import annotations

import gc
import logging
import re

import pytest
import trio
import trio.testing
from support import RawPeer, connected, raw_client_of, settle

import trpc
from trpc import _codec, _messages
from trpc._messages import Kind

TOKEN = "a-secret-that-nobody-sees"  # noqa: S105


class Service:
    def __init__(self):
        self.calls = []

    @trpc.method
    def who(self) -> str:
        self.calls.append("who")
        return repr(trpc.current_call().peer.identity)

    @trpc.method
    async def wait(self) -> None:
        self.calls.append("wait")
        await trio.sleep_forever()

    @trpc.method
    async def count(self, n: int):
        for i in range(n):
            yield i


def by_token(credentials):
    return "ann" if credentials.has_token(TOKEN) else None


async def by_token_slowly(credentials):
    await trio.sleep(1)
    return by_token(credentials)


def assert_secret(caplog, *objects):
    """The token is in no record and no repr."""
    for record in caplog.get_records("call"):
        assert TOKEN not in record.getMessage()
        assert TOKEN not in caplog.handler.format(record)
    for item in objects:
        assert TOKEN not in f"{item!r}{item}"


@pytest.mark.parametrize("authenticate", [by_token, by_token_slowly])
async def test_who_has_the_token_is_let_in(authenticate, autojump_clock, caplog):
    caplog.set_level(logging.DEBUG)
    async with connected(Service(), serve={"authenticate": authenticate}, token=TOKEN) as (client, server):
        assert await client.call("Service.who") == "'ann'"
        async with client.stream("Service.count", 3) as numbers:
            assert [number async for number in numbers] == [0, 1, 2]
        (info,) = server.connections
        assert info.peer.identity == "ann"
        assert_secret(caplog, client, client.peer, server, info)
        assert not [item for item in gc.get_objects() if isinstance(item, _messages.Hello) and item.token]


@pytest.mark.parametrize("authenticate", [by_token, by_token_slowly])
@pytest.mark.parametrize("token", [None, "wrong", TOKEN + "x", TOKEN[:-1], "ü€"])
async def test_who_has_not_is_refused(authenticate, token, transport, autojump_clock, caplog):
    caplog.set_level(logging.DEBUG)
    service = Service()
    async with connected(service, serve={"authenticate": authenticate}, token=token) as (client, server):
        # A Unix socket shows some by itself.
        message = "accept the credentials" if token or transport == "socket" else "asks for credentials"
        # The first call is on its way when it is refused, and the others hear of it later.
        for _ in range(3):
            with pytest.raises(trpc.Unauthenticated, match=message):
                await client.call("Service.who")
        await trio.sleep(5)
        with pytest.raises(trpc.Unauthenticated, match=message):
            await client.call("Service.who")
        with pytest.raises(trpc.Unauthenticated, match=message):
            await client.notify("Service.who")
        assert server.connections == ()
    assert service.calls == []
    assert [record.levelname for record in caplog.records if "is refused" in record.getMessage()] == ["WARNING"]
    if token:
        assert token not in caplog.text
    assert_secret(caplog)


@pytest.mark.parametrize("identity", [0, "", (), True, {"name": "ann"}])
async def test_anything_but_none_and_false_is_an_identity(identity):
    async with connected(Service(), serve={"authenticate": lambda _: identity}) as (client, server):
        assert await client.call("Service.who") == repr(identity)
        assert server.connections[0].peer.identity is identity


@pytest.mark.parametrize("refuse", [None, False])
async def test_none_and_false_refuse(refuse):
    async with connected(Service(), serve={"authenticate": lambda _: refuse}, token=TOKEN) as (client, _):
        with pytest.raises(trpc.Unauthenticated):
            await client.call("Service.who")


async def test_the_reason_is_told():
    def authenticate(_):
        raise trpc.Unauthenticated("the subscription has ended")

    async with connected(Service(), serve={"authenticate": authenticate}) as (client, _):
        with pytest.raises(trpc.Unauthenticated, match="^the subscription has ended$"):
            await client.call("Service.who")


async def test_without_authentication_a_token_is_ignored(caplog):
    async with connected(Service(), token=TOKEN) as (client, _):
        assert await client.call("Service.who") == "None"
    assert_secret(caplog)


@pytest.mark.parametrize("token", [TOKEN, "a'b\\c\n"])
async def test_an_error_in_authenticate_refuses_and_is_logged_without_the_token(token, caplog):
    def authenticate(credentials):
        return {}[credentials.token]

    async with connected(Service(), serve={"authenticate": authenticate}, token=token) as (client, _):
        with pytest.raises(trpc.Unauthenticated) as caught:
            await client.call("Service.who")
    assert str(caught.value) == "the server does not accept the credentials"
    (text,) = (record.getMessage() for record in caplog.records if record.levelname == "ERROR")
    assert re.search("KeyError: ['\"]<the token>['\"]$", text)
    assert "in authenticate" in text
    assert_secret(caplog)


@pytest.mark.parametrize(
    ("token", "raised", "logged"),
    [
        ("secret", "user_secrets", "user_<the token>s"),
        # A short one is in words that have nothing to do with it, too. They are harder to read; it is not there.
        ("x", "x is not expected", "'<the token> is not e<the token>pected'"),
    ],
)
async def test_a_token_is_left_out_of_the_log_wherever_it_is(token, raised, logged, caplog):
    def authenticate(_):
        raise ValueError(repr(raised))

    async with connected(Service(), serve={"authenticate": authenticate}, token=token) as (client, _):
        with pytest.raises(trpc.Unauthenticated):
            await client.call("Service.who")
    (text,) = (record.getMessage() for record in caplog.records if record.levelname == "ERROR")
    assert logged in text
    assert "Traceback (most recent call last)" in text


async def test_an_error_without_a_token(caplog):
    async with connected(Service(), serve={"authenticate": lambda _: 1 / 0}) as (client, _):
        with pytest.raises(trpc.Unauthenticated):
            await client.call("Service.who")
    assert "ZeroDivisionError" in caplog.text


async def test_authentication_that_takes_too_long(autojump_clock):
    async def authenticate(_):
        await trio.sleep_forever()

    limits = trpc.Limits(hello_timeout=3)
    async with connected(Service(), serve={"authenticate": authenticate, "limits": limits}) as (client, _):
        with pytest.raises(trpc.Unauthenticated, match=r"has not checked the credentials within 3 s"):
            await client.call("Service.who")


async def test_nothing_runs_before_it_has_said_yes(autojump_clock):
    service = Service()
    gate = trio.Event()

    async def authenticate(_):
        await gate.wait()
        return "ann"

    async with raw_client_of(service, authenticate=authenticate) as peer:
        await peer.open()
        for call_id in (1, 2, 3):
            await peer.send_request(call_id, "Service.who")
        await peer.send(Kind.PING, 1)
        await settle()
        assert service.calls == []
        gate.set()
        kinds = [(await peer.receive()).kind for _ in range(4)]
        assert sorted(kinds) == sorted([Kind.RESULT] * 3 + [Kind.PONG])
        assert service.calls == ["who"] * 3


async def test_what_is_said_to_who_is_refused(autojump_clock):
    service = Service()
    async with raw_client_of(service, authenticate=lambda _: None) as peer:
        await peer.open()
        for call_id in (1, 2, 3):
            await peer.send_request(call_id, "Service.who")
        frame = await peer.receive()
        assert (frame.kind, frame.id) == (Kind.GOAWAY, 0)
        assert _codec.unpack(frame.body, max_depth=4)["code"] == 7
        assert await peer.receive() is None
    assert service.calls == []


async def test_a_drain_while_it_is_authenticated(autojump_clock):
    async with connected(Service(), serve={"authenticate": by_token_slowly}, token=TOKEN) as (client, server):
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def call():
                # It had arrived before the server began to stop.
                assert await client.call("Service.who") == "'ann'"

            await settle()
            await server.drain()
        with pytest.raises(trpc.Unavailable):
            await client.call("Service.who")


async def test_a_drain_of_who_is_refused(autojump_clock):
    async with connected(Service(), serve={"authenticate": by_token_slowly}, token="wrong") as (client, server):
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def call():
                with pytest.raises(trpc.Unauthenticated):
                    await client.call("Service.who")

            await settle()
            await server.drain()


@pytest.mark.parametrize("how", ["drain", "cancel", "close"])
async def test_the_end_while_it_is_authenticated(how, autojump_clock):
    ended = []

    async def authenticate(_):
        try:
            await trio.sleep_forever()
        finally:
            ended.append(True)

    ours, theirs = trio.testing.memory_stream_pair()
    async with trio.open_nursery() as nursery:
        scope = trio.CancelScope()
        server = None

        async def serve(task_status):
            with scope:
                await trpc.serve_stream(Service(), theirs, authenticate=authenticate, task_status=task_status)

        server = await nursery.start(serve)
        peer = RawPeer(ours)
        await peer.open()
        await settle()
        if how == "drain":
            await server.drain(0)
        elif how == "cancel":
            scope.cancel()
        else:
            await ours.aclose()
    assert ended == [True]


async def test_an_interrupt_in_authenticate_ends_the_server():
    def authenticate(_):
        raise KeyboardInterrupt

    ours, theirs = trio.testing.memory_stream_pair()
    with pytest.raises(BaseExceptionGroup) as caught:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: trpc.serve_stream(Service(), theirs, authenticate=authenticate))
            await RawPeer(ours).open()
    assert caught.group_contains(KeyboardInterrupt)


# --- what it may call ---


def only_who(peer, method):
    return peer.identity == "ann" and method in {"Service.who", "Service.missing"}


async def test_what_it_may_call(caplog):
    service = Service()
    serve = {"authenticate": by_token, "authorize": only_who}
    async with connected(service, serve=serve, token=TOKEN) as (client, _):
        assert await client.call("Service.who") == "'ann'"
        with pytest.raises(trpc.Unauthenticated, match=r"^this client may not call 'Service.wait'$"):
            await client.call("Service.wait")
        with pytest.raises(trpc.Unauthenticated, match="may not call 'Service.count'"):
            async with client.stream("Service.count", 3) as numbers:
                await numbers.receive()
        await client.notify("Service.wait")
        # Whether there is such a method is told to nobody else.
        with pytest.raises(trpc.Unauthenticated, match="may not call 'Service.nothing'"):
            await client.call("Service.nothing")
        with pytest.raises(trpc.MethodNotFound):
            await client.call("Service.missing")
        assert await client.call("Service.who") == "'ann'"
    assert service.calls == ["who", "who"]
    # Who tries is to be seen, and what.
    refused = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert [message.rpartition("may not call ")[2].strip("'\"") for message in refused] == [
        "Service.wait",
        "Service.count",
        "Service.wait",
        "Service.nothing",
    ]


async def not_awaited(_peer, _method):
    return True


@pytest.mark.parametrize(
    ("authorize", "logged"),
    [
        (lambda peer, method: {}[method], "KeyError"),
        (lambda peer, method: None, "returned NoneType"),
        (lambda peer, method: 1, "returned int"),
        (lambda peer, method: not_awaited(peer, method), "returned coroutine"),
    ],
)
async def test_an_answer_that_is_none_is_a_no(authorize, logged, caplog):
    service = Service()
    async with connected(service, serve={"authorize": authorize}) as (client, _):
        with pytest.raises(trpc.Unauthenticated, match="may not call"):
            await client.call("Service.who")
        # The connection is as good as before.
        with pytest.raises(trpc.Unauthenticated, match="may not call"):
            await client.call("Service.who")
    assert service.calls == []
    assert logged in caplog.text


async def test_refused_calls_count_as_such(autojump_clock):
    limits = trpc.Limits(control_burst=5, control_rate=1)
    async with connected(Service(), serve={"authorize": lambda *_: False, "limits": limits}) as (client, _):
        with pytest.raises((trpc.Unavailable, trpc.ConnectionLost)):
            for _ in range(10):
                with pytest.raises(trpc.Unauthenticated):
                    await client.call("Service.who")


# --- mistakes ---


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"authenticate": "secret"}, "authenticate is a function, not 'secret'"),
        ({"authorize": ["x"]}, "authorize is a function"),
        ({"authorize": not_awaited}, "authorize is a plain function"),
    ],
)
async def test_functions_that_are_none(options, match):
    with pytest.raises(TypeError, match=match):
        await trpc.serve_tcp(Service(), 0, **options)


@pytest.mark.parametrize(
    ("token", "error", "match"),
    [
        ("", ValueError, "the token is empty"),
        (b"secret", TypeError, "a token is a str, not bytes"),
        ("s\udc80ecret", ValueError, "no Unicode"),
        ("secret" * 3000, ValueError, r"the token is too long: .* of 16384"),
    ],
)
def test_tokens_that_cannot_be_sent(token, error, match):
    with pytest.raises(error, match=match) as caught:
        trpc.connect("tcp://127.0.0.1:1", token=token)
    assert "secret" not in str(caught.value)


async def test_the_longest_token():
    def authenticate(credentials):
        return len(credentials.token)

    async with connected(Service(), serve={"authenticate": authenticate}, token="x" * 16_000) as (client, _):
        assert await client.call("Service.who") == "16000"
