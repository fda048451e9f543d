"""How much is kept of whose records, and which record gives way where that is full.

Rules:

1. There is a quota for each owner, for each address group that records came from, for each key, and for all,
   in records and in bytes. Where one is full, the record that is worth least goes, the new one included.
2. Worth: a copy kept on the path is worth less than a record that this peer answers for; then one far from
   this peer's id less than a near one, as others answer for it rather; then what expires first.
3. Under one key, whichever address group takes most gives way first, so that no group can fill a key alone.

So a flood from one owner or from one address block stays within its quota, and one with far keys pushes out
nothing that is nearer.
"""

from __future__ import annotations

import heapq
import operator
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import TypeVar

from p2pinfer.dht.config import RecordConfig
from p2pinfer.dht.records import Place, place_of, record_size_bytes
from p2pinfer.ids import PeerId
from p2pinfer.wire.messages.dht import DhtRecord

__all__ = ["Kept", "Quotas", "Worth"]

Worth = tuple[bool, int, int, Place]
"""(this peer answers for it, minus its distance, its end, its place)."""

N = TypeVar("N")
S = TypeVar("S")

_worth_of = operator.attrgetter("worth")

_STALE_LINES_COUNT = 64
"""Lines of records that are gone which a heap may have, besides as many as there are records."""


@dataclass(slots=True)
class Kept:
    """A record that is kept, and what is known of it besides."""

    record: DhtRecord
    group: str | None
    """The address group it came from; None where those do not count."""
    is_cached: bool
    """Whether it is a copy on the path of lookups: this peer is not among the k nearest to its key."""
    since: float
    """When it was stored here, seconds since the Unix epoch."""
    until_ms: int
    """When it goes: at its owner's expiry, a copy on the path rather earlier."""
    worth: Worth
    serial: int = 0
    """Counts what was ever kept."""

    @property
    def place(self) -> Place:
        """Where it stands under its key."""
        return place_of(self.record)

    @property
    def size_bytes(self) -> int:
        """What it takes, as it travels."""
        return record_size_bytes(self.record)


