"""The first inputs: the conformance vectors, in each target's form."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

from tests.fuzz import script
from tests.fuzz.targets import ROOT, load
from trpc import _codec
from trpc._frames import PREAMBLE
from trpc._messages import Kind

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

VECTORS = ROOT / "tests" / "conformance"


def write(name: str, folder: Path) -> None:
    """Writes the seeds of a target, each to a file of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    for seed in set(_MAKERS[name]()):
        if len(seed) <= load(name).MAX_LEN:
            (folder / hashlib.sha1(seed, usedforsecurity=False).hexdigest()).write_bytes(seed)


def _load(file: str) -> dict:
    return json.loads((VECTORS / f"{file}.json").read_text())


def _bytes(hex_: str | list) -> bytes:
    if isinstance(hex_, str):
        return bytes.fromhex(hex_)
    return b"".join(
        bytes.fromhex(part) if isinstance(part, str) else bytes.fromhex(part["repeat"]) * part["times"] for part in hex_
    )


def _bodies(file: str) -> list[bytes]:
    content = _load(file)
    vectors = [*content.get("valid", ()), *content.get("invalid", ()), *content.get("vectors", ())]
    return [_bytes(vector["hex"]) for vector in vectors if "hex" in vector]


def sessions() -> Iterator[list[bytes]]:
    """What arrives in each vector that is of a whole connection, piece by piece, without the preamble and the hello."""
    for vector in _load("messages")["valid"]:
        yield [_bytes(vector["hex"])]
    for vector in _load("fragments")["received"]:
        yield [_bytes(vector["hex"])]
    for vector in _load("streams")["callee"]:
        yield [_bytes(step["send"]) for step in vector["steps"] if "send" in step]
    for session in _load("sessions")["sessions"]:
        for side in ("receive", "hex"):
            yield [_bytes(step[side]) for step in session["steps"] if side in step]
    for vector in _load("refused")["vectors"]:
        yield [_bytes(vector["hex"])]


def _for_frames() -> Iterator[bytes]:
    for pieces in sessions():
        data = b"".join(pieces)
        # No cuts, long bodies or not, with or without a preamble in front, and a look at the memory.
        yield bytes([1 | (0 if data.startswith(PREAMBLE) else 4), 0]) + data
        yield bytes([8 | (0 if data.startswith(PREAMBLE) else 4), 1, 0, 9]) + data
    yield bytes([7, 0, 30, 0xFF, 0xFF]) + bytes.fromhex("00030000 21000000 0000000000000001")


def _for_codec() -> Iterator[bytes]:
    for file in ("values", "requests", "errors", "hellos"):
        for number, body in enumerate(_bodies(file)):
            yield bytes([64, number, 0, 0]) + body
    for unit in (b"\x80", b"\x90", b"\x91", b"\x81\xa0", b"\xc1", b"\xdd\xff\xff\xff\xff"):
        for depth in (1, 64, 79):
            for times in (6, 9, 15):
                yield bytes([depth, 0, times, len(unit)]) + unit + b"\xc0"
    # Arrays that announce what does not come.
    yield bytes([64, 0, 10, 3]) + b"\xdc\x00\x80" + bytes(256)
    yield bytes([64, 0, 10, 5]) + b"\xdd\x00\x00\x04\x00"


def _for_messages() -> Iterator[bytes]:
    for number, file in enumerate(["requests", "hellos", "errors", "errors", "values"]):
        for body in _bodies(file):
            yield bytes([number]) + body
    yield bytes([2]) + _registered("fuzz.OutOfPaper", ["tray 2"], {"tray": 2, "sizes": ["A4"], "refill": 1})
    yield bytes([2]) + _registered("fuzz.NotThere", [2, "No such file", "x"], {"where": "here", "errno": 3})


def _registered(name: str, args: list, state: dict) -> bytes:
    return _codec.pack({"code": 18, "type": name, "message": "", "args": args, "state": state}, max_depth=9)


def _for_scripts() -> Iterator[bytes]:
    wait = bytes([script.ACTIONS.start, 0])
    act = b"".join(bytes([action, 3]) for action in script.ACTIONS[:8])
    for pieces in sessions():
        frames = [script.encode(script.frames_in(piece)) for piece in pieces]
        yield b"\0" + b"".join(frames)
        yield b"\x32" + b"\x07\x15\x40" + wait.join(frames) + act
        # Of this side's own there are calls and a ping before.
        yield b"\0" + bytes([script.ACTIONS[0], 0, script.ACTIONS[0], 0, script.ACTIONS[2], 0]) + wait.join(frames)
    request = script.KINDS.index(Kind.REQUEST)
    for number in range(len(script.BODIES)):
        yield bytes([0, request, 0, 0, number]) + wait
        yield bytes([0, request, 0, 0, number, *wait, script.KINDS.index(Kind.ARGUMENT_ITEMS), 0x18, 1, 3])


_MAKERS = {
    "frames": _for_frames,
    "codec": _for_codec,
    "messages": _for_messages,
    "protocol": _for_scripts,
    "connection": _for_scripts,
}
