"""Proxies: which attributes they have, and what a call of one becomes."""

import abc
import copy
import inspect
from collections.abc import AsyncIterable, AsyncIterator
from typing import Protocol

import pytest
from support import connected

import trpc
from trpc._proxy import UntypedProxy, typed_proxy
from trpc._stream_call import StreamCall


class Caller:
    """Records what a proxy asks of a connection."""

    def __init__(self):
        self.calls = []
        self.plain = self

    async def call(self, method, args, kwargs, signature=None):
        self.calls.append((method, args, kwargs, signature))
        return "result"


class Calculator:
    """Adds."""

    attribute = 5

    @trpc.method
    async def add(self, a: int, b: int = 2) -> int:
        """Adds two numbers."""
        raise NotImplementedError

    @trpc.method
    def negate(self, a: int) -> int:
        raise NotImplementedError

    async def not_marked(self):
        raise NotImplementedError

    def _private(self):
        raise NotImplementedError


@pytest.fixture
def caller():
    return Caller()


# --- typed ---


async def test_a_method_of_a_typed_proxy_calls_by_name_with_the_signature(caller):
    proxy = typed_proxy(Calculator, caller, "calc")
    assert await proxy.add(1, b=3) == "result"
    assert await proxy.negate(5) == "result"
    (add, negate) = caller.calls
    assert add[:3] == ("calc.add", (1,), {"b": 3})
    assert add[3].returns is int
    assert negate[:3] == ("calc.negate", (5,), {})


async def test_arguments_of_any_name(caller):
    proxy = typed_proxy(Calculator, caller, "calc")
    await proxy.add(self=1, method=2, args=3)
    assert caller.calls[0][2] == {"self": 1, "method": 2, "args": 3}


def test_nothing_is_called_until_it_is_awaited(caller):
    coroutine = typed_proxy(Calculator, caller, "calc").add(1)
    assert inspect.iscoroutine(coroutine)
    coroutine.close()
    assert caller.calls == []


@pytest.mark.parametrize("name", ["not_marked", "attribute", "_private", "missing", "call", "proxy"])
def test_what_is_not_marked_is_not_there(caller, name):
    proxy = typed_proxy(Calculator, caller, "calc")
    assert not hasattr(proxy, name)
    with pytest.raises(AttributeError, match=rf"Calculator\.{name} is not marked with @trpc\.method"):
        getattr(proxy, name)


@pytest.mark.parametrize("make", [lambda c: typed_proxy(Calculator, c, "calc"), lambda c: UntypedProxy(c, "calc")])
def test_nothing_can_be_set(caller, make):
    with pytest.raises(AttributeError):
        make(caller).other = 1


def test_a_typed_proxy_shows_what_it_is(caller):
    proxy = typed_proxy(Calculator, caller, "calc")
    assert repr(proxy) == "<trpc proxy of 'calc', as Calculator>"
    assert type(proxy).__name__ == "CalculatorProxy"
    assert type(proxy).__doc__ == "Adds."
    assert proxy.add.__doc__ == "Adds two numbers."
    assert proxy.add.__name__ == "add"
    assert list(inspect.signature(proxy.add).parameters) == ["a", "b"]


def test_proxies_of_one_interface_share_a_class(caller):
    one, two = typed_proxy(Calculator, caller, "a"), typed_proxy(Calculator, caller, "b")
    assert type(one) is type(two)
    assert (repr(one), repr(two)) == ("<trpc proxy of 'a', as Calculator>", "<trpc proxy of 'b', as Calculator>")


def test_a_proxy_is_no_instance_of_the_service(caller):
    # Else a method that is not marked would run here, on an object without a state.
    assert not isinstance(typed_proxy(Calculator, caller, "calc"), Calculator)


class Abstract(abc.ABC):
    @trpc.method
    @abc.abstractmethod
    async def get(self, key: str) -> int: ...


class Proto(Protocol):
    @trpc.method
    async def get(self, key: str) -> int: ...


@pytest.mark.parametrize("interface", [Abstract, Proto])
async def test_interfaces_that_have_no_instances(caller, interface):
    proxy = typed_proxy(interface, caller, "store")
    assert await proxy.get("k") == "result"
    assert caller.calls[0][:2] == ("store.get", ("k",))


def test_a_class_without_methods_makes_no_proxy(caller):
    class Nothing:
        async def forgotten(self): ...

    with pytest.raises(TypeError, match="Nothing has no methods"):
        typed_proxy(Nothing, caller, "x")


class Log:
    """Streams in both directions."""

    @trpc.method
    async def lines(self, number: int) -> AsyncIterator[str]:
        """The last lines."""
        yield ""

    @trpc.method
    async def write(self, lines: AsyncIterable[str] | None, name: str = "log") -> int: ...

    @trpc.method
    async def filter(self, lines: AsyncIterable[str]) -> AsyncIterator[str]:
        yield ""


class ProtoLog(Protocol):
    @trpc.method
    def lines(self, number: int) -> AsyncIterator[str]: ...


