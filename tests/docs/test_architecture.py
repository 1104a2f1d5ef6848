"""The table of modules in the architecture has all of them."""

from __future__ import annotations

import re

from tests.docs.pages import DOCS, ROOT

# The page says what they are in other words.
_NOT_NAMED = {"__main__", "_version"}


def test_every_module_is_in_the_table():
    text = (DOCS / "architecture.md").read_text()
    table = text[: text.index("## One call")]
    named = set(re.findall(r"`(\w+)`", "\n".join(line for line in table.splitlines() if line.startswith("|"))))
    there = {
        path.stem
        for path in (ROOT / "trpc").iterdir()
        if path.suffix == ".py" or (path.is_dir() and (path / "__init__.py").exists())
    }
    assert there - _NOT_NAMED - named == set()
    # Nor does it have one that is gone.
    columns = re.findall(r"^\|[^|]*\|([^|]*)\|", table, re.MULTILINE)
    assert {name for column in columns for name in re.findall(r"`(\w+)`", column)} - there == set()
