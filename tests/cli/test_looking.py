"""``trpc list``, ``describe``, ``ping``, ``top``, ``bench`` and completion, with a real server."""

import io
import json
import re

import pytest
from cli.running import error_of, invoke
from cli.terminal import environment, in_terminal

import trpc
from trpc._cli import _app


def test_list(trpc_):
    done = trpc_("list")
    assert done.code == 0
    assert "Streams.count(stop: int = -1) -> AsyncIterator[int]" in done.lines
    assert trpc_("list", "Streams").lines == [line for line in done.lines if line.startswith("Streams.")]
    (service,) = trpc_("list", "Shop", "--json").json
    assert (service["name"], service["doc"]) == ("Shop", "Sells items.")
    assert error_of(trpc_("list", "Shap")) == "there is no service 'Shap' (did you mean Shop?)"
    assert "there is Shop, Streams, Trouble" in error_of(trpc_("list", "Qwx"))


def test_describe(trpc_, url):
    blocks = trpc_("describe", "Shop.draw").output.split("\n\n")
    assert blocks[:2] == [
        "Shop.draw(shape: Circle | Point, at: Pair, options: Options | None = None) -> Circle | Point | None",
        "  idempotent: running it twice does no harm",
    ]
    assert blocks[-1] == f"  trpc call {url} Shop.draw SHAPE AT\n"
    types = {block.split()[0].rstrip(":"): block for block in blocks[2:-1]}
    assert types.keys() == {"Circle", "Color", "Options", "Pair", "Point"}
    assert types["Circle"].splitlines() == [
        "  Circle: struct (tag=circle, tag_field=type)",
        "      center: Point",
        "      line_width: int (sent as 'lineWidth') = 1",
        "      is_filled: bool (sent as 'filled?') = False",
    ]
    assert types["Color"] == "  Color: Enum\n      RED = 'red'\n      DEEP_BLUE = 'deep blue'"
    assert "      color: Color (not required)" in types["Options"]
    assert trpc_("describe", "Shop.draw", "--json").json["idempotent"] is True
    assert "Deprecated: use new" in trpc_("describe", "Trouble.old").output
    assert "runs in a thread" in trpc_("describe", "Shop.factor").output
    text = trpc_("describe", "Streams.double").output
    assert "gives a stream: its items are printed as they come" in text
    assert "numbers: AsyncIterable[int] | None = None is a stream: - reads its items" in text
    text = trpc_("describe", "Streams").output
    assert text.startswith("Streams\n")
    assert "      Counts, for ever if it is not told how far." in text
    assert trpc_("describe", "Shop", "--json").json["name"] == "Shop"
    assert "did you mean Shop.draw?" in error_of(trpc_("describe", "Shop.drow"))


def test_ping(trpc_):
    done = trpc_("ping", "-c", "3", "-i", "1ms")
    assert [re.sub(r"[\d.]+ ms", "T", line).partition(" ")[2] for line in done.lines[:3]] == [
        "seq=1 time=T",
        "seq=2 time=T",
        "seq=3 time=T",
    ]
    assert done.lines[4] == "3 sent, 3 received, 0 lost"
    assert re.fullmatch(r"min \S+ ms  p50 \S+ ms  p90 \S+ ms  p99 \S+ ms  p99.9 \S+ ms  max \S+ ms", done.lines[5])
    *pings, summary = map(json.loads, trpc_("ping", "-c", "2", "-i", "1ms", "--json").lines)
    assert [ping["seq"] for ping in pings] == [1, 2]
    assert summary["received"] == 2
    assert summary["ms"]["min"] <= summary["ms"]["p50"] <= summary["ms"]["max"]
    done = trpc_("ping", "-c", "1", "--timeout", "0.0000001")
    assert "no answer within 1e-07 s" in done.output
    assert error_of(done, 4) == "1 of 1 pings were lost"


def test_top_without_a_terminal(trpc_, url):
    done = trpc_("top")
    assert done.lines[0].startswith(f"{url}, trpc {trpc.__version__}, pid ")
    assert done.lines[1] == "METHOD\tPEER\tAGE\tTIME LEFT\tSTATE"
    activity = trpc_("top", "--once", "--json").json
    assert activity["version"] == trpc.__version__


