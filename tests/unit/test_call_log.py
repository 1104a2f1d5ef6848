"""What is logged of calls, and what is not."""

import logging
import re

import pytest
import trio
from support import connected, settle

import trpc

pytestmark = pytest.mark.usefixtures("all_levels")


class Service:
    @trpc.method
    async def echo(self, value: object) -> object:
        return value

    @trpc.method
    async def fail(self, secret: str) -> None:
        raise ValueError(secret)

    @trpc.method
    async def forever(self) -> None:
        await trio.sleep_forever()


@pytest.fixture
def all_levels(caplog):
    caplog.set_level(logging.DEBUG)


def lines(caplog):
    return [(record.levelname, record.getMessage()) for record in caplog.records if record.name == "trpc.calls"]


def both():
    return connected(Service(), interceptors=[trpc.log_calls], serve={"interceptors": [trpc.log_calls]})


async def test_each_outcome_on_each_side(caplog, autojump_clock):
    async with both() as (client, server):
        (connection,) = server.connections
        names = re.escape(str(connection.peer)), re.escape(str(client.peer))
        await client.call("Service.echo", 1)
        with pytest.raises(ValueError, match="x"):
            await client.call("Service.fail", "x")
        with trio.move_on_after(2):
            await client.call("Service.forever")
        await settle()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.call, "Service.forever")
            await trio.sleep(1)
            nursery.cancel_scope.cancel()
    expected = [
        ("DEBUG", r"echo {}: done after \d+\.\d ms"),
        ("WARNING", r"fail {}: ValueError after \d+\.\d ms"),
        ("WARNING", r"forever {}: the deadline has passed after 2000\.0 ms"),
        ("INFO", r"forever {}: cancelled after 1000\.0 ms"),
    ]
    logged = lines(caplog)
    for way, name in zip(("from", "to"), names, strict=True):
        of_side = [(level, text) for level, text in logged if f" {way} " in text]
        for (level, text), (expected_level, pattern) in zip(of_side, expected, strict=True):
            assert level == expected_level
            assert re.fullmatch(r"Service\." + pattern.format(f"{way} {name}"), text)


async def test_no_secrets(caplog):
    async with both() as (client, _):
        with trpc.metadata(token="secret 1"):
            await client.call("Service.echo", "secret 2")
            with pytest.raises(ValueError, match="secret 3"):
                await client.call("Service.fail", "secret 3")
    assert len(lines(caplog)) == 4
    assert "secret" not in str(lines(caplog))


async def test_errors_have_the_names_that_users_know(caplog):
    async with both() as (client, _):
        pass
    with pytest.raises(trpc.ConnectionLost):
        await client.call("Service.echo", 1)
    ((level, line),) = lines(caplog)
    assert level == "WARNING"
    assert ": ConnectionLost after " in line


async def test_a_cancel_beside_other_errors_is_one_of_them(caplog):
    async def proceed(call):
        raise BaseExceptionGroup("both", [KeyboardInterrupt(), ValueError()])

    call = trpc.Call("A.b", (), {}, {}, None)
    with pytest.raises(BaseExceptionGroup):
        await trpc.log_calls(call, proceed)
    assert "A.b to None: BaseExceptionGroup after" in caplog.text
