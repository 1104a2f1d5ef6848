"""What the caller sees of what the handler does: results, exceptions, groups, and failures of the reply."""

from __future__ import annotations

import logging

import pytest
import trio
from support import client_of_raw_peer, connected, raw_client_of, settle, start_call

import trpc
from trpc._messages import Kind


@trpc.exception(name="semantics.OutOfStock")
class OutOfStock(Exception):
    item: str

    def __init__(self, item: str, left: int) -> None:
        super().__init__(f"only {left} of {item} left")
        self.item = item
        self.left = left


class Unknown(ValueError):
    pass


class BadStr(Exception):
    def __str__(self):
        raise RuntimeError("no text")


class Raises:
    @trpc.method
    async def builtin(self) -> None:
        {}["missing"]

    @trpc.method
    def inline(self) -> float:
        return 1 / 0

    @trpc.method(in_thread=True)
    def in_thread(self) -> None:
        raise FileNotFoundError(2, "No such file", "x.txt")

    @trpc.method
    async def registered(self) -> None:
        raise OutOfStock("spam", 3)

    @trpc.method
    async def unregistered(self) -> None:
        raise Unknown("strange")

    @trpc.method
    async def group(self) -> None:
        raise ExceptionGroup("outer", [OutOfStock("eggs", 1), ExceptionGroup("inner", [KeyError("k"), Unknown("u")])])

    @trpc.method
    async def bad_str(self) -> None:
        raise BadStr

    @trpc.method
    async def bad_result(self) -> object:
        return object()

    @trpc.method
    async def bad_keys(self):
        return {1: "a"}

    @trpc.method
    async def rpc_error(self) -> None:
        raise trpc.ConnectionLost("to somebody else")

    @trpc.method
    async def big(self, size: int) -> str:
        return "x" * size

    @trpc.method
    async def fatal(self, kind: str) -> None:
        raise {"KeyboardInterrupt": KeyboardInterrupt, "SystemExit": SystemExit}[kind]

    @trpc.method
    async def fatal_in_group(self) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._exit)
            await trio.sleep_forever()

    async def _exit(self):
        raise SystemExit

    @trpc.method
    def stop_iteration(self) -> None:
        raise StopIteration("odd")

    @trpc.method
    async def ok(self) -> str:
        return "ok"


async def test_builtin_exceptions_are_remote_errors_of_that_class(caplog):
    async with connected(Raises()) as (client, _):
        proxy = client.proxy(Raises)
        with pytest.raises(KeyError) as key_error:
            await proxy.builtin()
        assert isinstance(key_error.value, trpc.RemoteError)
        assert key_error.value.args == ("missing",)
        assert (key_error.value.type_name, key_error.value.message) == ("KeyError", "'missing'")
        with pytest.raises(ZeroDivisionError, match="^division by zero$"):
            await proxy.inline()
        with pytest.raises(FileNotFoundError) as os_error:
            await proxy.in_thread()
        assert (os_error.value.errno, os_error.value.filename) == (2, None)
        assert isinstance(os_error.value, trpc.RemoteError)


async def test_registered_exceptions_arrive_as_their_class():
    async with connected(Raises()) as (client, _):
        with pytest.raises(OutOfStock, match="only 3 of spam left") as error:
            await client.proxy(Raises).registered()
        assert (error.value.item, error.value.left) == ("spam", 3)


async def test_any_other_exception_is_a_remote_error():
    async with connected(Raises()) as (client, _):
        with pytest.raises(trpc.RemoteError) as error:
            await client.proxy(Raises).unregistered()
        assert type(error.value) is trpc.RemoteError
        assert (error.value.type_name, error.value.message, str(error.value)) == (
            "Unknown",
            "strange",
            "Unknown: strange",
        )
        with pytest.raises(trpc.RemoteError) as status:
            await client.proxy(Raises).rpc_error()
        assert not isinstance(status.value, trpc.ConnectionLost), "that was another connection than the caller's"
        # As for a local coroutine, which StopIteration cannot leave either.
        with pytest.raises(RuntimeError, match="raised StopIteration"):
            await client.proxy(Raises).stop_iteration()


async def test_groups_keep_their_tree_and_except_star_works():
    async with connected(Raises()) as (client, _):
        caught = []
        try:
            await client.proxy(Raises).group()
        except* OutOfStock as group:
            caught.append([e.item for e in group.exceptions])
        except* KeyError as group:
            caught.append([type(g.exceptions[0]).__name__ for g in group.exceptions])
        except* trpc.RemoteError as group:
            caught.append([g.exceptions[0].type_name for g in group.exceptions])
        assert caught == [["eggs"], ["KeyError"], ["Unknown"]]


