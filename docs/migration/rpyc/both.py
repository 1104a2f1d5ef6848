import sys
from functools import partial
from pathlib import Path

import rpyc
import trio
from rpyc.utils.server import ThreadedServer

import trpc

sys.path.insert(0, str(Path(__file__).parents[1] / "trpc"))
from jobs import Jobs


class OldJobs(rpyc.Service):
    """The old interface in front of the new service. It runs in threads, and the service in Trio."""

    def __init__(self, jobs, token):
        self.jobs = jobs
        self.run = partial(trio.from_thread.run, trio_token=token)

    def exposed_submit(self, name):
        return self.run(self.jobs.submit, name)

    def exposed_at_work(self):
        return self.run(self.jobs.at_work)


async def main():
    jobs = Jobs()
    async with trio.open_nursery() as nursery:
        server = await nursery.start(trpc.serve_tcp, jobs, 0)
        old_jobs = OldJobs(jobs, trio.lowlevel.current_trio_token())
        old_server = ThreadedServer(old_jobs, hostname="127.0.0.1", port=0)
        nursery.start_soon(partial(trio.to_thread.run_sync, old_server.start, abandon_on_cancel=True))
        print(old_server.port, server.url, flush=True)


trio.run(main)
