"""Uses trpc as a program outside the package does. Checked, never run.

A line that a type checker must refuse carries the two comments that silence it; both checkers are told
to report a comment that silences nothing. So a wrong call that were accepted, and a right one that were
refused, are errors.
"""

from __future__ import annotations

import abc
import dataclasses
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Any, Protocol, assert_type

import trio
import trio.testing

import trpc
from trpc.testing import Connect, Faults, Link, RecordedCall, Recorder, connected, expected, serving


class Calculator:
    def __init__(self, precision: int) -> None:
        self.precision = precision

    @trpc.method
    async def add(self, a: float, b: float) -> float:
        return a + b

    @trpc.method
    def negate(self, a: float) -> float:
        return -a

    @trpc.method(in_thread=True)
    def factor(self, n: int) -> list[int]:
        return [n]

    @trpc.method(idempotent=True)
    async def label(self, text: str, *, width: int = 10) -> str:
        return text[:width]

    def helper(self) -> None: ...


class Interface(Protocol):
    @trpc.method
    async def add(self, a: float, b: float) -> float: ...
    @trpc.method
    def negate(self, a: float) -> float: ...


class Abstract(ABC):
    @trpc.method
    @abstractmethod
    async def add(self, a: float, b: float) -> float: ...


@trpc.service(name="acme.calculator")
class Implementation(Abstract):
    async def add(self, a: float, b: float) -> float:
        return a + b


@trpc.service
class Named(Abstract):
    async def add(self, a: float, b: float) -> float:
        return a + b


class Log:
    """Methods with streams, in all the ways in which they can be written."""

    @trpc.method
    async def countdown(self, start: int) -> AsyncIterator[int]:
        for i in range(start):
            yield i

    @trpc.method
    async def generator(self) -> AsyncGenerator[str, None]:
        yield "x"

    @trpc.method
    def returns(self, *, width: int = 10) -> AsyncIterator[str]:
        return self.generator_of(width)

    @trpc.method
    async def awaits(self) -> AsyncIterable[bytes]:
        raise NotImplementedError

    @trpc.method
    def channel(self) -> trio.abc.ReceiveChannel[float]:
        raise NotImplementedError

    @trpc.method(idempotent=True)
    async def with_options(self, start: int) -> AsyncIterator[int]:
        yield start

    @trpc.method(in_thread=False)
    def returns_with_options(self) -> AsyncIterator[int]:
        raise NotImplementedError

    @trpc.method
    async def total(self, numbers: AsyncIterable[int]) -> int:
        return sum([number async for number in numbers])

    @trpc.method
    async def iterator(self, numbers: AsyncIterator[int], name: str = "") -> None: ...

    @trpc.method
    async def receives(self, numbers: trio.abc.ReceiveChannel[int]) -> None: ...

    @trpc.method
    async def optional(self, numbers: AsyncIterable[int] | None = None) -> None: ...

    @trpc.method
    async def several(self, *parts: AsyncIterable[bytes], **named: AsyncIterable[str]) -> None: ...

    @trpc.method
    async def double(self, numbers: AsyncIterable[int]) -> AsyncIterator[float]:
        async for number in numbers:
            yield 2.0 * number

    async def generator_of(self, width: int) -> AsyncIterator[str]:
        yield "x" * width


class LogProtocol(Protocol):
    @trpc.method
    def countdown(self, start: int) -> AsyncIterator[int]: ...
    @trpc.method
    def double(self, numbers: AsyncIterable[int]) -> AsyncIterator[float]: ...
    @trpc.method
    async def total(self, numbers: AsyncIterable[int]) -> int: ...


class AbstractLog(ABC):
    @trpc.method
    @abc.abstractmethod
    def countdown(self, start: int) -> AsyncIterator[int]: ...

    @trpc.method(idempotent=True)
    @abstractmethod
    def double(self, numbers: AsyncIterable[int]) -> AsyncIterator[float]: ...


