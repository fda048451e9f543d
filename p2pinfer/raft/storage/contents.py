"""What a sequence of `LogWrite`s leaves behind: the one reckoning that all stores share.

Rules:

1. `Bounds` is enough to judge whether a write follows on what is stored, so a store need not keep its entries
   in memory; `Contents` has the entries as well.
2. A log never ends before its snapshot: entries that a snapshot leaves behind without a join to it are gone.
"""

from __future__ import annotations

from dataclasses import dataclass

from p2pinfer.errors import LocalProtocolError
from p2pinfer.raft.types import Entry, HardState, LogWrite, SnapshotMeta

__all__ = ["Bounds", "Contents", "StoredState"]


@dataclass(frozen=True, slots=True)
class Bounds:
    """Where a stored log begins and ends. Invariant: compacted <= snapshot <= last.

    Attributes:
        compacted: Entries up to this index are gone.
        snapshot: The index of the stored snapshot, 0 without one.
        last: The last entry's index, or the snapshot's where no entry follows it.
        term: That of the hard state, which never falls.
    """

    compacted: int = 0
    snapshot: int = 0
    last: int = 0
    term: int = 0

    def left_by(self, write: LogWrite) -> Bounds:
        """Return what a write leaves of the log before it appends anything."""
        snapshot, last = self.snapshot, self.last
        if write.snapshot is not None:
            if write.snapshot.meta.index < snapshot:
                raise LocalProtocolError(
                    f"a snapshot at {write.snapshot.meta.index} cannot replace one at {snapshot}"
                )
            snapshot = write.snapshot.meta.index
        if write.truncate_from is not None:
            if write.truncate_from < 1:
                raise LocalProtocolError(f"indices begin at 1: nothing starts at {write.truncate_from}")
            last = min(last, write.truncate_from - 1)
        if last < snapshot:
            return Bounds(snapshot, snapshot, snapshot, self.term)
        return Bounds(self.compacted, snapshot, last, self.term)

    def after(self, write: LogWrite) -> Bounds:
        """Return the bounds once the write is done.

        Raises:
            LocalProtocolError: It does not follow on what is there.
        """
        left = self.left_by(write)
        last, compacted, term = left.last, left.compacted, left.term
        for entry in write.entries:
            last += 1
            if entry.index != last:
                raise LocalProtocolError(f"entry {entry.index} cannot follow on entry {last - 1}")
        if write.compact_to is not None:
            if write.compact_to > left.snapshot:
                raise LocalProtocolError(
                    f"entries up to {write.compact_to} are in no snapshot: the last one is at {left.snapshot}"
                )
            compacted = max(compacted, write.compact_to)
        if write.hard_state is not None:
            if write.hard_state.term < term:
                raise LocalProtocolError(f"term {write.hard_state.term} cannot follow on term {term}")
            term = write.hard_state.term
        return Bounds(compacted, left.snapshot, last, term)


_NO_STATE = HardState()


@dataclass(frozen=True, slots=True)
class StoredState:
    """All that is stored but for the entries and the snapshot's data: what a checkpoint says.

    Attributes:
        bounds: Where the log begins and ends.
        hard_state: The last one.
        meta: What the snapshot stands for, None without one.
    """

    bounds: Bounds = Bounds()
    hard_state: HardState = _NO_STATE
    meta: SnapshotMeta | None = None

    def after(self, write: LogWrite) -> StoredState:
        """Return the state once the write is done.

        Raises:
            LocalProtocolError: It does not follow on what is there.
        """
        return StoredState(
            self.bounds.after(write),
            self.hard_state if write.hard_state is None else write.hard_state,
            self.meta if write.snapshot is None else write.snapshot.meta,
        )


class Contents:
    """A whole stored log.

    Attributes:
        state: All but the entries.
        entries: In order. While files are replayed they may lack the first of those that are not compacted.
    """

    def __init__(self, state: StoredState) -> None:
        self.state = state
        self.entries: list[Entry] = []

    def apply(self, write: LogWrite) -> None:
        """Do what a write says.

        Raises:
            LocalProtocolError: It does not follow on what is there. Nothing was changed.
        """
        after = self.state.after(write)
        left = self.state.bounds.left_by(write)
        self._drop_above(left.last)
        self._drop_up_to(left.compacted)  # before the append: what a snapshot left behind has a gap after it
        self.entries.extend(write.entries)
        self._drop_up_to(after.bounds.compacted)
        self.state = after

    @property
    def missing(self) -> range:
        """The indices that should be there and are not; empty unless files were lost."""
        bounds = self.state.bounds
        first = self.entries[0].index if self.entries else bounds.last + 1
        return range(bounds.compacted + 1, first)

    def _drop_above(self, last: int) -> None:
        if self.entries and self.entries[-1].index > last:
            del self.entries[max(last + 1 - self.entries[0].index, 0) :]

    def _drop_up_to(self, index: int) -> None:
        if self.entries and self.entries[0].index <= index:
            del self.entries[: index + 1 - self.entries[0].index]
