"""Reading a connection: whatever a transport may give, and the ways in which it may fail."""

import pytest
import trio
import trio.testing
from support import Fails, Scripted, joined, settle

import trpc
from trpc import Limits, _codec
from trpc._connection import Connection
from trpc._frames import PREAMBLE, FrameReader, encode_frame
from trpc._host import Host
from trpc._messages import Hello, Kind, encode_request
from trpc._service import table_of

OPENING = PREAMBLE + encode_frame(Kind.HELLO, 0, Hello(1 << 20, 10, 64).encode())
# Frames of this size have a room, which is filled in place.
LARGE = 200_000
BROKEN = [trio.BrokenResourceError("reset"), trio.ClosedResourceError("closed")]


class Service:
    @trpc.method
    def size(self, data: bytes) -> int:
        return len(data)

    @trpc.method
    async def size_after_a_while(self, data: bytes) -> int:
        await trio.lowlevel.checkpoint()
        return len(data)

    @trpc.method
    async def wait(self) -> None:
        await trio.sleep_forever()


class Run:
    """A connection over such a transport."""

    def __init__(self, nursery, *, serves=True, **limits):
        self.transport = Scripted()
        table = table_of(Service()) if serves else {}
        self.connection = Connection(self.transport, Host(table, Limits(**limits)))
        self.outcomes: list[object] = []
        self.nursery = nursery
        self.caller = None if serves else self.connection.caller
        self.ended = trio.Event()
        nursery.start_soon(self._run)

    async def _run(self):
        await self.connection.run()
        self.ended.set()

    def call(self, *args):
        async def call():
            try:
                self.outcomes.append(await self.caller.call("A.b", args, None))
            except Exception as exc:
                self.outcomes.append(exc)

        self.nursery.start_soon(call)

    @property
    def sent(self):
        """The frames behind the hello."""
        return FrameReader(max_body=1 << 24).feed(self.transport.sent)[1:]

    @property
    def results(self):
        return {f.id: _codec.unpack(f.body, max_depth=64) for f in self.sent if f.kind == Kind.RESULT}


def request(call_id, method, *args):
    return encode_frame(Kind.REQUEST, call_id, joined(encode_request(method, args, None, None, None, max_depth=64)))


def cut(data, size):
    return [data[i : i + size] for i in range(0, len(data), size)]


# --- what is there, and what is not ---


@pytest.mark.parametrize("method", ["Service.size", "Service.size_after_a_while"])
@pytest.mark.parametrize("size", [7, 1000, 70_000, 1 << 20])
async def test_requests_in_pieces_of_any_size(nursery, method, size):
    run = Run(nursery)
    data = request(1, method, bytes(10)) + request(2, method, bytes(LARGE)) + request(5, method, b"")
    if size < 100:
        data = request(1, method, bytes(10)) + request(2, method, bytes(100)) + request(5, method, b"")
    run.transport.give(*cut(OPENING + data, size))
    await settle()
    assert run.results == {1: 10, 2: 100 if size < 100 else LARGE, 5: 0}


async def test_a_wait_that_ends_although_nothing_is_there(nursery):
    run = Run(nursery)
    data = request(1, "Service.size", bytes(LARGE))
    steps = [*cut(OPENING, 5), *cut(data, 60_000), request(2, "Service.size", b"x")]
    for step in steps:
        run.transport.give(None, step, None)
    await settle()
    assert run.results == {1: LARGE, 2: 1}
    run.transport.give(b"")
    await run.ended.wait()


# --- how it may fail ---


@pytest.mark.parametrize("error", BROKEN, ids=repr)
@pytest.mark.parametrize("how", ["while it waits", "while it reads"])
@pytest.mark.parametrize("begun", ["", "hello", "large message"])
async def test_a_transport_that_breaks(nursery, error, how, begun):
    run = Run(nursery, serves=False)
    run.call(1)
    await settle()
    if begun:
        run.transport.give(OPENING)
    if begun == "large message":
        run.transport.give(encode_frame(Kind.RESULT, 1, _codec.pack(bytes(LARGE), max_depth=64))[:70_000])
    await settle()
    assert run.outcomes == []
    run.transport.give(Fails(error) if how == "while it waits" else error)
    await run.ended.wait()
    await settle()
    (outcome,) = run.outcomes
    assert isinstance(outcome, trpc.ConnectionLost)
    assert outcome.__cause__ is error
    assert run.transport.closed


