import threading

import rpyc
from jobs import NoSuchJob
from rpyc.utils.server import ThreadedServer


class Jobs(rpyc.Service):
    def __init__(self):
        self.lock = threading.Lock()
        self.names = {}
        self.at_work = 0
        self.stop = threading.Event()

    def exposed_submit(self, name):
        with self.lock:
            number = len(self.names) + 1
            self.names[number] = name
        return number

    def exposed_progress(self, number):
        if number not in self.names:
            raise NoSuchJob(f"there is no job {number}", number)
        yield from (25, 50, 75, 100)

    def exposed_work(self, seconds):
        with self.lock:
            self.at_work += 1
        try:
            self.stop.wait(seconds)
        finally:
            with self.lock:
                self.at_work -= 1

    def exposed_stop_work(self):
        self.stop.set()

    def exposed_at_work(self):
        return self.at_work


# One object, and not the class: that would be made anew for each connection.
server = ThreadedServer(Jobs(), hostname="127.0.0.1", port=0)
print(server.port, flush=True)
server.start()
