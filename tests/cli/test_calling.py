"""``trpc call`` from the arguments to the exit code, with a real server."""

import json
import socket
import threading

import pytest
from cli.running import error_of, invoke

from trpc._cli._exits import CommandError
from trpc._cli._input import whole_of


def test_arguments_by_position_and_by_name(trpc_):
    assert trpc_("call", "Trouble.wait", "--timeout", "1ms").code == 4
    assert trpc_("call", "Streams.double", "[1,2]", "by=3").lines == ["3", "6"]
    assert trpc_("call", "Shop.untyped", "-1", "--json").json == [-1, [], {}]


def test_arguments_by_the_types_of_the_method(trpc_):
    done = trpc_(
        "call", "Shop.kinds", "5", "null", "when=2024-01-02T03:04:05", "age=5", "data=x", "choice=1", "flag=TRUE",
        "size=2", "access=3", "key=12345678123456781234567812345678",
    )  # fmt: skip
    assert done.json == {
        "number": "5",
        "text": "'null'",
        "when": "datetime.datetime(2024, 1, 2, 3, 4, 5)",
        "age": "datetime.timedelta(seconds=5)",
        "data": "b'x'",
        "key": "UUID('12345678-1234-5678-1234-567812345678')",
        "choice": "1",
        "flag": "True",
        "size": "<Size.LARGE: 2>",
        "access": "<Access.READ|WRITE: 3>",
    }


def test_structures_are_json(trpc_):
    item = {"name": "pen", "price": "1.50", "color": "deep blue", "place": ["A", 3]}
    done = trpc_("call", "Shop.describe", json.dumps(item))
    assert done.output == "pen for 1.50, DEEP_BLUE, [], Place(shelf='A', row=3)\n"
    circle = {"type": "circle", "center": {"type": "point", "x": 1}, "lineWidth": 2, "filled?": True}
    done = trpc_("call", "Shop.draw", json.dumps(circle), "[1]", 'options:={"limit": 3}')
    assert done.json == circle | {"center": {"type": "point", "x": 1.0, "y": 0.0}}
    assert trpc_("call", "Shop.tree", '{"value": 1, "following": {"value": 2}}', '[{"x": 1}]').output == "3\n"
    assert trpc_("call", "Shop.list", '{"7": [{"name": "a", "price": "2"}]}').json[0]["name"] == "a"
    assert trpc_("call", "Shop.dashed", '{"a-b": 3}').json == {"a-b": 3}


def test_json_of_any(trpc_):
    assert trpc_("call", "Shop.echo", '{"a": 1}').json == {"a": 1}
    assert trpc_("call", "Shop.echo", "text").output == "text\n"
    assert trpc_("call", "Shop.echo", 'value:="1"', "--json").output == '"1"\n'
    assert trpc_("call", "Shop.untyped", "1", "2", "k=v").json == [1, [2], {"k": "v"}]


def test_results(trpc_):
    assert trpc_("call", "Shop.echo", "null").output == ""
    assert trpc_("call", "Shop.echo", "null", "--json").output == "null\n"
    assert trpc_("call", "Shop.echo", "1.5").output == "1.5\n"
    assert trpc_("call", "Shop.load", "2").bytes == b"\x1b[31m" * 2
    assert trpc_("call", "Shop.load", "1", "--json").json == "G1szMW0="
    assert trpc_("call", "Shop.factor", "30").json == [2, 3, 5, 6, 10, 15, 30]


def test_input_and_files(trpc_, tmp_path):
    file = tmp_path / "file"
    file.write_bytes(b"abc\n\xff")
    assert trpc_("call", "Shop.save", f"@{file}").output == "5\n"
    assert trpc_("call", "Shop.save", "-", stdin=b"1234").output == "4\n"
    assert trpc_("call", "Shop.echo", "-", stdin=b"text\r\n").output == "text\n"
    assert trpc_("call", "Shop.echo", "-", stdin=b"\xff").bytes == b"\xff"
    assert trpc_("call", "Shop.echo", "@@x").output == "@x\n"
    assert trpc_("call", "Streams.upload", "n", f"@{file}").output == "n: 5\n"
    file.write_text("1\n2.5\n")
    assert trpc_("call", "Streams.total", f"@{file}").output == "3.5\n"
    assert "cannot read /nowhere/x: No such file" in error_of(trpc_("call", "Shop.save", "@/nowhere/x"))
    assert "is not text" in error_of(trpc_("call", "Shop.factor", "-", stdin=b"\xff"))


