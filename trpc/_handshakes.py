"""TLS handshakes: how either side gets through them, or says why not."""

from __future__ import annotations

import errno
import functools
import logging
import ssl
from typing import TYPE_CHECKING, Final

import trio

from ._errors import UnavailableOSError
from ._tls import NOT_TLS, TlsTransport, reason_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from ._transport import Transport

logger = logging.getLogger("trpc")

# Of X509_V_ERR_*: the host name, the IP address; and who is unknown among the issuers.
_WRONG_NAME: Final = (62, 64)
_UNKNOWN_ISSUER: Final = (18, 19, 20, 21)


class Handshakes:
    """Those that a server has begun and not completed; its length is how many.

    Args:
        context: the server's.
        timeout: seconds for each of them.
        on_end: called when one has ended.
    """

    def __init__(self, context: ssl.SSLContext, timeout: float, on_end: Callable[[], None]) -> None:
        self._context = context
        self._timeout = timeout
        self._on_end = on_end
        self._scopes: set[trio.CancelScope] = set()

    def __len__(self) -> int:
        return len(self._scopes)

    @trio.lowlevel.enable_ki_protection
    async def accept(self, inner: Transport) -> TlsTransport | None:
        """TLS with a client; None, and it is closed, if that was not to be: it concerns nobody else.

        Args:
            inner: the encrypted bytes; closed here, if this fails or is cancelled.
        """
        transport = TlsTransport(inner, self._context, server_side=True)
        scope = trio.CancelScope(deadline=trio.current_time() + self._timeout)
        self._scopes.add(scope)
        reason = "it was not done in time"
        is_done = False
        try:
            with scope:
                try:
                    await transport.handshake()
                    is_done = True
                except ssl.SSLError as exc:
                    reason = "it speaks trpc without TLS" if transport.began_as_trpc else reason_of(exc)
                    await transport.linger()
                except trio.BrokenResourceError as exc:
                    reason = str(exc) or "the connection broke"
        finally:
            self._scopes.discard(scope)
            self._on_end()
            if not is_done:
                await transport.close()
        if not is_done:
            logger.info("the TLS handshake with %s has failed: %s", inner.address, reason)
        return transport if is_done else None

    def end(self, *, within: float) -> None:
        """Has those that are going on, and those that begin later, end in time."""
        self._timeout = min(self._timeout, within)
        for scope in self._scopes:
            scope.deadline = min(scope.deadline, trio.current_time() + within)


async def start_tls(
    inner: Transport, context: ssl.SSLContext, server_hostname: str | None, *, where: str, within: float
) -> TlsTransport:
    """TLS with a server. If it fails, or is cancelled, the transport is closed.

    Args:
        inner: the encrypted bytes.
        context: the client's.
        server_hostname: what the server's certificate has to be for.
        where: what is connected to, for errors.
        within: seconds for the handshake.

    Raises:
        ValueError: the name of the server cannot be one.
        Unavailable: it has failed; the message says what to do.
    """
    try:
        transport = TlsTransport(inner, context, server_hostname=server_hostname)
    except ValueError as exc:
        with trio.CancelScope(shield=True):
            await inner.close()
        raise ValueError(
            f"{server_hostname!r} is not the name of a host, which server_hostname has to be: {exc}"
        ) from exc
    is_done = False
    try:
        with trio.move_on_after(within):
            await transport.handshake()
            is_done = True
    except ssl.SSLCertVerificationError as exc:
        raise UnavailableOSError(errno.EPROTO, f"cannot connect to {where}: {_about(exc, server_hostname)}") from exc
    except ssl.SSLError as exc:
        reason = f"the TLS handshake has failed: {reason_of(exc)}"
        if transport.began_as_trpc:
            reason = "the server speaks trpc without TLS; if that is right, connect with tcp:// or without ssl_context"
        elif exc.reason in NOT_TLS:
            reason = "the server does not speak TLS"
        raise UnavailableOSError(errno.EPROTO, f"cannot connect to {where}: {reason}") from exc
    except trio.BrokenResourceError as exc:
        reason = f"the connection broke in the TLS handshake: {exc}"
        raise UnavailableOSError(errno.ECONNRESET, f"cannot connect to {where}: {reason}") from exc
    finally:
        if not is_done:
            with trio.CancelScope(shield=True):
                await transport.close()
    if not is_done:
        reason = f"the server has not completed the TLS handshake within {within} s"
        raise UnavailableOSError(errno.ETIMEDOUT, f"cannot connect to {where}: {reason}")
    return transport


def _about(exc: ssl.SSLCertVerificationError, server_hostname: str | None) -> str:
    what = f"the server's certificate is not accepted for {server_hostname!r}: {exc.verify_message}"
    if exc.verify_code in _WRONG_NAME:
        return f"{what} Connect by a name that is in it, or have one issued with this name"
    if exc.verify_code in _UNKNOWN_ISSUER:
        return f"{what}. If it is of a CA of your own: ssl_context=ssl.create_default_context(cafile='ca.pem')"
    return what


@functools.cache
def default_context() -> ssl.SSLContext:
    """A client's that trusts the system's authorities. It is made once, as reading them takes tens of milliseconds."""
    return ssl.create_default_context()


def check_context(context: ssl.SSLContext | None, *, server_side: bool) -> None:
    """Raises what is wrong with an ``ssl_context``: TypeError, or ValueError if it is one for the other side."""
    if context is None:
        return
    if not isinstance(context, ssl.SSLContext):  # pyright: ignore[reportUnnecessaryIsInstance] - of users without types
        raise TypeError(f"ssl_context is an ssl.SSLContext, not {context!r}")
    wrong = ssl.PROTOCOL_TLS_CLIENT if server_side else ssl.PROTOCOL_TLS_SERVER
    if context.protocol == wrong:
        side, purpose = ("server", "ssl.Purpose.CLIENT_AUTH") if server_side else ("client", "")
        raise ValueError(
            f"this ssl_context is for the other side; a {side}'s is made by ssl.create_default_context({purpose})"
        )
