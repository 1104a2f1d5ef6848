"""Reads the data files, for the tests of this folder: README.md says what their fields mean."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from conformance.annotate import tag

import trpc
from trpc._frames import MORE, Frame
from trpc._messages import Kind
from trpc._protocol import Protocol

HERE = Path(__file__).parent
MAX_DEPTH = 64
# What the examples of the page announce.
LIMITS = trpc.Limits(
    max_message_size=16777216,
    max_calls=1000,
    max_depth=MAX_DEPTH,
    stream_credit=262144,
    control_rate=math.inf,
    max_bytes_in_flight=2**31,
)
OPENING = Protocol(LIMITS).opening()


def cases(file: str, *lists: str):
    """Each vector of a file as one case, named after it."""
    content = json.loads((HERE / f"{file}.json").read_text())
    return [pytest.param(vector, id=f"{file}-{vector['name']}") for name in lists for vector in content[name]]


def data_of(hex_: str | list[Any]) -> bytes:
    """Bytes of a vector's ``hex``: a string, or a list of strings and repeats."""
    if isinstance(hex_, str):
        return bytes.fromhex(hex_)
    return b"".join(
        bytes.fromhex(part) if isinstance(part, str) else bytes.fromhex(part["repeat"]) * part["times"] for part in hex_
    )


def same(left: object, right: object) -> bool:
    """Equal, of the same types, with NaN equal to itself and 0.0 different from -0.0."""
    return json.dumps(tag(left)) == json.dumps(tag(right))


WHOLE = pytest.param(lambda data: [data] if data else [], id="whole")
BYTEWISE = pytest.param(lambda data: [data[i : i + 1] for i in range(len(data))], id="bytewise")
both_ways = pytest.mark.parametrize("cut", [WHOLE, BYTEWISE])


def opened(limits: trpc.Limits = LIMITS) -> Protocol:
    """A protocol whose peer has sent its hello."""
    protocol = Protocol(limits)
    assert [frame.kind for frame in protocol.receive(OPENING)] == [Kind.HELLO]
    return protocol


def prepare(protocol: Protocol, before: list[str]) -> None:
    """Sends what a vector says that its receiver has sent before."""
    for action in before:
        {"request": protocol.request, "notify": protocol.notify}.get(action, lambda _: protocol.ping())(b"")


def complete(frames: list[Frame]) -> list[Frame]:
    """Without what only tells that a message of a stream has begun."""
    return [f for f in frames if not f.flags & MORE or f.kind in {Kind.REQUEST, Kind.NOTIFY}]
