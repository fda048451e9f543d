"""The follower's half of log replication: make the log as the leader's, and say so once it is durable.

Rules:

1. Entries are dropped only where one of them conflicts with the leader's, never because a message ends
   earlier: a late message takes nothing back (extended paper, figure 2, AppendEntries 3 and 4).
2. What is committed is never dropped, whoever asks for it.
3. An acknowledgement says what is durable, so it stands after the write.
"""

from __future__ import annotations

from p2pinfer.errors import DecodeError
from p2pinfer.ids import Contact
from p2pinfer.raft.packing import unpack_entries
from p2pinfer.raft.snapshots import SnapshotReceiver
from p2pinfer.raft.state import NodeState
from p2pinfer.raft.types import Entry, NodeId, Snapshot
from p2pinfer.wire.messages.raft import AppendEntries, AppendReply, InstallSnapshot, SnapshotReply

__all__ = ["Following"]


class Following:
    """What this node does with what its leader sends. The core has checked the term and the leader."""

    def __init__(self, state: NodeState) -> None:
        self._state = state
        self.receiver = SnapshotReceiver(state)

    def take_entries(self, sender: Contact, message: AppendEntries) -> None:
        """Append what is new, and answer."""
        state = self._state
        try:
            entries = (
                unpack_entries(message.entries, message.prev_index + 1, message.term)
                if message.entries
                else ()
            )
        except DecodeError:
            state.count("malformed")
            return
        if not self._matches(message):
            state.count("appends_refused")
            self._refuse(sender, message)
            return
        last = message.prev_index + len(entries)
        known_count = max(0, state.commit - message.prev_index)  # what is committed is the same everywhere
        conflict = state.log.first_conflict(entries[known_count:])
        if conflict is not None and not self._append(entries[conflict - message.prev_index - 1 :]):
            state.count("malformed")
            return
        state.commit = max(state.commit, min(message.commit, last))
        if message.wants_reply:
            self._reply(sender, message, last)

    def _matches(self, message: AppendEntries) -> bool:
        """Whether the log agrees with the leader's at `prev_index`; what is committed always does."""
        if message.prev_index <= self._state.commit:
            return True
        return self._state.log.term_at(message.prev_index) == message.prev_term

    def _append(self, entries: tuple[Entry, ...]) -> bool:
        state, first = self._state, entries[0].index
        try:
            dropped = state.log.append(entries)
        except DecodeError:
            return False
        if dropped:
            state.count("entries_truncated", dropped)
            state.saving.truncated(first)
        state.saving.appended(first)
        return True

    def _reply(self, sender: Contact, message: AppendEntries, index: int) -> None:
        state = self._state
        reply = AppendReply(
            cluster=state.cluster_id,
            source=state.node_id,
            target=message.source,
            term=state.term,
            success=True,
            index=index,
            round=message.round,
            last_index=state.log.last_index,
        )
        state.out.promise(sender, reply)

    def _refuse(self, sender: Contact, message: AppendEntries) -> None:
        state = self._state
        hint_index, hint_term = state.log.last_match(message.prev_index, message.prev_term)
        reply = AppendReply(
            cluster=state.cluster_id,
            source=state.node_id,
            target=message.source,
            term=state.term,
            success=False,
            index=message.prev_index,
            round=message.round,
            hint_index=hint_index,
            hint_term=hint_term,
            last_index=state.log.last_index,
        )
        state.out.promise(sender, reply)

    def refuse_stale(self, sender: Contact, target: NodeId) -> None:
        """Tell a leader of an earlier term that there is a later one."""
        state = self._state
        reply = AppendReply(
            cluster=state.cluster_id,
            source=state.node_id,
            target=target,
            term=state.term,
            success=False,
            index=0,
            round=0,
            last_index=state.log.last_index,
        )
        state.out.promise(sender, reply)

    # ------------------------------------------------------------------ snapshots

    def take_chunk(self, sender: Contact, message: InstallSnapshot) -> Snapshot | None:
        """Take a part of a snapshot and answer; returns the snapshot if it took the place of the log."""
        state = self._state
        if message.index <= state.commit:
            self._snapshot_reply(sender, message, state.commit, installed=True)
            return None
        snapshot = self.receiver.take(message)
        if snapshot is None:
            self._snapshot_reply(sender, message, message.index, installed=False)
            return None
        meta, commit_before = snapshot.meta, state.commit
        state.commit = meta.index
        has_entry = state.log.term_at(meta.index) == meta.term
        if not has_entry:
            state.log.restore(snapshot)
            state.saving.restored(commit_before)
            state.count("snapshots_installed")
        self._snapshot_reply(sender, message, meta.index, installed=True)
        return None if has_entry else snapshot

    def _snapshot_reply(
        self, sender: Contact, message: InstallSnapshot, index: int, *, installed: bool
    ) -> None:
        state = self._state
        reply = SnapshotReply(
            cluster=state.cluster_id,
            source=state.node_id,
            target=message.source,
            term=state.term,
            index=index,
            offset=0 if installed else self.receiver.offset,
            installed=installed,
            round=message.round,
        )
        state.out.promise(sender, reply)
