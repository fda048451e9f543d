"""The messages of SWIM: who is alive inside one swarm, and what each says of itself.

    prober                     target                 helper
      |--Ping----------------->|                        |
      |<-Ack-------------------|                        |    or, when no Ack came in time:
      |--PingRequest----------------------------------->|
      |                        |<------------------Ping-|
      |                        |-Ack------------------->|
      |<-IndirectAck, or Nack---------------------------|

Every datagram has room for gossip: records that peers made of themselves, and accusations against peers.
Both are signed by whoever states them, so that any member may pass them on and none can speak in another's
name. What a datagram cannot carry goes over a stream:

    requester                  member
      |--StateRequest(sums)--->|                             sums over what is held, bucket by bucket
      |<-StateReply------------|                             all that the member holds where sums differ
      |--StateRest------------>|                             what the requester holds there, and knows better
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from p2pinfer.effects import Message, Plane, Priority
from p2pinfer.ids import PeerId
from p2pinfer.wire.messages.coordinates import Coordinate
from p2pinfer.wire.messages.events import Broadcast
from p2pinfer.wire.messages.records import METADATA_SIZE_BYTES_MAX, PeerRecord, Signed
from p2pinfer.wire.schema import Between, Count, Exactly, Size, registered

__all__ = [
    "BUCKET_COUNT_MAX",
    "STATE_ITEMS_COUNT_MAX",
    "Accusation",
    "Ack",
    "Gossip",
    "IndirectAck",
    "MetadataReply",
    "MetadataRequest",
    "Nack",
    "Ping",
    "PingRequest",
    "StateReply",
    "StateRequest",
    "StateRest",
    "StreamAck",
    "StreamPing",
]

STATE_ITEMS_COUNT_MAX = 16384
"""Records, and accusations, of one state exchange: above every sane `member_count_max`."""
BUCKET_COUNT_MAX = 4096
"""Four members in each, in a swarm of 16384."""
_GOSSIP_ITEMS_COUNT_MAX = 32
"""Far above what fits: a datagram of 1400 bytes has room for about five records or nine accusations."""


@registered
@dataclass(frozen=True, slots=True, kw_only=True)
class Accusation(Signed):
    """The accuser's signed word that it cannot reach the accused, or that the accused is dead.

    It speaks of one incarnation: the accused refutes it with a record of a higher one.
    """

    TAG: ClassVar[int] = 16

    public_key: Annotated[bytes, Exactly(32)]
    """The accuser's."""
    accused: PeerId
    incarnation: int
    """The incarnation accused; never above that of a record which the accuser has seen."""
    dead: bool = False
    """The suspicion ran out unrefuted: the accuser takes the accused for dead."""
    signature: Annotated[bytes, Size(64)] = b""


@registered
@dataclass(frozen=True, slots=True, kw_only=True)
class Gossip(Message):
    """Any member to any other: news that it may not have. Sent alone and inside probes; not answered."""

    TAG: ClassVar[int] = 17
    PLANE: ClassVar[Plane] = Plane.DATAGRAM

    records: Annotated[tuple[PeerRecord, ...], Count(_GOSSIP_ITEMS_COUNT_MAX)] = ()
    accusations: Annotated[tuple[Accusation, ...], Count(_GOSSIP_ITEMS_COUNT_MAX)] = ()
    broadcasts: Annotated[tuple[Broadcast, ...], Count(_GOSSIP_ITEMS_COUNT_MAX)] = ()
    """What applications tell and ask: see the module events."""


@registered
@dataclass(frozen=True, slots=True, kw_only=True)
class Ping(Message):
    """Prober or helper to target: do you live? Answered by an Ack with the same sequence.

    To a member thought suspect or dead it carries that accusation first, so that it can refute at once.
    """

    TAG: ClassVar[int] = 18
    PLANE: ClassVar[Plane] = Plane.DATAGRAM

    sequence: int
    gossip: Gossip


@registered
@dataclass(frozen=True, slots=True, kw_only=True)
class Ack(Message):
    """Target to prober or helper: I live. To a peer thought suspect or dead it carries that accusation."""

    TAG: ClassVar[int] = 19
    PLANE: ClassVar[Plane] = Plane.DATAGRAM

    sequence: int
    gossip: Gossip
    coordinate: Coordinate | None = None
    """Where the target stands now: with the round trip, the prober learns where it stands itself."""


@registered
@dataclass(frozen=True, slots=True, kw_only=True)
class PingRequest(Message):
    """Prober to helper: ping `target` for me. Answered by IndirectAck, or by Nack if it stays silent.

    The target is named and not addressed: a helper pings the endpoint in the record that it holds, so that
    nobody can aim a helper at a stranger.
    """

    TAG: ClassVar[int] = 20
    PLANE: ClassVar[Plane] = Plane.DATAGRAM

    sequence: int
    target: PeerId


