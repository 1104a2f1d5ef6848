"""The other end of a connection, as users see it."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class Peer:
    """The other end of one connection.

    There is one object per connection, compared by identity and usable as a key of a
    ``weakref.WeakKeyDictionary``: that is how a service keeps state per connection.

    Attributes:
        address: where it is, for people to read: ``"127.0.0.1:51234"``, ``"unix:/run/app.sock"``.
    """

    address: str

    def __str__(self) -> str:
        return self.address
