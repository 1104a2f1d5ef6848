"""msgpack's decoder, with bounds on the time and memory that a body costs beyond its bytes.

Three things make small bodies expensive, and each is bounded here, without a cost for what people send:

- Room for up to 10,000 elements is reserved at each header of an array, before they are there: 16 KiB of nothing but
  headers take 80 MiB, and 50 ms. A body with many of these bytes is gone through first, in C, without making anything
  of it, which shows whether all elements are there.
- An empty array or map is one byte on the wire and some 70 in memory. There may be so many of them, and no more.
- Python's garbage collector looks at all containers again and again while they are made, which takes up to ten times
  as long as the rest. It rests meanwhile: what is being made cannot be garbage.
"""

from __future__ import annotations

import contextlib
import gc
from typing import TYPE_CHECKING, Any, Final, NoReturn, cast

import msgpack

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# msgpack has no types of its own.
_unpackb: Final[Callable[..., Any]] = cast("Any", msgpack).unpackb
_Unpacker: Final[Callable[..., Any]] = cast("Any", msgpack).Unpacker

MAX_CONTAINERS: Final = 2**18
"""Arrays and maps in one body: some 25 MiB of memory at most, and 50 ms to make. Longer sequences go in streams."""

# Headers of arrays with 16 elements and more. So many cost next to nothing, whatever they announce.
_ARRAY_HEADERS: Final = (0xDC, 0xDD)
_MAX_UNSEEN: Final = 8

# Bytes of a body from which the collector is stopped, which is to set a flag twice.
_LARGE: Final = 16 * 1024

# Every byte that is not the header of a msgpack array or map (fixmap, fixarray, array16/32, map16/32).
NOT_A_CONTAINER: Final = bytes(b for b in range(256) if not (0x80 <= b <= 0x9F or 0xDC <= b <= 0xDF))


NO_EXTENSIONS: Final = "extension types are not part of the protocol"


def _refuse_extension(*_: object) -> NoReturn:
    raise ValueError(NO_EXTENSIONS)


def unpackb(body: bytes | memoryview) -> Any:
    """The value of ``body``. Raises exceptions of many classes if it is not exactly one."""
    if len(body) <= _MAX_UNSEEN:
        return _unpackb(body, ext_hook=_refuse_extension)
    # Of a view the whole of what is behind it, which is nothing much more.
    data: Any = body if isinstance(body, bytes) else body.obj
    if sum(map(data.count, _ARRAY_HEADERS)) > _MAX_UNSEEN:
        _skip(body)
    if len(body) < _LARGE:
        return _unpackb(body, ext_hook=_refuse_extension)
    with _without_collector():
        if len(data) <= MAX_CONTAINERS or len(bytes(body).translate(None, NOT_A_CONTAINER)) <= MAX_CONTAINERS:
            return _unpackb(body, ext_hook=_refuse_extension)
        # There are so many bytes that could begin one; as a rule they are in binary data.
        count = iter(range(MAX_CONTAINERS))
        return _unpackb(body, ext_hook=_refuse_extension, list_hook=_counted(count), object_hook=_counted(count))


def _skip(body: bytes | memoryview) -> None:
    unpacker = _Unpacker(max_buffer_size=len(body))
    unpacker.feed(body)
    unpacker.skip()


def _counted(count: Iterator[int]) -> Callable[[Any], Any]:
    def check(container: Any) -> Any:
        if next(count, None) is None:
            raise ValueError(f"more than {MAX_CONTAINERS} arrays and maps; a stream takes any number of items")
        return container

    return check


@contextlib.contextmanager
def _without_collector() -> Iterator[None]:
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
