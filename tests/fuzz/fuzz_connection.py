"""A whole server connection in memory: whatever arrives, it goes on or ends, and every call gets one reply.

Time is Trio's mock clock, so that waiting takes none, and what would hang for ever is found at once.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import AsyncIterable, AsyncIterator
from typing import TYPE_CHECKING, Any

import trio
import trio.testing

import trpc
from tests.fuzz import script
from tests.fuzz.choices import Choices
from trpc._frames import PREAMBLE, FrameReader, encode_frame
from trpc._messages import Hello, Kind

if TYPE_CHECKING:
    from collections.abc import Callable

MAX_LEN = 400
LIMITS = trpc.Limits(
    max_message_size=2000,
    max_calls=6,
    max_streams=4,
    max_unsent=3000,
    stream_credit=150,
    max_bytes_in_flight=20_000,
    max_call_time=300.0,
    control_burst=40,
    control_rate=10.0,
)
# Longer than anything in the service and in the limits; it is virtual. So is what a call may take that is cancelled.
FOREVER = 1000.0
SOON = 50.0
_REPLIES = {Kind.RESULT, Kind.ERROR, Kind.CANCELLED, Kind.EXPIRED}
_FOR_A_CALL = {*_REPLIES, Kind.RESULT_ITEMS, Kind.ARGUMENT_CREDIT, Kind.ARGUMENT_STOP}


class Conformance:
    """Small methods of every sort; the bodies in script.py call them."""

    @trpc.method
    def echo(self, *values: Any) -> Any:
        return values[0] if len(values) == 1 else list(values)

    @trpc.method
    async def sleep(self, seconds: float = 50.0) -> None:
        await trio.sleep(min(seconds, 100.0))

    @trpc.method
    async def stubborn(self) -> str:
        with trio.CancelScope(shield=True):
            await trio.sleep(3)
        return "late"

    @trpc.method
    async def spill(self) -> AsyncIterator[int]:
        try:
            yield 0
            await trio.sleep_forever()
        except trio.Cancelled:
            raise OSError("disk full") from None

    @trpc.method
    async def count(self, n: int) -> AsyncIterator[int]:
        for i in range(min(n, 200)):
            yield i

    @trpc.method
    async def blobs(self, n: int, size: int) -> AsyncIterator[bytes]:
        for _ in range(min(n, 50)):
            yield bytes(min(size, 3000))

    @trpc.method
    async def fail(self, n: int) -> AsyncIterator[int]:
        for i in range(min(n, 20)):
            yield i
        raise ValueError("enough")

    @trpc.method
    async def total(self, items: AsyncIterable[int]) -> int:
        return sum([item async for item in items])

    @trpc.method
    async def first(self, items: trio.abc.ReceiveChannel[int]) -> int:
        item = await items.receive()
        await items.aclose()
        return item

    @trpc.method
    async def hold(self, items: AsyncIterable[Any]) -> None:
        await trio.sleep(50)

    @trpc.method
    async def chat(self, items: AsyncIterable[Any]) -> AsyncIterator[Any]:
        async for item in items:
            yield item

    @trpc.method
    async def two(self, left: trio.abc.ReceiveChannel[Any], right: trio.abc.ReceiveChannel[Any]) -> list[Any]:
        return [[item, await right.receive()] async for item in left]

    @trpc.method
    async def call_back(self, value: Any) -> Any:
        with trio.move_on_after(20):
            return await trpc.current_call().client.call("Peer.echo", value)

    @trpc.method
    async def call_back_with_stream(self, value: Any) -> Any:
        async def produce():
            while True:
                yield value

        with trio.move_on_after(20):
            return await trpc.current_call().client.call("Peer.total", produce())


class _Log(logging.Handler):
    """A mistake of the library's own is a line in the log, and its traceback."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.mistakes: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        if "internal error" in record.getMessage():
            self.mistakes.append(record)


def run(data: bytes) -> None:
    log = _Log()
    logger = logging.getLogger("trpc")
    logger.addHandler(log)
    propagates, logger.propagate = logger.propagate, False
    try:
        trio.run(_main, Choices(data), clock=trio.testing.MockClock(autojump_threshold=0))
    finally:
        logger.removeHandler(log)
        logger.propagate = propagates
    for record in log.mistakes:
        raise AssertionError(record.getMessage()) from (record.exc_info[1] if record.exc_info else None)