@pytest.mark.parametrize("cut_off", [1, 70_000, LARGE - 1])
async def test_the_end_inside_of_a_large_message(nursery, cut_off):
    run = Run(nursery, serves=False)
    run.call(1)
    await settle()
    result = encode_frame(Kind.RESULT, 1, _codec.pack(bytes(LARGE), max_depth=64))
    run.transport.give(OPENING, result[:cut_off], b"")
    await run.ended.wait()
    await settle()
    (outcome,) = run.outcomes
    assert isinstance(outcome, trpc.ConnectionLost)
    assert "the stream ended inside a frame" in str(outcome)


async def test_a_large_message_that_breaks_the_protocol(nursery, caplog):
    run = Run(nursery)
    data = encode_frame(0x7F, 1, bytes(LARGE))
    run.transport.give(OPENING, data[:70_000], data[70_000:])
    await run.ended.wait()
    assert run.sent[-1].kind == Kind.GOAWAY
    assert "unknown kind 0x7f" in caplog.text


async def test_a_large_hello(nursery):
    run = Run(nursery, max_hello_size=LARGE)
    body = _codec.pack({"max_message_size": 1000, "max_calls": 1, "max_depth": 5, "pad": bytes(150_000)}, max_depth=5)
    data = PREAMBLE + encode_frame(Kind.HELLO, 0, body)
    run.transport.give(data[:70_000], data[70_000:], request(1, "Service.size", b"abc"))
    await settle()
    assert run.results == {1: 3}


async def test_a_mistake_of_its_own_is_logged_and_ends_this_connection_only(nursery, caplog):
    run, other = Run(nursery), Run(nursery)
    for each in (run, other):
        each.transport.give(OPENING)
    await settle()
    run.transport.give(RuntimeError("a mistake"))
    await run.ended.wait()
    assert run.transport.closed
    assert "internal error in the connection with script, which is closed" in caplog.text
    # All tests look for it.
    caplog.clear()
    other.transport.give(request(1, "Service.size", b"abc"))
    await settle()
    assert other.results == {1: 3}
    assert not other.ended.is_set()


# --- messages that concern nobody ---


async def test_a_side_that_never_called_is_told_that_no_more_calls_are_taken(nursery):
    run = Run(nursery)
    run.transport.give(OPENING + encode_frame(Kind.GOAWAY, 0, b"\x80") + request(1, "Service.size", b"abc"))
    await settle()
    assert run.results == {1: 3}


async def test_a_reply_behind_the_goaway_that_has_ended_its_call(nursery):
    run = Run(nursery, serves=False)
    run.call(1)
    await settle()
    goaway = encode_frame(Kind.GOAWAY, 0, _codec.pack({"code": 5, "message": "no more"}, max_depth=5))
    run.transport.give(OPENING + goaway + encode_frame(Kind.RESULT, 1, b"\x07"))
    await settle()
    (outcome,) = run.outcomes
    assert isinstance(outcome, Exception)
    assert not run.ended.is_set(), "it was sent before the peer had said so"
    run.transport.give(b"")
    await run.ended.wait()


# --- who gets which message ---


@pytest.mark.parametrize(
    ("kind", "stream", "match"),
    [
        (Kind.ARGUMENT_ITEMS, 1, "has no streams, or its request is not complete"),
        (Kind.ARGUMENT_END, 1, "has no streams, or its request is not complete"),
        (Kind.RESULT_CREDIT, 0, "has no streams, or its request is not complete"),
    ],
)
async def test_a_message_of_a_stream_for_a_call_that_has_none(nursery, kind, stream, match, caplog):
    run = Run(nursery)
    run.transport.give(OPENING + request(1, "Service.wait"))
    await settle()
    run.transport.give(encode_frame(kind, 1, b"\x01", stream=stream))
    await run.ended.wait()
    assert match in caplog.text
    assert run.transport.closed


@pytest.mark.parametrize("kind", [Kind.ARGUMENT_CREDIT, Kind.ARGUMENT_STOP])
async def test_a_message_of_a_stream_for_a_call_of_ours_that_has_none(nursery, kind, caplog):
    run = Run(nursery, serves=False)
    run.call(1)
    run.transport.give(OPENING)
    await settle()
    run.transport.give(encode_frame(kind, 1, b"\x01" if kind == Kind.ARGUMENT_CREDIT else b"", stream=3))
    await run.ended.wait()
    assert "call 1 has no stream 3" in caplog.text
    (outcome,) = run.outcomes
    assert isinstance(outcome, trpc.ConnectionLost)


