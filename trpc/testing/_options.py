"""The options of serving and connecting that are passed on, for type checkers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, TypedDict

if TYPE_CHECKING:
    import ssl
    from collections.abc import Sequence
    from typing import Unpack

    from .. import Client, Interceptor, Limits
    from .._authentication import Authenticate, Authorize
    from .._service import Services
    from ._link import Link
    from ._recorder import Recorder


class ServeOptions(TypedDict, total=False):
    """Options of the server: those of ``trpc.serve_listeners``."""

    ssl_context: ssl.SSLContext | None
    authenticate: Authenticate | None
    authorize: Authorize | None
    interceptors: Sequence[Interceptor]
    limits: Limits | None
    send_tracebacks: bool
    reflection: bool | None


class ConnectOptions(TypedDict, total=False):
    """Options of the client: those of ``trpc.connect_stream``."""

    ssl_context: ssl.SSLContext | None
    server_hostname: str | None
    token: str | None
    service: Services | None
    interceptors: Sequence[Interceptor]
    limits: Limits | None
    cancel_grace: float


class Connect(Protocol):
    """What the pytest fixture ``trpc_connect`` gives: ``client = await trpc_connect(Calculator())``."""

    async def __call__(
        self,
        services: Services,
        *,
        link: Link | None = None,
        recorder: Recorder | None = None,
        serve: ServeOptions | None = None,
        **options: Unpack[ConnectOptions],
    ) -> Client:
        """As :func:`connected`, but the connection and its server last until the end of the test."""
        ...
