"""The messages of Raft: how the voters of a swarm agree on one log.

    candidate                  voter                leader                     follower
      |--RequestVote(pre)------->|                    |--AppendEntries------------>|   also the heartbeat
      |<-VoteReply(pre)----------|                    |<-AppendReply---------------|
      |--RequestVote------------>|                    |--InstallSnapshot---------->|   a chunk at a time
      |<-VoteReply---------------|                    |<-SnapshotReply-------------|
                                                      |--TimeoutNow--------------->|   stand for election at
                                                      once
    follower                   leader
      |--Forward---------------->|   proposals of the follower's clients
      |<-ForwardReply------------|   one for each batch: what became of every proposal
      |--ReadRequest------------>|   up to where must I have applied before I may answer a read?
      |<-ReadReply---------------|

Every message names its cluster, its source and its target, so that one that went astray is dropped and not
believed. A node that lost its disk has another id, and so nothing to do with what the old one promised.

Source: Ongaro and Ousterhout, "In Search of an Understandable Consensus Algorithm (extended)", 2014, figure
2 and section 7; Ongaro's thesis, 2014, sections 3.10 (TimeoutNow), 6.4 (reads), 9.6 (pre-vote).
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Annotated, ClassVar

from p2pinfer.effects import Message, Plane, Priority
from p2pinfer.ids import Contact
from p2pinfer.wire.schema import Between, Count, Exactly, Size, registered

__all__ = [
    "BATCH_SIZE_BYTES_MAX",
    "FORWARD_COUNT_MAX",
    "MEMBER_COUNT_MAX",
    "NODE_ID_MAX",
    "SNAPSHOT_CHUNK_BYTES_MAX",
    "SNAPSHOT_SIZE_BYTES_MAX",
    "TERM_MAX",
    "AppendEntries",
    "AppendReply",
    "ConfigurationRecord",
    "Forward",
    "ForwardReply",
    "ForwardResult",
    "InstallSnapshot",
    "MemberRecord",
    "OutcomeCode",
    "RaftMessage",
    "ReadReply",
    "ReadRequest",
    "RequestVote",
    "SnapshotReply",
    "TimeoutNow",
    "VoteReply",
]

NODE_ID_MAX = (1 << 63) - 1
TERM_MAX = (1 << 62) - 1
"""Terms and indices; a term beyond it is no term."""
BATCH_SIZE_BYTES_MAX = 4 << 20
"""The packed entries of one AppendEntries, or the proposals of one Forward."""
FORWARD_COUNT_MAX = 1024
"""Proposals in one Forward."""
MEMBER_COUNT_MAX = 256
"""Voters and learners of one configuration."""
SNAPSHOT_CHUNK_BYTES_MAX = 1 << 20
SNAPSHOT_SIZE_BYTES_MAX = 1 << 30

NodeNumber = Annotated[int, Between(1, NODE_ID_MAX)]
Term = Annotated[int, Between(0, TERM_MAX)]
Index = Annotated[int, Between(0, TERM_MAX)]


@dataclass(frozen=True, slots=True, kw_only=True)
class RaftMessage(Message):
    """What every message of Raft begins with."""

    PLANE: ClassVar[Plane] = Plane.STREAM

    cluster: Annotated[bytes, Exactly(16)]
    """The cluster's id; another's messages are dropped."""
    source: NodeNumber
    target: NodeNumber
    """For whom it is; anybody else drops it."""
    term: Term
    """The sender's current term; in a pre-vote the one that it would stand for."""


@registered
@dataclass(frozen=True, slots=True, kw_only=True)
class RequestVote(RaftMessage):
    """Candidate to voter: give me your vote for `term`. Answered by VoteReply."""

    TAG: ClassVar[int] = 128

    last_index: Index
    last_term: Term
    pre: bool
    """Only asks whether the vote would be given; nothing changes at the voter (thesis 9.6)."""
    forced: bool = False
    """The leader itself asked for this election (thesis 3.10), so a live leader is no reason to refuse."""


@registered
@dataclass(frozen=True, slots=True, kw_only=True)
class VoteReply(RaftMessage):
    """Voter to candidate: the vote, or not. A pre-vote that is granted repeats the asked term."""

    TAG: ClassVar[int] = 129

    pre: bool
    granted: bool


@registered
@dataclass(frozen=True, slots=True, kw_only=True)
class AppendEntries(RaftMessage):
    """Leader to follower: append these after `prev_index`; none is a heartbeat. Answered by AppendReply."""

    TAG: ClassVar[int] = 130

    prev_index: Index
    prev_term: Term
    commit: Index
    """The leader's commit index; it may lie beyond the entries."""
    round: Index
    """Rises with every heartbeat and read within a term; the reply repeats it (thesis 6.4)."""
    entries: Annotated[bytes, Size(BATCH_SIZE_BYTES_MAX)] = b""
    """Packed by `raft.packing`, once for all followers."""
    wants_reply: bool = True
    """False where the leader only tells its commit index."""


