"""A side under test and peers made of bytes, for tests that hold for both sides."""

from __future__ import annotations

import contextlib

import trio
import trio.testing
from support import RawPeer, client_of_raw_peer, connection_of

import trpc

SIDES = ("server", "client")


class Listener(trio.abc.Listener):
    """One that accepts what a test gives to it."""

    def __init__(self):
        self._give, self._accepted = trio.open_memory_channel(0)

    async def connect(self):
        """A stream that it accepts: our end."""
        ours, theirs = trio.testing.memory_stream_pair()
        await self._give.send(theirs)
        return ours

    async def accept(self):
        return await self._accepted.receive()

    async def aclose(self):
        self._accepted.close()
        await trio.lowlevel.checkpoint()


class Site:
    """A server with any number of raw clients.

    Attributes:
        server: its handle.
    """

    def __init__(self, listener, server):
        self.server = server
        self._listener = listener

    async def connect(self, **hello):
        peer = RawPeer(await self._listener.connect(), **hello)
        await peer.open()
        return peer

    async def stream(self):
        return await self._listener.connect()

    @property
    def connections(self):
        return list(self.server._connections)


@contextlib.asynccontextmanager
async def serving(services, **options):
    """A :class:`Site`."""
    listener = Listener()

    async def start(task_status):
        await trpc.serve_listeners(services, [listener], task_status=task_status, **options)

    async with trio.open_nursery() as nursery:
        server = await nursery.start(start)
        yield Site(listener, server)
        nursery.cancel_scope.cancel()


@contextlib.asynccontextmanager
async def under_test(side, services, *, limits, lockstep=False, is_open=True, **hello):
    """A raw peer, and a function that gives the connection of the side under test: a server, or a client that serves."""
    if side == "client":
        async with client_of_raw_peer(service=services, limits=limits, lockstep=lockstep, hello=hello) as made:
            client, peer = made
            connection = connection_of(client)
            if is_open:
                await peer.open()
            yield peer, lambda: connection
        return
    make = trio.testing.lockstep_stream_pair if lockstep else trio.testing.memory_stream_pair
    ours, theirs = make()

    async def start(task_status):
        await trpc.serve_stream(services, theirs, limits=limits, task_status=task_status)

    async with trio.open_nursery() as nursery:
        server = await nursery.start(start)
        await trio.testing.wait_all_tasks_blocked()
        (connection,) = server._connections
        peer = RawPeer(ours, **hello)
        if is_open:
            await peer.open()
        yield peer, lambda: connection
        nursery.cancel_scope.cancel()
