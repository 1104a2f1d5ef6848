"""The pytest fixtures of :mod:`trpc.testing`; pytest finds them by itself."""

from __future__ import annotations
