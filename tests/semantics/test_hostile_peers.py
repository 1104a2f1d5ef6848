"""A peer that means harm, or is broken, harms nobody but itself."""

from __future__ import annotations

import dataclasses
import enum
import tracemalloc

import msgpack
import pytest
import trio
from support import client_of_raw_peer, connected, connection_of, raw_client_of, settle, start_call

import trpc
from trpc._exceptions import Code, encode_status
from trpc._frames import encode_frame
from trpc._messages import Kind


class Color(enum.Enum):
    RED = "red"


class BadText(Exception):
    def __str__(self):
        raise RuntimeError("no text")


@dataclasses.dataclass
class Delicate:
    kind: str

    def __post_init__(self):
        if self.kind == "bad text":
            raise BadText
        if self.kind == "exit":
            raise SystemExit


class Service:
    def __init__(self):
        self.log = []

    @trpc.method
    async def take(self, value: Delicate) -> str:
        return value.kind

    @trpc.method
    async def paint(self, color: Color) -> str:
        return color.value

    @trpc.method
    async def shielded(self, seconds: float) -> str:
        with trio.CancelScope(shield=True):
            await trio.sleep(seconds)
        self.log.append("ended")
        return "late"

    @trpc.method
    async def exits_while_cancelled(self) -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise SystemExit(3)

    @trpc.method
    def echo(self, value: object) -> object:
        return value


async def test_an_argument_whose_class_fails_without_a_text_fails_that_call_only():
    async with connected(Service()) as (client, _):
        with pytest.raises(trpc.InvalidArguments, match="argument 'value': "):
            await client.call("Service.take", {"kind": "bad text"})
        assert await client.call("Service.take", {"kind": "good"}) == "good"


async def test_an_argument_whose_class_ends_the_process_does_so_and_the_caller_hears():
    with pytest.raises(BaseExceptionGroup) as group:
        async with connected(Service()) as (client, _):
            with pytest.raises(trpc.RemoteError, match="SystemExit, which ends the server"):
                await client.call("Service.take", {"kind": "exit"})
            await trio.sleep_forever()
    assert group.value.subgroup(SystemExit)


async def test_what_a_handler_raises_to_end_the_process_is_not_lost_when_the_server_is_cancelled():
    with pytest.raises(BaseExceptionGroup) as group:
        async with connected(Service()) as (client, _):
            async with trio.open_nursery() as nursery:
                start_call(nursery, {}, "call", client.proxy(Service).exits_while_cancelled)
                await settle()
                nursery.cancel_scope.cancel()
    assert group.value.subgroup(SystemExit)


@pytest.mark.parametrize("end", ["protocol error", "end of stream"])
async def test_the_transport_is_closed_although_a_handler_goes_on(autojump_clock, end):
    service = Service()
    async with raw_client_of(service) as peer:
        await peer.open()
        await peer.send_request(1, "Service.shielded", 100)
        await settle()
        start = trio.current_time()
        if end == "protocol error":
            await peer.send(0x7F)
            assert (await peer.receive()).kind == Kind.GOAWAY
        else:
            await peer.stream.send_eof()
        assert await peer.receive() is None, "nothing comes after that"
        assert trio.current_time() - start < 2
        assert service.log == []
        await trio.sleep(200)
        assert service.log == ["ended"]


async def test_names_from_a_peer_are_cut_and_make_no_lines_in_the_log(caplog):
    async with raw_client_of(Service()) as peer:
        await peer.open()
        await peer.send_request(1, "\0" * 1_000_000)
        error = await peer.receive_error(1)
        assert error["code"] == Code.METHOD_NOT_FOUND
        assert len(error["message"]) < 2000
        await peer.send_request(2, "Service.paint", "x" * 1_000_000)
        error = await peer.receive_error(2)
        assert error["code"] == Code.INVALID_ARGUMENTS
        assert len(error["message"]) < 2000
        await peer.send_request(3, "Service.paint", **{"k" * 1_000_000: 1})
        error = await peer.receive_error(3)
        assert error["code"] == Code.INVALID_ARGUMENTS
        assert len(error["message"]) < 2000
        await peer.send_request(4, "Service.paint", "x\nCRITICAL: all is lost", kind=Kind.NOTIFY)
        await peer.send_request(5, "x\nCRITICAL: all is lost", kind=Kind.NOTIFY)
        await peer.send_request(6, "\0" * 1_000_000, kind=Kind.NOTIFY)
        await settle()
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == 3
    assert not any("\n" in message or len(message) > 2000 for message in messages)


@trpc.exception(name="semantics.Stateful")
class Stateful(Exception):
    def __str__(self):
        return f"tray {self.tray}"


