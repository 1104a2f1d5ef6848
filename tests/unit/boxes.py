"""An outbox over a transport that does what the test says; for the tests of it and of what is on top of it."""

from __future__ import annotations

import contextlib
import math

import trio
import trio.testing

from trpc._frames import PREAMBLE, FrameReader
from trpc._outbox import Outbox
from trpc._outgoing import State

# What a transport takes at once: a stream nothing, a socket all, or part of it.
NOTHING, ALL = 0, math.inf


class FakeTransport:
    """A transport that takes so many bytes at once, and whose writes wait for the test.

    Each waits for ``finish()``, unless it is ``open``.
    """

    address = "fake"

    def __init__(self, *, takes=NOTHING, is_open=False):
        self.takes = takes
        self.open = is_open
        self.sent: list[bytes] = []
        self.interrupted: list[bytes] = []
        self.writing: bytes | None = None
        self.error: Exception | None = None
        self._outcome: Exception | None = None
        self._parked = trio.lowlevel.ParkingLot()

    def send_nowait(self, chunks):
        data = self._join(chunks)
        if self.error is not None:
            raise self.error
        taken = min(self.takes, len(data))
        self.takes -= taken
        if taken:
            self.sent.append(data[:taken])
        return taken

    def unsent(self):
        return 0

    async def send(self, chunks):
        self.writing = data = self._join(chunks)
        try:
            if self.open:
                await trio.lowlevel.checkpoint()
            else:
                await self._parked.park()
        except BaseException:
            self.interrupted.append(data)
            raise
        finally:
            self.writing = None
        if self._outcome is not None:
            raise self._outcome
        self.sent.append(data)
        return len(data)

    def _join(self, chunks):
        assert self.writing is None, "two writes at once"
        data = b"".join(chunks)
        assert data, "an empty write"
        return data

    def finish(self):
        """The write that waits is done."""
        assert self.writing is not None
        self._parked.unpark()

    def fail(self, exc):
        """The write that waits fails."""
        self._outcome = exc
        self.finish()


class FakeWorkers:
    """Starts a task for each job."""

    def __init__(self, nursery):
        self.nursery = nursery
        self.jobs = 0

    def run(self, job):
        self.jobs += 1
        self.nursery.start_soon(job, None)


class Box:
    """An outbox that is not held any more, its transport and its workers."""

    def __init__(self, nursery, *, max_unsent=1000, held=False, cuts=False, **transport):
        self.transport = FakeTransport(**transport)
        self.workers = FakeWorkers(nursery)
        self.errors: list[Exception] = []
        self.outbox = Outbox(self.transport, max_unsent=max_unsent, workers=self.workers, on_error=self.errors.append)
        self.outbox.cuts = cuts
        self.put = self.outbox.put
        self.answer = self.outbox.answer
        if not held:
            self.outbox.flush()

    async def writing(self, data, **options):
        """Puts a frame and waits until it is being written."""
        frame = self.put(data, **options)
        await settle()
        assert frame.state is State.WRITING
        return frame

    @property
    def frames(self):
        """The frames that were written, if all that was put in was frames."""
        reader = FrameReader(max_body=1 << 24)
        reader.feed(PREAMBLE)
        return reader.feed(b"".join(self.transport.sent))

    @property
    def nothing_is_counted(self):
        return (self.outbox.unsent, self.outbox.unsent_answers) == (0, 0)

    async def end(self):
        """Has everything written."""
        self.transport.open = True
        if self.transport.writing is not None:
            self.transport.finish()
        self.outbox.close(within=math.inf)
        await self.outbox.finish()
        assert self.nothing_is_counted


@contextlib.asynccontextmanager
async def running(**options):
    """A box with a nursery of its own; a failing test ends it too."""
    async with trio.open_nursery() as nursery:
        box = Box(nursery, **options)
        try:
            yield box
        except BaseException:
            box.outbox.close(within=0)
            raise


async def settle():
    await trio.testing.wait_all_tasks_blocked()


def states(frames):
    return [frame.state for frame in frames]
