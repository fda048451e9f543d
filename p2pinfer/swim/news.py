"""What the membership tells the rest of the peer, each inside a `Notify`."""

from __future__ import annotations

from dataclasses import dataclass

from p2pinfer.ids import Endpoint, PeerId
from p2pinfer.wire.messages.records import PeerRecord

__all__ = [
    "DatagramsLost",
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
)
