"""A directory in memory that forgets at a crash what was not synced, and fails on demand.

1. What a crash leaves of unsynced writes is drawn: nothing, all, all up to a byte, or any sectors of 512
   bytes. So is which unsynced names are there.
2. A sync that fails leaves the pages clean: what was to be synced reached the disk in part, is still read by
   this machine, and no later sync writes it (PostgreSQL's "fsyncgate", 2018; Rebello et al., 2020, section
   3).
3. Every call that may fail is counted, so that a test can let each one in turn be the one that fails or the
   last.

Source of the model: Pillai et al., "All File Systems Are Not Created Equal" (ALICE), 2014, table 1.
"""

from __future__ import annotations

import errno
import random

__all__ = ["CrashingFiles", "PowerLoss"]

_SECTOR_SIZE_BYTES = 512


class PowerLoss(BaseException):
    """The machine is gone in the middle of a call. Not an `Exception`: no code under test may carry on."""


class _Content:
    """One file's bytes: as they are read, as they are on the disk, and the writes between the two."""

    def __init__(self) -> None:
        self.cached = bytearray()
        self.durable = bytearray()
        self.pending: list[tuple[int, bytes]] = []

    def write(self, offset: int, data: bytes) -> None:
        _put(self.cached, offset, data)
        self.pending.append((offset, data))

    def sync(self) -> None:
        for offset, data in self.pending:
            _put(self.durable, offset, data)
        self.pending.clear()

    def lose(self, rng: random.Random) -> None:
        """Let what was not synced reach the disk in part, and never again."""
        how = rng.choice(("nothing", "all", "prefix", "sectors"))
        left = rng.randrange(sum(len(data) for _, data in self.pending) + 1)
        for offset, data in self.pending:
            if how == "all":
                _put(self.durable, offset, data)
            elif how == "prefix":
                _put(self.durable, offset, data[:left])
                left = max(left - len(data), 0)
            elif how == "sectors":
                self._put_some_sectors(offset, data, rng)
        self.pending.clear()

    def _put_some_sectors(self, offset: int, data: bytes, rng: random.Random) -> None:
        at = 0
        while at < len(data):
            size = _SECTOR_SIZE_BYTES - (offset + at) % _SECTOR_SIZE_BYTES
            if rng.random() < 0.5:
                _put(self.durable, offset + at, data[at : at + size])
            at += size


class _CrashingFile:
    def __init__(self, files: CrashingFiles, content: _Content) -> None:
        self._files = files
        self._content = content

    def write(self, offset: int, data: bytes) -> None:
        room = self._files.room_for(offset + len(data) - len(self._content.cached))
        if self._files.is_failing():
            self._content.write(offset, data[: self._files.rng.randrange(len(data) + 1)])
            raise OSError(errno.EIO, "Input/output error")
        if room < 0:
            self._content.write(offset, data[: len(data) + room])
            raise OSError(errno.ENOSPC, "No space left on device")
        self._content.write(offset, data)

    def sync(self) -> None:
        if self._files.is_failing():
            self._content.lose(self._files.rng)
            raise OSError(errno.EIO, "Input/output error")
        self._content.sync()

    def close(self) -> None:
        """Nothing is synced by it, and nothing fails."""


