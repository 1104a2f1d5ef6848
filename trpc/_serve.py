"""What users serve with: on a TCP port, a Unix socket, listeners and streams."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from ._address import open_tcp_listeners, unix_listener
from ._host import Host
from ._server import Server
from ._service import Services, table_of

if TYPE_CHECKING:
    import os
    import ssl
    from collections.abc import Sequence

    from ._authentication import Authenticate, Authorize
    from ._interceptors import Interceptor
    from ._limits import Limits


async def serve_tcp(
    services: Services,
    port: int,
    *,
    host: str | None = "127.0.0.1",
    ssl_context: ssl.SSLContext | None = None,
    authenticate: Authenticate | None = None,
    authorize: Authorize | None = None,
    interceptors: Sequence[Interceptor] = (),
    limits: Limits | None = None,
    send_tracebacks: bool = False,
    reflection: bool | None = None,
    allow_insecure: bool = False,
    task_status: trio.TaskStatus[Server] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serves on a TCP port until cancelled: ``server = await nursery.start(trpc.serve_tcp, Calculator(), 0)``.

    Cancelled: it stops listening, every handler is cancelled, and all of them have ended when it returns.

    Args:
        services: one service object, several in a list, or a mapping of names to objects.
        port: 0 takes any free port; see ``server.url``.
        host: the address to listen on; None: all of this machine's.
        ssl_context: serve with TLS, and show the certificate that was loaded into it with ``load_cert_chain()``. Made by
            ``ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)``.
        authenticate: says who a client is: a function, async or not, that takes its :class:`Credentials` and returns an
            identity, which is then that of its :class:`Peer`. Returning None or raising :exc:`Unauthenticated` refuses it:
            its calls raise that, and none of them is executed.
        authorize: says what a client may call: a plain function that takes the :class:`Peer` and the name of a method,
            such as ``"Calculator.add"``, and returns True or False. False: the call raises :exc:`Unauthenticated`. It is
            asked for each call, also for names of which there is no method; and for each method, when a client asks which
            there are.
        interceptors: put around the handler of each call, the first one outermost; see :data:`Interceptor`. They are not
            put around calls back, through ``trpc.current_call().client``.
        limits: what this side accepts.
        send_tracebacks: let errors carry the handler's traceback; it shows the server's code to callers.
        reflection: whether it describes itself to callers, as the service ``trpc``: see :class:`Reflection`. None: if it
            listens on the loopback or a Unix socket, and nowhere else.
        allow_insecure: do not warn if other machines can reach it, and it has neither TLS nor ``authenticate``.
        task_status: gets the :class:`Server` once it listens.

    Warns:
        InsecureWarning: it is so.

    Raises:
        TypeError, ValueError: a service cannot be served, the port is out of range, or another option is wrong.
        OSError: the port is in use or needs privileges; the message says what to do.
    """
    shared = Host(
        table_of(services),
        limits,
        send_tracebacks=send_tracebacks,
        interceptors=interceptors,
        authenticate=authenticate,
        authorize=authorize,
    )
    server = Server(shared, ssl_context, reflection=reflection)
    await server.serve_listeners(await open_tcp_listeners(port, host), task_status, allow_insecure=allow_insecure)


async def serve_unix(
    services: Services,
    path: str | os.PathLike[str],
    *,
    mode: int = 0o600,
    authenticate: Authenticate | None = None,
    authorize: Authorize | None = None,
    interceptors: Sequence[Interceptor] = (),
    limits: Limits | None = None,
    send_tracebacks: bool = False,
    reflection: bool | None = None,
    task_status: trio.TaskStatus[Server] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serves on a Unix socket, which only this user can connect to and which is removed at the end.

    As :func:`serve_tcp`, but for ``path``, where there may be no file yet, or a socket that a killed process has left,
    and ``mode``: the permissions of the socket. To connect takes that of writing: with ``0o660`` its group may as well.
    """
    shared = Host(
        table_of(services),
        limits,
        send_tracebacks=send_tracebacks,
        interceptors=interceptors,
        authenticate=authenticate,
        authorize=authorize,
    )
    server = Server(shared, reflection=reflection)
    async with unix_listener(path, mode) as (listener, remove):
        await server.serve_listeners([listener], task_status, on_stop=remove)


async def serve_listeners(
    services: Services,
    listeners: Sequence[trio.abc.Listener[trio.abc.Stream]],
    *,
    ssl_context: ssl.SSLContext | None = None,
    authenticate: Authenticate | None = None,
    authorize: Authorize | None = None,
    interceptors: Sequence[Interceptor] = (),
    limits: Limits | None = None,
    send_tracebacks: bool = False,
    reflection: bool | None = None,
    allow_insecure: bool = False,
    task_status: trio.TaskStatus[Server] = trio.TASK_STATUS_IGNORED,
) -> None:
    """As :func:`serve_tcp`, on ``listeners`` that are open already, and that it closes at the end."""
    shared = Host(
        table_of(services),
        limits,
        send_tracebacks=send_tracebacks,
        interceptors=interceptors,
        authenticate=authenticate,
        authorize=authorize,
    )
    server = Server(shared, ssl_context, reflection=reflection)
    await server.serve_listeners(listeners, task_status, allow_insecure=allow_insecure)


async def serve_stream(
    services: Services,
    stream: trio.abc.Stream,
    *,
    ssl_context: ssl.SSLContext | None = None,
    authenticate: Authenticate | None = None,
    authorize: Authorize | None = None,
    interceptors: Sequence[Interceptor] = (),
    limits: Limits | None = None,
    send_tracebacks: bool = False,
    reflection: bool | None = None,
    task_status: trio.TaskStatus[Server] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serves one ``stream`` that is open already, until it ends; closes it. Otherwise as :func:`serve_tcp`."""
    shared = Host(
        table_of(services),
        limits,
        send_tracebacks=send_tracebacks,
        interceptors=interceptors,
        authenticate=authenticate,
        authorize=authorize,
    )
    server = Server(shared, ssl_context, reflection=reflection)
    await server.serve_one(stream, task_status)
