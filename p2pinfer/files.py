"""Small files that are there whole or not at all, whatever happens while they are written.

Rules:

1. Content is written to a draft beside the file, synced, and given its name in one step; then the directory
   is synced, so that the name survives a crash as well.
2. A draft's name begins with a dot; a write that fails removes it.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from p2pinfer.errors import StorageError

__all__ = [
    "EVERYBODY_READS",
    "OWNER_ONLY",
    "create_file",
    "move_into_place",
    "replace_file",
    "storage_errors",
    "sync_directory",
    "write_synced",
]

OWNER_ONLY = 0o600
EVERYBODY_READS = 0o644


@contextmanager
def storage_errors(what: str) -> Iterator[None]:
    """Map what the system says about files to `StorageError`, naming what was tried."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise StorageError(
            f"{what}: {reason}: free space, permit writing there or choose another directory, then try again"
        ) from error


def replace_file(path: Path, content: bytes, *, mode: int = OWNER_ONLY) -> None:
    """Write a file; a reader and a crash find the old content or the new.

    Args:
        path: Its directory is made if it is not there.
        content: All of it.
        mode: Who may read it, as `chmod` counts.

    Raises:
        StorageError: The disk refused; the old content is there.
    """
    with storage_errors(f"{path} cannot be written"):
        path.parent.mkdir(parents=True, exist_ok=True)
        with _draft(path, content, mode) as draft:
            draft.replace(path)
        sync_directory(path.parent)


def create_file(path: Path, content: bytes) -> None:
    """Write a file that nobody else can read, unless there is one of that name.

    Raises:
        FileExistsError: There is one; it is as it was.
        OSError: The disk refused; nothing is there.
    """
    with _draft(path, content, OWNER_ONLY) as draft:
        os.link(draft, path)  # unlike a rename it fails if something is there
    sync_directory(path.parent)


def move_into_place(source: Path, target: Path) -> None:
    """Give a file that was written elsewhere on this disk its name, in one step.

    Raises:
        StorageError: The disk refused; the target is as it was.
    """
    with storage_errors(f"{target} cannot be written"):
        target.parent.mkdir(parents=True, exist_ok=True)
        _sync(source)
        source.replace(target)
        sync_directory(target.parent)


def write_synced(path: Path, content: bytes, *, mode: int = OWNER_ONLY) -> None:
    """Write a draft, or write over one, and wait until the disk has it.

    Raises:
        OSError: The disk refused; a part may be there.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def sync_directory(path: Path) -> None:
    """Wait until the disk knows the names in a directory.

    Raises:
        OSError: The disk refused.
    """
    if os.name == "posix":  # elsewhere a directory cannot be opened, and the rename itself is journalled
        _sync(path)


@contextmanager
def _draft(path: Path, content: bytes, mode: int) -> Iterator[Path]:
    """A synced draft beside the file, which is gone afterwards."""
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        write_synced(draft, content, mode=mode)
        yield draft
    finally:
        draft.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
