from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager
from typing import TypeVar

import trio
from outcome import Error, Outcome, Value

T = TypeVar("T")


class Threads:
    """Lets threads of another library call a service that runs in Trio."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery
        self._token = trio.lowlevel.current_trio_token()

    def call(
        self, method: Callable[..., Awaitable[T]], *args: object, scope: trio.CancelScope | None = None
    ) -> T | None:
        """What the method returns; None if the scope was cancelled."""

        async def call() -> T | None:
            with scope or trio.CancelScope():
                return await method(*args)
            return None

        return trio.from_thread.run(call, trio_token=self._token)

    def items(
        self, stream: AbstractAsyncContextManager[trio.abc.ReceiveChannel[T]], scope: trio.CancelScope | None = None
    ) -> Iterator[T]:
        """The items of a stream, each fetched when it is asked for. The stream ends with the loop over them."""
        scope = scope or trio.CancelScope()
        sender, receiver = trio.open_memory_channel[Outcome[T]](0)

        # A task for the whole stream: what is entered in a task has to be left in it.
        async def send() -> None:
            with scope, sender, receiver:
                end: Error = Error(StopAsyncIteration())
                try:
                    async with stream as items:
                        async for item in items:
                            await sender.send(Value(item))
                except Exception as exc:  # noqa: BLE001 - the thread gets it
                    end = Error(exc)
                await sender.send(end)

        self._token.run_sync_soon(self._nursery.start_soon, send)
        try:
            while True:
                yield trio.from_thread.run(receiver.receive, trio_token=self._token).unwrap()
        except StopAsyncIteration:
            pass
        finally:
            self.cancel(scope)

    def cancel(self, scope: trio.CancelScope) -> None:
        self._token.run_sync_soon(scope.cancel)
