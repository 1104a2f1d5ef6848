"""What a server says of its services."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import AsyncIterable, AsyncIterator

import pytest
import trio
from support import connected

import trpc
from trpc._descriptions import describe
from trpc._service import table_of
from trpc._type_texts import TypeTexts


def deprecated(message):
    """As PEP 702's, which Python 3.13 has."""

    def mark(function):
        @functools.wraps(function)
        def warns(*args, **kwargs):
            raise AssertionError("what warns is for callers in this process")

        warns.__deprecated__ = message
        return warns

    return mark


class Interface:
    """What it is for."""

    @trpc.method
    async def ask(self, question: str) -> str:
        """Answers."""
        raise NotImplementedError


class Oracle(Interface):
    async def ask(self, question: str) -> str:
        return question

    @deprecated("use ask")
    @trpc.method
    async def old(self) -> None:
        """Was there before.

        It still is.
        """

    @trpc.method(in_thread=True, idempotent=True)
    def many(self, a, /, b: int, *rest: float, c: str = "x", d: object = None, **more: bool):
        return None

    @trpc.method
    async def listen(
        self, words: AsyncIterable[str], more: trio.abc.ReceiveChannel[int] | None = None
    ) -> AsyncIterator[list[str]]:
        async for word in words:
            yield [word]


def described(service, **named):
    return describe(table_of(named or service))


def test_service():
    (service,) = described(Oracle())
    assert (service["name"], service["doc"], service["types"]) == ("Interface", "What it is for.", [])
    assert [method["name"] for method in service["methods"]] == ["ask", "old", "many", "listen"]


def method(name):
    (service,) = described(Oracle())
    return next(method for method in service["methods"] if method["name"] == name)


def test_an_override_has_the_docstring_of_what_it_overrides():
    assert method("ask") == {
        "name": "ask",
        "doc": "Answers.",
        "parameters": [{"name": "question", "kind": "any", "type": "str", "is_stream": False}],
        "returns": "str",
        "is_stream": False,
        "in_thread": False,
        "idempotent": False,
        "deprecated": None,
    }


def test_deprecated():
    old = method("old")
    assert old["deprecated"] == "use ask"
    assert old["doc"] == "Was there before.\n\nIt still is."
    assert old["returns"] == "None"


async def test_what_is_deprecated_is_called_without_a_warning():
    async with connected(Oracle()) as (client, _):
        assert await client.call("Interface.old") is None
        assert await client.proxy(Oracle).old() is None


def test_all_kinds_of_parameters():
    many = method("many")
    assert [(p["name"], p["kind"], p["type"], p.get("default")) for p in many["parameters"]] == [
        ("a", "positional", "Any", None),
        ("b", "any", "int", None),
        ("rest", "*", "float", None),
        ("c", "keyword", "str", "'x'"),
        ("d", "keyword", "Any", "None"),
        ("more", "**", "bool", None),
    ]
    assert (many["returns"], many["in_thread"], many["idempotent"], many["doc"]) == ("Any", True, True, "")


def test_streams():
    listen = method("listen")
    assert [(p["type"], p["is_stream"]) for p in listen["parameters"]] == [
        ("AsyncIterable[str]", True),
        ("AsyncIterable[int] | None", True),
    ]
    assert (listen["returns"], listen["is_stream"]) == ("AsyncIterator[list[str]]", True)


def test_services_keep_their_order_and_names():
    services = described(None, **{"b.c": Oracle(), "a": Oracle()})
    assert [service["name"] for service in services] == ["b.c", "a"]
    assert [len(service["methods"]) for service in services] == [4, 4]


class NoKeyMeta(type):
    """Of classes that are no keys while this is tested; to other tests, which look at all objects, they are."""

    tested = False

    def __eq__(cls, other):
        return cls is other or NoKeyMeta.tested

    def __hash__(cls):
        if NoKeyMeta.tested:
            raise TypeError("unhashable")
        return id(cls)


class NoKey(metaclass=NoKeyMeta):
    def __repr__(self):
        raise RuntimeError("no repr")


@pytest.mark.parametrize(
    ("default", "shown"),
    [(NoKey(), "..."), (10**5000, "..."), ("\udc80", "'\\udc80'"), (float("nan"), "...")],
    ids=["class", "long", "text", "nan"],
)
def test_an_odd_default(default, shown, monkeypatch):
    class Odd:
        @trpc.method
        async def odd(self, x: object = default) -> None: ...

    monkeypatch.setattr(NoKeyMeta, "tested", True)
    (service,) = described(Odd())
    assert service["methods"][0]["parameters"][0]["default"] == shown


@pytest.mark.parametrize(
    ("doc", "shown"),
    [
        ("\udc80 lone", "? lone"),
        ("x" * 20_000, "x" * 10_000 + "…"),
        (7, ""),
        ("Odd(x: int)", ""),
        ("Odd(this)\n\nis written by hand.", "Odd(this)\n\nis written by hand."),
    ],
    ids=["surrogate", "long", "number", "made", "written"],
)
def test_an_odd_docstring(doc, shown):
    class Odd:
        @trpc.method
        async def odd(self) -> None: ...

    Odd.__doc__ = doc
    vars(Odd)["odd"].__doc__ = doc
    (service,) = described(Odd())
    assert service["doc"] == shown
    assert service["methods"][0]["doc"] == (doc if shown == "" and doc != 7 else shown)


def test_an_odd_factory():
    class Factory:
        __hash__ = None

        def __eq__(self, other):
            return True

        def __call__(self):
            raise AssertionError("not to be run")

    cls = dataclasses.make_dataclass("Made", [("x", int, dataclasses.field(default_factory=Factory()))])
    texts = TypeTexts()
    texts.text_of(cls)
    assert texts.classes[0]["fields"][0]["default"] == "..."