def test_streams(trpc_):
    assert trpc_("call", "Streams.count", "3").lines == ["0", "1", "2"]
    assert trpc_("call", "Streams.total", "-", stdin=b"1\n2\n3.5").output == "6.5\n"
    assert trpc_("call", "Streams.total", "[1, 2]").output == "3.0\n"
    assert trpc_("call", "Streams.double").output == ""
    assert trpc_("call", "Streams.double", "null").output == ""
    assert trpc_("call", "Streams.upload", "n", "-", stdin=bytes(100_000)).output == "n: 100000\n"
    assert trpc_("call", "Streams.texts").bytes == b"a\x1b[31m\nraw\nnull\n"
    assert trpc_("call", "Streams.texts", "--json").lines == [r'"a\u001b[31m"', '"cmF3Cg=="', "null"]


def test_items_that_are_wrong(trpc_):
    done = trpc_("call", "Streams.total", "-", stdin=b"1\nx\n")
    assert error_of(done).startswith("argument numbers, line 2: Expected `float`")
    assert "a JSON list" in error_of(trpc_("call", "Streams.total", "1"))
    done = trpc_("call", "Streams.fail")
    assert done.output == "1\n"
    assert error_of(done, 1) == "KeyError: 'key'"


@pytest.mark.parametrize(
    ("args", "error"),
    [
        (["Shop.describ", "{}"], "there is no method 'Shop.describ' (did you mean Shop.describe?)"),
        (["describe", "{}"], "there is no method 'describe' (did you mean Shop.describe?)"),
        (["X.y"], "there is no method 'X.y' (`trpc list URL` shows what there is)"),
        (["Shop.save"], "there is no argument for 'data' (Shop.save(data: bytes) -> int)"),
        (["Shop.factor", "x"], "argument n: Expected `int`, got `str`: 'x' (Shop.factor(n: int) -> list[int])"),
        (["Shop.factor", "[1]"], "argument n: Expected `int`, got `array`: '[1]' (Shop.factor(n: int) -> list[int])"),
        (["Shop.factor", "n:=x"], "argument n: it is no JSON: 'x' (Shop.factor(n: int) -> list[int])"),
        (["Shop.factor", "1", "2"], "2 arguments are given by position, and there are 1 parameters for them"),
        (["Shop.factor", "1", "n=2"], "the argument 'n' is there twice, by position and by name"),
        (["Shop.factor", "n=1", "n=2"], "the argument 'n' is there twice"),
        (["Shop.factor", "m:=2"], "there is no parameter 'm'"),
        (["Streams.upload", "-", "-"], "standard input is for one argument, not for 'name' and 'data'"),
        (["Shop.load", "-1"], "Shop.load: argument 'size': Expected `int` >= 0 (Shop.load(size: int) -> bytes)"),
    ],
)
def test_arguments_that_are_wrong(trpc_, args, error):
    assert error_of(trpc_("call", *args)).startswith(error)


@pytest.mark.parametrize(
    ("method", "code", "error"),
    [
        ("Trouble.group", 1, r"ValueError: one line; KeyError: '\x1b[31mred'"),
        ("Trouble.late", 4, "TooSlowError (that was a limit of the server's, not --timeout)"),
        ("Trouble.busy", 1, "Overloaded: no room"),
        ("Trouble.large", 1, "the reply has 20971525 bytes, and the caller accepts 16777216"),
    ],
)
def test_handlers_that_fail(trpc_, method, code, error):
    assert error_of(trpc_("call", method), code) == error


