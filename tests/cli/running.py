"""The command line, run in this process."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import sys

from trpc._cli._app import run_app


@dataclasses.dataclass
class Done:
    """How it went."""

    code: int
    bytes: bytes
    errors: str

    @property
    def output(self):
        return self.bytes.decode()

    @property
    def lines(self):
        return self.output.splitlines()

    @property
    def json(self):
        return json.loads(self.output)


def invoke(*args, stdin=b""):
    """Runs trpc with these arguments, without a terminal."""
    output, errors = io.BytesIO(), io.StringIO()
    text = io.TextIOWrapper(output, "utf-8", write_through=True)
    before = sys.stdin
    sys.stdin = io.TextIOWrapper(io.BytesIO(stdin), "utf-8")
    try:
        with contextlib.redirect_stdout(text), contextlib.redirect_stderr(errors):
            try:
                run_app([str(arg) for arg in args])
            except SystemExit as exc:
                code = int(exc.code)
            text.flush()
    finally:
        sys.stdin = before
    return Done(code, output.getvalue(), errors.getvalue())


def error_of(done, code=2):
    """The one line of an error, without the program's name."""
    assert done.code == code, done
    assert done.errors.startswith("trpc: ")
    assert done.errors.count("\n") == 1, done.errors
    return done.errors.removeprefix("trpc: ").rstrip("\n")
