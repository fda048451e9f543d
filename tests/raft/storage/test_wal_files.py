"""The log on a real file system: processes killed, a disk that is full, a directory that is taken."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path
from typing import IO

import pytest

from p2pinfer.errors import LocalProtocolError, StorageError
from p2pinfer.raft.storage.wal import WalStore
from p2pinfer.raft.storage.wal_files import DirectoryFiles
from p2pinfer.raft.types import HardState, Initial, LogWrite
from p2pinfer.testing.store_conformance import entries, snapshot
from tests.raft.storage.writer import SEGMENT_SIZE_BYTES, entry

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals and limits of POSIX")


def start(directory: Path, mode: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "tests.raft.storage.writer", str(directory), mode],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def output(process: subprocess.Popen[str]) -> IO[str]:
    assert process.stdout is not None
    return process.stdout


def load(directory: Path) -> Initial:
    store = WalStore(DirectoryFiles(directory), segment_size_bytes=SEGMENT_SIZE_BYTES)
    try:
        return store.load()
    finally:
        store.close()


def last_whole(initial: Initial) -> int:
    """The last index, once every entry has been found to be what was written."""
    assert list(initial.entries) == [entry(each.index) for each in initial.entries]
    if initial.snapshot is not None:
        assert initial.snapshot.data == b"%d" % initial.snapshot.meta.index * 100
    return initial.entries[-1].index


def test_a_killed_process_leaves_all_that_it_acknowledged(tmp_path: Path) -> None:
    rng = random.Random(7)
    told = 0
    for _ in range(6):
        with start(tmp_path, "write") as process:
            assert int(output(process).readline().split()[1]) >= told
            for _ in range(rng.randrange(1, 250)):
                told = int(output(process).readline().split()[1])
            process.kill()
            rest = [line for line in output(process).read().splitlines() if line.startswith("acknowledged ")]
        if len(rest) > 1:
            told = int(rest[-2].split()[1])  # the last line may be cut off
        initial = load(tmp_path)
        assert last_whole(initial) >= told
        assert initial.hard_state.commit == last_whole(initial)
    size = sum(path.stat().st_size for path in tmp_path.iterdir())
    assert size < 5 * SEGMENT_SIZE_BYTES


def test_a_full_disk_refuses_and_goes_on_when_there_is_room(tmp_path: Path) -> None:
    with start(tmp_path, "full") as process:
        lines = output(process).read().splitlines()
    assert process.returncode == 0
    refusals = [line for line in lines if line.startswith("refused")]
    assert len(refusals) == 3
    assert "File too large: free space there; all that was acknowledged is there" in refusals[0]
    assert last_whole(load(tmp_path)) == int(lines[-1].split()[1])


def test_a_directory_serves_one_process(tmp_path: Path) -> None:
    with start(tmp_path, "hold") as process:
        assert output(process).readline() == "found 0\n"
        with pytest.raises(StorageError, match=f"{tmp_path} is used by another running process"):
            load(tmp_path)
        process.kill()
    assert load(tmp_path).entries == ()


def test_a_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(
        StorageError, match="file/raft: the directory cannot be used: Not a directory: permit"
    ):
        load(tmp_path / "file" / "raft")


def test_a_store_is_loaded_first_and_once(tmp_path: Path) -> None:
    store = WalStore(DirectoryFiles(tmp_path))
    with pytest.raises(LocalProtocolError, match="not loaded"):
        store.write((LogWrite(1),))
    store.load()
    with pytest.raises(LocalProtocolError, match="once"):
        store.load()
    store.close()
    with pytest.raises(LocalProtocolError, match="closed"):
        store.write((LogWrite(1),))


def test_a_directory_belongs_to_one_cluster_and_a_wiped_one_to_another_node(tmp_path: Path) -> None:
    mine, other = b"m" * 16, b"o" * 16
    store = WalStore(DirectoryFiles(tmp_path / "a"), cluster_id=mine)
    first = store.load()
    assert first.cluster_id == mine
    store.close()
    store = WalStore(DirectoryFiles(tmp_path / "a"), cluster_id=other)
    with pytest.raises(StorageError, match=f"belongs to cluster {mine.hex()}"):
        store.load()
    for path in (tmp_path / "a").iterdir():
        path.unlink()
    again = WalStore(DirectoryFiles(tmp_path / "a"), cluster_id=mine)
    assert again.load().node_id != first.node_id
    again.close()


def test_twenty_thousand_entries_with_compaction_keep_the_disk_bounded(tmp_path: Path) -> None:
    store = WalStore(DirectoryFiles(tmp_path), segment_size_bytes=1 << 18)
    store.load()
    largest = 0
    for first in range(1, 20_001, 100):
        store.write((LogWrite(1, entries=entries(first, first + 100, size_bytes=100)),))
        if first % 2000 == 1901:
            last = first + 99
            store.write((LogWrite(2, snapshot=snapshot(last, size_bytes=50_000), compact_to=last - 500),))
        largest = max(largest, sum(path.stat().st_size for path in tmp_path.iterdir()))
    assert largest < 4 * (1 << 18) + 2 * 51_000
    store.close()
    assert [each.index for each in load(tmp_path).entries] == list(range(19_501, 20_001))


def test_starting_again_and_again_takes_no_more_room(tmp_path: Path) -> None:
    store = WalStore(DirectoryFiles(tmp_path), segment_size_bytes=SEGMENT_SIZE_BYTES)
    store.load()
    store.write((LogWrite(1, entries=entries(1, 50), hard_state=HardState(4, 2, 1)),))
    store.close()
    sizes = set()
    for _ in range(10):
        initial = load(tmp_path)
        assert (len(initial.entries), initial.hard_state) == (49, HardState(4, 2, 1))
        sizes.add((len(list(tmp_path.iterdir())), sum(path.stat().st_size for path in tmp_path.iterdir())))
    assert len(sizes) == 1


def test_a_snapshot_is_written_as_it_arrives(tmp_path: Path) -> None:
    store = WalStore(DirectoryFiles(tmp_path))
    store.load()
    whole = snapshot(40, size_bytes=300_000)
    draft = store.begin_snapshot(whole.meta)
    for offset in range(0, 300_000, 7_000):
        assert draft.size_bytes == offset
        draft.append(whole.data[offset : offset + 7_000])
    with pytest.raises(LocalProtocolError, match="has 300000 bytes"):
        draft.append(b"x")
    draft.finish()
    written = {path.name: path.stat().st_ino for path in tmp_path.glob("*.snapshot")}
    store.write((LogWrite(1, snapshot=whole),))
    assert {path.name: path.stat().st_ino for path in tmp_path.glob("*.snapshot")} == written, (
        "not written again"
    )
    assert store.read_snapshot(299_000, 5_000) == whole.data[299_000:]
    short = store.begin_snapshot(snapshot(50).meta)
    short.append(b"other")
    with pytest.raises(LocalProtocolError, match="not what its digest says"):
        short.finish()
    store.begin_snapshot(snapshot(60).meta).discard()
    store.begin_snapshot(snapshot(70).meta).append(b"the rest never comes")
    assert len(list(tmp_path.glob("*.draft"))) == 1
    store.close()
    assert load(tmp_path).snapshot == whole
    assert len([path for path in tmp_path.iterdir() if "snapshot" in path.name]) == 1, "drafts are removed"