class MarkedLog(AbstractLog):
    @trpc.method
    async def countdown(self, start: int) -> AsyncIterator[int]:
        yield start

    @trpc.method
    async def double(self, numbers: AsyncIterable[int]) -> AsyncIterator[float]:
        async for number in numbers:
            yield 2.0 * number


class UnmarkedLog(AbstractLog):
    """It is served as the other one is; but for a type checker, callers on this side would get something else."""

    async def countdown(self, start: int) -> AsyncIterator[int]:  # type: ignore[override] # pyright: ignore[reportIncompatibleMethodOverride]
        yield start


class Progress:
    """What a client offers to the server."""

    @trpc.method
    def report(self, done: float) -> None: ...

    @trpc.method
    async def lines(self) -> AsyncIterator[str]:
        yield "x"


class Job:
    """Its handlers call back."""

    @trpc.method
    async def run(self) -> str:
        call = trpc.current_call()
        assert_type(call, trpc.CurrentCall)
        assert_type(call.client, trpc.Client)
        progress = call.client.proxy(Progress)
        assert_type(progress, Progress)
        assert_type(await progress.report(0.5), None)
        async with progress.lines() as lines:
            async for line in lines:
                assert_type(line, str)
        await progress.report("half")  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
        return call.method


@trpc.exception
class OutOfStock(Exception):
    left: int


@trpc.exception(name="Gone")
class SoldOut(Exception):
    pass


async def right(client: trpc.Client) -> None:
    calc = client.proxy(Calculator)
    assert_type(calc, Calculator)
    assert_type(await calc.add(1, 2), float)
    assert_type(await calc.add(a=1.5, b=2), float)
    assert_type(await calc.negate(1), float)
    assert_type(await calc.factor(12), list[int])
    assert_type(await calc.label("x", width=3), str)
    assert_type(await client.proxy(Calculator, name="other").add(1, 2), float)
    assert_type(client.proxy(Interface), Interface)
    assert_type(await client.proxy(Interface).negate(1), float)
    assert_type(await client.proxy(Abstract).add(1, 2), float)
    assert_type(await client.proxy("Calculator").anything(1, key="x"), Any)
    assert_type(await client.call("Calculator.add", 1, b=2), Any)
    assert_type(await client.notify("Calculator.add", 1, 2), None)
    assert_type(await client.ping(), float)
    # On the object itself the methods are what they are on the proxy.
    assert_type(await Calculator(2).negate(1), float)
    assert_type(await Implementation().add(1, 2), float)
    assert_type(OutOfStock().left, int)


async def integers() -> AsyncIterator[int]:
    yield 1


async def texts() -> AsyncGenerator[str, None]:
    yield "x"


class Numbers:
    """An iterable that is neither a generator nor a channel."""

    def __aiter__(self) -> AsyncIterator[int]:
        return integers()


