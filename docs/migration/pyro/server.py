import threading

from jobs import NoSuchJob
from Pyro5.api import Daemon, behavior, expose


@expose
@behavior(instance_mode="single")
class Jobs:
    def __init__(self):
        self._lock = threading.Lock()
        self._names = {}
        self._at_work = 0
        self._stop = threading.Event()

    def submit(self, name):
        with self._lock:
            number = len(self._names) + 1
            self._names[number] = name
        return number

    def progress(self, number):
        if number not in self._names:
            raise NoSuchJob(f"there is no job {number}", number)
        yield from (25, 50, 75, 100)

    def work(self, seconds):
        with self._lock:
            self._at_work += 1
        try:
            self._stop.wait(seconds)
        finally:
            with self._lock:
                self._at_work -= 1

    def stop_work(self):
        self._stop.set()

    def at_work(self):
        return self._at_work


with Daemon(host="127.0.0.1") as daemon:
    print(daemon.register(Jobs), flush=True)
    daemon.requestLoop()
