"""The changes that docs/services.md calls safe are so, whichever side is replaced first."""

from __future__ import annotations

import dataclasses
from typing import NotRequired, TypedDict

import msgspec
import pytest

import trpc
import trpc.testing


@dataclasses.dataclass
class OldPart:
    name: str


@dataclasses.dataclass
class NewPart:
    name: str
    count: int = 1


class OldBox(msgspec.Struct):
    name: str


class NewBox(msgspec.Struct):
    name: str
    count: int = 1


class OldNote(TypedDict):
    name: str


class NewNote(TypedDict):
    name: str
    count: NotRequired[int]


@trpc.service(name="Stock")
class Old:
    @trpc.method
    async def part(self, part: OldPart) -> OldPart:
        return part

    @trpc.method
    async def box(self, box: OldBox) -> OldBox:
        return box

    @trpc.method
    async def note(self, note: OldNote) -> OldNote:
        return note

    @trpc.method
    async def count(self, item: str) -> int:
        return 7


@trpc.service(name="Stock")
class New:
    @trpc.method
    async def part(self, part: NewPart) -> NewPart:
        return part

    @trpc.method
    async def box(self, box: NewBox) -> NewBox:
        return box

    @trpc.method
    async def note(self, note: NewNote) -> NewNote:
        return note

    @trpc.method
    async def count(self, item: str, shelf: int = 0) -> int:
        return 7

    @trpc.method
    async def count_all(self) -> int:
        return 7


async def test_an_old_client_of_a_new_server():
    async with trpc.testing.connected(New()) as client:
        stock = client.proxy(Old)
        assert await stock.part(OldPart("bolt")) == OldPart("bolt")
        assert await stock.box(OldBox("bolt")) == OldBox("bolt")
        assert await stock.note({"name": "bolt"}) == {"name": "bolt"}
        assert await stock.count("bolt") == 7


async def test_a_new_client_of_an_old_server():
    async with trpc.testing.connected(Old()) as client:
        stock = client.proxy(New)
        # What the server does not know it leaves away, and here the default is put in its place.
        assert await stock.part(NewPart("bolt", 5)) == NewPart("bolt", 1)
        assert await stock.box(NewBox("bolt", 5)) == NewBox("bolt", 1)
        assert await stock.note({"name": "bolt", "count": 5}) == {"name": "bolt"}
        assert await stock.count("bolt") == 7
        # "On the server first".
        with pytest.raises(trpc.InvalidArguments):
            await stock.count("bolt", shelf=3)
        with pytest.raises(trpc.MethodNotFound):
            await stock.count_all()
