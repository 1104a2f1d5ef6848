"""The examples, each run as a user runs it: as processes, from the root of the checkout."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import math
import os
import pty
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import hypothesis
import hypothesis.strategies as st
import pytest
import trio

import trpc
from examples.calculator.expression import MAX_DEPTH, MAX_LENGTH, ExpressionError, evaluate
from examples.calculator.service import Calculator, NothingStored
from examples.file_transfer import CHUNK, MIB, Files, place

ROOT = Path(__file__).resolve().parents[2]
TIMEOUT = 60
"""Seconds that a process gets; none takes more than a few."""

CLIENT = "-m", "examples.calculator.client"
SERVER = "-m", "examples.calculator.server"

MALICIOUS = [
    "__import__('os').system('true')",
    "().__class__",
    "().__class__.__bases__[0].__subclasses__()",
    "pi.__class__",
    "sqrt.__globals__",
    "evaluate('1')",
    "lambda: 1",
    "[x for x in (1,)]",
    "9**9**9**9",
    "9.9e99**9**9",
    "1e999",
    "(" * 10_000,
    "(" * MAX_LENGTH,
    "-" * MAX_LENGTH,
    "2**" * 300 + "2",
    "sqrt(" * 150 + "2" + ")" * 150,
    "1+" * 50_000 + "1",
    "9" * 100_000,
    "1\0",
    "\N{ARABIC-INDIC DIGIT FOUR}",
    "\N{FULLWIDTH DIGIT FOUR}",
]


def environment():
    return {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        # Nothing is left open, and nothing is never awaited.
        "PYTHONWARNINGS": "error::ResourceWarning,error::RuntimeWarning",
    }


def run(*args, stdin=""):
    """Runs Python to its end."""
    return subprocess.run(
        [sys.executable, *args],
        cwd=ROOT,
        env=environment(),
        input=stdin,
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )


@contextlib.contextmanager
def started(*args, stdin=subprocess.DEVNULL):
    """A Python process that is ended at the end of the block, if it has not ended by then."""
    with subprocess.Popen(
        [sys.executable, *args],
        cwd=ROOT,
        env=environment(),
        stdin=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def end(process, number):
    """Sends a signal; gives the exit code, and what else the process prints on stdout and stderr."""
    process.send_signal(number)
    # Not `communicate`, which would end the process's stdin too.
    code = process.wait(timeout=TIMEOUT)
    return code, process.stdout.read(), process.stderr.read()


def type_line(process, text):
    process.stdin.write(f"{text}\n")
    process.stdin.flush()


def is_running(pid):
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    return True


@pytest.fixture
def url():
    """A calculator's server. Nothing that its callers do makes it end, or log anything."""
    with started(*SERVER) as process:
        url = process.stdout.readline().strip()
        assert url.startswith("tcp://127.0.0.1:")
        yield url
        code, _, err = end(process, signal.SIGTERM)
        assert (code, err) == (0, "")