async def right_streams(client: trpc.Client, interface: LogProtocol) -> None:
    log = client.proxy(Log)
    assert_type(log.countdown(3), AbstractAsyncContextManager[trio.abc.ReceiveChannel[int]])
    async with log.countdown(3) as numbers:
        assert_type(numbers, trio.abc.ReceiveChannel[int])
        async for n in numbers:
            assert_type(n, int)
        assert_type(await numbers.receive(), int)
        await numbers.aclose()
    async with log.countdown(start=3) as numbers:
        pass
    async with log.generator() as strings:
        assert_type([s async for s in strings], list[str])
    async with log.returns(width=3) as strings:
        assert_type(await strings.receive(), str)
    async with log.awaits() as chunks:
        assert_type(await chunks.receive(), bytes)
    async with log.channel() as floats:
        assert_type(await floats.receive(), float)
    async with log.with_options(3) as numbers:
        assert_type(await numbers.receive(), int)
    async with log.returns_with_options() as numbers:
        assert_type(await numbers.receive(), int)
    # Arguments that are streams.
    send, receive = trio.open_memory_channel[int](0)
    await send.aclose()
    assert_type(await log.total(integers()), int)
    assert_type(await log.total(numbers=integers()), int)
    await log.total(receive)
    await log.total(Numbers())
    await log.iterator(integers(), name="x")
    await log.iterator(receive)
    await log.receives(receive)
    await log.optional()
    await log.optional(None)
    await log.optional(integers())
    await log.several()
    async with log.double(receive) as floats:
        assert_type(await floats.receive(), float)
    # A stream of one call is an argument of another one.
    async with log.countdown(3) as numbers, log.double(numbers) as floats:
        async for f in floats:
            assert_type(f, float)
        await log.total(numbers)
    # Interfaces.
    for each in (client.proxy(LogProtocol), interface):
        async with each.countdown(3) as numbers, each.double(numbers) as floats:
            assert_type(await floats.receive(), float)
        assert_type(await each.total(integers()), int)
    async with client.proxy(AbstractLog).countdown(1) as numbers, client.proxy(AbstractLog).double(numbers) as floats:
        assert_type(await floats.receive(), float)
    implementation: LogProtocol = Log()
    async with implementation.countdown(3) as numbers, MarkedLog().double(numbers) as floats:
        assert_type(await floats.receive(), float)
    # On the object itself the methods are what they are on the proxy.
    async with Log().countdown(3) as numbers, Log().double(integers()) as floats:
        assert_type(await numbers.receive(), int)
        assert_type(await floats.receive(), float)
    assert_type(await Log().total(integers()), int)
    # By name.
    assert_type(client.stream("Log.countdown", 3), AbstractAsyncContextManager[trio.abc.ReceiveChannel[Any]])
    async with client.stream("Log.countdown", 3) as anything:
        async for item in anything:
            assert_type(item, Any)
        assert_type(await anything.receive(), Any)
    async with client.proxy("Log").countdown(3) as anything:
        assert_type(await anything.receive(), Any)
    assert_type(await client.proxy("Log").total(integers()), Any)
    assert_type(await client.call("Log.total", integers()), Any)


async def wrong_streams(client: trpc.Client) -> None:
    log = client.proxy(Log)
    log.countdown("3")  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    log.countdown()  # type: ignore[call-arg] # pyright: ignore[reportCallIssue]
    log.countdown(1, 2)  # type: ignore[call-arg] # pyright: ignore[reportCallIssue]
    log.countdown(first=1)  # type: ignore[call-arg] # pyright: ignore[reportCallIssue]
    log.returns(5)  # type: ignore[call-arg] # pyright: ignore[reportCallIssue]
    log.with_options("3")  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    log.countup(3)  # type: ignore[attr-defined] # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]
    # A stream is entered: neither awaited nor iterated over.
    await log.countdown(3)  # type: ignore[misc] # pyright: ignore[reportGeneralTypeIssues]
    async for _ in log.countdown(3):  # type: ignore[attr-defined] # pyright: ignore[reportGeneralTypeIssues, reportUnknownVariableType]
        pass
    with log.countdown(3):  # type: ignore[attr-defined] # pyright: ignore[reportGeneralTypeIssues]
        pass
    async with log.total(integers()) as _:  # type: ignore[attr-defined] # pyright: ignore[reportGeneralTypeIssues, reportUnknownVariableType]
        pass
    async with log.countdown(3) as numbers:
        text: str = await numbers.receive()  # type: ignore[assignment] # pyright: ignore[reportAssignmentType]
        for _ in numbers:  # type: ignore[attr-defined] # pyright: ignore[reportGeneralTypeIssues, reportUnknownVariableType]
            pass
    # Arguments that are no streams, or streams of something else.
    await log.total([1, 2])  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    await log.total(texts())  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    await log.total(integers)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    await log.total(iter([1]))  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    await log.total(None)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    await log.total()  # type: ignore[call-arg] # pyright: ignore[reportCallIssue]
    await log.iterator(Numbers())  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    await log.optional([1])  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    log.double(texts())  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    send, receive = trio.open_memory_channel[str](0)
    await send.aclose()
    await log.total(receive)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    await log.total(send)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    await log.receives(texts())  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    await log.total(log.countdown(3))  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    # The same of interfaces.
    client.proxy(LogProtocol).countdown("3")  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    client.proxy(LogProtocol).double([1])  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    await client.proxy(LogProtocol).countdown(3)  # type: ignore[misc] # pyright: ignore[reportGeneralTypeIssues]
    client.proxy(AbstractLog).double(texts())  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    await client.stream("Log.countdown", 3)  # type: ignore[misc] # pyright: ignore[reportGeneralTypeIssues]
    async for _ in client.stream("Log.countdown", 3):  # type: ignore[attr-defined] # pyright: ignore[reportGeneralTypeIssues, reportUnknownVariableType]
        pass
    client.stream(3)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    print(text)


