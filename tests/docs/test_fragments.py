"""The fragments of programs in the documentation do what the page says of them."""

from __future__ import annotations

import os
import shlex
import signal
import ssl
import subprocess
import sys
import types
from functools import partial

import pytest
import trio
from certificates import client_context, server_context

import trpc
from tests.docs.pages import DOCS, blocks_of
from tests.docs.stage import Calculator, Stage, fragments, run

# What is on these pages is held by tests beside them.
ELSEWHERE = {"testing.md", "command-line.md", "comparison.md", "from-grpc.md", "from-rpyc.md", "from-pyro.md"}
checked: dict[str, set[int]] = {}


def fragment(page, number):
    """Hands the test the text of a page's fragment: the first is 1."""

    def decorate(test):
        checked.setdefault(page, set()).add(number)
        return pytest.mark.parametrize(
            "source", [pytest.param(fragments(page)[number - 1].text, id=f"{page}-{number}")]
        )(test)

    return decorate


def test_every_fragment_is_checked():
    there = {path.name: len(fragments(path.name)) for path in DOCS.glob("*.md") if path.name not in ELSEWHERE}
    assert checked == {name: set(range(1, number + 1)) for name, number in there.items() if number}


def test_files_on_pages_are_used():
    """By a test that writes them down and runs them."""
    with_files = {
        path.name
        for path in DOCS.glob("*.md")
        if any(block.caption.partition(", ")[0].endswith(".py") for block in blocks_of(path))
    }
    assert with_files - ELSEWHERE == {"scripts.md", "systemd.md", "tutorial.md"}


@pytest.fixture
def stage(tmp_path):
    return Stage(tmp_path)


# --- authentication ---


@fragment("authentication.md", 1)
async def test_authenticate_by_token(source, stage, nursery, capsys):
    nursery.start_soon(
        partial(run, source, trpc=stage.trpc, TOKENS={"ann": "secret"}, context=server_context("127.0.0.1"))
    )
    await stage.started.wait()
    stage.client_context = client_context()
    _, client, *_ = (block.text for block in fragments("authentication.md"))
    await run(client, trpc=stage.trpc, token="secret")
    assert capsys.readouterr().out == "3.0\n"
    with pytest.raises(trpc.Unauthenticated):
        await run(client, trpc=stage.trpc, token="other")


checked["authentication.md"].add(2)


@fragment("authentication.md", 3)
async def test_where_a_token_comes_from(source, tmp_path, monkeypatch):
    (tmp_path / "calc-token").write_text("from a file\n")
    monkeypatch.setenv("CALC_TOKEN", "from the environment")
    first, second = source.splitlines()
    assert (await run(first.replace("/run/secrets", str(tmp_path)))).token == "from a file"
    assert (await run(second)).token == "from the environment"


@fragment("authentication.md", 4)
async def test_authenticate_by_certificate(source):
    module = await run(source)
    shown = partial(trpc.Credentials, token=None, unix=None, address="127.0.0.1:1")
    assert module.authenticate(shown(certificate=None)) is None
    assert (
        module.authenticate(shown(certificate={"subjectAltName": (("email", "ann@example.org"),)})) == "ann@example.org"
    )
    assert module.authenticate(shown(certificate={"subjectAltName": (("DNS", "ann.example.org"),)})) is None


@fragment("authentication.md", 5)
async def test_authenticate_by_user(source, stage, nursery):
    nursery.start_soon(partial(run, source, trpc=stage.trpc))
    await stage.started.wait()
    async with trpc.connect(stage.server.url) as client:
        assert await client.proxy(Calculator).add(1, 2) == 3
        assert client.peer.unix.uid == os.getuid()


@fragment("authentication.md", 6)
async def test_authorize(source):
    module = await run(source, ADMINS={"ann"})
    ann, bob = (trpc.Peer("127.0.0.1:1", identity=name) for name in ("ann", "bob"))
    assert [module.authorize(peer, "Admin.stop") for peer in (ann, bob)] == [True, False]
    assert module.authorize(bob, "Calculator.add")


# --- TLS ---


@pytest.fixture(scope="module")
def with_certificates(tmp_path_factory):
    """A folder in which somebody has typed what the page says."""
    (commands,) = (block.text for block in blocks_of(DOCS / "tls.md") if block.language == "sh")
    folder = tmp_path_factory.mktemp("certificates")
    # The test's client connects to loopback.
    commands = commands.replace("IP:10.0.0.7", "IP:127.0.0.1")
    subprocess.run(["bash", "-euc", commands], cwd=folder, check=True, capture_output=True)
    return folder


@fragment("tls.md", 1)
async def test_tls(source, stage, nursery, with_certificates, monkeypatch, capsys):
    monkeypatch.chdir(with_certificates)
    module = await run(source, trpc=stage.trpc)
    module.trpc = stage.trpc
    nursery.start_soon(module.serve)
    await stage.started.wait()
    await module.call()
    assert capsys.readouterr().out == "3.0\n"


@fragment("tls.md", 2)
async def test_trustme(source, nursery):
    module = await run(source)
    server = await nursery.start(partial(trpc.serve_tcp, Calculator(), 0, ssl_context=module.server_context))
    async with trpc.connect(server.url, ssl_context=module.client_context) as client:
        assert await client.proxy(Calculator).add(1, 2) == 3


