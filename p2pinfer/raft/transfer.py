"""Handing the leadership over, without waiting for a timeout (thesis 3.10).

Rules:

1. The leader takes no proposals until the transfer has ended, so the target catches up even under load.
2. Once its log is complete the target is told to stand at once; the request for votes says so, and nobody
   refuses it for the sake of the leader.
3. Who does not lead within an election timeout does not get another chance: the old leader goes on.
"""

from __future__ import annotations

import math

from p2pinfer.raft.news import TransferDone
from p2pinfer.raft.progress import ProgressState
from p2pinfer.raft.replication import Replication
from p2pinfer.raft.state import NodeState
from p2pinfer.raft.types import NodeId, Role
from p2pinfer.wire.messages.raft import TimeoutNow

__all__ = ["Transfer"]


class Transfer:
    """One transfer at a time."""

    def __init__(self, state: NodeState, replication: Replication) -> None:
        self._state = state
        self._replication = replication
        self._is_told = False
        self.target: NodeId | None = None
        self.deadline = math.inf

    def begin(self, target: NodeId | None, now: float) -> bool:
        """Begin to hand over; returns whether a transfer is under way now. Refusals are delivered."""
        state = self._state
        chosen = target if target is not None else self.best_successor()
        reason = ""
        if state.role is not Role.LEADER:
            reason = "this node does not lead"
        elif self.target is not None:
            reason = "another transfer is under way"
        elif chosen is None or (chosen != state.node_id and not self._may_lead(chosen)):
            reason = "no live voter is there to take it"
        if reason or chosen is None or chosen == state.node_id:
            state.out.deliver(TransferDone(chosen or 0, reason))
            return False
        self.target, self._is_told = chosen, False
        self.deadline = now + state.config.election_timeout_s
        self.advance()
        return True

    def best_successor(self) -> NodeId | None:
        """The voter with the longest log, of several the one with the lowest id."""
        able = [node for node in self._replication.followers if self._may_lead(node)]
        followers = self._replication.followers
        return min(able, key=lambda node: (-followers[node].match, node), default=None)

    def _may_lead(self, node: NodeId) -> bool:
        progress = self._replication.followers.get(node)
        is_voter = node in self._state.log.configuration.voters
        return progress is not None and is_voter and progress.state is not ProgressState.LOST

    def advance(self) -> None:
        """Tell the target to stand as soon as it has the whole log."""
        if self.target is None or self._is_told:
            return
        progress = self._replication.followers.get(self.target)
        if progress is not None and progress.match == self._state.log.last_index:
            self._is_told = True
            self.tell(self.target)

    def tell(self, node: NodeId) -> None:
        """Tell a node to stand for election at once."""
        state, progress = self._state, self._replication.followers.get(node)
        if progress is not None:
            message = TimeoutNow(cluster=state.cluster_id, source=state.node_id, target=node, term=state.term)
            state.out.send(progress.contact, message)

    def tick(self, now: float) -> bool:
        """Give up when it takes too long; returns whether this node, if it still leads, goes on."""
        if self.target is None or now < self.deadline:
            return False
        self._end("the target did not take over in time")
        return True

    def leader_known(self, leader: NodeId) -> None:
        """Somebody leads a later term: the target, or another."""
        if self.target is not None:
            self._end("" if leader == self.target else f"node {leader} leads instead")

    def _end(self, reason: str) -> None:
        if self.target is not None:
            self._state.out.deliver(TransferDone(self.target, reason))
        self.target, self.deadline = None, math.inf
