"""A server and its clients in one process, with nothing but memory between them."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, cast

import trio

from .. import RPCError, Unavailable, connect_stream, serve_listeners
from ._link import Link

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from contextlib import AbstractAsyncContextManager
    from types import TracebackType
    from typing import Unpack

    from .. import Client, Server
    from .._service import Services
    from ._options import ConnectOptions, ServeOptions
    from ._recorder import Recorder


class MemoryServer:
    """A server that clients in the same process connect to, through memory. Made by :func:`serving`.

    Attributes:
        server: its handle, for ``await memory.server.drain()`` and to look at its connections and calls.
    """

    def __init__(self, server: Server, listener: MemoryListener) -> None:
        self.server = server
        self._listener = listener

    def connect(
        self, *, link: Link | None = None, **options: Unpack[ConnectOptions]
    ) -> AbstractAsyncContextManager[Client]:
        """Connects a client: ``async with memory.connect() as client``. There can be any number of them.

        Leaving the block, and a cancel, are as for ``trpc.connect``.

        Args:
            link: what is between the two; None: a new ``Link()``, on which all is well.
            options: those of ``trpc.connect_stream``.

        Raises:
            RuntimeError: the link has a connection already.
            TypeError, ValueError: an option is wrong.
            Unavailable: the server takes no more connections, as it was drained.
        """
        return self._connect(Link() if link is None else link, options)

    @contextlib.asynccontextmanager
    async def _connect(self, link: Link, options: ConnectOptions) -> AsyncGenerator[Client, None]:
        # It begins behind what looks at the options: a wrong one leaves the link as it was.
        ours, theirs = link._make_streams()  # pyright: ignore[reportPrivateUsage] - of this package
        connecting = connect_stream(ours, **options)
        link._begin()  # pyright: ignore[reportPrivateUsage] - of this package
        try:
            await self._listener.connect(theirs)
        except BaseException:
            await trio.aclose_forcefully(ours)
            raise
        async with connecting as client:
            yield client


class MemoryListener(trio.abc.Listener[trio.abc.Stream]):
    """Accepts the streams that it is given."""

    def __init__(self) -> None:
        self._give, self._given = trio.open_memory_channel[tuple[trio.abc.Stream, trio.Event]](0)
        self._begun = trio.Event()
        """Set when the task that serves the last stream has been started."""

    async def connect(self, stream: trio.abc.Stream) -> None:
        """Returns when the server has the stream. Cancelled: it may have, so close the other end.

        Raises:
            Unavailable: nothing is accepted any more.
        """
        begun = trio.Event()
        try:
            await self._give.send((stream, begun))
        except trio.BrokenResourceError:
            raise Unavailable("the server in memory takes no more connections, as it has stopped") from None
        await begun.wait()
        # Its task runs in this pass.
        await trio.lowlevel.checkpoint()

    async def accept(self) -> trio.abc.Stream:
        """The next one."""
        self._begun.set()
        stream, self._begun = await self._given.receive()
        return stream

    async def aclose(self) -> None:
        """Whoever connects now is refused."""
        self._begun.set()
        self._given.close()
        await trio.lowlevel.checkpoint()


class _Serving:
    """The context manager behind :func:`serving`.

    It is a class because a nursery of its own must not wrap what the body raises into a group: the server's task never
    raises, so the nursery is entered and left without the body's exception.
    """

    def __init__(self, services: Services, recorder: Recorder | None, options: ServeOptions) -> None:
        if recorder is not None:
            options = {**options, "interceptors": [recorder, *options.get("interceptors", ())]}
        self._services = services
        self._options = options
        self._scope = trio.CancelScope()
        self._nursery: trio.Nursery
        self._nursery_manager: AbstractAsyncContextManager[trio.Nursery]
        self._failure: BaseException | None = None

    @trio.lowlevel.enable_ki_protection
    async def __aenter__(self) -> MemoryServer:
        self._nursery_manager = trio.open_nursery()
        self._nursery = await self._nursery_manager.__aenter__()
        listener = MemoryListener()
        try:
            server: Server = await self._nursery.start(self._run, listener)
        except BaseException:
            await self._leave()
            raise
        # The server lasts as long as the block, not as long as the scope around it: what leaves the block because that is
        # cancelled finds it as it was.
        self._scope.shield = True
        return MemoryServer(server, listener)

    @trio.lowlevel.enable_ki_protection
    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self._leave(None if exc is None else _without(trio.Cancelled, exc))

    async def _leave(self, found: BaseException | None = None) -> None:
        """Waits for the server's end; raises what it has raised, instead of what this has done to the block.

        Args:
            found: what the block has raised, without what has cancelled it.
        """
        self._scope.cancel()
        failures: list[BaseException] = []
        try:
            await self._nursery_manager.__aexit__(None, None, None)
        except BaseExceptionGroup as group:
            # Nothing but an interrupt, which Trio delivers to whoever waits here.
            failures.append(_alone(group))
        if self._failure is not None:
            failures.append(self._failure)
        if not failures:
            return
        # An error of a call may be but how the block has heard of it, so that it is a detail.
        if found is not None and _without(RPCError, found) is not None:
            failures.append(found)
            found = None
        failure = (
            failures[0] if len(failures) == 1 else BaseExceptionGroup("a server in memory, and its block", failures)
        )
        context = failure.__context__ or found
        try:
            raise failure
        finally:
            # Not the `Cancelled` of the block.
            failure.__context__ = context
            del found, failures, failure, context

    async def _run(
        self, listener: MemoryListener, *, task_status: trio.TaskStatus[Server] = trio.TASK_STATUS_IGNORED
    ) -> None:
        with self._scope:
            try:
                await serve_listeners(self._services, [listener], task_status=task_status, **self._options)
            except BaseException as exc:
                failure = _without(trio.Cancelled, exc)
                if failure is None:
                    raise
                self._failure = _alone(failure)
                self._nursery.cancel_scope.cancel()


def _without(kind: type[BaseException], exc: BaseException) -> BaseException | None:
    """What is left of it without those: itself, if there are none of them; None: nothing."""
    removed, rest = BaseExceptionGroup("", [exc]).split(kind)
    if removed is None:
        return exc
    return None if rest is None else rest.exceptions[0]


def _alone(exc: BaseException) -> BaseException:
    """What is in groups of one."""
    if not isinstance(exc, BaseExceptionGroup):
        return exc
    group = cast("BaseExceptionGroup[BaseException]", exc)
    return _alone(group.exceptions[0]) if len(group.exceptions) == 1 else group


def serving(
    services: Services, *, recorder: Recorder | None = None, **options: Unpack[ServeOptions]
) -> AbstractAsyncContextManager[MemoryServer]:
    """Serves in memory: ``async with trpc.testing.serving(Calculator()) as memory``.

    Leaving the block stops the server, as a cancel does: handlers are cancelled, and all of them have ended when it is left.
    What the block raises comes out as it is. If it is cancelled, the server goes on until the block has been left.
    If a handler raises what ends a program, ``KeyboardInterrupt`` or ``SystemExit``, the block is cancelled, and raises that;
    with what it raises itself, if there is something, in a group. An ``RPCError`` of it is in no group but the
    ``__context__``: that a call fails is how the block hears of such an end.

    Args:
        services: one service object, several in a list, or a mapping of names to objects.
        recorder: records the calls that arrive; put around all other interceptors.
        options: those of ``trpc.serve_listeners``.

    Raises:
        TypeError, ValueError: a service cannot be served, or an option is wrong.
    """
    return _Serving(services, recorder, options)


@contextlib.asynccontextmanager
async def connected(
    services: Services,
    *,
    link: Link | None = None,
    recorder: Recorder | None = None,
    serve: ServeOptions | None = None,
    **options: Unpack[ConnectOptions],
) -> AsyncGenerator[Client, None]:
    """A client of a service in memory: ``async with trpc.testing.connected(Calculator()) as client``.

    The short form of :func:`serving` with one client. When the block has been left, nothing of either side is left. What it
    raises comes out as it is, and so does a handler's ``KeyboardInterrupt`` or ``SystemExit``, and both of them in a group;
    see there.

    Args:
        services: one service object, several in a list, or a mapping of names to objects.
        link: what is between the two; None: a new ``Link()``, on which all is well.
        recorder: records the calls that arrive at the service.
        serve: options of the server, such as ``{"limits": trpc.Limits(max_calls=1)}``: those of ``trpc.serve_listeners``.
        options: those of the client, of ``trpc.connect_stream``.

    Raises:
        RuntimeError: the link has a connection already.
        TypeError, ValueError: a service cannot be served, or an option is wrong.
    """
    async with (
        serving(services, recorder=recorder, **(serve or {})) as memory,
        memory.connect(link=link, **options) as client,
    ):
        yield client
