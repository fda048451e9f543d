"""What Raft needs of its storage, whoever does it: a file system, memory, or the simulator's faulty disk.

Rules:

1. `write` is all or nothing for each `LogWrite`, and keeps their order: after a crash a prefix of what was
   asked for is there, and it holds everything that was acknowledged by returning.
2. A write that raised has promised nothing. The store stands where it stood before and takes the next one,
   which follows on what was acknowledged, as soon as there is room again.
3. Everything here blocks: the driver calls it in a worker thread, one call at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from p2pinfer.raft.types import Initial, LogWrite

__all__ = ["Store"]


class Store(Protocol):
    """The durable half of one node. `testing.store_conformance` is the suite that every store passes."""

    def load(self) -> Initial:
        """Return what is stored; called once, before anything else.

        What it returns is durable, whether or not it was when the process before ended: a node may act on it.

        Raises:
            DamagedStorage: What is there contradicts itself; the message says what to do.
            NewerFormat: A newer version of the program wrote it.
            StorageError: The disk refused, or another process uses it.
        """
        ...

    def write(self, writes: Sequence[LogWrite]) -> None:
        """Make the writes durable, in order, with one sync for all of them; returns when they are.

        Raises:
            StorageError: The disk refused: none of them is promised. See rule 2.
            LocalProtocolError: A write does not follow on what is stored: a bug of the caller. Nothing was
                written.
        """
        ...

    def read_snapshot(self, offset: int, size_bytes: int) -> bytes:
        """Return a piece of the stored snapshot's data, shorter at its end; empty if there is none.

        Raises:
            DamagedStorage: That piece is not what was written.
            StorageError: The disk refused.
        """
        ...

    def close(self) -> None:
        """Let another process use the storage. Calling it again does nothing."""
        ...
