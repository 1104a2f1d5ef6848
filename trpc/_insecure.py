"""The warning about a server that anybody can call, and anybody on the way can read."""

from __future__ import annotations

import sys
import warnings
from socket import AF_INET, AF_INET6
from typing import TYPE_CHECKING, Final

import trio

from ._address import is_local

if TYPE_CHECKING:
    from collections.abc import Iterable

# Where a server is started from is not in these.
_NOT_USERS: Final = frozenset({"trpc", "trio", "outcome"})


class InsecureWarning(UserWarning):
    """A server listens where other machines can reach it, with neither TLS nor authentication.

    Whoever reaches it can call its methods, and whoever is on the way can read and change what is called.
    """


def warn_if_insecure(listeners: Iterable[trio.abc.Listener[trio.abc.Stream]]) -> None:
    """Warns once, if any of these is a TCP socket that other machines can reach.

    Raises:
        InsecureWarning: warnings are errors in this process.
    """
    addresses = [address for listener in listeners if (address := _public_address(listener)) is not None]
    if addresses:
        warnings.warn(
            f"the server listens on {', '.join(addresses)}, without TLS and authentication: whoever can reach it, can call"
            " it. Give it an ssl_context= or authenticate=, or, if the network keeps others away, allow_insecure=True",
            InsecureWarning,
            stacklevel=_level(),
        )


def _public_address(listener: trio.abc.Listener[trio.abc.Stream]) -> str | None:
    # Of other families than these, as between virtual machines, it is not known who can reach them.
    if not isinstance(listener, trio.SocketListener) or listener.socket.family not in {AF_INET, AF_INET6}:
        return None
    return None if is_local(listener.socket) else str(listener.socket.getsockname()[0])


def _level() -> int:
    """How many frames above the one that warns, which calls this, the first of the user's is.

    If the server is started in a nursery, that is where Trio was.
    """
    # No other way in 3.11.
    level, frame = 1, sys._getframe(1)  # pyright: ignore[reportPrivateUsage]
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] in _NOT_USERS:
        level, frame = level + 1, frame.f_back
    return level
