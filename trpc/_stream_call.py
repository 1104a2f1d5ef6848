"""Calls of ours that have streams: in their arguments, as their result, or both."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

import trio

from ._argument_streams import ArgumentStreams
from ._errors import MessageTooLarge, ProtocolError, RPCError
from ._exceptions import decode_error, is_after_cancel
from ._frames import Frame
from ._incoming_stream import NO_ROOM, IncomingStream
from ._messages import Kind
from ._outgoing_call import OutgoingCall

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Generator, Mapping, Sequence
    from types import TracebackType

    from ._caller import Caller
    from ._signature import Signature


class Calling(Protocol):
    """What a client and its proxies call with: a caller, or what stands in for one that has interceptors."""

    @property
    def plain(self) -> Caller:
        """The caller, without interceptors."""
        ...

    @property
    def late_replies(self) -> int:
        """See :class:`Caller`."""
        ...

    def call(
        self,
        method: str,
        args: Sequence[object],
        kwargs: Mapping[str, object] | None,
        signature: Signature | None = None,
    ) -> Awaitable[Any]:
        """See :class:`Caller`."""
        ...

    def notify(self, method: str, args: Sequence[object], kwargs: Mapping[str, object] | None) -> Awaitable[None]:
        """See :class:`Caller`."""
        ...

    def ping(self) -> Awaitable[float]:
        """See :class:`Caller`."""
        ...


@trio.lowlevel.enable_ki_protection
async def call_with_streams(
    caller: Calling,
    method: str,
    args: Sequence[object],
    kwargs: Mapping[str, object],
    signature: Signature | None = None,
) -> Any:
    """Calls a method of the peer whose arguments may be streams. What is raised: see ``Client.call``.

    The streams are produced in child tasks of this one. An exception of a producer is raised in the handler,
    behind the items before it. Cancelled: the producers are, too.
    """
    if signature is None and not any(hasattr(value, "__aiter__") for value in (*args, *kwargs.values())):
        # By name, as most calls are that go through here.
        return await caller.call(method, args, kwargs)
    plain = caller.plain
    if plain is not caller:
        # Its interceptors are to see the streams, and it comes back here.
        return await caller.call(method, args, kwargs, signature)
    arguments = ArgumentStreams(method, args, kwargs, signature)
    if not arguments.places:
        return await plain.call(method, args, kwargs, signature)
    call = OutgoingCall(method, signature)
    call.places = arguments.places
    async with arguments.nursery() as nursery:
        await plain.start(call, arguments.args, arguments.kwargs)
        arguments.send(call, nursery, plain.protocol, plain.outbox)
        return await plain.wait(call)


class StreamCall:
    """A call whose result is a stream: enter it with ``async with``, once, to make the call.

    Inside there is a receive channel, see :class:`IncomingStream`. Leaving the block before the last item cancels the
    producer and waits for its end, at most the client's ``cancel_grace``. What it raises on that occasion is raised
    here, if nothing else is; what it had raised before is not, as the items before that were not read either.

    A deadline in effect when it is entered is that of the whole stream. Cancelled: as when it is left early.

    Args:
        caller: makes the call; past its interceptors, which a block of the user's does not fit into.
        method: its name on the wire.
        args, kwargs: its arguments.
        signature: what it takes and gives, if that is known here.
    """

    def __init__(
        self,
        caller: Calling,
        method: str,
        args: Sequence[object],
        kwargs: Mapping[str, object],
        signature: Signature | None = None,
    ) -> None:
        self._caller = caller
        self._method = method
        self._args = args
        self._kwargs = kwargs
        self._signature = signature
        self._is_refused = False
        self._manager: contextlib.AbstractAsyncContextManager[IncomingStream] | None = None

    @trio.lowlevel.enable_ki_protection
    async def __aenter__(self) -> IncomingStream:
        if self._manager is not None:
            raise RuntimeError(f"{self._method}: a stream can be entered once; make the call again for another one")
        self._manager = self._open()
        return await self._manager.__aenter__()

    @trio.lowlevel.enable_ki_protection
    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> bool | None:
        assert self._manager is not None
        return await self._manager.__aexit__(exc_type, exc, tb)

    def _bad_item(self, reason: str) -> RPCError:
        if reason is NO_ROOM:
            return MessageTooLarge(f"{self._method}: an item: {reason}")
        return ProtocolError(f"{self._method}: an item is not what the method gives: {reason}")

    @contextlib.asynccontextmanager
    async def _open(self) -> AsyncGenerator[IncomingStream, None]:
        await trio.lowlevel.checkpoint()
        caller = self._caller.plain
        arguments = ArgumentStreams(self._method, self._args, self._kwargs, self._signature)
        call = OutgoingCall(self._method, self._signature)
        call.places = arguments.places
        items = None if self._signature is None else self._signature.items
        call.items = IncomingStream(
            _Producer(caller, call),
            credit=caller.stream_credit,
            items=items,
            max_depth=caller.max_depth,
            bad_item=self._bad_item,
        )
        async with arguments.nursery() as nursery:
            await caller.start(call, arguments.args, arguments.kwargs)
            arguments.send(call, nursery, caller.protocol, caller.outbox)
            try:
                yield call.items
            finally:
                call.items.close()
                await caller.leave(call, call.items)
                # Not for the garbage collector to find.
                call.items = None
            if call.cancelled:
                self._raise_late_error(call)

    def _raise_late_error(self, call: OutgoingCall) -> None:
        """Raises what the producer has raised when it was cancelled."""
        reply = call.result
        if isinstance(reply, Frame) and reply.kind == Kind.ERROR:
            body, max_depth = bytes(reply.body), self._caller.plain.max_depth
            if is_after_cancel(body, max_depth=max_depth):
                raise decode_error(body, max_depth=max_depth)

    def __await__(self) -> Generator[Any, Any, NoReturn]:
        raise TypeError(f"{self._method} gives a stream: `async with ... as items`, instead of `await`")

    def __aiter__(self) -> NoReturn:
        self._is_refused = True
        raise TypeError(f"{self._method} gives a stream: first `async with ... as items`, then `async for`")


class UntypedCall(StreamCall, Coroutine[Any, Any, Any]):
    """A call of which is not known here what it gives: await it for a value, or enter it for a stream.

    It is a coroutine too, so that ``nursery.start_soon(proxy.method)`` makes the call.
    """

    _coroutine: Coroutine[Any, Any, Any] | None = None

    def _begin(self) -> Coroutine[Any, Any, Any]:
        if self._coroutine is None:
            self._coroutine = call_with_streams(self._caller, self._method, self._args, self._kwargs)
        return self._coroutine

    def __await__(self) -> Generator[Any, Any, Any]:
        return self._begin().__await__()

    def send(self, value: Any, /) -> Any:
        return self._begin().send(value)

    def throw(self, typ: Any, val: Any = None, tb: Any = None, /) -> Any:
        # The form with three arguments is going away.
        exc = typ if val is None else val
        return self._begin().throw(exc if tb is None else exc.with_traceback(tb))

    def close(self) -> None:
        self._begin().close()

    def __del__(self) -> None:
        if self._coroutine is None and self._manager is None and not self._is_refused:
            warnings.warn(f"a call of {self._method} was never awaited", RuntimeWarning, source=self, stacklevel=2)


class _Producer:
    """What sends the items of a stream that is the result of a call, as its consumer deals with it."""

    __slots__ = ("_call", "_caller")

    def __init__(self, caller: Caller, call: OutgoingCall) -> None:
        self._caller = caller
        self._call = call

    def grant(self, size: int) -> None:
        self._caller.grant(self._call, size)

    async def leave(self) -> None:
        if self._call.items is None:
            # The block has been left.
            await trio.lowlevel.checkpoint()
        else:
            await self._caller.leave(self._call, self._call.items)
