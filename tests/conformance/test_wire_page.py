"""docs/wire-protocol.md against the vectors and the code: examples, kinds, codes, defaults."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from conformance import annotate

import trpc
from trpc._exceptions import Code
from trpc._frames import HEADER_SIZE, MAGIC, VERSION
from trpc._messages import ALWAYS_ACCEPTED, IGNORABLE, MAX_TIME_LEFT, UNTIL_HELLO, Hello, Kind
from trpc._protocol import _BODILESS as BODILESS
from trpc._protocol import Protocol

HERE = Path(__file__).parent
PAGE = (HERE.parents[1] / "docs" / "wire-protocol.md").read_text()
BLOCKS = dict(re.findall(r"^```hex ([\w-]+)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL))


def bytes_of(block: str) -> bytes:
    return bytes.fromhex("".join(line.partition("#")[0] for line in block.splitlines()))


def named_vectors() -> dict[str, bytes]:
    messages = json.loads((HERE / "messages.json").read_text())
    vectors = {v["name"]: bytes.fromhex(v["hex"]) for v in messages["valid"] + messages["ignored"]}
    return {**vectors, "opening": Protocol(trpc.Limits()).opening()}


def table(heading: str, columns: int) -> list[list[str]]:
    """Rows of the first table of that many columns below a heading."""
    rows: list[list[str]] = []
    section = PAGE[PAGE.index(f"\n{heading}\n") :]
    for line in section.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("|") and len(cells) == columns:
            rows.append(cells)
        elif rows:
            break
    return rows[2:]


def test_page_has_examples_of_all_kinds():
    kinds = {frame_kind for block in BLOCKS.values() for frame_kind in re.findall(r"# kind: (\w+)", block)}
    assert {kind.name for kind in Kind} <= kinds


@pytest.mark.parametrize("name", BLOCKS)
def test_example_is_the_vector_of_that_name(name):
    assert bytes_of(BLOCKS[name]) == named_vectors()[name]


@pytest.mark.parametrize("name", BLOCKS)
def test_every_byte_of_an_example_is_annotated_right(name):
    assert BLOCKS[name] == annotate.annotate(bytes_of(BLOCKS[name]))


def test_kinds():
    rows = table("## Kinds of messages", 6)
    assert {row[1].strip("`"): int(row[0], 16) for row in rows} == {kind.name: kind for kind in Kind}
    senders = {0x00: "either", 0x10: "caller", 0x20: "callee"}
    for number, name, sender, _, body, terminal in rows:
        assert senders[int(number, 16) & 0xF0] == sender
        assert (terminal == "yes") is (Kind[name.strip("`")] >= 0x20)
        assert (body == "empty") is (Kind[name.strip("`")] in BODILESS)


def test_kinds_of_streams_are_free():
    rows = table("### Feature `streams`", 5)
    numbers = {int(row[0], 16): row[1].strip("`") for row in rows}
    assert len(numbers) == 8
    assert not set(numbers) & set(Kind)
    assert not any(number & IGNORABLE for number in numbers)
    assert all(annotate.KINDS[number] == name for number, name in numbers.items())


def test_the_annotator_knows_the_kinds():
    assert {name for number, name in annotate.KINDS.items() if number in set(Kind)} == {k.name for k in Kind}


def test_error_codes():
    rows = table("## Errors", 5)
    assert {row[1].strip("`"): int(row[0]) for row in rows} == {code.name: code for code in Code}


def test_hello_keys():
    rows = table("### HELLO", 4)
    assert {row[0].strip("`") for row in rows} == {*Hello.__dataclass_fields__, "features"}


def test_request_elements():
    rows = table("### REQUEST and NOTIFY", 4)
    assert [int(row[0]) for row in rows] == list(range(5))


def test_numbers():
    assert (VERSION, HEADER_SIZE, IGNORABLE, ALWAYS_ACCEPTED) == (1, 12, 0x80, 16384)
    assert trpc.Limits().max_hello_size == ALWAYS_ACCEPTED
    assert Hello(16384, 1, 64) == UNTIL_HELLO
    assert MAX_TIME_LEFT == 31_536_000
    assert MAGIC == annotate.MAGIC
    for number in ("16,384", "31,536,000", "`max_calls` of 1", "`max_depth` of 64"):
        assert number in PAGE
