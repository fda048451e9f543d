"""What computes in a simulated host: one engine, one thread, batches in the order of their effects."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from p2pinfer.effects import DropCache, ExtendCache, OpenCache
from p2pinfer.ids import SessionId

__all__ = ["EngineFactory", "SimEngine", "SimWorker"]


class SimEngine(Protocol):
    """An engine that says how long it would have taken instead of taking it."""

    def open_cache(self, session: SessionId, positions_max: int) -> None:
        """Make room for a session."""
        ...

    def extend_cache(self, session: SessionId, positions_max: int) -> None:
        """Let a session reach more positions."""
        ...

    def run(self, batch: tuple[Any, ...]) -> tuple[tuple[Any, ...], float]:
        """Return the results in the batch's order, and the seconds that they took."""
        ...

    def drop_cache(self, session: SessionId) -> None:
        """Give the room back; an unknown session is ignored."""
        ...


EngineFactory = Callable[[], SimEngine]


class SimWorker:
    """The one thread in front of an engine: a batch begins when the one before it has ended.

    Caches die with the process, so a host has a new worker and a new engine in every life.
    """

    __slots__ = ("_free_at_s", "engine")

    def __init__(self, engine: SimEngine) -> None:
        self.engine = engine
        self._free_at_s = 0.0

    def change_cache(self, effect: OpenCache | ExtendCache | DropCache) -> None:
        """Open, extend or drop a session's cache; takes no time."""
        if isinstance(effect, OpenCache):
            self.engine.open_cache(effect.session, effect.positions_max)
        elif isinstance(effect, ExtendCache):
            self.engine.extend_cache(effect.session, effect.positions_max)
        else:
            self.engine.drop_cache(effect.session)

    def run(self, batch: tuple[Any, ...], now: float) -> tuple[tuple[Any, ...], float]:
        """Return the results and when they are there."""
        results, duration_s = self.engine.run(batch)
        self._free_at_s = max(self._free_at_s, now) + duration_s
        return results, self._free_at_s
