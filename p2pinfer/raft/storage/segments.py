"""The segment files of one log: appending to the newest, beginning another, deleting the oldest.

Rules:

1. A segment is made in full size, with zeros, under a draft's name; it gets its own when it is synced, and
   the directory is synced before anybody is told. So an append never changes the size of a file, which would
   cost a sync of the file system's journal, and a full disk is met when a segment is made, where nothing
   depends on it yet.
2. A segment that a write or sync failed on is never written again. After a failed sync the system may call
   pages clean that never reached the disk, and a second sync then succeeds without them (PostgreSQL's
   "fsyncgate", 2018; Rebello et al., "Can Applications Recover from fsync Failures?", 2020). The next write
   begins a new segment, whose head says where the old one ends: behind the last sync that succeeded.
3. A segment is deleted only from the old end, and only when no entry in it is needed any more. State that is
   no entry stands in the newest segment's checkpoint as well. The directory is not synced after that: a file
   that a crash brings back is read as what it was, or is no part of the chain and goes at the next start.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from p2pinfer.raft.storage.contents import StoredState
from p2pinfer.raft.storage.files import File, Files
from p2pinfer.raft.storage.framing import CHECKPOINT, HEAD_SIZE_BYTES, WRITE, SegmentHead, frame
from p2pinfer.raft.storage.records import encode_checkpoint
from p2pinfer.raft.storage.snapshot_files import DRAFT

__all__ = ["SEGMENT", "SEGMENT_SIZE_BYTES", "Batch", "OldSegment", "Segments", "segment_name"]

SEGMENT = ".wal"
SEGMENT_SIZE_BYTES = 4 << 20
"""Small enough that a compacted log is small and that a segment is made in a few milliseconds. etcd has
64 MB."""
_FILL_SIZE_BYTES = 1 << 20


def segment_name(sequence: int) -> str:
    """Return a segment's file name."""
    return f"{sequence:016x}{SEGMENT}"


@dataclass(frozen=True, slots=True)
class Batch:
    """What is written with one sync.

    Attributes:
        bodies: What its records say.
        entry_max: The highest index of an entry in them, 0 if there is none.
    """

    bodies: Sequence[bytes] = ()
    entry_max: int = 0

    def framed(self, offset: int, salt: int, sync: int) -> bytes:
        """Return the bytes to be written at `offset`."""
        return frame([(WRITE, body) for body in self.bodies], offset, salt, sync)


@dataclass(frozen=True, slots=True)
class OldSegment:
    """A segment that nothing is appended to: its number, its end, and its highest entry's index, or 0."""

    sequence: int
    end: int
    entry_max: int


@dataclass(slots=True)
class _Newest:
    """The segment that is appended to.

    Attributes:
        begin: Where its checkpoint ends.
        end: Behind the last record that was acknowledged.
        is_sound: No write or sync of it failed, and no successor may have been named.
    """

    head: SegmentHead
    file: File
    begin: int
    end: int
    entry_max: int
    is_sound: bool = True


