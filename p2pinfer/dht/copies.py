"""The copies of what a put stores: who was sent which, who keeps it, and what stood in the way."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from p2pinfer.dht.records import Place, place_of
from p2pinfer.dht.store import Placed
from p2pinfer.ids import PeerId
from p2pinfer.wire.messages.dht import DhtRecord, Stored

__all__ = ["Copies"]


@dataclass(slots=True)
class Copies:
    """Copies of some records."""

    records: tuple[DhtRecord, ...]
    expected: int = -1
    """The sequence that the record replaces, where it must; -1 for no such condition."""
    on_end: Callable[[Copies, float], None] | None = None
    """Told when all is answered or given up, and when."""
    conflict: DhtRecord | None = None
    """The newest record that stood in the way at a holder."""
    _given: set[tuple[PeerId, bytes]] = field(default_factory=set)
    _under_way: dict[int, tuple[DhtRecord, ...]] = field(default_factory=dict)
    _kept: Counter[tuple[bytes, Place]] = field(default_factory=Counter)

    @property
    def is_waiting(self) -> bool:
        """Whether some holder has not answered yet."""
        return bool(self._under_way)

    @property
    def count(self) -> int:
        """Holders of the record that has the fewest."""
        return min((self._kept[each.key, place_of(each)] for each in self.records), default=0)

    @property
    def is_clear(self) -> bool:
        """Whether no holder has anything later than what a compare-and-swap is to replace."""
        return self.conflict is None or self.conflict.sequence <= self.expected

    @property
    def has_won(self) -> bool:
        """Whether a compare-and-swap took place, as far as anybody knows."""
        return self.count > 0 and self.is_clear

    def end(self, now: float) -> None:
        """All is answered, or given up."""
        if self.on_end is not None:
            self.on_end(self, now)

    def give(self, peer: PeerId, key: bytes) -> list[DhtRecord]:
        """The records of a key that a peer was not given yet; they count as given now."""
        if (peer, key) in self._given:
            return []
        self._given.add((peer, key))
        return [record for record in self.records if record.key == key]

    def sent(self, query_id: int, records: Sequence[DhtRecord]) -> None:
        """Some are on their way, in the StoreRecords of that number."""
        self._under_way[query_id] = tuple(records)

    def lost(self, query_id: int) -> None:
        """Nothing was heard of them."""
        self._under_way.pop(query_id, None)

    def answered(self, query_id: int, message: Stored) -> None:
        """A holder says what it keeps, and what stood in the way."""
        records = self._under_way.pop(query_id, ())
        for record, code in zip(records, message.codes, strict=False):
            if code == "stored":
                self.kept(record)
        places = {(each.key, place_of(each)) for each in records}
        for record in message.held:
            if (record.key, place_of(record)) in places:
                self._note_conflict(record)

    def placed(self, record: DhtRecord, placed: Placed) -> None:
        """This peer itself keeps it, or has what stood in the way."""
        if placed.code == "stored":
            self.kept(record)
        elif placed.held is not None:
            self._note_conflict(placed.held)

    def _note_conflict(self, record: DhtRecord) -> None:
        if self.conflict is None or record.sequence > self.conflict.sequence:
            self.conflict = record

    def kept(self, record: DhtRecord) -> None:
        """Somebody keeps a copy."""
        self._kept[record.key, place_of(record)] += 1
