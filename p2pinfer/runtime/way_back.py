"""Keeps the addresses of live members, so that a peer that was killed finds back by itself."""

from __future__ import annotations

import logging

import trio

from p2pinfer.errors import StorageError
from p2pinfer.runtime.composition import Parts

__all__ = ["WayBack"]

_log = logging.getLogger(__name__)

REMEMBER_DELAY_S = 1.0
"""How soon a change of the members is kept for the next start; changes in between are gathered."""


class WayBack:
    """The members' addresses in a peer's home."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._changed = trio.Event()

    def changed(self) -> None:
        """The members are others than before."""
        self._changed.set()

    async def run(self) -> None:
        """Keep what has changed, until cancelled."""
        while True:
            await self._changed.wait()
            await trio.sleep(REMEMBER_DELAY_S)
            self._changed = trio.Event()
            await trio.to_thread.run_sync(self.keep)

    def keep(self) -> None:
        """Keep the addresses as they are now. Blocks on the disk."""
        core = self._parts.core
        own = core.contact.endpoint
        addresses = [record.endpoint for record in core.swim.alive() if record.endpoint != own]
        if not addresses:
            return  # alone, the earlier ones are the only way back
        try:
            self._parts.home.remember(addresses)
        except StorageError as error:
            _log.warning("the members' addresses were not kept: %s", error)
