"""Raft's core: what one node of a cluster does with messages, time and its clients' wishes.

Rules:

1. A list of effects holds at most one `Save`. Before it stands what may be said at once (a leader's appends,
   which thereby travel while its own disk writes), after it what promises something that must be durable
   (votes, acknowledgements) and what is handed to the application.
2. What depends on a `Save` of an earlier list is held back here until `saved`: nothing is assumed about how
   the lists of several inputs overlap in time.
3. Nobody counts itself (its vote, its log) before its own disk has said so.
4. Nothing that a remote peer says raises or grows memory without bound; nonsense is counted by name.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from p2pinfer.effects import Effect
from p2pinfer.errors import LocalProtocolError
from p2pinfer.ids import Contact
from p2pinfer.raft.config import RaftConfig
from p2pinfer.raft.delivery import Delivery
from p2pinfer.raft.elections import Elections
from p2pinfer.raft.following import Following
from p2pinfer.raft.log import Log
from p2pinfer.raft.membership import MembershipChanges
from p2pinfer.raft.news import BecameLeader, LeaderChanged, SteppedDown
from p2pinfer.raft.packing import encode_configuration
from p2pinfer.raft.proposals import Proposals
from p2pinfer.raft.quorum import Verdict
from p2pinfer.raft.reads import Reads
from p2pinfer.raft.replication import Replication
from p2pinfer.raft.state import checked_state
from p2pinfer.raft.transfer import Transfer
from p2pinfer.raft.types import (
    Change,
    Configuration,
    Entry,
    EntryKind,
    FollowerView,
    HardState,
    Initial,
    NodeId,
    Role,
    Snapshot,
)
from p2pinfer.wire.messages.raft import (
    AppendEntries,
    AppendReply,
    Forward,
    ForwardReply,
    InstallSnapshot,
    RaftMessage,
    ReadReply,
    ReadRequest,
    RequestVote,
    SnapshotReply,
    TimeoutNow,
    VoteReply,
)

__all__ = ["RaftCore"]

_Handler = Callable[[Contact, Any, float], None]


class RaftCore:
    """One node's part in a cluster. A fresh node waits until `bootstrap` or until a leader finds it."""

    def __init__(self, initial: Initial, config: RaftConfig, rng: random.Random, now: float) -> None:
        """Start from what storage holds; the first `tick`, which is due at once, hands out what is committed.

        A snapshot in `initial` is handed out as `SnapshotInstalled` then.

        Raises:
            StorageError: What storage holds contradicts itself: it is damaged or was tampered with.
        """
        self._state = state = checked_state(initial, config, rng)
        self._elections = Elections(state, now)
        self._replication = replication = Replication(state)
        self._following = Following(state)
        self._reads = Reads(state, replication)
        self._proposals = Proposals(state, replication)
        self._membership = MembershipChanges(state, replication)
        self._transfer = Transfer(state, replication)
        self._delivery = Delivery(state, initial.snapshot)
        self._start_at: float | None = now
        self._request = 0
        self._handlers: dict[type[RaftMessage], _Handler] = {
            RequestVote: self._on_request_vote,
            VoteReply: self._on_vote_reply,
            AppendEntries: self._on_append_entries,
            AppendReply: self._on_append_reply,
            InstallSnapshot: self._on_install_snapshot,
            SnapshotReply: self._on_snapshot_reply,
            TimeoutNow: self._on_timeout_now,
            Forward: self._proposals.take_forward,
            ForwardReply: self._proposals.take_reply,
            ReadRequest: self._reads.take_request,
            ReadReply: self._reads.take_reply,
        }

    # ------------------------------------------------------------------ inputs

    def receive(self, sender: Contact, message: RaftMessage, now: float) -> list[Effect]:
        """Take one message; `sender` is whom the connection proved."""
        if self._is_sound(sender, message):
            self._handlers[type(message)](sender, message, now)
        return self._finish(now)

    def tick(self, now: float) -> list[Effect]:
        """Do what is due at `now`; nothing if it is early."""
        state, replication = self._state, self._replication
        self._start_at = None
        if state.role is Role.LEADER and now >= replication.heartbeat_at:
            self._check_leadership(now)
        if state.role is Role.LEADER:
            if now >= replication.heartbeat_at:
                replication.heartbeat(now)
                self._reads.advance(now)
            if now >= replication.notice_at:
                replication.tell_commit(now)
        elif self._elections.is_due(now):
            self._stand(now)
        else:
            self._elections.ask_again(now)
        if self._transfer.tick(now):
            self._proposals.is_transferring = False
        self._proposals.tick(now)
        self._membership.tick(now)
        self._reads.tick(now)
        return self._finish(now)

    @property
    def deadline(self) -> float | None:
        """When `tick` wants to be called next."""
        if self._start_at is not None:
            return self._start_at
        saving = self._state.saving
        due = min(
            self._elections.next_deadline,
            self._replication.heartbeat_at,
            self._replication.notice_at,
            self._transfer.deadline,
            self._proposals.deadline,
            self._membership.deadline,
            self._reads.deadline,
            saving.blocked_until if saving.is_due else math.inf,
        )
        return None if due == math.inf else due

    def saved(self, number: int, now: float) -> list[Effect]:
        """The `Save` with that number is durable, and with it all before."""
        state = self._state
        if not state.saving.saved(number):
            state.count("unexpected_saved")
            return self._finish(now)
        state.out.release()
        self._elections.saved(number)
        self._judge_election(now)
        if state.role is Role.LEADER:
            self._advance_commit(now)
        return self._finish(now)

    def save_failed(self, now: float) -> list[Effect]:
        """The oldest `Save` not answered yet was not made durable, and none after it was or will be.

        A leader steps down. What was not written is written again with the next `Save`, whole, before
        anything is acknowledged; one is tried a quarter of an election timeout later, and so on.
        """
        state = self._state
        state.count("saves_failed")
        if state.saving.failed(now + state.config.election_timeout_s / 4):
            state.out.break_promises()
            if state.role is not Role.FOLLOWER:
                self._become_follower(state.term, None, None, now, "the disk refused a write")
        return self._finish(now)

    def disconnected(self, contact: Contact, now: float) -> list[Effect]:
        """A stream to `contact` broke: what was sent to it last may be lost."""
        state = self._state
        for member in state.log.configuration.members:
            if member.contact == contact or member.contact.peer == contact.peer is not None:
                self._replication.unreachable(member.node)
        if contact == state.leader_contact:
            self._proposals.leader_lost(now)
        return self._finish(now)

    # ------------------------------------------------------------------ commands

    def bootstrap(self, configuration: Configuration, now: float) -> list[Effect]:
        """Found a cluster. Every first member is given the same configuration; others come by `change`.

        Raises:
            LocalProtocolError: The node has a log already, or the configuration is joint, or has no voter.
        """
        state = self._state
        if state.log.last_index or state.term:
            raise LocalProtocolError("this node has a log already: a cluster is founded by fresh nodes alone")
        if configuration.is_joint or not configuration.voters:
            raise LocalProtocolError("a cluster is founded with at least one voter, and not in mid-change")
        data = encode_configuration(configuration)
        state.term = 1
        state.log.append([Entry(1, 1, data, EntryKind.CONFIGURATION)])
        state.commit = 1
        state.saving.appended(1)
        state.saving.hard_state_changed()
        self._elections.restart_timer(now)
        if configuration.voters == (state.node_id,):
            self._elections.deadline = now  # nobody else can lead
        return self._finish(now)

    def propose(self, commands: Sequence[bytes], now: float) -> tuple[range, list[Effect]]:
        """Have commands committed, in their order, here or by way of the leader.

        Returns:
            The numbers of the requests, one for each command, and the effects. Each gets one `ProposalDone`,
            in these effects already where it is refused at once.
        """
        requests = range(self._request + 1, self._request + 1 + len(commands))
        self._request += len(commands)
        self._proposals.propose(requests, commands, now)
        return requests, self._finish(now)

    def change(self, changes: Sequence[Change], now: float) -> tuple[int, list[Effect]]:
        """Change the membership, all of `changes` together, through joint consensus; only the leader can.

        `ProposalDone` tells that it is committed and a joint configuration left, or why it was refused.
        """
        self._request += 1
        is_transferring = self._transfer.target is not None
        self._membership.begin(self._request, changes, now, is_transferring=is_transferring)
        return self._request, self._finish(now)

    def read(self, now: float) -> tuple[int, list[Effect]]:
        """Ask for the index that a linearizable read must wait for: `ReadReady` or `ReadFailed`."""
        self._request += 1
        self._reads.read(self._request, now)
        return self._request, self._finish(now)

    def transfer(self, target: NodeId | None, now: float) -> list[Effect]:
        """Hand the leadership over, to the voter with the longest log if None; `TransferDone` tells the end.

        No proposals are taken meanwhile, and no lease is relied on for the rest of the term: the request to
        stand may arrive late.
        """
        if self._transfer.begin(target, now):
            self._proposals.is_transferring = True
            self._reads.may_use_lease = False
        return self._finish(now)

    def forget_leader(self, leader: NodeId, now: float) -> list[Effect]:
        """Somebody reliable (SWIM) says that this leader is dead: grant pre-votes at once, and stand soon.

        Has no effect with `lease_reads`, whose leases rely on followers that wait.
        """
        state = self._state
        if state.leader != leader or state.role is Role.LEADER or state.config.lease_reads:
            state.count("hints_ignored")
            return self._finish(now)
        state.count("leaders_forgotten")
        self._elections.forget_leader(now)
        self._set_leader(None, None, now)
        return self._finish(now)

    def compact(self, index: int, data: bytes, now: float) -> list[Effect]:
        """Take the application's state after `index` as a snapshot, in place of the entries before it.

        Does nothing where there is a snapshot of that index, or a later one.

        Raises:
            LocalProtocolError: `index` was not handed out yet, or the snapshot is larger than allowed.
        """
        state, log = self._state, self._state.log
        if len(data) > state.config.snapshot_size_bytes_max:
            raise LocalProtocolError(
                f"a snapshot has at most {state.config.snapshot_size_bytes_max} bytes, not {len(data)}"
            )
        if index > state.applied:
            raise LocalProtocolError(
                f"entry {index} was not handed out yet: {state.applied} is the last that was"
            )
        term = log.term_at(index)
        if index > log.snapshot_index and term is not None:
            snapshot = Snapshot.of(index, term, log.configuration_at(index), data)
            state.saving.compacted(log.compact(snapshot, state.config.trailing_entries))
            state.count("compactions")
        return self._finish(now)

    # ------------------------------------------------------------------ queries

    @property
    def node_id(self) -> NodeId:
        """This node."""
        return self._state.node_id

    @property
    def role(self) -> Role:
        """What this node is at the moment."""
        return self._state.role

    @property
    def leader(self) -> NodeId | None:
        """Whom it follows, itself if it leads; None if it knows of none."""
        return self._state.leader

    @property
    def hard_state(self) -> HardState:
        """Term, vote and commit index as they are in memory."""
        return self._state.hard_state

    @property
    def configuration(self) -> Configuration:
        """The one in force: the last in the log, committed or not."""
        return self._state.log.configuration

    @property
    def applied_index(self) -> int:
        """Up to where entries were handed out as `Committed`, or by a snapshot."""
        return self._state.applied

    @property
    def durable_index(self) -> int:
        """Up to where the own disk has confirmed the log."""
        return self._state.saving.durable_index

    @property
    def log(self) -> Log:
        """The log: to be looked at, and never changed from outside."""
        return self._state.log

    def followers(self) -> tuple[FollowerView, ...]:
        """What a leader knows of the others, by node id; nothing where this node does not lead."""
        return tuple(
            FollowerView(node, each.state.value, each.match, each.next, each.heard_at, each.inflight_count)
            for node, each in sorted(self._replication.followers.items())
        )

    def statistics(self) -> Mapping[str, Any]:
        """Counters by name, and gauges: `role`, `term`, `*_index`, `*_count`, `*_bytes`."""
        state = self._state
        return {
            **state.counters,
            "role": state.role.value,
            "term": state.term,
            "leader": state.leader,
            "commit_index": state.commit,
            "applied_index": state.applied,
            "durable_index": state.saving.durable_index,
            "first_index": state.log.first_index,
            "last_index": state.log.last_index,
            "snapshot_index": state.log.snapshot_index,
            "voter_count": len(state.log.configuration.voters),
            "learner_count": len(state.log.configuration.learners),
            "open_proposal_count": self._proposals.open_count,
            "open_read_count": self._reads.open_count,
            "uncommitted_bytes": self._proposals.uncommitted_bytes,
        }

    # ------------------------------------------------------------------ messages

    def _is_sound(self, sender: Contact, message: RaftMessage) -> bool:
        """Whether a message is for this node, from whom it says, and of this world."""
        known = type(message) in self._handlers
        reason = self._state.complaint_about(sender, message) if known else "unknown_messages"
        if reason:
            self._state.count(reason)
        return not reason

    def _on_request_vote(self, sender: Contact, message: RequestVote, now: float) -> None:
        state = self._state
        if message.term >= state.term and self._elections.ignores(message, now):
            state.count("votes_ignored")
        elif message.pre:
            self._elections.answer_pre_vote(sender, message)
        else:
            if message.term > state.term:
                self._become_follower(message.term, None, None, now, "another node stands for election")
            self._elections.answer_vote(sender, message, now)

    def _on_vote_reply(self, sender: Contact, message: VoteReply, now: float) -> None:
        if not (message.pre and message.granted) and self._sees_later_term(message, now):
            return
        self._elections.take_reply(message, now)
        self._judge_election(now)

    def _sees_later_term(self, message: RaftMessage, now: float) -> bool:
        """Whether a member answers from a later term; then this node follows nobody in that term.

        Who was removed is not listened to: it may have raised its term in vain for long.
        """
        state = self._state
        if message.term <= state.term:
            return False
        if state.log.configuration.contact_of(message.source) is None:
            state.count("replies_of_strangers")
        else:
            self._become_follower(message.term, None, None, now, "there is a later term")
        return True

    def _follow(self, sender: Contact, message: RaftMessage, now: float) -> bool:
        """Take the sender for the leader of its term; returns False if it cannot be."""
        state = self._state
        if message.term < state.term:
            self._following.refuse_stale(sender, message.source)
            return False
        if message.term == state.term and state.leader not in (None, message.source):
            state.count("second_leaders")
            return False
        if message.term > state.term or state.role is not Role.FOLLOWER or state.leader is None:
            self._become_follower(message.term, message.source, sender, now, "there is a later term")
        state.leader_contact = sender
        self._elections.heard_leader(now)
        return True

    def _on_append_entries(self, sender: Contact, message: AppendEntries, now: float) -> None:
        if self._follow(sender, message, now):
            self._following.take_entries(sender, message)

    def _on_install_snapshot(self, sender: Contact, message: InstallSnapshot, now: float) -> None:
        if self._follow(sender, message, now):
            snapshot = self._following.take_chunk(sender, message)
            if snapshot is not None:
                self._delivery.install(snapshot)

    def _on_append_reply(self, sender: Contact, message: AppendReply, now: float) -> None:
        state = self._state
        if self._sees_later_term(message, now):
            return
        if message.term < state.term or state.role is not Role.LEADER:
            state.count("stale_replies")
            return
        if self._replication.take_reply(message, now):
            self._advance_commit(now)
        self._transfer.advance()
        self._reads.advance(now)

    def _on_snapshot_reply(self, sender: Contact, message: SnapshotReply, now: float) -> None:
        state = self._state
        if self._sees_later_term(message, now):
            return
        if message.term < state.term or state.role is not Role.LEADER:
            state.count("stale_replies")
        elif self._replication.take_snapshot_reply(message, now):
            self._advance_commit(now)

    def _on_timeout_now(self, sender: Contact, message: TimeoutNow, now: float) -> None:
        state = self._state
        if message.term != state.term or message.source != state.leader or not self._elections.may_stand:
            state.count("stale_transfers")
            return
        self._become_candidate(now, forced=True)

    # ------------------------------------------------------------------ roles

    def _stand(self, now: float) -> None:
        """The time is over in which a leader should have been heard."""
        state = self._state
        if state.saving.is_stalled(state.config.election_timeout_s, now):
            self._elections.postpone(now)  # who cannot write cannot lead
            return
        if not state.config.pre_vote:
            self._become_candidate(now)
            return
        state.count("pre_votes_begun")
        state.role = Role.PRE_CANDIDATE
        self._set_leader(None, None, now)
        self._elections.begin(Role.PRE_CANDIDATE, now)
        self._judge_election(now)

    def _become_candidate(self, now: float, *, forced: bool = False) -> None:
        state = self._state
        state.count("elections_begun")
        state.term += 1
        state.vote = state.node_id
        state.saving.hard_state_changed()
        state.role = Role.CANDIDATE
        self._set_leader(None, None, now)
        self._elections.begin(Role.CANDIDATE, now, forced=forced)

    def _judge_election(self, now: float) -> None:
        state, verdict = self._state, self._elections.verdict
        if verdict is Verdict.PENDING:
            return
        if verdict is Verdict.LOST:
            self._elections.end()
            state.role = Role.FOLLOWER
        elif state.role is Role.PRE_CANDIDATE:
            self._become_candidate(now)
        else:
            self._become_leader(now)

    def _become_leader(self, now: float) -> None:
        state = self._state
        state.count("elections_won")
        self._elections.end()
        state.role = Role.LEADER
        state.out.deliver(BecameLeader(state.term))
        self._replication.begin(now)
        self._reads.may_use_lease = True
        self._replication.append([(b"", EntryKind.NOOP)])
        self._replication.begin_round(now)
        self._replication.send_entries()
        self._replication.heartbeat_at = now + state.config.heartbeat_interval_s
        self._set_leader(state.node_id, None, now)

    def _become_follower(
        self, term: int, leader: NodeId | None, contact: Contact | None, now: float, reason: str
    ) -> None:
        state = self._state
        was_leader, before = state.role is Role.LEADER, state.term
        if term > state.term:
            state.term, state.vote = term, None
            state.saving.hard_state_changed()
        state.role = Role.FOLLOWER
        self._elections.end()
        if was_leader:
            state.count("leaderships_lost")
            state.out.deliver(SteppedDown(before, reason))
            self._replication.end()
            self._proposals.stop_leading()
            self._reads.stop_leading()
            self._elections.restart_timer(now)
        self._set_leader(leader, contact, now)

    def _set_leader(self, leader: NodeId | None, contact: Contact | None, now: float) -> None:
        state = self._state
        state.leader_contact = contact
        if leader == state.leader:
            return
        if state.leader is not None:
            self._proposals.leader_lost(now)
        state.leader = leader
        state.out.deliver(LeaderChanged(leader, state.term))
        if leader is not None:
            self._transfer.leader_known(leader)
        self._reads.leader_changed(now)

    def _check_leadership(self, now: float) -> None:
        """Step down without a quorum, or without a disk: others must be able to take over (thesis 6.2)."""
        state = self._state
        if state.saving.is_stalled(state.config.election_timeout_s, now):
            reason = "the disk does not answer"
        elif (
            state.config.check_quorum
            and now - self._replication.quorum_heard_at(now) > state.config.election_timeout_s
        ):
            reason = "no quorum answers"
        else:
            return
        self._become_follower(state.term, None, None, now, reason)

    # ------------------------------------------------------------------ what is decided

    def _advance_commit(self, now: float) -> None:
        """A quorum may hold more than before."""
        state, replication = self._state, self._replication
        index = replication.committed_index()
        if index <= state.commit:
            return
        state.commit = index
        replication.notice_at = min(replication.notice_at, now + state.config.commit_notice_s)
        if self._membership.committed(now):
            successor = self._transfer.best_successor()
            replication.tell_commit(now)
            if successor is not None:
                self._transfer.tell(successor)
            self._become_follower(state.term, None, None, now, "this node is no voter any more")
            return
        self._reads.advance(now)

    def _finish(self, now: float) -> list[Effect]:
        state = self._state
        if self._start_at is None and self._delivery.advance():
            self._proposals.applied()
            self._membership.applied()
            self._reads.applied()
        self._delivery.tell_configuration()
        return state.out.take(state.hard_state if state.saving.is_due else None, now)
