"""A store that forgets with its process: for tests, and for clusters whose state may be lost.

1. It keeps the promises of `protocol.Store` for as long as the object lives: a node that crashes and gets the
   same object again finds what was acknowledged.
2. A node that lost its store has lost its memory, so it must not keep its id: a new store has a new one.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from p2pinfer.errors import LocalProtocolError
from p2pinfer.raft.storage.contents import Contents, StoredState
from p2pinfer.raft.types import CLUSTER_ID_SIZE_BYTES, NODE_ID_MAX, Initial, LogWrite, Snapshot

__all__ = ["MemoryStore"]


class MemoryStore:
    """Everything in a few lists.

    Args:
        rng: Draws the ids.
        cluster_id: The cluster to belong to; None founds one.
    """

    def __init__(self, rng: random.Random, *, cluster_id: bytes | None = None) -> None:
        self._node_id = rng.randrange(1, NODE_ID_MAX + 1)
        self._cluster_id = rng.randbytes(CLUSTER_ID_SIZE_BYTES) if cluster_id is None else cluster_id
        self._contents = Contents(StoredState())
        self._snapshot: Snapshot | None = None

    def load(self) -> Initial:
        contents = self._contents
        return Initial(
            self._node_id,
            self._cluster_id,
            contents.state.hard_state,
            tuple(contents.entries),
            self._snapshot,
        )

    def write(self, writes: Sequence[LogWrite]) -> None:
        state = self._contents.state
        for write in writes:  # all are judged before the first is done
            state = state.after(write)
            if write.snapshot is not None and not write.snapshot.is_intact:
                raise LocalProtocolError(
                    f"the snapshot at {write.snapshot.meta.index} is not what its digest says"
                )
        for write in writes:
            self._contents.apply(write)
            self._snapshot = write.snapshot or self._snapshot

    def read_snapshot(self, offset: int, size_bytes: int) -> bytes:
        return b"" if self._snapshot is None else self._snapshot.data[offset : offset + size_bytes]

    def close(self) -> None:
        """Nothing is open."""
