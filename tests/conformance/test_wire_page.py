"""docs/wire-protocol.md against the vectors and the code: examples, kinds, codes, defaults."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from conformance import annotate
from conformance.vectors import LIMITS, OPENING

import trpc
from trpc._exceptions import Code
from trpc._fragments import FRAGMENTED
from trpc._frames import CONTINUED, HEADER_SIZE, MAGIC, MORE, VERSION
from trpc._messages import (
    ALWAYS_ACCEPTED,
    BODILESS,
    FRAGMENTS,
    IGNORABLE,
    ITEMS_COST,
    MAX_CREDIT,
    MAX_END_SIZE,
    MAX_STREAM,
    MAX_TIME_LEFT,
    OF_ARGUMENTS,
    STREAMS,
    UNTIL_HELLO,
    Hello,
    Kind,
    Request,
)

HERE = Path(__file__).parent
PAGE = (HERE.parents[1] / "docs" / "wire-protocol.md").read_text()
BLOCKS = dict(re.findall(r"^```hex ([\w-]+)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL))


def bytes_of(block: str) -> bytes:
    return bytes.fromhex("".join(line.partition("#")[0] for line in block.splitlines()))


def named_vectors() -> dict[str, bytes]:
    messages = json.loads((HERE / "messages.json").read_text())
    vectors = {v["name"]: bytes.fromhex(v["hex"]) for v in messages["valid"] + messages["ignored"]}
    sent = json.loads((HERE / "fragments.json").read_text())["sent"]
    fragments = {v["name"]: bytes.fromhex("".join(v["hex"])) for v in sent}
    return {**fragments, **vectors, "opening": OPENING}


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
    rows = table("## Kinds of messages", 7)
    assert {row[1].strip("`"): int(row[0], 16) for row in rows} == {kind.name: kind for kind in Kind}
    senders = {0x00: "either", 0x10: "caller", 0x20: "callee"}
    for number, name, sender, _, stream, body, terminal in rows:
        kind = Kind[name.strip("`")]
        assert senders[int(number, 16) & 0xF0] == sender
        assert (terminal == "yes") is (kind in {Kind.RESULT, Kind.ERROR, Kind.CANCELLED, Kind.EXPIRED})
        assert (body == "empty") is (kind in BODILESS)
        assert stream == ("1 to 65,535" if kind in OF_ARGUMENTS else "0")


def test_reserved_kinds_are_unknown():
    assert "The numbers 0x16\nand 0x25 are reserved" in PAGE
    assert not {0x16, 0x25} & set(Kind)
    assert not any(number & IGNORABLE for number in Kind)


def test_flags():
    rows = table("## Fragments", 3)
    assert {row[1].strip("`"): int(row[0], 16) for row in rows} == {"MORE": MORE, "CONTINUED": CONTINUED}
    assert {f"`{name}`": bit for bit, name in annotate.FLAGS.items()} == {row[1]: int(row[0], 16) for row in rows}


def test_kinds_that_may_have_fragments():
    (names,) = re.findall(r"^- Only (.*?) may have fragments\.$", PAGE, re.MULTILINE)
    assert {Kind[name] for name in re.findall(r"\w+", names) if name.isupper()} == FRAGMENTED


def test_features():
    assert [row[0].strip("`") for row in table("## Overview", 3)] == list(Hello.of(trpc.Limits()).features)
    assert {row[0].strip("`") for row in table("## Versions and features", 2)} == {FRAGMENTS, STREAMS}


def test_example_of_credit():
    (vector,) = (v for v in json.loads((HERE / "credit.json").read_text())["vectors"] if v["name"] == "worked-example")
    left = vector["stream_credit"]
    steps = iter(vector["steps"])
    for message, body, cost, after in table("### Credit", 4):
        if message.startswith("("):
            assert left <= 0
            continue
        step = next(steps)
        if message.startswith("credit"):
            assert message == f"credit {step['grant']}"
            left += step["grant"]
        else:
            assert body == f"{len(step['items']) // 2} bytes"
            assert int(cost) == step["cost"] == len(step["items"]) // 2 + ITEMS_COST
            left -= int(cost)
        assert int(after) == step["left"] == left
    assert next(steps, None) is None
    assert f"with a `stream_credit` of {vector['stream_credit']}:" in PAGE


def test_the_annotator_knows_the_kinds():
    assert {name for number, name in annotate.KINDS.items() if number in set(Kind)} == {k.name for k in Kind}


def test_error_codes():
    rows = table("## Errors", 5)
    assert {row[1].strip("`"): int(row[0]) for row in rows} == {code.name: code for code in Code}


def test_error_keys():
    keys = {row[0].strip("`") for row in table("## Errors", 4)}
    errors = json.loads((HERE / "errors.json").read_text())["vectors"]
    assert keys == {"children", "traceback", *decode(errors, "registered"), *decode(errors, "after-cancel")}


def decode(errors: list[dict], name: str) -> dict:
    (body,) = (bytes.fromhex(vector["hex"]) for vector in errors if vector["name"] == name)
    return annotate.untag(annotate.read(body))


def test_hello_keys():
    rows = table("### HELLO", 4)
    assert [row[0].strip("`") for row in rows] == list(Hello.__dataclass_fields__)


def test_request_elements():
    rows = table("### REQUEST and NOTIFY", 4)
    assert [int(row[0]) for row in rows] == list(range(len(Request._fields)))


def test_numbers():
    assert (VERSION, HEADER_SIZE, IGNORABLE, ALWAYS_ACCEPTED) == (1, 12, 0x80, 16384)
    assert trpc.Limits().max_hello_size == ALWAYS_ACCEPTED
    assert Hello(16384, 1, 64, control_burst=1, control_rate=UNTIL_HELLO.control_rate) == UNTIL_HELLO
    assert MAX_TIME_LEFT == 31_536_000
    assert MAGIC == annotate.MAGIC
    assert (ITEMS_COST, MAX_STREAM, MAX_CREDIT, MAX_END_SIZE) == (16, 65535, 2**63 - 1, 65536)
    for number in ("16,384", "31,536,000", "`max_calls` of 1", "`max_depth` of 64"):
        assert number in PAGE
    for number in ("1 to 65,535", "16 bytes more", "65,536 bytes", "2^63-1", "2^32-1"):
        assert number in PAGE


def test_the_examples_announce_what_the_page_says():
    sizes = (LIMITS.max_message_size, LIMITS.max_calls, LIMITS.max_depth, LIMITS.stream_credit)
    sentence = PAGE[PAGE.index("These are made and checked by the test suite") :].partition("\n\n")[0]
    assert [int(number.replace(",", "")) for number in re.findall(r"\b\d[\d,]*\d\b", sentence)] == list(sizes)
