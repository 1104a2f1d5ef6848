"""Values to bytes and back. The only module that imports msgpack and msgspec.

Two boundaries keep the promise "bytes either parse or give one error": :func:`pack` fails with
:class:`EncodeError` only, :func:`unpack` and :func:`convert` with :class:`DecodeError` only.

Sending is as strict as receiving. msgpack packs what it then refuses to unpack (``{1: "a"}``), so whatever
is not obviously flat is unpacked once, in C, before it leaves: a peer never gets a body that this side
would not accept.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NoReturn, cast

import msgpack
import msgspec

if TYPE_CHECKING:
    from collections.abc import Callable

# msgpack has no types of its own.
_packb: Final[Callable[..., bytes]] = cast("Any", msgpack).packb
_unpackb: Final[Callable[..., Any]] = cast("Any", msgpack).unpackb

_SCALARS: Final = frozenset({type(None), bool, int, float, str, bytes})
_SEQUENCES: Final = frozenset({list, tuple})
# Handed through by msgspec as they are, because msgpack has them; else it would make base64 text of them.
_NATIVE_TYPES: Final = (bytes, bytearray, memoryview)

# Every byte that is not the header of a msgpack array or map (fixmap, fixarray, array16/32, map16/32).
_NOT_A_CONTAINER: Final = bytes(b for b in range(256) if not (0x80 <= b <= 0x9F or 0xDC <= b <= 0xDF))
# Headers of the timestamp extension, which the decoder turns into an object without asking.
_TIMESTAMPS: Final = (b"\xd6\xff", b"\xd7\xff", b"\xc7\x0c\xff")


class EncodeError(TypeError):
    """The value has no representation on the wire."""


class DecodeError(ValueError):
    """The bytes are not an acceptable value, or the value is not of the expected type."""


def pack(value: object, *, max_depth: int, any_keys: bool = False) -> bytes:
    """Bytes of ``value``.

    Dataclasses, enums, dates, UUIDs, decimals, sets, structs and so on become what msgspec makes of them.

    Args:
        value: what to encode.
        max_depth: nesting that the receiver accepts.
        any_keys: write map keys that are not text as text, as the receiver's type hint tells it to read
            them back. Without it such a key is refused: a receiver without a hint would see another key.

    Raises:
        EncodeError: the value cannot be encoded, or no receiver would accept it.
    """
    try:
        packed = _packb(value, default=_to_builtins)
        if not _is_flat(value):
            try:
                unpack(packed, max_depth=max_depth)
            except DecodeError:
                if not any_keys:
                    raise
                packed = _packb(_to_builtins(value))
                unpack(packed, max_depth=max_depth)
    # The encoder runs code of the value's class (properties, iteration), which may raise anything.
    except Exception as exc:
        raise EncodeError(_reason(exc)) from exc
    return packed


def unpack(body: bytes, *, max_depth: int) -> Any:
    """The plain value (None, bool, int, float, str, bytes, list, dict) of ``body``.

    Raises:
        DecodeError: not one whole msgpack value, nested deeper than ``max_depth``, a map key that is not
            text or bytes, or an extension type.
    """
    try:
        value: Any = _unpackb(body, ext_hook=_refuse_extension)
    # ValueError, UnpackException, StackError, UnicodeDecodeError, RecursionError, ...: one error for all.
    except Exception as exc:
        raise DecodeError(_reason(exc)) from exc
    if not _is_flat(value):
        _check_nesting(value, body, max_depth)
    return value


def convert(value: object, hint: Any) -> Any:
    """``value``, plain, as the type that ``hint`` names.

    Raises:
        DecodeError: it does not fit; the message says where and why.
    """
    try:
        return msgspec.convert(value, hint, builtin_types=_NATIVE_TYPES, str_keys=True)
    # Beside ValidationError, the constructor of a user's dataclass may raise what it likes.
    except Exception as exc:
        raise DecodeError(_reason(exc)) from exc


def check_hint(hint: Any) -> None:
    """Finds out whether :func:`convert` supports ``hint``.

    Raises:
        TypeError: it does not; the message names the part that is not supported.
    """
    _check_type_info(msgspec.inspect.type_info(hint), set())


def _check_type_info(info: object, seen: set[int]) -> None:
    """Looks for a class that msgspec knows nothing of, anywhere in the type's description."""
    if isinstance(info, msgspec.inspect.CustomType):
        raise TypeError(f"type {getattr(info.cls, '__qualname__', info.cls)!r} is not supported")
    if id(info) in seen:
        return
    seen.add(id(info))
    if isinstance(info, msgspec.inspect.Type | msgspec.inspect.Field):
        for name in info.__struct_fields__:
            _check_type_info(getattr(info, name), seen)
    elif isinstance(info, tuple):
        for item in cast("tuple[object, ...]", info):
            _check_type_info(item, seen)


def _to_builtins(value: object) -> Any:
    return msgspec.to_builtins(value, builtin_types=_NATIVE_TYPES, str_keys=True)


def _is_flat(value: object) -> bool:
    """Whether nothing in it can have keys or be deeper than a request of scalars: no further check needed."""
    if type(value) in _SCALARS:
        return True
    if not isinstance(value, list | tuple):
        return False
    for item in cast("list[Any]", value):
        if type(item) not in _SCALARS and not (
            type(item) in _SEQUENCES and all(type(leaf) in _SCALARS for leaf in item)
        ):
            return False
    return True


def _check_nesting(value: object, body: bytes, max_depth: int) -> None:
    """Refuses values nested deeper than ``max_depth`` and timestamp objects.

    Most bodies are cleared by their bytes, at C speed: a value cannot be nested deeper than there are
    bytes that could be a container's header.
    """
    if len(body.translate(None, _NOT_A_CONTAINER)) <= max_depth and not any(mark in body for mark in _TIMESTAMPS):
        return
    level: list[Any] = [value]
    for _ in range(max_depth + 1):
        children: list[Any] = []
        nested = False
        for item in level:
            if type(item) is list:
                children += item
                nested = True
            elif type(item) is dict:
                children += item.values()
                nested = True
            elif type(item) not in _SCALARS:
                _refuse_extension()
        if not nested:
            return
        level = children
    raise DecodeError(f"nested deeper than {max_depth}")


def _refuse_extension(*_: object) -> NoReturn:
    raise DecodeError("extension types are not part of the protocol")


def _reason(exc: Exception) -> str:
    """The exception's text, or its class where it has none (``StackError`` has none)."""
    if isinstance(exc, OverflowError):
        return "an integer of more than 64 bits; a str or a float can be sent"
    return str(exc) or type(exc).__name__
