"""Results and items, as they are printed."""

from __future__ import annotations

import json
import math
from typing import Any, Final, cast

import msgspec
import trio
from rich.pretty import Pretty

from ._exits import CommandError, ExitCode
from ._output import console, encoded, is_terminal, write
from ._text import clean

# Characters that are laid out in lines and colors, or made harmless, at once: it takes its time, in which nothing else runs.
_MAX_LAID_OUT: Final = 32 * 1024


async def print_result(value: object, *, as_json: bool) -> None:
    """Prints what a method has returned. None prints nothing, except as JSON.

    Raises:
        OutputClosedError: nobody reads it.
    """
    if value is not None or as_json:
        await print_item(value, as_json=as_json)


async def print_item(value: object, *, as_json: bool) -> None:
    """Prints a value, at once and in a line of its own if it is no bytes; see :func:`print_result`."""
    if as_json:
        await write(json_bytes(value) + b"\n")
    elif is_terminal():
        await write(encoded(await _for_people(value) + "\n"))
    elif isinstance(value, bytes):
        await write(value)
    elif isinstance(value, str):
        await write(encoded(value + "\n"))
    else:
        await write(json_bytes(value) + b"\n")


async def _for_people(value: object) -> str:
    if isinstance(value, str):
        if len(value) <= _MAX_LAID_OUT:
            return clean(value)
        return await trio.to_thread.run_sync(clean, value, abandon_on_cancel=True)
    text = repr(value)
    if len(text) > _MAX_LAID_OUT:
        return text
    screen = console()
    with screen.capture() as capture:
        screen.print(Pretty(value), end="")
    return capture.get().rstrip("\n")


def json_bytes(value: object) -> bytes:
    """The value as compact JSON; bytes in it as base64; numbers that JSON has not, such as NaN, as Python's ``json`` does.

    Raises:
        CommandError: it has a key that cannot be one in JSON.
    """
    try:
        data = msgspec.json.encode(value)
        # They are null there, which others are as well.
        if b"null" not in data or not _has_odd_number(value):
            return data
        value = msgspec.to_builtins(value, str_keys=True)
    except TypeError as exc:
        raise CommandError(f"the result cannot be written as JSON: {exc}", ExitCode.FAILED) from None
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def _has_odd_number(value: object) -> bool:
    if isinstance(value, dict):
        return any(map(_has_odd_number, cast("dict[Any, object]", value).values()))
    if isinstance(value, list | tuple):
        return any(map(_has_odd_number, cast("list[object]", value)))
    return isinstance(value, float) and not math.isfinite(value)
