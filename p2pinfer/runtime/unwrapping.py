"""Gives callers the exception that they know, not the group that a nursery makes of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["unwrapped"]


@contextmanager
def unwrapped() -> Iterator[None]:
    """Raise the one exception inside a group, however deep it lies; a group of several stays one."""
    try:
        yield
    except BaseExceptionGroup as group:
        inner: BaseException = group
        while isinstance(inner, BaseExceptionGroup) and len(inner.exceptions) == 1:
            inner = inner.exceptions[0]
        if inner is group:
            raise
        raise inner from inner.__cause__
