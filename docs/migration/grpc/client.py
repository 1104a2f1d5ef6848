import asyncio
import sys

import grpc
import jobs_pb2
import jobs_pb2_grpc


async def main(target):
    async with grpc.aio.insecure_channel(target) as channel:
        jobs = jobs_pb2_grpc.JobsStub(channel)

        job = await jobs.Submit(jobs_pb2.SubmitRequest(name="report"))
        print("submitted: job", job.number)

        async for percent in jobs.Progress(job):
            print("progress:", percent.done)

        try:
            async for percent in jobs.Progress(jobs_pb2.Job(number=7)):
                print("progress:", percent.done)
        except grpc.aio.AioRpcError as exc:
            if exc.code() != grpc.StatusCode.NOT_FOUND:
                raise
            print("error:", exc.details())

        try:
            await jobs.Work(jobs_pb2.WorkRequest(seconds=60), timeout=0.5)
        except grpc.aio.AioRpcError as exc:
            if exc.code() != grpc.StatusCode.DEADLINE_EXCEEDED:
                raise
            print("timed out; at work in the server:", await at_work(jobs))
        await no_more_work(jobs)

        work = asyncio.create_task(call_work(jobs))
        await asyncio.sleep(0.5)
        work.cancel()
        try:
            await work
        except asyncio.CancelledError:
            print("cancelled; at work in the server:", await at_work(jobs))
        await no_more_work(jobs)


async def call_work(jobs):
    await jobs.Work(jobs_pb2.WorkRequest(seconds=60))


async def at_work(jobs):
    return (await jobs.AtWork(jobs_pb2.Nothing())).value


async def no_more_work(jobs):
    while await at_work(jobs):
        await asyncio.sleep(0.05)
    print("a while later: 0")


asyncio.run(main(sys.argv[1]))