@registered
@dataclass(frozen=True, slots=True, kw_only=True)
class IndirectAck(Message):
    """Helper to prober: the target of the PingRequest with this sequence answered me."""

    TAG: ClassVar[int] = 21
    PLANE: ClassVar[Plane] = Plane.DATAGRAM

    sequence: int


@registered
@dataclass(frozen=True, slots=True, kw_only=True)
class Nack(Message):
    """Helper to prober: the target has not answered me, but you can be heard and I am well."""

    TAG: ClassVar[int] = 22
    PLANE: ClassVar[Plane] = Plane.DATAGRAM

    sequence: int


@registered
@dataclass(frozen=True, slots=True, kw_only=True)
class StreamPing(Message):
    """Prober to target, over a stream: no datagram of yours came back. Answered by StreamAck."""

    TAG: ClassVar[int] = 26
    PLANE: ClassVar[Plane] = Plane.STREAM

    sequence: int


@registered
@dataclass(frozen=True, slots=True, kw_only=True)
class StreamAck(Message):
    """Target to prober: I live, whatever became of the datagrams."""

    TAG: ClassVar[int] = 27
    PLANE: ClassVar[Plane] = Plane.STREAM

    sequence: int


@registered
@dataclass(frozen=True, slots=True, kw_only=True)
class StateRequest(Message):
    """Joining or any other peer to a member: what do you know that I do not? Answered by StateReply.

    Members fall into buckets by the first bits of their ids. A sum goes over what is held of those in a
    bucket, so two peers that hold the same have the same sums, and nothing else need travel.
    """

    TAG: ClassVar[int] = 23
    PLANE: ClassVar[Plane] = Plane.STREAM

    records: Annotated[tuple[PeerRecord, ...], Count(1)] = ()
    """The requester's own."""
    sums: Annotated[tuple[int, ...], Count(BUCKET_COUNT_MAX)] = (0,)
    """Of each bucket in their order: a power of two of them. 0 for an empty one."""

    @property
    def priority(self) -> Priority:
        return Priority.PREFILL


@registered
@dataclass(frozen=True, slots=True, kw_only=True)
class StateReply(Message):
    """All that the other member holds in the buckets whose sums differ. Answered by StateRest.

    Records that have expired do not travel. Accusations are those behind every suspect and dead member.
    """

    TAG: ClassVar[int] = 24
    PLANE: ClassVar[Plane] = Plane.STREAM

    records: Annotated[tuple[PeerRecord, ...], Count(STATE_ITEMS_COUNT_MAX)]
    accusations: Annotated[tuple[Accusation, ...], Count(STATE_ITEMS_COUNT_MAX)] = ()
    bucket_count: Annotated[int, Between(1, BUCKET_COUNT_MAX)] = 1
    """How many there were in the request."""
    wanted: Annotated[tuple[int, ...], Count(BUCKET_COUNT_MAX)] = ()
    """The buckets that differ, by index."""

    @property
    def priority(self) -> Priority:
        return Priority.PREFILL


@registered
@dataclass(frozen=True, slots=True, kw_only=True)
class StateRest(Message):
    """The requester's side of the buckets that differ, less what the reply had as new or newer."""

    TAG: ClassVar[int] = 28
    PLANE: ClassVar[Plane] = Plane.STREAM

    records: Annotated[tuple[PeerRecord, ...], Count(STATE_ITEMS_COUNT_MAX)]
    accusations: Annotated[tuple[Accusation, ...], Count(STATE_ITEMS_COUNT_MAX)] = ()

    @property
    def priority(self) -> Priority:
        return Priority.PREFILL


@registered
@dataclass(frozen=True, slots=True, kw_only=True)
class MetadataRequest(Message):
    """Any member to another: what is it that your record has this digest of? Answered by MetadataReply."""

    TAG: ClassVar[int] = 29
    PLANE: ClassVar[Plane] = Plane.STREAM

    digest: Annotated[bytes, Exactly(32)]

    @property
    def priority(self) -> Priority:
        return Priority.BULK


@registered
@dataclass(frozen=True, slots=True, kw_only=True)
class MetadataReply(Message):
    """The owner's metadata; empty where its record says something else by now."""

    TAG: ClassVar[int] = 30
    PLANE: ClassVar[Plane] = Plane.STREAM

    digest: Annotated[bytes, Exactly(32)]
    data: Annotated[bytes, Size(METADATA_SIZE_BYTES_MAX)] = b""

    @property
    def priority(self) -> Priority:
        return Priority.BULK