class CrashingFiles:
    """The files of one directory, as `raft.storage.files.Files` has them.

    Attributes:
        rng: Draws what a crash leaves, and random bytes.
        call_count: Calls so far that could have failed.
        fail_at: The calls, by their numbers, that fail.
        lose_power_at: The call that never returns; what it was to do may be half done.
        capacity_bytes: Of all files together; None without a bound.
    """

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.call_count = 0
        self.fail_at: frozenset[int] = frozenset()
        self.lose_power_at: int | None = None
        self.capacity_bytes: int | None = None
        self._cached: dict[str, _Content] = {}
        self._durable: dict[str, _Content] = {}
        self._pending: list[dict[str, _Content | None]] = []
        self._is_locked = False

    # ------------------------------------------------------------------ what happens to it

    def crash(self) -> None:
        """Lose power: only what is on the disk is left, and a part of what was on its way."""
        contents = {id(each): each for names in (self._cached, self._durable) for each in names.values()}
        contents |= {
            id(each): each for change in self._pending for each in change.values() if each is not None
        }
        for content in contents.values():
            content.lose(self.rng)
            content.cached = bytearray(content.durable)
        some = self.rng.choice((0.0, 0.5, 1.0))
        for change in self._pending:
            if self.rng.random() < some:
                _rename_in(self._durable, change)
        self._pending.clear()
        self._cached = dict(self._durable)
        self._is_locked = False
        self.lose_power_at = None
        self.fail_at = frozenset()

    def kill(self) -> None:
        """End the process alone: the machine still has all that was written."""
        self._is_locked = False

    def is_failing(self) -> bool:
        """Count a call; whether it is to fail."""
        self.call_count += 1
        if self.call_count == self.lose_power_at:
            raise PowerLoss
        return self.call_count in self.fail_at

    def room_for(self, growth_bytes: int) -> int:
        """Return what is left of the capacity after a growth; negative if it does not fit."""
        if self.capacity_bytes is None or growth_bytes <= 0:
            return 0
        return self.capacity_bytes - self.size_bytes - growth_bytes

    @property
    def size_bytes(self) -> int:
        """Bytes of all files that have a name."""
        return sum(len(content.cached) for content in self._cached.values())

    def edit(self, name: str, data: bytes) -> None:
        """Lay a file on the disk from outside: damage, or an old format."""
        content = _Content()
        content.cached, content.durable = bytearray(data), bytearray(data)
        self._cached[name] = self._durable[name] = content

    # ------------------------------------------------------------------ what a store calls

    @property
    def place(self) -> str:
        return "memory"

    def lock(self) -> None:
        if self._is_locked:
            raise BlockingIOError(errno.EAGAIN, "locked")
        self._is_locked = True

    def names(self) -> list[str]:
        return list(self._cached)

    def create(self, name: str) -> _CrashingFile:
        self._may_fail()
        content = _Content()
        self._change({name: content})
        return _CrashingFile(self, content)

    def open(self, name: str) -> _CrashingFile:
        self._may_fail()
        return _CrashingFile(self, self._cached[name])

    def read(self, name: str, offset: int = 0, size_bytes: int | None = None) -> bytes:
        self._may_fail()
        end = None if size_bytes is None else offset + size_bytes
        return bytes(self._cached[name].cached[offset:end])

    def rename(self, name: str, new_name: str) -> None:
        self._may_fail()
        self._change({name: None, new_name: self._cached[name]})

    def remove(self, name: str) -> None:
        self._may_fail()
        if name not in self._cached:
            raise FileNotFoundError(errno.ENOENT, "No such file", name)
        self._change({name: None})

    def truncate(self, name: str, size_bytes: int) -> None:
        self._may_fail()
        content = self._cached[name]
        if size_bytes >= len(content.cached):
            raise OSError(errno.EINVAL, "a file is only ever cut")
        del content.cached[size_bytes:]
        if self.rng.random() < 0.5:  # it may reach the disk at once, or never if power is lost
            del content.durable[size_bytes:]

    def sync_names(self) -> None:
        if self.is_failing():
            self._pending = [change for change in self._pending if self.rng.random() < 0.5]
            raise OSError(errno.EIO, "Input/output error")
        for change in self._pending:
            _rename_in(self._durable, change)
        self._pending.clear()

    def random_bytes(self, count: int) -> bytes:
        return self.rng.randbytes(count)

    def close(self) -> None:
        self._is_locked = False

    def _may_fail(self) -> None:
        if self.is_failing():
            raise OSError(errno.EIO, "Input/output error")

    def _change(self, change: dict[str, _Content | None]) -> None:
        _rename_in(self._cached, change)
        self._pending.append(change)


def _put(target: bytearray, offset: int, data: bytes) -> None:
    if not data:
        return
    if len(target) < offset:
        target += bytes(offset - len(target))
    target[offset : offset + len(data)] = data


def _rename_in(names: dict[str, _Content], change: dict[str, _Content | None]) -> None:
    for name, content in change.items():
        if content is None:
            names.pop(name, None)
        else:
            names[name] = content
