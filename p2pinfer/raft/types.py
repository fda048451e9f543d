"""What Raft keeps and hands out: entries, terms and votes, configurations, snapshots, and writes to the disk.

Rules:

1. Everything here is an immutable value; `Entry` is a tuple because there are so many of them.
2. Indices begin at 1; index 0, term 0 is the place before the first entry.
3. A configuration is in force from the moment it stands in a node's log, committed or not (extended paper,
   section 6), and is stored whole, so that no node's view depends on what it saw before.
"""

from __future__ import annotations

import enum
import hashlib
from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias

from p2pinfer.ids import Contact
from p2pinfer.wire.messages.raft import NODE_ID_MAX

__all__ = [
    "CLUSTER_ID_SIZE_BYTES",
    "NODE_ID_MAX",
    "Change",
    "ChangeKind",
    "Configuration",
    "Entry",
    "EntryKind",
    "FollowerView",
    "HardState",
    "Initial",
    "LogWrite",
    "Member",
    "NodeId",
    "Role",
    "Snapshot",
    "SnapshotMeta",
]

CLUSTER_ID_SIZE_BYTES = 16

NodeId: TypeAlias = int
"""1 to 2**63 - 1, drawn at random for a fresh data directory and never used again: a node that lost its disk
comes back as another one, which has promised nothing."""


class EntryKind(enum.IntEnum):
    """What an entry is for."""

    DATA = 0
    """A command of the application."""
    NOOP = 1
    """A new leader's first entry, whose commitment commits what came before (thesis 6.4)."""
    CONFIGURATION = 2
    """A `ConfigurationRecord`, encoded."""


class Entry(NamedTuple):
    """One place of the log."""

    index: int  # type: ignore[assignment]  # an entry's own, not the tuple's method
    term: int
    data: bytes = b""
    kind: EntryKind = EntryKind.DATA


@dataclass(frozen=True, slots=True)
class HardState:
    """What a node may never forget: one atomic record.

    `term` and `vote` are durable before anything is said that depends on them. `commit` only saves time
    after a
    restart: it is written when something else is, and never lies beyond what is written with it.
    """

    term: int = 0
    vote: NodeId | None = None
    commit: int = 0


@dataclass(frozen=True, slots=True)
class Member:
    """A node of the cluster and where it is found."""

    node: NodeId
    contact: Contact


@dataclass(frozen=True, slots=True)
class Configuration:
    """Who belongs to the cluster, and as what. Node ids are sorted; every one has its member.

    Attributes:
        voters: Whose votes and acknowledgements count; of a joint configuration the incoming half.
        outgoing: The outgoing half of a joint configuration; empty outside one. Where it is not empty, every
            decision needs a majority of both halves (extended paper, section 6).
        learners: Who gets the log and has no vote (thesis 4.2.1).
        learners_next: Outgoing voters that become learners when the joint configuration is left.
        members: Contacts of all of them, sorted by node.
    """

    voters: tuple[NodeId, ...] = ()
    outgoing: tuple[NodeId, ...] = ()
    learners: tuple[NodeId, ...] = ()
    learners_next: tuple[NodeId, ...] = ()
    members: tuple[Member, ...] = ()

    @classmethod
    def of(cls, *members: Member, learners: tuple[Member, ...] = ()) -> Configuration:
        """Return the configuration with these voters and learners."""
        everybody = sorted((*members, *learners), key=lambda each: each.node)
        return cls(
            voters=tuple(sorted(each.node for each in members)),
            learners=tuple(sorted(each.node for each in learners)),
            members=tuple(everybody),
        )

    @property
    def is_joint(self) -> bool:
        """Whether it is the transitional one of a change of voters."""
        return bool(self.outgoing)

    @property
    def nodes(self) -> tuple[NodeId, ...]:
        """Everybody to whom the leader replicates, sorted."""
        return tuple(each.node for each in self.members)

    def is_voter(self, node: NodeId) -> bool:
        """Whether the node's vote counts, in either half."""
        return node in self.voters or node in self.outgoing

    def contact_of(self, node: NodeId) -> Contact | None:
        """Where the node is found, or None if it does not belong."""
        return next((each.contact for each in self.members if each.node == node), None)


