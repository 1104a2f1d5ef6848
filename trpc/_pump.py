"""Takes items from whatever produces them, and gives them to a stream.

As long as the producer has items at once, they are gathered, and leave in messages of many. As soon as it
waits for something, what is gathered leaves, so that no item waits for the next one. That is found out by
driving the producer's ``__anext__`` by hand for its first step; see ``_relay``, which does so with handlers.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING, Any, Final, cast

import trio

from . import _codec
from ._errors import InvalidArguments, MessageTooLarge
from ._relay import resume

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Coroutine

    from ._outgoing_stream import OutgoingStream

# Seconds after which others get their turn, although the producer has more items at once.
_MAX_TIME: Final = 0.0005


class ItemError(Exception):
    """An item cannot be sent; the reason is the cause."""

    def __init__(self, reason: InvalidArguments | MessageTooLarge) -> None:
        super().__init__(str(reason))
        self.reason = reason


@trio.lowlevel.enable_ki_protection
async def pump(source: AsyncIterable[object], stream: OutgoingStream) -> None:
    """Sends all items of ``source``, and waits until they have left. Its async generator is closed in any case.

    What happens to this task while it waits for the peer (a cancel, a deadline) happens to an async generator where
    it has yielded, so that a cancel scope around the ``yield`` does what it says.

    Raises:
        ItemError: an item cannot be sent.
        Exception: what ``source`` raises, after the items before it have left.
    """
    iterator: AsyncIterator[object] = source.__aiter__()
    try:
        await _send_items(iterator, stream)
    finally:
        await close(iterator)


async def close(source: AsyncIterable[object]) -> None:
    """Closes an async generator; what else there is belongs to whoever has made it."""
    if not isinstance(source, AsyncGenerator):
        return
    try:
        await source.aclose()
    except BaseExceptionGroup as group:
        # What a nursery around the `yield` makes of a GeneratorExit, which Python then does not recognise.
        _, rest = group.split(GeneratorExit)
        if rest is not None:
            raise rest from None


async def _send_items(iterator: AsyncIterator[object], stream: OutgoingStream) -> None:
    take = iterator.__anext__
    take_nowait = iterator.receive_nowait if isinstance(iterator, trio.MemoryReceiveChannel) else None
    throw: Callable[[BaseException], Coroutine[Any, Any, object]] | None = getattr(iterator, "athrow", None)
    clock = trio.lowlevel.current_clock()
    since = clock.current_time()
    try:
        while not stream.is_over:
            item = await _attend(cast("Coroutine[Any, Any, object]", take()), stream.send_soon)
            _add(stream, item)
            if take_nowait is not None:
                _add_ready(stream, take_nowait)
            while stream.is_full or clock.current_time() - since > _MAX_TIME:
                try:
                    await stream.wait_sent()
                except BaseException as exc:
                    if throw is None:
                        raise
                    _add(stream, await throw(exc))
                since = clock.current_time()
    except StopAsyncIteration:
        pass
    except Exception as exc:
        try:
            await stream.wait_sent()
        except trio.Cancelled:
            # The items before it do not leave any more, but it does: it may be what the producer raised on its cancel.
            raise exc from exc.__cause__
        raise
    except BaseException:
        # It ends more than this stream, and nothing waits for the peer any more.
        stream.send(alone=False)
        raise
    await stream.wait_sent()


def _add(stream: OutgoingStream, item: object) -> None:
    try:
        stream.add(item)
    except _codec.EncodeError as exc:
        raise ItemError(InvalidArguments(f"an item cannot be sent: {exc}")) from exc
    except MessageTooLarge as exc:
        raise ItemError(exc) from exc


def _add_ready(stream: OutgoingStream, take_nowait: Callable[[], object]) -> None:
    """What is in a channel already. To receive it one by one would let other tasks run in between."""
    try:
        while not stream.is_full:
            _add(stream, take_nowait())
    except (trio.WouldBlock, trio.EndOfChannel, trio.ClosedResourceError):
        pass  # for the next receive() to find


async def _await(awaitable: Awaitable[object]) -> object:
    return await awaitable


async def _attend(step: Coroutine[Any, Any, object], on_wait: Callable[[], None]) -> object:
    """Awaits ``step``; says so if it has to wait."""
    if not hasattr(step, "send"):
        step = _await(step)
    try:
        yielded = _call(step.send, None)
    except StopIteration as stop:
        return stop.value
    on_wait()
    return await resume(step, yielded, _call)


@trio.lowlevel.disable_ki_protection
def _call(function: Callable[[Any], Any], argument: Any) -> Any:
    return function(argument)
