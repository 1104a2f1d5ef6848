"""Bytes of trpc as annotated hex, as docs/wire-protocol.md shows them; and tagged JSON.

Written from the specification, with a msgpack reader of its own and without trpc: the vectors and the
page are thereby checked by two programs. A reader of a body that is not one whole value shows raw bytes.
"""

from __future__ import annotations

import struct

MAGIC = bytes.fromhex("93747270630d0a")
KINDS = {
    0x01: "HELLO",
    0x02: "PING",
    0x03: "PONG",
    0x04: "GOAWAY",
    0x10: "REQUEST",
    0x11: "NOTIFY",
    0x12: "CANCEL",
    0x13: "ARGUMENT_ITEMS",
    0x14: "ARGUMENT_END",
    0x15: "RESULT_CREDIT",
    0x20: "RESULT",
    0x21: "ERROR",
    0x22: "CANCELLED",
    0x23: "EXPIRED",
    0x24: "RESULT_ITEMS",
    0x26: "ARGUMENT_CREDIT",
    0x27: "ARGUMENT_STOP",
}
FLAGS = {0x01: "MORE", 0x02: "CONTINUED"}
_WIDTH = 16
_MARGIN = 3 * _WIDTH + 1

Line = tuple[bytes, str]


def annotate(data: bytes) -> str:
    """The bytes of a connection or of some frames, one field a line, a comment behind each."""
    lines: list[Line] = []
    if data.startswith(MAGIC):
        lines += [(data[:7], "magic"), (data[7:8], f"version: {data[7]}")]
        data = data[8:]
    while data:
        (length,) = struct.unpack(">I", data[:4])
        body = data[16 : 4 + length]
        # Of a fragment, the bytes are not a value.
        lines += _header(data[:16]) + ([(body, "  part of the body")] if data[5] else _body(body))
        data = data[4 + length :]
    return "".join(_render(*line) for line in lines)


def _header(head: bytes) -> list[Line]:
    length, kind, flags, stream, call_id = struct.unpack(">IBBHQ", head)
    return [
        (head[:4], f"length: {length}"),
        (head[4:5], f"kind: {KINDS.get(kind, 'unknown')}"),
        (head[5:6], f"flags: {', '.join(name for bit, name in FLAGS.items() if flags & bit) or flags}"),
        (head[6:8], f"stream: {stream}"),
        (head[8:16], f"id: {call_id}"),
    ]


def _body(body: bytes) -> list[Line]:
    if not body:
        return []
    try:
        lines: list[Line] = []
        end = _walk(body, 0, 1, lines)
        if end != len(body):
            raise ValueError("bytes behind the value")
    except (ValueError, IndexError, struct.error):
        return [(body, "  (not a msgpack value)")]
    return lines


def _render(data: bytes, comment: str) -> str:
    rows = [data[i : i + _WIDTH].hex(" ") for i in range(0, len(data), _WIDTH)]
    return f"{rows[0]:<{_MARGIN}}# {comment}\n" + "".join(f"{row}\n" for row in rows[1:])


def _walk(body: bytes, at: int, depth: int, lines: list[Line]) -> int:
    """Adds the lines of the value that begins at ``at``; gives where it ends."""
    kind, size, start, end = _head(body, at)
    indent = "  " * depth
    if kind in {"array", "map"}:
        noun = {"array": ("element", "elements"), "map": ("entry", "entries")}[kind][size != 1]
        lines.append((body[at:start], f"{indent}{kind} of {size} {noun}"))
        for _ in range(size * (2 if kind == "map" else 1)):
            start = _walk(body, start, depth + 1, lines)
        return start
    value = _scalar(body, at, kind, start, end)
    if kind == "str":
        shown = '"' + str(value).replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"') + '"'
    elif kind == "bin":
        shown = f"{size} bytes"
    elif kind == "scalar":
        shown = {None: "nil", True: "true", False: "false"}[value]  # type: ignore[index]
    else:
        shown = repr(value)
    lines.append((body[at:end], f"{indent}{kind} {shown}" if kind != "scalar" else f"{indent}{shown}"))
    return end


