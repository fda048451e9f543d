"""The interface of every way to find peers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from p2pinfer.ids import Contact

__all__ = ["Discovery", "Live", "OnFound"]

OnFound = Callable[[Sequence[Contact]], None]
"""Told of contacts that may be members, as often as a strategy likes; the known ones are passed over."""

Live = Callable[[], Sequence[Contact]]
"""The other members that live, as this peer knows now; to be called on the event loop."""


class Discovery(Protocol):
    """One way to find peers."""

    async def run(self, found: OnFound) -> None:
        """Look for peers until cancelled."""
        ...
