"""Exceptions to error bodies and back.

Only three kinds of classes are ever rebuilt, and none is looked up by import: Python's builtin exceptions,
those registered here with :func:`exception`, and trpc's own. Everything else arrives as ``RemoteError``.
"""

from __future__ import annotations

import builtins
import contextlib
import enum
import functools
import traceback
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast, get_type_hints, overload

import trio

from . import _codec
from ._errors import (
    ClientClosed,
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

if TYPE_CHECKING:
    from collections.abc import Callable

E = TypeVar("E", bound=type[Exception])


class Code(enum.IntEnum):
    """Error codes: what kind of failure an ERROR message tells of."""

    INTERNAL = 1
    METHOD_NOT_FOUND = 2
    INVALID_ARGUMENTS = 3
    DEADLINE_EXCEEDED = 4
    OVERLOADED = 5
    UNAVAILABLE = 6
    UNAUTHENTICATED = 7
    MESSAGE_TOO_LARGE = 8
    PROTOCOL_ERROR = 9
    RAISED = 16
    RAISED_BUILTIN = 17
    RAISED_REGISTERED = 18
    RAISED_GROUP = 19


_STATUS_CLASSES: Final[dict[int, type[RPCError]]] = {
    Code.METHOD_NOT_FOUND: MethodNotFound,
    Code.INVALID_ARGUMENTS: InvalidArguments,
    Code.DEADLINE_EXCEEDED: DeadlineExceeded,
    Code.OVERLOADED: Overloaded,
    Code.UNAVAILABLE: Unavailable,
    Code.UNAUTHENTICATED: Unauthenticated,
    Code.MESSAGE_TOO_LARGE: MessageTooLarge,
    Code.PROTOCOL_ERROR: ProtocolError,
}
_STATUS_CODES: Final = {cls: code for code, cls in _STATUS_CLASSES.items()}

# StopIteration cannot leave a coroutine, so it cannot be raised in the caller; groups have their own code.
_BUILTINS: Final[dict[str, type[Exception]]] = {
    cls.__name__: cls
    for cls in vars(builtins).values()
    if isinstance(cls, type)
    and issubclass(cls, Exception)
    and not issubclass(cls, BaseExceptionGroup | StopIteration | StopAsyncIteration)
}
# A timeout inside the handler is a limit of the server's: `except trio.TooSlowError` works as locally.
_BUILTINS["TooSlowError"] = DeadlineExceeded

_registered: dict[str, type[Exception]] = {}

# An error's tree and its values are data from the handler, so they get the depth that data gets.
_TREE_DEPTH: Final = 16


@overload
def exception(cls: E, /) -> E: ...
@overload
def exception(*, name: str) -> Callable[[E], E]: ...
def exception(cls: Any = None, /, *, name: str | None = None) -> Any:
    """Registers an exception class: raised by a handler, it arrives at the caller as that class.

    Both sides have to register it, under one name (by default the class's name). What travels are the
    instance's ``args`` and its public attributes; ``__init__`` is not run on arrival. Attributes with a
    type hint on the class are converted to that type.

    Raises:
        TypeError: not an exception class, or one that must not be caught by ``except Exception``.
        ValueError: another class has that name, or it is the name of a builtin exception.
    """
    if cls is None:
        return functools.partial(_register, name=name)
    return _register(cls)


def _register(cls: Any, name: str | None = None) -> Any:
    if not (isinstance(cls, type) and issubclass(cls, Exception)):
        raise TypeError(f"@trpc.exception registers subclasses of Exception, not {cls!r}")
    name = name or cls.__name__
    known = _BUILTINS.get(name) or _registered.get(name)
    # The same class again is a module that was reloaded.
    if known is not None and (known.__module__, known.__qualname__) != (cls.__module__, cls.__qualname__):
        raise ValueError(
            f"an exception is registered as {name!r} already: {known!r}; choose another with @trpc.exception(name=...)"
        )
    _registered[name] = cls
    return cls


def encode_status(error: RPCError) -> bytes:
    """Body of ERROR or GOAWAY for a failure that trpc itself found; the handler did not raise it."""
    code = _STATUS_CODES.get(type(error), Code.INTERNAL)
    return _codec.pack({"code": int(code), "message": str(error)}, max_depth=1)


def encode_exception(exc: Exception, *, send_traceback: bool, max_depth: int) -> bytes:
    """Body of ERROR for what a handler raised.

    Raises:
        Exception: whatever ``str()`` or an attribute of the exception raises, or EncodeError.
    """
    return _codec.pack(_describe(exc, send_traceback=send_traceback), max_depth=max_depth)


def _describe(exc: Exception, *, send_traceback: bool) -> dict[str, Any]:
    error: dict[str, Any] = {"type": _public_name(type(exc)), "message": str(exc)}
    if send_traceback:
        error["traceback"] = "".join(traceback.format_exception(exc))
    if isinstance(exc, ExceptionGroup):
        group = cast("ExceptionGroup[Exception]", exc)
        error["code"] = Code.RAISED_GROUP
        error["message"] = group.message
        error["children"] = [_describe(child, send_traceback=send_traceback) for child in group.exceptions]
    elif isinstance(exc, RemoteError):
        # It passes through on its way from another server: what it is must not change at each hop.
        error.update(type=exc.type_name, message=exc.message)
        known = _BUILTINS.get(exc.type_name)
        error["code"] = Code.RAISED_BUILTIN if known and isinstance(exc, known) else Code.RAISED
        error["args"] = list(exc.args)
    elif type(exc) is trio.TooSlowError or isinstance(exc, DeadlineExceeded):
        error.update(code=Code.RAISED_BUILTIN, type="TooSlowError")
    elif _BUILTINS.get(type(exc).__name__) is type(exc):
        error["code"] = Code.RAISED_BUILTIN
        error["args"] = list(exc.args)
    elif (name := _name_of(type(exc))) is not None:
        error.update(code=Code.RAISED_REGISTERED, type=name, args=list(exc.args))
        error["state"] = {key: value for key, value in vars(exc).items() if not key.startswith("_")}
    else:
        error["code"] = Code.RAISED
    if error["code"] != Code.RAISED_REGISTERED and "args" in error and not _can_send(error["args"]):
        # Only a registered class is promised to arrive whole; for the others the message says enough.
        del error["args"]
    error["code"] = int(error["code"])
    return error


def _public_name(cls: type[BaseException]) -> str:
    """The class's name; of those of trpc that users do not see, the name of what they see instead."""
    return next(base.__name__ for base in cls.__mro__ if base.__module__ != ClientClosed.__module__)


def _name_of(cls: type[BaseException]) -> str | None:
    """The name that exactly this class is registered under."""
    return next((name for name, known in _registered.items() if known is cls), None)


def _can_send(args: list[object]) -> bool:
    try:
        _codec.pack(args, max_depth=_TREE_DEPTH)
    except _codec.EncodeError:
        return False
    return True


def decode_error(body: bytes, *, max_depth: int) -> Exception:
    """The exception that an ERROR message tells of; a ProtocolError if it cannot be read."""
    try:
        return _rebuild(_codec.unpack(body, max_depth=max_depth))
    # Whatever is in it, and whatever a registered class makes of that.
    except Exception as exc:  # noqa: BLE001
        return ProtocolError(f"the peer's error message cannot be read: {exc!r}")


def _rebuild(error: dict[str, Any]) -> Exception:
    code, message, type_name = error["code"], error.get("message", ""), error.get("type", "InternalError")
    if type(code) is not int or type(message) is not str or type(type_name) is not str:
        raise TypeError("code must be an integer, message and type must be strings")
    exc: Exception
    if code == Code.RAISED_GROUP:
        exc = ExceptionGroup(message, [_rebuild(child) for child in error["children"]])
    elif code in _STATUS_CLASSES:
        exc = _STATUS_CLASSES[code](message)
    elif code == Code.RAISED_REGISTERED and type_name in _registered:
        exc = _revive(_registered[type_name], error)
    elif code == Code.RAISED_BUILTIN and type_name in _BUILTINS:
        exc = _remote_builtin(type_name)(message, type_name=type_name)
        if "args" in error:
            exc.args = tuple(error["args"])
            # Sets what the class keeps beside args (errno, encoding, ...); args that do not fit, do not.
            with contextlib.suppress(Exception):
                _BUILTINS[type_name].__init__(exc, *exc.args)
    else:
        exc = RemoteError(message, type_name=type_name)
    if isinstance(trace := error.get("traceback"), str):
        exc.add_note(f"Remote traceback:\n{trace}")
    return exc


@functools.cache
def _remote_builtin(name: str) -> type[RemoteError]:
    """A class that is a RemoteError and the builtin of that name, and prints as the builtin."""
    base = _BUILTINS[name]
    return type(name, (RemoteError, base), {"__module__": "trpc", "__str__": _message_of, "__doc__": base.__doc__})


def _message_of(self: RemoteError) -> str:
    return self.message


def _revive(cls: type[Exception], error: dict[str, Any]) -> Exception:
    """An instance of a registered class from its args and attributes, without running ``__init__``.

    ``__init__`` often takes other arguments than it gives to ``super().__init__``, and then cannot be
    called with ``args``; the same trap that pickling exceptions has.
    """
    args = error.get("args", [])
    exc = cls.__new__(cls, *args)
    exc.args = tuple(args)
    hints = _hints_of(cls)
    for key, value in dict(error.get("state", {})).items():
        if type(key) is str and not key.startswith("_"):
            setattr(exc, key, _codec.convert(value, hints.get(key, Any)))
    return exc


def _hints_of(cls: type[Exception]) -> dict[str, Any]:
    try:
        return get_type_hints(cls)
    # Annotations run the user's code; without them the values stay plain.
    except Exception:  # noqa: BLE001
        return {}
