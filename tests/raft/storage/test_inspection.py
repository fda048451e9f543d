"""People can read what stands in a log, and where it is damaged, without changing it."""

from __future__ import annotations

from p2pinfer.raft.storage.inspection import describe_store
from p2pinfer.raft.storage.segments import segment_name
from p2pinfer.raft.storage.wal import WalStore
from p2pinfer.raft.types import HardState, LogWrite
from p2pinfer.testing.crashing_files import CrashingFiles
from p2pinfer.testing.store_conformance import entries, snapshot


def log() -> CrashingFiles:
    files = CrashingFiles(1)
    store = WalStore(files, cluster_id=b"c" * 16, segment_size_bytes=4096)
    store.load()
    store.write(
        (LogWrite(1, entries=entries(1, 9), hard_state=HardState(1, 7, 1)), LogWrite(2, truncate_from=8))
    )
    store.write((LogWrite(3, snapshot=snapshot(5), compact_to=3),))
    store.write((LogWrite(4, entries=entries(8, 45, size_bytes=100)),))
    return files


def described(files: CrashingFiles) -> list[str]:
    return [f"{line.offset} {'!' * line.is_damage}{line.text}" for line in describe_store(files)]


def test_every_record_has_its_line() -> None:
    files = log()
    head, checkpoint, first, second, third, next_head, next_checkpoint, last, taken = described(files)
    assert head.startswith("0 segment of node ")
    assert head.endswith(f"in cluster {'63' * 16}, the first, 4096 bytes")
    assert checkpoint == "128 sync 0: checkpoint, term 0, no vote, commit 0, no entries"
    assert "sync 1: entries 1 to 8 of terms 1 to 1 with 80 bytes, term 1, vote for 7, commit 1" in first
    assert second.endswith("sync 1: drops entries from 8 on")
    assert third.endswith("sync 2: snapshot at 5 of term 1 with 200 bytes and 2 voters, compacted up to 3")
    assert "follows on 0000000000000001.wal" in next_head
    assert "checkpoint, term 1, vote for 7, commit 1, entries 4 to 7, snapshot at 5" in next_checkpoint
    assert "sync 3: entries 8 to 44" in last
    assert taken == "0 snapshot at 5 of term 1 with 200 bytes and 2 voters"


def test_damage_is_shown_where_it_is_and_nothing_changes() -> None:
    files = log()
    data = bytearray(files.read(segment_name(1)))
    data[180] ^= 1
    files.edit(segment_name(1), bytes(data))
    (name,) = (name for name in files.names() if name.endswith(".snapshot"))
    files.edit(name, files.read(name)[:-1])
    before = {name: files.read(name) for name in files.names()}
    lines = list(describe_store(files))
    damage = [line for line in lines if line.is_damage]
    assert [line.file for line in damage] == [segment_name(1), name]
    assert "DAMAGED: a record is damaged, and later ones were written after it" in str(damage[0])
    assert {name: files.read(name) for name in files.names()} == before
    data[3] ^= 1
    files.edit(segment_name(1), bytes(data))
    assert "its head is damaged" in str(next(iter(describe_store(files))))


def test_what_a_crash_left_is_no_damage() -> None:
    files = log()
    store = WalStore(files, segment_size_bytes=8192)
    files.kill()
    store.load()
    store.write((LogWrite(1, entries=entries(45, 46, size_bytes=100)),))
    newest = max(name for name in files.names() if name.endswith(".wal"))
    data = files.read(newest).rstrip(b"\x00")[:-20]
    files.edit(newest, data)
    assert any("bytes that a crash left half-written" in line for line in described(files))
    assert not any(line.is_damage for line in describe_store(files))
