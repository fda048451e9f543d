"""The keys of the metadata: a map in order, with revisions, and drafts of what a transaction would change.

Rules:

1. The revision counts the transactions that changed something. A key knows the revision that created it and
   the one that put it last, and how often it was put since (etcd's create_revision, mod_revision, version).
2. A transaction works on a draft. Only one that came through whole is written: whatever refuses it leaves no
   trace.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from p2pinfer.raft.metadata.limits import RECORD_OVERHEAD_BYTES, Limits
from p2pinfer.raft.refusals import refused

__all__ = ["ABSENT", "Draft", "KeySpace", "Record"]

_AFTER_ALL = "\x7f"
"""Above every character of a key."""


class Record(NamedTuple):
    """A key's value and where it came from."""

    value: bytes
    created: int
    modified: int
    version: int
    lease: int = 0


ABSENT = Record(b"", 0, 0, 0)
"""What stands for a key that is not there, where numbers are compared."""


def size_of(key: str, record: Record) -> int:
    """Return what a key counts for."""
    return len(key) + len(record.value) + RECORD_OVERHEAD_BYTES


class KeySpace:
    """All keys as of the last revision."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.revision = 0
        self.size_bytes = 0
        self._records: dict[str, Record] = {}
        self._order: list[str] = []

    def __len__(self) -> int:
        return len(self._records)

    def get(self, key: str) -> Record | None:
        """Return what stands under a key, or None."""
        return self._records.get(key)

    def keys(self, prefix: str, count_max: int | None = None) -> list[str]:
        """Return the keys that begin so, in order; at most as many as said."""
        start, end = self._range(prefix)
        return self._order[start : end if count_max is None else min(end, start + count_max)]

    def count(self, prefix: str) -> int:
        """Return how many keys begin so."""
        start, end = self._range(prefix)
        return end - start

    def items(self) -> Iterator[tuple[str, Record]]:
        """Give all keys in order, as they are now: what is written later does not show."""
        records = self._records.copy()
        return ((key, records[key]) for key in self._order.copy())

    def write(self, changes: dict[str, Record | None]) -> None:
        """Make changes that a draft has checked; None deletes a key."""
        for key, record in changes.items():
            before = self._records.get(key)
            if before is not None:
                self.size_bytes -= size_of(key, before)
            if record is not None:
                self.size_bytes += size_of(key, record)
                self._records[key] = record
                if before is None:
                    insort(self._order, key)
            elif before is not None:
                del self._records[key]
                del self._order[bisect_left(self._order, key)]

    def load(self, items: Iterable[tuple[str, Record]], revision: int) -> None:
        """Take the keys of a snapshot, which come in order, into a space that is empty."""
        self._records = dict(items)
        self._order = list(self._records)
        self.size_bytes = sum(size_of(key, record) for key, record in self._records.items())
        self.revision = revision

    def _range(self, prefix: str) -> tuple[int, int]:
        return bisect_left(self._order, prefix), bisect_left(self._order, prefix + _AFTER_ALL)


class Draft:
    """What a transaction would change, over the keys as they are. It reads its own writes.

    Attributes:
        changes: By key, in the order of the first change: the record to be, or None for none.
        revision: The one that the transaction would make.
    """

    def __init__(self, space: KeySpace) -> None:
        self._space = space
        self.revision = space.revision + 1
        self.changes: dict[str, Record | None] = {}
        self._touched_count = 0

    def get(self, key: str) -> Record | None:
        """Return what stands under a key after the changes so far."""
        if key in self.changes:
            return self.changes[key]
        return self._space.get(key)

    def count(self, prefix: str) -> int:
        """Return how many keys begin so after the changes so far."""
        count = self._space.count(prefix)
        for key, record in self.changes.items():
            if key.startswith(prefix):
                count += (record is not None) - (self._space.get(key) is not None)
        return count

    def keys(self, prefix: str, count_max: int | None = None) -> list[str]:
        """Return the keys that begin so after the changes so far, in order; at most as many as said.

        Raises:
            CommandRefused: With those before, they are more than a transaction may touch.
        """
        wanted = self.count(prefix)
        if count_max is not None:
            wanted = min(wanted, count_max)
        self._touched_count += wanted
        if self._touched_count > self._space.limits.touched_count_max:
            raise refused("too_many_touched", number=self._space.limits.touched_count_max)
        own = {key: record for key, record in self.changes.items() if key.startswith(prefix)}
        found = set(self._space.keys(prefix, wanted + len(own))) - own.keys()
        found.update(key for key, record in own.items() if record is not None)
        return sorted(found)[:wanted]

    def put(self, key: str, value: bytes, lease: int) -> None:
        """Write a value under a key."""
        before = self.get(key)
        created, version = (before.created, before.version + 1) if before else (self.revision, 1)
        self.changes[key] = Record(value, created, self.revision, version, lease)

    def delete(self, key: str) -> bool:
        """Delete a key; returns whether it was there."""
        if self.get(key) is None:
            return False
        self.changes[key] = None
        return True

    def check_room(self) -> None:
        """Refuse a draft after which the keys would be too many or too large.

        Raises:
            CommandRefused: They would.
        """
        space, limits = self._space, self._space.limits
        count, size = 0, 0
        for key, record in self.changes.items():
            before = space.get(key)
            count += (record is not None) - (before is not None)
            size += size_of(key, record) if record else 0
            size -= size_of(key, before) if before else 0
        if len(space) + count > limits.keys_count_max:
            raise refused("too_many_keys", number=limits.keys_count_max)
        if space.size_bytes + size > limits.keys_size_bytes_max:
            raise refused("too_large", number=limits.keys_size_bytes_max)
