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

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ._dispatcher import CallInfo
    from ._frames import Frame
    from ._limits import Limits
    from ._service import BoundMethod
    from ._transport import Transport

logger = logging.getLogger("trpc")

# At the end: for what is queued to be written, and then for the peer to close its side. A peer that
# reads takes no time for it; one that does not read must not keep us.
_FLUSH_TIME: Final = 1.0

_BROKEN: Final = (trio.BrokenResourceError, trio.ClosedResourceError)


class Connection:
    """Both halves of one connection, and the task that reads.

    Args:
        transport: the bytes; closed by :meth:`run`.
        limits: what this side accepts.
        table: methods that the peer may call.
        send_tracebacks: whether errors carry the handler's traceback.
        cancel_grace: seconds that our cancelled calls wait for their acknowledgement.

    Attributes:
        peer: who is at the other end.
        opened: when it began, in ``trio.current_time()`` seconds.
        caller: our calls.
    """

    def __init__(
        self,
        transport: Transport,
        *,
        limits: Limits,
        table: Mapping[str, BoundMethod],
        send_tracebacks: bool = False,
        cancel_grace: float = 1.0,
    ) -> None:
        self.peer = Peer(transport.address)
        self.opened = trio.current_time()
        self._transport = transport
        self._limits = limits
        self._protocol = Protocol(limits)
        self._outbox = Outbox(transport, max_unsent=limits.max_unsent)
        # Here and not in run(): users may call, and ping, as soon as there is a client.
        self._outbox.put(self._protocol.opening(), control=True)
        self._nursery: trio.Nursery | None = None
        self._lost = False
        self._closed_here = False
        self._hello = trio.Event()
        self._reading_has_ended = trio.Event()
        self.caller = Caller(
            self._protocol,
            self._outbox,
            cancel_grace=cancel_grace,
            max_depth=limits.max_depth,
            max_calls=limits.max_calls,
            start_soon=self._start_soon,
        )
        self._dispatcher = Dispatcher(
            table,
            self._protocol,
            self._outbox,
            peer=self.peer,
            limits=limits,
            send_tracebacks=send_tracebacks,
            start_soon=self._start_soon,
        )

    @property
    def calls(self) -> list[CallInfo]:
        """The calls that the peer has in flight."""
        return self._dispatcher.calls

    @trio.lowlevel.enable_ki_protection
    async def run(self) -> None:
        """Lives as long as the connection. Raises only what a handler raised to end the whole process.

        Cancelled: the handlers are cancelled, replies that are queued are written within a second.
        """
        async with trio.open_nursery() as outer:
            outer.start_soon(self._write)
            async with trio.open_nursery() as self._nursery:
                if self._lost:  # closed before it was run
                    self._nursery.cancel_scope.cancel()
                self._nursery.start_soon(self._await_hello)
                try:
                    self._lose(await self._read())
                finally:
                    self._lose(ConnectionLost("this side ended it"))
                    self._reading_has_ended.set()

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

    @trio.lowlevel.enable_ki_protection
    async def _write(self) -> None:
        """Writes until the connection is over, and closes the transport: it does not wait for the handlers."""
        try:
            await self._outbox.run(self._lose)
            if self._closed_here:
                await self._linger()
        finally:
            # Closing does not wait for anything. Without the shield its Cancelled would take the place of
            # what a handler has raised.
            with trio.CancelScope(shield=True):
                await self._transport.close()

    async def _linger(self) -> None:
        """Tells the peer that this was all, and waits for its end of the stream.

        Closing at once could make the peer's system throw away what it has received and not yet read.
        """
        with trio.move_on_after(_FLUSH_TIME), contextlib.suppress(*_BROKEN):
            await self._reading_has_ended.wait()
            if await self._transport.send_eof():
                while await self._transport.receive():
                    pass

    def _start_soon(self, *args: object, **kwargs: object) -> None:
        assert self._nursery is not None
        # Its own signature cannot be repeated here: the types of args hang together with the function's.
        self._nursery.start_soon(*args, **kwargs)  # type: ignore[arg-type]

    async def _read(self) -> Exception:
        """Reads until the connection ends; gives the reason."""
        try:
            while data := await self._transport.receive():
                frames = self._protocol.receive(data)
                # Not one more once it is over: the protocol knows nothing any more of the calls that were open.
                while not self._lost and (frame := next(frames, None)) is not None:
                    self._handle(frame)
                if self._lost:
                    return ConnectionLost("it is over already")
                if self._outbox.is_full_of_answers:
                    # The peer does not read them, so it gets no more.
                    await self._outbox.wait_until_answered()
        except _BROKEN as exc:
            return exc
        except ProtocolError as exc:
            self._refuse(exc)
            return exc
        try:
            self._protocol.receive_eof()
        except ProtocolError as exc:
            # Cut off, and not to blame.
            return ConnectionLost(str(exc))
        return ConnectionLost("the peer closed it")

    @trio.lowlevel.enable_ki_protection
    async def _await_hello(self) -> None:
        """Ends the connection if the peer does not say who it is in time."""
        with trio.move_on_after(self._limits.hello_timeout):
            await self._hello.wait()
        if not self._protocol.peer_is_known:
            reason = f"no hello within {self._limits.hello_timeout} s: it is too busy, or does not speak trpc"
            self._refuse(ProtocolError(reason))
            # It may be there, and only be slow: worth another try.
            self._lose(ConnectionLost(reason))

    def _refuse(self, error: ProtocolError) -> None:
        """Lets the peer know why the connection ends."""
        logger.warning("closing the connection with %s: %s", self.peer, error)
        self._outbox.put(self._protocol.goaway(encode_status(error)), control=True)

    def _handle(self, frame: Frame) -> None:
        """Hands one message to whom it concerns. Nothing here waits."""
        match frame.kind:
            case Kind.RESULT | Kind.ERROR | Kind.CANCELLED | Kind.EXPIRED:
                self.caller.on_reply(frame)
            case Kind.REQUEST | Kind.NOTIFY:
                self._dispatcher.on_request(frame)
            case Kind.CANCEL:
                self._dispatcher.on_cancel(frame.id)
            case Kind.PING:
                self._outbox.put(self._protocol.pong(frame.id), control=True, is_answer=True)
            case Kind.PONG:
                self.caller.on_pong(frame.id)
            case Kind.HELLO:
                self._hello.set()
                self.caller.on_hello()
            case _:
                self.caller.on_goaway(frame)

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

        self.caller.on_lost(error)
        if self._nursery is not None:
            self._nursery.cancel_scope.cancel()
        self._outbox.close(within=_FLUSH_TIME)
