"""What ``trpc.testing`` offers, and what importing it brings along."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import trpc
import trpc.testing

ROOT = Path(trpc.testing.__file__).parent
MODULES = sorted(ROOT.glob("*.py"))


def run(code):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_all_is_sorted_and_there():
    # As ruff wants them: constants first.
    assert trpc.testing.__all__ == sorted(trpc.testing.__all__, key=lambda name: (not name.isupper(), name))
    public = {
        name for name, value in vars(trpc.testing).items() if not name.startswith("_") and not inspect.ismodule(value)
    }
    assert public == set(trpc.testing.__all__)


@pytest.mark.parametrize("name", trpc.testing.__all__)
def test_every_name_says_what_it_is_and_where_it_is_from(name):
    value = getattr(trpc.testing, name)
    assert value.__module__ == "trpc.testing"
    assert vars(value)["__doc__"] if inspect.isclass(value) else value.__doc__
    if inspect.isclass(value):
        for member_name, member in vars(value).items():
            if not member_name.startswith("_") and (inspect.isfunction(member) or isinstance(member, property)):
                assert member.__doc__, f"{name}.{member_name}"


def test_importing_trpc_does_not_bring_it():
    assert run("import sys, trpc; print('trpc.testing' in sys.modules)").strip() == "False"


def test_importing_it_needs_neither_pytest_nor_trios_testing_tools():
    code = """
import sys
sys.modules["pytest"] = sys.modules["pytest_trio"] = sys.modules["trio.testing"] = None
import trpc.testing
"""
    run(code)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_modules(path):
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text)
    assert len(text.splitlines()) <= 400
    assert ast.get_docstring(tree)
    imported = {
        name.partition(".")[0]
        for node in ast.walk(tree)
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module]
            if isinstance(node, ast.ImportFrom) and not node.level
            else []
        )
    }
    own = {"trio", "trpc"} | ({"pytest"} if path.stem == "_pytest_plugin" else set())
    assert imported <= own | set(sys.stdlib_module_names)
