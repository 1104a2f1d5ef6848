"""``python -m trpc``, and the program ``trpc``."""

from __future__ import annotations


def main() -> None:
    """Runs the command line."""
