"""Proposals and what became of each: committed, certainly not, or not known.

Rules:

1. Each proposal gets one outcome. `Refused` is said only of what cannot be committed any more, `Unknown` of
   what may be; nothing is guessed.
2. What a leader appended is known by index and term: whatever is committed at that index decides about it,
   even after the leadership is lost.
3. A follower forwards to the leader of its term. Who leads another refuses, and who saw the batch before
   ignores it, so nothing is proposed twice by a repeated message; and what an earlier life of this node may
   have proposed is not refused but unknown.
4. What is held is bounded in number and in bytes; more is refused at once, to be tried again.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from p2pinfer.errors import DecodeError
from p2pinfer.ids import Contact
from p2pinfer.raft.news import CommittedAt, Outcome, ProposalDone, Refused, Unknown
from p2pinfer.raft.packing import pack_commands, unpack_commands
from p2pinfer.raft.replication import Replication
from p2pinfer.raft.state import NodeState
from p2pinfer.raft.types import EntryKind, NodeId, Role
from p2pinfer.wire.messages.raft import (
    BATCH_SIZE_BYTES_MAX,
    FORWARD_COUNT_MAX,
    Forward,
    ForwardReply,
    ForwardResult,
    OutcomeCode,
)

__all__ = ["Proposals"]

_SEEN_COUNT_MAX = 16384
"""Forwarded batches remembered, so that a repeated message is not proposed again. No stream repeats or
delays one for so long."""
_NO_LEADER = Refused("no leader is known", retry=True)
_NOT_LEADING = Refused("the node asked does not lead this term", retry=True)
_FULL = Refused("too much is not committed yet", retry=True)
_DOUBTFUL = Unknown("the node asked has started anew since it may have led this term")
_TRANSFER = Refused("the leadership is being handed over", retry=True)


@dataclass(slots=True)
class _Run:
    """Proposals that stand in the log one after the other, all of one origin."""

    first: int
    term: int
    requests: Sequence[int]
    deadline: float
    forwarder: NodeId = 0
    contact: Contact | None = None
    outcomes: list[Outcome] = field(default_factory=list)

    @property
    def last(self) -> int:
        return self.first + len(self.requests) - 1


@dataclass(slots=True)
class _Sent:
    """Proposals forwarded to a leader."""

    requests: Sequence[int]
    leader: NodeId
    deadline: float


class Proposals:
    """The proposals of one node's clients, and of other nodes' while it leads."""

    def __init__(self, state: NodeState, replication: Replication) -> None:
        self._state = state
        self._replication = replication
        self._runs: deque[_Run] = deque()
        self._orphans: list[_Run] = []
        self._sent: dict[int, _Sent] = {}
        self._seen: dict[tuple[NodeId, int], None] = {}
        self._sizes: deque[tuple[int, int]] = deque()
        self._number = state.rng.getrandbits(48)
        # An earlier life of this node may have led terms up to here, and taken what it does not know of now.
        self._doubtful_term = state.term if state.vote == state.node_id else state.term - 1
        self.uncommitted_bytes = 0
        self.open_count = 0
        self.is_transferring = False

    @property
    def deadline(self) -> float:
        """When `tick` may have something to do."""
        first = self._runs[0].deadline if self._runs else math.inf
        for orphan in self._orphans:
            first = min(first, orphan.deadline)
        for sent in self._sent.values():
            return min(first, sent.deadline)
        return first

    # ------------------------------------------------------------------ of this node's clients

    def propose(self, requests: range, commands: Sequence[bytes], now: float) -> None:
        """Have commands committed; their outcomes are delivered."""
        state, config = self._state, self._state.config
        chosen: Sequence[int] = requests
        size_max = config.proposal_size_bytes_max
        if any(len(command) > size_max for command in commands):
            pairs = list(zip(requests, commands, strict=True))
            large = [request for request, command in pairs if len(command) > size_max]
            self._tell(large, Refused(f"a proposal has at most {size_max} bytes", retry=False))
            pairs = [(request, command) for request, command in pairs if len(command) <= size_max]
            chosen, commands = [request for request, _ in pairs], [command for _, command in pairs]
        room = max(0, config.proposals_open_max - self.open_count)
        if len(chosen) > room:
            self._tell(chosen[room:], _FULL)
            chosen, commands = chosen[:room], commands[:room]
        if not chosen:
            return
        if state.role is Role.LEADER:
            self._propose_here(chosen, commands, now)
        elif state.leader is None or state.leader_contact is None:
            self._tell(chosen, _NO_LEADER)
        else:
            self._forward(chosen, commands, state.leader, state.leader_contact, now)

    def _propose_here(self, requests: Sequence[int], commands: Sequence[bytes], now: float) -> None:
        if self.is_transferring:
            self._tell(requests, _TRANSFER)
            return
        fitting = self._fitting(commands)
        if fitting < len(commands):
            self._tell(requests[fitting:], _FULL)
            requests, commands = requests[:fitting], commands[:fitting]
        if requests:
            self._append(_Run(0, 0, requests, now + self._state.config.proposal_timeout_s), commands)
            self.open_count += len(requests)

    def _fitting(self, commands: Sequence[bytes]) -> int:
        """How many of the commands fit within what may be uncommitted."""
        room = self._state.config.uncommitted_bytes_max - self.uncommitted_bytes
        for count, command in enumerate(commands):
            room -= len(command)
            if room < 0:
                return count
        return len(commands)

    def _append(self, run: _Run, commands: Sequence[bytes]) -> None:
        data = EntryKind.DATA
        run.first = self._replication.append([(command, data) for command in commands])
        run.term = self._state.term
        size = sum(map(len, commands))
        self._sizes.append((run.last, size))
        self.uncommitted_bytes += size
        self._runs.append(run)
        self._replication.send_entries()

    def _forward(
        self, requests: Sequence[int], commands: Sequence[bytes], leader: NodeId, contact: Contact, now: float
    ) -> None:
        start = 0
        while start < len(commands):
            end, size = start, 0
            while end < len(commands) and end - start < FORWARD_COUNT_MAX:
                size += len(commands[end]) + 4
                if size > BATCH_SIZE_BYTES_MAX:
                    break
                end += 1
            self._number += 1
            deadline = now + self._state.config.proposal_timeout_s
            self._sent[self._number] = _Sent(requests[start:end], leader, deadline)
            message = Forward(
                cluster=self._state.cluster_id,
                source=self._state.node_id,
                target=leader,
                term=self._state.term,
                request=self._number,
                proposals=pack_commands(commands[start:end]),
            )
            self._state.out.send(contact, message)
            start = end
        self.open_count += len(requests)

    def take_reply(self, sender: Contact, message: ForwardReply, now: float) -> None:
        """The leader says what became of a forwarded batch."""
        sent = self._sent.get(message.request)
        if sent is None or sent.leader != message.source:
            self._state.count("stale_forward_replies")
            return
        outcomes = _outcomes_of(message)
        if len(outcomes) != len(sent.requests):
            self._state.count("absurd_replies")
            return
        del self._sent[message.request]
        self.open_count -= len(sent.requests)
        for request, outcome in zip(sent.requests, outcomes, strict=True):
            self._state.out.deliver(ProposalDone(request, outcome))

    def _tell(self, requests: Sequence[int], outcome: Outcome) -> None:
        for request in requests:
            self._state.out.deliver(ProposalDone(request, outcome))

    # ------------------------------------------------------------------ of other nodes

    def take_forward(self, sender: Contact, message: Forward, now: float) -> None:
        """Propose for another node, or say why not."""
        state = self._state
        try:
            commands = unpack_commands(message.proposals, FORWARD_COUNT_MAX)
        except DecodeError:
            state.count("malformed")
            return
        key = (message.source, message.request)
        if key in self._seen or not commands:
            state.count("repeated_forwards")
            return
        # What is refused is remembered as well: a repetition taken later would make the refusal a lie.
        self._seen[key] = None
        while len(self._seen) > _SEEN_COUNT_MAX:
            del self._seen[next(iter(self._seen))]
        run = _Run(
            0,
            0,
            range(message.request, message.request + len(commands)),
            now + state.config.proposal_timeout_s,
            message.source,
            sender,
        )
        refusal: Refused | None = None
        if state.role is not Role.LEADER or message.term != state.term:
            refusal = _NOT_LEADING
        elif self.is_transferring:
            refusal = _TRANSFER
        elif max(map(len, commands)) > state.config.proposal_size_bytes_max:
            refusal = Refused("a proposal is too large", retry=False)
        elif self._fitting(commands) < len(commands) or len(self._runs) >= state.config.proposals_open_max:
            refusal = _FULL
        if refusal is not None:
            is_doubtful = message.term <= self._doubtful_term
            run.outcomes = [_DOUBTFUL if is_doubtful else refusal] * len(commands)
            self._answer(run)
            return
        self._append(run, commands)

    def _answer(self, run: _Run) -> None:
        """Tell whoever proposed a run what became of it."""
        if run.contact is None:
            self.open_count -= len(run.requests)
            for request, outcome in zip(run.requests, run.outcomes, strict=True):
                self._state.out.deliver(ProposalDone(request, outcome))
            return
        progress = self._replication.followers.get(run.forwarder)
        if progress is not None:
            self._replication.tell_commit_to(run.forwarder, progress)
        state = self._state
        reply = ForwardReply(
            cluster=state.cluster_id,
            source=state.node_id,
            target=run.forwarder,
            term=state.term,
            request=run.requests[0],
            results=_results_of(run.outcomes),
        )
        state.out.send(run.contact, reply)

    # ------------------------------------------------------------------ what is decided

    def applied(self) -> None:
        """More entries are applied: whatever stands at an index decides about what was proposed there."""
        applied = self._state.applied
        while self._sizes and self._sizes[0][0] <= applied:
            self.uncommitted_bytes -= self._sizes.popleft()[1]
        while self._runs and self._runs[0].first <= applied:
            if not self._decide(self._runs[0]):
                break
            self._runs.popleft()
        if self._orphans:
            self._orphans = [run for run in self._orphans if not self._decide(run)]

    def _decide(self, run: _Run) -> bool:
        """Decide what can be decided; returns whether the whole run is, and has been told."""
        log, applied, term = self._state.log, self._state.applied, run.term
        first, last = run.first + len(run.outcomes), min(run.last, applied)
        if log.term_at(last) == term:
            # Entries of one term come from one leader: with the last of them those before it are here as
            # well.
            run.outcomes += [CommittedAt(index, term) for index in range(first, last + 1)]
        else:
            for index in range(first, last + 1):
                found = log.term_at(index)
                if found is None:
                    run.outcomes.append(Unknown("a snapshot took the place of the log"))
                elif found == term:
                    run.outcomes.append(CommittedAt(index, term))
                else:
                    run.outcomes.append(Refused("another leader's entry was committed there", retry=True))
        if last < run.last:
            return False
        self._answer(run)
        return True

    # ------------------------------------------------------------------ time and leaders

    def tick(self, now: float) -> None:
        """Say of what waited too long that its outcome is not known."""
        while self._runs and self._runs[0].deadline <= now:
            self._give_up(self._runs.popleft())
        for orphan in [run for run in self._orphans if run.deadline <= now]:
            self._orphans.remove(orphan)
            self._give_up(orphan)
        while self._sent:
            number, sent = next(iter(self._sent.items()))
            if sent.deadline > now:
                break
            del self._sent[number]
            self.open_count -= len(sent.requests)
            self._tell(sent.requests, Unknown("the leader did not answer in time"))

    def _give_up(self, run: _Run) -> None:
        missing = len(run.requests) - len(run.outcomes)
        run.outcomes += [Unknown("it was not committed in time")] * missing
        self._answer(run)

    def stop_leading(self) -> None:
        """What was appended may yet be committed by the next leader: the log will tell."""
        self._orphans += self._runs
        self._runs.clear()
        self._sizes.clear()
        self.uncommitted_bytes = 0
        self.is_transferring = False

    def leader_lost(self, now: float) -> None:
        """What was forwarded may have been lost: wait for its answer only a little longer."""
        grace = now + self._state.config.election_timeout_s
        for sent in self._sent.values():
            sent.deadline = min(sent.deadline, grace)


def _results_of(outcomes: Sequence[Outcome]) -> tuple[ForwardResult, ...]:
    """Return outcomes as runs of equal ones."""
    results: list[ForwardResult] = []
    start = 0
    for end in range(1, len(outcomes) + 1):
        if end < len(outcomes) and _continues(outcomes[end - 1], outcomes[end]):
            continue
        results.append(_result_of(outcomes[start], end - start))
        start = end
    return tuple(results)


def _continues(before: Outcome, after: Outcome) -> bool:
    if isinstance(before, CommittedAt) and isinstance(after, CommittedAt):
        return after.index == before.index + 1
    return before == after


def _result_of(outcome: Outcome, count: int) -> ForwardResult:
    if isinstance(outcome, CommittedAt):
        return ForwardResult(
            count=count, code=OutcomeCode.COMMITTED.value, index=outcome.index, index_term=outcome.term
        )
    if isinstance(outcome, Refused):
        code = OutcomeCode.RETRY if outcome.retry else OutcomeCode.REFUSED
        return ForwardResult(count=count, code=code.value, reason=outcome.reason)
    return ForwardResult(count=count, code=OutcomeCode.UNKNOWN.value, reason=outcome.reason)


def _outcomes_of(message: ForwardReply) -> list[Outcome]:
    """Return the outcomes that a reply tells; more than a Forward has are cut off."""
    outcomes: list[Outcome] = []
    for result in message.results:
        if len(outcomes) + result.count > FORWARD_COUNT_MAX:
            break
        if result.code == OutcomeCode.COMMITTED:
            outcomes += [CommittedAt(result.index + step, result.index_term) for step in range(result.count)]
        elif result.code == OutcomeCode.UNKNOWN:
            outcomes += [Unknown(result.reason)] * result.count
        else:
            retry = result.code == OutcomeCode.RETRY
            outcomes += [Refused(result.reason, retry)] * result.count
    return outcomes