@pytest.fixture
def url_of_nobody():
    """Where nobody listens: the port is taken, and never listened on."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        yield f"tcp://127.0.0.1:{sock.getsockname()[1]}"


# --- python -m examples.calculator ---


def test_the_calculator_shows_what_it_can():
    result = run("-m", "examples.calculator")
    assert result.stderr == ""
    assert result.returncode == 0
    first, *lines = result.stdout.splitlines()
    pids = re.fullmatch(r"client: process (\d+); server: process (\d+)", first).groups()
    assert len(set(pids)) == 2
    assert not any(map(is_running, pids))
    assert lines == [
        "add(2, 3) = 5",
        "subtract(2, 3) = -1",
        "multiply(2, 3) = 6",
        "divide(2, 3) = 0.666666666666667",
        "power(2, 10) = 1024",
        "sqrt(2) = 1.4142135623731",
        "evaluate('2*(3+4)') = 14",
        "store(42), recall() = 42",
        # The text after the class is Python's own, and not the same in all versions.
        next(line for line in lines if re.fullmatch(r"divide\(1, 0\): ZeroDivisionError: .*by zero", line)),
        "add('two', 3): InvalidArguments: Calculator.add: argument 'a': Expected `float`, got `str`",
        "server: slow_add has begun",
        "server: slow_add was cancelled",
        "slow_add(2, 3, 60): TooSlowError after 0.5 s",
        "server: slow_add has begun",
        "server: slow_add was cancelled",
        "slow_add(2, 3, 60): cancelled",
        "server ended with exit code 0",
    ]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_calculator_and_its_server(number):
    with started("-m", "examples.calculator") as process:
        pids = re.findall(r"\d+", process.stdout.readline())
        code, _, err = end(process, number)
    assert (code, err) == (1, "")
    assert len(pids) == 2
    assert not any(map(is_running, pids))


# --- the client: one expression ---


@pytest.mark.parametrize(
    ("expression", "shown"),
    [
        ("2*(3+4)", "14"),
        ("-2**2", "-4"),
        ("-(1+2)*3", "-9"),
        ("7/2", "3.5"),
        ("7//2", "3"),
        ("-7 % 3", "2"),
        ("0.1+0.2", "0.3"),
        ("2**53", "9007199254740992"),
        ("10**300", "1e+300"),
        ("sqrt(16) + pi - pi", "4"),
        ("e", "2.71828182845905"),
    ],
)
def test_an_expression(url, expression, shown):
    result = run(*CLIENT, url, expression)
    assert (result.returncode, result.stdout, result.stderr) == (0, f"{shown}\n", "")


@pytest.mark.parametrize(
    ("expression", "error"),
    [
        ("1/0", "division by zero at position 2"),
        ("1 + 5 // 0", "division by zero at position 7"),
        ("sqrt(-1)", "the square root of a negative number is not a real number"),
        ("(-8) ** 0.5", "a negative number to a fractional power is not a real number"),
        ("10**309", "the result is too large"),
        ("1 +", "expected a number but found the end at position 4"),
        ("(1 + 2", "expected ')' but found the end at position 7"),
        ("1 2", "expected an operator but found '2' at position 3"),
        ("1 + $", "unexpected '$' at position 5"),
        ("sin(1)", "unknown name 'sin' (known: pi, e, sqrt()) at position 1"),
        ("sqrt 2", "expected '(' but found '2' at position 6"),
        ("", "expected a number but found the end at position 1"),
    ],
)
def test_an_expression_that_has_no_value(url, expression, error):
    result = run(*CLIENT, url, expression)
    assert (result.returncode, result.stdout, result.stderr) == (1, "", f"error: {error}\n")


def test_nobody_listens(url_of_nobody, tmp_path):
    for url in url_of_nobody, f"unix://{tmp_path}/socket":
        result = run(*CLIENT, url, "1+1")
        assert (result.returncode, result.stdout) == (1, "")
        assert re.fullmatch(rf"error: nothing listens at {re.escape(url)}.*\n", result.stderr)


def test_the_url_is_none():
    result = run(*CLIENT, "localhost", "1+1")
    assert (result.returncode, result.stdout) == (1, "")
    assert re.fullmatch(r"error: 'localhost' .*\n", result.stderr)


def test_no_answer_in_time():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"tcp://127.0.0.1:{listener.getsockname()[1]}"
        result = run(*CLIENT, url, "1+1", "--timeout", "0.1")
    assert (result.returncode, result.stdout, result.stderr) == (1, "", "error: no answer in time\n")


def test_a_time_that_is_enough(url):
    assert run(*CLIENT, "--timeout", str(TIMEOUT), url, "1+1").stdout == "2\n"


def test_an_option_that_does_not_exist(url):
    result = run(*CLIENT, url, "--speed")
    assert result.returncode == 2
    assert "unrecognized arguments: --speed" in result.stderr


# --- the client: a prompt ---


@pytest.mark.parametrize("last", ["quit\n1/0\n", "", "quit"])
def test_the_prompt(url, last):
    result = run(*CLIENT, url, stdin=f"2*(3+4)\nstore\n\n 1/0\n1+\nrecall\n{last}")
    assert result.returncode == 0
    assert result.stdout == "14\nstored 14\n14\n"
    assert result.stderr.splitlines() == [
        "error: division by zero at position 2",
        "error: expected a number but found the end at position 3",
    ]


def test_the_prompt_has_nothing_to_store_or_recall(url):
    result = run(*CLIENT, url, stdin="store\nrecall\n")
    assert (result.returncode, result.stdout) == (0, "")
    assert result.stderr.splitlines() == [
        "error: there is no result to store",
        "error: nothing is stored on this connection",
    ]


def test_ctrl_c_ends_the_prompt(url):
    with started(*CLIENT, url, stdin=subprocess.PIPE) as process:
        type_line(process, "1+1")
        assert process.stdout.readline() == "2\n"
        assert end(process, signal.SIGINT) == (130, "", "")


def test_the_prompt_at_a_terminal(url):
    ours, theirs = pty.openpty()
    try:
        with started(*CLIENT, url, stdin=theirs) as process:
            os.write(ours, b"1+1\n")
            assert process.stdout.readline() == "> 2\n"
            assert process.stdout.read(2) == "> "
            assert end(process, signal.SIGINT) == (130, "", "")
        with started(*CLIENT, url, stdin=theirs) as process:
            os.write(ours, b"2+2\n")
            assert process.stdout.readline() == "> 4\n"
            os.write(ours, b"\x04")  # Ctrl-D
            assert process.wait(timeout=TIMEOUT) == 0
    finally:
        os.close(ours)
        os.close(theirs)


def test_the_server_ends_while_the_prompt_waits():
    with (
        started(*SERVER) as server,
        started(*CLIENT, url := server.stdout.readline().strip(), stdin=subprocess.PIPE) as client,
    ):
        type_line(client, "1+1")
        assert client.stdout.readline() == "2\n"
        assert end(server, signal.SIGTERM) == (0, "", "")
        out, err = client.communicate("1+1\n", timeout=TIMEOUT)
    assert (client.returncode, out) == (1, "")
    assert re.fullmatch(rf"error: connection to {url.removeprefix('tcp://')} lost: .*\n", err)


def test_each_connection_has_a_memory_of_its_own(url):
    with (
        started(*CLIENT, url, stdin=subprocess.PIPE) as one,
        started(*CLIENT, url, stdin=subprocess.PIPE) as other,
    ):
        type_line(one, "40+2")
        type_line(one, "store")
        assert [one.stdout.readline() for _ in range(2)] == ["42\n", "stored 42\n"]
        type_line(other, "recall")
        assert other.stderr.readline() == "error: nothing is stored on this connection\n"
        type_line(other, "7")
        type_line(other, "store")
        assert [other.stdout.readline() for _ in range(2)] == ["7\n", "stored 7\n"]
        assert one.communicate("recall\n", timeout=TIMEOUT) == ("42\n", "")
    assert run(*CLIENT, url, stdin="recall\n").stderr == "error: nothing is stored on this connection\n"


# --- the server ---


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("where", ["port", "unix"])
def test_a_signal_ends_the_server_with_calls_in_flight(tmp_path, number, where):
    path = tmp_path / "socket"

    async def call(server, url):
        async with trpc.connect(url) as client:
            with pytest.RaisesGroup(trpc.ConnectionLost):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(client.proxy(Calculator).slow_add, 1, 2, 3600)
                    assert await trio.to_thread.run_sync(server.stdout.readline) == "server: slow_add has begun\n"
                    server.send_signal(number)

    with started(*SERVER, *(["--unix", str(path)] if where == "unix" else [])) as server:
        url = server.stdout.readline().strip()
        assert path.exists() == (where == "unix")
        trio.run(call, server, url)
        out, err = server.communicate(timeout=TIMEOUT)
    assert (server.returncode, out, err) == (0, "server: slow_add was cancelled\n", "")
    assert not path.exists()


def test_a_unix_socket(tmp_path):
    path = tmp_path / "socket"
    with started(*SERVER, "--unix", str(path)) as server:
        url = server.stdout.readline().strip()
        assert url == f"unix://{path}"
        assert run(*CLIENT, url, "2*(3+4)").stdout == "14\n"
        assert end(server, signal.SIGTERM) == (0, "", "")
    assert not path.exists()


def test_the_port_is_in_use(url):
    port = url.rpartition(":")[2]
    result = run(*SERVER, "--port", port)
    assert (result.returncode, result.stdout) == (1, "")
    assert re.fullmatch(rf"server: .*port {port} .*in use.*\n", result.stderr)


@pytest.mark.parametrize("option", [["--port", "70000"], ["--port", "1", "--unix", "x"], ["--port", "x"]])
def test_options_of_the_server_that_are_wrong(option):
    result = run(*SERVER, *option)
    assert result.returncode in {1, 2}
    assert result.stdout == ""
    assert "Traceback" not in result.stderr


async def test_the_server_refuses_what_is_malicious_and_lives_on(url):
    async with trpc.connect(url) as client:
        calculator = client.proxy(Calculator)
        with trio.fail_after(TIMEOUT):
            for expression in MALICIOUS:
                with pytest.raises((ExpressionError, OverflowError)):
                    await calculator.evaluate(expression)
            with pytest.raises(OverflowError):
                await calculator.power(9, 9**9)
            assert await calculator.evaluate("1+1") == 2
        with pytest.raises(ExpressionError) as caught:
            await calculator.evaluate("1 + + * 2")
        assert caught.value.position == 7


@pytest.mark.parametrize("expression", ["__import__('os')", "().__class__", "9**9**9**9", "(" * 10_000])
def test_the_client_shows_what_is_malicious_as_an_error(url, expression):
    result = run(*CLIENT, url, expression)
    assert (result.returncode, result.stdout) == (1, "")
    assert re.fullmatch(r"error: .+\n", result.stderr)


async def test_methods_and_their_errors(url):
    async with trpc.connect(url) as client, trpc.connect(url) as other:
        calculator = client.proxy(Calculator)
        assert await calculator.add(1, 2) == 3
        assert await calculator.subtract(1, 2) == -1
        assert await calculator.multiply(3, 2) == 6
        assert await calculator.divide(1, 2) == 0.5
        assert await calculator.power(2, -1) == 0.5
        assert await calculator.sqrt(9) == 3
        assert await calculator.slow_add(1, 2, 0) == 3
        for wrong in calculator.divide(1, 0), calculator.power(0, -1):
            with pytest.raises(ZeroDivisionError):
                await wrong
        for wrong in calculator.sqrt(-1), calculator.power(-8, 0.5):
            with pytest.raises(ValueError, match="not a real number"):
                await wrong
        with pytest.raises(NothingStored):
            await calculator.recall()
        await calculator.store(1)
        await calculator.store(2)
        assert await calculator.recall() == 2
        with pytest.raises(NothingStored):
            await other.proxy(Calculator).recall()


# --- expressions ---


def _binary(pairs):
    operators = st.sampled_from(["+", "-", "*", "/", "//", "%", "**", " + ", " - ", " * ", " ** "])
    return st.tuples(pairs, operators, pairs).map(lambda t: (t[0][0] + t[1] + t[2][0], t[0][1] + t[1] + t[2][1]))


def _wrapped(pairs):
    wrappers = st.sampled_from(["-{}", "+{}", "({})", "( {} )", "sqrt({})", "-({})"])
    return st.tuples(wrappers, pairs).map(lambda t: (t[0].format(t[1][0]), t[0].format(t[1][1])))


# Pairs: what the calculator is given, and the same for Python, where an int would not be a float.
expressions = st.recursive(
    st.integers(0, 10**6).map(lambda n: (str(n), f"{n}.0"))
    | st.integers(0, 9).map(lambda n: (str(n), f"{n}.0"))
    | st.floats(0, 1e6).map(lambda x: (repr(x), repr(x)))
    | st.sampled_from(["pi", "e", ".5", "5.", "1e3", "2.5E-3"]).map(lambda text: (text, text)),
    lambda pairs: _binary(pairs) | _wrapped(pairs),
    max_leaves=15,
)


@hypothesis.settings(deadline=None, max_examples=500)
@hypothesis.given(expressions)
@hypothesis.example(("-2**2", "-2.0**2.0"))
@hypothesis.example(("2**3**2", "2.0**3.0**2.0"))
@hypothesis.example(("2**-1", "2.0**-1.0"))
@hypothesis.example(("8/4/2-3-1", "8.0/4.0/2.0-3.0-1.0"))
@hypothesis.example(("1e308*10-1e308*10", "1e308*10.0-1e308*10.0"))
def test_the_value_is_that_of_python(pair):
    ours, pythons = pair
    hypothesis.assume(len(ours) <= MAX_LENGTH)
    names = {"__builtins__": {}, "sqrt": math.sqrt, "pi": math.pi, "e": math.e}
    try:
        expected = eval(pythons, names)
    except (ArithmeticError, ValueError, TypeError) as exc:
        # TypeError: an operation that complex numbers do not have.
        with pytest.raises((type(exc), ValueError)) as caught:
            evaluate(ours)
        assert not isinstance(caught.value, ExpressionError)
        return
    if isinstance(expected, complex):
        with pytest.raises(ValueError, match="not a real number"):
            evaluate(ours)
    elif not math.isfinite(expected):
        with pytest.raises(OverflowError):
            evaluate(ours)
    else:
        assert evaluate(ours) == expected


@hypothesis.settings(deadline=None, max_examples=500)
@hypothesis.given(st.text(max_size=30) | st.text("0123456789.eEpisqrt+-*/%() _'", max_size=MAX_LENGTH + 10))
def test_any_text_is_a_value_or_an_error(text):
    try:
        value = evaluate(text)
    except ExpressionError as exc:
        assert 1 <= exc.position <= len(text) + 1
    except (ArithmeticError, ValueError):
        pass
    else:
        assert math.isfinite(value)


def test_expressions_may_be_as_long_and_deep_as_they_say():
    assert evaluate("1" + " " * (MAX_LENGTH - 1)) == 1
    with pytest.raises(ExpressionError, match=f"position {MAX_LENGTH + 1}"):
        evaluate("1" + " " * MAX_LENGTH)
    deep = MAX_DEPTH - 1
    assert evaluate("(" * deep + "1" + ")" * deep) == 1
    with pytest.raises(ExpressionError, match=f"nested too deep at position {MAX_DEPTH + 1}"):
        evaluate("(" * MAX_DEPTH + "1" + ")" * MAX_DEPTH)


# --- echo ---


@pytest.mark.parametrize("way", [["-m", "examples.echo"], ["examples/echo.py"]])
def test_echo_with_three_clients(way):
    result = run(*way)
    assert (result.returncode, result.stderr) == (0, "")
    found = re.findall(r"^process (\d+): (.*)$", result.stdout, re.MULTILINE)
    assert sorted(text for _, text in found) == ["one", "three", "two"]
    assert len({pid for pid, _ in found}) == 3
    assert not any(is_running(pid) for pid, _ in found)


@pytest.mark.parametrize("way", [["-m", "examples.echo"], ["examples/echo.py"]])
def test_echo_by_hand(way):
    with started(*way, "serve") as server:
        url = server.stdout.readline().strip()
        result = run(*way, url, "hello, world")
        assert result.stderr == ""
        assert re.fullmatch(r"process \d+: hello, world\n", result.stdout)
        assert end(server, signal.SIGINT) == (0, "", "")


def test_echo_on_a_given_port(url_of_nobody):
    port = url_of_nobody.rpartition(":")[2]
    result = run("-m", "examples.echo", "serve", port)
    assert result.returncode == 1
    assert f"port {port} " in result.stderr


# --- deadlines ---


@pytest.mark.parametrize("way", [["-m", "examples.deadlines"], ["examples/deadlines.py"]])
def test_one_deadline_ends_the_whole_chain(way):
    result = run(*way)
    assert (result.returncode, result.stderr) == (0, "")
    began = re.findall(r"^(\w+), process (\d+): started with (.*) s left$", result.stdout, re.MULTILINE)
    ended = re.findall(r"^(\w+), process (\d+): was cancelled$", result.stdout, re.MULTILINE)
    top, took = re.search(
        r"^top, process (\d+): TooSlowError after (.*) s; all handlers have ended$", result.stdout, re.MULTILINE
    ).groups()
    assert [name for name, _, _ in began] == ["front", "middle", "back"]
    assert sorted(ended) == sorted((name, pid) for name, pid, _ in began)
    pids = {top, *(pid for _, pid, _ in began)}
    assert len(pids) == 4
    assert not any(map(is_running, pids))
    # Each hop has what is left of the deadline above it.
    left = [float(seconds) for _, _, seconds in began]
    assert 1.0 >= left[0] >= left[1] >= left[2] > 0
    assert float(took) >= 1.0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_whole_chain(number):
    with started("-m", "examples.deadlines") as process:
        lines = [process.stdout.readline() for _ in range(3)]
        pids = [re.search(r"process (\d+): started", line)[1] for line in lines]
        code, _, err = end(process, number)
    assert (code, err) == (1, "")
    assert not any(map(is_running, pids))


# --- file transfer ---

TRANSFER = "-m", "examples.file_transfer"


@contextlib.asynccontextmanager
async def bad_network(url, cuts, on_cut=None):
    """The URL of what leads connections to a server, and cuts the first of them after so many bytes, each in turn."""
    port = int(url.rpartition(":")[2])
    lengths = iter(cuts)

    async def lead(client):
        async with client, await trio.open_tcp_stream("127.0.0.1", port) as server, trio.open_nursery() as ways:
            left = [next(lengths, math.inf)]
            ways.start_soon(carry, client, server, ways.cancel_scope, left)
            ways.start_soon(carry, server, client, ways.cancel_scope, left)

    async def carry(source, sink, scope, left):
        # One whose peer has gone is over, and nothing more.
        with contextlib.suppress(trio.BrokenResourceError):
            async for data in source:
                left[0] -= len(data)
                if left[0] < 0:
                    if on_cut is not None:
                        on_cut()
                    break
                await sink.send_all(data)
        scope.cancel()

    async with trio.open_nursery() as nursery:
        (listener,) = await nursery.start(functools.partial(trio.serve_tcp, lead, 0, host="127.0.0.1"))
        yield f"tcp://127.0.0.1:{listener.socket.getsockname()[1]}"
        nursery.cancel_scope.cancel()


async def run_beside(*args):
    """As `run`, beside what the test does meanwhile."""
    with trio.fail_after(TIMEOUT):
        result = await trio.run_process(
            [sys.executable, *args],
            cwd=ROOT,
            env=environment(),
            capture_stdout=True,
            capture_stderr=True,
            check=False,
        )
    return result.returncode, result.stdout.decode(), result.stderr.decode()


def first_offsets(output):
    """Where each connection of a transfer has begun, in MiB, if it came to that."""
    lines = output.splitlines()
    begins = [0] + [number + 1 for number, line in enumerate(lines) if line.endswith("connecting again")]
    return [float(re.search(r"\] (.*) of ", lines[number])[1]) for number in begins if "] " in lines[number]]


@contextlib.contextmanager
def serving_files(folder, *port):
    with started(*TRANSFER, "serve", str(folder), *port) as process:
        yield process, process.stdout.readline().strip()


@pytest.fixture
def folders(tmp_path):
    """One for the client, and one for the server."""
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    there.mkdir()
    return here, there


@pytest.mark.parametrize("way", [["-m", "examples.file_transfer"], ["examples/file_transfer.py"]])
def test_file_transfer(way):
    result = run(*way, "--size", "8")
    assert (result.returncode, result.stderr) == (0, "")
    up, down = re.findall("^checksum: ([0-9a-f]{64})$", result.stdout, re.MULTILINE)
    assert up == down
    for label in "up", "down":
        assert f"{label} [          ] 0.0 of 8.0 MiB\n" in result.stdout
        assert f"{label} [##########] 8.0 of 8.0 MiB\n" in result.stdout
    assert len(re.findall("^connection .* lost: .*: connecting again$", result.stdout, re.MULTILINE)) == 2


def test_memory_does_not_grow_with_the_file():
    # 512 MiB in all, up and down.
    result = run(*TRANSFER, "--size", "256")
    assert (result.returncode, result.stderr) == (0, "")
    peaks = dict(re.findall(r"^peak memory of the (\w+): (\d+) MiB$", result.stdout, re.MULTILINE))
    assert sorted(peaks) == ["client", "server"]
    # Python with what it imports has 30 of them.
    assert all(int(peak) < 100 for peak in peaks.values())


@pytest.mark.parametrize("direction", ["upload", "download"])
async def test_a_transfer_that_is_cut_goes_on(folders, direction):
    here, there = folders
    source, target = (here, there) if direction == "upload" else (there, here)
    content = os.urandom(8 * MIB)
    (source / "file").write_bytes(content)
    # In the middle of a chunk, in the middle of the hello, and again in the middle.
    cuts = [2 * MIB + 1, 10, 2 * MIB]
    with serving_files(there) as (_, url):
        async with bad_network(url, cuts) as bad_url:
            args = [bad_url, str(here / "file")] if direction == "upload" else [bad_url, "file", str(here)]
            code, out, err = await run_beside(*TRANSFER, direction, *args)
    assert (code, err) == (0, "")
    assert out.count("connecting again\n") == len(cuts)
    begun, again, last = first_offsets(out)
    assert begun == 0 < again < last < 8
    assert out.endswith(f"\nchecksum: {hashlib.sha256(content).hexdigest()}\n")
    assert (target / "file").read_bytes() == content
    assert os.listdir(target) == ["file"]


async def test_the_server_of_a_transfer_is_killed_and_comes_back(folders):
    here, there = folders
    content = os.urandom(6 * MIB)
    (here / "file").write_bytes(content)
    with contextlib.ExitStack() as servers:
        server, url = servers.enter_context(serving_files(there))

        def kill_and_restart():
            server.kill()
            server.wait(timeout=TIMEOUT)
            servers.enter_context(serving_files(there, url.rpartition(":")[2]))

        async with bad_network(url, [3 * MIB], kill_and_restart) as bad_url:
            code, out, err = await run_beside(*TRANSFER, "upload", bad_url, str(here / "file"))
    assert (code, err) == (0, "")
    assert first_offsets(out)[-1] > 0
    assert (there / "file").read_bytes() == content


@pytest.mark.parametrize("size", [0, 1, CHUNK, CHUNK + 1])
def test_files_of_other_sizes(folders, size):
    here, there = folders
    (here / "file").write_bytes(content := os.urandom(size))
    with serving_files(there) as (server, url):
        for _ in range(2):  # what is there already is compared
            result = run(*TRANSFER, "upload", url, str(here / "file"))
            assert (result.returncode, result.stderr) == (0, "")
        assert (there / "file").read_bytes() == content
        (here / "file").unlink()
        for _ in range(2):
            result = run(*TRANSFER, "download", url, "file", str(here))
            assert (result.returncode, result.stderr) == (0, "")
        assert (here / "file").read_bytes() == content
        code, out, err = end(server, signal.SIGTERM)
    assert (code, err) == (0, "")
    assert re.fullmatch(r"peak memory of the server: \d+ MiB\n", out)
    assert os.listdir(here) == os.listdir(there) == ["file"]


@pytest.mark.parametrize("direction", ["upload", "download"])
@pytest.mark.parametrize("other", [b"", b"other", b"much longer than this"])
def test_a_file_is_never_overwritten(folders, direction, other):
    here, there = folders
    (here / "file").write_bytes(b"here" if direction == "upload" else other)
    (there / "file").write_bytes(b"here" if direction == "download" else other)
    with serving_files(there) as (_, url):
        args = [str(here / "file")] if direction == "upload" else ["file", str(here)]
        result = run(*TRANSFER, direction, url, *args)
    assert result.returncode == 1
    assert re.fullmatch(r"error: .*there is a.* file 'file' already\n", result.stderr)
    assert ((there if direction == "upload" else here) / "file").read_bytes() == other


@pytest.mark.parametrize("direction", ["upload", "download"])
@pytest.mark.parametrize("part", [b"XXXX", b"XXXX and more than there is"])
def test_a_part_of_something_else_is_found_by_its_checksum(folders, direction, part):
    here, there = folders
    source, target = (here, there) if direction == "upload" else (there, here)
    (source / "file").write_bytes(b"something")
    (target / "file.part").write_bytes(part)
    with serving_files(there) as (_, url):
        args = [url, str(here / "file")] if direction == "upload" else [url, "file", str(here)]
        result = run(*TRANSFER, direction, *args)
        assert result.returncode == 1
        assert re.fullmatch("error: .*file has arrived damaged, or has changed meanwhile\n", result.stderr)
        assert os.listdir(target) == []
        assert run(*TRANSFER, direction, *args).returncode == 0
    assert (target / "file").read_bytes() == b"something"


NO_NAMES = ["", ".", "..", "/etc/passwd", "../file", "a/b", "/", "a\\b", "C:file", ".hidden", "a.part", "a\0b", "a\n"]


@pytest.mark.parametrize("name", NO_NAMES)
def test_what_is_no_plain_name_of_a_file(tmp_path, name):
    with pytest.raises(ValueError, match="not the plain name of a file"):
        place(tmp_path, name)


@pytest.mark.parametrize("name", ["a", "report (1).pdf", "x.tar.gz", "\u00e4\u00f6\u00fc", "a..b", "-", "part"])
def test_plain_names_of_files(tmp_path, name):
    assert place(tmp_path, name) == tmp_path / name


async def test_no_method_of_the_file_server_leaves_its_folder(tmp_path):
    (tmp_path / "secret").write_bytes(b"secret")
    (folder := tmp_path / "folder").mkdir()

    async def chunks():
        yield b"x"

    async with trio.open_nursery() as nursery:
        server = await nursery.start(trpc.serve_tcp, Files(folder), 0)
        async with trpc.connect(server.url) as client:
            files = client.proxy(Files)
            for name in "../secret", str(tmp_path / "secret"), "..", "sub/../../secret":
                calls = files.received(name), files.size(name), files.checksum(name), files.finish(name, "")
                for call in *calls, files.upload(name, 0, chunks()):
                    with pytest.raises(ValueError, match="not the plain name of a file"):
                        await call
                with pytest.raises(ValueError, match="not the plain name of a file"):
                    async with files.download(name, 0) as items:
                        await items.receive()
            with pytest.raises(FileNotFoundError):
                await files.size("nothing")
            with pytest.raises(trpc.InvalidArguments):
                async with files.download("nothing", -1) as items:
                    await items.receive()
        nursery.cancel_scope.cancel()
    assert sorted(os.listdir(tmp_path)) == ["folder", "secret"]
    assert os.listdir(folder) == []


async def test_a_later_upload_takes_over(tmp_path):
    begun = trio.Event()

    async def first():
        yield b"first"
        begun.set()
        await trio.sleep_forever()

    async def rest(text):
        yield text

    async def lose(files):
        with pytest.raises(InterruptedError):
            await files.upload("file", 0, first())

    async with trio.open_nursery() as nursery:
        server = await nursery.start(trpc.serve_tcp, Files(tmp_path), 0)
        async with trpc.connect(server.url) as one, trpc.connect(server.url) as other:
            files = other.proxy(Files)
            async with trio.open_nursery() as uploads:
                uploads.start_soon(lose, one.proxy(Files))
                await begun.wait()
                while not (tmp_path / "file.part").exists():
                    await trio.lowlevel.checkpoint()
                offset = await files.received("file")
            with pytest.raises(ValueError, match=f"goes on at {offset}, not at 3"):
                await files.upload("file", 3, rest(b""))
            await files.upload("file", offset, rest(b"first and last"[offset:]))
            await files.finish("file", hashlib.sha256(b"first and last").hexdigest())
            with pytest.raises(FileExistsError):
                await files.upload("file", 0, rest(b"another"))
        nursery.cancel_scope.cancel()
    assert (tmp_path / "file").read_bytes() == b"first and last"


def test_nobody_serves_files(url_of_nobody, tmp_path):
    result = run(*TRANSFER, "download", url_of_nobody, "file", str(tmp_path))
    assert (result.returncode, result.stdout) == (1, "")
    assert re.fullmatch(r"error: nothing listens at .*\n", result.stderr)


# --- progress ---

PROGRESS = "-m", "examples.progress"

PRIMES = """\
22044 primes below 250000
41538 primes below 500000
60238 primes below 750000
78498 primes below 1000000
"""


@pytest.mark.parametrize("way", [["-m", "examples.progress"], ["examples/progress.py"]])
def test_progress(way):
    result = run(*way)
    assert (result.returncode, result.stderr) == (0, "")
    found = re.fullmatch(
        f"""\