async def _main(choices: Choices) -> None:
    ours, theirs = trio.testing.memory_stream_pair()
    flags = choices.number()
    with trio.fail_after(FOREVER):
        async with trio.open_nursery() as nursery:
            peer = _Peer(ours, theirs)
            nursery.start_soon(peer.read)
            server = await nursery.start(functools.partial(trpc.serve_stream, limits=LIMITS), Conformance(), theirs)
            peer.drain = functools.partial(nursery.start_soon, server.drain)
            await peer.live(flags, choices)


class _Peer:
    """The other side: sends what the script says, and keeps account of the calls."""

    drain: Callable[[float], None]

    def __init__(self, stream: trio.StapledStream, theirs: trio.StapledStream) -> None:
        self.stream = stream
        self.reader = FrameReader(max_body=1 << 24)
        self.begun: set[int] = set()
        self.replied: set[int] = set()
        self.finished = trio.Event()
        self.news = trio.Event()
        self.reading = trio.Event()
        self.reading.set()
        self.sending = trio.Lock()
        self.was_cut = False
        self.was_ended = False
        self.answers = True
        self._deliver = theirs.send_stream.send_all_hook
        theirs.send_stream.send_all_hook = self._deliver_when_reading

    async def _deliver_when_reading(self) -> None:
        """The server's writes are done when this peer reads. That nothing is lost, it has got the bytes before."""
        await self._deliver()
        await self.reading.wait()

    async def read(self) -> None:
        """Checks what the server sends, to the end of its bytes."""
        try:
            while data := await self.stream.receive_some(65536):
                for frame in self.reader.feed(data):
                    self._check(frame)
                    if frame.kind == Kind.PING and self.answers:
                        await self._send(encode_frame(Kind.PONG, frame.id))
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            assert self.was_cut
        self.finished.set()
        self.news.set()

    def _check(self, frame) -> None:
        if frame.kind in _FOR_A_CALL:
            assert frame.id in self.begun, f"{frame} for a call that was not made"
            assert frame.id not in self.replied, f"{frame} for a call that has its reply"
        if frame.kind in _REPLIES and not frame.flags & 1:
            self.replied.add(frame.id)
            self.news.set()

    async def live(self, flags: int, choices: Choices) -> None:
        hello = Hello(2000, 2, 64, ("fragments", "streams") if not flags & 1 else (), 150)
        await self._send(PREAMBLE if flags & 2 else PREAMBLE + encode_frame(Kind.HELLO, 0, hello.encode()))
        # Else it is taken for dead after a while.
        self.answers = not flags & 8
        is_cut = False
        together = b""
        for step in script.decode(choices):
            if step.what in script.ACTIONS:
                await self._send(together)
                together = b""
                await self._act(step)
                continue
            together += step.data
            if step.frame is None:
                is_cut = is_cut or bool(step.data)
            elif step.frame.kind == Kind.REQUEST and not step.frame.flags & 2:
                self.begun.add(step.frame.id)
        await self._send(together)
        await self._end(flags, is_cut=is_cut)

    async def _act(self, step: script.Step) -> None:
        action = step.what - script.ACTIONS.start
        if action == 0:
            await trio.testing.wait_all_tasks_blocked()
        elif action == 1:
            await trio.sleep(step.argument / 10)
        elif action == 2:
            if self.reading.is_set():
                self.reading = trio.Event()
        elif action == 3:
            self.reading.set()
        elif action == 4:
            self.drain(step.argument / 10)
        else:
            await trio.lowlevel.checkpoint()

    async def _send(self, data: bytes) -> None:
        try:
            async with self.sending:
                await self.stream.send_all(data)
        except trio.BrokenResourceError:
            self.was_cut = True
        except trio.ClosedResourceError:
            assert self.was_ended

    async def _end(self, flags: int, *, is_cut: bool) -> None:
        """Everything is read and every call cancelled: each gets its reply, or the connection has ended."""
        if flags & 4:
            self.was_cut = self.was_ended = True
            await self.stream.aclose()
        else:
            self.reading.set()
            if not is_cut:
                open_calls = sorted(self.begun - self.replied)
                await self._send(b"".join(encode_frame(Kind.CANCEL, call_id) for call_id in open_calls))
                with trio.move_on_after(SOON):
                    while not self.finished.is_set() and self.begun != self.replied:
                        self.news = trio.Event()
                        await self.news.wait()
                assert self.finished.is_set() or self.begun == self.replied, sorted(self.begun - self.replied)
            self.was_ended = True
            await self.stream.send_stream.aclose()
        self.reading.set()
        await self.finished.wait()