def test_bench(trpc_):
    done = trpc_("bench", "Shop.echo", "1", "--calls", "20", "--connections", "2", "--json")
    assert done.code == 0
    assert {"method": "Shop.echo", "calls": 20, "connections": 2, "failed": {}}.items() <= done.json.items()
    lines = trpc_("bench", "Streams.count", "5", "--calls", "4", "--concurrency", "2").lines
    assert lines[0].startswith("4 calls of Streams.count in ")
    assert lines[1].startswith("20 items: ")
    assert lines[3].startswith("min ")
    assert sum(int(line.split()[-1]) for line in lines[5:]) == 4
    assert trpc_("bench", "Streams.total", "[1, 2]", "--calls", "3").code == 0


def test_bench_of_what_fails(trpc_):
    done = trpc_("bench", "Trouble.busy", "--calls", "5")
    assert "5 failed: Overloaded" in done.lines
    assert error_of(done, 1) == "5 of 5 calls have failed"
    done = trpc_("bench", "Trouble.wait", "--timeout", "20ms", "--duration", "10ms", "--json")
    assert done.json["failed"] == {"timeout": 10}
    assert error_of(trpc_("bench", "Shop.factor")).endswith("(Shop.factor(n: int) -> list[int])")
    assert error_of(trpc_("bench", "Shop.load", "-1")).startswith("Shop.load: argument 'size': Expected `int` >= 0")
    assert "cannot be sent in each call" in error_of(trpc_("bench", "Streams.total", "-"))


@pytest.fixture
def without_reflection():
    with in_terminal("serve", "cli.services:all_services", "--no-reflection") as terminal:
        terminal.wait_for("\n")
        yield terminal.text.split()[-1]


def test_a_server_that_does_not_tell(without_reflection):
    url = without_reflection
    for command in (["list"], ["describe", "Shop"], ["stub"], ["top"]):
        assert "the server does not tell what it" in error_of(invoke(command[0], url, *command[1:]))
    assert invoke("call", url, "Shop.untyped", "1", "x", "k=[2]", "--json").json == [1, ["x"], {"k": [2]}]
    assert invoke("call", url, "Streams.count", "2", "--stream").lines == ["0", "1"]
    done = invoke("call", url, "Streams.count", "2")
    assert error_of(done) == "Streams.count gives a stream (--stream prints its items)"
    assert "(is this the address of a trpc server" in error_of(invoke("call", url, "Shop.echo", "1", "--stream"), 3)
    assert "Shop.nothing" in error_of(invoke("call", url, "Shop.nothing"))
    assert error_of(invoke("call", url, "Shop.factor", "a")).startswith("Shop.factor: argument 'n': Expected `int`")
    assert invoke("bench", url, "Shop.echo", "1", "--calls", "3").code == 0
    assert complete(f"trpc call {url} ") == []


def complete(line, **others):
    """What is offered behind the words of a command line."""
    words = line.split(" ")
    output = io.TextIOWrapper(io.BytesIO(), write_through=True)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {
            "_TRPC_COMPLETE": "bash_complete",
            "COMP_WORDS": line,
            "COMP_CWORD": len(words) - 1,
            **others,
        }.items():
            patch.setenv(name, str(value))
        patch.setattr("sys.stdout", output)
        with pytest.raises(SystemExit):
            _app.run_app([])
    return [offered.partition(",")[2] for offered in output.buffer.getvalue().decode().split()]


def test_completion(url):
    assert complete("trpc ca") == ["call"]
    assert complete(f"trpc call {url} Streams.c") == ["Streams.count"]
    assert complete(f"trpc list {url} S") == ["Shop", "Streams"]
    assert complete("trpc call tcp://127.0.0.1:1 ") == []
    assert complete("trpc call x ") == []
    assert "_trpc_completion()" in invoke("completion", "bash").output
    assert "#compdef trpc" in invoke("completion", "zsh").output
    assert "complete --no-files --command trpc" in invoke("completion", "fish").output
    assert error_of(invoke("completion", "zsch")) == "'zsch' is no shell that is known (did you mean zsh?)"
    assert environment()["TERM"]


def test_the_program_without_a_command():
    """It shows its help, as it is laid out."""
    done = invoke()
    assert (done.code, done.output) == (2, "")
    assert done.errors == invoke("--help").output


def test_the_program_itself():
    assert invoke("--version").output == f"trpc {trpc.__version__}\n"
    assert "Exit codes: 0 done" in " ".join(invoke("--help").output.split())
    assert "No such command 'pin'" in error_of(invoke("pin"))
    for command in _app.app.commands:
        assert invoke(command, "--help").code == 0
