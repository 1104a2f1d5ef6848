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
    from collections.abc import Callable, Iterator

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
_STATUS_CODES: Final[dict[type[Exception], int]] = {cls: code for code, cls in _STATUS_CLASSES.items()}

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

# What a builtin exception's args may nest.
_ARGS_DEPTH: Final = 16

# Exceptions in one tree of groups. An exception takes some hundred times the memory of its three bytes on
# the wire, and nobody has caught that many at once.
_MAX_TREE: Final = 1000
# Characters of a message that trpc itself writes: it may quote what the peer sent.
_MAX_STATUS: Final = 1000


@overload
def exception(cls: E, /) -> E: ...
@overload
def exception(*, name: str) -> Callable[[E], E]: ...
def exception(cls: Any = None, /, *, name: str | None = None) -> Any:
    """Registers an exception class: raised by a handler, it arrives at the caller as that class.

    Both sides have to register it, under one name (by default the class's name). What travels are the
    instance's ``args`` and its public attributes; ``__init__`` is not run on arrival. Attributes with a
    type hint on the class are converted to that type.

    Args:
        cls: the class; left out where a name is given.
        name: what it is called on the wire.

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
    # The text may quote a user's exception; what is no Unicode in it is escaped.
    message = str(error)[:_MAX_STATUS].encode(errors="backslashreplace").decode()
    return _codec.pack({"code": int(code), "message": message}, max_depth=1)


def encode_exception(
    exc: Exception, *, send_traceback: bool = False, max_depth: int, after_cancel: bool = False
) -> bytes:
    """Body of ERROR for what a handler raised.

    Args:
        exc: what it was.
        send_traceback: whether to send where that was.
        max_depth: nesting that the receiver accepts.
        after_cancel: whether the handler had been cancelled by then.

    Raises:
        Exception: whatever ``str()`` or an attribute of the exception raises, or EncodeError.
    """
    left = iter(range(_MAX_TREE))
    error = _describe(exc, left, send_traceback=send_traceback)
    if after_cancel:
        error["after_cancel"] = True
    return _codec.pack(error, max_depth=max_depth)


def _count(left: Iterator[int]) -> None:
    if next(left, None) is None:
        raise ValueError(f"more than {_MAX_TREE} exceptions in one group")


def _describe(exc: Exception, left: Iterator[int], *, send_traceback: bool) -> dict[str, Any]:
    _count(left)
    error: dict[str, Any] = {"type": public_name(type(exc)), "message": str(exc)}
    if send_traceback:
        error["traceback"] = "".join(traceback.format_exception(exc))
    if isinstance(exc, ExceptionGroup):
        group = cast("ExceptionGroup[Exception]", exc)
        error["code"] = Code.RAISED_GROUP
        error["message"] = group.message
        error["children"] = [_describe(child, left, send_traceback=send_traceback) for child in group.exceptions]
    elif (name := _name_of(type(exc))) is not None:
        error.update(code=Code.RAISED_REGISTERED, type=name, args=list(exc.args), state=_state_of(exc))
    elif isinstance(exc, RemoteError):
        # It passes through on its way from another server: what it is must not change at each hop.
        error.update(type=str(exc.type_name), message=str(exc.message))
        known = _BUILTINS.get(exc.type_name)
        error["code"] = Code.RAISED_BUILTIN if known and isinstance(exc, known) else Code.RAISED
        error["args"] = list(exc.args)
    elif type(exc) is trio.TooSlowError or isinstance(exc, DeadlineExceeded):
        error.update(code=Code.RAISED_BUILTIN, type="TooSlowError")
    elif _BUILTINS.get(type(exc).__name__) is type(exc):
        error["code"] = Code.RAISED_BUILTIN
        error["args"] = list(exc.args)
    else:
        error["code"] = Code.RAISED
    if error["code"] != Code.RAISED_REGISTERED and "args" in error and not _can_send(error["args"]):
        # Only a registered class is promised to arrive whole; for the others the message says enough.
        del error["args"]
    error["code"] = int(error["code"])
    return error


def public_name(cls: type[BaseException]) -> str:
    """The class's name; of those of trpc that users do not see, the name of what they see instead."""
    return next(base.__name__ for base in cls.__mro__ if base.__module__ != ClientClosed.__module__)


def _name_of(cls: type[BaseException]) -> str | None:
    """The name that exactly this class is registered under."""
    return next((name for name, known in _registered.items() if known is cls), None)


def _state_of(exc: Exception) -> dict[str, Any]:
    """The public attributes of an instance of a registered class, also those in slots."""
    hints = _hints_of(type(exc))
    slots: list[str] = []
    for base in type(exc).__mro__:
        names = vars(base).get("__slots__", ())
        slots += [names] if isinstance(names, str) else names
    state = {name: getattr(exc, name) for name in [*vars(exc), *slots] if name[:1] != "_" and hasattr(exc, name)}
    return {
        name: _codec.with_text_keys(value) if _codec.has_typed_keys(hints.get(name, Any)) else value
        for name, value in state.items()
    }


