import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import jobs_pb2
import jobs_pb2_grpc
import trio

import trpc

sys.path.insert(1, str(Path(__file__).parents[1] / "trpc"))
from jobs import Jobs


class OldJobs(jobs_pb2_grpc.JobsServicer):
    """The old interface in front of the new service. It runs in threads, and the service in Trio."""

    def __init__(self, jobs, token):
        self.jobs = jobs
        self.token = token

    def Submit(self, request, context):
        return jobs_pb2.Job(number=self.run(context, self.jobs.submit, request.name))

    def Work(self, request, context):
        self.run(context, self.jobs.work, request.seconds)
        return jobs_pb2.Nothing()

    def AtWork(self, request, context):
        return jobs_pb2.Count(value=self.run(context, self.jobs.at_work))

    def run(self, context, method, *args):
        return trio.from_thread.run(self.call, context, method, *args, trio_token=self.token)

    async def call(self, context, method, *args):
        with trio.CancelScope() as scope:
            # At its deadline, on a cancel, and in any case at its end.
            context.add_callback(lambda: self.token.run_sync_soon(scope.cancel))
            return await method(*args)


async def main():
    jobs = Jobs()
    async with trio.open_nursery() as nursery:
        server = await nursery.start(trpc.serve_tcp, jobs, 0)
        old_server = grpc.server(ThreadPoolExecutor())
        jobs_pb2_grpc.add_JobsServicer_to_server(OldJobs(jobs, trio.lowlevel.current_trio_token()), old_server)
        port = old_server.add_insecure_port("127.0.0.1:0")
        old_server.start()
        print(f"127.0.0.1:{port} {server.url}", flush=True)


trio.run(main)
