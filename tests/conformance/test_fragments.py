"""fragments.json against the protocol machine, and against what cuts frames."""

from __future__ import annotations

import dataclasses

import pytest
from conformance.vectors import LIMITS, both_ways, cases, complete, data_of, opened, prepare
from support import frames_of

from trpc._frames import MORE, Cutter
from trpc._messages import Kind


@both_ways
@pytest.mark.parametrize("vector", cases("fragments", "received"))
def test_received(vector, cut):
    protocol = opened(dataclasses.replace(LIMITS, **vector["limits"]))
    prepare(protocol, vector["before"])
    frames, error = frames_of(protocol, cut(data_of(vector["hex"])))
    assert error is None
    messages = complete(frames)
    assert len(messages) == len(vector["messages"])
    for frame, message in zip(messages, vector["messages"], strict=True):
        assert (frame.kind, frame.id, frame.stream) == (Kind[message["kind"]], message["id"], message["stream"])
        assert (frame.flags == MORE) is message.get("overloaded", False)
        assert frame.body == data_of(message.get("body_hex", ""))
    assert len(protocol._fragments or ()) == vector["incomplete"]


@pytest.mark.parametrize("vector", cases("fragments", "sent"))
def test_sent(vector):
    cutter = Cutter(data_of(vector["whole"]), vector["size"], vector["size"])
    fragments = [b"".join(cutter.next())]
    while cutter.advance():
        fragments.append(b"".join(cutter.next()))
    if len(fragments) > 1:
        assert fragments == [data_of(part) for part in vector["hex"]]
    else:
        assert vector["hex"] == [vector["whole"]]