def test_timeout(trpc_, tmp_path):
    notes = tmp_path / "notes"
    done = trpc_("call", "Trouble.wait", f"path={notes}", "--timeout", "300ms")
    assert error_of(done, 4) == "no answer within 0.3 s: the handler has ended"
    assert notes.read_text() in {"begun\nended\n", ""}


def test_deprecated_methods(trpc_):
    done = trpc_("call", "Trouble.old")
    assert (done.code, done.errors) == (0, "trpc: Trouble.old is deprecated: use new\n")


def test_nobody_listens():
    assert "nothing listens at tcp://127.0.0.1:1" in error_of(invoke("call", "tcp://127.0.0.1:1", "A.b"), 3)
    assert "nothing listens" in error_of(invoke("call", "unix:///nowhere/socket", "A.b"), 3)


@pytest.mark.parametrize(
    ("args", "error"),
    [
        ([], "Missing argument 'URL' (`trpc call --help` explains it)"),
        (["x", "y"], "'x' has the scheme ''"),
        (["tcp://x", "y"], "'tcp://x' is not of the form tcp://host:port"),
        (["tcp://127.0.0.1:1", "y", "--timeout", "0"], "Invalid value for '--timeout': '0' is not a duration above 0"),
        (["tls://127.0.0.1:1", "y", "--tls-ca", "/nowhere"], "cannot load /nowhere: No such file or directory (PEM"),
        (["tls://127.0.0.1:1", "y", "--tls-cert", "/nowhere"], "cannot load /nowhere: No such file or directory (PEM"),
        (["tls://127.0.0.1:1", "y", "--tls-key", "/nowhere"], "--tls-key is the key of a certificate"),
    ],
)
def test_command_lines_that_are_wrong(args, error):
    assert error_of(invoke("call", *args)).startswith(error)


@pytest.mark.parametrize("command", ["call", "bench"])
@pytest.mark.parametrize("option", ["--timout=2s", "-h", "-hello", "-5h", "--", "-i"])
def test_options_that_are_unknown(trpc_, command, option):
    """They are sent to no method, and none of them is a help that was asked for."""
    done = trpc_(command, "Shop.factor", option)
    if option in {"--", "-5h"}:
        assert "(Shop.factor(n: int) -> list[int])" in error_of(done)
    else:
        assert error_of(done).startswith(f"no such option: {option.partition('=')[0]} (")
        assert "-- goes before values that begin with -)" in done.errors


def test_values_that_begin_with_a_hyphen(trpc_):
    values = ["-1", "-.5", "-1e3", "-inf", "-PT5S"]
    done = trpc_("call", "Shop.untyped", *values, "--timeout", "1m", "--json")
    assert done.output == '[-1,["-.5",-1000.0,"-inf","-PT5S"],{}]\n'
    assert trpc_("call", "--json", "Shop.untyped", "--", "-h", "--json").json == ["-h", ["--json"], {}]
    assert "did you mean --json?" in error_of(trpc_("call", "Shop.untyped", "1", "--jsno"))


def test_numbers_that_json_has_not(trpc_):
    assert trpc_("call", "Streams.total", "[1e308, 1e308]").code == 1
    assert trpc_("call", "Streams.total", "-", stdin=b"inf\n").output == "Infinity\n"
    assert trpc_("call", "Streams.total", "-", "--json", stdin=b"nan\n").output == "NaN\n"


async def test_standard_input_that_is_closed(monkeypatch):
    monkeypatch.setattr("sys.stdin", None)
    with pytest.raises(CommandError, match="cannot read standard input: it is closed"):
        await whole_of(None)


def test_a_server_that_is_lost_before_the_call():
    def accept_and_close():
        listener.accept()[0].close()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=accept_and_close)
        thread.start()
        done = invoke("call", f"tcp://127.0.0.1:{listener.getsockname()[1]}", "Shop.echo", "1")
        thread.join()
    assert error_of(done, 3).endswith("(it was not executed)")
