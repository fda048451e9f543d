"""Changes of the membership on their way through the log.

Rules:

1. One change at a time: the next begins when the configuration in force is committed and not joint.
2. None begins before the leader has committed an entry of its own term (Ongaro's correction of 2015).
3. Whoever leads when a joint configuration is committed leaves it by itself (extended paper, section 6),
   also if another leader began it.
4. A leader that the new configuration leaves out goes on until that is committed (extended paper, section 6;
   thesis 4.2.2).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from p2pinfer.raft.confchange import leave_joint, plan_change
from p2pinfer.raft.news import CommittedAt, Outcome, ProposalDone, Refused, Unknown
from p2pinfer.raft.packing import encode_configuration
from p2pinfer.raft.replication import Replication
from p2pinfer.raft.state import NodeState
from p2pinfer.raft.types import Change, Configuration, EntryKind, Role

__all__ = ["MembershipChanges"]

_OPEN_COUNT_MAX = 64
"""Changes whose outcome is not known; only one can be under way, the others are of leaderships lost."""


@dataclass(frozen=True, slots=True)
class _Open:
    """A change that was appended; `is_joint` if it ends with the configuration after it."""

    request: int
    index: int
    term: int
    is_joint: bool
    deadline: float


class MembershipChanges:
    """The changes that this node's clients asked for, and the way out of a joint configuration."""

    def __init__(self, state: NodeState, replication: Replication) -> None:
        self._state = state
        self._replication = replication
        self._open: list[_Open] = []

    @property
    def deadline(self) -> float:
        """When `tick` may have something to do."""
        return min((each.deadline for each in self._open), default=math.inf)

    def begin(self, request: int, changes: Sequence[Change], now: float, *, is_transferring: bool) -> None:
        """Append the configuration that the changes lead to, or refuse them."""
        state = self._state
        after = self._plan(changes, is_transferring=is_transferring)
        if isinstance(after, Refused):
            state.out.deliver(ProposalDone(request, after))
            return
        index = self._append(after, now)
        deadline = now + state.config.proposal_timeout_s
        self._open.append(_Open(request, index, state.term, after.is_joint, deadline))

    def _plan(self, changes: Sequence[Change], *, is_transferring: bool) -> Configuration | Refused:
        state, log = self._state, self._state.log
        if state.role is not Role.LEADER:
            return Refused("this node does not lead", retry=True)
        if is_transferring:
            return Refused("the leadership is being handed over", retry=True)
        if log.term_at(state.commit) != state.term:
            return Refused("the leader has not committed an entry of its term yet", retry=True)
        if log.configuration_index > state.commit or log.configuration.is_joint:
            return Refused("another change of the membership is under way", retry=True)
        if len(self._open) >= _OPEN_COUNT_MAX:
            return Refused("too many changes are not decided", retry=True)
        planned = plan_change(log.configuration, changes)
        return Refused(planned, retry=False) if isinstance(planned, str) else planned

    def _append(self, configuration: Configuration, now: float) -> int:
        index = self._replication.append([(encode_configuration(configuration), EntryKind.CONFIGURATION)])
        self._replication.add_members(now)
        self._replication.send_entries()
        return index

    def committed(self, now: float) -> bool:
        """The commit index of a leader rose; returns whether the leader is left out and has to step down."""
        state, log = self._state, self._state.log
        if log.configuration_index > state.commit:
            return False
        if log.configuration.is_joint:
            self._append(leave_joint(log.configuration), now)
            return False
        self._replication.drop_members()
        return state.node_id not in log.configuration.voters

    def applied(self) -> None:
        """More entries are applied: perhaps those that decide about a change."""
        if self._open:
            undecided = []
            for each in self._open:
                outcome = self._outcome_of(each)
                if outcome is None:
                    undecided.append(each)
                else:
                    self._state.out.deliver(ProposalDone(each.request, outcome))
            self._open = undecided

    def _outcome_of(self, change: _Open) -> Outcome | None:
        state, log = self._state, self._state.log
        if change.index > state.applied:
            return None
        term = log.term_at(change.index)
        if term is None:
            return Unknown("a snapshot took the place of the log")
        if term != change.term:
            return Refused("another leader's entry was committed there", retry=True)
        if not change.is_joint:
            return CommittedAt(change.index, term)
        left = log.next_configuration_index(change.index)
        if left is None or left > state.applied:
            return None
        return CommittedAt(left, log.term_at(left) or term)

    def tick(self, now: float) -> None:
        """Say of what waited too long that its outcome is not known."""
        for change in [each for each in self._open if each.deadline <= now]:
            self._open.remove(change)
            self._state.out.deliver(ProposalDone(change.request, Unknown("it was not committed in time")))