async def test_a_goaway_is_read_once_and_is_a_status():
    registered = msgpack.packb({"code": Code.RAISED_REGISTERED, "type": "semantics.Stateful", "args": []})
    raised = msgpack.packb({"code": Code.RAISED_BUILTIN, "type": "KeyError", "message": "k"})
    for body, expected in [
        (encode_status(trpc.Unavailable("drain")), trpc.Unavailable),
        (encode_status(trpc.Unauthenticated("who?")), trpc.Unauthenticated),
        (raised, trpc.Unavailable),
        (registered, trpc.Unavailable),
        (b"\xc1", trpc.ProtocolError),
        (b"\x90", trpc.ProtocolError),
        (msgpack.packb({"code": "x"}), trpc.ProtocolError),
        (msgpack.packb({"code": 5, "message": None}), trpc.ProtocolError),
    ]:
        async with client_of_raw_peer() as (client, peer):
            await peer.open()
            await peer.send(Kind.GOAWAY, 0, body)
            await settle()
            errors = []
            for _ in range(2):
                with pytest.raises(trpc.RPCError) as error:
                    await client.call("A.b")
                errors.append(error.value)
            assert [type(error) for error in errors] == [expected] * 2
            assert errors[0] is not errors[1]
            async with trio.open_nursery() as nursery:
                outcomes = {}
                start_call(nursery, outcomes, "ping", client.ping)
                ping = await peer.receive()
                await peer.send(Kind.PONG, ping.id)
            assert outcomes["ping"] >= 0, "the connection is still there"


async def test_a_huge_group_is_refused():
    async with client_of_raw_peer() as (client, peer):
        await peer.open()
        children = [{"code": 16} for _ in range(100_000)]

        async def serve(count):
            request = await peer.receive()
            await peer.send(Kind.ERROR, request.id, msgpack.packb({"code": 19, "children": children[:count]}))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve, 999)
            with pytest.raises(ExceptionGroup) as group:
                await client.call("A.b")
            assert len(group.value.exceptions) == 999
        tracemalloc.start()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve, 100_000)
            with pytest.raises(trpc.ProtocolError, match="more than 1000"):
                await client.call("A.b")
        tracemalloc.stop()


async def test_a_handlers_huge_group_is_an_internal_error():
    class Groups:
        @trpc.method
        async def many(self, count: int) -> None:
            raise ExceptionGroup("many", [ValueError(str(n)) for n in range(count)])

    async with connected(Groups()) as (client, _):
        with pytest.raises(ExceptionGroup):
            await client.proxy(Groups).many(999)
        with pytest.raises(trpc.RemoteError, match="cannot be sent") as error:
            await client.proxy(Groups).many(1000)
        assert error.value.type_name == "InternalError"


@pytest.mark.transports("memory", reason="lockstep: a write waits until the peer reads")
@pytest.mark.parametrize("side", ["client", "server"])
async def test_a_peer_that_pings_and_does_not_read_is_not_read_either(autojump_clock, side):
    limits = trpc.Limits(max_unsent=5_000)
    make = (
        client_of_raw_peer(lockstep=True, limits=limits)
        if side == "client"
        else raw_client_of(Service(), lockstep=True, limits=limits)
    )
    async with make as made:
        peer = made[1] if side == "client" else made
        async with trio.open_nursery() as nursery:
            nursery.start_soon(peer.open)
            await settle()
            sent = 0

            async def flood():
                nonlocal sent
                while True:
                    await peer.stream.send_all(encode_frame(Kind.PING, 1) * 10)
                    sent += 10

            nursery.start_soon(flood)
            await trio.sleep(10)
            assert 5_000 / 16 <= sent < 5_000 / 16 + 100
            nursery.cancel_scope.cancel()


async def test_expired_long_before_the_deadline_is_not_waited_for(autojump_clock):
    async with client_of_raw_peer() as (client, peer):
        await peer.open()

        async def serve():
            request = await peer.receive()
            await peer.send(Kind.EXPIRED, request.id)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve)
            start = trio.current_time()
            with trio.fail_after(3600), pytest.raises(trpc.DeadlineExceeded, match="the peer says"):
                await client.call("A.b")
            assert trio.current_time() == start


async def test_a_result_deeper_than_the_caller_accepts():
    """This server obeys the limit; one that does not is not believed."""
    async with connected(Service(), limits=trpc.Limits(max_depth=3)) as (client, _):
        assert await client.call("Service.echo", [[[1]]][0]) == [[1]]
        with pytest.raises(trpc.RemoteError, match="nested deeper than 3"):
            await client.call("Service.echo", [[[[1]]]])
    async with client_of_raw_peer(limits=trpc.Limits(max_depth=3)) as (client, peer):
        await peer.open()
        async with trio.open_nursery() as nursery:
            outcomes = {}
            start_call(nursery, outcomes, "call", client.call, "A.b")
            request = await peer.receive()
            await peer.send(Kind.RESULT, request.id, b"\x91" * 4 + b"\xc0")
        assert isinstance(outcomes["call"], trpc.ProtocolError)


async def test_a_cancel_that_comes_when_everything_is_over_is_ignored():
    """The handler has ended with the connection, without a reply, and a CANCEL was read already."""
    async with connected(Service()) as (client, _):
        connection_of(client)._dispatcher.on_cancel(99)


async def test_an_exception_whose_text_ends_the_process_does_so_and_the_caller_hears():
    class Fatal(Exception):
        def __str__(self):
            raise SystemExit

    class Raises:
        @trpc.method
        async def fatal(self) -> None:
            raise Fatal

    with pytest.raises(BaseExceptionGroup) as group:
        async with connected(Raises()) as (client, _):
            with pytest.raises(trpc.RemoteError, match="cannot be sent: SystemExit"):
                await client.proxy(Raises).fatal()
            await trio.sleep_forever()
    assert group.value.subgroup(SystemExit)