async def test_the_handlers_exception_is_logged_and_the_connection_lives_on(caplog):
    async with connected(Raises()) as (client, _):
        with pytest.raises(KeyError):
            await client.proxy(Raises).builtin()
        assert await client.proxy(Raises).ok() == "ok"
    (record,) = [r for r in caplog.records if r.name == "trpc.handler"]
    assert record.levelno == logging.ERROR
    assert "Raises.builtin" in record.getMessage()
    assert record.exc_info[0] is KeyError


@pytest.mark.parametrize("send", [False, True])
async def test_tracebacks_are_sent_only_if_the_server_says_so(send):
    async with connected(Raises(), serve={"send_tracebacks": send}) as (client, _):
        for method in ("builtin", "registered", "unregistered"):
            with pytest.raises(Exception) as error:
                await client.call(f"Raises.{method}")
            notes = "".join(getattr(error.value, "__notes__", []))
            assert ("Traceback" in notes) is send
            assert (f"in {method}" in notes) is send


@pytest.mark.parametrize("method", ["bad_str", "bad_keys"])
async def test_what_cannot_be_sent_back_is_an_internal_error_of_that_call_only(method, caplog):
    async with connected(Raises()) as (client, _):
        with pytest.raises(trpc.RemoteError, match="cannot be") as error:
            await client.call(f"Raises.{method}")
        assert error.value.type_name == "InternalError"
        assert any("cannot be" in r.getMessage() for r in caplog.records)
        assert await client.call("Raises.ok") == "ok"


async def test_a_result_without_representation():
    async with connected(Raises()) as (client, _):
        with pytest.raises(trpc.RemoteError, match="cannot be encoded"):
            await client.call("Raises.bad_result")


@pytest.mark.parametrize("kind", ["KeyboardInterrupt", "SystemExit"])
async def test_what_ends_a_process_ends_the_server_but_the_caller_hears(kind):
    expected = {"KeyboardInterrupt": KeyboardInterrupt, "SystemExit": SystemExit}[kind]
    with pytest.raises(BaseExceptionGroup) as group:
        async with connected(Raises()) as (client, _):
            with pytest.raises(trpc.RemoteError, match=kind) as error:
                await client.proxy(Raises).fatal(kind)
            assert error.value.type_name == "InternalError"
            await trio.sleep_forever()
    assert group.value.subgroup(expected) is not None
    assert group.value.split(expected)[1] is None


async def test_the_same_in_a_group_beside_cancelled():
    with pytest.raises(BaseExceptionGroup) as group:
        async with connected(Raises()) as (client, _):
            with pytest.raises(trpc.RemoteError, match="ends the server"):
                await client.proxy(Raises).fatal_in_group()
            await trio.sleep_forever()
    assert group.value.subgroup(SystemExit) is not None
    assert group.value.split(SystemExit)[1] is None


async def test_a_handler_that_fails_while_its_connection_ends_does_not_end_the_server(caplog):
    class Stubborn:
        @trpc.method
        async def work(self) -> None:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._fail)
                await trio.sleep_forever()

        async def _fail(self):
            try:
                await trio.sleep_forever()
            finally:
                raise ValueError("while ending")

        @trpc.method
        async def both(self) -> None:
            async def child():
                try:
                    await trio.sleep_forever()
                except trio.Cancelled as exc:
                    raise BaseExceptionGroup("mixed", [exc, ValueError("beside")]) from None

            await child()

    for method in ("work", "both"):
        async with raw_client_of(Stubborn()) as peer:
            await peer.open()
            await peer.send_request(1, f"Stubborn.{method}")
            await settle()
            await peer.stream.aclose()
            await settle()
    messages = [r.getMessage() for r in caplog.records]
    assert len(messages) == 2
    assert all("raised" in m for m in messages), messages


