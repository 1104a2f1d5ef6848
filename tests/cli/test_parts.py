"""Parts of the command line by themselves."""

import errno
import io
import math
import pathlib
import socket
import threading

import click
import pytest
import trio
from cli.running import error_of, invoke
from cli.terminal import in_terminal

import trpc
from trpc._cli import _app, _call, _top
from trpc._cli._binding import bind
from trpc._cli._connecting import Target
from trpc._cli._durations import DURATION, shown, shown_long
from trpc._cli._exits import CommandError, ExitCode, explained
from trpc._cli._latencies import Latencies, histogram_lines
from trpc._cli._output import print_text
from trpc._cli._python_source import bracketed, docstring, quoted
from trpc._cli._results import json_bytes
from trpc._cli._running import run
from trpc._cli._signatures import services_of, signature_text
from trpc._cli._targets import names_of, services_at
from trpc._cli._text import clean, near, one_line
from trpc._cli._top_table import lines_of, screen_of


@pytest.mark.parametrize(
    ("text", "seconds"), [("2", 2), ("2s", 2), ("500ms", 0.5), ("1.5m", 90), (".5h", 1800), ("2.", 2), (3, 3)]
)
def test_durations(text, seconds):
    assert DURATION.convert(text, None, None) == seconds


@pytest.mark.parametrize("text", ["", "0", "-1", "1d", "s", "1 s", "1e5", "inf", "9" * 400, "٣"])
def test_durations_that_are_none(text):
    with pytest.raises(click.BadParameter):
        DURATION.convert(text, None, None)


def test_durations_as_they_are_shown():
    times = [0.0001234, 0.001234, 0.01234, 0.1234, 1.234, 12.34]
    assert [shown(time) for time in times] == ["0.123 ms", "1.23 ms", "12.3 ms", "123 ms", "1.23 s", "12.3 s"]
    times = [4.21, 185, 7620, 273600]
    assert [shown_long(time) for time in times] == ["4.2s", "3m05s", "2h07m", "3d04h"]


def test_latencies():
    times = Latencies()
    assert (times.mean, times.percentile(50), times.bars(), times.milliseconds()) == (0, 0, [], {})
    assert list(histogram_lines(times)) == []
    for milliseconds in range(1, 1001):
        times.add(milliseconds / 1000)
    for percent in (1, 50, 90, 99, 99.9):
        assert math.isclose(times.percentile(percent), percent / 100, rel_tol=0.012)
    assert times.percentile(100) == times.most == 1
    assert times.mean == pytest.approx(0.5005)
    assert sum(bar.count for bar in times.bars()) == 1000
    lines = list(histogram_lines(times))
    assert len(lines) <= 16
    assert sum("█" * 40 in line for line in lines) == 1
    assert times.summary().startswith("min 1.00 ms  p50 ")


def test_texts():
    assert clean("a\n\tb\x1b\x9b\u202e\u2028é👩‍🚀") == "a\n\tb\\x1b\\x9b\\u202e\\u2028é👩‍🚀"
    assert one_line("a\n  b\x07") == "a b\\x07"
    assert one_line("x" * 2000) == "x" * 1000 + "…"
    assert near("Calc.ad", ["Calc.add", "Calc.sub", "Log.tail"]) == "did you mean Calc.add?"
    assert near("x", []) == ""
    assert near("caLC.aDD", ["Calc.add"]) == "did you mean Calc.add?"


