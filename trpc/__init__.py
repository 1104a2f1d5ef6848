"""RPC for Trio: structured concurrency that does not stop at the process boundary."""

from ._activity import CallInfo, ConnectionInfo
from ._call_log import log_calls
from ._client import Client
from ._connect import connect, connect_stream
from ._context import CurrentCall, current_call
from ._credentials import Credentials
from ._descriptions import MethodInfo, ParameterInfo, ServiceInfo
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
from ._insecure import InsecureWarning
from ._interceptors import Call, Interceptor, Proceed
from ._limits import Limits
from ._metadata import metadata
from ._peer import Peer, UnixPeer
from ._reflection import Activity, CallActivity, ConnectionActivity, Reflection
from ._serve import serve_listeners, serve_stream, serve_tcp, serve_unix
from ._server import Server
from ._service import method, service
from ._signals import drain_on_signal
from ._type_texts import FieldInfo, TypeInfo
from ._version import __version__

__all__ = [
    "Activity",
    "Call",
    "CallActivity",
    "CallInfo",
    "Client",
    "ConnectionActivity",
    "ConnectionInfo",
    "ConnectionLost",
    "Credentials",
    "CurrentCall",
    "DeadlineExceeded",
    "FieldInfo",
    "InsecureWarning",
    "Interceptor",
    "InvalidArguments",
    "Limits",
    "MessageTooLarge",
    "MethodInfo",
    "MethodNotFound",
    "Overloaded",
    "ParameterInfo",
    "Peer",
    "Proceed",
    "ProtocolError",
    "RPCError",
    "Reflection",
    "RemoteError",
    "Server",
    "ServiceInfo",
    "TypeInfo",
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
