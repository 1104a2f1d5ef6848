"""What a body may cost beyond its bytes."""

import gc
import struct
import tracemalloc

import msgpack
import pytest

from trpc import _unpacking
from trpc._unpacking import MAX_CONTAINERS, unpackb


def array_of(number, item):
    return b"\xdd" + struct.pack(">I", number) + item * number


def peak_of(function, *args):
    tracemalloc.start()
    try:
        with pytest.raises((ValueError, msgpack.OutOfData)):
            function(*args)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("size", [1_000, 16_000, 1_000_000])
@pytest.mark.parametrize("as_view", [False, True])
def test_headers_without_elements_reserve_no_memory(size, as_view):
    body = b"\xdc\x27\x10" * min(1000, size // 6)
    body += bytes(size - len(body))
    assert peak_of(unpackb, memoryview(bytearray(body)) if as_view else body) < 3 * size + 100_000


@pytest.mark.parametrize("item", [b"\x90", b"\x80", b"\x81\xa0\xc0", b"\x91\x90"])
@pytest.mark.parametrize("as_view", [False, True])
def test_a_bomb_of_empty_containers_is_refused_before_it_takes_much(item, as_view):
    body = array_of(4 * MAX_CONTAINERS, item)
    assert peak_of(unpackb, memoryview(bytearray(body)) if as_view else body) < 60 * 2**20


@pytest.mark.parametrize("item", [b"\x90", b"\x80"])
def test_as_many_containers_as_are_allowed_and_one_more(item):
    # The outer one is one as well.
    assert len(unpackb(array_of(MAX_CONTAINERS - 1, item))) == MAX_CONTAINERS - 1
    with pytest.raises(ValueError, match="more than 262144 arrays and maps; a stream takes any number of items"):
        unpackb(array_of(MAX_CONTAINERS, item))


@pytest.mark.parametrize(
    "value", [b"\x90" * (MAX_CONTAINERS + 1), "\u0710" * MAX_CONTAINERS, [b"\xdc\xdd" * 1000, [list(range(20))] * 20]]
)
def test_bytes_that_look_like_headers_are_no_mistake(value):
    assert unpackb(msgpack.packb(value)) == value


@pytest.mark.parametrize(
    "body",
    [
        b"\xd4\x01\x00",
        bytes([0x91] * 9) + b"\xd4\x01\x00",
        array_of(20_000, b"\xd4\x01\x00"),
        array_of(MAX_CONTAINERS, b"\x90") + b"\xd4\x01\x00",
    ],
)
def test_extensions_are_refused(body):
    with pytest.raises(ValueError):
        unpackb(body)


@pytest.mark.parametrize("enabled", [True, False])
def test_the_collector_rests_and_goes_on_as_it_was(monkeypatch, enabled):
    seen = []
    inner = _unpacking._unpackb
    monkeypatch.setattr(
        _unpacking, "_unpackb", lambda *args, **kwargs: (seen.append(gc.isenabled()), inner(*args, **kwargs))
    )
    was = gc.isenabled()
    try:
        (gc.enable if enabled else gc.disable)()
        unpackb(bytes([0xC4, 3]) + b"abc")
        unpackb(msgpack.packb(bytes(20_000)))
        assert seen == [enabled, False]
        assert gc.isenabled() is enabled
    finally:
        (gc.enable if was else gc.disable)()