def test_python_source():
    assert [quoted(value) for value in ("a", "it's", 'say "x"', b"b", 1, None)] == [
        '"a"', '"it\'s"', "'say \"x\"'", 'b"b"', "1", "None",
    ]  # fmt: skip
    assert docstring("", "") == docstring("\n\n", "") == []
    assert docstring("a\n\nb\n", "  ") == ['  """a', "", "  b", '  """']
    assert bracketed("f(", ["x" * 70, "y" * 70], ")", "") == [
        "f(",
        "    " + "x" * 70 + ",",
        "    " + "y" * 70 + ",",
        ")",
    ]


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (trpc.RemoteError("x", type_name="Y"), 1, "Y: x"),
        (trpc.RemoteError("", type_name="Y"), 1, "Y"),
        (trpc.InvalidArguments("x"), 2, "x"),
        (trpc.MethodNotFound("x"), 2, "x (`trpc list URL` shows what there is)"),
        (trpc.Unauthenticated("x"), 3, "x (show who you are with --token or TRPC_TOKEN, or with --tls-cert)"),
        (trpc.Unavailable("x"), 3, "x"),
        (trpc.Overloaded("x"), 3, "x (it was not executed: try again later)"),
        (trpc.ConnectionLost("x"), 3, "x (it may have been executed)"),
        (trpc.ConnectionLost("x", maybe_executed=False), 3, "x (it was not executed)"),
        (trpc.ProtocolError("x"), 3, "x (is this the address of a trpc server, and is it with TLS, as in tls://host:port, or without?)"),
        (trpc.DeadlineExceeded("x"), 4, "x (that was a limit of the server's, not --timeout)"),
        (trpc.RPCError("x"), 1, "x"),
        (trio.TooSlowError(), 4, "TooSlowError"),
        (ExceptionGroup("", [trpc.Unavailable("x"), ExceptionGroup("", [trpc.Unavailable("y"), trpc.Unavailable("x")])]), 3, "x; y"),
        (ExceptionGroup("", [trpc.Unavailable("x"), CommandError("z", ExitCode.FAILED)]), 1, "z"),
    ],
)  # fmt: skip
def test_errors(error, code, text, capsys):
    found = explained(error)
    found.show()
    assert (found.code, capsys.readouterr().err) == (code, f"trpc: {text}\n")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("x. If it is of a CA of your own: ssl_context=ssl.create_default_context(cafile='ca.pem')", "x. If it is of a CA of your own: --tls-ca FILE"),
        ("x: it asks for a certificate, see ssl_context.load_cert_chain()", "x: it asks for a certificate, see --tls-cert"),
        ("the server asks for credentials, such as trpc.connect(url, token=...)", "the server asks for credentials"),
    ],
)  # fmt: skip
def test_advice_for_python_is_for_a_shell_here(text, shown):
    assert explained(trpc.Unavailable(text)).message == shown
    library = "".join(path.read_text() for path in pathlib.Path(trpc.__file__).parent.glob("_*.py"))
    assert text[-30:].rpartition("trpc")[2] in library


def test_that_nothing_was_executed_is_said_only_of_calls():
    assert explained(trpc.ConnectionLost("x"), executes=False).hint == ""


async def test_a_server_that_is_silent_is_left_at_once(tmp_path, autojump_clock):
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
        listener.listen()
        start = trio.current_time()
        with trio.move_on_after(1):
            async with Target(url=f"unix://{tmp_path}/socket").connected() as client:
                await services_of(client)
        assert trio.current_time() - start == pytest.approx(1)


def test_mistakes_of_the_program_are_not_explained():
    assert explained(ValueError()) is None
    assert explained(ExceptionGroup("", [ValueError(), trpc.Unavailable("x")])) is None

    async def fails(_):
        raise ZeroDivisionError

    with pytest.raises(BaseExceptionGroup):
        run(fails)


def test_interrupts():
    async def interrupted(_):
        raise KeyboardInterrupt

    with pytest.raises(CommandError) as raised:
        run(interrupted)
    assert raised.value.code == 130


def test_in_another_thread_there_are_no_signals():
    done = []

    async def command(_):
        done.append(threading.current_thread())

    thread = threading.Thread(target=run, args=[command])
    thread.start()
    thread.join()
    assert done == [thread]


def test_without_reflection_everything_is_for_what_it_says():
    bound = bind(["1", "a=2", "b:=3", "c == d"], None)
    assert [given.text for given in bound.args] == ["1", "c == d"]
    assert {name: (given.text, given.is_json) for name, given in bound.kwargs.items()} == {
        "a": ("2", False),
        "b": ("3", True),
    }


def test_signatures():
    parameters = [
        {"name": "a", "kind": "positional", "type": "int", "is_stream": False},
        {"name": "b", "kind": "keyword", "type": "Any", "is_stream": False, "default": "1"},
    ]
    assert signature_text("f", {"parameters": parameters, "returns": "None"}) == "f(a: int, /, *, b=1) -> None"
    assert signature_text("f", {"parameters": parameters[:1], "returns": "None"}) == "f(a: int, /) -> None"


def test_json_of_keys_that_are_bytes():
    assert json_bytes({b"a": [{b"\xff": 1, "c": b"d"}]}) == b'{"YQ==":[{"/w==":1,"c":"ZA=="}]}'


def test_json_of_odd_numbers():
    assert (
        json_bytes({"a": [None, math.nan], "b": -math.inf, "c": b"d"}) == b'{"a":[null,NaN],"b":-Infinity,"c":"ZA=="}'
    )
    assert json_bytes({"a": (None, 1.5, "null")}) == b'{"a":[null,1.5,"null"]}'


def test_json_of_keys_that_it_cannot_have():
    with pytest.raises(CommandError, match="the result cannot be written as JSON"):
        json_bytes({None: 1})