async def test_unknown_private_and_undecorated_methods_look_the_same():
    class Service:
        secret = "x"

        @trpc.method
        async def public(self) -> None: ...

        async def undecorated(self) -> None: ...

        async def _private(self) -> None: ...

    texts = set()
    async with connected(Service()) as (client, _):
        for name in ("nothing", "undecorated", "_private", "__init__", "__class__", "secret", "public.__call__", ""):
            with pytest.raises(trpc.MethodNotFound) as error:
                await client.call(f"Service.{name}")
            texts.add(str(error.value).replace(f"'Service.{name}'", "NAME"))
        for name in ("public", "Other.public", "", "Service", "Service.public\0"):
            with pytest.raises(trpc.MethodNotFound) as error:
                await client.call(name)
            texts.add(str(error.value).replace(repr(name), "NAME"))
    assert len(texts) == 1


async def test_a_client_has_no_methods_for_the_server():
    async with client_of_raw_peer() as (_client, peer):
        await peer.open()
        await peer.send_request(1, "Anything.at_all")
        assert (await peer.receive_error(1))["code"] == 2


class Typed:
    def __init__(self):
        self.ran = False

    @trpc.method
    async def take(self, number: int, *, names: list[str] | None = None) -> int:
        self.ran = True
        return number


@pytest.mark.parametrize(
    ("args", "kwargs", "match"),
    [
        (["x"], {}, "argument 'number': Expected `int`, got `str`"),
        ([1], {"names": ["a", 2]}, r"argument 'names': Expected `str`, got `int` - at `\$\[1\]`"),
        ([], {}, "missing a required argument: 'number'"),
        ([1, 2], {}, "too many positional arguments"),
        ([1], {"color": 3}, "unexpected keyword argument 'color'"),
        ([1], {"number": 3}, "multiple values for argument 'number'"),
    ],
)
async def test_wrong_arguments_name_the_parameter_and_the_handler_does_not_run(args, kwargs, match):
    service = Typed()
    async with connected(service) as (client, _):
        with pytest.raises(trpc.InvalidArguments, match=match) as error:
            await client.call("Typed.take", *args, **kwargs)
        assert isinstance(error.value, TypeError)
        assert not service.ran
        assert await client.call("Typed.take", 5, names=["a"]) == 5


async def test_an_argument_that_cannot_be_encoded_is_named_and_nothing_is_sent():
    async with client_of_raw_peer() as (client, peer):
        await peer.open()
        for args, kwargs, name in [
            ((1, object()), {}, "2"),
            ((1,), {"b": {1, object()}}, "'b'"),
            ((2**64,), {}, "1"),
            (("\ud800",), {}, "1"),
            (({1: 2},), {}, "1"),
        ]:
            with pytest.raises(trpc.InvalidArguments, match=f"A.b: argument {name} cannot be sent"):
                await client.call("A.b", *args, **kwargs)
        with pytest.raises(trpc.InvalidArguments, match="Typed.take: argument 'number' cannot be sent"):
            await client.proxy(Typed).take(object())
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.call, "A.b")
            request = await peer.receive()
            assert request.body == b"\x92\xa3A.b\x90"
            await peer.send_result(request.id, None)


async def test_a_request_over_the_peers_limit_fails_locally():
    async with connected(Raises(), serve={"limits": trpc.Limits(max_message_size=20_000)}) as (client, _):
        assert await client.call("Raises.ok") == "ok"
        with pytest.raises(trpc.MessageTooLarge, match="20000; it was not sent"):
            await client.call("Raises.big", "x" * 20_000)
        assert await client.call("Raises.ok") == "ok"


async def test_a_large_first_request_waits_for_the_peers_limit():
    async with connected(Raises(), serve={"limits": trpc.Limits(max_message_size=20_000)}) as (client, _):
        with pytest.raises(trpc.MessageTooLarge, match="20000; it was not sent"):
            await client.call("Raises.big", "x" * 20_000)


async def test_a_reply_over_the_callers_limit_fails_that_call_only():
    for limit in (100, 30_000):
        async with connected(Raises(), limits=trpc.Limits(max_message_size=limit)) as (client, _):
            proxy = client.proxy(Raises)
            assert await proxy.big(limit - 10) == "x" * (limit - 10)
            with pytest.raises(trpc.MessageTooLarge, match=f"the caller accepts {limit}"):
                await proxy.big(limit)
            assert await proxy.ok() == "ok"


