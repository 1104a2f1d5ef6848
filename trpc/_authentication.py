"""Who a peer is, and what it may call: how the functions that users write for that are asked.

Whatever goes wrong in them, the answer is no.
"""

from __future__ import annotations

import inspect
import logging
import traceback
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final

import trio

from ._credentials import Credentials
from ._errors import Unauthenticated
from ._peer import Peer

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ._service import BoundMethod

logger = logging.getLogger("trpc")

# Gives an identity; None refuses.
Authenticate = Callable[[Credentials], Awaitable[Any] | Any]
# The peer, and the name of a method.
Authorize = Callable[[Peer, str], bool]

_REFUSED: Final = "the server does not accept the credentials"
_NOTHING_SHOWN: Final = "the server asks for credentials, such as trpc.connect(url, token=...)"

# Characters of a method's name in an error; the peer may have sent any number.
_MAX_SHOWN: Final = 300


def check_functions(authenticate: Authenticate | None, authorize: Authorize | None) -> None:
    """Raises TypeError if these cannot be what they should."""
    for name, function in (("authenticate", authenticate), ("authorize", authorize)):
        if function is not None and not callable(function):
            raise TypeError(f"{name} is a function, not {function!r}")
    if inspect.iscoroutinefunction(authorize):
        raise TypeError("authorize is a plain function: it is asked for each call, and must not wait")


async def identity_of(credentials: Credentials, authenticate: Authenticate, *, within: float) -> Any:
    """Who it is.

    Raises:
        Unauthenticated: it is nobody who may connect; the message is for the peer.
    """
    with trio.move_on_after(within):
        try:
            identity = await _ask(authenticate, credentials)
        except Unauthenticated as exc:
            raise Unauthenticated(str(exc) or _REFUSED) from exc
        except Exception as exc:  # noqa: BLE001 - of a user's function, and logged
            logger.error(  # noqa: TRY400 - with the traceback, but not as it is
                "authenticate raised for %s, which is refused:\n%s", credentials.address, _traceback(exc, credentials)
            )
            raise Unauthenticated(_REFUSED) from None
        # False is what has_token() gives, and would be a strange name for somebody.
        if identity is None or identity is False:
            has_shown = credentials.token is not None or credentials.certificate or credentials.unix
            raise Unauthenticated(_REFUSED if has_shown else _NOTHING_SHOWN)
        return identity
    raise Unauthenticated(f"the server has not checked the credentials within {within} s")


@trio.lowlevel.disable_ki_protection
async def _ask(authenticate: Authenticate, credentials: Credentials) -> Any:
    identity = authenticate(credentials)
    return await identity if inspect.isawaitable(identity) else identity


def _traceback(exc: Exception, credentials: Credentials) -> str:
    """Without the token, which the error of a look-up has in its message."""
    text = "".join(traceback.format_exception(exc))
    if credentials.token:
        for secret in (credentials.token, repr(credentials.token)[1:-1]):
            text = text.replace(secret, "<the token>")
    return text


class AuthorizedMethods:
    """The methods that one peer may call, in the place of the table of all.

    It is asked before it is looked whether there is such a method, so that who may not call it does not learn whether it
    is there.

    Args:
        table: all of them.
        peer: who calls.
        authorize: says whether it may.
    """

    __slots__ = ("_authorize", "_peer", "_table")

    def __init__(self, table: Mapping[str, BoundMethod], peer: Peer, authorize: Authorize) -> None:
        self._table = table
        self._peer = peer
        self._authorize = authorize

    def get(self, name: str) -> BoundMethod | None:
        """The method of this name; None if there is none.

        Raises:
            Unauthenticated: the peer may not call it.
        """
        if not self.allows(name):
            raise Unauthenticated(f"this client may not call {name[:_MAX_SHOWN]!r}")
        return self._table.get(name)

    def allows(self, name: str) -> bool:
        """Whether the peer may call it."""
        try:
            answer: object = _answer(self._authorize, self._peer, name)
            if type(answer) is not bool:
                # Of a function that is async, or has forgotten its return: a coroutine is as good as True.
                if inspect.iscoroutine(answer):
                    answer.close()
                raise TypeError(f"authorize returned {type(answer).__name__}, and not True or False")  # noqa: TRY301 - logged as what it raises is
        except Exception:
            logger.exception(
                "authorize raised for %s and %r, and the call is refused", self._peer.address, name[:_MAX_SHOWN]
            )
            return False
        return answer


@trio.lowlevel.disable_ki_protection
def _answer(authorize: Authorize, peer: Peer, name: str) -> object:
    return authorize(peer, name)
