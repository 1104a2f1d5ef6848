"""What the tests of the command line serve and call."""

import dataclasses
import datetime as dt
import decimal
import enum
import math
import os
import uuid as uuids
from collections.abc import AsyncIterable, AsyncIterator
from typing import Annotated, Any, Literal, NamedTuple, NotRequired, TypedDict

import msgspec
import trio

import trpc


def deprecated(message):
    """As in ``warnings``, since Python 3.13."""

    def mark(function):
        function.__deprecated__ = message
        return function

    return mark


class Color(enum.Enum):
    """What it looks like."""

    RED = "red"
    DEEP_BLUE = "deep blue"


class Size(enum.IntEnum):
    SMALL = 1
    LARGE = 2


class Access(enum.Flag):
    READ = 1
    WRITE = 2


class Place(NamedTuple):
    """Where it is."""

    shelf: str
    row: int = 1


@dataclasses.dataclass
class Item:
    """What is sold.

    It has a "price" and a \\ in its documentation.
    """

    name: str
    price: decimal.Decimal
    color: Color = Color.RED
    tags: list[str] = dataclasses.field(default_factory=list)
    place: Place | None = None
    uuid: uuids.UUID | None = None


class Point(msgspec.Struct, tag="point", frozen=True):
    x: float
    y: float = 0.0


class Circle(msgspec.Struct, tag="circle", tag_field="type", rename="camel"):
    center: Point
    line_width: int = 1
    is_filled: bool = msgspec.field(default=False, name="filled?")


class Pair(msgspec.Struct, array_like=True):
    first: int
    second: str = "b"


class Options(TypedDict):
    limit: int
    color: NotRequired[Color]


Dashed = TypedDict("Dashed", {"a-b": int, "class": NotRequired["Item"]})


class Node(msgspec.Struct):
    value: int
    following: "Node | None" = None


class Shop:
    """Sells items."""

    @trpc.method
    async def describe(self, item: Item) -> str:
        """Says what an item is."""
        return f"{item.name} for {item.price}, {item.color.name}, {item.tags}, {item.place}"

    @trpc.method
    async def echo(self, value: Any) -> Any:
        return value

    @trpc.method
    async def untyped(self, value, /, *rest, **others):
        return [value, list(rest), others]

    @trpc.method
    async def kinds(
        self,
        number: int,
        text: str | None = None,
        *,
        when: dt.datetime | None = None,
        age: dt.timedelta = dt.timedelta(seconds=1),
        data: bytes = b"",
        key: uuids.UUID | None = None,
        choice: Literal["a", 1, None] = "a",
        flag: bool = False,
        size: Size = Size.SMALL,
        access: Access = Access.READ,
    ) -> dict[str, Any]:
        """Gives back what it was given."""
        values = {"number": number, "text": text, "when": when, "age": age, "data": data, "key": key}
        return {
            name: repr(value)
            for name, value in (values | {"choice": choice, "flag": flag, "size": size, "access": access}).items()
        }

    @trpc.method(idempotent=True)
    async def draw(self, shape: Circle | Point, at: Pair, options: Options | None = None) -> Circle | Point | None:
        return shape if at.first else None

    @trpc.method
    async def dashed(self, value: Dashed) -> Dashed:
        return value

    @trpc.method
    async def tree(self, root: Node, points: set[Point]) -> int:
        return root.value + (0 if root.following is None else await self.tree(root.following, points))

    @trpc.method
    async def save(self, data: bytes) -> int:
        return len(data)

    @trpc.method
    async def load(self, size: Annotated[int, msgspec.Meta(ge=0)]) -> bytes:
        return b"\x1b[31m" * size

    @trpc.method(in_thread=True)
    def factor(self, n: int) -> list[int]:
        return [p for p in range(2, n + 1) if n % p == 0]

    @trpc.method
    async def list(self, wanted: dict[int, list[Item]]) -> list[Item]:
        """A method whose name is that of a type."""
        return [item for items in wanted.values() for item in items]


class Streams:
    @trpc.method
    async def count(self, stop: int = -1) -> AsyncIterator[int]:
        """Counts, for ever if it is not told how far."""
        number = 0
        while number != stop:
            yield number
            number += 1

    @trpc.method
    async def total(self, numbers: AsyncIterable[float]) -> float:
        return math.fsum([number async for number in numbers])

    @trpc.method
    async def double(self, numbers: AsyncIterable[int] | None = None, *, by: int = 2) -> AsyncIterator[int]:
        if numbers is not None:
            async for number in numbers:
                yield number * by

    @trpc.method
    async def upload(self, name: str, data: AsyncIterable[bytes]) -> str:
        return f"{name}: {sum([len(chunk) async for chunk in data])}"

    @trpc.method
    async def texts(self) -> AsyncIterator[Any]:
        yield "a\x1b[31m"
        yield b"raw\n"
        yield None

    @trpc.method
    async def fail(self) -> AsyncIterator[int]:
        yield 1
        raise KeyError("key")


class Trouble:
    """Fails in many ways."""

    @trpc.method
    async def wait(self, path: str = "") -> None:
        """Waits until it is cancelled, and then says so in a file."""
        try:
            if path:
                note(path, "begun")
            await trio.sleep_forever()
        finally:
            if path:
                note(path, "ended")

    @deprecated("use new")
    @trpc.method
    async def old(self) -> None:
        """Was once of use."""

    @trpc.method
    async def stay(self, path: str) -> None:
        """Does not end when it is cancelled, but when there is such a file."""
        with trio.CancelScope(shield=True):
            while not os.path.exists(path):
                await trio.sleep(0.01)

    @trpc.method
    async def die(self) -> None:
        os._exit(3)

    @trpc.method
    async def group(self) -> None:
        raise ExceptionGroup("two", [ValueError("one\nline"), KeyError("\x1b[31mred")])

    @trpc.method
    async def late(self) -> None:
        with trio.fail_after(0):
            await trio.sleep_forever()

    @trpc.method
    async def busy(self) -> None:
        raise trpc.Overloaded("no room")

    @trpc.method
    async def large(self) -> bytes:
        return bytes(20 * 1024 * 1024)


def note(path, word):
    """Adds a line to a file."""
    with open(path, "a", encoding="utf-8") as file:
        file.write(word + "\n")


async def note_later():
    """It cannot be served, as it is async."""


def all_services():
    """What `trpc serve cli.services:all_services` serves."""
    return [Shop(), Streams(), Trouble()]
