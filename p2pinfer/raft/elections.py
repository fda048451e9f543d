"""Elections: when a node stands, for whom it votes, and when nobody may disturb a leader.

Rules:

1. A vote is given once in a term, to a log at least as complete as one's own (extended paper 5.2, 5.4.1),
   and is durable before it is said, one's own included.
2. Before it raises its term a node asks whether it would be elected (pre-vote, thesis 9.6); being asked
   changes nothing, not even the time until one stands oneself.
3. Who hears a leader gives neither vote nor pre-vote and does not take the higher term (thesis 4.2.3), unless
   the leader asked for the election itself.
"""

from __future__ import annotations

import math

from p2pinfer.ids import Contact
from p2pinfer.raft.quorum import Verdict, tally
from p2pinfer.raft.state import NodeState
from p2pinfer.raft.types import NodeId, Role
from p2pinfer.wire.messages.raft import TERM_MAX, RequestVote, VoteReply

__all__ = ["Elections"]


class Elections:
    """One node's part in electing a leader. The role itself is changed by the core alone."""

    def __init__(self, state: NodeState, now: float) -> None:
        self._state = state
        self._votes: dict[NodeId, bool] = {}
        self._own_vote_number: int | None = None
        self._heard_at = -math.inf
        if state.config.lease_reads:
            # A leader may rely on what this node heard before it crashed.
            self._heard_at = now
        self._ask_again_at = math.inf
        self._is_forced = False
        self.deadline = 0.0
        self.restart_timer(now)

    # ------------------------------------------------------------------ time

    def restart_timer(self, now: float) -> None:
        """Wait one to two election timeouts from now on (extended paper 5.2)."""
        timeout = self._state.config.election_timeout_s
        self.deadline = now + timeout * (1 + self._state.rng.random())

    def postpone(self, now: float) -> None:
        """Neither stand nor ask for a while, whatever the role."""
        self.restart_timer(now)
        self._ask_again_at = math.inf

    def heard_leader(self, now: float) -> None:
        """A message of the leader of this term arrived."""
        self._heard_at = now
        self.restart_timer(now)

    def forget_leader(self, now: float) -> None:
        """The leader is dead by reliable word: do not protect it any more, and stand soon."""
        self._heard_at = -math.inf
        delay = self._state.rng.random() * self._state.config.hint_delay_s_max
        self.deadline = min(self.deadline, now + delay)

    def protects_leader(self, now: float) -> bool:
        """Whether a live leader is heard, or this node leads with a quorum, so that no vote is given."""
        state = self._state
        if not state.config.check_quorum:
            return False
        if state.role is Role.LEADER:
            return True
        return now < self._heard_at + state.config.election_timeout_s

    @property
    def next_deadline(self) -> float:
        """When `is_due` or `ask_again` may have something to do."""
        state = self._state
        if state.role is Role.LEADER or not self.may_stand:
            return math.inf
        return min(self.deadline, self._ask_again_at)

    def is_due(self, now: float) -> bool:
        """Whether this node should stand for election now."""
        return now >= self.deadline and self._state.role is not Role.LEADER and self.may_stand

    @property
    def may_stand(self) -> bool:
        """Whether this node may lead: a voter, or one that the newest configuration leaves out too early.

        Until that configuration is committed its log may be the only complete one of a quorum (thesis 4.2.2).
        """
        state, log = self._state, self._state.log
        configuration = log.configuration
        if not configuration.is_voter(state.node_id) and log.configuration_index > state.commit:
            configuration = log.configuration_at(log.configuration_index - 1)
        return configuration.is_voter(state.node_id) and state.term < TERM_MAX

    # ------------------------------------------------------------------ standing

    def begin(self, role: Role, now: float, *, forced: bool = False) -> None:
        """Ask everybody for the vote, as a pre-candidate or as a candidate of a term that has begun."""
        state = self._state
        self._votes = {}
        self._own_vote_number = None
        self._is_forced = forced
        self.restart_timer(now)
        self._ask_again_at = now + 2 * state.config.heartbeat_interval_s
        if role is Role.PRE_CANDIDATE:
            self._votes[state.node_id] = True
        else:
            # Counted when the disk has it: a node whose vote is not durable might vote again.
            self._own_vote_number = state.saving.next_number
        self._ask()

    def ask_again(self, now: float) -> None:
        """A message may be lost, or was ignored out of regard for a leader: ask those who did not answer."""
        if now >= self._ask_again_at and self._state.role in (Role.PRE_CANDIDATE, Role.CANDIDATE):
            self._ask_again_at = now + 2 * self._state.config.heartbeat_interval_s
            self._ask()

    def end(self) -> None:
        """This node does not stand any more."""
        self._ask_again_at = math.inf
        self._own_vote_number = None
        self._votes = {}

    def _ask(self) -> None:
        state = self._state
        is_pre = state.role is Role.PRE_CANDIDATE
        log, configuration = state.log, state.log.configuration
        for member in configuration.members:
            node = member.node
            if node == state.node_id or node in self._votes or not configuration.is_voter(node):
                continue
            request = RequestVote(
                cluster=state.cluster_id,
                source=state.node_id,
                target=node,
                term=state.term + 1 if is_pre else state.term,
                last_index=log.last_index,
                last_term=log.last_term,
                pre=is_pre,
                forced=self._is_forced,
            )
            # A candidate speaks of a term that must be durable first; a pre-candidate of nothing that has
            # changed.
            say = state.out.send if is_pre else state.out.promise
            say(member.contact, request)

    def saved(self, number: int) -> None:
        """The disk has everything up to this write: perhaps this node's own vote."""
        if self._own_vote_number is not None and number >= self._own_vote_number:
            self._own_vote_number = None
            if self._state.role is Role.CANDIDATE and self._state.vote == self._state.node_id:
                self._votes[self._state.node_id] = True

    def take_reply(self, message: VoteReply, now: float) -> None:
        """Count a vote once, however often it is said.

        A candidate that is refused by one whose pre-vote it had met another candidate: it stands again soon,
        for a vote that was split between two is not mended by waiting for a third, who may be dead.
        """
        state = self._state
        expected = Role.PRE_CANDIDATE if message.pre else Role.CANDIDATE
        term = state.term + 1 if message.pre and message.granted else state.term
        if state.role is not expected or message.term != term:
            state.count("stale_votes")
        elif not state.log.configuration.is_voter(message.source):
            state.count("votes_of_strangers")
        else:
            self._votes.setdefault(message.source, message.granted)
            if not message.granted and not message.pre and state.config.pre_vote:
                delay = state.config.election_timeout_s / 2 * state.rng.random()
                self.deadline = min(self.deadline, now + delay)

    @property
    def verdict(self) -> Verdict:
        """Where the election stands that this node began."""
        if self._state.role not in (Role.PRE_CANDIDATE, Role.CANDIDATE):
            return Verdict.PENDING
        return tally(self._state.log.configuration, self._votes)

    # ------------------------------------------------------------------ voting

    def ignores(self, message: RequestVote, now: float) -> bool:
        """Whether a request is dropped unanswered, so that a live leader is not disturbed."""
        return not message.forced and self.protects_leader(now)

    def answer_pre_vote(self, sender: Contact, message: RequestVote) -> None:
        """Say whether the vote would be given."""
        state = self._state
        granted = message.term > state.term and state.log.is_up_to_date(message.last_index, message.last_term)
        self._reply(sender, message, granted, message.term if granted else state.term)

    def answer_vote(self, sender: Contact, message: RequestVote, now: float) -> None:
        """Give the vote of the current term, or not."""
        state = self._state
        may = state.vote == message.source or (state.vote is None and state.leader is None)
        granted = (
            message.term == state.term
            and may
            and state.log.is_up_to_date(message.last_index, message.last_term)
        )
        if granted:
            if state.vote is None:
                state.vote = message.source
                state.saving.hard_state_changed()
            self.restart_timer(now)
        self._reply(sender, message, granted, state.term)

    def _reply(self, sender: Contact, message: RequestVote, granted: bool, term: int) -> None:
        state = self._state
        reply = VoteReply(
            cluster=state.cluster_id,
            source=state.node_id,
            target=message.source,
            term=term,
            pre=message.pre,
            granted=granted,
        )
        state.out.promise(sender, reply)
