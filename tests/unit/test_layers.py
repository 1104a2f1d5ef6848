"""The architecture: which module may import which, and what importing the package brings along."""

import ast
import json
import pathlib
import re
import subprocess
import sys

import pytest

import trpc

ROOT = pathlib.Path(trpc.__file__).parent

# From the bottom to the top. A module imports only what is in a line above its own.
LAYERS = [
    ["_version", "_unpacking", "_errors", "_hash_collisions", "_limits", "_peer", "_rate", "_listening", "_type_texts"],
    ["_activity", "_codec", "_frames", "_share", "_credentials"],
    ["_messages", "_outgoing"],
    ["_fragments", "_metadata", "_exceptions", "_interceptors", "_signature", "_socket_transport"],
    ["_protocol", "_transport", "_service", "_workers", "_relay", "_slots"],
    ["_address", "_authentication", "_descriptions", "_tls", "_writer"],
    ["_handshakes", "_host", "_insecure"],
    ["_outbox"],
    ["_pings", "_outgoing_stream", "_incoming_stream"],
    ["_call_log", "_pump", "_outgoing_call"],
    ["_acknowledgements", "_argument_streams", "_requests"],
    ["_control"],
    ["_caller"],
    ["_stream_call"],
    ["_proxy", "_outgoing_interceptors"],
    ["_client"],
    ["_context", "_incoming_call"],
    ["_callee_streams", "_reflection"],
    ["_replies"],
    ["_incoming_interceptors"],
    ["_dispatcher"],
    ["_watch"],
    ["_reader"],
    ["_connection"],
    ["_connect", "_server"],
    ["_serve", "_signals"],
    ["__init__"],
    # What only some need, and nothing above imports.
    ["testing._faults", "testing._recorded_call"],
    ["testing._direction", "testing._recorder"],
    ["testing._pipe"],
    ["testing._memory_stream"],
    ["testing._link"],
    ["testing._options"],
    ["testing._memory_server"],
    ["testing.__init__"],
    ["testing._pytest_plugin"],
    ["_cli.__init__", "_cli._durations", "_cli._text", "_cli._type_expressions", "_cli._values"],
    ["_cli._exits", "_cli._latencies", "_cli._python_source", "_cli._top_table", "_cli._types"],
    ["_cli._connecting", "_cli._input", "_cli._listeners", "_cli._output", "_cli._running"],
    ["_cli._binding", "_cli._signatures", "_cli._stub_names", "_cli._targets"],
    ["_cli._arguments", "_cli._completing", "_cli._reload", "_cli._results", "_cli._stub_classes"],
    ["_cli._bench", "_cli._call", "_cli._list", "_cli._ping", "_cli._serve", "_cli._stub_source", "_cli._top"],
    ["_cli._describe", "_cli._stub"],
    ["_cli._app"],
    ["__main__"],
]
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
MODULES = sorted(".".join(path.relative_to(ROOT).with_suffix("").parts) for path in ROOT.rglob("*.py"))
SANS_IO = ["_frames", "_codec", "_messages", "_protocol"]
EXTRAS = {"_cli": {"click", "rich", "watchfiles"}, "testing": {"pytest"}}
RUN_TIME_DEPENDENCIES = {"trio", "msgpack", "msgspec"}


def file_of(module):
    return ROOT.joinpath(*module.split(".")).with_suffix(".py")


def tree_of(module):
    return ast.parse(file_of(module).read_text(encoding="utf-8"))


def module_named(dotted):
    """The module, as in LAYERS, that is imported by a name relative to the package."""
    for name in (dotted, f"{dotted}.__init__".lstrip("."), dotted.rpartition(".")[0]):
        if name in LEVEL:
            return name
    package = dotted.rpartition(".")[0]
    return f"{package}.__init__".lstrip(".")


def names_used_at_run_time(tree):
    """Every name in the module outside of annotations. All annotations are strings: see the test of that."""
    used = set()

    class Visitor(ast.NodeVisitor):
        def visit_FunctionDef(self, node):
            for part in [*node.decorator_list, *node.args.defaults, *filter(None, node.args.kw_defaults), *node.body]:
                self.visit(part)

        visit_AsyncFunctionDef = visit_FunctionDef

        def visit_AnnAssign(self, node):
            for part in filter(None, [node.target, node.value]):
                self.visit(part)

        def visit_Name(self, node):
            used.add(node.id)

    Visitor().visit(tree)
    return used


