"""The programs in the documentation are typed: a type checker finds nothing in them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.pages import ROOT, blocks_of, pages

pytest.importorskip("mypy")

# A page at a time, as several have a file of one name; in one process, with what it has learned of the package.
EACH = """
import sys
from mypy import api

status = 0
for folder in sys.argv[2:]:
    report, errors, code = api.run(["--config-file=", "--cache-dir", sys.argv[1], folder])
    if code:
        print(report, errors)
        status = 1
sys.exit(status)
"""


def test_programs_are_typed(tmp_path):
    files = []
    for page in pages():
        for block in blocks_of(page):
            if block.language != "python":
                continue
            name, _, addition = block.caption.partition(", ")
            folder = tmp_path / page.stem.replace("-", "_")
            if addition.startswith("with "):
                continue  # one of several programs side by side; they are files of their own, and checked as such
            if name and name.endswith(".py"):
                path = folder / Path(name).name
                # As the last time that the page shows it.
                before = path.read_text() if path.exists() and addition else ""
                text = block.text + before if addition == "at the top" else f"{before}\n{block.text}"
            elif "trio.run(" in block.text:
                path, text = folder / f"line_{block.line}.py", block.text
            else:
                continue
            folder.mkdir(exist_ok=True)
            path.write_text(text)
            files.append(path)
    assert len(files) > 40
    folders = sorted({str(path.parent) for path in files})
    result = subprocess.run(
        [sys.executable, "-c", EACH, str(tmp_path / "cache"), *folders],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
