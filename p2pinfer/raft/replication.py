"""The leader's half of log replication: what to send to whom, and what is committed.

Rules:

1. A follower that keeps pace is sent entries as they come, without waiting for answers, within a window of
   messages and bytes; one that does not is asked where its log parts from ours, one message at a time
   (etcd's tracker).
2. An entry is committed when a quorum holds it durably and it is of the leader's own term; earlier ones are
   committed with it, never by counting (extended paper 5.4.2). The leader counts itself when its own disk
   has it.
3. Every heartbeat has a new round; a quorum that answers a round proves that this node still led when the
   round began (thesis 6.4), and one that has been silent for an election timeout deposes it (thesis 6.2).
"""

from __future__ import annotations

import math
from collections import deque

from p2pinfer.raft.news import LogLost
from p2pinfer.raft.progress import Progress, ProgressState
from p2pinfer.raft.quorum import agreed_value
from p2pinfer.raft.snapshots import chunk_message
from p2pinfer.raft.state import NodeState
from p2pinfer.raft.types import Entry, EntryKind, NodeId
from p2pinfer.wire.messages.raft import AppendEntries, AppendReply, SnapshotReply

__all__ = ["Replication"]

_ROUNDS_KEPT_COUNT = 256
"""Rounds whose beginning is remembered, for leases."""


