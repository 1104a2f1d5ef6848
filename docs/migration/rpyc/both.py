import sys
from functools import partial
from pathlib import Path

import rpyc
import trio
from rpyc.utils.server import ThreadedServer

import trpc

sys.path.insert(0, str(Path(__file__).parents[1] / "trpc"))
from jobs import Jobs  # its NoSuchJob arrives as that of old clients, as module and name are the same
from threads import Threads


class OldJobs(rpyc.Service):
    """The old interface in front of the new service. It runs in threads, and the service in Trio."""

    def __init__(self, jobs, threads):
        self.jobs = jobs
        self.threads = threads
        self.at_work = set()

    def exposed_submit(self, name):
        return self.threads.call(self.jobs.submit, name)

    def exposed_progress(self, number):
        return self.threads.items(self.jobs.progress(number))

    def exposed_work(self, seconds):
        scope = trio.CancelScope()
        self.at_work.add(scope)
        try:
            self.threads.call(self.jobs.work, seconds, scope=scope)
        finally:
            self.at_work.remove(scope)

    def exposed_stop_work(self):
        for scope in list(self.at_work):
            self.threads.cancel(scope)

    def exposed_at_work(self):
        return self.threads.call(self.jobs.at_work)


async def main():
    jobs = Jobs()
    async with trio.open_nursery() as nursery:
        server = await nursery.start(trpc.serve_tcp, jobs, 0)
        old_server = ThreadedServer(OldJobs(jobs, Threads(nursery)), hostname="127.0.0.1", port=0)
        nursery.start_soon(partial(trio.to_thread.run_sync, old_server.start, abandon_on_cancel=True))
        print(old_server.port, server.url, flush=True)


trio.run(main)