class Segments:
    """The segments of a log that is open. Its methods raise `OSError` where the disk refuses.

    Args:
        files: The directory.
        ids: The node's, and the cluster's of 16 bytes.
        size_bytes: Of one segment; a single larger batch gets a larger one.
        old: What was there before, oldest first.
        sync: The number of the last sync in them.
        sequence: The highest number that any segment has, 0 for a new log.
    """

    def __init__(
        self,
        files: Files,
        ids: tuple[int, bytes],
        size_bytes: int,
        *,
        old: Sequence[OldSegment] = (),
        sync: int = 0,
        sequence: int = 0,
    ) -> None:
        self._files = files
        self._ids = ids
        self._size_bytes = size_bytes
        self._old = list(old)
        self._newest: _Newest | None = None
        self._sync = sync
        self._sequence = sequence

    @property
    def names(self) -> set[str]:
        """The files that belong to the log."""
        newest = set() if self._newest is None else {segment_name(self._newest.head.sequence)}
        return newest | {segment_name(old.sequence) for old in self._old}

    @property
    def sync_count(self) -> int:
        """The number of the last sync that succeeded, counted since the log was made."""
        return self._sync

    def append(self, batch: Batch, before: StoredState) -> None:
        """Write a batch with one sync; `before` is the state without it, should a new segment begin."""
        newest = self._newest
        if newest is not None and newest.is_sound:
            data = batch.framed(newest.end, newest.head.salt, self._sync + 1)
            if newest.end + len(data) <= newest.head.size_bytes:
                newest.is_sound = False  # until it is known that nothing failed
                newest.file.write(newest.end, data)
                newest.file.sync()
                newest.is_sound = True
                newest.end += len(data)
                newest.entry_max = max(newest.entry_max, batch.entry_max)
                self._sync += 1
                return
        self.begin(batch, before)

    def begin(self, batch: Batch, before: StoredState) -> None:
        """Begin a new segment with a batch, which may be empty."""
        old = self._newest
        salt = int.from_bytes(self._files.random_bytes(8), "little")
        checkpoint = frame([(CHECKPOINT, encode_checkpoint(before))], HEAD_SIZE_BYTES, salt, self._sync)
        begin = HEAD_SIZE_BYTES + len(checkpoint)
        content = checkpoint + batch.framed(begin, salt, self._sync + 1)
        head = self._head(salt, HEAD_SIZE_BYTES + len(content))
        name = segment_name(head.sequence)
        self._make(name + DRAFT, head.pack() + content, head.size_bytes)
        if old is not None:
            old.is_sound = False  # from here on the new one may be what a restart finds
        self._files.rename(name + DRAFT, name)
        self._files.sync_names()
        file = self._files.open(name)
        self._newest = _Newest(head, file, begin, head.synced_end, batch.entry_max)
        self._sequence = head.sequence
        self._sync += bool(batch.bodies)
        if old is not None:
            self._retire(old)

    def drop(self, compacted: int) -> None:
        """Delete the oldest segments as long as all their entries are at or below an index."""
        while self._old and self._old[0].entry_max <= compacted:
            self._files.remove(segment_name(self._old[0].sequence))
            del self._old[0]

    def close(self) -> None:
        """Let go of the newest; nothing can be appended afterwards."""
        newest, self._newest = self._newest, None
        if newest is not None:
            newest.file.close()

    def _head(self, salt: int, synced_end: int) -> SegmentHead:
        previous, previous_end = self._link()
        return SegmentHead(
            size_bytes=max(self._size_bytes, synced_end),
            sequence=self._sequence + 1,
            salt=salt,
            node_id=self._ids[0],
            cluster_id=self._ids[1],
            previous=previous,
            previous_end=previous_end,
            sync=self._sync,
            synced_end=synced_end,
        )

    def _link(self) -> tuple[int, int]:
        """What a new segment follows on: the newest, or what that follows on if nothing was written to it."""
        newest = self._newest
        if newest is not None:
            if newest.end > newest.begin:
                return newest.head.sequence, newest.end
            return newest.head.previous, newest.head.previous_end
        return (self._old[-1].sequence, self._old[-1].end) if self._old else (0, 0)

    def _make(self, draft: str, content: bytes, size_bytes: int) -> None:
        """Write a whole file and sync it; what fails is removed."""
        try:
            file = self._files.create(draft)
            try:
                file.write(0, content)
                for offset in range(len(content), size_bytes, _FILL_SIZE_BYTES):
                    file.write(offset, bytes(min(_FILL_SIZE_BYTES, size_bytes - offset)))
                file.sync()
            finally:
                file.close()
        except OSError:
            self._remove_quietly(draft)  # it may fill the rest of a full disk
            raise

    def _retire(self, old: _Newest) -> None:
        """Keep a segment for its entries, in the size that it needs, or delete it if it has no record."""
        old.file.close()
        name = segment_name(old.head.sequence)
        if old.end == old.begin:
            self._remove_quietly(name)
            return
        self._old.append(OldSegment(old.head.sequence, old.end, old.entry_max))
        try:
            self._files.truncate(name, old.end)
        except OSError:
            pass  # it only takes more room than it needs

    def _remove_quietly(self, name: str) -> None:
        try:
            self._files.remove(name)
        except OSError:
            pass  # nothing refers to it, and the next start removes it
