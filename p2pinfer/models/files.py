"""The file system as the model store needs it: whole or not at all, one process at a time, errors by name."""

from __future__ import annotations

import fcntl
import hashlib
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from p2pinfer.errors import StorageError

__all__ = ["CHUNK_SIZE_BYTES", "locked", "move_into_place", "sha256_of", "storage_errors", "write_whole"]

CHUNK_SIZE_BYTES = 1 << 20  # large enough that Python's share of copying and hashing is small
LOCK_POLL_INTERVAL_S = 0.2  # a wait that a person does not notice and that costs no measurable time


@contextmanager
def storage_errors(what: str) -> Iterator[None]:
    """Map what the system says about files to `StorageError`, naming what was tried."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise StorageError(f"{what}: {reason}: free space or permit writing there, then try again") from error


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


def move_into_place(source: Path, target: Path) -> None:
    """Give a written file its name, in one step and so that it survives a crash.

    Raises:
        StorageError: The disk said no; the target is as it was.
    """
    with storage_errors(f"{target} cannot be written"):
        target.parent.mkdir(parents=True, exist_ok=True)
        _sync(source)
        source.replace(target)
        _sync(target.parent)


def write_whole(path: Path, text: str) -> None:
    """Write a small file so that a reader finds the old or the new, never a part.

    Raises:
        StorageError: The disk said no; the file is as it was.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with storage_errors(f"{path} cannot be written"):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(text, encoding="utf-8")
    move_into_place(temporary, path)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
