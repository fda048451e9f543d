"""What the DHT does without being asked: join, look after its contacts, refresh its buckets.

Joining follows Kademlia, section 2.3: ask the bootstrap contacts, look up our own id, then refresh the
buckets out to the nearest neighbour. Departs from it:

1. The bootstrap contacts, and some of those remembered, are asked again at every refresh, since two tables
   that once lost each other would never meet again by themselves.
2. A peer that has lost everybody begins to join anew at once, through the bootstrap contacts and whoever it
   remembers, and whoever is heard of meanwhile.

This says what is due; the core does it.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Sequence

from p2pinfer.dht.config import DhtConfig
from p2pinfer.dht.remembered import Remembered
from p2pinfer.dht.table import RoutingTable
from p2pinfer.ids import Contact

__all__ = ["Upkeep"]

_BOOTSTRAP_COUNT_MAX = 64
_BOOTSTRAP_BACKOFF_MAX = 30.0
_REMEMBERED_PER_TRY_COUNT = 8
"""Remembered contacts asked with each try to join: at 2 s for the first tries, soon a live one among them."""
_REMEMBERED_PER_REFRESH_COUNT = 2
"""... and with each refresh of a peer that has joined."""


class Upkeep:
    """The plan of one peer's upkeep.

    Invariant: at most one lookup of upkeep runs at one time.
    """

    def __init__(self, table: RoutingTable, config: DhtConfig, rng: random.Random) -> None:
        self.is_joined = False
        """Whether a lookup of our own id has found anybody, and not everybody was lost since."""
        self.remembered = Remembered(table.own, table, config)
        self._table = table
        self._config = config.table
        self._rng = rng
        self._bootstrap: tuple[Contact, ...] = ()
        self._bootstrap_at: float | None = None
        self._bootstrap_tries = 0
        self._awaited_count = 0
        self._join_at = 0.0
        """The next lookup of our own id that tries to join comes no sooner."""
        self._check_at: float | None = None
        self._refresh_at: float | None = None
        self._refresh_s = self._config.refresh_first_s
        self._keys: deque[bytes] = deque()
        self._is_looking_up = False

    def set_bootstrap(self, contacts: Sequence[Contact], now: float) -> None:
        """Start to join through these contacts."""
        self._bootstrap = tuple(dict.fromkeys((*contacts, *self._bootstrap)))[:_BOOTSTRAP_COUNT_MAX]
        self._begin_to_ask(now)

    def restore(self, saved: bytes, now: float) -> tuple[Contact, ...]:
        """Start to join through those that were saved; returns them: they are candidates."""
        contacts = self.remembered.restore(saved)
        if contacts:
            self._begin_to_ask(now)
        return contacts

    def bootstrap_due(self, now: float) -> tuple[Contact, ...]:
        """Whom to ask for a way in now, if anybody."""
        if self._has_lost_all:
            self._begin_anew(now)
        if self._bootstrap_at is None or now < self._bootstrap_at:
            return ()
        backoff = min(2.0**self._bootstrap_tries, _BOOTSTRAP_BACKOFF_MAX)
        self._bootstrap_tries = min(self._bootstrap_tries + 1, 16)
        retry_s = self._config.bootstrap_retry_s * backoff
        self._bootstrap_at = now + (self._config.refresh_interval_s if self.is_joined else retry_s)
        count = _REMEMBERED_PER_REFRESH_COUNT if self.is_joined else _REMEMBERED_PER_TRY_COUNT
        asked = tuple(dict.fromkeys((*self._bootstrap, *self.remembered.choose_next(count))))
        self._awaited_count = len(asked)
        return asked

    def answered_bootstrap(self, now: float) -> None:
        """Somebody is there: look for our own neighbourhood, once the others had time to answer as well.

        From the first one's answer alone, a liar could lead the joiner to its accomplices and nobody else.
        """
        self._awaited_count -= 1
        if self._awaited_count <= 0 or self.is_joined:
            self._look_for_own()
        elif self._join_at <= now:
            self._join_at = now + self._config.bootstrap_gather_s

    def hurry_check(self, now: float) -> None:
        """The table changed: somebody may be due for a check sooner than planned."""
        soon = now + self._config.check_interval_s
        self._check_at = soon if self._check_at is None else min(self._check_at, soon)
        if self._refresh_at is None:  # the first peer of a swarm has nobody to join through
            self._refresh_at = now + self._refresh_s

    def check_due(self, now: float) -> Contact | None:
        """The contact to ping now, if any."""
        if self._check_at is None or now < self._check_at:
            return None
        contact = self._table.next_to_check(now)
        earliest = self._table.check_at
        soon = now + self._config.check_interval_s
        self._check_at = None if earliest is None else max(earliest, soon)
        return contact

    def key_due(self, now: float) -> bytes | None:
        """The key to look up now, if any; `finished` is called when that lookup has ended."""
        if self._refresh_at is not None and now >= self._refresh_at:
            self._plan_refresh(now)
            self._look_for_own()
        if self._is_looking_up:
            return None
        if self._may_join and now >= self._join_at:
            self._look_for_own()
        if not self._keys:
            return None
        self._is_looking_up = True
        self._join_at = now + self._config.bootstrap_retry_s
        return self._keys.popleft()

    def finished(self, key: bytes, found_anybody: bool, now: float) -> None:
        """The lookup of `key` has ended."""
        self._is_looking_up = False
        if key == self._table.own and found_anybody and not self.is_joined:
            self.is_joined = True
            self._plan_refresh(now)

    @property
    def deadline(self) -> float | None:
        """When something is due next."""
        if self._has_lost_all or (self._keys and not self._is_looking_up):
            return 0.0
        times = [self._bootstrap_at, self._check_at, self._refresh_at, self.remembered.deadline]
        if self._may_join and not self._is_looking_up:
            times.append(self._join_at)
        return min([at for at in times if at is not None], default=None)  # asked after every input

    @property
    def _has_lost_all(self) -> bool:
        return self.is_joined and not self._table.good_count

    @property
    def _may_join(self) -> bool:
        """Whether somebody answers, and our own neighbourhood was not looked for yet."""
        has_begun = self._refresh_at is not None or self._bootstrap_at is not None
        return has_begun and not self.is_joined and self._table.good_count > 0

    def _look_for_own(self) -> None:
        if self._table.own not in self._keys:
            self._keys.appendleft(self._table.own)

    def _begin_to_ask(self, now: float) -> None:
        self._bootstrap_at = now if self._bootstrap or len(self.remembered) else None
        self._bootstrap_tries = 0

    def _begin_anew(self, now: float) -> None:
        """Nobody answers any more: to join is urgent again."""
        self.is_joined = False
        self.remembered.begin_again()
        self._begin_to_ask(now)
        self._refresh_s = self._config.refresh_first_s
        self._refresh_at = now + self._refresh_s

    def _plan_refresh(self, now: float) -> None:
        updated_before = now - self._config.refresh_interval_s
        # A key for each bucket once: refreshes that were not done yet are the same ones.
        self._keys = deque(key for key in self._keys if key == self._table.own)
        self._keys.extend(self._table.choose_refresh_keys(updated_before, self._rng, now))
        # Spread over two fifths, so that peers that started together do not refresh together for ever.
        self._refresh_at = now + self._refresh_s * self._rng.uniform(0.8, 1.2)
        self._refresh_s = min(2 * self._refresh_s, self._config.refresh_interval_s)
