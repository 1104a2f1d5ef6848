"""What people see: in a terminal of its own, with real processes."""

import os
import re
import signal
import socket
import subprocess
import sys
import threading

import pytest
from cli.running import invoke
from cli.terminal import ROOT, TRPC, environment, in_terminal

COLOR = "\x1b[3"


def poll(path, wanted):
    """Waits for a handler to have written that to its file."""
    while not path.exists() or path.read_text() != wanted:
        os.sched_yield()


def test_colors_in_a_terminal_only(url):
    with in_terminal("list", url, "Streams") as terminal:
        assert terminal.end() == 0
    assert COLOR in terminal.text
    with in_terminal("list", url, "Streams", NO_COLOR="1") as terminal:
        assert terminal.end() == 0
    assert COLOR not in terminal.text
    assert "count(stop: int = -1)" in terminal.text
    assert "\x1b" not in invoke("list", url).output


def test_what_others_have_written_drives_no_terminal(url):
    with in_terminal("call", url, "Shop.echo", r'value:="\u001b[31m\u202e"') as terminal:
        assert terminal.end() == 0
    assert terminal.text == "\\x1b[31m\\u202e\n"
    with in_terminal("call", url, "Shop.load", "1", NO_COLOR="1") as terminal:
        assert terminal.end() == 0
    assert terminal.text == "b'\\x1b[31m'\n"


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_cancels_the_call(url, tmp_path, number, code):
    notes = tmp_path / "notes"
    with in_terminal("call", url, "Trouble.wait", str(notes)) as terminal:
        poll(notes, "begun\n")
        terminal.process.send_signal(number)
        assert terminal.end() == code
    assert terminal.text.endswith("trpc: cancelled: the handler has ended\n")
    assert notes.read_text() == "begun\nended\n"


def test_ctrl_c_while_it_reads_the_terminal(url):
    with in_terminal("call", url, "Streams.double", "-") as terminal:
        terminal.type("21\n")
        terminal.wait_for("42")
        terminal.type("\x03")
        assert terminal.end() == 130
    assert "cancelled: the handler has ended" in terminal.text


def test_end_of_what_is_typed(url):
    with in_terminal("call", url, "Streams.total", "-", NO_COLOR="1") as terminal:
        terminal.type("1\n2\n\x04")
        assert terminal.end() == 0
    assert terminal.text.splitlines()[-1].endswith("3.0\x1b[0m")


def test_ctrl_c_during_a_stream(url):
    with in_terminal("call", url, "Streams.count") as terminal:
        terminal.wait_for("100")
        terminal.type("\x03")
        assert terminal.end() == 130


def test_second_ctrl_c_ends_it_at_once(url, tmp_path):
    end = tmp_path / "end"
    with in_terminal("call", url, "Trouble.stay", str(end), "--timeout", "1h") as terminal:
        with in_terminal("top", url, "--json") as top:
            top.wait_for("Trouble.stay")
        terminal.type("\x03")
        terminal.wait_for("trpc: waiting for the handler to end (Ctrl-C again does not wait)")
        terminal.type("\x03")
        # Which a shell shows as 130.
        assert terminal.end() == -signal.SIGINT
    end.touch()


def test_a_handler_that_takes_its_time(url, tmp_path):
    end = tmp_path / "end"
    with in_terminal("call", url, "Trouble.stay", str(end), "--timeout", "1h") as terminal:
        with in_terminal("top", url, "--json") as top:
            top.wait_for("Trouble.stay")
        terminal.process.send_signal(signal.SIGTERM)
        terminal.wait_for("waiting for the handler")
        end.touch()
        # It has returned, in spite of all, and so the call is done.
        assert terminal.end() == 0
    assert terminal.text.endswith("trpc: it was done before it could be cancelled\n")


def test_a_timeout_of_a_handler_that_takes_its_time(url, tmp_path):
    end = tmp_path / "end"
    late = "trpc: timeout, waiting for the handler to end (Ctrl-C does not wait)"
    with (
        in_terminal("call", url, "Trouble.stay", str(end), "--timeout", "100ms") as patient,
        in_terminal("call", url, "Trouble.stay", str(end), "--timeout", "100ms") as hasty,
    ):
        hasty.wait_for(late)
        hasty.type("\x03")
        assert hasty.end() == -signal.SIGINT
        patient.wait_for(late)
        end.touch()
        assert patient.end() == 0
    assert patient.text.endswith("trpc: it was done before it could be cancelled\n")


