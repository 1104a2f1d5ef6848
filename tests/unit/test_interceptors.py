"""How interceptors are put around one call, whichever side it is on."""

import dataclasses

import pytest
import trio

import trpc
from trpc._interceptors import checked, intercepted
from trpc._peer import Peer

CALL = trpc.Call("A.b", (1,), {"key": 2}, {}, Peer("here"))


async def echo(call):
    await trio.lowlevel.checkpoint()
    return call


async def test_none():
    assert await intercepted((), CALL, echo) is CALL


async def test_the_first_is_outermost():
    notes = []

    def noting(name):
        async def interceptor(call, proceed):
            notes.append(f"{name} begins")
            result = await proceed(dataclasses.replace(call, args=(*call.args, name)))
            notes.append(f"{name} ends")
            return [*result, name]

        return interceptor

    async def handle(call):
        notes.append(call.args)
        return ["handled"]

    assert await intercepted([noting("first"), noting("second")], CALL, handle) == ["handled", "second", "first"]
    assert notes == ["first begins", "second begins", (1, "first", "second"), "second ends", "first ends"]
    assert CALL.args == (1,)


async def test_one_may_proceed_several_times_or_not_at_all():
    tries = []

    async def retry(call, proceed):
        for _ in range(3):
            try:
                return await proceed(call)
            except trpc.Unavailable:
                tries.append("failed")
        return "given up"

    async def handle(_):
        await trio.lowlevel.checkpoint()
        raise trpc.Unavailable("gone")

    async def cached(call, proceed):
        return "from the cache"

    assert await intercepted([retry], CALL, handle) == "given up"
    assert len(tries) == 3
    assert await intercepted([cached, retry], CALL, handle) == "from the cache"
    assert len(tries) == 3


async def test_one_may_be_an_object():
    class Counting:
        count = 0

        async def __call__(self, call, proceed):
            self.count += 1
            return await proceed(call)

    counting = Counting()
    await intercepted(checked([counting, counting]), CALL, echo)
    assert counting.count == 2


@pytest.mark.parametrize("change", [{"method": "A.c"}, {"peer": Peer("here")}])
async def test_the_method_and_the_peer_cannot_be_replaced(change):
    async def elsewhere(call, proceed):
        return await proceed(dataclasses.replace(call, **change))

    with pytest.raises(ValueError, match=r"A\.b: an interceptor cannot have the call go to another method or peer"):
        await intercepted([elsewhere], CALL, echo)


def test_what_is_no_interceptor():
    with pytest.raises(TypeError, match=r"interceptors=\[<function"):
        checked(echo)
    with pytest.raises(TypeError, match="an async function with two parameters, call and proceed, not 5"):
        checked([echo, 5])
    assert checked(iter([echo])) == (echo,)


def test_a_call_is_not_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        CALL.method = "A.c"
