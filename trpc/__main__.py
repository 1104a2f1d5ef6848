"""``python -m trpc``, and the program ``trpc``."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Final, NoReturn

if TYPE_CHECKING:
    from collections.abc import Callable

_EXTRA: Final = ("click", "rich")


def main() -> None:
    """Runs the command line, and ends the process with its exit code."""
    try:
        _program()()
    except KeyboardInterrupt:
        # While it is imported, which takes a moment. Later, the program says it itself.
        _end("cancelled", 130)


def _program() -> Callable[[], None]:
    try:
        from ._cli._app import run_app  # noqa: PLC0415 - it is an extra, which may be missing
    except ModuleNotFoundError as exc:
        if (exc.name or "").partition(".")[0] not in _EXTRA:
            raise
        _end("the command line needs the extra: pip install 'trio-trpc[cli]'", 2)
    return run_app


def _end(message: str, code: int) -> NoReturn:
    print(f"trpc: {message}", file=sys.stderr)  # noqa: T201 - what else prints may be missing
    sys.exit(code)


if __name__ == "__main__":
    main()
