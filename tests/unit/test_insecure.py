"""The warning about servers that anybody can call."""

import socket
import warnings

import pytest
import trio
from certificates import server_context

import trpc
from trpc._insecure import warn_if_insecure


class Echo:
    @trpc.method
    def echo(self, text: str) -> str:
        return text


async def serve(**options):
    """Serves for a moment."""
    async with trio.open_nursery() as nursery:

        async def start(task_status):
            await trpc.serve_tcp(Echo(), 0, task_status=task_status, **options)

        await nursery.start(start)
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("host", ["0.0.0.0", None, "::"])
async def test_who_can_be_reached_by_others_is_warned(host):
    if host == "::" and not socket.has_ipv6:
        pytest.skip("no IPv6 here")
    with pytest.warns(
        trpc.InsecureWarning, match="without TLS and authentication: .*ssl_context= or authenticate="
    ) as seen:
        await serve(host=host)
    assert len(seen) == 1
    assert "trpc" not in seen[0].filename.rpartition("/trpc/")[1]


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "localhost"])
async def test_who_cannot_is_not(host):
    if host == "::1" and not socket.has_ipv6:
        pytest.skip("no IPv6 here")
    await serve(host=host)


@pytest.mark.parametrize(
    "options",
    [{"allow_insecure": True}, {"authenticate": lambda _: "x"}, {"ssl_context": None}],
    ids=["allowed", "authenticated", "TLS"],
)
async def test_who_knows_better_is_not(options):
    await serve(
        host="0.0.0.0", **{**options, **({"ssl_context": server_context()} if "ssl_context" in options else {})}
    )


async def test_listeners_that_are_open(tmp_path):
    for options in ({}, {"allow_insecure": True}):
        listeners = await trio.open_tcp_listeners(0, host="0.0.0.0")
        with warnings.catch_warnings(record=True) as seen, trio.CancelScope() as scope:
            warnings.simplefilter("always")

            class Status:
                def started(self, _):
                    scope.cancel()

            await trpc.serve_listeners(Echo(), listeners, task_status=Status(), **options)
        assert [w.category for w in seen] == ([] if options else [trpc.InsecureWarning])


async def test_as_an_error_it_leaves_nothing_open():
    listeners = await trio.open_tcp_listeners(0, host="0.0.0.0")
    with pytest.raises(trpc.InsecureWarning):
        await trpc.serve_listeners(Echo(), listeners)
    assert [listener.socket.fileno() for listener in listeners] == [-1]


async def test_what_is_no_tcp_socket(tmp_path):
    class Listener(trio.abc.Listener):
        async def accept(self): ...

        async def aclose(self): ...

    with trio.socket.socket(socket.AF_UNIX) as sock:
        await sock.bind(str(tmp_path / "s"))
        sock.listen()
        warn_if_insecure([Listener(), trio.SocketListener(sock)])


def test_an_ipv4_address_inside_of_an_ipv6_one():
    class Socket:
        family = socket.AF_INET6

        def __init__(self, host):
            self.host = host

        def getsockname(self):
            return (self.host, 1, 0, 0)

    def listener(host):
        it = trio.SocketListener.__new__(trio.SocketListener)
        it.socket = Socket(host)
        return it

    warn_if_insecure([listener("::ffff:127.0.0.1"), listener("::1%lo")])
    with pytest.warns(trpc.InsecureWarning, match="::ffff:10.0.0.1, fe80::1%eth0, without") as seen:
        warn_if_insecure([listener("::ffff:10.0.0.1"), listener("fe80::1%eth0")])
    assert seen[0].filename == __file__, "where it is called from"
