"""trpc without one of the techniques that make it fast, to see what each is worth.

``python _without.py TECHNIQUE about | serve | call ADDRESS`` is a contestant; the run's ``--without`` makes it
take part. It changes the library's private parts, so it changes with them.
"""

import math
import sys

import trpc_

from trpc import _client, _codec, _outbox, _outgoing_stream, _reader, _server
from trpc._frames import FrameReader
from trpc._outbox import Outbox
from trpc._reader import Reader
from trpc._transport import StreamTransport
from trpc._workers import Workers


def relay():
    """A handler never runs in the task that reads, but in a worker of its own."""
    handle = Reader._handle
    Reader._handle = lambda self, worker: handle(self, None)


def workers():
    """Neither that, nor are workers kept: each handler has a new task and a new scope."""
    relay()

    async def work(self, job):
        await once(self, job)

    async def no_job(self, worker):
        return None

    once = Workers.work
    Workers._next_job = no_job
    Workers.run = lambda self, job: self.nursery.start_soon(work, self, job)


def writing_at_once():
    """A frame is always written by a task of its own, in the next pass of the event loop."""
    put = Outbox._put
    Outbox._put = lambda self, *args, control, alone: put(self, *args, control=control, alone=False)
    Outbox._write_nowait = lambda self: None


def own_socket():
    """Trio's SocketStream reads and writes."""
    _client.transport_of = _server.transport_of = StreamTransport


def turns():
    """All requests that were read together are handled in one turn, and answered in one write."""
    _reader._MAX_REQUESTS = 10**9
    _reader._MAX_TIME = math.inf


def pieces():
    """Large messages are copied: into one piece to be written, and out of what was read."""
    _codec.LARGE = 2**40
    FrameReader.room = lambda self: None


def fragments():
    """Large messages are not cut: they are one frame, which all others wait for."""
    _outbox.FRAGMENT = _outgoing_stream.FRAGMENT = 2**40


def all_of_them():
    """The sum."""
    for technique in (workers, writing_at_once, own_socket, turns, pieces, fragments):
        technique()


TECHNIQUES = {
    technique.__name__: technique
    for technique in (
        relay,
        workers,
        writing_at_once,
        own_socket,
        turns,
        pieces,
        fragments,
        all_of_them,
    )
}

if __name__ == "__main__":
    name = sys.argv.pop(1)
    TECHNIQUES[name]()
    trpc_.run(f"trpc without {name}")
