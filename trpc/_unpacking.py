"""msgpack's decoder, with bounds on the time and memory that a body costs beyond its bytes.

Three things make small bodies expensive, and each is bounded here:

- Room for up to 10,000 elements is reserved at each header of an array, before they are there: 16 KiB of nothing but
  headers take 80 MiB, and 50 ms. So a body is gone through first, in C, without making anything of it, which shows whether
  all elements are there, and takes a tenth of the time.
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
    from collections.abc import Callable, Generator, Iterator

# msgpack has no types of its own.
_unpackb: Final[Callable[..., Any]] = cast("Any", msgpack).unpackb
_Unpacker: Final[Callable[..., Any]] = cast("Any", msgpack).Unpacker

MAX_CONTAINERS: Final = 2**18
"""Arrays and maps in one body: some 25 MiB of memory at most, and 50 ms to make. Longer sequences go in streams."""

# Headers of arrays with 16 elements and more. So many cost next to nothing, whatever they announce.
_ARRAY_HEADERS: Final = (0xDC, 0xDD)
_MAX_UNSEEN: Final = 8
# Bodies up to these sizes: without room for so many, and those that take longer to be gone through than to be counted in.
_TINY: Final = 128
_SMALL: Final = 1024

# Bytes of a body from which the collector is stopped, which is to set a flag twice.
_LARGE: Final = 16 * 1024

NO_EXTENSIONS: Final = "extension types are not part of the protocol"


def _refuse_extension(*_: object) -> NoReturn:
    raise ValueError(NO_EXTENSIONS)


def unpackb(body: bytes | memoryview) -> Any:
    """The value of ``body``. Raises exceptions of many classes if it is not exactly one."""
    size = len(body)
    if size <= _SMALL:
        if size > _TINY and sum(map(bytes(body).count, _ARRAY_HEADERS)) > _MAX_UNSEEN:
            _skip(body)
        return _unpackb(body, ext_hook=_refuse_extension)
    _skip(body)
    if size < _LARGE:
        return _unpackb(body, ext_hook=_refuse_extension)
    with _without_collector():
        if size <= MAX_CONTAINERS:
            return _unpackb(body, ext_hook=_refuse_extension)
        # They are counted as they are made, which costs nothing for what is none.
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
def _without_collector() -> Generator[None]:
    if not gc.isenabled():
        # Perhaps by another thread, which switches it on again.
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
