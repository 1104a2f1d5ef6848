"""Connecting: options, what may be called back, and how the block is left."""

import math

import pytest

import trpc


@pytest.mark.parametrize("grace", [-1, -0.001, math.nan])
@pytest.mark.parametrize("connect", [trpc.connect, trpc.connect_stream])
def test_a_grace_that_is_no_time_is_refused(connect, grace):
    with pytest.raises(ValueError, match="cancel_grace is a number of seconds, not"):
        connect("tcp://127.0.0.1:1", cancel_grace=grace)