class ChangeKind(enum.Enum):
    """What happens to one node in a change of the membership."""

    ADD_VOTER = "add_voter"
    """Add it, or promote a learner."""
    ADD_LEARNER = "add_learner"
    """Add it, or demote a voter."""
    REMOVE = "remove"
    UPDATE = "update"
    """Another contact for a node that belongs; its role stays what it is."""


@dataclass(frozen=True, slots=True)
class Change:
    """One part of a change of the membership; `contact` is needed for all but REMOVE of unknown nodes.

    For a node that already belongs, None keeps its contact.
    """

    kind: ChangeKind
    node: NodeId
    contact: Contact | None = None


@dataclass(frozen=True, slots=True)
class SnapshotMeta:
    """What a snapshot stands for: the state after `index`, whose entry had `term`."""

    index: int
    term: int
    configuration: Configuration
    """The one in force at `index`."""
    size_bytes: int
    digest: bytes
    """BLAKE2b with 16 bytes over the data."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A snapshot with the application's bytes."""

    meta: SnapshotMeta
    data: bytes = field(repr=False)

    @classmethod
    def of(cls, index: int, term: int, configuration: Configuration, data: bytes) -> Snapshot:
        """Make one, with size and digest computed."""
        digest = hashlib.blake2b(data, digest_size=16).digest()
        return cls(SnapshotMeta(index, term, configuration, len(data), digest), data)

    @property
    def is_intact(self) -> bool:
        """Whether the data is what the meta says."""
        same = hashlib.blake2b(self.data, digest_size=16).digest() == self.meta.digest
        return same and len(self.data) == self.meta.size_bytes


@dataclass(frozen=True, slots=True)
class LogWrite:
    """One atomic change of what is durable, carried by `effects.Save`. The parts happen in the order below.

    Attributes:
        number: Rises by one with every write of a process; answered with `saved(number)`.
        snapshot: Replaces the snapshot before; None keeps it.
        truncate_from: Entries with this index and above are dropped, of which there may be none.
        entries: Appended, without a gap: the first follows on what is left, or on the snapshot.
        compact_to: Entries up to and with this index belong to the log no more, and are not read again; their
            bytes may go at leisure. Its index is never above that of the snapshot. None drops none.
        hard_state: Replaces the one before; None keeps it.
    """

    number: int
    snapshot: Snapshot | None = None
    truncate_from: int | None = None
    entries: tuple[Entry, ...] = ()
    compact_to: int | None = None
    hard_state: HardState | None = None


@dataclass(frozen=True, slots=True)
class Initial:
    """What storage gives a node when it starts. For a fresh one everything but the ids is empty.

    Attributes:
        entries: In order and without a gap. They may begin before the snapshot's index, where trailing
        entries
            were kept, and those up to it are then taken for committed.
    """

    node_id: NodeId
    cluster_id: bytes
    hard_state: HardState = HardState()
    entries: tuple[Entry, ...] = ()
    snapshot: Snapshot | None = None


class Role(enum.Enum):
    """What a node is at the moment."""

    FOLLOWER = "follower"
    PRE_CANDIDATE = "pre_candidate"
    """Asks whether an election would be won, and has changed nothing yet (thesis 9.6)."""
    CANDIDATE = "candidate"
    LEADER = "leader"


@dataclass(frozen=True, slots=True)
class FollowerView:
    """What a leader knows of one member, for people and for whoever changes the membership.

    Attributes:
        state: "probe", "replicate", "snapshot" or "lost": see the module progress.
        match: Up to here it holds the log durably.
        next: The next entry that it will be sent.
        heard_at: When it last answered, in the core's own time.
        inflight_count: Messages with entries that it has not answered.
    """

    node: NodeId
    state: str
    match: int
    next: int
    heard_at: float
    inflight_count: int
