"""What a server has to do, as it was when it was looked at."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from ._peer import Peer

CallState = Literal["waiting", "running", "cancelling"]


@dataclasses.dataclass(frozen=True, slots=True)
class CallInfo:
    """A call that a server has in flight, as it was when it was looked at.

    Attributes:
        method: its name on the wire.
        peer: who called.
        started: when its request arrived, in ``trio.current_time()`` seconds.
        deadline: when it ends at the latest; ``math.inf`` if there is no bound.
        state: ``"running"``; or ``"waiting"``: its handler has not begun, and if that lasts, it is because the caller does not
            read its answers; or ``"cancelling"``: it is cancelled, or its time is over, and its handler has not ended.
    """

    method: str
    peer: Peer
    started: float
    deadline: float
    state: CallState = "running"


@dataclasses.dataclass(frozen=True, slots=True)
class ConnectionInfo:
    """A connection of a server, as it was when it was looked at.

    Attributes:
        peer: who is connected.
        opened: since when, in ``trio.current_time()`` seconds.
        calls: what it has in flight.
    """

    peer: Peer
    opened: float
    calls: tuple[CallInfo, ...]
