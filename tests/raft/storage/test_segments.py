"""What segments take of the disk, and that each follows on the one before it."""

from __future__ import annotations

import pytest

from p2pinfer.errors import DamagedStorage, StorageError
from p2pinfer.raft.storage.segments import segment_name
from p2pinfer.raft.storage.wal import WalStore
from p2pinfer.raft.types import HardState, LogWrite
from p2pinfer.testing.crashing_files import CrashingFiles
from p2pinfer.testing.store_conformance import entries

SIZE = 8192


def opened(files: CrashingFiles) -> WalStore:
    store = WalStore(files, segment_size_bytes=SIZE)
    store.load()
    return store


def sizes(files: CrashingFiles) -> dict[str, int]:
    return {name: len(files.read(name)) for name in sorted(files.names())}


def test_a_segment_has_its_full_size_from_the_start_and_what_it_needs_in_the_end() -> None:
    files = CrashingFiles(1)
    store = opened(files)
    store.write((LogWrite(1, entries=entries(1, 11)),))
    assert sizes(files) == {segment_name(1): SIZE}
    store.write((LogWrite(2, entries=entries(11, 12, size_bytes=7900)),))
    first, second = sizes(files).values()
    assert first < 1000
    assert second == SIZE


def test_a_batch_larger_than_a_segment_gets_one_of_its_own_and_an_unused_one_goes() -> None:
    files = CrashingFiles(1)
    store = opened(files)
    store.write((LogWrite(1, entries=entries(1, 4, size_bytes=SIZE)),))
    ((name, size),) = sizes(files).items()
    assert name == segment_name(2)
    assert 3 * SIZE < size < 3 * SIZE + 500
    files.crash()
    assert len(WalStore(files, segment_size_bytes=SIZE).load().entries) == 3


def test_a_refused_write_leaves_nothing_on_a_full_disk() -> None:
    files = CrashingFiles(1)
    store = opened(files)
    store.write((LogWrite(1, entries=entries(1, 2, size_bytes=7000)),))
    files.capacity_bytes = files.size_bytes + SIZE // 2
    before = sizes(files)
    with pytest.raises(StorageError, match="free space there"):
        store.write((LogWrite(2, entries=entries(2, 3, size_bytes=7000)),))
    assert sizes(files) == before
    store.write((LogWrite(3, entries=entries(2, 3)),))  # what fits into the segment at hand is still taken
    assert store.statistics()["failures"] == 1


def test_a_start_on_a_full_disk_uses_the_room_of_the_segment_before() -> None:
    files = CrashingFiles(1)
    store = opened(files)
    store.write((LogWrite(1, entries=entries(1, 3)),))
    store.write((LogWrite(2, entries=entries(3, 5)),))
    files.capacity_bytes = files.size_bytes + 1000
    files.kill()
    assert len(WalStore(files, segment_size_bytes=SIZE).load().entries) == 4


def test_a_segment_that_is_not_the_one_before_is_refused() -> None:
    """Of two lives of one log, equal to the byte but for a vote, no mixture is read."""
    lives = []
    for vote in (1, 2):
        files = CrashingFiles(1)
        store = opened(files)
        for first in range(1, 200, 10):
            store.write(
                (
                    LogWrite(
                        1, entries=entries(first, first + 10, size_bytes=90), hard_state=HardState(1, vote)
                    ),
                )
            )
        lives.append(files)
    one, other = lives
    one.edit(segment_name(1), other.read(segment_name(1)))
    one.kill()
    with pytest.raises(DamagedStorage, match="its checkpoint is not what the segments before amount to"):
        WalStore(one, segment_size_bytes=SIZE).load()
