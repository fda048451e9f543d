"""The files of one directory, through the operating system: the only place in `raft` that knows it.

1. A sync that returns has reached the disk: `fdatasync`, on macOS `F_FULLFSYNC`, elsewhere `fsync`.
2. One process at a time: the file `lock` in the directory is locked as long as the store is open. On Windows
   there is no such lock.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

if sys.platform != "win32":
    import fcntl

__all__ = ["DirectoryFiles"]

LOCK_NAME = "lock"
_OWNER_ONLY = 0o600


class _DirectoryFile:
    def __init__(self, path: Path, flags: int) -> None:
        binary = getattr(os, "O_BINARY", 0)
        self._descriptor = os.open(path, os.O_RDWR | flags | binary, _OWNER_ONLY)

    def write(self, offset: int, data: bytes) -> None:
        os.lseek(self._descriptor, offset, os.SEEK_SET)
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(self._descriptor, rest) :]  # a nearly full disk takes a part

    def sync(self) -> None:
        _sync_data(self._descriptor)

    def close(self) -> None:
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)


class DirectoryFiles:
    """A directory for one store and nothing else.

    Args:
        directory: Made by `lock` if it is not there; readable by its owner alone.
    """

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        self._directory = Path(directory)
        self._lock: int | None = None

    @property
    def place(self) -> str:
        return str(self._directory)

    def lock(self) -> None:
        self._make_directory()
        descriptor = os.open(self._directory / LOCK_NAME, os.O_RDWR | os.O_CREAT, _OWNER_ONLY)
        try:
            if sys.platform != "win32":
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(descriptor)
            raise
        self._lock = descriptor

    def _make_directory(self) -> None:
        """Make what is missing of the path, and see to it that those names last as well."""
        missing = [path for path in (self._directory, *self._directory.parents) if not path.exists()]
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        for path in missing:
            if os.name == "posix":
                _sync_directory(path.parent)

    def names(self) -> list[str]:
        return [entry.name for entry in os.scandir(self._directory) if entry.is_file()]

    def create(self, name: str) -> _DirectoryFile:
        return _DirectoryFile(self._directory / name, os.O_CREAT | os.O_TRUNC)

    def open(self, name: str) -> _DirectoryFile:
        return _DirectoryFile(self._directory / name, 0)

    def read(self, name: str, offset: int = 0, size_bytes: int | None = None) -> bytes:
        with open(self._directory / name, "rb") as file:
            file.seek(offset)
            return file.read() if size_bytes is None else file.read(size_bytes)

    def rename(self, name: str, new_name: str) -> None:
        os.replace(self._directory / name, self._directory / new_name)

    def remove(self, name: str) -> None:
        os.unlink(self._directory / name)

    def truncate(self, name: str, size_bytes: int) -> None:
        os.truncate(self._directory / name, size_bytes)

    def sync_names(self) -> None:
        if os.name == "posix":  # elsewhere a directory cannot be opened, and its changes are journalled
            _sync_directory(self._directory)

    def random_bytes(self, count: int) -> bytes:
        return os.urandom(count)

    def close(self) -> None:
        descriptor, self._lock = self._lock, None
        if descriptor is not None:
            os.close(descriptor)


def _sync_data(descriptor: int) -> None:
    if sys.platform == "darwin":
        fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)  # fsync there leaves it in the disk's own cache
    elif sys.platform == "win32":
        os.fsync(descriptor)
    else:
        os.fdatasync(descriptor)


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