@registered
@dataclass(frozen=True, slots=True, kw_only=True)
class AppendReply(RaftMessage):
    """Follower to leader: my log matches yours up to `index`; or it does not match at `index`.

    When refused, `hint_index` is the last place where the log may match and `hint_term` the term there, so
    that a whole term is stepped over at once (extended paper, end of 5.3).
    """

    TAG: ClassVar[int] = 131

    success: bool
    index: Index
    """What is durable and matches; when refused the `prev_index` that was refused."""
    round: Index
    hint_index: Index = 0
    hint_term: Term = 0
    last_index: Index = 0
    """Where the follower's log ends: one that lost its disk is known by it."""


@registered
@dataclass(frozen=True, slots=True, kw_only=True)
class MemberRecord(Message):
    """One node of a configuration."""

    TAG: ClassVar[int] = 132

    node: NodeNumber
    contact: Contact
    roles: Annotated[int, Between(0, 15)]
    """1 voter, 2 voter of the outgoing half of a joint configuration, 4 learner, 8 learner after the joint
    one."""


@registered
@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigurationRecord(Message):
    """Who belongs to the cluster: the data of a configuration entry, and a part of a snapshot."""

    TAG: ClassVar[int] = 133

    members: Annotated[tuple[MemberRecord, ...], Count(MEMBER_COUNT_MAX)]


@registered
@dataclass(frozen=True, slots=True, kw_only=True)
class InstallSnapshot(RaftMessage):
    """Leader to follower: a chunk of the state at `index`, in place of the entries up to it.

    Answered by SnapshotReply with the offset that is wanted next, so that a broken transfer goes on where it
    was.
    """

    TAG: ClassVar[int] = 134

    index: Index
    index_term: Term
    configuration: ConfigurationRecord
    size_bytes: Annotated[int, Between(0, SNAPSHOT_SIZE_BYTES_MAX)]
    digest: Annotated[bytes, Exactly(16)]
    """BLAKE2b of the whole: what is put together is compared before it is used."""
    offset: Annotated[int, Between(0, SNAPSHOT_SIZE_BYTES_MAX)]
    crc: Annotated[int, Between(0, 0xFFFFFFFF)]
    """CRC-32 of this chunk."""
    data: Annotated[bytes, Size(SNAPSHOT_CHUNK_BYTES_MAX)]
    round: Index

    @property
    def priority(self) -> Priority:
        """Behind everything else: heartbeats must not wait for a snapshot."""
        return Priority.BULK


@registered
@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotReply(RaftMessage):
    """Follower to leader: go on at `offset` with the snapshot of `index`; or it is installed and durable."""

    TAG: ClassVar[int] = 135

    index: Index
    offset: Annotated[int, Between(0, SNAPSHOT_SIZE_BYTES_MAX)]
    installed: bool
    round: Index


@registered
@dataclass(frozen=True, slots=True, kw_only=True)
class TimeoutNow(RaftMessage):
    """Leader to its chosen successor, whose log is complete: stand now (thesis 3.10). Not answered."""

    TAG: ClassVar[int] = 136


@registered
@dataclass(frozen=True, slots=True, kw_only=True)
class Forward(RaftMessage):
    """Follower to the leader of exactly this term: propose these. Answered by ForwardReply.

    A leader of another term refuses it, so a message that was repeated late is never proposed twice.
    """

    TAG: ClassVar[int] = 137

    request: Index
    """Drawn by the follower, never twice in its life; names the batch."""
    proposals: Annotated[bytes, Size(BATCH_SIZE_BYTES_MAX)]
    """Packed by `raft.packing`."""


class OutcomeCode(enum.IntEnum):
    """What became of a proposal, as `ForwardResult.code` says it."""

    COMMITTED = 0
    REFUSED = 1
    """Certainly not committed, and the same again would be refused again."""
    RETRY = 2
    """Certainly not committed; worth another try."""
    UNKNOWN = 3
    """May be committed, now or later."""


@registered
@dataclass(frozen=True, slots=True, kw_only=True)
class ForwardResult(Message):
    """What became of a run of proposals of a Forward that had the same outcome."""

    TAG: ClassVar[int] = 138

    count: Annotated[int, Between(1, FORWARD_COUNT_MAX)]
    code: Annotated[int, Between(0, 3)]
    """An `OutcomeCode`."""
    index: Index = 0
    """Of the first of them, where they are committed; the others follow without a gap."""
    index_term: Term = 0
    reason: Annotated[str, Size(256)] = ""


@registered
@dataclass(frozen=True, slots=True, kw_only=True)
class ForwardReply(RaftMessage):
    """Leader to follower: what became of each proposal of that Forward, in its order."""

    TAG: ClassVar[int] = 139

    request: Index
    results: Annotated[tuple[ForwardResult, ...], Count(FORWARD_COUNT_MAX)]


@registered
@dataclass(frozen=True, slots=True, kw_only=True)
class ReadRequest(RaftMessage):
    """Follower to leader: for which commit index must I wait before I answer reads? Answered by ReadReply."""

    TAG: ClassVar[int] = 140

    request: Index


@registered
@dataclass(frozen=True, slots=True, kw_only=True)
class ReadReply(RaftMessage):
    """Leader to follower: reads are linearizable once `index` is applied; or no answer can be given."""

    TAG: ClassVar[int] = 141

    request: Index
    index: Index
    ok: bool = True
    """False: the receiver of the request leads no more, or has too many reads open. Ask again."""