@pytest.mark.parametrize("interface", [Log, ProtoLog])
def test_a_method_that_gives_a_stream_is_entered(caller, interface):
    call = typed_proxy(interface, caller, "log").lines(5)
    assert type(call) is StreamCall
    assert hasattr(call, "__aenter__")
    assert caller.calls == [], "nothing is called until then"


async def test_a_method_with_streams_for_arguments_is_awaited(caller):
    proxy = typed_proxy(Log, caller, "log")
    # None takes the place of one: a call as any.
    assert await proxy.write(None, name="x") == "result"
    ((method, args, kwargs, signature),) = caller.calls
    assert (method, args, kwargs) == ("log.write", (None,), {"name": "x"})
    assert signature.has_streams
    with pytest.raises(trpc.InvalidArguments, match="argument 'lines': Expected an async iterable"):
        await proxy.write(["a"])
    assert len(caller.calls) == 1


def test_both_directions_are_entered(caller):
    assert type(typed_proxy(Log, caller, "log").filter(None)) is StreamCall


def test_a_stream_of_a_proxy_shows_what_it_is(caller):
    proxy = typed_proxy(Log, caller, "log")
    assert proxy.lines.__name__ == "lines"
    assert proxy.lines.__doc__ == "The last lines."
    assert list(inspect.signature(proxy.lines).parameters) == ["number"]


# --- untyped ---


async def test_every_public_attribute_of_an_untyped_proxy_is_a_method(caller):
    proxy = UntypedProxy(caller, "calc")
    assert await proxy.anything(1, b=2) == "result"
    assert await proxy.call(self=1, method=2) == "result"
    assert caller.calls == [("calc.anything", (1,), {"b": 2}, None), ("calc.call", (), {"self": 1, "method": 2}, None)]
    assert repr(proxy) == "<trpc proxy of 'calc'>"


@pytest.mark.parametrize("name", ["_private", "__len__", "__wrapped__", "__deepcopy__"])
def test_private_attributes_of_an_untyped_proxy_are_not_there(caller, name):
    with pytest.raises(AttributeError, match="is private"):
        getattr(UntypedProxy(caller, "calc"), name)


@pytest.mark.parametrize("make", [lambda c: typed_proxy(Calculator, c, "calc"), lambda c: UntypedProxy(c, "calc")])
def test_a_proxy_can_be_copied(caller, make):
    proxy = make(caller)
    assert repr(copy.copy(proxy)) == repr(proxy)


# --- through a connection ---


class Echo:
    @trpc.method
    async def hinted(self, value: dict[int, str]) -> dict[int, str]:
        assert all(type(key) is int for key in value)
        return value

    @trpc.method
    async def unhinted(self, value):
        return value

    @trpc.method
    async def any_dict(self, value: dict) -> dict:
        return value

    @trpc.method
    async def returns_integer_keys(self) -> dict:
        return {1: "a"}


async def test_keys_that_the_hint_reads_back_are_sent():
    async with connected(Echo()) as (client, _):
        assert await client.proxy(Echo).hinted({1: "a"}) == {1: "a"}


@pytest.mark.parametrize("method", ["unhinted", "any_dict"])
async def test_keys_that_no_hint_reads_back_are_refused(method):
    # They would arrive as text, without a word to either side.
    async with connected(Echo()) as (client, _):
        with pytest.raises(trpc.InvalidArguments, match="argument 'value' cannot be sent"):
            await getattr(client.proxy(Echo), method)({1: "a"})
        assert await getattr(client.proxy(Echo), method)({"1": "a"}) == {"1": "a"}


async def test_keys_of_a_result_that_no_hint_reads_back_are_refused():
    async with connected(Echo()) as (client, _):
        with pytest.raises(trpc.RemoteError, match="the result of Echo.returns_integer_keys cannot be encoded"):
            await client.proxy(Echo).returns_integer_keys()


class Mixed:
    @trpc.method
    async def mixed(self, name: str, table: dict[int, str], *more: dict[int, int], **named: dict[int, int]) -> list:
        return [
            name,
            sorted(table.items()),
            [sorted(d.items()) for d in more],
            {k: sorted(d.items()) for k, d in named.items()},
        ]


async def test_keys_of_some_arguments_beside_others():
    async with connected(Mixed()) as (client, _):
        mixed = client.proxy(Mixed).mixed
        assert await mixed("n", {1: "a"}, {2: 3}, extra={4: 5}) == ["n", [[1, "a"]], [[[2, 3]]], {"extra": [[4, 5]]}]
        with pytest.raises(trpc.InvalidArguments, match="argument 'table' cannot be sent"):
            await mixed("n", {1: object()})
        with pytest.raises(trpc.InvalidArguments, match="argument 'extra' cannot be sent"):
            await mixed("n", {1: "a"}, extra={1: 2, "1": 3})
        with pytest.raises(trpc.InvalidArguments, match="argument 3 cannot be sent"):
            await mixed("n", {1: "a"}, {1: 2, "1": 3})
