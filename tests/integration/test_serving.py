"""Serving and connecting over real sockets, and the mistakes that users make there."""

from __future__ import annotations

import errno
import os
import stat
import sys
from typing import Any, Never, NoReturn

import pytest
import trio

import trpc


class Echo:
    @trpc.method
    async def echo(self, value: str) -> str:
        return value

    @trpc.method
    def peer(self) -> str:
        return str(trpc.current_call().peer)


class Other:
    @trpc.method(in_thread=True)
    def where(self) -> str:
        call = trpc.current_call()
        return f"{call.method} {call.metadata}"

    @trpc.method
    async def relay(self, url: str, pass_on: bool) -> str:
        async with trpc.connect(url) as client:
            proxy = client.proxy(Other)
            if pass_on:
                with trpc.metadata(**trpc.current_call().metadata):
                    return await proxy.where()
            return await proxy.where()


async def call_once(url):
    async with trpc.connect(url) as client:
        assert await client.proxy(Echo).echo("hello") == "hello"
        return await client.proxy(Echo).peer()


async def test_tcp(nursery):
    server = await nursery.start(trpc.serve_tcp, Echo(), 0)
    assert server.url.startswith("tcp://127.0.0.1:")
    assert server.urls == [server.url]
    assert (await call_once(server.url)).startswith("127.0.0.1:")


async def test_tcp_on_ipv6(nursery):
    try:
        server = await nursery.start(lambda task_status: trpc.serve_tcp(Echo(), 0, host="::1", task_status=task_status))
    except OSError:
        pytest.skip("this machine has no IPv6")
    assert server.url.startswith("tcp://[::1]:")
    assert (await call_once(server.url)).startswith("[::1]:")


async def test_unix_socket_is_private_and_removed_at_the_end(tmp_path):
    path = tmp_path / "a b.sock"
    async with trio.open_nursery() as nursery:
        server = await nursery.start(trpc.serve_unix, Echo(), path)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert server.url == f"unix://{path}"
        assert (await call_once(server.url)).startswith("unix:")
        with pytest.raises(OSError, match="another process listens") as error:
            await trpc.serve_unix(Echo(), path)
        assert error.value.errno == errno.EADDRINUSE
        assert await call_once(server.url)
        nursery.cancel_scope.cancel()
    assert not path.exists()


async def test_a_stale_unix_socket_is_replaced_but_no_other_file(tmp_path, nursery):
    path = tmp_path / "stale.sock"
    stale = trio.socket.socket(trio.socket.AF_UNIX)
    await stale.bind(str(path))
    stale.close()
    server = await nursery.start(trpc.serve_unix, Echo(), str(path))
    assert await call_once(server.url)
    file = tmp_path / "precious"
    file.write_text("data")
    with pytest.raises(OSError, match="precious"):
        await trpc.serve_unix(Echo(), file)
    assert file.read_text() == "data"
    with pytest.raises(OSError, match="cannot listen on the Unix socket"):
        await trpc.serve_unix(Echo(), tmp_path / "no" / "such" / "folder")


async def test_listeners_and_streams(nursery):
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1") + await trio.open_tcp_listeners(0, host="127.0.0.1")
    server = await nursery.start(trpc.serve_listeners, [Echo(), Other()], listeners)
    assert len(server.urls) == 2
    for url in server.urls:
        await call_once(url)
    ours, theirs = trio.testing.memory_stream_pair()
    handle = await nursery.start(trpc.serve_stream, {"Renamed": Echo()}, theirs)
    with pytest.raises(RuntimeError, match="has no URL"):
        _ = handle.url
    async with trpc.connect_stream(ours) as client:
        assert await client.proxy(Echo, name="Renamed").echo("x") == "x"
        assert await client.proxy("Renamed").echo(value="x") == "x"
        (connection,) = handle.connections
        assert connection.calls == ()
        with pytest.raises(trpc.MethodNotFound):
            await client.proxy(Echo).echo("x")


async def test_several_services_metadata_and_the_current_call(nursery):
    server = await nursery.start(trpc.serve_tcp, [Echo(), Other()], 0)
    with pytest.raises(RuntimeError, match="only inside a method"):
        trpc.current_call()
    async with trpc.connect(server.url) as client:
        other = client.proxy(Other)
        assert await other.where() == "Other.where {}"
        with trpc.metadata(tenant="a", n=1):
            with trpc.metadata(n=2):
                assert await other.where() == "Other.where {'tenant': 'a', 'n': 2}"
            assert await other.where() == "Other.where {'tenant': 'a', 'n': 1}"
            assert await other.relay(server.url, False) == "Other.where {}", "one hop, unless asked"
            assert await other.relay(server.url, True) == "Other.where {'tenant': 'a', 'n': 1}"
        assert await other.where() == "Other.where {}"
        with pytest.raises(TypeError, match="metadata 'x' must be"), trpc.metadata(x=[1]):
            pass