def test_a_large_result_is_not_laid_out(url, tmp_path):
    file = tmp_path / "file"
    file.write_text(str(list(range(20_000))))
    with in_terminal("call", url, "Shop.echo", f"@{file}") as terminal:
        assert terminal.end() == 0
    assert terminal.text == file.read_text() + "\n"
    file.write_text("a\x1b" * 20_000)
    with in_terminal("call", url, "Shop.echo", f"@{file}") as terminal:
        assert terminal.end() == 0
    assert terminal.text == "a\\x1b" * 20_000 + "\n"


def test_ctrl_c_while_a_result_is_printed(url):
    with subprocess.Popen(
        [*TRPC, "call", url, "Shop.load", "200000"],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout.read(1)
        process.send_signal(signal.SIGINT)
        assert process.stderr.read() == b"trpc: cancelled: the call was done, and not all of its result is printed\n"
    assert process.returncode == 130


def test_ping_until_ctrl_c(url):
    with in_terminal("ping", url, "-i", "10ms") as terminal:
        terminal.wait_for("seq=3")
        terminal.type("\x03")
        assert terminal.end() == 0
    assert " received, 0 lost\nmin " in terminal.text


def test_top_is_live_until_q(url, tmp_path):
    notes = tmp_path / "notes"
    with in_terminal("call", url, "Trouble.wait", str(notes), "--timeout", "1h") as call:
        poll(notes, "begun\n")
        with in_terminal("top", url, "-i", "20ms", height=10) as terminal:
            terminal.wait_for("Trouble.wait", terminal.wait_for("Trouble.wait"))
            assert "59m" in terminal.text
            terminal.type("xq")
            assert terminal.end() == 0
        assert "\x1b[?1049l" in terminal.text
        with in_terminal("top", url) as terminal:
            terminal.wait_for("Trouble.wait")
            terminal.type("\x03")
            assert terminal.end() == 0
        with in_terminal("top", url, "--once", NO_COLOR="1") as terminal:
            assert terminal.end() == 0
        assert "\x1b[?" not in terminal.text
        assert "Trouble.wait" in terminal.text
        call.type("\x03")
        assert call.end() == 130


def test_bench_is_live_until_ctrl_c(url):
    with in_terminal("bench", url, "Shop.echo", "1", "--duration", "1h") as terminal:
        terminal.wait_for("calls/s")
        terminal.type("\x03")
        assert terminal.end() == 130
    assert " calls of Shop.echo in " in terminal.text
    assert "█" in terminal.text
    assert terminal.text.endswith("trpc: cancelled\n")


def test_bench_of_a_server_that_dies():
    with in_terminal("serve", "cli.services:all_services") as server:
        server.wait_for("\n")
        with in_terminal("bench", server.text.split()[-1], "Shop.echo", "1", "--duration", "1h") as terminal:
            terminal.wait_for("calls/s")
            server.process.kill()
            assert terminal.end() == 3
    assert " calls of Shop.echo in " in terminal.text
    assert " failed: ConnectionLost" in terminal.text
    # Of all of its calls together, that one may have been executed is no news.
    assert re.search(r"\ntrpc: connection to \S+ lost: [^()\n]+\n$", terminal.text)


def test_bench_before_a_call_has_ended(url):
    with in_terminal("bench", url, "Trouble.wait", "--concurrency", "1", "--duration", "1h") as terminal:
        terminal.wait_for("0 calls/s")
        terminal.type("\x03")
        assert terminal.end() == 130
    assert "p50" not in terminal.text


def test_top_in_a_dumb_terminal(url):
    with in_terminal("top", url, TERM="dumb") as terminal:
        assert terminal.end() == 0
    assert "TIME LEFT" in terminal.text


def run(*args, **options):
    return subprocess.run([*TRPC, *args], env=environment(), capture_output=True, timeout=60, check=False, **options)


def test_a_pipe_that_is_closed(url):
    line = f"{sys.executable} -m trpc call {url} Streams.count | head -2; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", line], env=environment(), capture_output=True, timeout=60, check=True)
    assert done.stdout == b"0\n1\n141\n"
    assert done.stderr == b""
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run(
            [*TRPC, "list", url], env=environment(), stdout=writer, stderr=subprocess.PIPE, timeout=60, check=False
        )
    finally:
        os.close(writer)
    assert (done.returncode, done.stderr) == (141, b"")


