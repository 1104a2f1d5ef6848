"""One peer: the parts of a connection, and their common end.

Tasks and who owns them::

    run()
    '- nursery
       |- (run itself)          greets the peer, then works
       |- Workers.work ...      read, run handlers, write: as many as do something at once
       |- Workers._retire       while workers wait for something to do
       |- _drain                while its calls are waited for, to end it in order
       |- Watch.run             of a client: looks at its one connection; a server has one for all
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

from ._authentication import identity_of
from ._caller import Caller
from ._client import Client
from ._context import is_handling_for
from ._credentials import Credentials
from ._dispatcher import Dispatcher
from ._errors import ClientClosed, ConnectionEnded, ConnectionLost, ProtocolError, RPCError, Unauthenticated
from ._exceptions import encode_status
from ._outbox import Outbox
from ._outgoing_interceptors import InterceptedCaller
from ._peer import Peer, set_identity
from ._protocol import Protocol
from ._reader import BROKEN, Reader
from ._share import Share
from ._workers import Workers

if TYPE_CHECKING:
    from collections.abc import Callable

    from ._activity import CallInfo
    from ._host import Host
    from ._transport import Transport
    from ._watch import Watch

logger = logging.getLogger("trpc")
# Of its own, as a line for each connection is too much for most.
connection_logger = logging.getLogger("trpc.connections")

# At the end: for what is queued to be written, and then for the peer to close its side. A peer that
# reads takes no time for it; one that does not read must not keep us.
_FLUSH_TIME: Final = 1.0


class Connection(Reader):
    """Both halves of one connection, and what reads and writes for them.

    Args:
        transport: the bytes; closed by :meth:`run`.
        host: the options of this side, and the methods that the peer may call.
        watch: looks at it while it runs; it is run here if nobody does.
        peer: who is at the other end, if more is known than the address.
        cancel_grace: seconds that our cancelled calls wait for their acknowledgement.
        on_end: called when :meth:`run` ends.

    Attributes:
        peer: who is at the other end.
        opened: when it began, in ``trio.current_time()`` seconds.
    """

    __slots__ = (
        "__weakref__",
        "_cancel_grace",
        "_client",
        "_closed_here",
        "_host",
        "_lost_error",
        "_on_end",
        "_progress",
        "_refusal",
        "_watch",
        "opened",
        "peer",
    )

    def __init__(
        self,
        transport: Transport,
        host: Host,
        watch: Watch[Connection] | None = None,
        *,
        peer: Peer | None = None,
        cancel_grace: float = 1.0,
        on_end: Callable[[Connection], None] | None = None,
    ) -> None:
        self.peer = peer or Peer(transport.address)
        self.opened = trio.current_time()
        limits = host.limits
        protocol, workers = Protocol(limits, Share(limits, host.pool)), Workers()
        outbox = Outbox(transport, max_unsent=limits.max_unsent, workers=workers, on_error=self._lose)
        super().__init__(transport, protocol, outbox, workers, limits)
        # Here and not in run(): users may call, and ping, as soon as there is a client.
        outbox.put(protocol.opening(host.token), control=True)
        self._closed_here = False
        self._host = host
        self._watch = watch
        self._refusal: RPCError | None = None
        """Why it accepts no more calls, or none at all."""
        self._progress: trio.Event | None = None
        self._cancel_grace = cancel_grace
        self._on_end = on_end
        self._caller = None
        self._client: Client | None = None
        self._lost_error: Callable[[bool], Exception] | None = None
        self._dispatcher = Dispatcher(
            host, protocol, outbox, workers, peer=self.peer, patience=cancel_grace, connection=self
        )
        connection_logger.debug("connection with %s opened", self.peer)

    @property
    def client(self) -> Client:
        """What users call the peer with."""
        if self._client is None:
            interceptors = self._host.outgoing_interceptors
            caller = InterceptedCaller(self.caller, self.peer, interceptors) if interceptors else self.caller
            self._client = Client(caller, self.peer)
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
        return self._caller

    @property
    def calls(self) -> list[CallInfo]:
        """The calls that the peer has in flight."""
        return self._dispatcher.calls

    def oldest_calls(self, most: int, *, besides: str) -> tuple[int, list[CallInfo]]:
        """How many calls the peer has in flight, and the oldest of them; without those whose names begin like that."""
        return self._dispatcher.oldest_calls(most, besides=besides)

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
                    elif self._refusal is not None:
                        nursery.start_soon(self._drain)
                    self._outbox.flush()
                    self._begin_watch(nursery)
                    await self._greet()
                    await self._admit()
                    self._is_read = True
                    await self._workers.work(self._read)
                    await trio.sleep_forever()
                finally:
                    self._lose(ConnectionEnded("this side ended it"))
        except Exception:
            # A handler's errors never come here, so this is a mistake of trpc's own. It concerns no other connection.
            logger.exception("internal error in the connection with %s, which is closed", self.peer)
        finally:
            self._protocol.share.close()
            self._protocol.fragments.items.close()
            if self._watch is not None:
                self._watch.connections.discard(self)
            if self._on_end is not None:
                self._on_end(self)

    async def _admit(self) -> None:
        """Finds out who the peer is. What it has sent behind its hello waits meanwhile, and is for nobody if it is refused."""
        peer, authenticate = self.peer, self._host.authenticate
        token = self._protocol.take_token()
        if authenticate is None or self._lost:
            return
        credentials = Credentials(token, peer.certificate, peer.unix, peer.address)
        try:
            set_identity(peer, await identity_of(credentials, authenticate, within=self._limits.hello_timeout))
        except Unauthenticated as exc:
            # Nothing of what was said, which may have secrets in it.
            logger.warning("%s is refused: it is not authenticated", peer)
            self._outbox.put(self._protocol.goaway(encode_status(exc), 0), control=True)
            self._closed_here = True
            self._lose(ConnectionEnded("it is not authenticated"))

    def _begin_watch(self, nursery: trio.Nursery) -> None:
        if self._watch is not None:
            self._watch.connections.add(self)
            if not self._watch.runs:
                nursery.start_soon(self._watch.run)

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

    # --- the soft end ---

    @trio.lowlevel.enable_ki_protection
    def drain(self, reason: RPCError) -> None:
        """Accepts no more calls, tells the peer why, and ends in order when those that it accepted have ended."""
        if self._lost or self._refusal is not None:
            return
        self._refusal = reason
        self._drains = True
        self._dispatcher.call_when_idle(self._on_progress)
        self._outbox.on_empty = self._on_progress
        # Ahead of replies that wait to be written: it says which calls get one.
        self._outbox.put(self._protocol.last_goaway(encode_status(reason)), control=True)
        if self._workers.nursery is not None:
            self._workers.nursery.start_soon(self._drain)

    @trio.lowlevel.enable_ki_protection
    async def _drain(self) -> None:
        while self.is_busy:
            self._progress = trio.Event()
            await self._progress.wait()
        self._closed_here = True
        self._lose(ConnectionEnded(str(self._refusal)))

    def _on_progress(self) -> None:
        if self._progress is not None:
            self._progress.set()

    @property
    def is_busy(self) -> bool:
        """Whether calls that were accepted have not ended, or replies to them are not written."""
        return (
            self._dispatcher.is_busy
            or self.has_unhandled
            or self._protocol.fragments.requests > 0
            or not self._outbox.is_empty
        )

    @trio.lowlevel.enable_ki_protection
    def cut(self, reason: str) -> None:
        """Ends it now: the peer's calls are cancelled."""
        self._lose(ConnectionLost(reason))

    # --- the end ---

    def _refuse(self, error: RPCError) -> None:
        """Lets the peer know why the connection ends."""
        logger.warning("closing the connection with %s: %s", self.peer, error)
        self._outbox.put(self._protocol.goaway(encode_status(error)), control=True)

    def _give_up(self, error: RPCError) -> None:
        # To close at once could make the systems throw away what was said last.
        self._closed_here = not self._lost
        super()._give_up(error)

    @trio.lowlevel.enable_ki_protection
    def _lose(self, reason: Exception) -> None:
        """The connection is over: all that depends on it ends at once. The first reason counts."""
        if self._lost:
            return
        self._lost = True
        self._log_end(reason)
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

    def _log_end(self, reason: Exception) -> None:
        loses_calls = self._dispatcher.is_busy or (self._caller is not None and self._caller.is_waiting)
        in_order = isinstance(reason, ConnectionEnded | ClientClosed) and not loses_calls
        connection_logger.log(
            logging.DEBUG if in_order else logging.INFO,
            "connection with %s closed after %.3f s%s: %s",
            self.peer,
            trio.current_time() - self.opened,
            ", with calls in flight" if loses_calls else "",
            str(reason) or type(reason).__name__,
        )

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
