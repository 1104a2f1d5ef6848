"""Values to bytes and back. Only this module and ``_unpacking`` import msgpack; msgspec is known to ``_hash_collisions`` as well.

Two boundaries keep the promise "bytes either parse or give one error": :func:`pack` fails with
:class:`EncodeError` only, :func:`unpack` and :func:`convert` with :class:`DecodeError` only.

Sending is as strict as receiving. msgpack packs what it then refuses to unpack (``{1: "a"}``), so whatever
is not obviously flat is unpacked once, in C, before it leaves: a peer never gets a body that this side
would not accept.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any, Final, TypeGuard, cast

import msgpack
import msgspec

from ._hash_collisions import checker
from ._unpacking import MAX_CONTAINERS, NO_EXTENSIONS, unpackb

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ._frames import Data

# msgpack has no types of its own.
_packb: Final[Callable[..., bytes]] = cast("Any", msgpack).packb
_Packer: Final[Callable[..., Any]] = cast("Any", msgpack).Packer

# In place of a body for which there was no room. No value begins in this way.
UNREADABLE: Final = b"\xc1no room"

_SMALL: Final = 1024
# Bytes of this size are worth not to be copied.
LARGE: Final = 64 * 1024
_BIN32: Final = struct.Struct(">BI")
_MAX_BIN32: Final = 2**32 - 1

_SCALARS: Final = frozenset({type(None), bool, int, float, str, bytes})
_SEQUENCES: Final = frozenset({list, tuple})
# A flat value is nested no deeper than this: a request is an array with the array of its arguments.
_FLAT_DEPTH: Final = 2
# Handed through by msgspec as they are, because msgpack has them; else it would make base64 text of them.
_NATIVE_TYPES: Final = (bytes, bytearray, memoryview)

# Characters of a reason: it may quote what the peer sent.
_MAX_REASON: Final = 500

_NUMBERS: Final = frozenset({int, float})
_PLAIN_KEYS: Final = (msgspec.inspect.AnyType, msgspec.inspect.StrType, msgspec.inspect.BytesType)
_IMPOSSIBLE_KEYS: Final = (
    msgspec.inspect.BoolType,
    msgspec.inspect.NoneType,
    msgspec.inspect.CollectionType,
    msgspec.inspect.TupleType,
    msgspec.inspect.UnionType,
)

# What is converted alike with and without the options that convert() gives.
_PLAIN_TYPES: Final = (
    msgspec.inspect.BoolType,
    msgspec.inspect.DataclassType,
    msgspec.inspect.EnumType,
    msgspec.inspect.Field,
    msgspec.inspect.FloatType,
    msgspec.inspect.IntType,
    msgspec.inspect.ListType,
    msgspec.inspect.LiteralType,
    msgspec.inspect.NamedTupleType,
    msgspec.inspect.NoneType,
    msgspec.inspect.SetType,
    msgspec.inspect.StrType,
    msgspec.inspect.StructType,
    msgspec.inspect.TupleType,
    msgspec.inspect.TypedDictType,
    msgspec.inspect.UnionType,
    msgspec.inspect.VarTupleType,
)
_EXACT: Final = (int, float, str, bool)

# Every byte that is not the header of a msgpack array or map (fixmap, fixarray, array16/32, map16/32).
_NOT_A_CONTAINER: Final = bytes(b for b in range(256) if not (0x80 <= b <= 0x9F or 0xDC <= b <= 0xDF))
# Every byte that is the header of neither a map nor an extension type.
_NO_MAP_OR_EXTENSION: Final = bytes(
    b for b in range(256) if not (0x80 <= b <= 0x8F or 0xC7 <= b <= 0xC9 or 0xD4 <= b <= 0xD8 or 0xDE <= b <= 0xDF)
)
# Headers of the timestamp extension, which the decoder turns into an object without asking; it takes all
# three sizes behind each form of header.
_TIMESTAMPS: Final = (
    b"\xd6\xff",
    b"\xd7\xff",
    *(head + bytes([size, 0xFF]) for head in (b"\xc7", b"\xc8\x00", b"\xc9\x00\x00\x00") for size in (4, 8, 12)),
)


class EncodeError(TypeError):
    """The value has no representation on the wire."""


class DecodeError(ValueError):
    """The bytes are not an acceptable value, or the value is not of the expected type."""


def pack(value: object, *, max_depth: int) -> bytes:
    """Bytes of ``value``, for a receiver that accepts a nesting of ``max_depth``.

    Dataclasses, enums, dates, UUIDs, decimals, sets, structs and so on become what msgspec makes of them.
    A dictionary's keys must be text or bytes; see :func:`with_text_keys`.

    Raises:
        EncodeError: the value cannot be encoded, or no receiver would accept it.
    """
    try:
        # Its buffer grows; at first it is not the quarter of a megabyte that it has by default.
        packed: bytes = _Packer(default=_to_builtins, buf_size=_SMALL).pack(value)
        # Each level of nesting takes a byte, so most are cleared by their length.
        if len(packed) <= max_depth and not packed.translate(None, _NO_MAP_OR_EXTENSION):
            return packed
        if max_depth < _FLAT_DEPTH or not _is_flat(value):
            unpack(packed, max_depth=max_depth)
        elif len(packed) > MAX_CONTAINERS:
            unpackb(packed)
    # The encoder runs code of the value's class (properties, iteration), which may raise anything.
    except Exception as exc:
        raise EncodeError(_reason(exc)) from exc
    return packed


def pack_scattered(value: object, *, max_depth: int) -> Data:
    """As :func:`pack`, but ``bytes`` that are large stay as they are, in pieces of their own, if it is flat."""
    if max_depth < _FLAT_DEPTH or not _is_flat(value):
        return pack(value, max_depth=max_depth)
    pieces: list[bytes] = []
    small = bytearray()
    for piece in _scatter(value):
        if len(piece) < LARGE:
            small += piece
        else:
            pieces += [bytes(small), piece]
            small = bytearray()
    return (*pieces, bytes(small)) if small else tuple(pieces)


def _scatter(value: Any) -> Iterator[bytes]:
    """The bytes of a flat value, with large ``bytes`` as pieces of their own."""
    if type(value) is bytes and LARGE <= len(value) <= _MAX_BIN32:
        yield _BIN32.pack(0xC6, len(value))
        yield value
    elif type(value) in _SEQUENCES:
        yield _Packer().pack_array_header(len(value))
        for item in value:
            yield from _scatter(item)
    else:
        try:
            yield _packb(value)
        except Exception as exc:
            raise EncodeError(_reason(exc)) from exc


def unpack(body: bytes | memoryview, *, max_depth: int) -> Any:
    """The plain value (None, bool, int, float, str, bytes, list, dict) of ``body``.

    Raises:
        DecodeError: not one whole msgpack value, nested deeper than ``max_depth``, a map key that is not
            text or bytes, or an extension type.
    """
    try:
        value: Any = unpackb(body)
    # ValueError, UnpackException, StackError, UnicodeDecodeError, RecursionError, ...: one error for all.
    except Exception as exc:
        no_room = "there was no room for it here (Limits.max_bytes_in_flight)"
        raise DecodeError(no_room if body == UNREADABLE else _reason(exc)) from exc
    # As in pack(). A timestamp, of whatever size, has the byte 255.
    if len(body) <= max_depth and 255 not in body:
        return value
    if max_depth < _FLAT_DEPTH or not _is_flat(value):
        _check_nesting(value, body, max_depth)
    return value


def convert(value: object, hint: Any) -> Any:
    """``value``, plain, as the type that ``hint`` names.

    Raises:
        DecodeError: it does not fit, or the hashes in it collide too often; the message says where and why.
    """
    return value if hint is Any else converter(hint)(value)


def _convert(value: object, hint: Any) -> Any:
    try:
        return msgspec.convert(value, hint, builtin_types=_NATIVE_TYPES, str_keys=True)
    # Beside ValidationError, the constructor of a user's dataclass may raise what it likes.
    except Exception as exc:
        raise DecodeError(_reason(exc)) from exc


def converter(hint: Any) -> Callable[[Any], Any]:
    """:func:`convert` for one hint, which it does in less time when it knows it beforehand.

    The hint is one that :func:`check_hint` has accepted.
    """
    info = msgspec.inspect.type_info(hint)
    check = checker(info, _convert)
    plain = _plain_converter(hint, info)
    if check is None:
        return plain

    def convert_checked(value: object) -> Any:
        try:
            check(value)
        # Beside CollisionError, elements may raise what they like when they are compared.
        except Exception as exc:
            raise DecodeError(_reason(exc)) from exc
        return plain(value)

    return convert_checked


def _plain_converter(hint: Any, info: msgspec.inspect.Type) -> Callable[[Any], Any]:
    parts = _parts(info, set())
    # The options take as long as the conversion itself, and most hints do not need them.
    if not all(isinstance(part, _PLAIN_TYPES) for part in parts if isinstance(part, msgspec.Struct)):
        return lambda value: _convert(value, hint)
    # Of these, a value that is of exactly that class is what it has to be.
    exact = next((cls for cls in _EXACT if hint is cls), None)

    def convert_plainly(value: object) -> Any:
        if type(value) is exact:
            return value
        try:
            return msgspec.convert(value, hint)
        except Exception as exc:
            raise DecodeError(_reason(exc)) from exc

    return convert_plainly


def check_hint(hint: Any) -> None:
    """Finds out whether :func:`convert` supports ``hint``.

    Raises:
        TypeError: it does not; the message names the part that is not supported.
    """
    for info in _parts(msgspec.inspect.type_info(hint), set()):
        # Of a class that msgspec knows nothing of it would take instances only, which never come; any
        # value is an instance of object.
        if isinstance(info, msgspec.inspect.CustomType) and info.cls is not object:
            raise TypeError(f"type {getattr(info.cls, '__qualname__', info.cls)!r} is not supported")
        if isinstance(info, msgspec.inspect.DictType) and isinstance(info.key_type, _IMPOSSIBLE_KEYS):
            raise TypeError("keys of this type cannot be sent, or not be told from others when they are text")


def has_typed_keys(hint: Any) -> bool:
    """Whether a receiver with this hint reads map keys back from text, as in ``dict[int, str]``."""
    return any(
        isinstance(info, msgspec.inspect.DictType) and not isinstance(info.key_type, _PLAIN_KEYS)
        for info in _parts(msgspec.inspect.type_info(hint), set())
    )


def with_text_keys(value: object) -> Any:
    """``value``, plain, with the numbers among its map keys as text, for a receiver whose hint reads them back.

    For one without such a hint it must not be done: it would see other keys than were sent.

    Raises:
        EncodeError: the value cannot be encoded, or two keys are the same as text.
    """
    try:
        return _text_keys(msgspec.to_builtins(value, builtin_types=_NATIVE_TYPES))
    except Exception as exc:
        raise EncodeError(_reason(exc)) from exc


def _text_keys(value: Any) -> Any:
    if type(value) in _SEQUENCES:
        return [_text_keys(item) for item in value]
    if _is_map(value):
        result = {str(key) if type(key) in _NUMBERS else key: _text_keys(item) for key, item in value.items()}
        if len(result) < len(value):
            raise EncodeError("two keys of a dictionary are the same as text")
        return result
    return value


def _is_map(value: object) -> TypeGuard[dict[Any, Any]]:
    return type(value) is dict


def _parts(info: object, seen: set[int]) -> Iterator[object]:
    """Everything in the description of a type, each once: types may be recursive."""
    if id(info) in seen:
        return
    seen.add(id(info))
    yield info
    if isinstance(info, msgspec.inspect.Type | msgspec.inspect.Field):
        for name in info.__struct_fields__:
            yield from _parts(getattr(info, name), seen)
    elif isinstance(info, tuple):
        for item in cast("tuple[object, ...]", info):
            yield from _parts(item, seen)


def _to_builtins(value: object) -> Any:
    return msgspec.to_builtins(value, builtin_types=_NATIVE_TYPES)


def _is_flat(value: object) -> bool:
    """Whether nothing in it can have keys or be deeper than a request of scalars: no further check needed."""
    if type(value) in _SCALARS:
        return True
    if type(value) not in _SEQUENCES:  # a subclass may be anything: msgpack's ExtType is a tuple
        return False
    if len(cast("list[Any]", value)) > _SMALL and _SCALARS.issuperset(map(type, cast("list[Any]", value))):
        return True
    # A loop, as a generator expression takes twice the time; this is done for every message.
    for item in cast("list[Any]", value):
        if type(item) not in _SCALARS and not (type(item) in _SEQUENCES and _SCALARS.issuperset(map(type, item))):
            return False
    return True


def _check_nesting(value: object, body: bytes | memoryview, max_depth: int) -> None:
    """Refuses values nested deeper than ``max_depth`` and timestamp objects.

    Most bodies are cleared by their bytes, at C speed: a value cannot be nested deeper than there are
    bytes that could be a container's header.
    """
    body = bytes(body)
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
                raise DecodeError(NO_EXTENSIONS)
        if not nested:
            return
        level = children
    raise DecodeError(f"nested deeper than {max_depth}")


def _reason(exc: Exception) -> str:
    """The exception's text, cut; or its class where it has none (as ``StackError``) or fails to give it."""
    if isinstance(exc, OverflowError):
        return "an integer of more than 64 bits; a str or a float can be sent"
    try:
        text = str(exc)
    except Exception:  # noqa: BLE001 - the exception may be one of the user's
        text = ""
    if "strict_map_key" in text:
        return "a dictionary's keys must be str or bytes, if no type hint (as in dict[int, str]) says otherwise"
    return text[:_MAX_REASON] or type(exc).__name__
