"""Every store keeps the promises of `protocol.Store`."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from p2pinfer.raft.storage.memory import MemoryStore
from p2pinfer.raft.storage.protocol import Store
from p2pinfer.raft.storage.wal import WalStore
from p2pinfer.raft.storage.wal_files import DirectoryFiles
from p2pinfer.testing import store_conformance as suite
from p2pinfer.testing.crashing_files import CrashingFiles
from p2pinfer.testing.store_conformance import StoreSubject


def memory() -> StoreSubject:
    rng = random.Random(1)
    return StoreSubject(make=lambda: MemoryStore(rng), reopen=lambda store: store)


def wal_in_memory(segment_size_bytes: int) -> StoreSubject:
    """A log over files that lose power whenever it is opened again."""
    seeds = itertools.count()
    directories: dict[int, CrashingFiles] = {}

    def opened(files: CrashingFiles) -> Store:
        store = WalStore(files, segment_size_bytes=segment_size_bytes)
        directories[id(store)] = files
        return store

    def reopen(store: Store) -> Store:
        files = directories.pop(id(store))
        files.crash()
        return opened(files)

    return StoreSubject(make=lambda: opened(CrashingFiles(next(seeds))), reopen=reopen)


def wal(directory: Path) -> StoreSubject:
    """A log in real files, whose process ends without closing it."""
    numbers = itertools.count()
    directories: dict[int, tuple[Path, DirectoryFiles]] = {}

    def opened(path: Path) -> Store:
        files = DirectoryFiles(path)
        store = WalStore(files, segment_size_bytes=1 << 16)
        directories[id(store)] = path, files
        return store

    def reopen(store: Store) -> Store:
        path, _ = directories.pop(id(store))
        store.close()  # a lock of one's own process is not lost otherwise
        return opened(path)

    return StoreSubject(make=lambda: opened(directory / str(next(numbers))), reopen=reopen)


@pytest.fixture(params=["memory", "wal", "wal in memory", "wal with small segments"])
def subject(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[StoreSubject]:
    if request.param == "memory":
        yield memory()
    elif request.param == "wal":
        yield wal(tmp_path)
    else:
        yield wal_in_memory(1 << 20 if request.param == "wal in memory" else 4096)


@pytest.mark.parametrize("check", suite.CHECKS, ids=lambda check: check.__name__)
def test_a_store_conforms(check: suite.Check, subject: StoreSubject) -> None:
    check(subject)


def test_the_suite_notices_a_store_that_forgets() -> None:
    rng = random.Random(2)
    with pytest.raises(AssertionError, match="ids stay"):
        suite.check_store(StoreSubject(make=lambda: MemoryStore(rng), reopen=lambda _: MemoryStore(rng)))
