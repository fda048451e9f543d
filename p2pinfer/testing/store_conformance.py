"""What every store of Raft must do, wherever it puts things: one suite for all implementations.

A store is seen only through `raft.storage.protocol.Store`. The subject makes fresh stores and opens them
again, as a process that starts anew would. Every check ends with the store opened again, since that is what
it is for.

A finding is an AssertionError that names the check.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from p2pinfer.errors import LocalProtocolError
from p2pinfer.ids import Contact, Endpoint, PeerId
from p2pinfer.raft.storage.contents import Contents, StoredState
from p2pinfer.raft.storage.protocol import Store
from p2pinfer.raft.types import (
    CLUSTER_ID_SIZE_BYTES,
    NODE_ID_MAX,
    Configuration,
    Entry,
    EntryKind,
    HardState,
    Initial,
    LogWrite,
    Member,
    Snapshot,
)

__all__ = [
    "CHECKS",
    "Check",
    "StoreSubject",
    "WriteMaker",
    "check_store",
    "entries",
    "snapshot",
]


@dataclass(frozen=True)
class StoreSubject:
    """How stores are made and come back.

    Attributes:
        make: Returns a store that was never used.
        reopen: Ends a store without a word, as when its process is killed, and returns its successor.
    """

    make: Callable[[], Store]
    reopen: Callable[[Store], Store]


Check = Callable[[StoreSubject], None]

CONFIGURATION = Configuration.of(
    Member(7, Contact(PeerId(bytes(range(32))), Endpoint("192.0.2.1", 7946))),
    Member(9, Contact(None, Endpoint("2001:db8::9", 7947))),
    learners=(Member(11, Contact(None, Endpoint("peer.example", 1))),),
)
"""With everything that a configuration can have."""


def entries(first: int, end: int, *, term: int = 1, size_bytes: int = 10) -> tuple[Entry, ...]:
    """Return the entries of a half-open run of indices, all different."""
    kinds = tuple(EntryKind)
    return tuple(
        Entry(index, term, f"{index}/{term}/".encode().ljust(size_bytes, b"."), kinds[index % len(kinds)])
        for index in range(first, end)
    )


def snapshot(index: int, *, term: int = 1, size_bytes: int = 200) -> Snapshot:
    """Return a snapshot whose data follows from its index."""
    return Snapshot.of(index, term, CONFIGURATION, random.Random(index).randbytes(size_bytes))


def check_store(subject: StoreSubject) -> None:
    """Run every check.

    Raises:
        AssertionError: The first check that fails.
    """
    for check in CHECKS:
        check(subject)


def check_fresh_store(subject: StoreSubject) -> None:
    """A fresh store is empty and has ids that no other has; they stay."""
    first, second = subject.make(), subject.make()
    one, other = first.load(), second.load()
    _require(one == Initial(one.node_id, one.cluster_id), "a fresh store is empty")
    _require(1 <= one.node_id <= NODE_ID_MAX, "a node id has 63 bits")
    _require(len(one.cluster_id) == CLUSTER_ID_SIZE_BYTES, "a cluster id has 16 bytes")
    _require(one.node_id != other.node_id and one.cluster_id != other.cluster_id, "ids are fresh")
    again = subject.reopen(first)
    _require(again.load() == one, "ids stay")
    _require(again.read_snapshot(0, 10) == b"", "there is no snapshot")
    again.close()
    again.close()
    second.close()


def check_what_is_written_is_read(subject: StoreSubject) -> None:
    """Entries of all kinds and sizes, and the last hard state."""
    run = _Run(subject)
    run.write(LogWrite(1, entries=entries(1, 4), hard_state=HardState(1, 5, 0)))
    run.reopen()
    run.write(
        LogWrite(2, entries=(Entry(4, 1), Entry(5, 2, bytes(5000)), Entry(6, 2, b"\xa5" * 3000))),
        LogWrite(3, hard_state=HardState(2, None, 3)),
        LogWrite(4, hard_state=HardState(2, NODE_ID_MAX, 4), entries=entries(7, 300, term=2)),
    )
    run.write(LogWrite(5))
    run.reopen()
    run.store.write(())
    run.reopen()
    run.end()


def check_truncation(subject: StoreSubject) -> None:
    """A conflict drops entries to the end; others take their place, in the same write or a later one."""
    run = _Run(subject)
    run.write(LogWrite(1, entries=entries(1, 20)))
    run.write(LogWrite(2, truncate_from=11, entries=entries(11, 14, term=2)))
    run.reopen()
    run.write(LogWrite(3, truncate_from=5), LogWrite(4, entries=entries(5, 8, term=3)))
    run.reopen()
    run.write(LogWrite(5, truncate_from=1))
    run.write(LogWrite(6, truncate_from=1, entries=entries(1, 3, term=4)))
    run.write(LogWrite(7, truncate_from=9))  # there is nothing
    run.reopen()
    run.end()


def check_compaction(subject: StoreSubject) -> None:
    """A snapshot of one's own, with and without entries kept before it."""
    run = _Run(subject)
    run.write(LogWrite(1, entries=entries(1, 101)))
    run.write(LogWrite(2, snapshot=snapshot(50), compact_to=40))
    run.reopen()
    run.write(LogWrite(3, snapshot=snapshot(100, size_bytes=200_000), compact_to=100))
    run.reopen()
    run.write(LogWrite(4, entries=entries(101, 103), compact_to=60), LogWrite(5, truncate_from=102))
    run.reopen()
    run.write(LogWrite(6, snapshot=snapshot(101, term=2, size_bytes=0), compact_to=101))
    run.reopen()
    run.end()


