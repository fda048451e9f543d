"""The write-ahead log: a node's term, vote, log and snapshot in a directory of their own.

Rules:

1. A batch of writes is one append and one sync. It is acknowledged by returning, and only then counts here.
2. A snapshot is durable under its name before a record speaks of it; only after that record's sync are older
   snapshots and the segments that it replaces deleted.
3. Starting writes as well: what the last sync before may not have brought to the disk is written anew, so
   that what `load` returns is durable, and every start has a segment of its own.

How records lie in files is said in `framing`, what a failed write means in `segments`, what reading proves in
`replay`. Node id and cluster id stand in the head of every segment: a directory without segments is a fresh
node, with an id that was never used.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from p2pinfer.errors import DamagedStorage, LocalProtocolError, StorageError
from p2pinfer.raft.storage.contents import StoredState
from p2pinfer.raft.storage.files import Files, storage_errors
from p2pinfer.raft.storage.records import encode_write
from p2pinfer.raft.storage.replay import Replayed, replay, segment_sequences
from p2pinfer.raft.storage.segments import SEGMENT_SIZE_BYTES, Batch, Segments, segment_name
from p2pinfer.raft.storage.snapshot_files import DRAFT, REMEDY, SNAPSHOT, SnapshotDraft, SnapshotFiles
from p2pinfer.raft.types import CLUSTER_ID_SIZE_BYTES, Initial, LogWrite, SnapshotMeta

__all__ = ["WalStore"]


class WalStore:
    """A store in a directory; see `protocol.Store` for what its methods promise.

    Args:
        files: The directory, as in `WalStore(DirectoryFiles(path))`.
        cluster_id: The cluster that a fresh node is to belong to; None founds one. A directory that belongs
            to another is refused.
        segment_size_bytes: Of one segment file; from 4 KiB. At least two of them are in use.
    """

    def __init__(
        self,
        files: Files,
        *,
        cluster_id: bytes | None = None,
        segment_size_bytes: int = SEGMENT_SIZE_BYTES,
    ) -> None:
        self._files = files
        self._cluster_id = cluster_id
        self._segment_size_bytes = max(segment_size_bytes, 4096)
        self._snapshots = SnapshotFiles(files)
        self._segments: Segments | None = None
        self._state = StoredState()
        self._failure_count = 0
        self._torn_bytes = 0

    def load(self) -> Initial:
        if self._segments is not None:
            raise LocalProtocolError("a store is loaded once")
        self._lock()
        try:
            with storage_errors(self._files, "the log cannot be read or continued"):
                initial = self._open()
                self._remove_leftovers()
        except BaseException:
            self.close()
            raise
        return initial

    def write(self, writes: Sequence[LogWrite]) -> None:
        segments = self._opened()
        if not writes:
            return
        state = self._state
        for write in writes:  # all are judged before anything happens
            state = state.after(write)
        entry_max = max((write.entries[-1].index for write in writes if write.entries), default=0)
        batch = Batch([encode_write(write) for write in writes], entry_max)
        try:
            with storage_errors(self._files, "nothing was written"):
                for write in writes:
                    if write.snapshot is not None:
                        self._snapshots.store(write.snapshot)
                segments.append(batch, self._state)
        except StorageError:
            self._failure_count += 1
            raise
        self._state = state
        self._delete_what_is_compacted(any(write.snapshot is not None for write in writes))

    def read_snapshot(self, offset: int, size_bytes: int) -> bytes:
        self._opened()
        if self._state.meta is None:
            return b""
        with storage_errors(self._files, "the snapshot cannot be read"):
            return self._snapshots.read(self._state.meta, offset, size_bytes)

    def begin_snapshot(self, meta: SnapshotMeta) -> SnapshotDraft:
        """Write a snapshot as it arrives: a `LogWrite` with it finds it written once the draft is finished.

        A draft may be filled from another thread than the one that calls `write`.

        Raises:
            StorageError: The disk refused.
        """
        self._opened()
        return self._snapshots.begin(meta)

    def close(self) -> None:
        if self._segments is not None:
            self._segments.close()
            self._segments = None
        self._files.close()

    def statistics(self) -> Mapping[str, Any]:
        """Segments, syncs since the log was made, failed writes, and what a crash had left torn; a copy."""
        return {
            "segments": 0 if self._segments is None else len(self._segments.names),
            "syncs": 0 if self._segments is None else self._segments.sync_count,
            "failures": self._failure_count,
            "torn_bytes": self._torn_bytes,
        }

    def _lock(self) -> None:
        try:
            with storage_errors(self._files, "the directory cannot be used"):
                self._files.lock()
        except StorageError as error:
            if isinstance(error.__cause__, BlockingIOError):
                raise StorageError(
                    f"{self._files.place} is used by another running process; give each its own"
                ) from error
            raise

    def _opened(self) -> Segments:
        if self._segments is None:
            raise LocalProtocolError("the store is closed, or was not loaded yet")
        return self._segments

    def _open(self) -> Initial:
        found = replay(self._files)
        if found is None:
            return self._begin()
        if self._cluster_id not in (None, found.ids[1]):
            raise StorageError(
                f"{self._files.place} belongs to cluster {found.ids[1].hex()}; choose another directory"
            )
        meta = found.contents.state.meta
        snapshot = None if meta is None else self._snapshots.load(meta)
        self._free_room_behind(found)
        self._segments = Segments(
            self._files,
            found.ids,
            self._segment_size_bytes,
            old=found.old,
            sync=found.sync,
            sequence=found.newest.sequence,
        )
        self._segments.begin(found.unproven, found.proven)
        self._state = found.contents.state
        self._torn_bytes = found.torn_bytes
        return Initial(*found.ids, self._state.hard_state, tuple(found.contents.entries), snapshot)

    def _begin(self) -> Initial:
        """Make the log of a fresh node."""
        if any(name.endswith(SNAPSHOT) for name in self._files.names()):
            raise DamagedStorage(f"{self._files.place}: there are snapshots, but no log: {REMEDY}")
        node_id = 0
        while not node_id:
            node_id = int.from_bytes(self._files.random_bytes(8), "little") >> 1
        cluster_id = self._cluster_id or self._files.random_bytes(CLUSTER_ID_SIZE_BYTES)
        self._segments = Segments(self._files, (node_id, cluster_id), self._segment_size_bytes)
        self._segments.begin(Batch(), self._state)
        return Initial(node_id, cluster_id)

    def _free_room_behind(self, found: Replayed) -> None:
        """Cut what was torn, and the zeros behind it: on a full disk the new segment needs their room."""
        if found.surplus_bytes:
            self._files.truncate(segment_name(found.newest.sequence), found.newest.end)

    def _remove_leftovers(self) -> None:
        """Delete what no record speaks of: drafts, compacted segments, a snapshot that was not made known."""
        self._delete_what_is_compacted(False)
        kept = self._opened().names
        segments = {segment_name(sequence) for sequence in segment_sequences(self._files)}
        drafts = {name for name in self._files.names() if name.endswith(DRAFT)}
        try:
            for name in (segments - kept) | drafts:
                self._files.remove(name)
            self._snapshots.remove_others(self._state.meta, newer=True)
        except OSError:
            pass  # the next start tries again, and nothing reads them

    def _delete_what_is_compacted(self, has_new_snapshot: bool) -> None:
        try:
            if has_new_snapshot:
                self._snapshots.remove_others(self._state.meta)
            self._opened().drop(self._state.bounds.compacted)
        except OSError:
            pass  # the write is durable; the files go with the next one, or at the next start
