"""What a log may contain after a crash: all that was acknowledged, and some of what was tried since."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence

from p2pinfer.errors import DamagedStorage, NewerFormat, StorageError
from p2pinfer.raft.storage.contents import Contents, StoredState
from p2pinfer.raft.storage.wal import WalStore
from p2pinfer.raft.types import Entry, Initial, LogWrite, Snapshot
from p2pinfer.testing.crashing_files import CrashingFiles, PowerLoss
from p2pinfer.testing.store_conformance import WriteMaker

SEGMENT_SIZE_BYTES = 4096
"""Small, so that short runs have many segments."""


def copied(contents: Contents) -> Contents:
    copy = Contents(contents.state)
    copy.entries = list(contents.entries)
    return copy


class Ledger:
    """What was acknowledged, and what may be there besides."""

    def __init__(self) -> None:
        self.acknowledged = Contents(StoredState())
        self.snapshots: dict[bytes, Snapshot] = {}
        self.tried: list[Contents] = []

    def note_tried(self, writes: Sequence[LogWrite]) -> None:
        """A batch failed, or was cut off: any beginning of it may be found after a crash."""
        contents = copied(self.acknowledged)
        for write in writes:
            contents.apply(write)
            self.tried.append(copied(contents))

    def note_acknowledged(self, writes: Sequence[LogWrite]) -> None:
        for write in writes:
            self.acknowledged.apply(write)
        self.tried.clear()

    def settle(self, found: Initial) -> None:
        """Check what a start found, and take it for what counts from now on."""
        for contents in (self.acknowledged, *self.tried):
            state = contents.state
            meta = None if found.snapshot is None else found.snapshot.meta
            if (state.hard_state, contents.entries, state.meta) == (
                found.hard_state,
                list(found.entries),
                meta,
            ):
                assert found.snapshot is None or found.snapshot == self.snapshots[found.snapshot.meta.digest]
                self.acknowledged = contents
                self.tried.clear()
                return
        expected = [(each.state, _places(each.entries)) for each in (self.acknowledged, *self.tried)]
        raise AssertionError(f"{found.hard_state}, {_places(found.entries)} is none of {expected}")


def _places(entries: Iterable[Entry]) -> list[tuple[int, int]]:
    return [(entry.index, entry.term) for entry in entries]


class Machine:
    """A store on files that crash, and the ledger of what it said."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.files = CrashingFiles(seed)
        self.ledger = Ledger()
        self.ids: tuple[int, bytes] | None = None
        self.store = WalStore(self.files, segment_size_bytes=SEGMENT_SIZE_BYTES)

    def start(self) -> bool:
        """Open the log again; whether the disk let us."""
        self.store = WalStore(self.files, segment_size_bytes=SEGMENT_SIZE_BYTES)
        try:
            found = self.store.load()
        except (DamagedStorage, NewerFormat):
            raise  # a crash is never taken for damage
        except StorageError:
            return False
        ids = (found.node_id, found.cluster_id)
        if self.ids is not None:
            assert ids == self.ids
        self.ids = ids
        self.ledger.settle(found)
        return True

    def write(self, count: int) -> bool:
        """Write some drawn batch; whether it was acknowledged."""
        maker = WriteMaker(self.rng, self.ledger.acknowledged.state)
        writes = [maker.next() for _ in range(count)]
        self.ledger.snapshots |= {w.snapshot.meta.digest: w.snapshot for w in writes if w.snapshot}
        try:
            self.store.write(writes)
        except StorageError:
            self.ledger.note_tried(writes)
            return False
        except PowerLoss:
            self.ledger.note_tried(writes)
            raise
        self.ledger.note_acknowledged(writes)
        return True

    def run(self, batch_count: int) -> None:
        """Start, if need be anew, and write until the batches are through or the power is lost."""
        if not self.start() and not self.start():
            return
        for _ in range(batch_count):
            self.write(self.rng.randrange(1, 4))