def check_snapshot_of_the_leader(subject: StoreSubject) -> None:
    """A snapshot ahead of the log takes its place; one that fits leaves what follows."""
    run = _Run(subject)
    run.write(LogWrite(1, entries=entries(1, 11)))
    run.write(
        LogWrite(2, snapshot=snapshot(30), truncate_from=1, compact_to=30, hard_state=HardState(2, None, 30))
    )
    run.reopen()
    run.write(LogWrite(3, entries=entries(31, 41)))
    run.write(LogWrite(4, snapshot=snapshot(35, term=2), compact_to=35))
    run.reopen()
    run.write(LogWrite(5, snapshot=snapshot(60)), LogWrite(6, entries=entries(61, 63)))
    run.reopen()
    run.write(LogWrite(7, snapshot=snapshot(62), truncate_from=62, entries=entries(63, 64, term=3)))
    run.reopen()
    run.write(LogWrite(8, entries=entries(64, 81), snapshot=snapshot(79), compact_to=70))
    run.reopen()
    run.write(LogWrite(9, snapshot=snapshot(99), truncate_from=75, entries=entries(90, 101), compact_to=95))
    run.reopen()
    run.end()


def check_snapshot_in_pieces(subject: StoreSubject) -> None:
    """Any piece can be read, and what lies beyond the end is empty."""
    run = _Run(subject)
    whole = snapshot(5, size_bytes=200_001)
    run.write(LogWrite(1, snapshot=whole))
    for _ in range(2):
        for offset, size in (
            (0, 1),
            (65_535, 2),
            (65_536, 65_536),
            (70_000, 100_000),
            (199_990, 100),
            (200_001, 5),
        ):
            piece = run.store.read_snapshot(offset, size)
            _require(piece == whole.data[offset : offset + size], f"{size} bytes at {offset}")
        run.reopen()
    run.end()


def check_misuse_changes_nothing(subject: StoreSubject) -> None:
    """What does not follow on what is stored is refused, with all that came with it."""
    run = _Run(subject)
    run.write(LogWrite(1, snapshot=snapshot(5), entries=entries(6, 10), hard_state=HardState(3, 1, 0)))
    broken = replace(snapshot(9), data=b"others")
    for wrong in (
        LogWrite(2, entries=entries(12, 13)),
        LogWrite(2, entries=entries(10, 13)),
        LogWrite(2, entries=(*entries(11, 12), *entries(13, 14))),
        LogWrite(2, truncate_from=8, entries=entries(10, 11)),
        LogWrite(2, truncate_from=0),
        LogWrite(2, compact_to=6),
        LogWrite(2, snapshot=snapshot(20), entries=entries(15, 25)),
        LogWrite(2, snapshot=snapshot(4)),
        LogWrite(2, snapshot=broken),
        LogWrite(2, hard_state=HardState(2, 1, 0)),
    ):
        try:
            run.store.write((LogWrite(1, entries=entries(10, 11)), wrong))
        except LocalProtocolError:
            continue
        raise AssertionError(f"{wrong} was taken")
    run.write(LogWrite(2, entries=entries(10, 12)))
    run.reopen()
    run.end()


