"""``trpc serve``, with real processes."""

import contextlib
import os
import signal
import socket
import subprocess
from types import MappingProxyType

import pytest
import trustme
from cli.running import error_of, invoke
from cli.terminal import TRPC, ends_with_parent, environment, in_terminal

from trpc.__main__ import main


@contextlib.contextmanager
def served(*args, variables=MappingProxyType({}), **options):
    """A server without a terminal: gives its process and its URL."""
    process = subprocess.Popen(
        [*TRPC, "serve", *args],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(**variables),
        text=True,
        preexec_fn=ends_with_parent,
        **options,
    )
    try:
        yield process, process.stdout.readline().strip()
    finally:
        process.kill()
        process.communicate()


def test_what_it_prints():
    with served("cli.services:all_services") as (process, url):
        process.send_signal(signal.SIGTERM)
        output, errors = process.communicate(timeout=60)
        assert output == ""
        assert errors == f"serving Shop, Streams, Trouble at {url}\n"
        assert process.returncode == 0
    with in_terminal("serve", "cli.services:Shop") as terminal:
        terminal.wait_for("\n")
        terminal.type("\x03")
        assert terminal.end() == 0
    assert terminal.text.startswith("serving Shop at tcp://127.0.0.1:")
    assert terminal.text.count("tcp://") == 1


def test_calls_in_flight_are_finished(tmp_path):
    notes = tmp_path / "notes"
    os.mkfifo(notes)
    with served("cli.services:all_services", "--grace", "50ms") as (process, url):
        with in_terminal("call", url, "Trouble.wait", str(notes)) as call:
            # A pipe, which waits for the handler that writes to it.
            assert notes.read_text() == "begun\n"
            process.send_signal(signal.SIGINT)
            assert notes.read_text() == "ended\n"
            assert call.end() == 3
        assert process.wait(60) == 0


def test_token(monkeypatch):
    monkeypatch.delenv("TRPC_TOKEN", raising=False)
    with served("cli.services:Shop", "--token", "secret", "--log-calls", "--tracebacks") as (process, url):
        assert "--token or TRPC_TOKEN" in error_of(invoke("call", url, "Shop.echo", "1"), 3)
        assert invoke("call", url, "Shop.echo", "1", "--token", "secret").output == "1\n"
        assert "--token" in error_of(invoke("list", url, "--token", "wrong"), 3)
        monkeypatch.setenv("TRPC_TOKEN", "secret")
        assert invoke("list", url).code == 0
        done = invoke("call", url, "Shop.describe", '{"name": "a", "price": "NaN"}', "--traceback")
        assert done.code == 0
        process.send_signal(signal.SIGTERM)
        assert "Shop.echo from 127.0.0.1:" in process.communicate(timeout=60)[1]


def test_tracebacks():
    with served("cli.services:all_services", "--tracebacks") as (_, url):
        done = invoke("call", url, "Streams.fail", "--traceback")
    assert done.errors.endswith("trpc: KeyError: 'key'\n")
    assert 'raise KeyError("key")' in done.errors


def test_tls(tmp_path):
    ca = trustme.CA()
    ca.cert_pem.write_to_path(str(tmp_path / "ca"))
    ca.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "server"))
    client = ca.issue_cert("client")
    client.cert_chain_pems[0].write_to_path(str(tmp_path / "cert"))
    client.private_key_pem.write_to_path(str(tmp_path / "key"))
    tls = ["--tls-cert", tmp_path / "server", "--client-ca", tmp_path / "ca"]
    with served("cli.services:Shop", "--url", "tls://127.0.0.1:0", *map(str, tls)) as (_, url):
        assert url.startswith("tls://127.0.0.1:")
        shown = ["--tls-ca", tmp_path / "ca", "--tls-cert", tmp_path / "cert", "--tls-key", tmp_path / "key"]
        assert invoke("call", url, "Shop.echo", "1", *shown).output == "1\n"
        for target, options, reason in (
            (url, [], "certificate"),
            (url, shown[:2], "certificate"),
            (url.replace("tls", "tcp"), [], "is it with TLS"),
        ):
            done = invoke("call", target, "Shop.echo", "1", *options)
            assert done.code == 3
            assert reason in done.errors.splitlines()[-1]


def test_unix_socket(tmp_path):
    url = f"unix://{tmp_path}/a%20socket"
    with served("cli.services:Shop", "--url", url) as (process, shown):
        assert shown == f"unix://{tmp_path}/a socket"
        assert invoke("call", url, "Shop.echo", "1").output == "1\n"
        assert "(pid " in invoke("top", url).output
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    assert not (tmp_path / "a socket").exists()


def test_insecure():
    with served("cli.services:Shop", "--url", "tcp://0.0.0.0:0") as (process, url):
        assert "the server does not tell" in error_of(invoke("list", url.replace("0.0.0.0", "127.0.0.1")))
        process.send_signal(signal.SIGTERM)
        errors = process.communicate(timeout=60)[1]
        assert errors.startswith("trpc: warning: the server listens on 0.0.0.0, without TLS and authentication")
        assert "--allow-insecure" in errors
    with served("cli.services:Shop", "--url", "tcp://0.0.0.0:0", "--allow-insecure", "--reflection") as (process, url):
        assert invoke("list", url.replace("0.0.0.0", "127.0.0.1")).code == 0
        process.send_signal(signal.SIGTERM)
        assert process.communicate(timeout=60)[1].startswith("serving")


