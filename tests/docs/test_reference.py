"""The reference has every public name, and the docstring of each says what callers need to know."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import re
import textwrap

import pytest

import trpc
import trpc.testing
from tests.docs.pages import DOCS, ROOT

# "As serve_tcp": what is said there holds here too.
_REFERENCE = re.compile(r"\b(?:[Aa]s|see|short form of)\b[^.]*?:(?:func|meth|class):`~?([\w.]+)`", re.DOTALL)
# They have no docstring of their own that Python keeps.
_DATA = {"__version__", "Interceptor", "Proceed"}
# Without an underscore since other modules of the package call them; the reference does not have them.
_INTERNAL = {"Server.serve_listeners", "Server.serve_stream", "Server.serve_one"}


@dataclasses.dataclass(frozen=True)
class Name:
    """A public function, class, method or property."""

    module: object
    path: str
    value: object

    @property
    def doc(self) -> str:
        return inspect.getdoc(self.value) or ""

    @property
    def function(self):
        value = self.value.fget if isinstance(self.value, property) else self.value
        return inspect.unwrap(value)

    @property
    def docs(self) -> list[str]:
        """Its docstring, and those that it refers to."""
        found, wanted = [self.doc], _REFERENCE.findall(self.doc)
        seen = set()
        while wanted:
            name = wanted.pop().removeprefix("trpc.")
            if name in seen:
                continue
            seen.add(name)
            owner = self.path.partition(".")[0]
            for path in (name, f"{owner}.{name}"):
                first = path.removeprefix("testing.").partition(".")[0]
                value = self.module if hasattr(self.module, first) else trpc
                for part in path.removeprefix("testing.").split("."):
                    value = getattr(value, part, None)
                if value is not None:
                    found.append(inspect.getdoc(value) or "")
                    wanted += _REFERENCE.findall(found[-1])
        return found


def names():
    for module in (trpc, trpc.testing):
        for name in module.__all__:
            value = getattr(module, name)
            if name in _DATA or not (inspect.isclass(value) or callable(value)):
                continue
            yield Name(module, name, value)
            if inspect.isclass(value):
                for attribute, member in vars(value).items():
                    path = f"{name}.{attribute}"
                    if (
                        not attribute.startswith("_")
                        and path not in _INTERNAL
                        and (inspect.isfunction(member) or isinstance(member, property))
                    ):
                        yield Name(module, path, member)


def label(name):
    return f"{name.module.__name__}.{name.path}"


NAMES = list(names())
# By their source, as classes say that they are of the module that users import them from.
DEFINITIONS = {
    node.name: node
    for path in sorted((ROOT / "trpc").rglob("*.py"))
    for node in ast.parse(path.read_text()).body
    if isinstance(node, ast.ClassDef)
}
CLASSES = [name for name in NAMES if inspect.isclass(name.value)]
CALLABLE = [name for name in NAMES if not inspect.isclass(name.value) and not isinstance(name.value, property)]
ASYNC = [
    name
    for name in CALLABLE
    if inspect.iscoroutinefunction(name.value)
    or inspect.isasyncgenfunction(name.function)
    or "AsyncContextManager" in str(inspect.signature(name.value).return_annotation)
]


def parametrized(names):
    return pytest.mark.parametrize("name", [pytest.param(name, id=label(name)) for name in names])


@parametrized(NAMES)
def test_there_is_a_docstring(name):
    assert name.doc
    assert name.doc.splitlines()[0].endswith((".", ":", "``", ")")), "the first line is a sentence"


@parametrized(CALLABLE)
def test_every_parameter_is_described(name):
    parameters = [parameter for parameter in inspect.signature(name.function).parameters if parameter != "self"]
    missing = [
        parameter
        for parameter in parameters
        if not any(
            re.search(rf"^ +\*{{0,2}}{parameter}: |``[^`]*\b{parameter}\b[^`]*``", doc, re.MULTILINE)
            for doc in name.docs
        )
    ]
    # A single one may be spoken of in a sentence.
    if len(parameters) == 1 and re.search(rf"\b{parameters[0]}\b", name.doc):
        missing = []
    # Those of a method that is called by its name are that method's.
    if {"args", "kwargs"} <= set(parameters) or "values" in parameters:
        missing = [parameter for parameter in missing if parameter not in {"args", "kwargs", "values", "method"}]
    assert not missing


@parametrized(CALLABLE)
def test_what_is_raised_is_described(name):
    tree = ast.parse(textwrap.dedent(inspect.getsource(name.function)))
    raised = {
        ast.unparse(node.exc.func).rpartition(".")[2]
        for node in ast.walk(tree)
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call)
    }
    said = "\n".join(doc.partition("Raises:")[2] for doc in name.docs)
    assert {error for error in raised if error not in said} == set()


@parametrized(ASYNC)
def test_what_a_cancel_does_is_described(name):
    assert any("cancel" in doc.lower() for doc in name.docs)


# Their fields are the options of a function, which describes them.
OPTIONS = {"ConnectOptions", "ServeOptions"}


@parametrized([name for name in CLASSES if name.path not in OPTIONS])
def test_every_field_is_described(name):
    cls = name.value
    if dataclasses.is_dataclass(cls):
        fields = [field.name for field in dataclasses.fields(cls)]
    elif issubclass(cls, tuple):
        fields = list(cls._fields)
    else:
        fields = list(vars(cls).get("__annotations__", ())) if issubclass(cls, dict) else []
    definition = DEFINITIONS[name.path]
    # A text below the field is a description, too.
    below = {
        ast.unparse(field.target)
        for field, text in zip(definition.body, definition.body[1:], strict=False)
        if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant)
    }
    missing = [
        field
        for field in fields
        if not field.startswith("_") and field not in below and not re.search(rf"^ +{field}: ", name.doc, re.MULTILINE)
    ]
    assert not missing


def documented(page):
    """The names of which a page has the docstrings."""
    return set(
        re.findall(
            r"^\.\. (?:auto\w+|py:data):: (?:trpc|trpc\.testing)\.(\w+)(?:\(.*)?$",
            (DOCS / page).read_text(),
            re.MULTILINE,
        )
    )


def test_the_reference_has_every_public_name():
    assert documented("reference.md") == set(trpc.__all__)


def test_the_reference_of_testing_has_every_public_name():
    assert documented("reference-testing.md") == set(trpc.testing.__all__)
