"""Calls on their way: how they end, whatever comes first."""

import pytest
import trio
import trio.testing
from support import Scripted, settle

import trpc
from trpc._connection import Connection


@pytest.mark.parametrize("how", ["call", "notify", "ping"])
async def test_a_write_that_fails_at_once(nursery, how):
    transport = Scripted()
    connection = Connection(transport, limits=trpc.Limits(), table={})
    caller = connection.caller
    nursery.start_soon(connection.run)
    await settle()
    transport.send_error = error = trio.BrokenResourceError("reset")
    with pytest.raises(trpc.ConnectionLost) as caught:
        await (caller.ping() if how == "ping" else getattr(caller, how)("A.b", [1], None))
    assert caught.value.__cause__ is error
    # No byte of it has left.
    assert not caught.value.maybe_executed
    await settle()
    assert transport.closed
