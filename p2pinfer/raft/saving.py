"""What has to reach the disk, what is on its way there, and what has arrived.

Rules:

1. Changes gather here until the end of an input and then become one `LogWrite`.
2. `durable_index` counts what the disk has confirmed, never what it was given: neither acknowledgement nor
   commitment nor delivery goes beyond it.
3. After a failure everything that was under way is gathered again, so that the next write is whole.
"""

from __future__ import annotations

import math
from collections import deque
from typing import NamedTuple

from p2pinfer.effects import Save
from p2pinfer.raft.log import Log
from p2pinfer.raft.types import HardState, LogWrite

__all__ = ["Saving"]


class _Pending(NamedTuple):
    """A write that is not answered yet; `durable_to` is where the durable log ends once it is."""

    write: LogWrite
    durable_to: int
    since: float


class Saving:
    """The disk of one node, as far as its core needs to know it."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._pending: deque[_Pending] = deque()
        self._unwritten_from: int | None = None
        self._truncate_from: int | None = None
        self._has_snapshot = False
        self._compact_to: int | None = None
        self._is_hard_state_due = False
        self.durable_index = log.last_index
        self.blocked_until = -math.inf
        self.last_number = 0
        self.saved_number = 0

    # ------------------------------------------------------------------ what is due

    @property
    def is_due(self) -> bool:
        """Whether something waits to be written."""
        return (
            self._is_hard_state_due
            or self._unwritten_from is not None
            or self._truncate_from is not None
            or self._has_snapshot
            or self._compact_to is not None
        )

    @property
    def next_number(self) -> int:
        """What the write that is gathered now will be called."""
        return self.last_number + 1

    @property
    def is_idle(self) -> bool:
        """Whether the disk has answered everything."""
        return not self._pending

    @property
    def waiting_since(self) -> float | None:
        """When the oldest write was given to the disk that it has not answered; None if there is none."""
        return self._pending[0].since if self._pending else None

    def is_stalled(self, timeout_s: float, now: float) -> bool:
        """Whether the disk has not answered for so long, or refused a write lately."""
        since = self.waiting_since
        return (since is not None and now - since > timeout_s) or now < self.blocked_until

    def hard_state_changed(self) -> None:
        """Term or vote are others now."""
        self._is_hard_state_due = True

    def appended(self, first_index: int) -> None:
        """Entries from `first_index` on are new in the log."""
        before = self._unwritten_from
        self._unwritten_from = first_index if before is None else min(before, first_index)

    def truncated(self, index: int) -> None:
        """Entries from `index` on were dropped from the log."""
        before = self._truncate_from
        self._truncate_from = index if before is None else min(before, index)
        if self._unwritten_from is not None and self._unwritten_from >= index:
            self._unwritten_from = None
        self._forget_durable(index - 1)

    def compacted(self, to_index: int) -> None:
        """The log has a new snapshot of its own making, and entries up to `to_index` went."""
        self._has_snapshot = True
        self._compact_to = to_index
        if self._unwritten_from is not None:
            self._unwritten_from = max(self._unwritten_from, to_index + 1)

    def restored(self, commit_before: int) -> None:
        """A leader's snapshot took the place of the whole log, of which that much was committed here."""
        index = self._log.snapshot_index
        self._has_snapshot = True
        self._compact_to = index
        self._truncate_from = index + 1
        self._unwritten_from = None
        self._forget_durable(commit_before)

    def _forget_durable(self, index_max: int) -> None:
        """Confirmations under way no longer stand for more than this."""
        self.durable_index = min(self.durable_index, index_max)
        self._pending = deque(
            each._replace(durable_to=min(each.durable_to, index_max)) for each in self._pending
        )

    # ------------------------------------------------------------------ the disk

    def flush(self, hard_state: HardState, now: float) -> Save:
        """Return the write of all that is due."""
        log, first = self._log, self._unwritten_from
        self.last_number += 1
        write = LogWrite(
            number=self.last_number,
            snapshot=log.snapshot if self._has_snapshot else None,
            truncate_from=self._truncate_from,
            entries=() if first is None else log.between(first, log.last_index),
            compact_to=self._compact_to,
            hard_state=hard_state,
        )
        self._pending.append(_Pending(write, log.last_index, now))
        self._unwritten_from = self._truncate_from = self._compact_to = None
        self._has_snapshot = self._is_hard_state_due = False
        return Save(write)

    def saved(self, number: int) -> bool:
        """The disk confirms a write and all before it; returns whether it was waited for."""
        is_known = False
        while self._pending and self._pending[0].write.number <= number:
            done = self._pending.popleft()
            self.durable_index = max(self.durable_index, done.durable_to)
            self.saved_number = done.write.number
            is_known = True
        return is_known

    def failed(self, retry_at: float) -> bool:
        """The disk refused: all under way is due again, from `retry_at` on. Returns whether anything was."""
        if not self._pending:
            return False
        self.blocked_until = retry_at
        for write, _, _ in self._pending:
            if write.entries:
                self.appended(write.entries[0].index)
            if write.truncate_from is not None:
                before = self._truncate_from
                self._truncate_from = (
                    write.truncate_from if before is None else min(before, write.truncate_from)
                )
            if write.snapshot is not None:
                self._has_snapshot = True
            if write.compact_to is not None:
                self._compact_to = max(self._compact_to or 0, write.compact_to)
        if self._unwritten_from is not None:
            # Part of it may be on the disk by a write that failed only half: it is dropped before it comes
            # again.
            self._unwritten_from = max(self._unwritten_from, self._log.first_index)
            start = self._unwritten_from
            self._truncate_from = start if self._truncate_from is None else min(self._truncate_from, start)
        self._is_hard_state_due = True
        self._pending.clear()
        return True
