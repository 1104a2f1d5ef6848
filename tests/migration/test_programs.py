"""The programs that the pages on moving from other libraries show print what the pages say."""

from __future__ import annotations

import re

import pytest

from .processes import PROGRAMS, ROOT, generate, needs, python, run, serving

# No answer is waited for, but 0.5 s of work in each of two calls.
COMMON = """\
submitted: job 1
progress: 25
progress: 50
progress: 75
progress: 100
error: there is no job 7
"""
WITH_TRPC = """\
timed out; at work in the server: 0
cancelled; at work in the server: 0
"""
WITH_GRPC = """\
timed out; at work in the server: 1
a while later: 0
cancelled; at work in the server: 1
a while later: 0
"""
WITH_THREADS = """\
timed out; at work in the server: 1
asked to stop; at work in the server: 0
"""


def test_with_trpc():
    assert run("trpc") == COMMON + WITH_TRPC


def test_with_grpc(tmp_path):
    needs("grpc_tools")
    generate(tmp_path)
    assert run("grpc", tmp_path) == COMMON + WITH_GRPC


@pytest.mark.parametrize("folder, package", [("rpyc", "rpyc"), ("pyro", "Pyro5")])
def test_with_libraries_that_have_no_cancel(folder, package):
    needs(package)
    assert run(folder) == COMMON + WITH_THREADS


NEW_CLIENT = """
import sys, trio, trpc
from jobs import Jobs

async def main():
    async with trpc.connect(sys.argv[1]) as client:
        print(await client.proxy(Jobs).submit("new"))

trio.run(main)
"""


@pytest.mark.parametrize(
    "folder, package, output",
    [("grpc", "grpc_tools", WITH_GRPC), ("rpyc", "rpyc", WITH_THREADS), ("pyro", "Pyro5", WITH_THREADS)],
)
def test_both_side_by_side(folder, package, output, tmp_path):
    """The old client, as it is, prints what it has printed before."""
    needs(package)
    if folder == "grpc":
        generate(tmp_path)
    with serving(folder, "both.py", tmp_path) as (old, new):
        assert python(folder, tmp_path)(PROGRAMS / folder / "client.py", old) == COMMON + output
        assert python("trpc")("-c", NEW_CLIENT, new) == "2\n"


@pytest.mark.parametrize(
    "page, folder, output",
    [
        ("from-grpc", "grpc", WITH_GRPC),
        ("from-rpyc", "rpyc", WITH_THREADS),
        ("from-pyro", "pyro", WITH_THREADS),
    ],
)
def test_pages_show_the_programs_and_what_they_print(page, folder, output):
    text = (ROOT / "docs" / f"{page}.md").read_text()
    shown = re.findall(r"^```\{literalinclude\} migration/(\S+)$", text, re.MULTILINE)
    there = {
        f"{name}/{file.name}"
        for name in (folder, "trpc")
        for file in (PROGRAMS / name).iterdir()
        if file.suffix in {".py", ".proto"}
    }
    assert sorted(shown) == sorted(there)
    assert f"```text\n{COMMON}{output}```" in text
    assert f"```text\n{COMMON}{WITH_TRPC}```" in text
