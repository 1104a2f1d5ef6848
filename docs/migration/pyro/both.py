import sys
from functools import partial
from pathlib import Path

import trio
from Pyro5.api import Daemon, expose

import trpc

sys.path.insert(0, str(Path(__file__).parents[1] / "trpc"))
from jobs import Jobs


@expose
class OldJobs:
    """The old interface in front of the new service. It runs in threads, and the service in Trio."""

    def __init__(self, jobs, token):
        self._jobs = jobs
        self._run = partial(trio.from_thread.run, trio_token=token)

    def submit(self, name):
        return self._run(self._jobs.submit, name)

    def at_work(self):
        return self._run(self._jobs.at_work)


async def main():
    jobs = Jobs()
    async with trio.open_nursery() as nursery:
        server = await nursery.start(trpc.serve_tcp, jobs, 0)
        old_server = Daemon(host="127.0.0.1")
        uri = old_server.register(OldJobs(jobs, trio.lowlevel.current_trio_token()))
        nursery.start_soon(partial(trio.to_thread.run_sync, old_server.requestLoop, abandon_on_cancel=True))
        print(uri, server.url, flush=True)


trio.run(main)
