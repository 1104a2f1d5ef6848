"""One peer: the parts of a connection, and their common end.

Tasks and who owns them::

    run()
    '- nursery
       |- (run itself)          greets the peer, then works
       |- Workers.work ...      read, run handlers, write: as many as do something at once
       |- Workers._retire       while workers wait for something to do
       |- _lose_on_cancel       once a handler has called back
       '- _end                  once it is over: writes what is left, and closes the transport

However the connection ends (the peer closes it, breaks the protocol or breaks off; we close it; we are
cancelled), it ends through :meth:`Connection._lose`: our calls fail, the peer's handlers are cancelled,
what is queued is written within a short time, and the transport is closed, although a handler that
shields itself may go on.

Ctrl-C must not strike between two lines that belong together, such as waking a task and noting that it is
awake: the second wake-up would be an internal error of Trio's. So whatever changes the state of a
connection is protected from it, in the connection's own tasks and in those of callers. A handler is not,
and neither is what its caller awaits: Trio delivers the interrupt there, as a kind of cancel.
"""

from __future__ import annotations

import contextlib
import functools
import logging
from typing import TYPE_CHECKING, Final

import trio

from ._caller import Caller
from ._client import Client
from ._context import is_handling_for
from ._dispatcher import Dispatcher
from ._errors import ClientClosed, ConnectionLost, ProtocolError
from ._exceptions import encode_status
from ._outbox import Outbox
from ._peer import Peer
from ._protocol import Protocol
from ._reader import BROKEN, Reader
from ._workers import Workers

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ._incoming_call import CallInfo
    from ._limits import Limits
    from ._service import BoundMethod
    from ._transport import Transport

logger = logging.getLogger("trpc")

# At the end: for what is queued to be written, and then for the peer to close its side. A peer that
# reads takes no time for it; one that does not read must not keep us.
_FLUSH_TIME: Final = 1.0


