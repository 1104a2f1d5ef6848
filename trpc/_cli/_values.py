"""The text of an argument, as the value that is sent."""

from __future__ import annotations

import ast
from typing import Any, Final

import msgspec

# They travel as they are; in JSON they are base64.
_NATIVE: Final = (bytes, bytearray, memoryview)


class BadValueError(ValueError):
    """A text is no value of the type; the message is that of the conversion."""


def value_of(text: str, hint: Any) -> object:
    """The value for a type: the text itself, if that is one; else its JSON; else what reads as one.

    Raises:
        BadValueError: it is none of these.
    """
    if hint is Any:
        try:
            return json_of(text)
        except BadValueError:
            return text
    reasons: list[str] = []
    for attempt in (_as_text, _as_bytes, _as_json, _loosely):
        try:
            value = attempt(text, hint)
        except BadValueError as exc:
            reasons.append(str(exc))
        else:
            return plain(value)
    as_text, _, as_json, _ = reasons
    # Of text that is JSON, the JSON is meant.
    raise BadValueError(as_text if as_json == _NO_JSON else as_json)


def json_value_of(text: str, hint: Any) -> object:
    """The value for a type, from what has to be JSON.

    Raises:
        BadValueError: it is not, or no value of the type.
    """
    if hint is Any:
        return json_of(text)
    return plain(_as_json(text, hint))


def bytes_value_of(data: bytes, hint: Any) -> object:
    """The value for a type, from the bytes of a file.

    Raises:
        BadValueError: the type takes no bytes, and they are no text either; or not one of the type.
    """
    if hint is not Any:
        try:
            return plain(_convert(data, hint, builtin_types=_NATIVE))
        except BadValueError:
            pass
    try:
        text = data.decode()
    except UnicodeDecodeError:
        if hint is Any:
            return data
        raise BadValueError("the input is not text in UTF-8") from None
    # Of a text, the end of its last line is not a part.
    return value_of(text.removesuffix("\n").removesuffix("\r"), hint)


def takes_bytes(hint: Any) -> bool:
    """Whether a value of the type can be bytes as they are."""
    try:
        _convert(b"", hint, builtin_types=_NATIVE)
    except BadValueError:
        return False
    return hint is not Any


def accepts(literal: str, hint: Any) -> bool:
    """Whether a literal of Python's is a value of the type."""
    try:
        _convert(ast.literal_eval(literal), hint, builtin_types=_NATIVE)
    except BadValueError:
        return False
    return True


_NO_JSON: Final = "it is no JSON"


def json_of(text: str) -> Any:
    """The plain value of some JSON.

    Raises:
        BadValueError: it is none.
    """
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError, UnicodeEncodeError):
        raise BadValueError(_NO_JSON) from None


def plain(value: object) -> object:
    """A converted value as it is sent."""
    return msgspec.to_builtins(value, builtin_types=_NATIVE, str_keys=True)


def _as_text(text: str, hint: Any) -> object:
    return _convert(text, hint, builtin_types=_NATIVE)


def _as_bytes(text: str, hint: Any) -> object:
    return _convert(text.encode("utf-8", "surrogateescape"), hint, builtin_types=_NATIVE)


def _as_json(text: str, hint: Any) -> object:
    return _convert(json_of(text), hint, str_keys=True)


def _loosely(text: str, hint: Any) -> object:
    return _convert(text, hint, strict=False, builtin_types=_NATIVE)


def _convert(value: object, hint: Any, **options: Any) -> object:
    try:
        return msgspec.convert(value, hint, **options)
    except Exception as exc:  # noqa: BLE001 - of what it makes, too: a key without a hash, a number that is too large
        raise BadValueError(str(exc)) from None
