"""The log in memory: all entries since the last compaction, and the configurations that stand in it.

Rules:

1. Entries follow one another without a gap; before the first stands a place (`offset`) whose term is known.
2. Only what is not committed is ever truncated; whoever calls `truncate` has checked it.
3. The configuration in force is the last one in the log, committed or not; a truncation brings back the one
   before (extended paper, section 6).
"""

from __future__ import annotations

from collections.abc import Sequence

from p2pinfer.errors import StorageError
from p2pinfer.raft.packing import ENTRY_OVERHEAD_BYTES, decode_configuration, pack_entries
from p2pinfer.raft.types import Configuration, Entry, EntryKind, Snapshot

__all__ = ["Log"]

_BATCHES_KEPT_COUNT = 16
"""Packed batches remembered for the next follower; followers that keep pace ask for the same few."""


class Log:
    """The entries of one node. Indices outside of it are answered with None or nothing, never an error."""

    def __init__(self, entries: Sequence[Entry], snapshot: Snapshot | None) -> None:
        """Take what storage holds.

        Raises:
            StorageError: The entries have a gap, or do not reach to the snapshot.
            DecodeError: A configuration entry is damaged.
        """
        meta = snapshot.meta if snapshot else None
        self.snapshot = snapshot
        self._entries = list(entries)
        self._batches: dict[tuple[int, int], tuple[int, bytes]] = {}
        first = entries[0] if entries else None
        self._offset = first.index - 1 if first else meta.index if meta else 0
        self._offset_term = 0
        if meta is not None and self._offset == meta.index:
            self._offset_term = meta.term
        snapshot_index = meta.index if meta else 0
        self._check(snapshot_index)
        base = meta.configuration if meta else Configuration()
        self._configurations: list[tuple[int, Configuration]] = [(snapshot_index, base)]
        self._configurations += [
            (each.index, decode_configuration(each.data))
            for each in self._entries
            if each.kind is EntryKind.CONFIGURATION and each.index > snapshot_index
        ]

    def _check(self, snapshot_index: int) -> None:
        for index, entry in enumerate(self._entries, self._offset + 1):
            if entry.index != index:
                raise StorageError(
                    f"the log has entry {entry.index} where {index} was expected: it is damaged"
                )
        terms = [entry.term for entry in self._entries]
        if terms != sorted(terms):
            raise StorageError("the terms of the log fall from one entry to the next: it is damaged")
        if not self._offset <= snapshot_index <= self.last_index:
            raise StorageError(
                f"the log has entries {self._offset + 1} to {self.last_index} and a snapshot of "
                f"{snapshot_index}: entries between are missing"
            )
        if self.snapshot is not None and self.term_at(snapshot_index) not in (self.snapshot.meta.term, None):
            raise StorageError(f"entry {snapshot_index} has another term than the snapshot of it")

    # ------------------------------------------------------------------ what it holds

    @property
    def first_index(self) -> int:
        """The first entry held, or the next one to come if there is none."""
        return self._offset + 1

    @property
    def last_index(self) -> int:
        """The last entry; that of the snapshot if there is none after it."""
        return self._offset + len(self._entries)

    @property
    def last_term(self) -> int:
        """The term of the last entry, 0 for an empty log."""
        return self._entries[-1].term if self._entries else self._offset_term

    @property
    def configuration(self) -> Configuration:
        """The one in force."""
        return self._configurations[-1][1]

    @property
    def configuration_index(self) -> int:
        """Where the one in force stands."""
        return self._configurations[-1][0]

    @property
    def snapshot_index(self) -> int:
        """The index of the newest snapshot, 0 without one."""
        return self.snapshot.meta.index if self.snapshot else 0

    def next_configuration_index(self, index: int) -> int | None:
        """Where the first configuration after `index` stands, as far as it is known."""
        return next((place for place, _ in self._configurations if place > index), None)

    def configuration_at(self, index: int) -> Configuration:
        """The one that was in force when the log ended at `index`, which may not lie before the snapshot."""
        return next(
            (each for place, each in reversed(self._configurations) if place <= index),
            self._configurations[0][1],
        )

    def term_at(self, index: int) -> int | None:
        """The term of an entry; None if it is not known here (any more)."""
        place = index - self._offset - 1
        if 0 <= place < len(self._entries):
            return self._entries[place].term
        if place == -1 and (index == 0 or self._offset_term):
            return self._offset_term
        return None

    def between(self, first: int, last: int) -> tuple[Entry, ...]:
        """Return entries `first` to `last`, both included, as far as they are held."""
        start = max(0, first - self._offset - 1)
        return tuple(self._entries[start : max(start, last - self._offset)])

    def batch(self, first: int, count_max: int, bytes_max: int) -> tuple[int, bytes]:
        """Return how many entries from `first` on go into one message, and those packed.

        At least one, if there is one. The same batch is packed once however many followers want it.
        """
        key = (first, self.last_index)
        known = self._batches.get(key)
        if known is None:
            start = first - self._offset - 1
            chosen = self._entries[start : start + count_max]
            size = count = 0
            for count, entry in enumerate(chosen):
                size += ENTRY_OVERHEAD_BYTES + len(entry.data)
                if size > bytes_max and count:
                    break
            else:
                count = len(chosen)
            known = count, pack_entries(chosen[:count])
            while len(self._batches) >= _BATCHES_KEPT_COUNT:
                del self._batches[next(iter(self._batches))]
            self._batches[key] = known
        return known

    def cut_to_bytes(self, first: int, last: int, bytes_max: int) -> tuple[Entry, ...]:
        """Return entries from `first` to at most `last` with about `bytes_max` bytes; one at least."""
        found = self.between(first, last)
        size = 0
        for count, entry in enumerate(found):
            size += ENTRY_OVERHEAD_BYTES + len(entry.data)
            if size > bytes_max and count:
                return found[:count]
        return found

    def is_up_to_date(self, last_index: int, last_term: int) -> bool:
        """Whether a log that ends so is at least as complete as this one (extended paper 5.4.1)."""
        return (last_term, last_index) >= (self.last_term, self.last_index)

    def last_match(self, index: int, term: int) -> tuple[int, int]:
        """Return the last place at or before `index` whose term does not exceed `term`, and that term.

        Nothing between it and `index` can match a log that has `term` at `index`, so both sides use it to
        step over whole terms (extended paper, end of 5.3).
        """
        index = min(index, self.last_index)
        while index > self._offset and self._entries[index - self._offset - 1].term > term:
            index -= 1
        return index, self.term_at(index) or 0

    def first_conflict(self, entries: Sequence[Entry]) -> int | None:
        """Return the index of the first entry that is not in the log as it is; None if all are."""
        if entries and entries[0].index == self.last_index + 1:
            return entries[0].index
        return next((each.index for each in entries if self.term_at(each.index) != each.term), None)

    # ------------------------------------------------------------------ changes

    def append(self, entries: Sequence[Entry]) -> int:
        """Put entries in their places and drop what stood there and after; returns how many that were.

        The first of them follows on the last of the log, or stands where it was found to conflict.

        Raises:
            DecodeError: A configuration among them is none; nothing has changed.
        """
        found = [
            (each.index, decode_configuration(each.data))
            for each in entries
            if each.kind is EntryKind.CONFIGURATION
        ]
        dropped = self.last_index - entries[0].index + 1 if entries else 0
        if dropped > 0:
            self.truncate(entries[0].index)
        self._entries += entries
        if found:
            self._configurations += found
        return max(0, dropped)

    def truncate(self, index: int) -> None:
        """Drop the entry at `index` and all after it."""
        del self._entries[max(0, index - self._offset - 1) :]
        while len(self._configurations) > 1 and self._configurations[-1][0] >= index:
            self._configurations.pop()
        self._batches.clear()

    def compact(self, snapshot: Snapshot, keep_count: int) -> int:
        """Take a snapshot of entries held, keep some before it; return up to where entries went."""
        meta = snapshot.meta
        to = max(self._offset, min(meta.index - keep_count, meta.index))
        self._offset_term = self.term_at(to) or 0
        del self._entries[: to - self._offset]
        self._offset = to
        self.snapshot = snapshot
        later = [each for each in self._configurations if each[0] > meta.index]
        self._configurations = [(meta.index, meta.configuration), *later]
        return to

    def restore(self, snapshot: Snapshot) -> None:
        """Take a leader's snapshot in place of everything."""
        meta = snapshot.meta
        self.snapshot = snapshot
        self._entries.clear()
        self._batches.clear()
        self._offset, self._offset_term = meta.index, meta.term
        self._configurations = [(meta.index, meta.configuration)]
