"""What a client shows of itself."""

from __future__ import annotations

import dataclasses
import hmac
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ._peer import UnixPeer


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Credentials:
    """What a client has shown of itself, for ``authenticate`` to say who it is.

    Attributes:
        token: what it has given to ``trpc.connect(url, token=...)``; None if nothing.
        certificate: its certificate, as in :class:`Peer`: there is one if the server's ``ssl_context`` asks for it.
        unix: its process, as in :class:`Peer`: over a Unix socket on Linux.
        address: where it is, for people to read. Whoever is on the way can have any address.
    """

    token: str | None = dataclasses.field(repr=False)
    certificate: Mapping[str, Any] | None
    unix: UnixPeer | None
    address: str

    def has_token(self, expected: str) -> bool:
        """Whether the token is this one. How long it takes does not tell how much of it was right.

        Args:
            expected: the token of somebody who may connect.

        Raises:
            ValueError: what is expected is empty, as a setting is that was forgotten.
        """
        if not expected:
            raise ValueError("the expected token is empty, so that it would be no secret")
        return self.token is not None and hmac.compare_digest(self.token.encode(), expected.encode())
