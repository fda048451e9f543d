"""What Raft tells the application that uses it, each inside a `Deliver`."""

from __future__ import annotations

from dataclasses import dataclass

from p2pinfer.raft.types import Configuration, Entry, NodeId, Snapshot

__all__ = [
    "BecameLeader",
    "Committed",
    "CommittedAt",
    "ConfigurationChanged",
    "LeaderChanged",
    "LogLost",
    "News",
    "Outcome",
    "ProposalDone",
    "ReadFailed",
    "ReadReady",
    "Refused",
    "SnapshotInstalled",
    "SteppedDown",
    "TransferDone",
    "Unknown",
]


@dataclass(frozen=True, slots=True)
class BecameLeader:
    """This node leads from now on; it serves reads once its first entry is committed."""

    term: int


@dataclass(frozen=True, slots=True)
class SteppedDown:
    """This node led and does not any more; the reason is for people."""

    term: int
    reason: str


@dataclass(frozen=True, slots=True)
class LeaderChanged:
    """Whom this node follows; None while it knows of no leader."""

    leader: NodeId | None
    term: int


@dataclass(frozen=True, slots=True)
class Committed:
    """Entries to apply, in order and without a gap, each exactly once in a process.

    After a restart those between the snapshot and the commit index come again. NOOP and CONFIGURATION entries
    are among them, so that whoever counts has every index.
    """

    entries: tuple[Entry, ...]


@dataclass(frozen=True, slots=True)
class SnapshotInstalled:
    """Replace the whole state by this one; later `Committed` follow on its index."""

    snapshot: Snapshot


@dataclass(frozen=True, slots=True)
class ConfigurationChanged:
    """Another configuration is in force here. It is final once `is_committed`, and not joint."""

    configuration: Configuration
    index: int
    is_committed: bool


@dataclass(frozen=True, slots=True)
class CommittedAt:
    """The proposal is committed: its result is known when the entry at `index` is applied."""

    index: int
    term: int


@dataclass(frozen=True, slots=True)
class Refused:
    """The proposal is certainly not committed and never will be; `retry` says if trying again makes sense."""

    reason: str
    retry: bool


@dataclass(frozen=True, slots=True)
class Unknown:
    """The proposal may be committed, now or later. Only a session makes it safe to try again."""

    reason: str


Outcome = CommittedAt | Refused | Unknown


@dataclass(frozen=True, slots=True)
class ProposalDone:
    """What became of a proposal or of a change of the membership. Comes exactly once for each."""

    request: int
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class ReadReady:
    """A read is linearizable now: everything up to `index` was handed out before as `Committed`."""

    request: int
    index: int


@dataclass(frozen=True, slots=True)
class ReadFailed:
    """A read could not be confirmed; nothing changed, so it can always be asked again."""

    request: int
    reason: str


@dataclass(frozen=True, slots=True)
class TransferDone:
    """A transfer of the leadership ended; the reason is empty if it worked."""

    target: NodeId
    reason: str = ""


@dataclass(frozen=True, slots=True)
class LogLost:
    """A follower no longer has what it had acknowledged: its disk was wiped or set back, and its id kept.

    What it promised is void, so it gets nothing and counts for nothing until it is removed from the
    configuration; it may come back under a fresh id.
    """

    node: NodeId


News = (
    BecameLeader
    | SteppedDown
    | LeaderChanged
    | Committed
    | SnapshotInstalled
    | ConfigurationChanged
    | ProposalDone
    | ReadReady
    | ReadFailed
    | TransferDone
    | LogLost
)
