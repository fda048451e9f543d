"""The addresses that a person gave: they are said again from time to time, in case everybody went away."""

from __future__ import annotations

from collections.abc import Sequence

import trio

from p2pinfer.ids import Contact, Endpoint
from p2pinfer.runtime.discovery.api import OnFound

__all__ = ["Bootstrap"]

INTERVAL_S = 300.0
"""Between two mentions: in between the core tries what it was told by itself, while it is alone."""


class Bootstrap:
    """Fixed addresses.

    Args:
        endpoints: Numeric ones; `DnsNames` looks after names.
        interval_s: Between two mentions, seconds.
    """

    def __init__(self, endpoints: Sequence[Endpoint], *, interval_s: float = INTERVAL_S) -> None:
        self._contacts = tuple(Contact(None, each) for each in endpoints)
        self._interval_s = interval_s

    async def run(self, found: OnFound) -> None:
        """Name the addresses until cancelled."""
        while True:
            found(self._contacts)
            await trio.sleep(self._interval_s)
