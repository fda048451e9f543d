"""A hop's sessions, open and parked, and the one memory budget that they share.

Rules:

1. A session reserves, before anything is computed, the bytes of every position that it can ever reach, and
   what it costs besides.
2. A parked session is over: its cache is kept in case a chat's next turn goes on from it, and is given up,
   the one parked longest first, as soon as an open session needs the room.

Source: parked caches are the one-branch form of the radix tree of SGLang (arXiv 2312.07104), section 3.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from p2pinfer.ids import PeerId, SessionId
from p2pinfer.inference.config import HopConfig
from p2pinfer.inference.hop_session import HopSession

__all__ = ["SessionTable"]


class SessionTable:
    """Who is served here and what it may take.

    Invariant: `reserved_bytes` is the sum over all sessions in it, and at most the budget.
    """

    def __init__(self, config: HopConfig) -> None:
        self._config = config
        self._open: dict[SessionId, HopSession] = {}
        self._parked: dict[SessionId, HopSession] = {}
        self._caches: set[SessionId] = set()
        self._look_at = math.inf
        self.reserved_bytes = 0

    def __len__(self) -> int:
        return len(self._open)

    def __iter__(self) -> Iterator[HopSession]:
        """The open sessions."""
        return iter(self._open.values())

    @property
    def parked_count(self) -> int:
        """Sessions that are over and still kept."""
        return len(self._parked)

    @property
    def parked_bytes(self) -> int:
        """What of the reserved would be given up for an open session."""
        return sum(session.reserved.size_bytes for session in self._parked.values())

    @property
    def used_bytes(self) -> int:
        """What the positions computed so far take."""
        return sum(
            session.reserved.used_bytes(session.row_count)
            for sessions in (self._open, self._parked)
            for session in sessions.values()
        )

    def get(self, name: SessionId) -> HopSession | None:
        """The open session of that name."""
        return self._open.get(name)

    def is_open(self, session: HopSession) -> bool:
        """Whether this very session is open: neither over nor begun anew under the same name."""
        return self._open.get(session.id) is session

    def parked(self, name: SessionId | None, entry: PeerId | None) -> HopSession | None:
        """The parked session of that name, if it belongs to that entry peer."""
        session = self._parked.get(name) if name is not None else None
        return session if session is not None and session.place.entry.peer == entry else None

    def has_cache(self, name: SessionId) -> bool:
        """Whether a session here, of whatever name, uses the engine's cache of that name."""
        return name in self._caches

    def make_room(self, size_bytes: int) -> list[HopSession] | None:
        """Give parked sessions up until one more of that size fits; None, and none given up, if it cannot."""
        budget = self._config.memory_size_bytes_max
        if len(self._open) >= self._config.session_count_max:
            return None
        if self.reserved_bytes - self.parked_bytes + size_bytes > budget:
            return None
        given_up: list[HopSession] = []
        while self._parked and (
            self.reserved_bytes + size_bytes > budget
            or len(self._open) + len(self._parked) >= self._config.session_count_max
        ):
            oldest = next(iter(self._parked.values()))
            self.remove(oldest)
            given_up.append(oldest)
        return given_up

    def room_in_s(self, size_bytes: int, now: float) -> float:
        """Estimate when a session of that size would fit, if the open ones ran to their limits at their pace.

        At least `retry_after_s`, at most `retry_after_max_s`: it is advice for a client, not a promise.
        """
        free = self._config.memory_size_bytes_max - self.reserved_bytes + self.parked_bytes
        wait_s = 0.0
        for session in sorted(self._open.values(), key=lambda s: s.remaining_s(now)):
            if free >= size_bytes and len(self._open) < self._config.session_count_max:
                break
            wait_s = session.remaining_s(now)
            free += session.reserved.size_bytes
            if free >= size_bytes:
                break
        return min(max(wait_s, self._config.retry_after_s), self._config.retry_after_max_s)

    def add(self, session: HopSession) -> None:
        """Open a session, for which `make_room` made room."""
        self._open[session.id] = session
        self._caches.add(session.reserved.cache)
        self.reserved_bytes += session.reserved.size_bytes
        self._look_by(session)

    def park(self, session: HopSession) -> None:
        """Keep a session that is over."""
        del self._open[session.id]
        self._parked[session.id] = session
        self._look_by(session)

    def keep(self, session: HopSession) -> None:
        """Put a parked session back that was removed to count without it."""
        self._parked[session.id] = session
        self._caches.add(session.reserved.cache)
        self.reserved_bytes += session.reserved.size_bytes
        self._look_by(session)

    def orphan(self, session: HopSession, now: float) -> None:
        """The connection of the peer that opened a session has ended; it may come back."""
        session.orphaned_at = session.orphaned_at or now
        self._look_by(session)

    def remove(self, session: HopSession) -> None:
        """Forget a session, open or parked."""
        for sessions in (self._open, self._parked):
            if sessions.get(session.id) is session:
                del sessions[session.id]
                self._caches.discard(session.reserved.cache)
                self.reserved_bytes -= session.reserved.size_bytes

    def expires_at(self, session: HopSession) -> float:
        """When a session that nobody mentions is dropped."""
        if session.id in self._parked:
            return session.heard_at + self._config.parked_timeout_s
        idle_at = session.heard_at + self._config.idle_timeout_s
        if session.orphaned_at is None:
            return idle_at
        return min(idle_at, session.orphaned_at + self._config.orphan_timeout_s)

    def expired(self, now: float) -> list[HopSession]:
        """The sessions whose time is over; the caller ends them all."""
        if now < self._look_at:
            return []
        over: list[HopSession] = []
        self._look_at = math.inf
        for session in self.all():
            at = self.expires_at(session)
            if now >= at:
                over.append(session)
            else:
                self._look_at = min(self._look_at, at)
        return over

    @property
    def deadline(self) -> float | None:
        """When to ask next who has expired: never too late, and too early where sessions were used since.

        It is asked for with every input, so it does not go over the sessions.
        """
        return self._look_at if self._open or self._parked else None

    def _look_by(self, session: HopSession) -> None:
        self._look_at = min(self._look_at, self.expires_at(session))

    def all(self) -> list[HopSession]:
        """Open and parked ones."""
        return [*self._open.values(), *self._parked.values()]