def test_a_reader_that_is_slow(url):
    """Much more than a pipe takes at once is written while the connection goes on."""
    with subprocess.Popen(
        [*TRPC, "call", url, "Shop.load", "200000"], env=environment(), stdout=subprocess.PIPE
    ) as process:
        assert process.stdout.read() == b"\x1b[31m" * 200000
    assert process.returncode == 0


def test_the_server_dies(url):
    with in_terminal("serve", "cli.services:all_services") as server:
        server.wait_for("\n")
        done = invoke("call", server.text.split()[-1], "Trouble.die")
        assert server.end() == 3
    assert done.code == 3
    assert done.errors.endswith("(it may have been executed)\n")


@pytest.fixture
def http_port():
    """Of a server that speaks something else."""

    def serve():
        while True:
            try:
                stream, _ = listener.accept()
            except OSError:
                return
            with stream:
                stream.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
                stream.recv(1000)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


def test_errors_are_one_line(http_port):
    """What the library writes to its log is in the error as well, and nothing for the line that somebody completes."""
    url = f"tcp://127.0.0.1:{http_port}"
    done = run("call", url, "A.b")
    assert done.returncode == 3
    assert done.stderr.startswith(b"trpc: 127.0.0.1:")
    assert done.stderr.count(b"\n") == 1
    done = subprocess.run(
        TRPC,
        env=environment(_TRPC_COMPLETE="bash_complete", COMP_WORDS=f"trpc call {url} "),
        capture_output=True,
        timeout=60,
        check=True,
    )
    assert (done.stdout.strip(), done.stderr) == (b"", b"")


def test_standard_streams_that_are_full_or_closed(url):
    trpc = " ".join(TRPC)
    script = f"""
        {trpc} call {url} Shop.echo 1 > /dev/full; echo $?
        {trpc} ping {url} -i 1ms > /dev/full; echo $?
        {trpc} --help > /dev/full; echo $?
        {trpc} call {url} Shop.echo 1 >&-; echo $?
        {trpc} call {url} Shop.echo - <&-; echo $?
    """
    done = subprocess.run(["bash", "-c", script], env=environment(), capture_output=True, timeout=60, check=True)
    assert done.stdout == b"1\n1\n1\n0\n2\n"
    full, closed = b"output: No space left on device", b"input: it is closed (Shop.echo(value) -> Any)"
    assert done.stderr.splitlines() == [b"trpc: cannot write to standard " + full] * 3 + [
        b"trpc: cannot read standard " + closed
    ]


WITHOUT = """
import sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "%s":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Missing())
sys.argv = ["trpc", "--version"]
from trpc.__main__ import main
main()
"""


@pytest.mark.parametrize("missing", ["click", "rich"])
def test_without_the_extra(missing):
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT % missing], capture_output=True, text=True, cwd=ROOT, timeout=60, check=False
    )
    assert done.returncode == 2
    assert done.stderr == "trpc: the command line needs the extra: pip install 'trio-trpc[cli]'\n"


def test_other_modules_that_are_missing_are_not_passed_over():
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT % "trio"], capture_output=True, text=True, cwd=ROOT, timeout=60, check=False
    )
    assert done.returncode == 1
    assert "No module named 'trio'" in done.stderr


def test_importing_the_package_does_not_bring_the_command_line():
    code = "import sys, trpc; print(sorted({'click', 'rich', 'watchfiles', 'trpc._cli'} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=60, check=True
    )
    assert done.stdout == "[]\n"
    code = "import sys, trpc._cli._app; print('watchfiles' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=60, check=True
    )
    assert done.stdout == "False\n"


def test_completion_in_bash(url, tmp_path):
    """Which breaks words at the colons of a URL."""
    program = tmp_path / "trpc"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m trpc "$@"\n')
    program.chmod(0o755)
    path = os.pathsep.join([str(tmp_path), os.environ["PATH"]])
    with in_terminal(command=["bash", "--norc", "-i"], PATH=path, PS1="> ", TRPC_TOKEN="x") as terminal:
        terminal.type('eval "$(trpc completion bash)"; echo "re""ady"\n')
        terminal.wait_for("ready")
        terminal.type(f"trpc call {url} Shop.des\t")
        terminal.wait_for("Shop.describe ")
