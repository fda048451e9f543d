"""Bounds that a message's fields state in their annotations, and the tag registry.

A field says its bound with `Annotated`, as in `hidden: Annotated[bytes, Size(1 << 20)]`. What states none
has the default below. The codec refuses whatever lies outside before a core sees it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

from p2pinfer.effects import Message

__all__ = [
    "BYTES_SIZE_MAX",
    "INT_MAX",
    "INT_MIN",
    "ITEMS_COUNT_MAX",
    "TEXT_SIZE_MAX",
    "Between",
    "Count",
    "Exact",
    "Exactly",
    "Size",
    "message_types",
    "registered",
]

BYTES_SIZE_MAX = 1024
"""Bytes fields that state no `Size`."""
TEXT_SIZE_MAX = 256
"""UTF-8 bytes of text fields that state no `Size`."""
ITEMS_COUNT_MAX = 64
"""Items of tuples that state no `Count`."""
INT_MIN, INT_MAX = 0, (1 << 63) - 1
"""Integers that state no `Between`."""


@dataclass(frozen=True, slots=True)
class Size:
    """At most this many bytes, of a bytes or text field."""

    bytes_max: int


@dataclass(frozen=True, slots=True)
class Exactly:
    """Exactly this many bytes, of a bytes field."""

    bytes_count: int


@dataclass(frozen=True, slots=True)
class Count:
    """At most this many items, of a tuple field."""

    items_max: int


@dataclass(frozen=True, slots=True)
class Between:
    """A number in [low, high], of an int or float field. Floats are always finite."""

    low: float
    high: float


class Exact(Message):
    """A structure that is read with all of its fields and no more: it changes by a new tag.

    Replicas of different age apply the same log: what one of them would fill in or drop, another reads.
    """

    __slots__ = ()


_TYPES: dict[int, type[Message]] = {}

T = TypeVar("T", bound=type[Message])


def registered(message_type: T) -> T:
    """Class decorator: give the type's TAG its place in the registry.

    Raises:
        ValueError: Two types claim one tag.
    """
    holder = _TYPES.setdefault(message_type.TAG, message_type)
    if holder is not message_type:
        raise ValueError(f"tag {message_type.TAG} belongs to {holder.__name__}, not {message_type.__name__}")
    return message_type


def message_types() -> dict[int, type[Message]]:
    """Return all registered types by tag; a copy."""
    return dict(_TYPES)
