"""What every contestant says and hears: JSON lines on stdin and stdout, described in ``README.md`` beside this.

Only the standard library, and nothing newer than Python 3.11, because a contestant may run in an environment of
its own. A contestant is a script that ends with::

    if __name__ == "__main__":
        _protocol.run({"name": "...", "version": "...", "work": [...]}, serve, call)

``serve()`` calls ``announce(address)`` as soon as it listens, and then runs for ever. ``call(address)`` connects,
says ``ready()``, and carries out one order after the other, in a program without an event loop like this::

    while (order := next_order()) is not None:
        with Stopwatch() as watch:
            for _ in range(order["count"]):
                ...
        answer(watch)

In one with an event loop, which must go on while it waits (heartbeats), the order is read in a thread:
``await asyncio.to_thread(next_order)``, ``await trio.to_thread.run_sync(next_order)``.

In ``latency`` each call is a lap of the stopwatch (``for _ in watch.laps(count)``), and the load beside them counts
what it has moved (``watch.moved += 1``).
"""

import json
import os
import resource
import sys
import threading
import time
import traceback

IN_FLIGHT = 100
"""Calls that are under way at once in the workloads ``flight_*``."""

ECHO_SIZES = {"echo_1k": 2**10, "echo_64k": 2**16, "echo_1m": 2**20, "echo_16m": 2**24}
"""Bytes that go there and come back."""

ITEM_SIZE = 2**16
"""Bytes of an item in the streams ``*_64k``."""

REPLY_SIZE = 2**26
"""Bytes of the reply in the load ``reply_64m``."""

STREAMS_AT_ONCE = 10
"""Streams of the loads ``streams_small`` and ``streams_64k``."""

WITHOUT_END = 2**62
"""Items that are enough for as long as a load runs."""

SETTLE = 0.2
"""Seconds that a load runs before the calls beside it are measured."""

LONGEST = 3.0
"""Seconds after which no more calls are made beside a load."""

WORK = (
    "sequential_plain",
    "sequential_async",
    "flight_async",
    "flight_checkpoint",
    "flight_thread",
    *ECHO_SIZES,
    "cancel",
    "idle",
    "busy",
)
"""All workloads that a library with calls can do."""

STREAMS = ("stream_down", "stream_up", "stream_down_64k", "stream_up_64k")
"""Those that need streams, beside ``latency``."""

# What a library prints must not come between the answers: it goes to stderr from here on.
_answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
os.dup2(2, 1)


def run(about, serve, call):
    """The whole contestant. Does not return.

    Args:
        about: a dict with the name, the version and the list of workloads that it can do.
        serve: a function of no arguments.
        call: a function of the address.
    """
    _allow_many_files()
    try:
        match sys.argv[1:]:
            case ["about"]:
                _say(about)
            case ["serve"]:
                serve()
            case ["call", address]:
                call(address)
            case _:
                sys.exit(f"usage: {sys.argv[0]} about | serve | call ADDRESS")
    except BaseException:
        traceback.print_exc()
        _end(1)
    _end(0)


def announce(address):
    """Says where the server listens. From now on a thread answers on its behalf, and ends it with stdin."""
    _say({"address": address})
    threading.Thread(target=_tell_usage, daemon=True).start()


def ready():
    """Says that the client is connected."""
    _say({"ready": True})


def next_order():
    """The next order, a dict, or None if there are no more. Blocks, so it belongs into a thread in an async program."""
    line = sys.stdin.readline()
    return json.loads(line) if line else None


def answer(watch):
    """Says what the order took."""
    answer = {"seconds": watch.seconds, "cpu": watch.cpu}
    if times := sorted(watch.lap_times):
        p50, p99 = times[len(times) // 2], times[len(times) * 99 // 100]
        answer |= {"calls": len(times), "p50": p50, "p99": p99, "moved": watch.moved}
    _say(answer)


class Stopwatch:
    """Measures its ``with`` block: wall time, and the processor time of all threads of this process.

    Attributes:
        seconds: the wall time.
        cpu: the processor time.
        lap_times: what each of the :meth:`laps` took.
        moved: for others to count in; it begins at 0 with the block.
    """

    def __init__(self):
        self.seconds = self.cpu = 0.0
        self.lap_times = []
        self.moved = 0

    def __enter__(self):
        self.moved = 0
        self._cpu = time.process_time()
        self._start = time.perf_counter()
        return self

    def laps(self, count):
        """For a loop that makes ``count`` calls, or fewer if they take long: the time of each is kept."""
        for _ in range(count):
            start = time.perf_counter()
            yield
            now = time.perf_counter()
            self.lap_times.append(now - start)
            if now - self._start > LONGEST:
                break

    def __exit__(self, *exc_info):
        self.seconds = time.perf_counter() - self._start
        self.cpu = time.process_time() - self._cpu


def _tell_usage():
    while sys.stdin.readline():
        _say({"cpu": time.process_time(), "rss": _resident_bytes()})
    _end(0)


def _resident_bytes():
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except FileNotFoundError:
        # Not Linux: the most that it ever was is the best that there is, on macOS in bytes, elsewhere in KiB.
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _say(message):
    _answers.write(json.dumps(message) + "\n")
    _answers.flush()


def _allow_many_files():
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (ValueError, OSError):
        pass  # then the runner will hear of the connections that cannot be opened


def _end(code):
    """Without waiting for threads: one may be blocked in a read that nobody will ever answer."""
    sys.stderr.flush()
    os._exit(code)
