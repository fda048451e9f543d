"""What the write-ahead log asks of a file system: one directory, plain names, syncs that make things last.

1. Bytes written are sure to survive a loss of power only after `File.sync`; a name given or taken away only
   after `sync_names`. Before that any part may be there.
2. Every method may raise `OSError`; a failed `sync` leaves it open what is on the disk, for good.

`wal_files.DirectoryFiles` is the real one; `testing.crashing_files` forgets what was not synced.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from p2pinfer.errors import StorageError

__all__ = ["File", "Files", "storage_errors"]


class File(Protocol):
    """An open file."""

    def write(self, offset: int, data: bytes) -> None:
        """Write all of it."""
        ...

    def sync(self) -> None:
        """Wait until the disk has what was written, the file's size included."""
        ...

    def close(self) -> None:
        """Let go of it; nothing is synced by that."""
        ...


class Files(Protocol):
    """The files of one directory."""

    @property
    def place(self) -> str:
        """The directory, as messages name it."""
        ...

    def lock(self) -> None:
        """Make the directory if need be, and keep other processes out of it.

        Raises:
            BlockingIOError: Another process has it.
        """
        ...

    def names(self) -> list[str]:
        """Every file in the directory."""
        ...

    def create(self, name: str) -> File:
        """Make an empty file, in place of one of that name."""
        ...

    def open(self, name: str) -> File:
        """Open a file that is there."""
        ...

    def read(self, name: str, offset: int = 0, size_bytes: int | None = None) -> bytes:
        """Return a part of a file, or all of it; less where it ends before."""
        ...

    def rename(self, name: str, new_name: str) -> None:
        """Give a file another name, in place of one that has it."""
        ...

    def remove(self, name: str) -> None:
        """Take a file's name away."""
        ...

    def truncate(self, name: str, size_bytes: int) -> None:
        """Cut a file to a size below its own."""
        ...

    def sync_names(self) -> None:
        """Wait until the disk knows which names there are."""
        ...

    def random_bytes(self, count: int) -> bytes:
        """Return bytes that nobody can foretell."""
        ...

    def close(self) -> None:
        """Let other processes in."""
        ...


@contextmanager
def storage_errors(files: Files, what: str) -> Iterator[None]:
    """Map what the system says about files to `StorageError`, naming what was tried and what helps."""
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"{files.place}: {what}: {error.strerror or error}: {_remedy_for(error)}; all that was"
            " acknowledged is there, and work goes on when the disk obeys again"
        ) from error


def _remedy_for(error: OSError) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return "free space there"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.ENOENT):
        return "permit writing there or choose another directory"
    return "check the disk"
