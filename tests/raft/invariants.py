"""What must hold after every step of a cluster, whatever was lost, repeated, late or crashed.

Sources: the extended paper's figure 3, its section 5.2 (votes), and the thesis' section 6.4 (reads).
"""

from __future__ import annotations

from typing import Any

from p2pinfer.raft.news import CommittedAt, LogLost, ProposalDone, ReadReady, Refused, Unknown
from p2pinfer.raft.quorum import has_quorum
from p2pinfer.raft.types import Entry, NodeId, Role
from p2pinfer.wire.messages.raft import VoteReply
from tests.raft.cluster import Cluster

__all__ = ["Invariants"]


class Invariants:
    """Watches a cluster from outside; it remembers everything that ever was the case."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.leaders: dict[int, NodeId] = {}
        self.entries: dict[tuple[int, int], tuple[bytes, int]] = {}
        self.committed: dict[int, Entry] = {}
        self.votes: dict[tuple[NodeId, int], NodeId] = {}
        self.terms: dict[NodeId, int] = {}
        self.commands: dict[tuple[NodeId, int, int], bytes] = {}
        self.outcomes: dict[tuple[NodeId, int, int], Any] = {}
        self.reads: dict[tuple[NodeId, int, int], int] = {}
        self.lives: dict[NodeId, int] = dict.fromkeys(cluster.nodes, 0)
        self._commits: dict[tuple[NodeId, int], int] = {}

    def proposed(self, node: NodeId, requests: range, commands: list[bytes]) -> None:
        for request, command in zip(requests, commands, strict=True):
            self.commands[node, self.lives[node], request] = command

    def read_begun(self, node: NodeId, request: int) -> None:
        self.reads[node, self.lives[node], request] = max(self.committed, default=0)

    def crashed(self, node: NodeId) -> None:
        self.lives[node] += 1
        self.terms[node] = self.cluster.core(node).hard_state.term

    def check(self) -> None:
        for node, at in self.cluster.nodes.items():
            self._check_news(node)
            core = at.core
            term = core.hard_state.term
            assert term >= self.terms.get(node, 0), "a term fell"
            self.terms[node] = term
            vote = at.disk.hard_state.vote
            if vote is not None:
                self._vote(node, at.disk.hard_state.term, vote)
            if core.role is Role.LEADER:
                self._check_leader(node, term)
            self._check_log(node)
            assert core.applied_index <= core.hard_state.commit <= core.log.last_index
            assert core.applied_index <= core.durable_index <= core.log.last_index
        for source, message in self.cluster.wire:
            if isinstance(message, VoteReply) and message.granted and not message.pre:
                self._vote(source, message.term, message.target)

    def _vote(self, node: NodeId, term: int, vote: NodeId) -> None:
        assert self.votes.setdefault((node, term), vote) == vote, f"node {node} voted twice in term {term}"

    def _check_leader(self, node: NodeId, term: int) -> None:
        assert self.leaders.setdefault(term, node) == node, f"two leaders in term {term}"
        log = self.cluster.core(node).log
        for index, entry in self.committed.items():
            if entry.term < term and index >= log.first_index:
                assert log.term_at(index) == entry.term, f"leader {node} of term {term} lacks entry {index}"
        self._check_quorum(node, term)

    def _check_quorum(self, node: NodeId, term: int) -> None:
        """What a leader has just found to be committed is on the disks of a quorum."""
        core = self.cluster.core(node)
        commit = core.hard_state.commit
        if commit <= self._commits.get((node, term), commit):
            self._commits.setdefault((node, term), commit)
            return
        self._commits[node, term] = commit
        holders = {
            other
            for other, at in self.cluster.nodes.items()
            if (at.disk.snapshot is not None and at.disk.snapshot.meta.index >= commit)
            or any(each.index == commit and each.term == term for each in at.disk.entries)
        }
        assert has_quorum(core.configuration, holders), f"{commit} is committed and only on {holders}"

    def _check_log(self, node: NodeId) -> None:
        log = self.cluster.core(node).log
        before = log.term_at(log.first_index - 1)
        for entry in log.between(log.first_index, log.last_index):
            if before is not None:
                known = self.entries.setdefault((entry.index, entry.term), (entry.data, before))
                assert known == (entry.data, before), f"two entries {entry.index} of term {entry.term}"
            before = entry.term

    def _check_news(self, node: NodeId) -> None:
        at, life = self.cluster.nodes[node], self.lives[node]
        for entry in at.applied:
            known = self.committed.setdefault(entry.index, entry)
            assert known == entry, f"two entries committed at {entry.index}: {known}, {entry}"
        at.applied.clear()
        for item in at.news:
            if isinstance(item, ProposalDone):
                key = node, life, item.request
                if key in self.commands:
                    assert key not in self.outcomes, f"two outcomes: {self.outcomes[key]}, {item.outcome}"
                    self.outcomes[key] = item.outcome
            elif isinstance(item, LogLost):
                raise AssertionError(f"node {item.node} is said to have lost its log, and has not")
            elif isinstance(item, ReadReady):
                least = self.reads[node, life, item.request]
                assert item.index >= least, f"a read at {item.index} after {least} was committed"
                assert self.cluster.core(node).applied_index >= item.index
        at.news.clear()

    def check_outcomes(self) -> None:
        """At the end: what clients were told is what happened."""
        places: dict[bytes, list[int]] = {}
        for index, entry in self.committed.items():
            if entry.data:
                places.setdefault(entry.data, []).append(index)
        for key, command in self.commands.items():
            found, outcome = places.get(command, []), self.outcomes.get(key)
            assert len(found) <= 1, f"{command!r} was committed twice, at {found}"
            if isinstance(outcome, CommittedAt):
                assert found == [outcome.index], (command, found, outcome)
                assert self.committed[outcome.index].term == outcome.term
            elif isinstance(outcome, Refused):
                assert not found, f"{command!r} was refused ({outcome.reason}) and is committed"
            elif outcome is None:
                assert key[1] < self.lives[key[0]], f"{command!r} has no outcome"
            else:
                assert isinstance(outcome, Unknown)
