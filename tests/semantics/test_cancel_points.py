"""A cancel after each step of a session that drains, pings, authenticates or has cancels wait for their turn.

Whoever is cancelled, and whenever: nothing hangs, nothing is left on either side, no handler runs twice, and each call
ends once, and with what may have happened to it. ``TRPC_EVERY_STEP=1`` has each of the events happen after each step, and
not one of them in turns.
"""

from __future__ import annotations

import functools

import pytest
import trio
import trio.testing
from certificates import client_context, server_context
from semantics.points import Scene, Service, run_at_every_step
from support import RawPeer, joined, settle

import trpc
from trpc._frames import encode_frame
from trpc._messages import Kind, encode_request
from trpc.testing import Faults, Link

TOKEN = "secret"  # noqa: S105


# --- the soft stop of a server ---


async def at_work(scene, client, name):
    """Calls and streams that take half a second, and a call that comes later."""

    async def down(key):
        async with client.stream("Service.numbers", key, 5) as numbers:
            assert [number async for number in numbers] == [0, 1, 2, 3, 4]
        return key

    async def up(key):
        async def numbers():
            for number in range(3):
                yield number
                await trio.sleep(0.1)

        return await client.call("Service.total", key, numbers())

    async with trio.open_nursery() as nursery:

        def start(kind, function, *args):
            nursery.start_soon(scene.call, f"{name} {kind}", function, *args)

        start("quick", client.call, "Service.wait", f"{name} quick", 0.01)
        start("slow", client.call, "Service.wait", f"{name} slow", 0.5, 0.05)
        start("back", client.call, "Service.back", f"{name} back", 2)
        start("down", down, f"{name} down")
        start("up", up, f"{name} up")
        await trio.sleep(0.2)
        await scene.call(f"{name} late", client.call, "Service.plain", f"{name} late")


async def drained(scene, grace, clients=("client", "other"), *, client_options=None, **options):
    """A server is drained while its clients are at work."""

    async def drain():
        await scene.listens.wait()
        await trio.sleep(0.15)
        if scene.server is None:
            return
        with scene.scope("drain"):
            await scene.server.drain(grace)
        # Who drains may be cancelled, and may begin again.
        await scene.server.drain(grace)
        await scene.stopped.wait()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: scene.serve(**options))
        nursery.start_soon(drain)
        for name in clients:
            play = functools.partial(at_work, name=name)
            nursery.start_soon(lambda play=play, name=name: scene.client(play, name, **(client_options or {})))
    for name in clients:
        if not scene.has_happened("server", name):
            check_drained(scene, name, grace)


def check_drained(scene, name, grace):
    """A client that nothing has happened to."""
    seen = {kind: scene.outcomes[f"{name} {kind}"] for kind in ("quick", "slow", "back", "down", "up", "late")}
    assert isinstance(seen.pop("late"), trpc.Unavailable)
    for kind, outcome in seen.items():
        is_lost = isinstance(outcome, trpc.ConnectionLost) and kind != "quick" and grace < 1
        assert is_lost or outcome == f"{name} {kind}"


async def drained_in_order(scene):
    await drained(scene, 60)


async def drained_with_short_grace(scene):
    await drained(scene, 0.1, ("client",))


async def drained_over_tls(scene):
    client_options = {"ssl_context": client_context(), "server_hostname": "localhost"}
    await drained(scene, 60, ("client",), client_options=client_options, ssl_context=server_context())