def is_type_checking(node):
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def imports_of(module):
    """(imported module, name it is bound to, only for types) for each import, wherever it stands."""
    tree = tree_of(module)
    used = names_used_at_run_time(tree)
    for_types = {id(inner) for node in ast.walk(tree) if is_type_checking(node) for inner in ast.walk(node)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, alias.asname or alias.name.split(".")[0], id(node) in for_types
        elif isinstance(node, ast.ImportFrom):
            package = module.split(".")[:-1]
            assert node.level <= len(package) + 1, f"{module} imports from outside of the package"
            start = package[: len(package) + 1 - node.level] if node.level else []
            for alias in node.names:
                bound = alias.asname or alias.name
                only_types = id(node) in for_types and bound not in used
                if node.level:
                    inner = ".".join([*start, *filter(None, [node.module])])
                    # A name of a package, or one of its modules.
                    found = f"{inner}.{alias.name}".lstrip(".")
                    yield (
                        f"trpc.{module_named(found if found in LEVEL or not node.module else inner)}",
                        bound,
                        only_types,
                    )
                else:
                    yield node.module, bound, only_types


def test_every_module_has_its_layer():
    assert set(MODULES) <= set(LEVEL)


@pytest.mark.parametrize("module", MODULES)
def test_imports_go_downward(module):
    upward = [
        name
        for name, _, only_types in imports_of(module)
        if name.startswith("trpc.") and LEVEL[name.removeprefix("trpc.")] >= LEVEL[module] and not only_types
    ]
    assert upward == []


@pytest.mark.parametrize("module", MODULES)
def test_imports_for_types_go_downward_too(module):
    upward = [
        name
        for name, _, only_types in imports_of(module)
        if name.startswith("trpc.") and LEVEL[name.removeprefix("trpc.")] > LEVEL[module] and only_types
    ]
    assert upward == []


@pytest.mark.parametrize("module", MODULES)
def test_relative_imports_are_the_only_ones_inside_the_package(module):
    absolute = [
        node.module
        for node in ast.walk(tree_of(module))
        if isinstance(node, ast.ImportFrom) and not node.level and (node.module or "").split(".")[0] == "trpc"
    ]
    assert absolute == []


@pytest.mark.parametrize("module", [m for m in MODULES if m != "_version" and not m.endswith("__init__")])
def test_annotations_are_never_evaluated(module):
    assert any(
        isinstance(node, ast.ImportFrom) and node.module == "__future__" and node.names[0].name == "annotations"
        for node in tree_of(module).body
    )


@pytest.mark.parametrize("module", MODULES)
def test_the_codec_alone_knows_msgpack_and_msgspec(module):
    found = {name.split(".")[0] for name, _, _ in imports_of(module)} & {"msgpack", "msgspec"}
    if module.startswith("_cli."):  # it converts what is typed, and nothing that comes over the wire
        found -= {"msgspec"}
    # What comes before a conversion walks msgspec's description of the type; what bounds the decoder has it.
    known = {
        "_codec": {"msgpack", "msgspec"},
        "_hash_collisions": {"msgspec"},
        "_type_texts": {"msgspec"},
        "_unpacking": {"msgpack"},
    }
    assert found == known.get(module, set())


@pytest.mark.parametrize("module", sorted({module.split(".")[0] for module in MODULES} - {"_version"}))
def test_the_page_on_architecture_has_every_module(module):
    page = (ROOT.parent / "docs" / "architecture.md").read_text(encoding="utf-8")
    assert re.search(rf"^\|[^|]*\|[^|]*`{module}`[^|]*\|", page, re.MULTILINE)


@pytest.mark.parametrize("module", SANS_IO)
def test_the_protocol_does_no_io_and_has_no_clock(module):
    found = {name.split(".")[0] for name, _, _ in imports_of(module)}
    assert found.isdisjoint({"trio", "socket", "ssl", "select", "time", "random", "threading", "asyncio", "outcome"})


@pytest.mark.parametrize("module", MODULES)
def test_only_declared_dependencies_are_imported(module):
    # `outcome` is what Trio's own lowlevel API takes and gives, so it is there wherever Trio is.
    extra = EXTRAS.get(module.split(".")[0], set())
    allowed = RUN_TIME_DEPENDENCIES | {"outcome", "trpc"} | extra | set(sys.stdlib_module_names)
    assert {name.split(".")[0] for name, _, _ in imports_of(module)} <= allowed


@pytest.mark.parametrize("module", MODULES)
def test_no_file_is_longer_than_400_lines(module):
    assert len(file_of(module).read_text(encoding="utf-8").splitlines()) <= 400


@pytest.mark.parametrize("module", MODULES)
def test_every_module_says_what_it_is_for(module):
    if module != "_version":
        assert ast.get_docstring(tree_of(module))


IMPORT_AND_REPORT = """
import json, sys
before = set(sys.modules)
import trpc
added = {name.partition(".")[0] for name in set(sys.modules) - before}
print(json.dumps(sorted(added - set(sys.stdlib_module_names))))
"""

WITHOUT_THE_REST = """
import sys

allowed = set(sys.argv[1].split(",")) | set(sys.stdlib_module_names)

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] not in allowed:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Missing())
import trpc
assert trpc.Limits().max_calls
"""

# Trio's own dependencies on any platform and in any version that is supported.
OF_TRIO = {"attr", "attrs", "sortedcontainers", "idna", "outcome", "sniffio"}


def run(code, *args):
    done = subprocess.run([sys.executable, "-c", code, *args], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_brings_nothing_but_the_dependencies():
    added = set(json.loads(run(IMPORT_AND_REPORT)))
    # msgspec takes typing_extensions where it is installed; Cython's runtime is inside msgpack.
    added = {name for name in added if "cython" not in name} - {"typing_extensions"}
    assert {"trpc", *RUN_TIME_DEPENDENCIES} <= added <= {"trpc", *RUN_TIME_DEPENDENCIES, *OF_TRIO}


def test_importing_works_with_nothing_else_installed():
    run(WITHOUT_THE_REST, ",".join({"trpc", *RUN_TIME_DEPENDENCIES, *OF_TRIO}))


def test_importing_does_not_bring_trios_testing_tools():
    assert run("import sys, trpc; print('trio.testing' in sys.modules)").strip() == "False"
