"""``trpc stub``: what it writes, from a server and from one that means harm."""

import json
import re
import subprocess
import sys
import typing

import pytest
from cli.running import error_of, invoke
from cli.terminal import ROOT, environment
from cli.test_type_expressions import info

import trpc._cli._type_expressions
from trpc._cli._exits import CommandError
from trpc._cli._stub_source import stub_of


def method(name, *parameters, returns="None", doc="", is_stream=False, deprecated=None):
    """A method of a service: each parameter is (name, type), (name, type, default) or has a kind as well."""
    return {
        "name": name,
        "doc": doc,
        "parameters": [
            {
                "name": parameter[0],
                "kind": parameter[3] if len(parameter) > 3 else "any",
                "type": parameter[1],
                "is_stream": parameter[1].startswith("Async"),
                **({"default": parameter[2]} if len(parameter) > 2 and parameter[2] is not None else {}),
            }
            for parameter in parameters
        ],
        "returns": returns,
        "is_stream": is_stream,
        "in_thread": False,
        "idempotent": False,
        "deprecated": deprecated,
    }


def service(name, *methods, types=(), doc=""):
    return {"name": name, "doc": doc, "methods": list(methods), "types": list(types)}


GOOD = """
import decimal

import trio

import trpc
from stub import Circle, Color, Dashed, Item, Node, Pair, Place, Point, Shop, Streams


async def main(url: str) -> None:
    async with trpc.connect(url) as client:
        shop = client.proxy(Shop)
        text: str = await shop.describe(Item("a", decimal.Decimal(1), Color.RED, place=Place("s")))
        print(text)
        print(await shop.draw(Circle(Point(1.0), 3, is_filled=True), Pair(1)))
        print(await shop.draw(Point(1.0), Pair(1, "x"), {"limit": 3}))
        print((await shop.kinds(1, flag=True))["flag"])
        print(await shop.list({1: [Item("a", decimal.Decimal(1), Color.RED)]}))
        dashed: Dashed = {"a-b": 3}
        print(await shop.dashed(dashed))
        print(await shop.tree(Node(1, Node(2)), {Point(1.0)}))
        streams = client.proxy(Streams)
        async with streams.count(3) as numbers:
            print([number + 1 async for number in numbers])
        async with streams.double(by=3) as none:
            print([number async for number in none])


if __name__ == "__main__":
    import sys

    trio.run(main, sys.argv[1])
"""

SHOWN = """\
a for 1, RED, [], Place(shelf='s', row=1)
Circle(center=Point(x=1.0, y=0.0), line_width=3, is_filled=True)
Point(x=1.0, y=0.0)
True
[Item(name='a', price=Decimal('1'), color=<Color.RED: 'red'>, tags=[], place=None, uuid=None)]
{'a-b': 3}
3
[1, 2, 3]
[]
"""

# Each line with a mistake is marked.
BAD = """
import trpc
from stub import Shop, Streams


async def main(url: str) -> None:
    async with trpc.connect(url) as client:
        shop = client.proxy(Shop)
        await shop.describe("a")  # wrong
        await shop.kinds()  # wrong
        await shop.nothing()  # wrong
        text: str = await shop.save(b"")  # wrong
        print(text)
        async with client.proxy(Streams).count("3") as numbers:  # wrong
            print(numbers)
"""


@pytest.fixture(scope="module")
def folder(url, tmp_path_factory):
    folder = tmp_path_factory.mktemp("stub")
    assert invoke("stub", url, "-o", folder / "stub.py").code == 0
    (folder / "good.py").write_text(GOOD)
    (folder / "bad.py").write_text(BAD)
    (folder / "pyrightconfig.json").write_text(json.dumps({"typeCheckingMode": "strict", "extraPaths": [str(ROOT)]}))
    return folder


def run(folder, *args):
    environ = environment(MYPYPATH=str(ROOT))
    done = subprocess.run(
        [sys.executable, *args], cwd=folder, capture_output=True, text=True, check=False, timeout=100, env=environ
    )
    return done.returncode, done.stdout + done.stderr


def test_a_client_with_nothing_but_the_stub(folder, url):
    assert run(folder, "good.py", url) == (0, SHOWN)


def places(output):
    """The lines of bad.py in the output of a type checker."""
    return sorted({int(line.split(":")[1]) for line in output.splitlines() if "bad.py:" in line and "error" in line})


