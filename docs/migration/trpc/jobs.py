from collections.abc import AsyncIterator

import trio

import trpc


@trpc.exception
class NoSuchJob(Exception):
    number: int

    def __init__(self, message: str, number: int) -> None:
        super().__init__(message)
        self.number = number


class Jobs:
    def __init__(self) -> None:
        self._names: dict[int, str] = {}
        self._at_work = 0

    @trpc.method
    async def submit(self, name: str) -> int:
        number = len(self._names) + 1
        self._names[number] = name
        return number

    @trpc.method
    async def progress(self, number: int) -> AsyncIterator[int]:
        if number not in self._names:
            raise NoSuchJob(f"there is no job {number}", number)
        for done in 25, 50, 75, 100:
            yield done

    @trpc.method
    async def work(self, seconds: float) -> None:
        self._at_work += 1
        try:
            await trio.sleep(seconds)
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(0.5)  # tidies up
            self._at_work -= 1

    @trpc.method
    async def at_work(self) -> int:
        return self._at_work