def check_random_writes(subject: StoreSubject) -> None:
    """Any sequence of writes leaves what it says, however often the store is opened again."""
    for seed in range(5):
        rng = random.Random(seed)
        run = _Run(subject)
        for _ in range(30):
            maker = WriteMaker(rng, run.model.state)
            run.write(*(maker.next() for _ in range(rng.randrange(1, 4))))
            if rng.random() < 0.3:
                run.reopen()
        run.reopen()
        run.end()


class WriteMaker:
    """Draws writes that follow on a state, and on each other."""

    def __init__(self, rng: random.Random, state: StoredState) -> None:
        self._rng = rng
        self._state = state

    def next(self) -> LogWrite:
        """Draw the next write, of any sort."""
        rng, bounds, hard_state = self._rng, self._state.bounds, self._state.hard_state
        term = hard_state.term + rng.choice((0, 0, 0, 1))
        taken = None
        if rng.random() < 0.2:
            taken = snapshot(
                bounds.snapshot + rng.randrange(20), term=max(term, 1), size_bytes=rng.randrange(3000)
            )
        truncate_from = None
        if rng.random() < 0.2:
            truncate_from = rng.randrange(1, bounds.last + 2)
        write = LogWrite(
            number=1,
            snapshot=taken,
            truncate_from=truncate_from,
            hard_state=HardState(term, rng.choice((None, 1, 2)), bounds.snapshot)
            if rng.random() < 0.5
            else None,
        )
        left = bounds.after(write)
        first, end = left.last + 1, left.last + 1 + rng.randrange(8)
        kept = bounds.kept_last(write)
        if kept < left.snapshot and rng.random() < 0.5:
            first = kept + 1  # the log goes on where it was, and reaches to the snapshot
        size = rng.choice((0, 5, 100, 2000))
        added = entries(first, end, term=max(term, 1), size_bytes=size)
        compact_to = rng.randrange(left.snapshot + 1) if rng.random() < 0.2 else None
        write = replace(write, entries=added, compact_to=compact_to)
        self._state = self._state.after(write)
        return write


class _Run:
    """A store and, beside it, what it must contain."""

    def __init__(self, subject: StoreSubject) -> None:
        self._subject = subject
        self.store = subject.make()
        self.model = Contents(StoredState())
        self._initial = self.store.load()

    def write(self, *writes: LogWrite) -> None:
        self.store.write(writes)
        for write in writes:
            self.model.apply(write)
            if write.snapshot is not None:
                self._initial = replace(self._initial, snapshot=write.snapshot)

    def reopen(self) -> None:
        self.store = self._subject.reopen(self.store)
        expected = replace(
            self._initial, hard_state=self.model.state.hard_state, entries=tuple(self.model.entries)
        )
        _require_same(expected, self.store.load())

    def end(self) -> None:
        self.store.close()


CHECKS: Sequence[Check] = (
    check_fresh_store,
    check_what_is_written_is_read,
    check_truncation,
    check_compaction,
    check_snapshot_of_the_leader,
    check_snapshot_in_pieces,
    check_misuse_changes_nothing,
    check_random_writes,
)


def _require(condition: bool, what: str) -> None:
    if not condition:
        raise AssertionError(f"it does not hold that {what}")


def _require_same(expected: Initial, found: Initial) -> None:
    for name in ("node_id", "cluster_id", "hard_state", "snapshot", "entries"):
        one, other = getattr(expected, name), getattr(found, name)
        if one != other:
            raise AssertionError(f"{name} should be {one!r:.300}, and is {other!r:.300}")
