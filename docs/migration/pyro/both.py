import sys
from functools import partial
from pathlib import Path

import trio
from Pyro5.api import Daemon, expose, register_class_to_dict

import trpc

sys.path.insert(0, str(Path(__file__).parents[1] / "trpc"))
from jobs import Jobs, NoSuchJob
from threads import Threads


# As old clients know it.
def to_dict(exc):
    return {"__class__": "jobs.NoSuchJob", "message": str(exc), "number": exc.number}


register_class_to_dict(NoSuchJob, to_dict)


@expose
class OldJobs:
    """The old interface in front of the new service. It runs in threads, and the service in Trio."""

    def __init__(self, jobs, threads):
        self._jobs = jobs
        self._threads = threads
        self._at_work = set()

    def submit(self, name):
        return self._threads.call(self._jobs.submit, name)

    def progress(self, number):
        return self._threads.items(self._jobs.progress(number))

    def work(self, seconds):
        scope = trio.CancelScope()
        self._at_work.add(scope)
        try:
            self._threads.call(self._jobs.work, seconds, scope=scope)
        finally:
            self._at_work.remove(scope)

    def stop_work(self):
        for scope in list(self._at_work):
            self._threads.cancel(scope)

    def at_work(self):
        return self._threads.call(self._jobs.at_work)


async def main():
    jobs = Jobs()
    async with trio.open_nursery() as nursery:
        server = await nursery.start(trpc.serve_tcp, jobs, 0)
        old_server = Daemon(host="127.0.0.1")
        uri = old_server.register(OldJobs(jobs, Threads(nursery)))
        nursery.start_soon(partial(trio.to_thread.run_sync, old_server.requestLoop, abandon_on_cancel=True))
        print(uri, server.url, flush=True)


trio.run(main)
