"""What a peer must still know after a crash: a small key/value store, one file for each key.

Rules:

1. A value is written to a temporary file, synced, renamed over the old one, and the directory is synced:
   a crash at any point leaves either the old value or the new one, whole.
2. Nothing here runs on the event loop's thread once the peer is up; writes keep their order.
3. One process at a time: the directory is locked as long as the store is open.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote, unquote

import trio

from p2pinfer.effects import Persist
from p2pinfer.errors import LocalProtocolError, StorageError
from p2pinfer.files import sync_directory, write_synced

if sys.platform != "win32":
    import fcntl

__all__ = ["Disk", "WriteFailed"]

_KEY = re.compile(r"[a-z0-9][a-z0-9_.:/-]{0,99}")
_VALUE = ".value"
_TEMPORARY = ".tmp"
_LOCK = "lock"


class WriteFailed(StorageError):
    """A write did not happen: the disk is full, read-only or broken. The earlier value is still there.

    Attributes:
        key: The key that was to be written; earlier keys of the same call are on disk.
    """

    def __init__(self, message: str, *, key: str) -> None:
        super().__init__(message)
        self.key = key


class Disk:
    """The open store. Call `close` when done.

    Args:
        directory: Made if it is not there; readable by its owner alone.

    Raises:
        StorageError: The directory cannot be made, written or locked.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._one_writer = trio.CapacityLimiter(1)
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock = os.open(directory / _LOCK, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise StorageError(
                f"{directory}: {error.strerror}; choose a directory that is writable"
            ) from error
        if sys.platform != "win32":
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                os.close(self._lock)
                raise StorageError(
                    f"{directory} is used by another running peer; give each its own"
                ) from error

    def load(self) -> dict[str, bytes]:
        """Read every value, and remove what a crash left half-written. Called once, before the peer is up.

        Raises:
            StorageError: The directory or a value cannot be read.
        """
        try:
            for leftover in self._directory.glob(f"*{_TEMPORARY}"):
                leftover.unlink()
            paths = sorted(self._directory.glob(f"*{_VALUE}"))
            return {unquote(path.name.removesuffix(_VALUE)): path.read_bytes() for path in paths}
        except OSError as error:
            raise StorageError(f"{self._directory}: {error.strerror}; check the disk") from error

    async def write(self, writes: Sequence[Persist]) -> None:
        """Make the writes durable, in order; returns once they are. Cancelling waits for the one under way.

        Raises:
            WriteFailed: The first write that failed, by key; those after it were not tried.
            LocalProtocolError: A key is not of the allowed form; nothing was written.
        """
        for write in writes:
            if not _KEY.fullmatch(write.key):
                raise LocalProtocolError(f"{write.key!r} is no key: use a-z, 0-9 and _.:/-, at most 100")
        await trio.to_thread.run_sync(self._write_all, tuple(writes), limiter=self._one_writer)

    def close(self) -> None:
        """Let another process use the directory."""
        os.close(self._lock)

    def _write_all(self, writes: tuple[Persist, ...]) -> None:
        key = ""
        try:
            for write in writes:
                key = write.key
                self._replace(self._directory / (quote(key, safe="") + _VALUE), write.value)
            sync_directory(self._directory)  # once for all of them
        except OSError as error:
            raise WriteFailed(
                f"{self._directory}: {key} was not stored: {error.strerror}", key=key
            ) from error

    def _replace(self, path: Path, value: bytes | None) -> None:
        if value is None:
            path.unlink(missing_ok=True)
            return
        temporary = path.with_suffix(_TEMPORARY)
        write_synced(temporary, value)
        temporary.replace(path)
