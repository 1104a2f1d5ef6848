"""The other end of a connection, as users see it."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping


class UnixPeer(NamedTuple):
    """The process at the other end of a Unix socket, as the kernel knows it: nobody can pretend to be another.

    Attributes:
        pid: its number. It may have ended, and another one have the number by now.
        uid: its user, at the time when it connected.
        gid: its group, likewise.
    """

    pid: int
    uid: int
    gid: int


@dataclasses.dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class Peer:
    """The other end of one connection.

    There is one object per connection, compared by identity and usable as a key of a
    ``weakref.WeakKeyDictionary``: that is how a service keeps state per connection.

    Attributes:
        address: where it is, for people to read: ``"127.0.0.1:51234"``, ``"unix:/run/app.sock"``.
        identity: who it is: what ``authenticate`` has returned for it; None without that.
        certificate: what it has shown with TLS, and what was checked, as ``ssl.SSLObject.getpeercert()`` gives it; else None.
        unix: its process, over a Unix socket on Linux; else None.
    """

    address: str
    # These two may hold what is not meant for a log.
    identity: Any = dataclasses.field(default=None, repr=False)
    certificate: Mapping[str, Any] | None = dataclasses.field(default=None, repr=False)
    unix: UnixPeer | None = None

    def __str__(self) -> str:
        return self.address


def set_identity(peer: Peer, identity: object) -> None:
    """The one change in its life, before anybody has seen it."""
    object.__setattr__(peer, "identity", identity)