@fragment("tls.md", 3)
async def test_certificates_of_clients(source, nursery, with_certificates, monkeypatch):
    monkeypatch.chdir(with_certificates)
    server_side = (await run(source)).context
    server = await nursery.start(partial(trpc.serve_tcp, Calculator(), 0, ssl_context=server_side))
    context = ssl.create_default_context(cafile="ca.pem")
    with pytest.raises(trpc.ConnectionLost, match="certificate required"):
        async with trpc.connect(server.url, ssl_context=context) as client:
            await client.ping()
    context.load_cert_chain("ann.pem", "ann.key")
    async with trpc.connect(server.url, ssl_context=context) as client:
        assert await client.proxy(Calculator).add(1, 2) == 3


@fragment("tls.md", 4)
async def test_certificates_that_are_renewed(source, nursery):
    loaded = trio.Event()
    context = types.SimpleNamespace(load_cert_chain=lambda *_: loaded.set())
    nursery.start_soon((await run(source)).reload_on_hangup, context)
    # Until it receives the signal, which would end this process.
    while signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:
        await trio.lowlevel.checkpoint()
    os.kill(os.getpid(), signal.SIGHUP)
    await loaded.wait()
    nursery.cancel_scope.cancel()


# --- others ---


@fragment("errors.md", 1)
async def test_a_registered_exception(source, nursery):
    module = await run(source)

    class Printer:
        @trpc.method
        async def print_all(self, files: list[str]) -> None:
            async with trio.open_nursery():
                raise module.OutOfPaper("empty", 2)

    server = await nursery.start(trpc.serve_tcp, Printer(), 0)
    async with trpc.connect(server.url) as client:
        caught = await run(
            fragments("errors.md")[1].text.replace("...", "seen = group", 1),
            client=client,
            files=[],
            OutOfPaper=module.OutOfPaper,
        )
    (error,) = caught.seen.exceptions
    assert isinstance(error, module.OutOfPaper)
    assert error.tray == 2


checked["errors.md"].add(2)


@fragment("interceptors.md", 1)
async def test_an_interceptor_that_does_nothing(source, nursery):
    module = await run(source)
    server = await nursery.start(partial(trpc.serve_tcp, Calculator(), 0, interceptors=[module.interceptor]))
    async with trpc.connect(server.url) as client:
        assert await client.proxy(Calculator).add(1, 2) == 3


@fragment("logging.md", 1)
async def test_log_of_calls(source, nursery, caplog):
    caplog.set_level("DEBUG", "trpc.calls")
    module = await run(source.replace("4000", "0"), Stock=Calculator, nursery=nursery)
    async with trpc.connect(module.server.url) as client:
        await client.proxy(Calculator).add(1, 2)
    assert [record.getMessage().split(" from ")[0] for record in caplog.records if record.name == "trpc.calls"] == [
        "Calculator.add"
    ]


@fragment("logging.md", 2)
def test_configuration_of_logging(source, tmp_path):
    program = f"{source}\nlogging.getLogger('trpc.calls').debug('a call')\nlogging.getLogger('trpc').warning('peer')\n"
    # It is for the whole process.
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert result.stderr.endswith("WARNING trpc: peer\n")
    assert (tmp_path / "calls.log").read_text().endswith("DEBUG trpc.calls: a call\n")


@fragment("memory.md", 1)
async def test_limits(source):
    await run(source)


@fragment("shutdown.md", 1)
async def test_a_stream_that_watches_draining(source, nursery, autojump_clock):
    module = await run(source)
    ticker = type("Ticker", (), {"ticks": module.ticks})()
    server = await nursery.start(trpc.serve_tcp, ticker, 0)
    async with trpc.connect(server.url) as client, client.stream("Ticker.ticks") as ticks:
        assert await ticks.receive() == 0
        nursery.start_soon(server.drain)
        rest = [tick async for tick in ticks]
    assert rest == list(range(1, len(rest) + 1))


@fragment("reflection.md", 1)
async def test_who_sees_what_goes_on(source, stage, nursery):
    who = {"a": "ann", "b": "bob"}
    names = {"ADMINS": {"ann"}, "Stock": Calculator, "authenticate": lambda credentials: who.get(credentials.token)}
    nursery.start_soon(partial(run, source, trpc=stage.trpc, **names))
    await stage.started.wait()
    async with trpc.connect(stage.server.url, token="a") as client:
        assert (await client.proxy(trpc.Reflection).activity())["connections"] == 1
    async with trpc.connect(stage.server.url, token="b") as client:
        assert await client.proxy(trpc.Reflection).services()
        with pytest.raises(trpc.Unauthenticated):
            await client.proxy(trpc.Reflection).activity()


# --- shells ---


def shell_blocks():
    for path in sorted(DOCS.glob("*.md")):
        for block in blocks_of(path):
            if block.language in {"sh", "shell"}:
                yield pytest.param(block.text, id=block.where)


@pytest.mark.parametrize("text", list(shell_blocks()))
def test_shell_blocks_are_ones(text):
    """That they are no nonsense; those that can be run anywhere are run by other tests."""
    subprocess.run(["bash", "-nc", text], check=True)
    for line in text.replace("\\\n", " ").splitlines():
        if line and not line.startswith("#"):
            assert shlex.split(line)
