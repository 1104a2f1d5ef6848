"""The service by which a server describes itself, to command lines and other tools."""

from __future__ import annotations

import functools
import heapq
import math
import os
from typing import TYPE_CHECKING, Final, Literal, Protocol, TypedDict

import trio

from ._authentication import AuthorizedMethods
from ._context import current_call
from ._descriptions import ServiceInfo, describe, filtered
from ._service import RESERVED, bound_methods, method, service
from ._version import __version__

if TYPE_CHECKING:
    from collections.abc import Collection

    from ._activity import CallInfo
    from ._host import Host
    from ._peer import Peer
    from ._service import BoundMethod

# Connections in one answer, and calls of each: some 10 MiB at most.
_MAX_CONNECTIONS: Final = 1000
_MAX_CALLS: Final = 100
# Those that ask are not what a server has to do.
_OWN: Final = f"{RESERVED}."


class CallActivity(TypedDict):
    """A call in flight.

    Attributes:
        method: its name on the wire.
        age: seconds since its request arrived.
        time_left: seconds until its deadline, less than 0 if that has passed; None: it has none.
        state: as in :class:`CallInfo`.
    """

    method: str
    age: float
    time_left: float | None
    state: Literal["waiting", "running", "cancelling"]


class ConnectionActivity(TypedDict):
    """A connection, and what it has in flight.

    Attributes:
        peer: where the client is.
        pid: its process, over a Unix socket on Linux; else None.
        age: seconds since it connected.
        in_flight: how many calls it has.
        calls: up to 100 of them, the oldest first.
    """

    peer: str
    pid: int | None
    age: float
    in_flight: int
    calls: list[CallActivity]


class Activity(TypedDict):
    """What a server has to do. Calls of the service ``trpc`` itself are left out.

    Attributes:
        version: that of trpc.
        pid: its process.
        age: seconds since it began.
        connections: how many there are.
        calls: how many are in flight, on all of them.
        busiest: some of the connections: those with the oldest calls first.
    """

    version: str
    pid: int
    age: float
    connections: int
    calls: int
    busiest: list[ConnectionActivity]


@service(name=RESERVED)
class Reflection:
    """What a server says of itself, as an interface: ``client.proxy(trpc.Reflection)``.

    Which servers do so is said by the option ``reflection`` of ``trpc.serve_tcp`` and the others; with those that do not,
    its methods raise ``MethodNotFound``. With ``authorize``, that is asked for them as for any other:
    ``"trpc.services"`` and ``"trpc.activity"``.
    """

    @method
    async def services(self) -> list[ServiceInfo]:
        """The services, without this one, and of their methods those that the caller may call.

        What is raised, and what happens on cancel, is as for ``Client.call``.
        """
        raise NotImplementedError

    @method
    async def activity(self, most: int = 100) -> Activity:
        """The connections and calls of this moment.

        A server without ``authorize`` has this method only if it listens on nothing but the loopback and Unix sockets.
        What is raised, and what happens on cancel, is as for ``Client.call``.

        Args:
            most: how many connections are wanted, of 1000 at most.
        """
        raise NotImplementedError


class Busy(Protocol):
    """What a connection tells of its calls."""

    @property
    def peer(self) -> Peer:
        """Who is connected."""
        ...

    @property
    def opened(self) -> float:
        """Since when, in ``trio.current_time()`` seconds."""
        ...

    def oldest_calls(self, most: int, *, besides: str) -> tuple[int, list[CallInfo]]:
        """How many are in flight, and the oldest of them; without those whose names begin like that."""
        ...


def reflection_methods(host: Host, connections: Collection[Busy], *, is_local: bool) -> dict[str, BoundMethod]:
    """The part of a method table by which a server describes itself.

    Args:
        host: has the methods that are described.
        connections: those that are open at any time.
        is_local: whether nobody but this machine can reach it.
    """
    methods = bound_methods(RESERVED, _ServerReflection(host, connections))
    if not (is_local or host.authorizes):
        # Who may call a method may know of it; but not of what others do, unless somebody says so.
        del methods[f"{RESERVED}.activity"]
    return methods


class _ServerReflection(Reflection):
    __qualname__ = "Reflection"  # in what is said of wrong arguments

    def __init__(self, host: Host, connections: Collection[Busy]) -> None:
        self._host = host
        self._connections = connections
        self._table = host.table
        self._began = trio.current_time()

    # The same for all, so that a class has the same name for all.
    @functools.cached_property
    def _all_services(self) -> list[ServiceInfo]:
        return describe(self._table)

    async def services(self) -> list[ServiceInfo]:
        methods = self._host.methods_for(current_call().peer)
        allows = methods.allows if isinstance(methods, AuthorizedMethods) else self._table.__contains__
        return filtered(self._all_services, allows)

    async def activity(self, most: int = 100) -> Activity:
        now = trio.current_time()
        numbers: list[int] = []
        # With the beginning of the oldest call, if there is any.
        by_age: list[tuple[float, float, int, Busy]] = []
        for connection in self._connections:
            number, oldest = connection.oldest_calls(1, besides=_OWN)
            numbers.append(number)
            started = oldest[0].started if oldest else math.inf
            by_age.append((started, connection.opened, len(numbers), connection))
        busiest = heapq.nsmallest(max(0, min(most, _MAX_CONNECTIONS)), by_age)
        return {
            "version": __version__,
            "pid": os.getpid(),
            "age": now - self._began,
            "connections": len(numbers),
            "calls": sum(numbers),
            "busiest": [_describe_connection(connection, now) for *_, connection in busiest],
        }


def _describe_connection(connection: Busy, now: float) -> ConnectionActivity:
    peer = connection.peer
    in_flight, calls = connection.oldest_calls(_MAX_CALLS, besides=_OWN)
    return {
        "peer": peer.address,
        "pid": None if peer.unix is None else peer.unix.pid,
        "age": now - connection.opened,
        "in_flight": in_flight,
        "calls": [_describe_call(call, now) for call in calls],
    }


def _describe_call(call: CallInfo, now: float) -> CallActivity:
    return {
        "method": call.method,
        "age": now - call.started,
        "time_left": None if call.deadline == math.inf else call.deadline - now,
        "state": call.state,
    }
