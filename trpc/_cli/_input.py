"""Standard input and files, as arguments: whole, or as a stream of lines."""

from __future__ import annotations

import io
import os
import sys
from contextlib import aclosing
from typing import TYPE_CHECKING, Final

import trio

from ._exits import CommandError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

# Bytes that are read at once, at most.
_CHUNK: Final = 64 * 1024


def _read_some(descriptor: int | None) -> bytes:
    if descriptor is not None:
        return os.read(descriptor, _CHUNK)
    return sys.stdin.buffer.read(_CHUNK)


async def chunks_of(path: str | None) -> AsyncGenerator[bytes, None]:
    """What is in a file, as it comes; in standard input if the path is None. Cancelled: what was read is lost.

    Raises:
        CommandError: the file cannot be read.
    """
    # Of standard input past Python's buffer: its lock, held by a thread that is left behind, makes Python abort at exit.
    if path is None and sys.stdin is None:  # pyright: ignore[reportUnnecessaryComparison] - so Python has it if it is closed
        raise CommandError("cannot read standard input: it is closed")
    descriptor = _stdin_descriptor() if path is None else None
    try:
        if path is not None:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            # In a thread, because a terminal or a file cannot be read otherwise. Ctrl-C leaves the thread behind.
            while data := await trio.to_thread.run_sync(_read_some, descriptor, abandon_on_cancel=True):
                yield data
        finally:
            if path is not None and descriptor is not None:
                os.close(descriptor)
    except OSError as exc:
        raise CommandError(f"cannot read {'standard input' if path is None else path}: {exc.strerror}") from None


def _stdin_descriptor() -> int | None:
    try:
        return sys.stdin.fileno()
    except (AttributeError, io.UnsupportedOperation, ValueError):
        return None


async def whole_of(path: str | None) -> bytes:
    """All that is in a file, or in standard input; see :func:`chunks_of`."""
    async with aclosing(chunks_of(path)) as chunks:
        return b"".join([chunk async for chunk in chunks])


async def lines_of(path: str | None) -> AsyncGenerator[bytes, None]:
    """The lines of a file, or of standard input, without their ends; see :func:`chunks_of`."""
    rest = b""
    async with aclosing(chunks_of(path)) as chunks:
        async for chunk in chunks:
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                yield line.removesuffix(b"\r")
    if rest:
        yield rest