async def wrong(client: trpc.Client) -> None:
    calc = client.proxy(Calculator)
    await calc.add("1", 2)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    await calc.add(1)  # type: ignore[call-arg] # pyright: ignore[reportCallIssue]
    await calc.add(1, 2, 3)  # type: ignore[call-arg] # pyright: ignore[reportCallIssue]
    await calc.add(1, c=2)  # type: ignore[call-arg] # pyright: ignore[reportCallIssue]
    await calc.subtract(1, 2)  # type: ignore[attr-defined] # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]
    await calc.negate("1")  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    await calc.negate()  # type: ignore[call-arg] # pyright: ignore[reportCallIssue]
    await calc.factor(1.5)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    await calc.label("x", 3)  # type: ignore[call-arg] # pyright: ignore[reportCallIssue]
    number: int = await calc.add(1, 2)  # type: ignore[assignment] # pyright: ignore[reportAssignmentType]
    text: str = calc.negate(1)  # type: ignore[assignment] # pyright: ignore[reportAssignmentType]
    await client.proxy(Interface).add("1", 2)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    await client.proxy(Interface).multiply(1)  # type: ignore[attr-defined] # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]
    await client.proxy(Abstract).add(1)  # type: ignore[call-arg] # pyright: ignore[reportCallIssue]
    await client.call(12)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    with trpc.metadata(tenant=["a"]):  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
        pass
    print(number, text)


async def tagging(call: trpc.Call, proceed: trpc.Proceed) -> Any:
    assert_type(call.method, str)
    assert_type(call.args, tuple[Any, ...])
    assert_type(call.peer, trpc.Peer)
    assert_type(call.is_incoming, bool)
    changed = dataclasses.replace(call, args=(*call.args, 1), metadata={**call.metadata, "tag": b"x"})
    assert_type(changed, trpc.Call)
    return await proceed(changed)


async def answering(call: trpc.Call, proceed: trpc.Proceed) -> str:
    return call.method


class Counting:
    calls = 0

    async def __call__(self, call: trpc.Call, proceed: trpc.Proceed) -> object:
        self.calls += 1
        call.method = "other"  # type: ignore[misc] # pyright: ignore[reportAttributeAccessIssue]
        return await proceed(call)


def plain(call: trpc.Call, proceed: trpc.Proceed) -> str:
    return call.method


async def without_proceed(call: trpc.Call) -> None:
    pass


async def intercepting(stream: trio.abc.Stream, listeners: list[trio.SocketListener]) -> None:
    interceptors: list[trpc.Interceptor] = [trpc.log_calls, tagging, answering, Counting()]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(trpc.serve_tcp, Calculator(2), 0, interceptors=interceptors))
        await trpc.serve_unix(Calculator(2), "path", interceptors=[trpc.log_calls])
        await trpc.serve_stream(Calculator(2), stream, interceptors=(trpc.log_calls, tagging))
        await trpc.serve_listeners(Calculator(2), listeners, interceptors=interceptors)
        async with trpc.connect("tcp://localhost:1", interceptors=interceptors) as client:
            assert_type(await client.proxy(Calculator).add(1, 2), float)
        trpc.connect_stream(stream, interceptors=[Counting()])
        trpc.connect("tcp://localhost:1", interceptors=trpc.log_calls)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
        trpc.connect("tcp://localhost:1", interceptors=[plain])  # type: ignore[list-item] # pyright: ignore[reportArgumentType]
        trpc.connect("tcp://localhost:1", interceptors=[without_proceed])  # type: ignore[list-item] # pyright: ignore[reportArgumentType]


