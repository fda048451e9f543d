"""What Raft's core really asks of its disk: a cluster whose logs are on files that lose power and fail."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from itertools import count

import pytest

from p2pinfer.errors import StorageError
from p2pinfer.raft.storage.wal import WalStore
from p2pinfer.raft.types import Initial, LogWrite, NodeId
from p2pinfer.testing.crashing_files import CrashingFiles
from tests.raft.chaos import Chaos
from tests.raft.cluster import CLUSTER, Disk

SEEDS = count()


@dataclass
class WalDisk(Disk):
    """A disk with a log beside the plain lists; after every crash the two must agree."""

    files: CrashingFiles = field(default_factory=lambda: CrashingFiles(next(SEEDS)))
    store: WalStore | None = None

    def write(self, write: LogWrite) -> None:
        assert self.store is not None
        if self.files.rng.random() < 0.1:
            self._fail(write)
        self.store.write((write,))
        super().write(write)

    def _fail(self, write: LogWrite) -> None:
        """The driver tries a write, the disk fails, and then the same is asked for again."""
        assert self.store is not None
        self.files.fail_at = frozenset((self.files.call_count + self.files.rng.randrange(1, 8),))
        try:
            self.store.write((LogWrite(write.number, hard_state=write.hard_state),))
        except StorageError:
            pass
        self.files.fail_at = frozenset()

    def initial(self, node: NodeId) -> Initial:
        self.files.crash()
        self.store = WalStore(self.files, cluster_id=CLUSTER, segment_size_bytes=4096)
        found = self.store.load()
        expected = super().initial(node)
        assert (found.entries, found.hard_state, found.snapshot) == (
            expected.entries,
            expected.hard_state,
            expected.snapshot,
        )
        return Initial(node, found.cluster_id, found.hard_state, found.entries, found.snapshot)


@pytest.mark.parametrize("seed", range(12))
def test_the_core_and_the_log_agree_whatever_happens(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.raft.cluster.Disk", WalDisk)
    chaos = Chaos(seed, count=3, spare=1)
    rng = random.Random(seed)
    for _ in range(300):
        chaos.random_step(rng)
        if rng.random() < 0.03:
            chaos.crash(rng.choice(sorted(chaos.cluster.nodes)))
    chaos.recover()
    for node in list(chaos.cluster.nodes):
        chaos.cluster.crash(node)
