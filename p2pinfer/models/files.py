"""The file system as the model store needs it: one process at a time, digests of large files."""

from __future__ import annotations

import fcntl
import hashlib
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from p2pinfer.files import storage_errors

__all__ = ["CHUNK_SIZE_BYTES", "locked", "sha256_of"]

CHUNK_SIZE_BYTES = 1 << 20  # large enough that Python's share of copying and hashing is small
LOCK_POLL_INTERVAL_S = 0.2  # a wait that a person does not notice and that costs no measurable time


@contextmanager
def locked(path: Path, on_wait: Callable[[], None]) -> Iterator[None]:
    """Hold a lock that other processes respect; `on_wait` is called now and then while another holds it.

    The system frees the lock when its holder ends, however it ends: none is ever stale. The file stays, since
    removing it would let two processes lock two files of one name.
    """
    with storage_errors(f"the lock {path} cannot be opened"):
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                on_wait()
                time.sleep(LOCK_POLL_INTERVAL_S)
        yield
    finally:
        os.close(descriptor)


def sha256_of(path: Path, on_progress: Callable[[int], None] = lambda _: None) -> str:
    """Return the SHA-256 of a file in hexadecimal; `on_progress` hears how many bytes are done.

    Raises:
        StorageError: The file cannot be read.
    """
    digest = hashlib.sha256()
    done = 0
    with storage_errors(f"{path} cannot be read"), path.open("rb") as stream:
        while chunk := stream.read(CHUNK_SIZE_BYTES):
            digest.update(chunk)
            done += len(chunk)
            on_progress(done)
    return digest.hexdigest()
