"""A simulated disk of keys and values, as a core's `Persist` sees it.

1. A write is on disk once it is synced; until then a crash may lose it.
2. At a crash the writes in flight reached the disk up to some point, drawn at random, in their order.
3. Each write replaces its value as one step, as effects.Persist promises. A crash with `torn=True` breaks
   that promise on purpose: the write at the point keeps a prefix of its new bytes. It is for cores that check
   their own values; what merely trusts its disk need not survive it.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from p2pinfer.effects import Persist
from p2pinfer.testing.latency import Latency

__all__ = ["SYNC_LATENCY", "SimDisk"]

SYNC_LATENCY = Latency(0.0005, 0.0015)
"""Seconds for one fdatasync: 0.5 to 2 ms is what common solid-state disks take (etcd, tuning guide)."""


class SimDisk:
    """Keys and values that survive crashes, writes in flight that may not, and faults on demand.

    Attributes:
        latency: What a sync takes; all `Persist` that stand together in one list share a sync.
        size_bytes_max: A write that would make the keys and values larger fails, as on a full disk.
        failing: While true every write fails, as on a broken or read-only disk.
        ends_host: The next write is the host's last: it crashes at some moment before the sync. Writes are
            short, so a crash at any time rarely meets one; this finds what is told before it is written.
    """

    def __init__(self, rng: random.Random) -> None:
        self.latency = SYNC_LATENCY
        self.size_bytes_max: int | None = None
        self.failing = False
        self.ends_host = False
        self._rng = rng
        self._synced: dict[str, bytes] = {}
        self._in_flight: tuple[Persist, ...] = ()

    @property
    def contents(self) -> dict[str, bytes]:
        """What a restart would find now; a copy."""
        return dict(self._synced)

    @property
    def size_bytes(self) -> int:
        """Bytes of the keys and values on disk."""
        return sum(len(key.encode()) + len(value) for key, value in self._synced.items())

    def write(self, batch: Sequence[Persist]) -> float:
        """Begin to write the batch in order; return the seconds until `sync` is due."""
        self._in_flight = tuple(batch)
        return self.latency.draw(self._rng)

    def choose_end(self, delay_s: float) -> float | None:
        """Return when within a write of that length the host crashes, if it is to; once."""
        if not self.ends_host:
            return None
        self.ends_host = False
        return delay_s * self._rng.random()

    def sync(self) -> str | None:
        """End the write; return the key that failed, with nothing after it written, or None."""
        batch, self._in_flight = self._in_flight, ()
        for item in batch:
            if self.failing or not self._fits(item):
                return item.key
            self._apply(item.key, item.value)
        return None

    def crash(self, *, torn: bool = False) -> None:
        """Keep a random number of the writes in flight; tear the one at the point if asked to."""
        batch, self._in_flight = self._in_flight, ()
        if not batch:
            return
        reached = self._rng.randrange(len(batch) + (0 if torn else 1))
        for item in batch[:reached]:
            self._apply(item.key, item.value)
        if torn:
            self._tear(batch[reached])

    def wipe(self) -> None:
        """Forget everything, as a replaced disk does."""
        self._synced.clear()
        self._in_flight = ()

    def put(self, key: str, value: bytes) -> None:
        """Lay a value on the disk from outside: an old format, or damage."""
        self._synced[key] = value

    def _tear(self, item: Persist) -> None:
        """Leave the old value, or a true prefix of the new one."""
        if item.value and self._rng.random() < 0.75:
            self._synced[item.key] = item.value[: self._rng.randrange(len(item.value))]

    def _fits(self, item: Persist) -> bool:
        if self.size_bytes_max is None or item.value is None:
            return True
        old = self._synced.get(item.key)
        freed = 0 if old is None else len(item.key.encode()) + len(old)
        return self.size_bytes - freed + len(item.key.encode()) + len(item.value) <= self.size_bytes_max

    def _apply(self, key: str, value: bytes | None) -> None:
        if value is None:
            self._synced.pop(key, None)
        else:
            self._synced[key] = value
