"""Metadata: what the next call carries, and where that ends."""

import contextlib
import contextvars
import math

import pytest
import trio
from support import connected

import trpc
from trpc._context import CurrentCall, enter_call
from trpc._metadata import context_for_calls, outgoing_metadata
from trpc._peer import Peer


def call(method="A.b", **metadata):
    return CurrentCall(method, Peer("here"), metadata, math.inf, owner=None)


def test_without_metadata_nothing_is_sent():
    assert not outgoing_metadata()


def test_metadata_of_the_blocks_around():
    with trpc.metadata(a=1, b="outer"):
        assert outgoing_metadata() == {"a": 1, "b": "outer"}
        with trpc.metadata(b="inner", c=None):
            assert outgoing_metadata() == {"a": 1, "b": "inner", "c": None}
        assert outgoing_metadata() == {"a": 1, "b": "outer"}
    assert not outgoing_metadata()


def test_metadata_ends_with_its_block_whatever_happens():
    with pytest.raises(KeyError), trpc.metadata(a=1):
        raise KeyError
    assert not outgoing_metadata()


@pytest.mark.parametrize("value", ["s", b"b", 1, 1.5, True, None])
def test_scalars_are_metadata(value):
    with trpc.metadata(key=value):
        assert outgoing_metadata() == {"key": value}


@pytest.mark.parametrize("value", [[], {}, object(), bytearray(b"x")])
def test_other_values_are_refused_by_name_where_they_are_given(value):
    with pytest.raises(TypeError, match="metadata 'bad' must be a str, bytes, int, float, bool or None"):
        with trpc.metadata(fine=1, bad=value):
            pytest.fail("the block was entered")
    assert not outgoing_metadata()


def test_any_name_is_a_key():
    with trpc.metadata(**{"self": 1, "values": 2, "x-trace id": 3}):
        assert outgoing_metadata() == {"self": 1, "values": 2, "x-trace id": 3}


async def test_metadata_belongs_to_the_task():
    seen = []

    async def sees():
        seen.append(dict(outgoing_metadata() or {}))

    async with trio.open_nursery() as nursery:
        with trpc.metadata(a=1):
            nursery.start_soon(sees)
        nursery.start_soon(sees)
    assert sorted(seen, key=len) == [{}, {"a": 1}]


def test_what_a_handler_calls_starts_without_metadata():
    def handler():
        enter_call(call(theirs=2))
        assert not outgoing_metadata()
        assert trpc.current_call().metadata == {"theirs": 2}
        with trpc.metadata(**trpc.current_call().metadata):
            assert outgoing_metadata() == {"theirs": 2}

    with trpc.metadata(mine=1):
        context_for_calls().run(handler)
        assert outgoing_metadata() == {"mine": 1}
    context_for_calls().run(handler)
    assert not outgoing_metadata()


def test_handlers_start_from_the_context_around():
    variable = contextvars.ContextVar("variable", default="unset")

    def handler():
        seen = variable.get()
        variable.set("changed by the handler")
        return seen

    for around in (contextlib.nullcontext(), trpc.metadata(mine=1)):
        variable.set("set")
        with around:
            assert context_for_calls().run(handler) == "set"
        assert variable.get() == "set"


async def test_the_metadata_of_a_call_is_not_that_of_the_calls_of_its_handler():
    class Service:
        @trpc.method
        async def sees(self) -> list[dict]:
            return [dict(trpc.current_call().metadata), dict(outgoing_metadata() or {})]

    # The server starts inside of somebody's metadata as well.
    with trpc.metadata(of="the server"):
        async with connected(Service()) as (client, _):
            with trpc.metadata(of="the client"):
                assert await client.proxy(Service).sees() == [{"of": "the client"}, {}]
