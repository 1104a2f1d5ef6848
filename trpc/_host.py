"""What all connections of one server share; the one connection of a client has its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from ._authentication import AuthorizedMethods, check_functions
from ._interceptors import checked
from ._limits import Limits
from ._share import Pool

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from ._authentication import Authenticate, Authorize
    from ._interceptors import Interceptor
    from ._peer import Peer
    from ._service import BoundMethod


class Host:
    """One side's options, and what its connections count together.

    Args:
        table: methods that peers may call.
        limits: what this side accepts; None: the defaults.
        send_tracebacks: whether errors carry the handler's traceback.
        interceptors: put around the handlers of the peers' calls.
        outgoing_interceptors: put around this side's calls.
        authenticate: says who a peer is; None: nobody asks.
        authorize: says what it may call; None: all of it.
        token: what this side shows to the peer.

    Attributes:
        table, limits, send_tracebacks, interceptors, outgoing_interceptors, authenticate, token: as above.
        pool: bytes in flight of all connections.
        draining: set when no more calls are accepted.
    """

    __slots__ = (
        "_authorize",
        "authenticate",
        "draining",
        "interceptors",
        "limits",
        "outgoing_interceptors",
        "pool",
        "send_tracebacks",
        "table",
        "token",
    )

    def __init__(
        self,
        table: Mapping[str, BoundMethod],
        limits: Limits | None = None,
        *,
        send_tracebacks: bool = False,
        interceptors: Iterable[Interceptor] = (),
        outgoing_interceptors: Iterable[Interceptor] = (),
        authenticate: Authenticate | None = None,
        authorize: Authorize | None = None,
        token: str | None = None,
    ) -> None:
        check_functions(authenticate, authorize)
        self.table = table
        self.limits = limits or Limits()
        self.send_tracebacks = send_tracebacks
        self.interceptors = checked(interceptors)
        self.outgoing_interceptors = checked(outgoing_interceptors)
        self.pool = Pool(self.limits.max_server_bytes_in_flight)
        self.draining = trio.Event()
        self.authenticate = authenticate
        self._authorize = authorize
        self.token = token

    @property
    def authorizes(self) -> bool:
        """Whether anybody says what a peer may call."""
        return self._authorize is not None

    def methods_for(self, peer: Peer) -> Mapping[str, BoundMethod] | AuthorizedMethods:
        """Where a call of this peer's finds its method."""
        return self.table if self._authorize is None else AuthorizedMethods(self.table, peer, self._authorize)
