"""Snapshots in transit: cut in chunks by the leader, put together by a follower.

Rules:

1. Each chunk has its own check, and the whole has a digest: what is put together is compared before it is
   used.
2. A follower says which offset it wants next, so that a lost chunk, or another leader with the same snapshot,
   goes on where the transfer was.
3. One snapshot at a time is put together, no larger than allowed, and it grows only by what has arrived.
"""

from __future__ import annotations

import zlib

from p2pinfer.errors import DecodeError
from p2pinfer.raft.packing import configuration_of, record_of
from p2pinfer.raft.state import NodeState
from p2pinfer.raft.types import NodeId, Snapshot, SnapshotMeta
from p2pinfer.wire.messages.raft import InstallSnapshot

__all__ = ["SnapshotReceiver", "chunk_message"]


def chunk_message(
    state: NodeState, target: NodeId, snapshot: Snapshot, offset: int, round_now: int
) -> InstallSnapshot:
    """Return the chunk of a snapshot at `offset`."""
    meta = snapshot.meta
    data = snapshot.data[offset : offset + state.config.snapshot_chunk_bytes]
    return InstallSnapshot(
        cluster=state.cluster_id,
        source=state.node_id,
        target=target,
        term=state.term,
        index=meta.index,
        index_term=meta.term,
        configuration=record_of(meta.configuration),
        size_bytes=meta.size_bytes,
        digest=meta.digest,
        offset=offset,
        crc=zlib.crc32(data),
        data=data,
        round=round_now,
    )


class SnapshotReceiver:
    """What a follower has of a snapshot that it is being sent."""

    def __init__(self, state: NodeState) -> None:
        self._state = state
        self._meta: SnapshotMeta | None = None
        self._data = bytearray()

    @property
    def offset(self) -> int:
        """How much of the current one is here."""
        return len(self._data)

    def forget(self) -> None:
        """Drop what is here."""
        self._meta = None
        self._data = bytearray()

    def take(self, message: InstallSnapshot) -> Snapshot | None:
        """Take a chunk; returns the snapshot once it is whole and what it claims to be."""
        state = self._state
        if message.size_bytes > state.config.snapshot_size_bytes_max:
            state.count("snapshots_too_large")
            return None
        if zlib.crc32(message.data) != message.crc:
            state.count("damaged_chunks")
            return None
        try:
            configuration = configuration_of(message.configuration)
        except DecodeError:
            state.count("malformed")
            return None
        meta = SnapshotMeta(
            message.index, message.index_term, configuration, message.size_bytes, message.digest
        )
        if meta != self._meta:
            self._meta, self._data = meta, bytearray()
        if message.offset != len(self._data) or message.offset + len(message.data) > meta.size_bytes:
            state.count("chunks_out_of_place")
            return None
        self._data += message.data
        if len(self._data) < meta.size_bytes:
            return None
        snapshot = Snapshot(meta, bytes(self._data))
        self.forget()
        if not snapshot.is_intact:
            state.count("damaged_snapshots")
            return None
        return snapshot