async def test_ping_and_notify(nursery):
    noted = []
    received = trio.Event()

    class Notes:
        @trpc.method
        async def note(self, text: str) -> None:
            noted.append(text)
            received.set()

    server = await nursery.start(trpc.serve_tcp, Notes(), 0)
    async with trpc.connect(server.url) as client:
        assert 0 < await client.ping() < 30
        await client.notify("Notes.note", text="x")
        await received.wait()
    assert noted == ["x"]
    assert "127.0.0.1" in str(client.peer)


async def test_replies_come_in_any_order(nursery):
    gates = {n: trio.Event() for n in range(10)}

    class Gates:
        @trpc.method
        async def wait(self, n: int) -> int:
            await gates[n].wait()
            return n

    server = await nursery.start(trpc.serve_tcp, Gates(), 0)
    order = []
    async with trpc.connect(server.url) as client:

        async def one(n):
            order.append(await client.proxy(Gates).wait(n))

        async with trio.open_nursery() as calls:
            for n in range(10):
                calls.start_soon(one, n)
            for n in reversed(range(10)):
                # Until all are there, and then until the last one let go is back.
                while len(server.calls) != n + 1 or len(order) != 9 - n:
                    await trio.lowlevel.checkpoint()
                gates[n].set()
    assert order == list(reversed(range(10)))


async def test_a_mistake_of_the_librarys_own_ends_one_connection_only(nursery, monkeypatch, caplog):
    async def fail(self):
        raise AssertionError("a bug")

    server = await nursery.start(trpc.serve_tcp, Echo(), 0)
    with monkeypatch.context() as patch:
        patch.setattr("trpc._connection.Connection._greet", fail)
        async with await trio.open_tcp_stream("127.0.0.1", int(server.url.rsplit(":", 1)[1])) as stream:
            while await stream.receive_some():
                pass  # the hello had left already
        # It says so when all of it has ended, and the socket is closed a moment earlier.
        with trio.fail_after(5):
            while server.connections:
                await trio.lowlevel.checkpoint()
    assert "internal error in the connection" in caplog.text
    caplog.clear()
    assert await call_once(server.url)


async def test_keys_that_travel_as_text_and_arguments_that_do_not_fit(nursery):
    class Keys:
        @trpc.method
        async def swap(
            self, table: dict[int, str], note: Any = None, *, times: dict[float, int] | None = None
        ) -> dict[str, int]:
            return {value: key for key, value in table.items()}

    server = await nursery.start(trpc.serve_tcp, Keys(), 0)
    async with trpc.connect(server.url) as client:
        keys = client.proxy(Keys)
        assert await keys.swap({1: "a"}, {"b": 2}, times={0.5: 1}) == {"a": 1}
        with pytest.raises(trpc.InvalidArguments, match="argument 'note' cannot be sent: a dictionary's keys must be"):
            await keys.swap({1: "a"}, {2: "b"})
        with pytest.raises(trpc.InvalidArguments, match="missing a required argument: 'table'"):
            await keys.swap(times={0.5: 1})
        with pytest.raises(trpc.InvalidArguments, match="argument 'table' cannot be sent: two keys"):
            await keys.swap({1: "a", "1": "b"})
        with pytest.raises(trpc.InvalidArguments, match="argument 1 cannot be sent: a dictionary's keys must be"):
            await client.call("Keys.swap", {1: "a"})


# --- mistakes ---


@pytest.mark.parametrize("port", ["80", 80.0, None, True])
async def test_a_port_that_is_no_integer(port):
    with pytest.raises(TypeError, match="a port is an integer"):
        await trpc.serve_tcp(Echo(), port)


async def test_a_proxy_is_no_service():
    async with trpc.connect_stream(trio.testing.memory_stream_pair()[0]) as client:
        with pytest.raises(TypeError, match="has no methods that a peer may call"):
            await trpc.serve_tcp({"Echo": client.proxy(Echo)}, 0)


async def test_a_method_that_never_returns_may_say_so(nursery):
    class Forever:
        @trpc.method
        async def run(self) -> NoReturn:
            await trio.sleep_forever()

        @trpc.method
        async def fail(self) -> Never:
            raise ValueError("x")

    server = await nursery.start(trpc.serve_tcp, Forever(), 0)
    async with trpc.connect(server.url) as client:
        with pytest.raises(ValueError, match="^x$"):
            await client.proxy(Forever).fail()


@pytest.mark.parametrize("port", [-1, 65536, 1_000_000])
async def test_port_out_of_range(port):
    with pytest.raises(ValueError, match=f"port {port} is not from 0 to 65535"):
        await trpc.serve_tcp(Echo(), port)


async def test_port_in_use(nursery):
    server = await nursery.start(trpc.serve_tcp, Echo(), 0)
    port = int(server.url.rsplit(":", 1)[1])
    with pytest.raises(OSError, match=rf"port {port} on 127.0.0.1 is in use: .*`ss -ltnp 'sport = :{port}'`") as error:
        await trpc.serve_tcp(Echo(), port)
    assert error.value.errno == errno.EADDRINUSE
    assert await call_once(server.url)