@pytest.mark.parametrize(
    ("target", "error"),
    [
        ("nowhere", "'nowhere' is not of the form module:Name (such as shop.service:Orders)"),
        (
            "./no/where.py:X",
            "'./no/where.py' is the path of a file, and not the name of a module (did you mean no.where:X?)",
        ),
        (f"{__file__}:X", f"{__file__!r} is the path of a file, and not the name of a module (such as "),
        ("cli.services:note_later", "cli.services:note_later is an async function (name an object, "),
        ("no.where:X", "there is no module 'no' (looked in "),
        ("cli.nowhere:X", "there is no module 'cli.nowhere'"),
        ("cli.services:Shap", "there is no 'Shap' in cli.services (did you mean Shop?)"),
        ("cli.services:Shop.inner", "there is no 'inner' in cli.services.Shop"),
        ("cli.services:note", "cli.services:note cannot be called without arguments: missing a required argument"),
        ("cli.services:os", "module has no methods that a peer may call"),
        ("cli.services:Item", "cli.services:Item cannot be called without arguments"),
    ],
)
def test_targets_that_are_wrong(target, error):
    assert error_of(invoke("serve", target)).startswith(error)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        (["--url", "http://x"], "'http://x' is nowhere to listen (tcp://host:port, "),
        (["--url", "tcp://x:y"], "'tcp://x:y' is not a URL: "),
        (["--url", "tcp://:1"], "'tcp://:1' is not of the form tcp://host:port (0.0.0.0 is"),
        (["--url", "tcp://1.2.3.4:0"], "'1.2.3.4' is not an address of this machine"),
        (["--url", "tls://127.0.0.1:0"], "TLS needs a certificate (--tls-cert FILE"),
        (["--tls-cert", "x"], "a certificate is for TLS, which this URL is without"),
        (["--url", "tls://127.0.0.1:0", "--tls-cert", "/nowhere"], "cannot load /nowhere: No such file"),
        (["--url", "unix:///nowhere/socket"], "cannot listen on the Unix socket '/nowhere/socket'"),
        (["--url", "tcp://1.2.3.4:0", "--reload"], "cannot listen on 1.2.3.4:0: Cannot assign requested address"),
        (["--url", "tls://127.0.0.1:0", "--reload"], "TLS needs a certificate (--tls-cert FILE"),
        (["--token", ""], "the token is empty"),
        (["--token", "", "--reload"], "the token is empty"),
    ],
)
def test_options_that_are_wrong(options, error):
    assert error_of(invoke("serve", "cli.services:Shop", *options)).startswith(error)


@pytest.mark.parametrize("options", [[], ["--reload"]])
def test_an_empty_variable_is_no_token(options, monkeypatch):
    """It is a mistake, and would let in everybody."""
    monkeypatch.setenv("TRPC_TOKEN", "")
    assert error_of(invoke("serve", "cli.services:Shop", *options)).startswith("the token is empty")
    # One that is given takes its place.
    assert "no module" in error_of(invoke("serve", "nowhere:X", "--token", "t", *options))


@pytest.mark.parametrize("target", ["bogus", "no.where:X", "./no.py:X"])
def test_reload_of_what_no_change_can_mend(target):
    plain = error_of(invoke("serve", target))
    assert error_of(invoke("serve", target, "--reload")) == plain


def test_ctrl_c_while_the_program_is_imported(monkeypatch, capsys):
    def interrupted():
        raise KeyboardInterrupt

    monkeypatch.setattr("trpc._cli._app.run_app", interrupted)
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 130
    assert capsys.readouterr().err == "trpc: cancelled\n"


def test_a_port_in_use():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for more in ([], ["--reload"]):
            done = invoke("serve", "cli.services:Shop", "--url", f"tcp://127.0.0.1:{port}", *more)
            assert "in use" in (error := error_of(done))
            assert f"`ss -ltnp 'sport = :{port}'` shows which" in error


SERVICE = """
import trpc

class Answers:
    @trpc.method
    async def answer(self) -> int:
        return {}
"""


def wait_for_line(process, text):
    """Reads what the process says, up to a line with this text."""
    while text not in (line := process.stderr.readline()):
        assert line, f"it has ended, and has not said {text!r}"


def answer_becomes(process, url, wanted, path, text):
    """Writes the file, and waits until the server is another one."""
    path.write_text(text)
    wait_for_line(process, "serving ")
    # It may be started twice, if it saw the file while it was written.
    while invoke("call", url, "Answers.answer").output != wanted:
        wait_for_line(process, "serving ")


@pytest.mark.parametrize("url", ["tcp://localhost:0", "unix://{}/socket"])
def test_reload(tmp_path, url):
    file = tmp_path / "answers.py"
    file.write_text(SERVICE.format(1))
    where = url.format(tmp_path)
    with served(
        "answers:Answers", "--reload", "--url", where, "--token", "t", "--grace", "0.01ms", "--reflection", cwd=tmp_path
    ) as (
        process,
        url,
    ):
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("TRPC_TOKEN", "t")
            wait_for_line(process, "serving ")
            assert invoke("call", url, "Answers.answer").output == "1\n"
            answer_becomes(process, url, "2\n", file, SERVICE.format(2))
            file.write_text("this is no Python")
            wait_for_line(process, "waiting for a change")
            answer_becomes(process, url, "3\n", file, SERVICE.format(3))
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0


def test_reload_ends_with_the_process_that_starts_it(tmp_path):
    (tmp_path / "answers.py").write_text(SERVICE.format(1))
    with served("answers:Answers", "--reload", cwd=tmp_path) as (process, url):
        assert invoke("call", url, "Answers.answer").output == "1\n"
        process.kill()
        # The server has it, too.
        assert process.stdout.read() == ""
        assert invoke("call", url, "Answers.answer").code == 3
