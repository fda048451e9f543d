"""What the application is handed: committed entries, snapshots, and which configuration is in force.

Rules:

1. An entry is handed out once it is committed and on this node's own disk, in order, once in a process.
2. A snapshot of the leader's is handed out once it is durable, and nothing after it before that.
"""

from __future__ import annotations

from p2pinfer.raft.news import Committed, ConfigurationChanged, SnapshotInstalled
from p2pinfer.raft.state import NodeState
from p2pinfer.raft.types import Configuration, Snapshot

__all__ = ["Delivery"]


class Delivery:
    """One node's way to its state machine."""

    def __init__(self, state: NodeState, snapshot: Snapshot | None) -> None:
        self._state = state
        self._installing = snapshot
        self._told: tuple[Configuration, bool] = (
            state.log.configuration,
            state.commit >= state.log.configuration_index,
        )

    def install(self, snapshot: Snapshot) -> None:
        """A snapshot took the place of the log: it is handed out when the disk has it."""
        self._installing = snapshot

    def advance(self) -> bool:
        """Hand out what can be; returns whether anything was."""
        state = self._state
        limit = min(state.commit, state.saving.durable_index)
        has_news = False
        if self._installing is not None and limit >= self._installing.meta.index:
            snapshot, self._installing = self._installing, None
            state.applied = snapshot.meta.index
            state.out.deliver(SnapshotInstalled(snapshot))
            has_news = True
        if self._installing is not None:
            return False
        while state.applied < limit:
            entries = state.log.cut_to_bytes(state.applied + 1, limit, state.config.delivery_bytes_max)
            state.applied = entries[-1].index
            state.out.deliver(Committed(entries))
            has_news = True
        return has_news

    def tell_configuration(self) -> None:
        """Tell of another configuration in force, and when it is committed."""
        state, log = self._state, self._state.log
        index = log.configuration_index
        is_committed = state.commit >= index
        if is_committed != self._told[1] or log.configuration != self._told[0]:
            self._told = (log.configuration, is_committed)
            state.out.deliver(ConfigurationChanged(log.configuration, index, is_committed))