--- as a stream
{PRIMES}\
--- by calls back
{PRIMES}\
result: 78498
--- leaving early
22044 primes below 250000
server: the job was cancelled
--- a deadline: here, on the server, and back here
22044 primes below 250000
the call back has (.*) s left
the call back was cancelled
server: the job was cancelled
TooSlowError after 1 s
""",
        result.stdout,
    )
    assert 0 < float(found[1]) <= 1


@contextlib.contextmanager
def serving_jobs():
    with started(*PROGRESS, "serve") as server:
        yield server, server.stdout.readline().strip()
        assert end(server, signal.SIGTERM) == (0, "", "")


@pytest.mark.parametrize("command", ["stream", "watch"])
def test_progress_by_hand(command):
    with serving_jobs() as (_, url):
        result = run(*PROGRESS, command, url, "1000000")
        assert (result.returncode, result.stderr) == (0, "")
        assert result.stdout == PRIMES + ("result: 78498\n" if command == "watch" else "")
        result = run(*PROGRESS, command, url, "0")
        assert (result.returncode, result.stdout) == (0, "" if command == "stream" else "result: 0\n")
        for limit, what in ("-1", ">= 0"), ("1e9", "literal"), ("99999999999", "<="):
            result = run(*PROGRESS, command, url, limit)
            assert (result.returncode, result.stdout) == (1, "")
            assert result.stderr.startswith("error: ")
            assert what in result.stderr


@pytest.mark.parametrize("command", ["stream", "watch"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_progress_is_cancelled(command, number):
    with (
        started(*PROGRESS, "serve") as server,
        started(*PROGRESS, command, server.stdout.readline().strip(), str(10**9)) as client,
    ):
        assert client.stdout.readline() == "22044 primes below 250000\n"
        code, _, err = end(client, number)
        assert (code, err) == (130 if number == signal.SIGINT else -signal.SIGKILL, "")
        assert server.stdout.readline() == "server: the job was cancelled\n"


@pytest.mark.parametrize("command", ["stream", "watch"])
def test_the_server_ends_before_the_job(command):
    with (
        started(*PROGRESS, "serve") as server,
        started(*PROGRESS, command, server.stdout.readline().strip(), str(10**9)) as client,
    ):
        assert client.stdout.readline() == "22044 primes below 250000\n"
        assert end(server, signal.SIGTERM) == (0, "server: the job was cancelled\n", "")
        _, err = client.communicate(timeout=TIMEOUT)
    assert client.returncode == 1
    assert re.fullmatch("error: connection .* lost: .*\n", err)


# --- chat ---

CHAT = "-m", "examples.chat"


@pytest.mark.parametrize("way", [["-m", "examples.chat"], ["examples/chat.py"]])
def test_chat(way):
    result = run(*way)
    assert (result.returncode, result.stderr) == (0, "")
    assert (
        result.stdout
        == """\
