"""A process that writes to a log and tells what was acknowledged.

`python -m tests.raft.storage.writer DIRECTORY MODE`

Modes: `write` until it is killed; `full` with files limited to less than a segment for a while; `hold` the
lock until standard input ends.
"""

from __future__ import annotations

import resource
import signal
import sys

from p2pinfer.errors import StorageError
from p2pinfer.raft.storage.wal import WalStore
from p2pinfer.raft.storage.wal_files import DirectoryFiles
from p2pinfer.raft.types import Entry, HardState, LogWrite, Snapshot
from p2pinfer.testing.store_conformance import CONFIGURATION

SEGMENT_SIZE_BYTES = 1 << 16
ENTRIES_PER_SNAPSHOT = 500


def say(*words: object) -> None:
    sys.stdout.write(" ".join(map(str, words)) + "\n")
    sys.stdout.flush()


def entry(index: int) -> Entry:
    return Entry(index, 1, f"value {index} ".encode() * (index % 11))


def write_on(store: WalStore, last: int) -> int:
    """Write one batch, with a snapshot every so often; return the last index."""
    count = 1 + last % 7
    added = tuple(entry(index) for index in range(last + 1, last + 1 + count))
    last += count
    writes = [LogWrite(1, entries=added, hard_state=HardState(1, 3, last))]
    if last % ENTRIES_PER_SNAPSHOT < count:
        taken = Snapshot.of(last, 1, CONFIGURATION, b"%d" % last * 100)
        writes.append(LogWrite(2, snapshot=taken, compact_to=last - 20))
    store.write(writes)
    return last


def fill(store: WalStore, last: int) -> None:
    """Let no file grow beyond less than a segment: making the next one fails, as on a full disk."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (SEGMENT_SIZE_BYTES // 2, resource.RLIM_INFINITY))
    refused = 0
    while refused < 3:
        try:
            last = write_on(store, last)
            say("acknowledged", last)
        except StorageError as error:
            refused += 1
            say("refused", error)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    for _ in range(200):
        last = write_on(store, last)
    say("acknowledged", last)


def main(directory: str, mode: str) -> None:
    store = WalStore(DirectoryFiles(directory), segment_size_bytes=SEGMENT_SIZE_BYTES)
    initial = store.load()
    last = max(
        initial.entries[-1].index if initial.entries else 0,
        0 if initial.snapshot is None else initial.snapshot.meta.index,
    )
    say("found", last)
    if mode == "hold":
        sys.stdin.read()
    elif mode == "full":
        fill(store, last)
    else:
        while True:
            last = write_on(store, last)
            say("acknowledged", last)


if __name__ == "__main__":
    main(*sys.argv[1:])