# A stride that is no multiple of three has each of the three happen everywhere in the session.
@pytest.mark.parametrize(
    ("session", "stride"),
    [(drained_in_order, 4), (drained_with_short_grace, 1), (drained_over_tls, 10)],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_a_server_is_drained(session, stride, transport):
    run_at_every_step(session, ["client", "drain", "server"], stride if transport == "memory" else 17)


# --- time limits ---

SHORT = trpc.Limits(
    keepalive_interval=0.5, keepalive_timeout=0.5, frame_timeout=0.5, write_timeout=0.5, idle_timeout=2, hello_timeout=1
)


async def alone(scene, play, *, link=None, client_options=None, **options):
    """A server with one client."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: scene.serve(**options))
        await scene.client(play, link=link, **(client_options or {}))
        await scene.listens.wait()
        scene.scopes["server"].cancel()


async def kept_alive(scene):
    """Pings of both sides cross calls and silences, until there has been no call for too long."""

    async def play(scene, client):
        await scene.call("first", client.call, "Service.wait", "first", 0.1)
        await trio.sleep(1.2)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(scene.call, "ping", client.ping)
            nursery.start_soon(scene.call, "long", client.call, "Service.wait", "long", 1.5)
        await trio.sleep(3)
        await scene.call("idle", client.call, "Service.plain", "idle")

    await alone(scene, play, client_options={"limits": SHORT}, limits=SHORT)
    if scene.happened is None:
        assert (scene.outcomes["first"], scene.outcomes["long"]) == ("first", "long")
        assert isinstance(scene.outcomes["ping"], float)
        assert isinstance(scene.outcomes["idle"], trpc.RPCError)


async def silent(scene, how):
    """One side, or both, hears nothing any more while calls are in flight."""

    link = Link(there=Faults(bandwidth=4000))

    async def play(scene, client):
        async with trio.open_nursery() as nursery:
            for key in ("a", "b"):
                nursery.start_soon(scene.call, key, client.call, "Service.wait", key, 100)
            nursery.start_soon(scene.call, "ping", client.ping)
            # It is on its way for a second, in fragments.
            nursery.start_soon(scene.call, "blob", client.call, "Service.blob", "blob", bytes(4000))
            await trio.sleep(0.25)
            {"up": link.there, "down": link.back, "both": link}[how].stall()
        await scene.call("late", client.call, "Service.plain", "late")

    await alone(scene, play, link=link, client_options={"limits": SHORT}, limits=SHORT)
    if scene.happened is None:
        assert all(isinstance(scene.outcomes[key], trpc.RPCError) for key in ("a", "b", "late"))


def test_pings_and_time_limits(transport):
    run_at_every_step(kept_alive, ["client", "server"], 1 if transport == "memory" else 11)


@pytest.mark.transports("memory", reason="over a line that it can stop")
@pytest.mark.parametrize("how", ["up", "down", "both"])
def test_a_silent_peer(how):
    session = functools.partial(silent, how=how)
    run_at_every_step(session, ["client", "server"])


# --- who a client is ---


async def authenticated(scene, token):
    """All kinds of calls on their way while the server finds out who it is; two of them are cancelled meanwhile."""

    async def authenticate(credentials):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep, 0.05)
            await trio.sleep(0.1)
        if credentials.token == "raises":  # noqa: S105
            raise trpc.Unauthenticated("not any more")
        if credentials.token == "late":  # noqa: S105
            await trio.sleep(100)
        return "ann" if credentials.has_token(TOKEN) else None

    async def down(client):
        async with client.stream("Service.numbers", "down", 5) as numbers:
            async for _ in numbers:
                pass
        return "down"

    async def cancelled(client, key, seconds):
        with trio.move_on_after(seconds):
            await scene.call(key, client.call, "Service.wait", key, 100)

    async def play(scene, client):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(scene.call, "plain", client.call, "Service.plain", "plain")
            nursery.start_soon(scene.call, "wait", client.call, "Service.wait", "wait", 0.1)
            nursery.start_soon(scene.call, "down", down, client)
            nursery.start_soon(scene.call, "ping", client.ping)
            nursery.start_soon(cancelled, client, "early", 0.02)
            nursery.start_soon(cancelled, client, "later", 0.2)
        await scene.call("last", client.call, "Service.plain", "last")

    options = {"cancel_grace": 0.5, "token": token}
    await alone(scene, play, client_options=options, limits=SHORT, authenticate=authenticate)
    if scene.happened is None:
        assert scene.outcomes["early"] == "cancelled"
        for key in ("plain", "wait", "down", "last"):
            outcome = scene.outcomes[key]
            assert outcome == key if token == TOKEN else isinstance(outcome, trpc.Unauthenticated)


@pytest.mark.parametrize("token", [TOKEN, "wrong", "raises", "late"])
def test_a_client_is_authenticated(token, transport):
    """It is accepted, or refused in different ways."""
    session = functools.partial(authenticated, token=token)
    run_at_every_step(session, ["client", "server"], 1 if transport == "memory" else 11)


# --- cancels that wait for their turn ---

FEW = trpc.Limits(control_burst=4, control_rate=4)


async def many_cancelled(scene, passes):
    """More cancels than the peer takes at once, on both sides, and pings behind them.

    They come so many passes of the event loop after their calls, when the connection may not have begun.
    """

    async def play(scene, client):
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                for n in range(5):
                    nursery.start_soon(scene.call, f"held {n}", client.call, "Service.wait", f"held {n}", 100)
                for _ in range(passes):
                    await trio.lowlevel.checkpoint()
                scope.cancel()
        async with trio.open_nursery() as nursery:
            for n in range(2):
                nursery.start_soon(scene.call, f"ping {n}", client.ping)
            nursery.start_soon(scene.call, "back", client.call, "Service.back", "back", 4)
        await scene.call("last", client.call, "Service.plain", "last")

    grace = passes % 2
    await alone(scene, play, client_options={"limits": FEW, "cancel_grace": grace}, limits=FEW)
    if scene.happened is None:
        assert [scene.outcomes[f"held {n}"] for n in range(5)] == ["cancelled"] * 5
        assert (scene.outcomes["back"], scene.outcomes["last"]) == ("back", "last")
        assert all(isinstance(scene.outcomes[f"ping {n}"], float) for n in range(2))


@pytest.mark.parametrize("passes", [0, 2, 3, 20])
def test_cancels_that_wait_for_their_turn(passes, transport):
    session = functools.partial(many_cancelled, passes=passes)
    run_at_every_step(session, ["client", "server"], 1 if transport == "memory" else 11)


# --- whoever does not heed a cancel ---


@pytest.mark.parametrize("order", [("wait", "shield"), ("shield", "wait")], ids=["last", "first"])
async def test_a_cancelled_server_is_gone_at_once_although_a_handler_shields_itself(autojump_clock, order):
    """Whichever of the connection's tasks that runs in."""
    scene, lost = Scene(), {}

    async def call(client, key):
        args = ("Service.wait", key, 100) if key == "wait" else ("Service.wait", key, 0.5, 100)
        lost[key] = (await scene.call(key, client.call, *args), trio.current_time())

    async def play(scene, client):
        async with trio.open_nursery() as nursery:
            for key in order:
                nursery.start_soon(call, client, key)
                await trio.sleep(0.1)
            scene.scopes["server"].cancel()

    await alone(scene, play)
    for outcome, when in lost.values():
        assert isinstance(outcome, trpc.ConnectionLost)
        assert when < 1
    scene.check_calls()
    assert scene.running == 0


@pytest.mark.transports("memory", reason="what is sent is there at once")
@pytest.mark.parametrize("order", [0, 0.9])
async def test_items_that_come_with_the_cancel_of_a_server_are_no_mistake(autojump_clock, monkeypatch, order):
    """Their handler may have ended when they are read, and the task that ends the connection be in another one."""
    monkeypatch.setattr(trio._core._run._r, "random", lambda: order)
    scene = Scene()
    async with trio.open_nursery() as nursery:
        ours, theirs = trio.testing.memory_stream_pair()
        nursery.start_soon(trpc.serve_stream, Service(scene), theirs)
        peer = RawPeer(ours, features=("streams",), stream_credit=1000)
        await peer.open()
        await peer.send_request(1, "Service.wait", "cleans up", 100, 1)
        await settle()
        body = encode_request("Service.total", ["total", None], None, None, None, {1: 1}, max_depth=64)
        await peer.send(Kind.REQUEST, 2, joined(body))
        await settle()
        assert scene.running == 2
        # Each of these has another task go on reading in the next pass, cancelled or not.
        more = [
            joined(encode_request("Service.wait", [f"{n}", 100], None, None, None, max_depth=64)) for n in range(3, 7)
        ]
        frames = [encode_frame(Kind.REQUEST, number, body) for number, body in enumerate(more, 3)]
        items = encode_frame(Kind.ARGUMENT_ITEMS, 2, b"\x91\x00", stream=1)
        await peer.stream.send_all(b"".join([*frames, items]))
        nursery.cancel_scope.cancel()
        with trio.CancelScope(shield=True):
            while (frame := await peer.receive()) is not None:
                assert frame.kind != Kind.GOAWAY
    assert scene.running == 0
