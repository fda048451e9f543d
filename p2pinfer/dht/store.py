"""Records that this peer keeps for others: bounded, and gone when they expire.

Rules: a quota for each owner, each key and for all; where one is full, the record that expires first goes,
the new one included. Sub-keys with an expiry of their own follow hivemind's `dht/storage.py`.

Later additions have their place here: keeping records on disk, and handing them on when the region changes.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable, Iterator

from p2pinfer.dht.config import RecordConfig
from p2pinfer.dht.records import Place, Standing, compare, is_alive, is_timely, place_of
from p2pinfer.ids import PeerId
from p2pinfer.wire.messages.dht import DhtRecord

__all__ = ["RecordStore"]

_Where = tuple[bytes, Place]


class RecordStore:
    """Live records by key.

    Invariant: the counts of each owner and key agree with the records, and no quota is exceeded.
    """

    def __init__(self, config: RecordConfig) -> None:
        self._config = config
        self._by_key: dict[bytes, dict[Place, DhtRecord]] = {}
        self._by_owner: dict[PeerId, set[_Where]] = {}
        self._count = 0
        self._by_expiry: list[tuple[int, int, _Where]] = []
        self.counters: Counter[str] = Counter()

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[DhtRecord]:
        for records in self._by_key.values():
            yield from records.values()

    def put(self, record: DhtRecord, now: float) -> str:
        """Keep a record, or say why not: one of the codes of `Stored`."""
        code = self._put(record, now)
        self.counters[code] += 1
        return code

    def get(self, key: bytes, now: float) -> list[DhtRecord]:
        """The live records under a key."""
        return [record for record in self._by_key.get(key, {}).values() if is_alive(record, now)]

    def remove(self, key: bytes, place: Place) -> None:
        """Let go of one record, if it is here."""
        records = self._by_key.get(key)
        if records is None or records.pop(place, None) is None:
            return
        if not records:
            del self._by_key[key]
        owned = self._by_owner[place[1]]
        owned.discard((key, place))
        if not owned:
            del self._by_owner[place[1]]
        self._count -= 1

    def sweep(self, now: float) -> int:
        """Let go of what has expired; return how many that were."""
        removed = 0
        while self._by_expiry and self._by_expiry[0][0] <= now * 1000:
            expires_ms, sequence, (key, place) = heapq.heappop(self._by_expiry)
            record = self._by_key.get(key, {}).get(place)
            # A newer record may stand there by now: its own line follows later.
            if record is not None and (record.expires_ms, record.sequence) == (expires_ms, sequence):
                self.remove(key, place)
                removed += 1
        self.counters["expired"] += removed
        return removed

    def _put(self, record: DhtRecord, now: float) -> str:
        if not is_timely(record, self._config, now):
            return "void"
        place = place_of(record)
        known = self._by_key.get(record.key, {}).get(place)
        if known is not None and is_alive(known, now):
            standing = compare(record, known)
            if standing is not Standing.NEWER:
                return {Standing.SAME: "stored", Standing.OLDER: "old", Standing.FORK: "fork"}[standing]
        self.remove(record.key, place)  # which leaves room for its successor in every quota
        victims = self._victims(record, now)
        if victims is None:
            return "full"
        for victim in victims:
            self.remove(victim.key, place_of(victim))
            self.counters["evicted"] += 1
        self._insert(record)
        return "stored"

    def _insert(self, record: DhtRecord) -> None:
        place = place_of(record)
        where = (record.key, place)
        self._by_key.setdefault(record.key, {})[place] = record
        self._by_owner.setdefault(place[1], set()).add(where)
        self._count += 1
        heapq.heappush(self._by_expiry, (record.expires_ms, record.sequence, where))
        if len(self._by_expiry) > 2 * self._config.records_count_max:
            self._by_expiry = [(kept.expires_ms, kept.sequence, (kept.key, place_of(kept))) for kept in self]
            heapq.heapify(self._by_expiry)

    def _victims(self, record: DhtRecord, now: float) -> list[DhtRecord] | None:
        """The records that must go for `record` to fit every quota; None where it should rather go itself."""
        limits = self._config
        victims: list[DhtRecord] = []
        owned = self._by_owner.get(record.owner, set())
        if len(owned) >= limits.per_owner_count_max:
            victims.append(_first_to_expire(self._by_key[key][place] for key, place in owned))
        under_key = self._by_key.get(record.key, {})
        freed = sum(victim.key == record.key for victim in victims)
        if len(under_key) - freed >= limits.per_key_count_max:
            victims.append(_first_to_expire(under_key.values()))
        if self._count - len(victims) >= limits.records_count_max:
            self.sweep(now)
            earliest = self._earliest() if self._count >= limits.records_count_max else None
            if earliest is not None:
                victims.append(earliest)
        return None if any(victim.expires_ms >= record.expires_ms for victim in victims) else victims

    def _earliest(self) -> DhtRecord | None:
        while self._by_expiry:
            expires_ms, sequence, (key, place) = self._by_expiry[0]
            record = self._by_key.get(key, {}).get(place)
            if record is not None and (record.expires_ms, record.sequence) == (expires_ms, sequence):
                return record
            heapq.heappop(self._by_expiry)  # the line of a record that was replaced or evicted
        return None


def _first_to_expire(records: Iterable[DhtRecord]) -> DhtRecord:
    return min(records, key=lambda record: (record.expires_ms, place_of(record)))