async def test_too_many_calls_are_overloaded_at_once_and_the_clients_own_cap_blocks(autojump_clock):
    gate = trio.Event()

    class Busy:
        @trpc.method
        async def work(self) -> None:
            await gate.wait()

    async with raw_client_of(Busy(), limits=trpc.Limits(max_calls=2)) as peer:
        await peer.open()
        for call_id in (1, 2, 3):
            await peer.send_request(call_id, "Busy.work")
        assert (await peer.receive_error(3))["code"] == 5
    async with connected(Busy(), serve={"limits": trpc.Limits(max_calls=2)}) as (client, server):
        await client.ping()
        async with trio.open_nursery() as nursery:
            outcomes = {}
            for key in range(5):
                start_call(nursery, outcomes, key, client.call, "Busy.work")
            await settle()
            assert len(server.calls) == 2
            gate.set()
        assert outcomes == dict.fromkeys(range(5))


@pytest.mark.parametrize("body", [b"", b"\xc1", b"\x92\xa1a", b"\x90\x90", b"\xdd\xff\xff\xff\xff", b"\x91" * 66])
async def test_a_reply_that_cannot_be_read_fails_that_call_only(body):
    async with client_of_raw_peer() as (client, peer):
        await peer.open()

        async def serve():
            for kind in (Kind.RESULT, Kind.ERROR):
                request = await peer.receive()
                await peer.send(kind, request.id, body)
            request = await peer.receive()
            await peer.send_result(request.id, 5)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve)
            for _ in range(2):
                with pytest.raises(trpc.ProtocolError):
                    await client.call("A.b")
            assert await client.call("A.b") == 5


async def test_a_result_of_the_wrong_type_is_a_protocol_error():
    async with client_of_raw_peer() as (client, peer):
        await peer.open()
        async with trio.open_nursery() as nursery:
            outcomes = {}
            start_call(nursery, outcomes, "call", client.proxy(Typed).take, 1)
            request = await peer.receive()
            await peer.send_result(request.id, "one")
        assert "Typed.take: the result is not what the method returns" in str(outcomes["call"])


async def test_a_cancelled_reply_that_nobody_asked_for():
    async with client_of_raw_peer() as (client, peer):
        await peer.open()
        for kind in (Kind.CANCELLED, Kind.EXPIRED):
            async with trio.open_nursery() as nursery:
                outcomes = {}
                start_call(nursery, outcomes, "call", client.call, "A.b")
                request = await peer.receive()
                await peer.send(kind, request.id)
            assert type(outcomes["call"]) is trpc.RemoteError
            assert outcomes["call"].type_name == "Cancelled"


async def test_errors_pass_unchanged_through_a_second_hop():
    class Front:
        def __init__(self, client):
            self.client = client

        @trpc.method
        async def relay(self, method: str) -> object:
            return await self.client.call(f"Raises.{method}")

    async with connected(Raises()) as (inner, _), connected(Front(inner)) as (client, _):
        with pytest.raises(KeyError) as error:
            await client.call("Front.relay", "builtin")
        assert error.value.args == ("missing",)
        with pytest.raises(OutOfStock):
            await client.call("Front.relay", "registered")
        with pytest.raises(trpc.RemoteError, match="^Unknown: strange$"):
            await client.call("Front.relay", "unregistered")
        with pytest.raises(trpc.RemoteError) as not_found:
            await client.call("Front.relay", "nothing")
        assert not isinstance(not_found.value, trpc.MethodNotFound), "the method that was called is there"
        assert not_found.value.type_name == "MethodNotFound"


async def test_a_request_that_is_over_the_limit_but_small_fails_alone():
    """Up to 16 KiB may be sent before the hello is there, so it must not end the connection."""
    async with raw_client_of(Raises(), limits=trpc.Limits(max_message_size=1000)) as peer:
        await peer.open()
        await peer.send_request(1, "Raises.big", "x" * 5000)
        assert (await peer.receive_error(1))["code"] == 8
        await peer.send_request(2, "Raises.ok")
        assert await peer.receive_value() == "ok"


async def test_a_method_name_that_cannot_be_encoded():
    async with client_of_raw_peer() as (client, _):
        with pytest.raises(trpc.InvalidArguments, match="the request cannot be sent"):
            await client.call("\ud800")


async def test_a_one_way_call_may_be_cut_by_the_servers_limit(autojump_clock):
    ended = []

    class Service:
        @trpc.method
        async def wait(self) -> None:
            try:
                await trio.sleep_forever()
            finally:
                ended.append(trio.current_time())

    async with connected(Service(), serve={"limits": trpc.Limits(max_call_time=3)}) as (client, server):
        start = trio.current_time()
        await client.notify("Service.wait")
        await trio.sleep(5)
        assert ended == [pytest.approx(start + 3)]
        assert server.calls == ()