async def test_privileged_port(monkeypatch):
    async def refuse(*_args, **_kwargs):
        raise PermissionError(errno.EACCES, "Permission denied")

    # Whether a low port is refused depends on the user and the kernel's settings.
    monkeypatch.setattr(trio, "open_tcp_listeners", refuse)
    with pytest.raises(PermissionError, match="port 80: ports below 1024 need privileges"):
        await trpc.serve_tcp(Echo(), 80)


async def test_a_host_that_is_not_ours():
    with pytest.raises(OSError, match="is not an address of this machine"):
        await trpc.serve_tcp(Echo(), 0, host="192.0.2.1")


@pytest.mark.parametrize(
    ("url", "match"),
    [
        (
            "http://localhost:80",
            "scheme 'http', which is not known; use tcp://host:port, tls://host:port or unix:///path",
        ),
        ("localhost:8000", "scheme 'localhost'"),
        ("nonsense", "scheme ''"),
        ("tcp://localhost", "not of the form tcp://host:port"),
        ("tcp://:80", "not of the form"),
        ("tcp://localhost:0", "with a port from 1 to 65535"),
        ("tcp://localhost:65536", "with a port from 1 to 65535"),
        ("tcp://localhost:x", "with a port from 1 to 65535"),
        ("tcp://localhost:1/path", "not of the form"),
        ("tcp://a..b:80", "no possible host name"),
        ("unix://relative/path", "three slashes"),
        ("unix://", "three slashes"),
    ],
)
async def test_urls_that_are_wrong(url, match):
    with pytest.raises(ValueError, match=match):
        async with trpc.connect(url):
            pass


async def test_nobody_there(tmp_path):
    with trio.socket.socket() as unused:
        await unused.bind(("127.0.0.1", 0))
        url = f"tcp://127.0.0.1:{unused.getsockname()[1]}"
        with pytest.raises(trpc.Unavailable, match=f"nothing listens at {url}: is the server running") as error:
            async with trpc.connect(url):
                pass
        assert isinstance(error.value, ConnectionRefusedError)
    with pytest.raises(trpc.Unavailable, match="nothing listens at unix://"):
        async with trpc.connect(f"unix://{tmp_path}/none.sock"):
            pass
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(trpc.Unavailable):
        async with trpc.connect(f"unix://{file}"):
            pass
    with pytest.raises(trpc.Unavailable, match="cannot connect to") as unresolved:
        async with trpc.connect("tcp://host.invalid:80"):
            pass
    assert isinstance(unresolved.value, OSError)


async def test_options_that_are_wrong():
    with pytest.raises(ValueError, match="cancel_grace"):
        trpc.connect("tcp://127.0.0.1:1", cancel_grace=-1)
    with pytest.raises(ValueError, match="cancel_grace"):
        trpc.connect("tcp://127.0.0.1:1", cancel_grace=float("nan"))
    with pytest.raises(ValueError, match="max_calls must be positive"):
        trpc.Limits(max_calls=0)
    async with trpc.connect_stream(trio.testing.memory_stream_pair()[0]) as client:
        with pytest.raises(TypeError, match="from a class or a service's name"):
            client.proxy(Echo())


@pytest.mark.parametrize(
    ("services", "error", "match"),
    [
        (object(), TypeError, "object has no methods that a peer may call: put @trpc.method"),
        (Echo, TypeError, r"pass Echo\(\)"),
        ([Echo(), Echo()], ValueError, "two services have the name 'Echo'"),
        ([], TypeError, "no service"),
        ({"": Echo()}, ValueError, "name"),
        ({3: Echo()}, ValueError, "name"),
    ],
)
async def test_services_that_cannot_be_served(services, error, match):
    with pytest.raises(error, match=match):
        await trpc.serve_tcp(services, 0)


async def test_an_unsupported_hint_is_named_at_registration():
    class Thing:
        pass

    class Bad:
        @trpc.method
        async def take(self, thing: Thing) -> None: ...

    Bad.take.__annotations__.update(thing=Thing)
    with pytest.raises(TypeError, match=r"Bad.take: the type hint `.*Thing` of parameter 'thing' cannot be sent"):
        await trpc.serve_tcp(Bad(), 0)
    async with trpc.connect_stream(trio.testing.memory_stream_pair()[0]) as client:
        with pytest.raises(TypeError, match="Bad.take: the type hint"):
            client.proxy(Bad)


async def test_an_undecorated_method_through_a_proxy(nursery):
    class Half:
        @trpc.method
        async def one(self) -> None: ...

        async def two(self) -> None: ...

    async with trpc.connect_stream(trio.testing.memory_stream_pair()[0]) as client:
        with pytest.raises(AttributeError, match="Half.two is not marked with @trpc.method"):
            assert client.proxy(Half).two
        with pytest.raises(AttributeError, match="private"):
            assert client.proxy("Half")._two


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="counts in /proc")
async def test_no_descriptor_is_left():
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        async with trio.open_nursery() as nursery:
            server = await nursery.start(trpc.serve_tcp, Echo(), 0)
            await call_once(server.url)
            nursery.cancel_scope.cancel()
    assert len(os.listdir("/proc/self/fd")) == before