class Replication:
    """What a leader knows of its followers; empty while this node does not lead."""

    def __init__(self, state: NodeState) -> None:
        self._state = state
        self.followers: dict[NodeId, Progress] = {}
        self.round = 0
        self._round_begun_at: deque[tuple[int, float]] = deque(maxlen=_ROUNDS_KEPT_COUNT)
        self.heartbeat_at = math.inf
        self.notice_at = math.inf

    # ------------------------------------------------------------------ leading

    def begin(self, now: float) -> None:
        """This node leads from now on: nothing is known of anybody."""
        self.followers = {}
        self.round = 0
        self._round_begun_at.clear()
        self.add_members(now)
        self.heartbeat_at = now
        self.notice_at = math.inf

    def end(self) -> None:
        """This node does not lead any more."""
        self.followers = {}
        self.heartbeat_at = self.notice_at = math.inf

    def add_members(self, now: float) -> None:
        """Begin with the new members of a configuration. Those that left it still get entries."""
        state = self._state
        for member in state.log.configuration.members:
            known = self.followers.get(member.node)
            if known is not None:
                known.contact = member.contact
            elif member.node != state.node_id:
                self.followers[member.node] = Progress(member.contact, state.log.last_index + 1, now)

    def drop_members(self) -> None:
        """The configuration in force is committed: tell those that it leaves out, and end with them."""
        nodes = set(self._state.log.configuration.nodes)
        for node in [node for node in self.followers if node not in nodes]:
            progress = self.followers.pop(node)
            self.tell_commit_to(node, progress)

    def append(self, commands: list[tuple[bytes, EntryKind]]) -> int:
        """Append entries of this term to the own log; returns the index of the first."""
        state = self._state
        first, term = state.log.last_index + 1, state.term
        state.log.append(
            [Entry(index, term, data, kind) for index, (data, kind) in enumerate(commands, first)]
        )
        state.saving.appended(first)
        return first

    # ------------------------------------------------------------------ sending

    def send_entries(self) -> None:
        """Send what each follower may be sent and has not been."""
        for node, progress in self.followers.items():
            self.send_to(node, progress)

    def send_to(self, node: NodeId, progress: Progress) -> bool:
        """Send entries as far as the follower's state and window allow; returns whether any were sent."""
        state, log = self._state, self._state.log
        has_sent = False
        while progress.next <= log.last_index:
            if progress.state is ProgressState.REPLICATE:
                if progress.is_full(state.config):
                    break
            elif progress.state is not ProgressState.PROBE or progress.is_waiting:
                break
            if log.term_at(progress.next - 1) is None:
                break  # the next heartbeat begins a snapshot
            count, batch = log.batch(
                progress.next, state.config.append_entries_max, state.config.append_bytes_max
            )
            self._append_message(node, progress, progress.next - 1, batch)
            has_sent = True
            if progress.state is ProgressState.PROBE:
                progress.is_waiting = True
                break
            progress.sent(progress.next + count - 1, len(batch))
        return has_sent

    def _append_message(
        self,
        node: NodeId,
        progress: Progress,
        prev_index: int,
        batch: bytes = b"",
        *,
        wants_reply: bool = True,
    ) -> None:
        state = self._state
        progress.commit_told = state.commit
        message = AppendEntries(
            cluster=state.cluster_id,
            source=state.node_id,
            target=node,
            term=state.term,
            prev_index=prev_index,
            prev_term=state.log.term_at(prev_index) or 0,
            commit=state.commit,
            round=self.round,
            entries=batch,
            wants_reply=wants_reply,
        )
        state.out.send(progress.contact, message)

    def heartbeat(self, now: float) -> None:
        """Begin a round: everybody is asked to answer, whatever its state."""
        self.begin_round(now)
        self.heartbeat_at = now + self._state.config.heartbeat_interval_s
        for node, progress in self.followers.items():
            if progress.state is not ProgressState.LOST:
                self._heartbeat_to(node, progress, now)

    def begin_round(self, now: float) -> None:
        """What is sent from now on belongs to the next round."""
        self.round += 1
        self._round_begun_at.append((self.round, now))

    def _heartbeat_to(self, node: NodeId, progress: Progress, now: float) -> None:
        before = progress.next - 1
        if progress.state is not ProgressState.SNAPSHOT and self._state.log.term_at(before) is None:
            self._begin_snapshot(node, progress, now)
        if progress.state is ProgressState.SNAPSHOT:
            if now - progress.chunk_sent_at >= self._state.config.election_timeout_s:
                self._send_chunk(node, progress, now)
            before = 0  # a place where every log matches: only a sign of life is asked for
        elif progress.state is ProgressState.REPLICATE and self.send_to(node, progress):
            return
        # To who is silent nothing is repeated but this: its answer tells where to go on.
        self._append_message(node, progress, before)

    def tell_commit(self, now: float) -> None:
        """Tell followers to which nothing is on its way how far the log is committed."""
        self.notice_at = math.inf
        for node, progress in self.followers.items():
            self.tell_commit_to(node, progress)

    def tell_commit_to(self, node: NodeId, progress: Progress) -> None:
        """The same to one, if it does not know."""
        if progress.state is ProgressState.REPLICATE and progress.commit_told < self._state.commit:
            self._append_message(node, progress, progress.next - 1, wants_reply=False)

    # ------------------------------------------------------------------ answers

    def take_reply(self, message: AppendReply, now: float) -> bool:
        """Take what a follower says of its log; returns whether it holds more than before."""
        state = self._state
        progress = self.followers.get(message.source)
        if progress is None:
            state.count("replies_of_strangers")
            return False
        if message.round > self.round or message.index > state.log.last_index:
            state.count("absurd_replies")
            return False
        if progress.state is ProgressState.LOST or self._has_lost_log(message, progress):
            return False
        progress.heard_at = now
        progress.acked_round = max(progress.acked_round, message.round)
        if message.success:
            return self._matches(message.source, progress, message.index)
        index, _ = state.log.last_match(message.hint_index, message.hint_term)
        if progress.refused(message.index, index):
            self._probe(message.source, progress, now)
        return False

    def _probe(self, node: NodeId, progress: Progress, now: float) -> None:
        log = self._state.log
        if log.term_at(progress.next - 1) is None:
            self._begin_snapshot(node, progress, now)
        elif progress.next <= log.last_index:
            self.send_to(node, progress)
        else:
            progress.is_waiting = True
            self._append_message(node, progress, progress.next - 1)

    def _matches(self, node: NodeId, progress: Progress, index: int) -> bool:
        is_news = progress.acknowledged(index, self.round)
        if (progress.state is ProgressState.PROBE and index >= progress.next - 1) or (
            progress.snapshot is not None and index >= progress.snapshot.meta.index
        ):
            progress.become_replicate()
        self.send_to(node, progress)
        return is_news

    def _has_lost_log(self, message: AppendReply, progress: Progress) -> bool:
        """Whether a follower answers, to what was sent after it had acknowledged more, with a shorter log."""
        if message.last_index >= progress.match or message.round <= progress.confirm_round:
            return False
        self._state.count("logs_lost")
        progress.become_lost()
        self._state.out.deliver(LogLost(message.source))
        return True

    def unreachable(self, node: NodeId) -> None:
        """What was sent last may be lost: find out before more is sent."""
        progress = self.followers.get(node)
        if progress is not None and progress.state is ProgressState.REPLICATE:
            progress.become_probe()

    # ------------------------------------------------------------------ snapshots

    def _begin_snapshot(self, node: NodeId, progress: Progress, now: float) -> None:
        snapshot = self._state.log.snapshot
        if snapshot is not None:
            self._state.count("snapshots_begun")
            progress.become_snapshot(snapshot, now)
            self._send_chunk(node, progress, now)

    def _send_chunk(self, node: NodeId, progress: Progress, now: float) -> None:
        if progress.snapshot is not None:
            progress.chunk_sent_at = now
            message = chunk_message(self._state, node, progress.snapshot, progress.offset, self.round)
            self._state.out.send(progress.contact, message)

    def take_snapshot_reply(self, message: SnapshotReply, now: float) -> bool:
        """Go on with the next chunk, or with entries; returns whether the follower holds more than before."""
        progress = self.followers.get(message.source)
        if progress is None or message.round > self.round or message.index > self._state.log.last_index:
            self._state.count("replies_of_strangers" if progress is None else "absurd_replies")
            return False
        if progress.state is ProgressState.LOST:
            return False
        progress.heard_at = now
        if message.installed:
            return self._matches(message.source, progress, message.index)
        snapshot = progress.snapshot
        if snapshot is None or snapshot.meta.index != message.index:
            return False
        if message.offset != progress.offset and message.offset <= snapshot.meta.size_bytes:
            progress.offset = message.offset
            self._send_chunk(message.source, progress, now)
        return False

    # ------------------------------------------------------------------ what a quorum says

    def committed_index(self) -> int:
        """Up to where a quorum holds the log durably, if the entry there is of this term; else 0."""
        state = self._state
        own, node_id, followers = state.saving.durable_index, state.node_id, self.followers

        def durable(node: NodeId) -> float:
            if node == node_id:
                return own
            progress = followers.get(node)
            return progress.match if progress is not None else 0

        index = int(agreed_value(state.log.configuration, durable))
        return index if index > 0 and state.log.term_at(index) == state.term else 0

    def acked_round(self) -> int:
        """The highest round that a quorum has answered."""

        def answered(node: NodeId) -> float:
            if node == self._state.node_id:
                return self.round
            progress = self.followers.get(node)
            return progress.acked_round if progress is not None else 0

        return int(agreed_value(self._state.log.configuration, answered))

    def quorum_heard_at(self, now: float) -> float:
        """When a quorum was heard last."""

        def heard(node: NodeId) -> float:
            if node == self._state.node_id:
                return now
            progress = self.followers.get(node)
            if progress is None or progress.state is ProgressState.LOST:
                return -math.inf
            return progress.heard_at

        return agreed_value(self._state.log.configuration, heard)

    def lease_until(self) -> float:
        """Until when no other node can have been elected, if clocks run alike (thesis 6.4.1)."""
        config, acked = self._state.config, self.acked_round()
        begun_at = max((at for number, at in self._round_begun_at if number <= acked), default=-math.inf)
        return begun_at + config.election_timeout_s * (1 - config.clock_drift_max)
