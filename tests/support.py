"""What several test files need: a service at the other end of a memory stream, and a peer made of bytes."""

from __future__ import annotations

import contextlib
from typing import Any

import trio
import trio.testing

import trpc
import trpc.testing
from trpc import _codec, _outbox, _outgoing, _outgoing_stream
from trpc._frames import PREAMBLE, Data, Frame, FrameReader, encode_frame
from trpc._messages import Hello, Kind, encode_request


@contextlib.asynccontextmanager
async def connected(services, *, serve=None, **options):
    """A client and its server in this process, in memory: ``async with ... as (client, server)``."""
    serving = trpc.testing.serving(services, **(serve or {}))
    # What is raised comes in a group, as out of the nursery that a server is started in.
    async with trio.open_nursery(), serving as memory, memory.connect(**options) as client:
        yield client, memory.server


def connection_of(client):
    """The connection behind a client, for tests that look inside or take it apart."""
    return client._caller.plain.outbox._on_error.__self__


def open_generators():
    """Async generators of this run of Trio that have begun and not ended."""
    alive = trio._core._run.GLOBAL_RUN_CONTEXT.runner.asyncgens.alive
    return [generator for generator in alive if generator.ag_frame is not None]


def assert_nothing_left(*connections):
    """What these count and keep for calls and streams, in both directions, is gone."""
    for connection in connections:
        caller, dispatcher, protocol = connection._caller, connection._dispatcher, connection._protocol
        if caller is not None:
            assert not caller._in_flight
            assert not caller._pings
            assert not caller._acknowledgements._waiting
            assert caller._slots.taken == 0
        # Those that have not begun when a connection ends never do.
        deferred = len(dispatcher._deferred or ()) if connection._lost else 0
        assert len(dispatcher._calls) == deferred
        if not deferred:
            assert dispatcher._streams is None or dispatcher._streams._open == 0
        assert not protocol._open_outgoing
        assert (connection._outbox.unsent, connection._outbox.unsent_answers) == (0, 0)
        assert connection._outbox.queued == 0
        # What has not come whole when a connection ends is never asked for.
        if not connection._lost:
            assert not protocol._fragments
            assert not protocol._open_incoming


def joined(data: Data) -> bytes:
    """Bytes that may be in pieces, in one."""
    return data if type(data) is bytes else b"".join(data)


def fed(reader, data):
    """What a frame reader or a protocol makes of some bytes, in one piece: one list for each step, as they come."""
    yield (reader.receive if hasattr(reader, "receive") else reader.feed)(data)


def filled(reader, data):
    """As :func:`fed`, but the bytes go into the room of a large frame where there is one, as a connection does it."""
    frames = getattr(reader, "frames", reader)
    fill = getattr(reader, "receive_filled", None) or reader.fill
    while data and (room := frames.room() if frames.missing else None) is not None:
        with room:
            size = min(len(room), len(data))
            room[:size] = data[:size]
        yield fill(size)
        data = data[size:]
    yield from fed(reader, data)


def frames_of(reader, pieces, feed=fed):
    """The frames that the pieces give to a frame reader or a protocol, and the error behind them, or None."""
    frames = []
    try:
        for piece in pieces:
            for step in feed(reader, piece):
                frames += step
                # With frames before it, it is not raised, so that these are not lost.
                if reader.error is not None:
                    return frames, reader.error
    except trpc.ProtocolError as exc:
        return frames, exc
    return frames, None


class RawPeer:
    """The other end of a connection, frame by frame, with nothing of the library's logic in between."""

    def __init__(self, stream, **hello):
        self.stream = stream
        self.hello = Hello(**{"max_message_size": 1 << 20, "max_calls": 100, "max_depth": 64, **hello})
        self.reader = FrameReader(max_body=1 << 24)
        self.frames: list[Frame] = []

    async def open(self):
        await self.stream.send_all(PREAMBLE + encode_frame(Kind.HELLO, 0, self.hello.encode()))
        assert (await self.receive()).kind == Kind.HELLO

    async def send(self, kind, call_id=0, body=b"", **fields):
        await self.stream.send_all(encode_frame(kind, call_id, body, **fields))

    async def send_request(self, call_id, method, *args, time_left=None, kind=Kind.REQUEST, **kwargs):
        body = encode_request(method, list(args), kwargs, time_left, None, max_depth=64)
        await self.send(kind, call_id, joined(body))

    async def send_result(self, call_id, value):
        await self.send(Kind.RESULT, call_id, _codec.pack(value, max_depth=64))

    async def receive(self) -> Frame | None:
        """The next frame; None at the end of the stream."""
        while not self.frames:
            data = await self.stream.receive_some()
            if not data:
                return None
            self.frames += self.reader.feed(data)
        return self.frames.pop(0)

    async def receive_value(self) -> Any:
        frame = await self.receive()
        return _codec.unpack(frame.body, max_depth=64)

    async def receive_error(self, call_id) -> dict[str, Any]:
        frame = await self.receive()
        assert (frame.kind, frame.id) == (Kind.ERROR, call_id)
        return _codec.unpack(frame.body, max_depth=64)


