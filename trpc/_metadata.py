"""Metadata: what travels with calls without being an argument."""

from __future__ import annotations

import contextlib
import contextvars
from typing import TYPE_CHECKING

from ._messages import MetadataValue, is_metadata_value

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping

_metadata: contextvars.ContextVar[Mapping[str, MetadataValue] | None] = contextvars.ContextVar(
    "trpc.metadata", default=None
)


@contextlib.contextmanager
def metadata(**values: MetadataValue) -> Generator[None, None, None]:
    """Calls made inside the ``with`` block carry these values, and those of the blocks around it.

    A handler reads them from ``current_call().metadata``. They go one hop: a handler that wants to pass
    them on says ``with trpc.metadata(**trpc.current_call().metadata)``.

    Raises:
        TypeError: a value is not a str, bytes, int, float, bool or None.
    """
    with replaced_metadata({**(_metadata.get() or {}), **values}):
        yield


@contextlib.contextmanager
def replaced_metadata(values: Mapping[str, MetadataValue]) -> Generator[None, None, None]:
    """Calls made inside the ``with`` block carry these values, and no others.

    Raises:
        TypeError: a value is not a str, bytes, int, float, bool or None.
    """
    for key, value in values.items():
        if not is_metadata_value(value):
            raise TypeError(f"metadata {key!r} must be a str, bytes, int, float, bool or None, not {value!r}")
    token = _metadata.set(values)
    try:
        yield
    finally:
        _metadata.reset(token)


# What the next call carries. Without a function around it, as it is asked for each call.
outgoing_metadata: Callable[[], Mapping[str, MetadataValue] | None] = _metadata.get


def context_for_calls() -> contextvars.Context:
    """A copy of the present context for handlers to start from: their own calls carry no metadata of somebody else."""
    context = contextvars.copy_context()
    if _metadata.get() is not None:
        context.run(_metadata.set, None)
    return context
