"""Uses trpc as a program outside the package does. Checked, never run.

A line that a type checker must refuse carries the two comments that silence it; both checkers are told
to report a comment that silences nothing. So a wrong call that were accepted, and a right one that were
refused, are errors.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Protocol, assert_type

import trio

import trpc


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


async def serving() -> None:
    async with trio.open_nursery() as nursery:
        server: trpc.Server = await nursery.start(trpc.serve_tcp, Calculator(2), 0)
        assert_type(server.url, str)
        async with trpc.connect(server.url, limits=trpc.Limits(max_calls=5), cancel_grace=0) as client:
            await right(client)
        try:
            await wrong(client)
        except trpc.ConnectionLost as exc:
            assert_type(exc.maybe_executed, bool)
        except trpc.RemoteError as exc:
            assert_type(exc.type_name, str)
    await trpc.serve_tcp(Calculator(2), "80")  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    trpc.method(in_thread="yes")  # type: ignore[call-overload] # pyright: ignore[reportArgumentType]