ada hears  * bob has come
bob hears  ada: hello bob
ada hears  bob: hello ada
--- eve is a process, and is killed
ada hears  eve: hello all
bob hears  eve: hello all
ada hears  * eve has left
bob hears  * eve has left
--- dan does not read
ada hears  * dan has come
bob hears  ada: line 100
bob hears  * dan has left
dan is told: dan is 100 messages behind
"""
    )


@contextlib.contextmanager
def room():
    with started(*CHAT, "serve") as server:
        yield server, server.stdout.readline().strip()
        assert end(server, signal.SIGINT) == (130, "", "")


@contextlib.contextmanager
def person(url, name, *here):
    """Somebody who has come, where the others are ``here``."""
    with started(*CHAT, url, name, stdin=subprocess.PIPE) as process:
        assert process.stdout.readline() == f"* here are: {', '.join(here) or 'nobody'}\n"
        yield process


def test_somebody_is_killed_in_the_middle_of_a_chat():
    with room() as (_, url), person(url, "ada") as ada, person(url, "bob", "ada") as bob:
        assert ada.stdout.readline() == "* bob has come\n"
        with person(url, "eve", "ada", "bob") as eve:
            type_line(eve, "hello")
            for process in ada, bob:
                assert process.stdout.readline() == "* eve has come\n"
                assert process.stdout.readline() == "eve: hello\n"
            type_line(bob, "hello eve")
            assert ada.stdout.readline() == eve.stdout.readline() == "bob: hello eve\n"
            assert end(eve, signal.SIGKILL) == (-signal.SIGKILL, "", "")
        for process in ada, bob:
            assert process.stdout.readline() == "* eve has left\n"
        type_line(ada, "where is she?")
        assert bob.stdout.readline() == "ada: where is she?\n"
        # The name is free again.
        with person(url, "eve", "ada", "bob"):
            assert ada.stdout.readline() == "* eve has come\n"


def test_ways_to_leave_a_chat():
    with room() as (_, url), person(url, "ada") as ada:
        with person(url, "bob", "ada") as bob:
            out, err = bob.communicate("bye\n", timeout=TIMEOUT)  # and Ctrl-D
            assert (bob.returncode, out, err) == (0, "", "")
        with person(url, "eve", "ada") as eve:
            assert end(eve, signal.SIGINT) == (130, "", "")
        lines = [ada.stdout.readline() for _ in range(5)]
    assert lines == ["* bob has come\n", "bob: bye\n", "* bob has left\n", "* eve has come\n", "* eve has left\n"]


def test_nobody_writes_to_the_terminals_of_others():
    with room() as (_, url), person(url, "ada") as ada, person(url, "bob", "ada") as bob:
        assert ada.stdout.readline() == "* bob has come\n"
        type_line(bob, "\x1b[2J\rada: I agree\x07" + "x" * 2000)
        line = ada.stdout.readline()
    assert line.startswith("bob: ?[2J?ada: I agree?xxx")
    assert 1000 < len(line) < 1010


@pytest.mark.parametrize(
    "name, error",
    [
        ("ada", "ada is in the room already"),
        ("", "Room.join: argument 'name': .*"),
        ("a b", "Room.join: argument 'name': .*"),
        ("x" * 21, "Room.join: argument 'name': .*"),
    ],
)
def test_names_that_a_room_does_not_take(name, error):
    with room() as (_, url), person(url, "ada"), started(*CHAT, url, name, stdin=subprocess.PIPE) as other:
        assert other.wait(timeout=TIMEOUT) == 1
        assert re.fullmatch(f"error: {error}\n", other.stderr.read())


def test_the_room_is_closed():
    with started(*CHAT, "serve") as server, person(server.stdout.readline().strip(), "ada") as ada:
        assert end(server, signal.SIGINT) == (130, "", "")
        assert ada.wait(timeout=TIMEOUT) == 1
        assert re.fullmatch(r"error: connection .* lost: .*\n", ada.stderr.read())


# --- graceful ---

GRACEFUL = "-m", "examples.graceful"


@pytest.mark.parametrize("way", [["-m", "examples.graceful"], ["examples/graceful.py"]])
def test_graceful(way):
    result = run(*way)
    assert (result.returncode, result.stderr) == (0, "")
    found = re.fullmatch(
        """\
50 calls were answered, and 5 streams are read: SIGTERM
answered: (.*), refused: 20, lost: 0
streams that have ended in order: 5
the server has begun (.*) calls
its exit code: 0
connecting now: Unavailable
""",
        result.stdout,
    )
    assert int(found[1]) >= 50
    assert found[1] == found[2]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_graceful_server_by_hand(number):
    with started(*GRACEFUL, "serve") as server:
        assert server.stdout.readline().startswith("tcp://127.0.0.1:")
        assert end(server, number) == (0, "the server has begun 0 calls\n", "")
