"""What the log is for: the contract between Raft and the state that every replica builds from its entries.

Rules:

1. The state follows from the entries applied, in their order, and from nothing else: no clock, no randomness,
   no order of a set, no setting that differs between replicas. Time comes with the entry, stamped by the
   leader that appended it; what goes back is taken for the highest so far.
2. Whatever the bytes, `apply` answers with a result, the same on every replica; a command that is refused
   changes nothing but the time. It raises only `VersionMismatch`, where this software is too old to go on:
   whoever runs it then stops applying, for the state would no longer be that of the others.
3. The same state gives the same snapshot, byte for byte, so that replicas can be compared by a digest.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Protocol

__all__ = ["TIME_MS_MAX", "StateMachine", "digest_of"]

TIME_MS_MAX = 1 << 53
"""Stamps beyond it, far outside of any calendar, are taken for it: what is added to one stays a number."""


class StateMachine(Protocol):
    """State that is replicated. `sessions.SessionMachine` puts exactly-once sessions around any of these."""

    def apply(self, index: int, command: bytes, time_ms: int) -> bytes:
        """Take the next entry.

        Args:
            index: The entry's place in the log; rises with every call.
            command: The entry's data; empty for an entry that only carries the time.
            time_ms: The leader's stamp, in milliseconds since the Unix epoch, in [0, TIME_MS_MAX].

        Returns:
            The result for whoever proposed the command; empty for an empty command.

        Raises:
            VersionMismatch: The swarm agreed on a format that this software does not know. Nothing changed;
                update the software.
        """
        ...

    def snapshot(self) -> Iterator[bytes]:
        """Capture the state as it is now; the bytes are made while the iterator is read.

        Entries may be applied meanwhile, so that a large snapshot can be written by another thread.
        """
        ...

    def restore(self, data: bytes) -> None:
        """Replace the state by that of a snapshot.

        Raises:
            DecodeError: It is no snapshot of this machine, or damaged. The state is unchanged; fetch another.
            VersionMismatch: It is of a newer format. The state is unchanged; update the software.
        """
        ...


def digest_of(machine: StateMachine) -> bytes:
    """Return 16 bytes that are equal where two states are; as costly as a snapshot."""
    digest = hashlib.blake2b(digest_size=16)
    for chunk in machine.snapshot():
        digest.update(chunk)
    return digest.digest()
