"""Results and items, as they are printed."""

from __future__ import annotations

import msgspec
from rich.pretty import Pretty

from ._output import console, encoded, is_terminal, write
from ._text import clean


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
        await write(encoded(_for_people(value) + "\n"))
    elif isinstance(value, bytes):
        await write(value)
    elif isinstance(value, str):
        await write(encoded(value + "\n"))
    else:
        await write(json_bytes(value) + b"\n")


def _for_people(value: object) -> str:
    if isinstance(value, str):
        return clean(value)
    screen = console()
    with screen.capture() as capture:
        screen.print(Pretty(value), end="")
    return capture.get().rstrip("\n")


def json_bytes(value: object) -> bytes:
    """The value as compact JSON; bytes in it as base64."""
    return msgspec.json.encode(value)