WRONG = [number for number, line in enumerate(BAD.splitlines(), 1) if "# wrong" in line]


def test_mypy_accepts_it_and_refuses_wrong_calls(folder):
    pytest.importorskip("mypy")
    cache = ["--cache-dir", str(folder / "cache")]
    code, output = run(
        folder,
        "-m",
        "mypy",
        "--strict",
        "--follow-imports",
        "silent",
        "--config-file",
        "",
        *cache,
        "stub.py",
        "good.py",
        "bad.py",
    )
    assert code == 1
    assert "stub.py:" not in output
    assert "good.py:" not in output
    assert places(output) == WRONG


def test_pyright_accepts_it_and_refuses_wrong_calls(folder):
    pytest.importorskip("pyright")
    code, output = run(folder, "-m", "pyright", "--pythonpath", sys.executable, "stub.py", "good.py", "bad.py")
    assert code == 1, output
    assert "stub.py:" not in output, output
    assert "good.py:" not in output, output
    assert places(output) == WRONG


def test_ruff_has_nothing_to_do(folder):
    pytest.importorskip("ruff")
    assert run(folder, "-m", "ruff", "format", "--isolated", "--line-length", "120", "--check", "stub.py")[0] == 0
    selected = ["--isolated", "--line-length", "120", "--select", "E,W,F,I,UP"]
    assert run(folder, "-m", "ruff", "check", *selected, "stub.py")[0] == 0


def test_options(url, tmp_path):
    source = invoke("stub", url, "Streams").output
    assert "class Streams(Protocol):" in source
    assert "class Shop" not in source
    assert source == invoke("stub", url, "Streams").output
    assert source.startswith('"""Interfaces of Streams: written by `trpc stub` from a running server."""\n')
    assert "Deprecated: use new" in invoke("stub", url, "Trouble").output
    assert "did you mean Streams?" in error_of(invoke("stub", url, "Stream"))
    assert "cannot write /nowhere/x: No such file or directory" in error_of(invoke("stub", url, "-o", "/nowhere/x"))


def compiled(*services):
    source = stub_of(list(services)).source
    # It does nothing but define and import: what is hostile in it is not run.
    namespace = {"__name__": "stub"}
    sys.modules["stub"] = type(sys)("stub")
    try:
        exec(compile(source, "stub", "exec"), namespace)
    finally:
        del sys.modules["stub"]
    return source, namespace


