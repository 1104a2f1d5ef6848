"""RPC for Trio: structured concurrency that does not stop at the process boundary."""

from ._call_log import log_calls
from ._client import Client
from ._connect import connect, connect_stream
from ._context import CurrentCall, current_call
from ._credentials import Credentials
from ._errors import (
    ConnectionLost,
    DeadlineExceeded,
    InvalidArguments,
    MessageTooLarge,
    MethodNotFound,
    Overloaded,
    ProtocolError,
    RemoteError,
    RPCError,
    Unauthenticated,
    Unavailable,
)
from ._exceptions import exception
from ._incoming_call import CallInfo
from ._insecure import InsecureWarning
from ._interceptors import Call, Interceptor, Proceed
from ._limits import Limits
from ._metadata import metadata
from ._peer import Peer, UnixPeer
from ._server import ConnectionInfo, Server, serve_listeners, serve_stream, serve_tcp, serve_unix
from ._service import method, service
from ._signals import drain_on_signal
from ._version import __version__

__all__ = [
    "Call",
    "CallInfo",
    "Client",
    "ConnectionInfo",
    "ConnectionLost",
    "Credentials",
    "CurrentCall",
    "DeadlineExceeded",
    "InsecureWarning",
    "Interceptor",
    "InvalidArguments",
    "Limits",
    "MessageTooLarge",
    "MethodNotFound",
    "Overloaded",
    "Peer",
    "Proceed",
    "ProtocolError",
    "RPCError",
    "RemoteError",
    "Server",
    "Unauthenticated",
    "Unavailable",
    "UnixPeer",
    "__version__",
    "connect",
    "connect_stream",
    "current_call",
    "drain_on_signal",
    "exception",
    "log_calls",
    "metadata",
    "method",
    "serve_listeners",
    "serve_stream",
    "serve_tcp",
    "serve_unix",
    "service",
]

# Tracebacks name an error as users import it.
RPCError.__module__ = __name__
for _error in RPCError.__subclasses__():
    _error.__module__ = __name__