class Connection(Reader):
    """Both halves of one connection, and what reads and writes for them.

    Args:
        transport: the bytes; closed by :meth:`run`.
        limits: what this side accepts.
        table: methods that the peer may call.
        send_tracebacks: whether errors carry the handler's traceback.
        cancel_grace: seconds that our cancelled calls wait for their acknowledgement.
        on_end: called when :meth:`run` ends.

    Attributes:
        peer: who is at the other end.
        opened: when it began, in ``trio.current_time()`` seconds.
    """

    __slots__ = ("__weakref__", "_cancel_grace", "_client", "_closed_here", "_lost_error", "_on_end", "opened", "peer")

    def __init__(
        self,
        transport: Transport,
        *,
        limits: Limits,
        table: Mapping[str, BoundMethod],
        send_tracebacks: bool = False,
        cancel_grace: float = 1.0,
        on_end: Callable[[Connection], None] | None = None,
    ) -> None:
        self.peer = Peer(transport.address)
        self.opened = trio.current_time()
        protocol, workers = Protocol(limits), Workers()
        outbox = Outbox(transport, max_unsent=limits.max_unsent, workers=workers, on_error=self._lose)
        super().__init__(transport, protocol, outbox, workers, limits)
        # Here and not in run(): users may call, and ping, as soon as there is a client.
        outbox.put(protocol.opening(), control=True)
        self._closed_here = False
        self._cancel_grace = cancel_grace
        self._on_end = on_end
        self._caller = None
        self._client: Client | None = None
        self._lost_error: Callable[[bool], Exception] | None = None
        self._dispatcher = Dispatcher(
            table,
            protocol,
            outbox,
            workers,
            peer=self.peer,
            limits=limits,
            send_tracebacks=send_tracebacks,
            patience=cancel_grace,
            connection=self,
        )

    @property
    def client(self) -> Client:
        """What users call the peer with."""
        if self._client is None:
            self._client = Client(self.caller, self.peer)
        return self._client

    @property
    def caller(self) -> Caller:
        """Our calls. Made on first use: most connections of a server never call."""
        if self._caller is None:
            self._caller = Caller(
                self._protocol,
                self._outbox,
                self._workers,
                cancel_grace=self._cancel_grace,
                max_depth=self._limits.max_depth,
                max_calls=self._limits.max_calls,
                stream_credit=self._limits.stream_credit,
                is_nested=functools.partial(is_handling_for, self.peer),
            )
            if self._protocol.peer_is_known:
                self._caller.on_hello()
            if self._lost_error is not None:
                self._caller.on_lost(self._lost_error)
            elif self._workers.nursery is not None:
                self._workers.nursery.start_soon(self._lose_on_cancel)
        return self._caller

    @property
    def calls(self) -> list[CallInfo]:
        """The calls that the peer has in flight."""
        return self._dispatcher.calls

    @trio.lowlevel.enable_ki_protection
    async def run(self) -> None:
        """Lives as long as the connection. Raises only what a handler raised to end the whole process.

        Cancelled: the handlers are cancelled, replies that are queued are written within a second.
        """
        try:
            async with trio.open_nursery() as nursery:
                self._workers.nursery = nursery
                try:
                    if self._lost:  # closed before it was run
                        self._begin_end(nursery)
                    self._outbox.flush()
                    await self._greet()
                    await self._workers.work(self._read)
                    await trio.sleep_forever()
                finally:
                    self._lose(ConnectionLost("this side ended it"))
        except Exception:
            # A handler's errors never come here, so this is a mistake of trpc's own. It concerns no other connection.
            logger.exception("internal error in the connection with %s, which is closed", self.peer)
        finally:
            if self._on_end is not None:
                self._on_end(self)

    @trio.lowlevel.enable_ki_protection
    async def close(self, *, orderly: bool) -> None:
        """Ends the connection from this side: calls in flight are cancelled and waited for, within the grace.

        Args:
            orderly: see to it that the peer gets what was written last, which takes a round trip.
        """
        try:
            await self.caller.close()
        finally:  # an interrupt may end the wait
            self._closed_here = orderly and not self._lost
            self._lose(ClientClosed("this client is closed"))

    # --- the end ---

    def _refuse(self, error: ProtocolError) -> None:
        """Lets the peer know why the connection ends."""
        logger.warning("closing the connection with %s: %s", self.peer, error)
        self._outbox.put(self._protocol.goaway(encode_status(error)), control=True)

    @trio.lowlevel.enable_ki_protection
    def _lose(self, reason: Exception) -> None:
        """The connection is over: all that depends on it ends at once. The first reason counts."""
        if self._lost:
            return
        self._lost = True
        # What it has sent so far is not the beginning of any hello.
        is_refused = isinstance(reason, ProtocolError) and not self._protocol.peer_is_known

        def error(maybe_executed: bool) -> Exception:
            if is_refused:
                # Not a connection that was lost, but a peer that never was one: retrying does not help.
                return ProtocolError(f"{self.peer}: {reason}")
            cls = ClientClosed if isinstance(reason, ClientClosed) else ConnectionLost
            what = str(reason) or type(reason).__name__
            exc = cls(f"connection to {self.peer} lost: {what}", maybe_executed=maybe_executed)
            exc.__cause__ = reason
            return exc

        self._lost_error = error
        if self._caller is not None:
            self._caller.on_lost(error)
        self._outbox.close(within=_FLUSH_TIME)
        if self._workers.nursery is not None:
            self._begin_end(self._workers.nursery)

    def _begin_end(self, nursery: trio.Nursery) -> None:
        nursery.cancel_scope.cancel()
        self._workers.end()
        nursery.start_soon(self._end)

    @trio.lowlevel.enable_ki_protection
    async def _end(self) -> None:
        """Writes what is queued, and closes the transport; it does not wait for the handlers. All of it is bounded."""
        with trio.CancelScope(shield=True):
            try:
                await self._outbox.finish()
                if self._closed_here:
                    await self._linger()
            finally:
                await self._transport.close()

    async def _lose_on_cancel(self) -> None:
        """Runs beside handlers that call back. If the server is cancelled, it ends what they wait for.

        They wait for acknowledgements, which nobody reads any more, and :meth:`run` may be one of them.
        """
        try:
            await trio.sleep_forever()
        finally:
            self._lose(ConnectionLost("this side ended it"))

    async def _linger(self) -> None:
        """Tells the peer that this was all, and waits for its end of the stream.

        Closing at once could make the peer's system throw away what it has received and not yet read.
        """
        with trio.move_on_after(_FLUSH_TIME), contextlib.suppress(*BROKEN):
            # Whoever reads has been woken, and leaves in this pass of the event loop.
            await trio.lowlevel.checkpoint()
            if await self._transport.send_eof():
                while self._transport.receive_nowait() != b"":
                    await self._transport.wait_readable()
