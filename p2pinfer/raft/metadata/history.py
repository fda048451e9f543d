"""The changes of late, for whoever watches: replayed from a revision, as long as they are kept.

Rules:

1. Changes are kept in their order, by whole revisions: a watcher never sees half of a transaction.
2. What is kept is bounded in number and in bytes; the oldest revisions go. Whoever asks for one that is gone
   is told so by name, with the revision to start from after reading what is there now.
3. The history is a part of the replicated state, so a watcher may go on at another replica, or at one that
   was restored from a snapshot, with the next revision that it wants.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from p2pinfer.raft.metadata.keyspace import Record, size_of
from p2pinfer.raft.metadata.limits import RECORD_OVERHEAD_BYTES, Limits

__all__ = ["Change", "Compacted", "History"]


class Change(NamedTuple):
    """One change of one key."""

    revision: int
    key: str
    record: Record | None
    """None where the key was deleted."""


@dataclass(frozen=True, slots=True)
class Compacted:
    """The wanted revision is not kept any more, or does not exist: read what is there, then start anew.

    Attributes:
        compacted: The last revision that is gone.
        revision: The one of the keys as they are: a watcher that has read them goes on after it.
    """

    compacted: int
    revision: int


class History:
    """The changes of the last revisions."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._changes: deque[Change] = deque()
        self._size_bytes = 0
        self.compacted = 0
        """The last revision whose changes are gone."""

    def __len__(self) -> int:
        return len(self._changes)

    @property
    def changes(self) -> tuple[Change, ...]:
        """All that is kept, the oldest first."""
        return tuple(self._changes)

    def append(self, changes: Sequence[Change]) -> None:
        """Keep the changes of a new revision, and drop the oldest revisions that are too much."""
        self._changes.extend(changes)
        self._size_bytes += sum(_size_of(change) for change in changes)
        limits = self._limits
        while (
            len(self._changes) > limits.history_count_max or self._size_bytes > limits.history_size_bytes_max
        ):
            self._drop_oldest_revision()

    def load(self, changes: Iterable[Change], compacted: int) -> None:
        """Take what a snapshot has, into a history that is empty."""
        self._changes = deque(changes)
        self._size_bytes = sum(_size_of(change) for change in self._changes)
        self.compacted = compacted

    def since(self, revision: int, count_max: int) -> list[Change]:
        """Return the changes from a revision on that is kept; about so many, the last revision whole."""
        later: list[Change] = []
        for change in reversed(self._changes):  # watchers are mostly near the end
            if change.revision < revision:
                break
            later.append(change)
        later.reverse()
        end = count_max
        while end < len(later) and later[end].revision == later[end - 1].revision:
            end += 1
        return later[:end]

    def _drop_oldest_revision(self) -> None:
        self.compacted = self._changes[0].revision
        while self._changes and self._changes[0].revision == self.compacted:
            self._size_bytes -= _size_of(self._changes.popleft())


def _size_of(change: Change) -> int:
    if change.record is None:
        return len(change.key) + RECORD_OVERHEAD_BYTES
    return size_of(change.key, change.record)
