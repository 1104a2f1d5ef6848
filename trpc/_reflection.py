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
from ._descriptions import ServiceInfo, describe
from ._service import RESERVED, bound_methods, method, service
from ._version import __version__

if TYPE_CHECKING:
    from ._activity import CallInfo, ConnectionInfo
    from ._host import Host
    from ._service import BoundMethod

# Connections in one answer, and calls of each: some 10 MiB at most.
_MAX_CONNECTIONS: Final = 1000
_MAX_CALLS: Final = 100
# Answers that are kept, one for each choice of methods that a peer may call.
_MAX_KEPT: Final = 16


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
        is_draining: whether it accepts no more calls.
        connections: how many there are.
        calls: how many are in flight, on all of them.
        busiest: some of the connections: those with the oldest calls first.
    """

    version: str
    pid: int
    age: float
    is_draining: bool
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


class Served(Protocol):
    """What a server tells of its activity."""

    @property
    def connections(self) -> tuple[ConnectionInfo, ...]:
        """Those that are open."""
        ...

    @property
    def is_draining(self) -> bool:
        """Whether it accepts no more calls."""
        ...


def reflection_methods(host: Host, server: Served, *, is_local: bool) -> dict[str, BoundMethod]:
    """The part of a method table by which a server describes itself.

    Args:
        host: has the methods that are described.
        server: tells what it has to do.
        is_local: whether nobody but this machine can reach it.
    """
    methods = bound_methods(RESERVED, _ServerReflection(host, server))
    if not (is_local or host.authorizes):
        # Who may call a method may know of it; but not of what others do, unless somebody says so.
        del methods[f"{RESERVED}.activity"]
    return methods


class _ServerReflection(Reflection):
    def __init__(self, host: Host, server: Served) -> None:
        self._host = host
        self._server = server
        self._table = host.table
        self._began = trio.current_time()
        self._describe = functools.lru_cache(_MAX_KEPT)(self._describe_methods)

    async def services(self) -> list[ServiceInfo]:
        methods = self._host.methods_for(current_call().peer)
        names = list(self._table)
        if isinstance(methods, AuthorizedMethods):
            names = [name for name in names if methods.allows(name)]
        return self._describe(tuple(names))

    def _describe_methods(self, names: tuple[str, ...]) -> list[ServiceInfo]:
        return describe({name: self._table[name] for name in names})

    async def activity(self, most: int = 100) -> Activity:
        now = trio.current_time()
        connections = [(connection, _calls_of(connection)) for connection in self._server.connections]
        busiest = heapq.nsmallest(max(0, min(most, _MAX_CONNECTIONS)), connections, key=_by_age)
        return {
            "version": __version__,
            "pid": os.getpid(),
            "age": now - self._began,
            "is_draining": self._server.is_draining,
            "connections": len(connections),
            "calls": sum(len(calls) for _, calls in connections),
            "busiest": [_describe_connection(connection, calls, now) for connection, calls in busiest],
        }


def _calls_of(connection: ConnectionInfo) -> list[CallInfo]:
    """Those of services that are not this one. They are in the order in which they began."""
    return [call for call in connection.calls if not call.method.startswith(f"{RESERVED}.")]


def _by_age(item: tuple[ConnectionInfo, list[CallInfo]]) -> tuple[float, float]:
    connection, calls = item
    return calls[0].started if calls else math.inf, connection.opened


def _describe_connection(connection: ConnectionInfo, calls: list[CallInfo], now: float) -> ConnectionActivity:
    peer = connection.peer
    return {
        "peer": peer.address,
        "pid": None if peer.unix is None else peer.unix.pid,
        "age": now - connection.opened,
        "in_flight": len(calls),
        "calls": [_describe_call(call, now) for call in calls[:_MAX_CALLS]],
    }


def _describe_call(call: CallInfo, now: float) -> CallActivity:
    return {
        "method": call.method,
        "age": now - call.started,
        "time_left": None if call.deadline == math.inf else call.deadline - now,
        "state": call.state,
    }
