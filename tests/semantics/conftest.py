"""The tests of this folder run over both transports: the one over any Trio stream, and the one over sockets.

A test is written with ``trio.testing.memory_stream_pair``, or with ``trpc.testing.Link``, and gets a real socket pair from
it the second time. The kernel delivers between the two ends at once, so that a MockClock sees no difference. What is made
for one of them alone says so: ``@pytest.mark.transports("memory", reason=...)``.
"""

from __future__ import annotations

import socket

import pytest
import trio
import trio.testing
from semantics.ways import Ways

import trpc.testing
from trpc.testing import Faults

TRANSPORTS = ("memory", "socket")


def pytest_configure(config):
    config.addinivalue_line("markers", "transports(*names, reason): runs over these only, of memory and socket")


def pytest_generate_tests(metafunc):
    marker = metafunc.definition.get_closest_marker("transports")
    names = TRANSPORTS if marker is None else marker.args
    assert marker is None or marker.kwargs["reason"]
    metafunc.parametrize("transport", names, indirect=True)


@pytest.fixture(autouse=True)
def transport(request, monkeypatch):
    """What ``memory_stream_pair`` is in this test."""
    if request.param == "memory":
        yield request.param
        return
    sockets = []

    def socket_stream_pair():
        pair = socket.socketpair()
        sockets.extend(pair)
        for end in pair:
            end.setblocking(False)
        return tuple(trio.SocketStream(trio.socket.from_stdlib_socket(end)) for end in pair)

    def streams_of_link(link):
        assert link.there.faults == link.back.faults == Faults(), "sockets have no faults: this is for memory alone"
        return socket_stream_pair()

    monkeypatch.setattr(trio.testing, "memory_stream_pair", socket_stream_pair)
    monkeypatch.setattr(trpc.testing.Link, "_make_streams", streams_of_link)
    yield request.param
    # As with a memory stream, a test need not close the peer's end.
    for end in sockets:
        end.close()


@pytest.fixture
def ways(monkeypatch):
    """How handlers run in this test: see :class:`semantics.ways.Ways`."""
    return Ways(monkeypatch)
