"""The interceptors of the calling side: around calls, before anything of them is encoded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import trio

from ._interceptors import Call, intercepted
from ._metadata import outgoing_metadata, replaced_metadata
from ._stream_call import call_with_streams

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from ._caller import Caller
    from ._interceptors import Interceptor
    from ._peer import Peer
    from ._signature import Signature


class InterceptedCaller:
    """Stands in for a caller, for the client and its proxies.

    Args:
        plain: makes the calls.
        peer: who is called.
        interceptors: put around them, except those whose result is a stream.

    Attributes:
        plain: as above.
    """

    __slots__ = ("_interceptors", "_peer", "plain")

    def __init__(self, plain: Caller, peer: Peer, interceptors: Sequence[Interceptor]) -> None:
        self.plain = plain
        self._peer = peer
        self._interceptors = interceptors

    @property
    def late_replies(self) -> int:
        """See :class:`Caller`."""
        return self.plain.late_replies

    async def call(
        self,
        method: str,
        args: Sequence[object],
        kwargs: Mapping[str, object] | None,
        signature: Signature | None = None,
    ) -> Any:
        """As ``call_with_streams``, each time that an interceptor proceeds."""

        def send(call: Call) -> Awaitable[Any]:
            if signature is not None and not signature.has_streams:
                return self.plain.call(method, call.args, call.kwargs, signature)
            return call_with_streams(self.plain, method, call.args, call.kwargs, signature)

        return await self._run(method, args, kwargs, send)

    async def notify(self, method: str, args: Sequence[object], kwargs: Mapping[str, object] | None) -> None:
        """Sends a one-way call, each time that an interceptor proceeds."""
        await self._run(method, args, kwargs, lambda call: self.plain.notify(method, call.args, call.kwargs))

    async def ping(self) -> float:
        """See :class:`Caller`."""
        return await self.plain.ping()

    # They are the user's code, although what is around them is protected from Ctrl-C.
    @trio.lowlevel.disable_ki_protection
    async def _run(
        self,
        method: str,
        args: Sequence[object],
        kwargs: Mapping[str, object] | None,
        send: Callable[[Call], Awaitable[Any]],
    ) -> Any:
        original = Call(method, tuple(args), kwargs or {}, outgoing_metadata() or {}, self._peer)

        async def handle(call: Call) -> Any:
            if call.metadata is original.metadata:
                return await send(call)
            with replaced_metadata(call.metadata):
                return await send(call)

        return await intercepted(self._interceptors, original, handle)
