"""The command line: ``trpc``, or ``python -m trpc``."""