async def stopping(server: trpc.Server) -> None:
    assert_type(server.is_draining, bool)
    await server.drain()
    await server.drain(2)
    async with trio.open_nursery() as nursery:
        await nursery.start(trpc.drain_on_signal, server)
        nursery.start_soon(partial(trpc.drain_on_signal, server, grace=1.5))
    assert_type(await trpc.drain_on_signal(server), None)
    await trpc.drain_on_signal(server, 2)  # type: ignore[call-arg] # pyright: ignore[reportCallIssue]
    await server.drain("2")  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]


async def reflection(client: trpc.Client) -> None:
    proxy = client.proxy(trpc.Reflection)
    for service in await proxy.services():
        assert_type(service, trpc.ServiceInfo)
        assert_type(service["methods"][0]["parameters"][0]["type"], str)
        assert_type(service["types"][0]["fields"], list[trpc.FieldInfo])
    activity = await proxy.activity(most=1)
    assert_type(activity["busiest"][0]["calls"], list[trpc.CallActivity])
    activity["busy"]  # type: ignore[misc] # pyright: ignore[reportGeneralTypeIssues]
    await proxy.activity("all")  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    await trpc.serve_tcp(Calculator(2), 0, reflection="yes")  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]


async def in_memory(trpc_connect: Connect) -> None:
    recorder = Recorder()
    link = Link(7, there=Faults(latency=0.1, drop=range(3, 5)), back=Faults(cut="eof", cut_after=3))
    link.there.faults = Faults()
    limits = trpc.Limits(max_calls=1)
    async with connected(Calculator(2), link=link, recorder=recorder, serve={"limits": limits}, token="t") as client:
        assert_type(client, trpc.Client)
    async with serving([Calculator(2)], authorize=lambda peer, method: True) as memory, memory.connect() as other:
        assert_type(other, trpc.Client)
        assert_type(memory.server, trpc.Server)
    assert_type(await trpc_connect(Calculator(2), cancel_grace=0), trpc.Client)
    assert_type(recorder.assert_called("Calculator.add", 1, b=2), RecordedCall)
    recorder.assert_calls(["Calculator.add", expected("Calculator.add", 1, 2)], any_order=True)
    connected(Calculator(2), tokn="t")  # type: ignore[call-arg] # pyright: ignore[reportCallIssue]
    connected(Calculator(2), serve={"limit": 3})  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    Faults(cut="off")  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]


async def started() -> None:
    async with trio.open_nursery() as nursery:
        server: trpc.Server = await nursery.start(trpc.serve_tcp, Calculator(2), 0)
        assert_type(server.url, str)
        async with trpc.connect(server.url, limits=trpc.Limits(max_calls=5), cancel_grace=0) as client:
            await right(client)
        limits = trpc.Limits(stream_credit=1000, max_streams=5, max_bytes_in_flight=1000)
        async with trpc.connect(server.url, service=Progress(), limits=limits) as client:
            assert_type(client, trpc.Client)
        async with (
            trpc.connect(server.url, service=[Progress(), Log()]),
            trpc.connect(server.url, service={"a": Log()}),
        ):
            pass
        one, other = trio.testing.memory_stream_pair()
        nursery.start_soon(trpc.serve_stream, Job(), other)
        async with trpc.connect_stream(one, service=Progress()) as client:
            assert_type(await client.proxy(Job).run(), str)
        try:
            await wrong(client)
        except trpc.ConnectionLost as exc:
            assert_type(exc.maybe_executed, bool)
        except trpc.RemoteError as exc:
            assert_type(exc.type_name, str)
    await trpc.serve_tcp(Calculator(2), "80")  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    trpc.connect("tcp://127.0.0.1:80", services=Progress())  # type: ignore[call-arg] # pyright: ignore[reportCallIssue]
    trpc.method(in_thread="yes")  # type: ignore[call-overload] # pyright: ignore[reportArgumentType]
