"""The directory that forgets: what is synced stays, the rest may go in part, a failed sync never heals."""

from __future__ import annotations

import pytest

from p2pinfer.testing.crashing_files import CrashingFiles, PowerLoss


def written(files: CrashingFiles, data: bytes, *, synced: bool) -> None:
    file = files.create("a")
    file.write(0, data)
    files.sync_names()
    if synced:
        file.sync()


def test_what_was_synced_is_there_and_what_was_not_may_be() -> None:
    found = set()
    for seed in range(60):
        files = CrashingFiles(seed)
        written(files, b"s" * 1024, synced=True)
        files.open("a").write(512, b"n" * 1024)
        files.crash()
        data = files.read("a")
        assert data[:512] == b"s" * 512
        found.add(bytes(data[512:]))
    assert b"s" * 512 in found
    assert b"n" * 1024 in found
    assert any(0 < len(data.lstrip(b"n")) < 512 for data in found if len(data) == 512), "cut within a sector"
    assert b"s" * 512 + b"n" * 512 in found, "the later sector alone"


def test_a_name_lasts_once_names_are_synced() -> None:
    outcomes = set()
    for seed in range(40):
        files = CrashingFiles(seed)
        written(files, b"1", synced=True)
        files.rename("a", "b")
        files.crash()
        outcomes.add(tuple(files.names()))
        assert files.read(files.names()[0]) == b"1"
    assert outcomes == {("a",), ("b",)}


def test_after_a_failed_sync_the_file_reads_well_and_never_reaches_the_disk() -> None:
    lost = 0
    for seed in range(40):
        files = CrashingFiles(seed)
        written(files, b"old" * 300, synced=True)
        file = files.open("a")
        file.write(0, b"new" * 300)
        files.fail_at = frozenset((files.call_count + 1,))
        with pytest.raises(OSError, match="Input/output error"):
            file.sync()
        assert files.read("a") == b"new" * 300
        file.sync()
        files.crash()
        lost += files.read("a") != b"new" * 300
    assert lost > 10


def test_a_full_disk_takes_a_part() -> None:
    files = CrashingFiles(1)
    files.capacity_bytes = 700
    file = files.create("a")
    file.write(0, bytes(500))
    with pytest.raises(OSError, match="No space left"):
        file.write(500, bytes(500))
    assert len(files.read("a")) == 700
    file.write(0, b"x" * 700)  # what is there can be written over
    files.remove("a")
    files.create("b").write(0, bytes(700))


def test_power_is_lost_at_the_call_that_was_named() -> None:
    files = CrashingFiles(1)
    files.lose_power_at = 3
    file = files.create("a")
    file.write(0, b"1")
    with pytest.raises(PowerLoss):
        file.sync()
    files.crash()
    files.create("c")


def test_one_process_at_a_time() -> None:
    files = CrashingFiles(1)
    files.lock()
    with pytest.raises(BlockingIOError):
        files.lock()
    files.kill()
    files.lock()