HOSTILE = [
    "x(): pass\nimport os",
    'x"""\nimport os\n"""',
    "class",
    "",
    "ﬁ",
    "a" * 1000,
    "\x1b[31m",
    "__init__",
    "_private",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_names_and_texts(text):
    types = [
        info(text, "dataclass", ("x", "int")),
        info("Good", "dataclass", (text, "int"), ("x", text)),
        info("Keys", "typeddict", (text, "int"), ("x", text, "...")),
        info("Tagged", "struct", ("x", "int", text), tag=text, tag_field=text),
        info("Members", "enum", (text, "int", "1"), base="Enum"),
        info("Strings", "enum", ("x", "str", repr(text)), base="StrEnum"),
        info("Based", "enum", ("x", "int", "1"), base=text),
        info("Tuple", "namedtuple", (text, "int"), ("y", "int", text)),
    ]
    types[1]["doc"] = types[5]["doc"] = text
    source, namespace = compiled(
        service(
            text,
            method(text),
            method("good", ("x", text, text), returns=text, doc=text, deprecated=text),
            method("names", (text, "int")),
            method(
                "uses", ("x", "list[Keys | Tagged]"), ("y", "Good | Members | Based | Tuple | None"), returns="Strings"
            ),
            types=types,
            doc=text,
        )
    )
    assert "os" not in namespace
    assert "\x1b" not in source
    if text not in {"", "_private"}:
        assert "def good(self, x: Any = ...) -> Any:" in source


def test_texts_that_end_a_docstring():
    for text in ('ends with "', "ends with \\", '"""', '\\"""', 'a\n"""\nb', "\r\u2028\x0c"):
        compiled(service("A", method("f", doc=text), doc=text))


def test_names_that_are_taken():
    item, other = info("Item", "dataclass", ("x", "int")), info("Item", "dataclass", ("x", "str"))
    source, namespace = compiled(
        service("trpc", method("f", ("x", "Item")), types=[item]),
        service("shop.Orders", method("f", ("x", "Item")), types=[other]),
        service("Orders", method("f", ("x", "Item")), types=[item]),
        service("list", method("Any", ("x", "Any")), method("AsyncIterable", ("x", "AsyncIterable[int]"))),
        service("1-2", method("datetime", ("x", "datetime.date"), returns="datetime.date")),
    )
    assert source.count("class Item:") == 1
    assert "class OrdersItem:" in source or "class Item2:" in source
    assert '@trpc.service(name="shop.Orders")\nclass Orders(Protocol):' in source
    assert '@trpc.service(name="Orders")\nclass Orders2(Protocol):' in source
    assert '@trpc.service(name="1-2")\nclass Service(Protocol):' in source
    assert "x: typing.Any" in source
    assert "x: collections.abc.AsyncIterable[int]" in source
    assert "-> _datetime.date: ..." in source
    assert namespace["Orders"].f
    several, _ = compiled(*(service(f"{letter}.X", method("X2")) for letter in "abcd"))
    assert re.findall("class (.*)\\(", several) == ["X", "X3", "X4", "X5"]


MODULES = ["builtins", "collections", "dataclasses", "datetime", "decimal", "enum", "msgspec", "trpc", "typing", "uuid"]


@pytest.mark.parametrize("name", [*MODULES, "list", "dict", "Any", "NotRequired", "AsyncIterator"])
def test_members_that_are_called_as_what_the_stub_uses(name):
    text = "list[datetime.date | uuid.UUID | decimal.Decimal] | None"
    types = [
        info(kind.capitalize(), kind, (name, "list[int]", "[]"), (f"_{name}", "Any", "[]"), ("x", text, "[]"))
        for kind in ("dataclass", "struct")
    ]
    types += [info("Typed", "typeddict", (name, "int", "1"), ("x", text, "..."))]
    types += [info("Tuple", "namedtuple", (name, text), ("x", text))]
    source, namespace = compiled(
        service(
            "A",
            method(name, returns=text),
            method("later", ("x", text), ("y", "AsyncIterable[Any]"), returns="AsyncIterator[Any]", is_stream=True),
            *(method(f"uses{number}", returns=one["name"]) for number, one in enumerate(types)),
            types=types,
        )
    )
    assert namespace["Dataclass"]().x == namespace["Struct"]().x == []
    for one in ("Dataclass", "Struct", "Typed"):
        assert "x" in typing.get_type_hints(namespace[one], namespace)
    # Where it is a method's, the decorators below are not to be of it.
    assert ("@trpc.method" in source) == (name != "trpc")


def test_letters_of_any_script():
    source, namespace = compiled(
        service("Größen", method("größe", ("é", "Maß | None")), types=[info("Maß", "dataclass", ("länge", "float"))])
    )
    assert "async def größe(self, é: Maß | None) -> None: ..." in source
    assert namespace["Größen"]
    assert namespace["Maß"](1.0).länge == 1.0


def test_what_is_left_out_is_said(monkeypatch, url):
    services = [service("A", *(method(f"a-{number}") for number in range(7)), method("b"))]
    assert stub_of(services).left_out == [f"A.a-{number}" for number in range(7)]

    async def fake(_):
        return services

    monkeypatch.setattr("trpc._cli._stub.required_services_of", fake)
    done = invoke("stub", url)
    assert done.code == 0
    assert done.errors == (
        "trpc: warning: left out, as Python cannot have it: A.a-0, A.a-1, A.a-2, A.a-3, A.a-4 and 2 more\n"
    )


def test_classes_that_several_services_have():
    def types(last):
        return [
            info("Outer", "dataclass", ("x", "Inner")),
            info("Inner", "dataclass", ("x", "Outer | Last | None")),
            info("Last", "dataclass", ("x", last)),
        ]

    same, _ = compiled(*(service(name, method("f", ("x", "Outer")), types=types("int")) for name in "AB"))
    assert same.count("@dataclasses.dataclass") == 3
    # What refers to a class that is another one is another one itself.
    other, namespace = compiled(
        *(service(name, method("f", ("x", "Outer")), types=types(t)) for name, t in (("A", "int"), ("B", "str")))
    )
    assert other.count("@dataclasses.dataclass") == 6
    assert typing.get_type_hints(namespace["BInner"], namespace)["x"] == namespace["BOuter"] | namespace["BLast"] | None


def test_work_grows_with_the_answer_and_not_faster(monkeypatch):
    """Each text is parsed a few times, however the classes refer to each other."""
    calls = []
    count = trpc._cli._type_expressions._check
    monkeypatch.setattr("trpc._cli._type_expressions._check", lambda *args: (calls.append(args), count(*args)))
    size = 300
    chain = [info(f"T{number}", "dataclass", ("a", f"T{(number + 1) % size}")) for number in range(size)]
    stub_of([service(name, method("f", ("x", "T0")), types=chain) for name in "AB"])
    assert len(calls) < 20 * size


def test_a_default_that_is_no_number_is_none():
    source, _ = compiled(
        service("A", method("f", ("x", "float", "1e999")), types=[info("B", "dataclass", ("x", "float", "1e999"))])
    )
    assert "inf" not in source.partition("class")[2].replace("Interfaces", "")


def test_parameters():
    source, _ = compiled(
        service(
            "A",
            method("f", ("a", "int", None, "positional"), ("b", "int", "1", "any"), ("c", "int", None, "keyword")),
            method("g", ("a", "int", None, "positional"), ("b", "int", None, "**")),
            method("h", ("a", "int", None, "*"), ("b", "int", "2", "keyword")),
            method("i", ("a", "str", "1"), ("b", "list[int]", "[]"), ("c", "float", "1"), ("d", "None", "None")),
            method("j", ("a", "int", "1"), ("b", "int")),
            method("k", ("a", "int", None, "*"), ("b", "int", None, "*")),
            method("l", ("self", "int")),
            method("m", ("a", "int", None, "positional")),
            method("n", returns="int", is_stream=True),
            method("o" * 60, ("a" * 30, "int"), ("b" * 30, "int")),
        )
    )
    for line in (
        "async def f(self, a: int, /, b: int = 1, *, c: int) -> None: ...",
        "async def g(self, a: int, /, **b: int) -> None: ...",
        "async def h(self, *a: int, b: int = 2) -> None: ...",
        "async def i(self, a: str = ..., b: list[int] = ..., c: float = 1, d: None = None) -> None: ...",
        '# Left out, as Python cannot have it: "j"',
        '# Left out, as Python cannot have it: "k"',
        '# Left out, as Python cannot have it: "l"',
        "async def m(self, a: int, /) -> None: ...",
        "def n(self) -> AsyncIterator[int]: ...",
        f"async def {'o' * 60}(\n        self, {'a' * 30}: int, {'b' * 30}: int\n    ) -> None: ...",
    ):
        assert line in source


def test_classes():
    source, namespace = compiled(
        service(
            "A",
            method("f", ("x", "set[B]"), ("y", "dict[C, list[D]]"), ("z", "F")),
            types=[
                info(
                    "B",
                    "dataclass",
                    ("x", "int", "1"),
                    ("y", "list[C]", "[]"),
                    ("z", "dict[str, int]", "{}"),
                    ("w", "int"),
                ),
                info(
                    "C",
                    "struct",
                    ("x", "int", "b'a'"),
                    ("y", "list[int]", "[]"),
                    tag=3,
                    tag_field="kind",
                    array_like=True,
                ),
                info("D", "namedtuple", ("x", "int", "1"), ("y", "str")),
                info("E", "dataclass"),
                info("F", "typeddict"),
            ],
        )
    )
    assert "@dataclasses.dataclass(frozen=True, kw_only=True)\nclass B:" in source
    assert 'class C(msgspec.Struct, frozen=True, tag=3, tag_field="kind", array_like=True):' in source
    assert namespace["B"](w=1) == namespace["B"](w=1)
    assert "    y: list[C] = dataclasses.field(default_factory=lambda: list[C]())" in source
    assert "    y: list[int] = msgspec.field(default_factory=list[int])" in source
    assert namespace["C"]().y == []
    assert "class E:\n    pass" in source


def test_nothing_to_write():
    source, _ = compiled(service("A"), *(service(f"Service{'x' * 30}{number}") for number in range(5)))
    assert source.startswith('"""Interfaces of services: written')


def test_what_cannot_be_written(monkeypatch):
    monkeypatch.setattr("trpc._cli._stub_source.docstring", lambda *_: ["'"])
    with pytest.raises(CommandError, match="cannot be written as Python"):
        stub_of([service("A")])
