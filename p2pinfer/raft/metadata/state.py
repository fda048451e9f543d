"""All that is replicated of the metadata, and the two ways in which it changes: by time, and by a command."""

from __future__ import annotations

from collections.abc import Iterable

from p2pinfer.raft.machine import TIME_MS_MAX
from p2pinfer.raft.metadata.history import Change, History
from p2pinfer.raft.metadata.keyspace import KeySpace, Record
from p2pinfer.raft.metadata.leases import LeaseTable
from p2pinfer.raft.metadata.limits import Limits

__all__ = ["State"]


class State:
    """Keys, leases and history, with the format and the log's time.

    Attributes:
        format: Which commands are taken.
        time_ms: The highest stamp that was applied, in milliseconds since the Unix epoch.
        changed_in: By section, the last revision that changed it since this object was made: for whoever
            keeps what was read, and no part of the replicated state.
    """

    def __init__(self, limits: Limits) -> None:
        self.keys = KeySpace(limits)
        self.leases = LeaseTable(limits)
        self.history = History(limits)
        self.format = 1
        self.time_ms = 0
        self.changed_in: dict[str, int] = {}

    def pass_time(self, time_ms: int) -> None:
        """Take a leader's stamp; leases that end by it end, one revision each, the first to end first."""
        self.time_ms = max(self.time_ms, min(time_ms, TIME_MS_MAX))
        while (token := self.leases.expired(self.time_ms)) is not None:
            self.delete(self.leases.end(token))

    def delete(self, keys: Iterable[str]) -> None:
        """Delete keys that are there, as one revision."""
        self.write(dict.fromkeys(sorted(keys)))

    def write(self, changes: dict[str, Record | None]) -> None:
        """Make the changes of one revision; none make none."""
        if not changes:
            return
        self.keys.revision += 1
        for key, record in changes.items():
            before = self.keys.get(key)
            if before is not None and before.lease:
                self.leases.detach(key, before.lease)
            if record is not None and record.lease:
                self.leases.attach(key, record.lease)
            self.changed_in[key.partition("/")[0]] = self.keys.revision
        self.keys.write(changes)
        revision = self.keys.revision
        self.history.append([Change(revision, key, record) for key, record in changes.items()])
