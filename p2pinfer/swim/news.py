"""What the membership tells the rest of the peer, each inside a `Notify`."""

from __future__ import annotations

from dataclasses import dataclass

from p2pinfer.ids import Endpoint, PeerId
from p2pinfer.wire.messages.records import PeerRecord

__all__ = [
    "DatagramsLost",
    "EventHeard",
    "IdentityConflict",
    "JoinFailed",
    "Joined",
    "MemberDead",
    "MemberJoined",
    "MemberLeft",
    "MemberSuspected",
    "MemberUpdated",
    "MetadataFailed",
    "MetadataRead",
    "News",
    "QueryAcked",
    "QueryAnswered",
    "QueryAsked",
    "QueryEnded",
    "QueryId",
    "RoundTrip",
]


@dataclass(frozen=True, slots=True)
class MemberJoined:
    """A member that was unknown, dead or gone is alive."""

    record: PeerRecord


@dataclass(frozen=True, slots=True)
class MemberUpdated:
    """A live member made a new record: another holding, another endpoint, a renewal or a refutation."""

    record: PeerRecord


@dataclass(frozen=True, slots=True)
class MemberSuspected:
    """A member does not answer. It may yet refute, which is told as MemberUpdated."""

    peer: PeerId


@dataclass(frozen=True, slots=True)
class MemberDead:
    """A suspicion ran out, here or elsewhere: the member is taken for dead."""

    peer: PeerId


@dataclass(frozen=True, slots=True)
class MemberLeft:
    """A member said itself that it leaves."""

    peer: PeerId


@dataclass(frozen=True, slots=True)
class RoundTrip:
    """A member answered a probe directly after this many seconds."""

    peer: PeerId
    seconds: float


@dataclass(frozen=True, slots=True)
class Joined:
    """First contact with the swarm was made; `member_count` counts live members, this peer included."""

    member_count: int


@dataclass(frozen=True, slots=True)
class JoinFailed:
    """An endpoint given to `join` could not be reached. It is tried again later without being asked."""

    endpoint: Endpoint
    reason: str


@dataclass(frozen=True, slots=True)
class DatagramsLost:
    """A member answered over a stream to whom datagrams go unanswered: a firewall may let TCP alone pass."""

    peer: PeerId


@dataclass(frozen=True, slots=True)
class IdentityConflict:
    """A newer record with this peer's own key names another endpoint: a second process runs with the key."""

    endpoint: Endpoint


@dataclass(frozen=True, slots=True)
class MetadataRead:
    """What a member says of itself beyond its record; empty if nothing."""

    peer: PeerId
    data: bytes


@dataclass(frozen=True, slots=True)
class MetadataFailed:
    """A member's metadata could not be read; the reason is for people."""

    peer: PeerId
    reason: str


@dataclass(frozen=True, slots=True)
class EventHeard:
    """A member broadcast an event; those of one sender come in its order, this peer's own included.

    Attributes:
        sender: Whose event it is; it was signed by that peer, whoever passed it on.
        name: The kind of event.
        payload: Its content.
        time_us: Its Lamport time: an event that was caused by another has the higher one.
    """

    sender: PeerId
    name: str
    payload: bytes
    time_us: int


@dataclass(frozen=True, slots=True, order=True)
class QueryId:
    """Names a query: who asks, and the number that the query has among its broadcasts."""

    asker: PeerId
    sequence: int


@dataclass(frozen=True, slots=True)
class QueryAsked:
    """A member asks the application here, which answers with the core's command `answer` until `ends_at`."""

    query: QueryId
    name: str
    payload: bytes
    ends_at: float


@dataclass(frozen=True, slots=True)
class QueryAcked:
    """A peer says that it was asked, where the query wanted to know that."""

    query: QueryId
    peer: PeerId


@dataclass(frozen=True, slots=True)
class QueryAnswered:
    """A peer answered a query of this one; the first answer of each is told."""

    query: QueryId
    peer: PeerId
    payload: bytes


@dataclass(frozen=True, slots=True)
class QueryEnded:
    """No more answers come to a query of this peer; `silent` were asked, live, and did not answer in time."""

    query: QueryId
    silent: tuple[PeerId, ...]


News = (
    MemberJoined
    | MemberUpdated
    | MemberSuspected
    | MemberDead
    | MemberLeft
    | RoundTrip
    | Joined
    | JoinFailed
    | DatagramsLost
    | IdentityConflict
    | MetadataRead
    | MetadataFailed
    | EventHeard
    | QueryAsked
    | QueryAcked
    | QueryAnswered
    | QueryEnded
)
