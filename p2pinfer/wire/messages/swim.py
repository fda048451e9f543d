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
name. What a datagram cannot carry goes over a stream: StateRequest and StateReply exchange everything.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from p2pinfer.effects import Message, Plane, Priority
from p2pinfer.ids import PeerId
from p2pinfer.wire.messages.events import Broadcast
from p2pinfer.wire.messages.records import PeerRecord, Signed
from p2pinfer.wire.schema import Count, Exactly, Size, registered

__all__ = [
    "STATE_ITEMS_COUNT_MAX",
    "Accusation",
    "Ack",
    "Gossip",
    "IndirectAck",
    "Nack",
    "Ping",
    "PingRequest",
    "StateReply",
    "StateRequest",
]

STATE_ITEMS_COUNT_MAX = 16384
"""Records, and accusations, of one state exchange: above every sane `member_count_max`."""
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
class StateRequest(Message):
    """Joining or any other peer to a member: here is all that I know. Answered by StateReply.

    Records that have expired do not travel. Accusations are those behind every suspect and dead member.
    """

    TAG: ClassVar[int] = 23
    PLANE: ClassVar[Plane] = Plane.STREAM

    records: Annotated[tuple[PeerRecord, ...], Count(STATE_ITEMS_COUNT_MAX)]
    accusations: Annotated[tuple[Accusation, ...], Count(STATE_ITEMS_COUNT_MAX)] = ()

    @property
    def priority(self) -> Priority:
        return Priority.PREFILL


@registered
@dataclass(frozen=True, slots=True, kw_only=True)
class StateReply(Message):
    """The other half of a state exchange, taken after the request was merged, so it may answer it."""

    TAG: ClassVar[int] = 24
    PLANE: ClassVar[Plane] = Plane.STREAM

    records: Annotated[tuple[PeerRecord, ...], Count(STATE_ITEMS_COUNT_MAX)]
    accusations: Annotated[tuple[Accusation, ...], Count(STATE_ITEMS_COUNT_MAX)] = ()

    @property
    def priority(self) -> Priority:
        return Priority.PREFILL