class Quotas:
    """What is kept, by key, owner, address group, worth and end.

    Invariant: all of these hold the same records, and no quota is exceeded between two calls of a store.
    """

    def __init__(self, config: RecordConfig) -> None:
        self.by_key: dict[bytes, dict[Place, Kept]] = {}
        self.count = 0
        self.size_bytes = 0
        self._config = config
        self._by_owner: dict[PeerId, dict[int, Kept]] = {}
        self._by_group: dict[str, dict[int, Kept]] = {}
        self._by_worth: list[tuple[Worth, int, Kept]] = []
        self._by_end: list[tuple[int, int, Kept]] = []
        self._serial = 0

    def __iter__(self) -> Iterator[Kept]:
        for under_key in self.by_key.values():
            yield from under_key.values()

    def at(self, key: bytes, place: Place) -> Kept | None:
        """What is kept there."""
        return self.by_key.get(key, {}).get(place)

    def add(self, kept: Kept) -> None:
        """Keep it; its place is free and there is room."""
        self._serial += 1
        kept.serial = self._serial
        record = kept.record
        self.by_key.setdefault(record.key, {})[kept.place] = kept
        self._by_owner.setdefault(record.owner, {})[kept.serial] = kept
        if kept.group is not None:
            self._by_group.setdefault(kept.group, {})[kept.serial] = kept
        self.count += 1
        self.size_bytes += kept.size_bytes
        heapq.heappush(self._by_worth, (kept.worth, kept.serial, kept))
        heapq.heappush(self._by_end, (kept.until_ms, kept.serial, kept))
        if len(self._by_worth) > 2 * self.count + _STALE_LINES_COUNT:
            self._by_worth = [(each.worth, each.serial, each) for each in self]
            heapq.heapify(self._by_worth)
        if len(self._by_end) > 2 * self.count + _STALE_LINES_COUNT:
            self._by_end = [(each.until_ms, each.serial, each) for each in self]
            heapq.heapify(self._by_end)

    def remove(self, kept: Kept) -> None:
        """Let go of what is kept."""
        record = kept.record
        _take(self.by_key, record.key, kept.place)
        _take(self._by_owner, record.owner, kept.serial)
        if kept.group is not None:
            _take(self._by_group, kept.group, kept.serial)
        self.count -= 1
        self.size_bytes -= kept.size_bytes

    def pop_ended(self, now_ms: float) -> Kept | None:
        """Let go of the next record whose end has come, and return it."""
        while self._by_end and self._by_end[0][0] <= now_ms:
            kept = heapq.heappop(self._by_end)[2]
            if self._is_here(kept):
                self.remove(kept)
                return kept
        return None

    def victims(self, newcomer: Kept, replaced: Kept | None) -> list[Kept] | None:
        """What must go for a newcomer to fit every quota; None where it should rather go itself.

        Args:
            newcomer: What is to be kept.
            replaced: What it replaces; its room counts as free.
        """
        limits = self._config
        free = {} if replaced is None else {replaced.serial: replaced}
        given_up = len(free)
        owned = self._by_owner.get(newcomer.record.owner, {})
        grouped = {} if newcomer.group is None else self._by_group.get(newcomer.group, {})
        for shelf, limit in ((owned, limits.per_owner_count_max), (grouped, limits.per_group_count_max)):
            rest = _without(shelf.values(), free) if len(shelf) >= limit else []
            if len(rest) >= limit and not _give_way(min(rest, key=_worth_of), newcomer, free):
                return None
        under_key = self.by_key.get(newcomer.record.key, {})
        limit = limits.per_key_count_max
        rest = _without(under_key.values(), free) if len(under_key) >= limit else []
        if len(rest) >= limit:
            least, is_rival = _least_of_the_largest_group(rest, newcomer)
            if is_rival and least.worth >= newcomer.worth:
                return None
            free[least.serial] = least
        if not self._free_total(newcomer, free):
            return None
        return list(free.values())[given_up:]

    def _free_total(self, newcomer: Kept, free: dict[int, Kept]) -> bool:
        """Add to `free` what must go for the quotas of all; say whether the newcomer is worth that."""
        limits = self._config
        bytes_free = sum(kept.size_bytes for kept in free.values())
        lines = []
        fits = True
        while fits and (
            self.count - len(free) >= limits.records_count_max
            or self.size_bytes - bytes_free + newcomer.size_bytes > limits.bytes_max
        ):
            line = heapq.heappop(self._by_worth)
            least = line[2]
            if not self._is_here(least):
                continue
            lines.append(line)
            if least.serial not in free:
                fits = _give_way(least, newcomer, free)
                bytes_free += least.size_bytes
        for line in lines:  # nothing is gone yet
            heapq.heappush(self._by_worth, line)
        return fits

    def _is_here(self, kept: Kept) -> bool:
        here = self.at(kept.record.key, kept.place)
        return here is not None and here.serial == kept.serial


def _take(index: dict[N, dict[S, Kept]], name: N, item: S) -> None:
    shelf = index[name]
    del shelf[item]
    if not shelf:
        del index[name]


def _without(shelf: Collection[Kept], free: dict[int, Kept]) -> Collection[Kept]:
    return shelf if not free else [kept for kept in shelf if kept.serial not in free]


def _give_way(least: Kept, newcomer: Kept, free: dict[int, Kept]) -> bool:
    if least.worth >= newcomer.worth:
        return False
    free[least.serial] = least
    return True


def _least_of_the_largest_group(rest: Collection[Kept], newcomer: Kept) -> tuple[Kept, bool]:
    """Who gives way under a full key, and whether the newcomer has to be worth more than it."""
    counts = Counter(kept.group for kept in rest if kept.group is not None)
    if newcomer.group is not None:
        counts[newcomer.group] += 1
    most = max(counts.values(), default=1)
    if most == 1:
        return min(rest, key=_worth_of), True
    largest = [kept for kept in rest if kept.group is not None and counts[kept.group] == most]
    is_rival = newcomer.group is not None and counts[newcomer.group] == most
    return min(largest, key=_worth_of), is_rival