@contextlib.asynccontextmanager
async def client_of_raw_peer(*, lockstep=False, hello=None, **options):
    """A client whose server is a :class:`RawPeer`."""
    make = trio.testing.lockstep_stream_pair if lockstep else trio.testing.memory_stream_pair
    ours, theirs = make()
    peer = RawPeer(theirs, **(hello or {}))
    async with trpc.connect_stream(ours, **options) as client:
        yield client, peer
        # Else the client would wait for this end's close.
        await theirs.aclose()


@contextlib.asynccontextmanager
async def raw_client_of(services, *, lockstep=False, **options):
    """A :class:`RawPeer` that talks to a real server; not yet opened."""
    make = trio.testing.lockstep_stream_pair if lockstep else trio.testing.memory_stream_pair
    async with trio.open_nursery() as nursery:
        ours, theirs = make()
        nursery.start_soon(lambda: trpc.serve_stream(services, theirs, **options))
        yield RawPeer(ours)
        nursery.cancel_scope.cancel()


def cut_into(patch, fragment, batch=None):
    """Has frames leave in small fragments, and in small batches, so that what is done with large ones takes little."""
    for module in (_outgoing, _outbox, _outgoing_stream):
        patch.setattr(module, "FRAGMENT", fragment)
    for module in (_outgoing, _outbox):
        patch.setattr(module, "FIRST_FRAGMENT", min(fragment, module.FIRST_FRAGMENT))
    if batch is not None:
        patch.setattr(_outgoing, "BATCH", batch)
        patch.setattr(_outgoing.Batch.add, "__kwdefaults__", {"until": batch})


class Fails:
    """In a script: what a wait for bytes raises."""

    def __init__(self, error):
        self.error = error


class Scripted:
    """A transport that gives what the test says: bytes, nothing after all (None), or an error."""

    address = "script"

    def __init__(self):
        self._steps, self._waiting = trio.open_memory_channel(1000)
        self._next: list[object] = []
        self.sent = b""
        self.send_error = None
        self.reads_much = False
        self.closed = False

    def give(self, *steps):
        for step in steps:
            self._steps.send_nowait(step)

    async def wait_readable(self):
        if not self._next:
            self._next.append(await self._waiting.receive())
        if isinstance(self._next[0], Fails):
            raise self._next.pop().error

    def receive_nowait(self):
        step = self._next.pop() if self._next else None
        if isinstance(step, Exception):
            raise step
        return step

    def receive_into(self, room):
        data = self.receive_nowait()
        if data is None:
            return None
        size = min(len(room), len(data))
        room[:size] = data[:size]
        if data[size:]:
            self._next.append(data[size:])
        return size

    def send_nowait(self, chunks):
        if self.send_error is not None:
            raise self.send_error
        data = b"".join(chunks)
        self.sent += data
        return len(data)

    async def send(self, chunks):
        raise AssertionError("all was taken")

    def unsent(self):
        return 0

    async def send_eof(self):
        await trio.lowlevel.checkpoint()
        return False

    async def close(self):
        self.closed = True
        await trio.lowlevel.cancel_shielded_checkpoint()


def start_call(nursery, outcomes, key, function, *args):
    """Runs an async function in the background and notes how it ended."""

    async def run():
        try:
            outcomes[key] = await function(*args)
        except Exception as exc:
            outcomes[key] = exc
        except trio.Cancelled:
            outcomes[key] = "cancelled"
            raise

    nursery.start_soon(run)


async def settle(times=10):
    """Lets every task that can run do so."""
    for _ in range(times):
        await trio.testing.wait_all_tasks_blocked()
