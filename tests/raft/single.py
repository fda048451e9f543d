"""One core among peers that exist only as messages: for tests that compare whole lists of effects."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

from p2pinfer.effects import Effect, Save, Send
from p2pinfer.raft.config import RaftConfig
from p2pinfer.raft.core import RaftCore
from p2pinfer.raft.packing import encode_configuration, pack_entries
from p2pinfer.raft.types import Configuration, Entry, EntryKind, HardState, Initial, NodeId, Role, Snapshot
from p2pinfer.wire.messages.raft import AppendEntries, AppendReply, RaftMessage, VoteReply
from tests.raft.cluster import CLUSTER, contact, member, saves_of, sends_of

__all__ = ["NOW", "THREE", "Single", "first_entry", "initial"]

NOW = 1000.0
THREE = Configuration.of(member(1), member(2), member(3))


def first_entry(configuration: Configuration = THREE) -> Entry:
    return Entry(1, 1, encode_configuration(configuration), EntryKind.CONFIGURATION)


def initial(
    *more: Entry,
    term: int | None = None,
    vote: NodeId | None = None,
    commit: int = 1,
    configuration: Configuration = THREE,
    snapshot: Snapshot | None = None,
) -> Initial:
    """Node 1's storage: the configuration entry and what is given."""
    entries = (first_entry(configuration), *more) if snapshot is None else more
    last = max((each.term for each in entries), default=snapshot.meta.term if snapshot else 0)
    return Initial(1, CLUSTER, HardState(term or last, vote, commit), entries, snapshot)


class Single:
    """Node 1 of three. `save` answers its writes at once where a test does not look at the disk."""

    def __init__(self, storage: Initial | None = None, config: RaftConfig | None = None) -> None:
        self.config = config or RaftConfig()
        self.now = NOW
        self.core = RaftCore(storage or initial(), self.config, random.Random(1), NOW)
        self.started = self.core.tick(NOW)

    @property
    def term(self) -> int:
        return self.core.hard_state.term

    def is_now(self, role: Role) -> bool:
        return self.core.role is role

    def message(self, kind: type[Any], source: NodeId = 2, **fields: Any) -> Any:
        fields.setdefault("term", self.term)
        return kind(cluster=CLUSTER, source=source, target=1, **fields)

    def said(self, kind: type[Any], target: NodeId = 2, **fields: Any) -> Send:
        fields.setdefault("term", self.term)
        return Send(contact(target), kind(cluster=CLUSTER, source=1, target=target, **fields))

    def hear(self, message: RaftMessage) -> list[Effect]:
        return self.core.receive(contact(message.source), message, self.now)

    def hear_of(self, kind: type[Any], source: NodeId = 2, **fields: Any) -> list[Effect]:
        return self.hear(self.message(kind, source, **fields))

    def append(self, *entries: Entry, source: NodeId = 2, **fields: Any) -> list[Effect]:
        """An AppendEntries of a leader, after what is before the first of the entries."""
        before = entries[0].index - 1 if entries else self.core.log.last_index
        fields.setdefault("prev_index", before)
        fields.setdefault("prev_term", self.core.log.term_at(before) or 0)
        fields.setdefault("commit", 0)
        fields.setdefault("round", 1)
        return self.hear_of(AppendEntries, source, entries=pack_entries(entries), **fields)

    def save(self, effects: list[Effect]) -> list[Effect]:
        """Answer the write in these effects; returns what follows from it."""
        (write,) = saves_of(effects)
        return self.core.saved(write.number, self.now)

    def time_out(self) -> list[Effect]:
        deadline = self.core.deadline
        assert deadline is not None
        self.now = max(self.now, deadline)
        return self.core.tick(self.now)

    def become_candidate(self) -> list[Effect]:
        """Stand, with the pre-vote of node 2; returns the effects of the real election."""
        self.time_out()
        return self.hear_of(VoteReply, term=self.term + 1, pre=True, granted=True)

    def become_leader(self) -> list[Effect]:
        """Be elected by node 2, and have the own vote durable; returns the effects of winning."""
        self.save(self.become_candidate())
        effects = self.hear_of(VoteReply, pre=False, granted=True)
        assert self.core.role is Role.LEADER
        return effects

    def lead(self) -> None:
        """Be a leader whose first entry is committed and whose followers are in step."""
        self.save(self.become_leader())
        for node in (2, 3):
            self.acknowledge(node)

    def acknowledge(self, node: NodeId, index: int | None = None, **fields: Any) -> list[Effect]:
        index = self.core.log.last_index if index is None else index
        fields.setdefault("round", 1)
        fields.setdefault("last_index", index)
        return self.hear_of(AppendReply, node, success=True, index=index, **fields)

    def without_numbers(self, effects: list[Effect]) -> list[Effect]:
        """The effects with every write numbered 0: for tests that do not count writes."""
        return [Save(replace(each.write, number=0)) if isinstance(each, Save) else each for each in effects]

    def sends(self, effects: list[Effect]) -> list[Any]:
        return sends_of(effects)
