"""One peer: reads its bytes, hands them to the protocol, and the messages to the caller's or callee's half.

Tasks and who owns them::

    run()
    |- outer nursery
    |  |- _write                  writes, and closes the transport at the end; a cancel from outside does not
    |  |                          reach it, closing the outbox ends it
    |  '- inner nursery           everything that the peer's requests and our cancels start
    |     |- (run itself)         reads; the end of reading ends the connection
    |     |- _await_hello         until the peer's hello is there
    |     |- Dispatcher._run ...  one for each call that the peer has in flight
    |     '- Caller._enforce_grace  while cancelled calls of ours wait for their acknowledgement

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
import logging
import math
from typing import TYPE_CHECKING, Final

import trio

from ._caller import Caller
from ._context import Peer
from ._dispatcher import Dispatcher
from ._errors import ClientClosed, ConnectionLost, ProtocolError
from ._exceptions import encode_status
from ._messages import Kind
from ._outbox import Outbox
from ._protocol import Protocol
from ._workers import Workers

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator, Mapping

    from ._caller import OutgoingCall
    from ._dispatcher import CallInfo
    from ._frames import Frame
    from ._limits import Limits
    from ._service import BoundMethod
    from ._transport import Transport
    from ._workers import Worker

logger = logging.getLogger("trpc")

# At the end: for what is queued to be written, and then for the peer to close its side. A peer that
# reads takes no time for it; one that does not read must not keep us.
_FLUSH_TIME: Final = 1.0

# What one connection may do before all others get their turn: so many requests, or as many as begin within
# so many seconds. Replies leave as often, so that the peer can work on them meanwhile.
_MAX_REQUESTS: Final = 32
_MAX_TIME: Final = 0.001

# A read before waiting that finds nothing costs as much as a small call saves. So after one, two, four, ... of
# them in a row, it is left out so often.
_MAX_EARLY_MISSES: Final = 64

# Seconds without a call after which the client's own task reads again; until then callers read for
# themselves. Also how much later it may see a ping, or the end of the connection.
_LEAD_TIME: Final = 0.02

_BROKEN: Final = (trio.BrokenResourceError, trio.ClosedResourceError)
# Of the enum, each would be an attribute to look up, and these are needed for every message.
_REQUEST, _NOTIFY, _RESULT = Kind.REQUEST.value, Kind.NOTIFY.value, Kind.RESULT.value
_NO_FRAMES: Final[Iterator[Frame]] = iter(())


class Connection:
    """Both halves of one connection, and the task that reads.

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

    __slots__ = (
        "__weakref__",
        "_caller",
        "_callers_may_read",
        "_cancel_grace",
        "_closed_here",
        "_dispatcher",
        "_early_misses",
        "_early_skips",
        "_frames",
        "_leader",
        "_leader_is_patient",
        "_limits",
        "_lost",
        "_on_end",
        "_outbox",
        "_protocol",
        "_requests_left",
        "_standby",
        "_transport",
        "_workers",
        "opened",
        "peer",
    )

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
        self._transport = transport
        self._limits = limits
        self._protocol = Protocol(limits)
        self._workers = Workers()
        self._outbox = Outbox(
            transport, max_unsent=limits.max_unsent, workers=self._workers, on_error=self._lose
        )
        # Here and not in run(): users may call, and ping, as soon as there is a client.
        self._outbox.put(self._protocol.opening(), control=True)
        self._frames: Iterator[Frame] = _NO_FRAMES
        """Received, and not handled yet."""
        self._requests_left = _MAX_REQUESTS
        """How many more may be handled before others get their turn."""
        self._early_skips = 0
        self._early_misses = 1
        self._lost = False
        self._closed_here = False
        # With methods to call, it has to be read all the time.
        self._callers_may_read = transport.anyone_may_read and not table
        self._leader: OutgoingCall | None = None
        self._leader_is_patient = False
        """Whether its call is a long one, so that the reader does not look after it."""
        self._standby: trio.lowlevel.Task | None = None
        """The reader, while it leaves the reading to callers."""
        self._cancel_grace = cancel_grace
        self._on_end = on_end
        self._caller: Caller | None = None
        self._dispatcher = Dispatcher(
            table,
            self._protocol,
            self._outbox,
            self._workers,
            peer=self.peer,
            limits=limits,
            send_tracebacks=send_tracebacks,
        )

    @property
    def caller(self) -> Caller:
        """Our calls. Made on first use, before :meth:`run`: most connections of a server never call."""
        if self._caller is None:
            assert self._workers.nursery is None
            self._caller = Caller(
                self._protocol,
                self._outbox,
                self._workers,
                cancel_grace=self._cancel_grace,
                max_depth=self._limits.max_depth,
                max_calls=self._limits.max_calls,
                wake_reader=self._wake_reader,
            )
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

    # --- reading ---

    async def _greet(self) -> None:
        """Reads the peer's hello. Ends the connection if it does not say who it is in time."""
        with trio.move_on_after(self._limits.hello_timeout) as scope:
            while not self._protocol.peer_is_known and not self._lost:
                try:
                    await self._transport.wait_readable()
                except _BROKEN as exc:
                    self._lose(exc)
                if self._receive() and next(self._frames, None) is not None and self._caller is not None:
                    self._caller.on_hello()
        if scope.cancelled_caught:
            reason = f"no hello within {self._limits.hello_timeout} s: it is too busy, or does not speak trpc"
            self._refuse(ProtocolError(reason))
            # It may be there, and only be slow: worth another try.
            self._lose(ConnectionLost(reason))

    @trio.lowlevel.enable_ki_protection
    async def _read(self, worker: Worker) -> None:
        """Reads and handles what the peer sends, until the connection is over or somebody else does."""
        outbox = self._outbox
        while not self._lost:
            suspended = self._handle(worker)
            if suspended is not None:
                # It has begun to wait for something, which must not happen before Trio knows: so the next
                # reader also writes the replies that are ready.
                self._workers.run(self._read)
                await suspended
                return
            outbox.flush()
            if worker.is_spent:
                self._workers.run(self._read)
                return
            if outbox.unsent_answers and outbox.is_full_of_answers:
                # The peer does not read them, so it gets no more.
                await outbox.wait_until_answered()
            elif self._requests_left <= 0:
                self._requests_left = _MAX_REQUESTS
                await trio.lowlevel.checkpoint()
            elif self._frames is _NO_FRAMES:
                if self._callers_may_read and self.caller.is_idle:
                    await self._stand_by()
                elif self._receive_early():
                    continue
                self._requests_left = _MAX_REQUESTS
                # Not in a function of its own, which would be one more to go through when the task is resumed.
                try:
                    await self._transport.wait_readable()
                except _BROKEN as exc:
                    self._lose(exc)
                self._receive()

    def _receive_early(self) -> bool:
        """Reads without waiting first, if that was of use lately; whether there was something.

        It is when the peer has answered while this side was still writing, as peers on the same core do.
        """
        if self._early_skips:
            self._early_skips -= 1
            return False
        if self._receive():
            self._early_misses = 1
            return True
        self._early_skips = self._early_misses
        self._early_misses = min(2 * self._early_misses, _MAX_EARLY_MISSES)
        return self._lost

    def _receive(self) -> bool:
        """Reads what is there, for :meth:`_handle`; whether there was something."""
        try:
            room = self._protocol.frames.room() if self._protocol.frames.missing else None
            if room is None:
                data = self._transport.receive_nowait()
                if data is None:
                    return False
                if data:
                    self._frames = iter(self._protocol.receive(data))
                    return True
            else:
                with room:
                    size = self._transport.receive_into(room)
                if size is None:
                    return False
                if size:
                    self._frames = iter(self._protocol.receive_filled(size))
                    return True
        except _BROKEN as exc:
            self._lose(exc)
        except ProtocolError as exc:
            self._refuse(exc)
            self._lose(exc)
        else:
            try:
                self._protocol.receive_eof()
            except ProtocolError as exc:
                # Cut off, and not to blame.
                self._lose(ConnectionLost(str(exc)))
            else:
                self._lose(ConnectionLost("the peer closed it"))
        return False

    def _handle(self, worker: Worker | None) -> Coroutine[Any, Any, None] | None:
        """Hands messages to whom they concern. Nothing here waits.

        Args:
            worker: runs this, and may run handlers.

        Returns:
            What is left of a handler that waits, for the worker to await; see :meth:`Dispatcher.on_request`.
        """
        if self._frames is _NO_FRAMES:
            return None
        outbox = self._outbox
        outbox.held = True
        until = math.inf
        for frame in self._frames:
            kind = frame.kind
            if kind == _REQUEST or kind == _NOTIFY:
                suspended = self._dispatcher.on_request(frame, worker)
                if suspended is not None:
                    return suspended
                self._requests_left -= 1
                # The clock was read for the request anyway.
                if until == math.inf:
                    until = self._dispatcher.now + _MAX_TIME
                elif self._dispatcher.now > until:
                    self._requests_left = 0
                if self._requests_left <= 0 or outbox.unsent_answers > self._limits.max_unsent:
                    return None
            elif kind == _RESULT:
                self.caller.on_reply(frame)
            else:
                self._handle_other(frame)
            # Not one more once it is over: whoever waited for it has been told already.
            if self._lost:
                return None
        self._frames = _NO_FRAMES
        if self._protocol.error is not None:
            self._refuse(self._protocol.error)
            self._lose(self._protocol.error)
        return None

    def _handle_other(self, frame: Frame) -> None:
        match frame.kind:
            case Kind.ERROR | Kind.CANCELLED | Kind.EXPIRED:
                self.caller.on_reply(frame)
            case Kind.CANCEL:
                self._dispatcher.on_cancel(frame.id)
            case Kind.PING:
                self._outbox.answer(self._protocol.pong(frame.id), control=True)
            case Kind.PONG:
                self.caller.on_pong(frame.id)
            case _:
                if self._caller is not None:
                    self._caller.on_goaway(frame)

    # --- callers that read ---

    async def _stand_by(self) -> None:
        """Leaves the reading to callers, until one of them leaves others behind, or there are none for a while."""
        self.caller.lead = self._lead
        while True:
            leader, sent = self._leader, self._protocol.last_sent
            with trio.move_on_after(math.inf if self._leader_is_patient else _LEAD_TIME):
                self._standby = trio.lowlevel.current_task()
                await trio.lowlevel.wait_task_rescheduled(self._abort_stand_by)
                return
            if self._leader is None and (self._protocol.last_sent == sent or not self.caller.is_idle):
                self.caller.lead = None
                return
            # A call that takes its time: it wakes this task when it is through.
            self._leader_is_patient = self._leader is not None and self._leader is leader

    def _abort_stand_by(self, _: object) -> trio.lowlevel.Abort:
        self._standby = None
        return trio.lowlevel.Abort.SUCCEEDED

    def _wake_reader(self) -> None:
        """Sees to it that the connection is being read, although nobody may make a call."""
        if self._standby is not None and self._leader is None:
            self.caller.lead = None
            trio.lowlevel.reschedule(self._standby)
            self._standby = None

    async def _lead(self, call: OutgoingCall) -> None:
        """Reads in the task of a caller until its call has a result, or the connection is over.

        Cancelled, or when others still wait for theirs: the reader goes on.
        """
        self.caller.lead = None
        self._leader = call
        try:
            waited = False
            while call.result is None and not self._lost:
                if self._frames is _NO_FRAMES and (waited or not self._receive_early()):
                    waited = True
                    try:
                        await self._transport.wait_readable()
                    except _BROKEN as exc:
                        self._lose(exc)
                    self._receive()
                self._handle(None)
                self._outbox.flush()
            if not waited:
                # The call has to be a checkpoint all the same, but it has its result.
                await trio.lowlevel.cancel_shielded_checkpoint()
        finally:
            self._leader = None
            if self._frames is not _NO_FRAMES or self._leader_is_patient or not self.caller.is_idle:
                self._leader_is_patient = False
                self._wake_reader()
            elif not self._lost:
                self.caller.lead = self._lead

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

        if self._caller is not None:
            self._caller.lead = None
            self._caller.on_lost(error)
        if self._leader is not None:
            self._transport.stop_waiting()
        self._outbox.close(within=_FLUSH_TIME)
        if self._workers.nursery is not None:
            self._begin_end(self._workers.nursery)

    def _begin_end(self, nursery: trio.Nursery) -> None:
        nursery.cancel_scope.cancel()
        nursery.start_soon(self._end)

    @trio.lowlevel.enable_ki_protection
    async def _end(self) -> None:
        """Writes what is queued, and closes the transport; it does not wait for the handlers. All of it is bounded."""
        with trio.CancelScope(shield=True):
            try:
                # Where the end came in the middle of handling what was read.
                self._outbox.flush()
                await self._outbox.finish()
                if self._closed_here:
                    await self._linger()
            finally:
                await self._transport.close()

    async def _linger(self) -> None:
        """Tells the peer that this was all, and waits for its end of the stream.

        Closing at once could make the peer's system throw away what it has received and not yet read.
        """
        with trio.move_on_after(_FLUSH_TIME), contextlib.suppress(*_BROKEN):
            # Whoever reads has been woken, and leaves in this pass of the event loop.
            await trio.lowlevel.checkpoint()
            if await self._transport.send_eof():
                while self._transport.receive_nowait() != b"":
                    await self._transport.wait_readable()