def _can_send(args: list[object]) -> bool:
    try:
        _codec.pack(args, max_depth=_ARGS_DEPTH)
    except _codec.EncodeError:
        return False
    return True


def decode_error(body: bytes, *, max_depth: int) -> Exception:
    """The exception that an ERROR message tells of; a ProtocolError if it cannot be read."""
    try:
        return _rebuild(_codec.unpack(body, max_depth=max_depth), iter(range(_MAX_TREE)))
    # Whatever is in it, and whatever a registered class makes of that.
    except Exception as exc:  # noqa: BLE001 - see above
        return ProtocolError(f"the peer's error message cannot be read: {exc!r}")


def is_after_cancel(body: bytes, *, max_depth: int) -> bool:
    """Whether an ERROR message tells of what a handler raised when it was cancelled."""
    try:
        return _codec.unpack(body, max_depth=max_depth)["after_cancel"] is True
    except Exception:  # noqa: BLE001 - whatever is in it
        return False


def decode_status(body: bytes, *, max_depth: int) -> Callable[[], RPCError]:
    """Makes the error of a GOAWAY, afresh for each call that gets it; the body is read once.

    No handler has raised it, so that nothing but its code and its message counts, and no class but trpc's own.
    """
    try:
        error = _codec.unpack(body, max_depth=max_depth)
        code, message = error["code"], error.get("message", "")
    except Exception as exc:  # noqa: BLE001 - whatever is in it
        return functools.partial(ProtocolError, f"the peer's goaway cannot be read: {exc!r}")
    if type(code) is not int or type(message) is not str:
        return functools.partial(ProtocolError, "the peer's goaway cannot be read: its code or message is of no use")
    return functools.partial(_STATUS_CLASSES.get(code, Unavailable), message)


def _rebuild(error: dict[str, Any], left: Iterator[int]) -> Exception:
    _count(left)
    code, message, type_name = error["code"], error.get("message", ""), error.get("type", "InternalError")
    if type(code) is not int or type(message) is not str or type(type_name) is not str:
        raise TypeError("code must be an integer, message and type must be strings")
    exc: Exception
    if code == Code.RAISED_GROUP:
        exc = ExceptionGroup(message, [_rebuild(child, left) for child in error["children"]])
    elif code in _STATUS_CLASSES:
        exc = _STATUS_CLASSES[code](message)
    elif code == Code.RAISED_REGISTERED and type_name in _registered:
        exc = _revive(_registered[type_name], error)
    elif code == Code.RAISED_BUILTIN and type_name in _BUILTINS:
        exc = _remote_builtin(type_name)(message, type_name=type_name)
        _fill_builtin(exc, error.get("args", [message]))
    else:
        exc = RemoteError(message, type_name=type_name)
    if isinstance(trace := error.get("traceback"), str):
        # As add_note() does, but also where the class is a frozen dataclass.
        object.__setattr__(exc, "__notes__", [f"Remote traceback:\n{trace}"])
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
    _fill_builtin(exc, args)
    hints = _hints_of(cls)
    for key, value in dict(error.get("state", {})).items():
        # Attributes, but not in place of methods.
        if type(key) is str and not key.startswith("_") and not callable(getattr(cls, key, None)):
            object.__setattr__(exc, key, _codec.convert(value, hints.get(key, Any)))
    return exc


def _fill_builtin(exc: Exception, args: list[Any]) -> None:
    """Sets ``args``, and what the builtin class keeps beside them (errno, encoding, ...), if they fit it."""
    # Past a __setattr__ of the class: that of a frozen dataclass refuses.
    object.__setattr__(exc, "args", tuple(args))
    base = next(base for base in type(exc).__mro__ if base.__module__ == "builtins")
    with contextlib.suppress(Exception):
        cast("Any", base).__init__(exc, *args)
    if isinstance(exc, SyntaxError) and not _can_be_printed(exc):
        # It takes fields of any type from the peer, and Python fails when it prints them.
        exc.msg = str(args[0]) if args else ""
        exc.filename = exc.lineno = exc.offset = exc.text = exc.end_lineno = exc.end_offset = None


def _can_be_printed(exc: Exception) -> bool:
    try:
        traceback.format_exception_only(exc)
    except Exception:  # noqa: BLE001 - any, as the fields may be anything
        return False
    return True


def _hints_of(cls: type[Exception]) -> dict[str, Any]:
    try:
        hints = get_type_hints(cls)
    # Annotations run the user's code; without them the values stay plain.
    except Exception:  # noqa: BLE001 - see above
        return {}
    return {name: hint for name, hint in hints.items() if _is_supported(hint)}


def _is_supported(hint: Any) -> bool:
    try:
        _codec.check_hint(hint)
    except Exception:  # noqa: BLE001 - as above
        return False
    return True
