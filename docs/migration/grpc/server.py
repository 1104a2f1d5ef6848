import asyncio

import grpc
import jobs_pb2
import jobs_pb2_grpc


class Jobs(jobs_pb2_grpc.JobsServicer):
    def __init__(self):
        self.names = {}
        self.at_work = 0

    async def Submit(self, request, context):
        number = len(self.names) + 1
        self.names[number] = request.name
        return jobs_pb2.Job(number=number)

    async def Progress(self, request, context):
        if request.number not in self.names:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"there is no job {request.number}")
        for done in 25, 50, 75, 100:
            yield jobs_pb2.Percent(done=done)

    async def Work(self, request, context):
        self.at_work += 1
        try:
            await asyncio.sleep(request.seconds)
        finally:
            await asyncio.sleep(0.5)  # tidies up
            self.at_work -= 1
        return jobs_pb2.Nothing()

    async def AtWork(self, request, context):
        return jobs_pb2.Count(value=self.at_work)


async def main():
    server = grpc.aio.server()
    jobs_pb2_grpc.add_JobsServicer_to_server(Jobs(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(f"127.0.0.1:{port}", flush=True)
    await server.wait_for_termination()


asyncio.run(main())
