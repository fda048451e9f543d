"""What a sequence of `LogWrite`s leaves behind: the one reckoning that all stores share.

Rules:

1. `Bounds` is enough to judge whether a write follows on what is stored, so a store need not keep its entries
   in memory; `Contents` has the entries as well.
2. A log never ends before its snapshot: entries that a snapshot leaves behind without a join to it are gone.
   So entries may follow on the snapshot, or on what the same write compacts, instead of on the entries there.
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

    def kept_last(self, write: LogWrite) -> int:
        """Return where the log ends once a write has dropped entries, and before it appends any."""
        if write.truncate_from is None:
            return self.last
        if write.truncate_from < 1:
            raise LocalProtocolError(f"indices begin at 1: nothing starts at {write.truncate_from}")
        return min(self.last, write.truncate_from - 1)

    def after(self, write: LogWrite) -> Bounds:
        """Return the bounds once the write is done.

        Raises:
            LocalProtocolError: It does not follow on what is there.
        """
        snapshot, compacted, last = self.snapshot, self.compacted, self.kept_last(write)
        if write.snapshot is not None:
            if write.snapshot.meta.index < snapshot:
                raise LocalProtocolError(
                    f"a snapshot at {write.snapshot.meta.index} cannot replace one at {snapshot}"
                )
            snapshot = write.snapshot.meta.index
        compact_to = write.compact_to or 0
        if compact_to > snapshot:
            raise LocalProtocolError(
                f"entries up to {compact_to} are in no snapshot: the last one is at {snapshot}"
            )
        if write.entries:
            before = write.entries[0].index - 1
            if before > last and (before == snapshot or before <= compact_to):
                compacted = last = before  # what is left ends before them, and is not needed
            for entry in write.entries:
                last += 1
                if entry.index != last:
                    raise LocalProtocolError(f"entry {entry.index} cannot follow on entry {last - 1}")
        if last < snapshot:
            compacted = last = snapshot
        return Bounds(max(compacted, compact_to), snapshot, last, self._term_after(write))

    def _term_after(self, write: LogWrite) -> int:
        if write.hard_state is None:
            return self.term
        if write.hard_state.term < self.term:
            raise LocalProtocolError(f"term {write.hard_state.term} cannot follow on term {self.term}")
        return write.hard_state.term


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
        last = self.state.bounds.kept_last(write)
        if self.entries and self.entries[-1].index > last:
            del self.entries[max(last + 1 - self.entries[0].index, 0) :]
        if write.entries and write.entries[0].index > last + 1:
            self.entries.clear()
        self.entries.extend(write.entries)
        compacted = after.bounds.compacted
        if self.entries and self.entries[0].index <= compacted:
            del self.entries[: compacted + 1 - self.entries[0].index]
        self.state = after

    @property
    def missing(self) -> range:
        """The indices that should be there and are not; empty unless files were lost."""
        bounds = self.state.bounds
        first = self.entries[0].index if self.entries else bounds.last + 1
        return range(bounds.compacted + 1, first)
