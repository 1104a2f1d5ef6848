"""What is logged of connections."""

import logging
import re

import pytest
import trio
from support import Fails, Scripted, connected, raw_client_of, settle

import trpc
from trpc._connection import Connection
from trpc._host import Host


class Service:
    @trpc.method
    async def forever(self) -> None:
        await trio.sleep_forever()


@pytest.fixture(autouse=True)
def all_levels(caplog):
    caplog.set_level(logging.DEBUG)


def lines(caplog):
    return [(record.levelname, record.getMessage()) for record in caplog.records if record.name == "trpc.connections"]


async def test_an_orderly_end(caplog, autojump_clock):
    async with connected(Service()) as (client, server):
        await client.ping()
        await trio.sleep(2)
        peers = {client.peer: "this client is closed", server.connections[0].peer: "the peer closed it"}
    logged = lines(caplog)
    assert {level for level, _ in logged} == {"DEBUG"}
    for peer, reason in peers.items():
        assert ("DEBUG", f"connection with {peer} opened") in logged
        assert any(
            re.fullmatch(rf"connection with {re.escape(str(peer))} closed after 2\.0\d\d s: {reason}", line)
            for _, line in logged
        )


async def test_a_drained_one_ends_in_order(caplog):
    async with connected(Service()) as (client, server):
        await client.ping()
        await server.drain()
    assert {level for level, _ in lines(caplog)} == {"DEBUG"}
    assert "s: the server takes no more calls" in caplog.text


async def test_one_that_takes_calls_with_it(caplog):
    async with connected(Service()) as (client, server):
        async with trio.open_nursery() as nursery:

            async def call():
                with pytest.raises(trpc.ConnectionLost):
                    await client.call("Service.forever")

            nursery.start_soon(call)
            await settle()
            await server.drain(0)
    infos = [line for level, line in lines(caplog) if level == "INFO"]
    assert len(infos) == 2
    assert all(", with calls in flight: " in line for line in infos)


async def test_a_fault(caplog):
    async with raw_client_of(Service()) as peer:
        await peer.stream.send_all(b"GET / HTTP/1.1\r\n\r\n")
        await settle()
    ((level, line),) = [(level, line) for level, line in lines(caplog) if "closed" in line]
    assert level == "INFO"
    assert "calls in flight" not in line


async def test_a_reason_without_words(caplog):
    script = Scripted()
    script.give(Fails(trio.BrokenResourceError()))
    await Connection(script, Host({})).run()
    assert re.fullmatch(r"connection with script closed after .* s: BrokenResourceError", lines(caplog)[-1][1])