class Full(io.RawIOBase):
    """As a disk is."""

    def writable(self):
        return True

    def write(self, _):
        raise OSError(errno.ENOSPC, "No space left on device")


def test_output_that_cannot_be_written(monkeypatch):
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(Full(), write_through=True))
    with pytest.raises(CommandError, match="cannot write to standard output: No space left on device"):
        print_text("x")


def test_other_errors_of_the_system_are_mistakes(monkeypatch):
    def fails(*_, **__):
        raise PermissionError(errno.EPERM, "x")

    monkeypatch.setattr(_app.app, "main", fails)
    with pytest.raises(PermissionError):
        invoke("list")


class Fake:
    """A client of a server that answers like that."""

    def __init__(self, answer):
        self.answer = answer

    def proxy(self, _):
        return self

    async def activity(self, _):
        await self.answer()

    async def ping(self):
        await self.answer()


def raising(exc):
    async def answer():
        raise exc

    return answer


async def test_top_of_a_server_that_does_not_know_who_asks():
    with pytest.raises(CommandError) as raised:
        await _top._Look(Fake(raising(trpc.Unauthenticated("x"))), Target(url="")).activity()
    assert (raised.value.code, raised.value.message) == (3, "x")
    assert "--token" in raised.value.hint


@pytest.mark.parametrize(
    ("answer", "waited", "said"),
    [
        (trio.lowlevel.checkpoint, 0, "the handler has ended"),
        (trio.lowlevel.checkpoint, 10, "the handler may still be running"),
        (trio.sleep_forever, 0, "the handler may still be running"),
        (raising(trpc.ConnectionLost("x")), 0, "the connection was lost, and the handler may still be running"),
    ],
)
async def test_what_became_of_a_handler(answer, waited, said, autojump_clock):
    made = _call._Call(Fake(answer), "", None, False, False)
    assert await made._what_became(trio.current_time() - waited) == said


def test_targets(tmp_path, monkeypatch):
    (tmp_path / "broken_target.py").write_text("import nowhere_at_all")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ModuleNotFoundError, match="nowhere_at_all"):
        services_at("broken_target:X")
    (tmp_path / "good_target.py").write_text("made = {'a': 1, 'b': 2}\nitem = object()\nimport functools\nf = dict")
    assert names_of(services_at("good_target:made")) == "a, b"
    assert services_at("good_target:f") == {}
    assert names_of([1, "a"]) == "int, str"


CALL = {"method": "A.b", "age": 1.0, "time_left": -1.0, "state": "cancelling"}


def test_the_table_of_top():
    connections = [
        {"peer": "unix:x\x1b", "pid": 7, "age": 5.0, "in_flight": 3, "calls": [CALL]},
        {"peer": "p", "pid": None, "age": 5.0, "in_flight": 0, "calls": []},
    ]
    activity = {"version": "1", "pid": 1, "age": 1.0, "connections": 2, "calls": 3, "busiest": connections}
    assert lines_of(activity)[1:] == [
        "A.b\tunix:x\\x1b (pid 7)\t1.0s\tover\tcancelling",
        "… 2 more\tunix:x\\x1b (pid 7)\t\t\t",
        "\tp\t5.0s\t\t",
    ]
    from rich.console import Console

    console = Console(width=80)
    with console.capture() as capture:
        console.print(screen_of("u", activity, 80, 7))
    assert "… and 1 lines more" in capture.get()
    assert "TIME LEFT" in capture.get()
    with console.capture() as capture:
        console.print(screen_of("u", activity, 40, 7))
    head, row = capture.get().splitlines()[2:4]
    assert [head.split(), row.split()[0], row.split()[-1]] == [["METHOD", "PEER", "AGE", "STATE"], "A.b", "cancelling"]


def test_describe_in_a_terminal(url):
    with in_terminal("describe", url, "Shop", NO_COLOR="1") as terminal:
        assert terminal.end() == 0
    assert "Sells items." in terminal.text
    done = invoke("call", url, "Shop.untyped")
    assert error_of(done).startswith("there is no argument for 'value'")


@pytest.mark.parametrize("command", ["ping", "list", "call"])
@pytest.mark.parametrize("given", ["option", "variable"])
def test_a_token_that_is_empty(command, given, monkeypatch):
    arguments = ["A.b"] if command == "call" else []
    if given == "option":
        arguments += ["--token", ""]
    else:
        monkeypatch.setenv("TRPC_TOKEN", "")
    text = error_of(invoke(command, "tcp://127.0.0.1:1", *arguments))
    assert text.startswith("the token is empty, as a setting is that was forgotten")
