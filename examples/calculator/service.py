"""The service: what a server offers, and the type of the client's proxy.

Methods that are done at once are plain functions; callers await them like the others. Their type hints
are the schema: a wrong argument never gets here.
"""

import weakref

import trio

import trpc

from .arithmetic import power, square_root
from .expression import ExpressionError, evaluate

# Registered, it arrives at the caller as this class. Builtin exceptions always do.
trpc.exception(ExpressionError)


@trpc.exception
class NothingStored(Exception):  # noqa: N818 - it reads as what it says
    """``recall`` on a connection that has not stored anything."""


class Calculator:
    """Calculates, and remembers one number for each connection."""

    def __init__(self) -> None:
        # A peer is one connection; what it stored goes when it goes.
        self._stored: weakref.WeakKeyDictionary[trpc.Peer, float] = weakref.WeakKeyDictionary()

    @trpc.method
    def add(self, a: float, b: float) -> float:
        return a + b

    @trpc.method
    def subtract(self, a: float, b: float) -> float:
        return a - b

    @trpc.method
    def multiply(self, a: float, b: float) -> float:
        return a * b

    @trpc.method
    def divide(self, a: float, b: float) -> float:
        return a / b

    @trpc.method
    def power(self, base: float, exponent: float) -> float:
        return power(base, exponent)

    @trpc.method
    def sqrt(self, value: float) -> float:
        return square_root(value)

    @trpc.method
    def evaluate(self, expression: str) -> float:
        return evaluate(expression)

    @trpc.method
    async def slow_add(self, a: float, b: float, seconds: float) -> float:
        """Adds after a while, and says when it is cancelled: by its caller, or by a deadline of the caller's."""
        print("server: slow_add has begun", flush=True)
        try:
            await trio.sleep(seconds)
        except trio.Cancelled:
            print("server: slow_add was cancelled", flush=True)
            raise
        return a + b

    @trpc.method
    def store(self, value: float) -> None:
        self._stored[trpc.current_call().peer] = value

    @trpc.method
    def recall(self) -> float:
        try:
            return self._stored[trpc.current_call().peer]
        except KeyError:
            raise NothingStored("nothing is stored on this connection") from None