async def test_nothing_behind_a_message_that_breaks_the_protocol_is_handled(nursery, caplog):
    """Both are read together, and each is right by itself."""
    run = Run(nursery)
    run.transport.give(OPENING)
    await settle()
    faulty = encode_frame(Kind.ARGUMENT_ITEMS, 1, b"\x91\x01", stream=1)
    waiting = request(1, "Service.wait")
    run.transport.give(waiting + faulty + request(2, "Service.size", b"abc"))
    await run.ended.wait()
    assert 2 not in run.results


@pytest.mark.parametrize("faulty", [encode_frame(0x7F, 1), b"\0\0\0\0"])
async def test_what_comes_before_a_message_that_breaks_the_protocol_is_handled(nursery, faulty, caplog):
    run = Run(nursery)
    run.transport.give(OPENING)
    await settle()
    run.transport.give(request(1, "Service.size", b"abc") + faulty)
    await run.ended.wait()
    assert run.results == {1: 3}
    assert sorted(frame.kind for frame in run.sent) == [Kind.GOAWAY, Kind.RESULT]
    assert "closing the connection with script" in caplog.text


# --- how much at a time ---


@pytest.mark.parametrize("number", [1, 15, 16, 17, 50])
async def test_large_reads_follow_each_other(nursery, number):
    """Up to a bound, as what is small may be behind them; all of it arrives in any case."""
    run = Run(nursery)
    data = b"".join(request(i, "Service.size", bytes(40_000)) for i in range(1, 2 * number + 1))
    run.transport.give(OPENING)
    run.transport.give(*cut(data, 80_000))
    await settle()
    assert run.results == dict.fromkeys(range(1, 2 * number + 1), 40_000)


@pytest.mark.parametrize("number", [255, 256, 257, 2000])
async def test_floods_of_small_messages_are_handled(nursery, number):
    run = Run(nursery)
    size = 64 * 1024 // number + 1
    data = b"".join(request(i, "Service.size", bytes(size)) for i in range(1, number + 1))
    assert len(data) > 64 * 1024
    run.transport.give(OPENING, data, request(number + 1, "Service.size", b"last"))
    await settle()
    assert len(run.results) == number + 1


async def test_how_much_is_read_depends_on_what_was_there(nursery):
    run = Run(nursery)
    run.transport.give(OPENING)
    await settle()
    assert not run.transport.reads_much
    large = request(1, "Service.size", bytes(70_000)) + request(2, "Service.size", bytes(70_000))
    run.transport.give(large)
    await settle()
    assert run.transport.reads_much
    run.transport.give(request(3, "Service.size", b""))
    await settle()
    assert not run.transport.reads_much
    # The rest of a large message has a room of its own.
    run.transport.give(request(4, "Service.size", bytes(500_000))[:70_000])
    await settle()
    assert not run.transport.reads_much


# --- a peer that does not read ---


async def test_a_peer_that_floods_is_not_read_although_this_side_waits_for_it(nursery, monkeypatch):
    monkeypatch.setattr("trpc._reader._MAX_FLOOD", 10)
    run = Run(nursery, serves=False, max_unsent=100, max_calls=1)
    run.transport.give(OPENING)
    await settle()
    run.call(1)
    await settle()
    run.transport.send_nowait = lambda chunks: 0
    blocked = trio.Event()

    async def send(chunks):
        await blocked.wait()
        run.transport.sent += b"".join(chunks)
        return sum(map(len, chunks))

    run.transport.send = send
    reads = []
    receive = run.transport.receive_nowait

    def counts():
        data = receive()
        reads.append(data)
        return data

    run.transport.receive_nowait = counts
    pings = [encode_frame(Kind.PING, i) for i in range(1, 101)]
    run.transport.give(*pings)
    await settle()
    # As many as a peer may be owed that keeps to the limits, and a few more.
    assert 10 < len(reads) < 50
    blocked.set()
    await settle()
    assert len(reads) == 100
    assert len([frame for frame in run.sent if frame.kind == Kind.PONG]) == 100