_FIXED = {
    0xCA: ("float", ">f"),
    0xCB: ("float", ">d"),
    0xCC: ("uint", ">B"),
    0xCD: ("uint", ">H"),
    0xCE: ("uint", ">I"),
    0xCF: ("uint", ">Q"),
    0xD0: ("int", ">b"),
    0xD1: ("int", ">h"),
    0xD2: ("int", ">i"),
    0xD3: ("int", ">q"),
}
_SIZED = {
    0xC4: ("bin", ">B"),
    0xC5: ("bin", ">H"),
    0xC6: ("bin", ">I"),
    0xD9: ("str", ">B"),
    0xDA: ("str", ">H"),
    0xDB: ("str", ">I"),
    0xDC: ("array", ">H"),
    0xDD: ("array", ">I"),
    0xDE: ("map", ">H"),
    0xDF: ("map", ">I"),
}
_CONSTANTS = {0xC0: None, 0xC2: False, 0xC3: True}


def _head(body: bytes, at: int) -> tuple[str, int, int, int]:
    """Kind of the value at ``at``, its size, where its contents start, and where a scalar ends."""
    first = body[at]
    if first <= 0x7F:
        return "uint", 0, at, at + 1
    if first >= 0xE0:
        return "int", 0, at, at + 1
    if first <= 0x8F:
        return "map", first & 0x0F, at + 1, at + 1
    if first <= 0x9F:
        return "array", first & 0x0F, at + 1, at + 1
    if first <= 0xBF:
        kind, size, start = "str", first & 0x1F, at + 1
    elif first in _CONSTANTS:
        return "scalar", 0, at, at + 1
    elif first in _FIXED:
        kind, form = _FIXED[first]
        return kind, 0, at + 1, at + 1 + struct.calcsize(form)
    elif first in _SIZED:
        kind, form = _SIZED[first]
        (size,) = struct.unpack_from(form, body, at + 1)
        start = at + 1 + struct.calcsize(form)
    else:
        raise ValueError(f"byte {first:#04x} is not allowed")
    if kind in {"str", "bin"} and start + size > len(body):
        raise ValueError("truncated")
    return kind, size, start, start + size


def _scalar(body: bytes, at: int, kind: str, start: int, end: int) -> object:
    if kind == "str":
        return body[start:end].decode()
    if kind == "bin":
        return body[start:end]
    if kind == "scalar":
        return _CONSTANTS[body[at]]
    if body[at] in _FIXED:
        return struct.unpack_from(_FIXED[body[at]][1], body, start)[0]
    return body[at] if body[at] <= 0x7F else body[at] - 256


def read(body: bytes) -> object:
    """The one value of a body, as tagged JSON.

    Raises:
        ValueError, IndexError, struct.error: not exactly one value.
    """
    value, end = _read(body, 0)
    if end != len(body):
        raise ValueError("bytes behind the value")
    return value


def _read(body: bytes, at: int) -> tuple[object, int]:
    kind, size, start, end = _head(body, at)
    if kind == "array":
        items: list[object] = []
        for _ in range(size):
            item, start = _read(body, start)
            items.append(item)
        return items, start
    if kind == "map":
        entries: list[list[object]] = []
        for _ in range(size):
            key, start = _read(body, start)
            value, start = _read(body, start)
            entries.append([key, value])
        return {"map": entries}, start
    return tag(_scalar(body, at, kind, start, end)), end


def tag(value: object) -> object:
    """A plain value as tagged JSON."""
    match value:
        case None | bool() | str():
            return value
        case int():
            return {"int": str(value)}
        case float():
            return {"float": repr(value)}
        case bytes():
            return {"bin": value.hex()}
        case list() | tuple():
            return [tag(item) for item in value]
        case dict():
            return {"map": [[tag(key), tag(item)] for key, item in value.items()]}
    raise TypeError(f"{type(value).__name__} is not in the data model")


def untag(value: object) -> object:
    """Tagged JSON as a plain value."""
    if isinstance(value, list):
        return [untag(item) for item in value]
    if not isinstance(value, dict):
        return value
    ((name, content),) = value.items()
    match name:
        case "int":
            return int(content)
        case "float":
            return float(content)
        case "bin":
            return bytes.fromhex(content)
        case "map":
            return {untag(key): untag(item) for key, item in content}
    raise ValueError(f"{name!r} is not a tag")
