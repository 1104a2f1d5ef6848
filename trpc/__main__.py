"""``python -m trpc``, and the program ``trpc``."""

from __future__ import annotations

import sys
from typing import Final

_EXTRA: Final = ("click", "rich")


def main() -> None:
    """Runs the command line, and ends the process with its exit code."""
    try:
        from ._cli._app import run_app  # noqa: PLC0415 - it is an extra, which may be missing
    except ModuleNotFoundError as exc:
        if (exc.name or "").partition(".")[0] not in _EXTRA:
            raise
        print("trpc: the command line needs the extra: pip install 'trio-trpc[cli]'", file=sys.stderr)  # noqa: T201
        sys.exit(2)
    run_app()


if __name__ == "__main__":
    main()
