import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import jobs_pb2
import jobs_pb2_grpc
import trio

import trpc

sys.path.insert(1, str(Path(__file__).parents[1] / "trpc"))
from jobs import Jobs, NoSuchJob
from threads import Threads


class OldJobs(jobs_pb2_grpc.JobsServicer):
    """The old interface in front of the new service. It runs in threads, and the service in Trio."""

    def __init__(self, jobs, threads):
        self.jobs = jobs
        self.threads = threads

    def Submit(self, request, context):
        return jobs_pb2.Job(number=self.call(context, self.jobs.submit, request.name))

    def Progress(self, request, context):
        try:
            for done in self.threads.items(self.jobs.progress(request.number), self.scope(context)):
                yield jobs_pb2.Percent(done=done)
        except NoSuchJob as exc:
            context.abort(grpc.StatusCode.NOT_FOUND, str(exc))

    def Work(self, request, context):
        self.call(context, self.jobs.work, request.seconds)
        return jobs_pb2.Nothing()

    def AtWork(self, request, context):
        return jobs_pb2.Count(value=self.call(context, self.jobs.at_work))

    def call(self, context, method, *args):
        return self.threads.call(method, *args, scope=self.scope(context))

    def scope(self, context):
        """One that is cancelled with the call: at its deadline, on a cancel, and in any case at its end."""
        scope = trio.CancelScope()
        if not context.add_callback(lambda: self.threads.cancel(scope)):
            self.threads.cancel(scope)  # it has ended already
        return scope


async def main():
    jobs = Jobs()
    async with trio.open_nursery() as nursery:
        server = await nursery.start(trpc.serve_tcp, jobs, 0)
        old_server = grpc.server(ThreadPoolExecutor(max_workers=100))
        jobs_pb2_grpc.add_JobsServicer_to_server(OldJobs(jobs, Threads(nursery)), old_server)
        port = old_server.add_insecure_port("127.0.0.1:0")
        old_server.start()
        print(f"127.0.0.1:{port} {server.url}", flush=True)


trio.run(main)
