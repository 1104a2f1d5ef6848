import sys

import trio
from jobs import Jobs, NoSuchJob

import trpc


async def main(url: str) -> None:
    async with trpc.connect(url) as client:
        jobs = client.proxy(Jobs)

        number = await jobs.submit("report")
        print("submitted: job", number)

        async with jobs.progress(number) as progress:
            async for percent in progress:
                print("progress:", percent)

        try:
            async with jobs.progress(7) as progress:
                async for percent in progress:
                    print("progress:", percent)
        except NoSuchJob as exc:
            print("error:", exc)

        try:
            with trio.fail_after(0.5):
                await jobs.work(60)
        except trio.TooSlowError:
            print("timed out; at work in the server:", await jobs.at_work())

        async with trio.open_nursery() as nursery:
            nursery.start_soon(jobs.work, 60)
            await trio.sleep(0.5)
            nursery.cancel_scope.cancel()
        print("cancelled; at work in the server:", await jobs.at_work())


trio.run(main, sys.argv[1])
