"""What applications tell and ask everybody in a swarm: events, queries and the answers to them.

    asker                        any member
      |~~Query, with gossip~~~~~~~>|            as fast as any news, through whoever is between them
      |<-QueryReply(is_ack)--------|            it was asked, where the asker wants to know that
      |<-QueryReply----------------|            what the application there answers

    any member                   another
      |--BroadcastDigest---------->|            what gossip brought me lately
      |<-Gossip(broadcasts)--------|            what it did not bring you
      |<-BroadcastDigest-----------|            what you may have for me

Events and queries are signed by whose they are, so that any member may pass them on and none can speak in
another's name. Those of one sender are numbered in one row and heard in that order.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from p2pinfer.effects import Message, Plane
from p2pinfer.ids import PeerId
from p2pinfer.wire.messages.records import PeerRecord, Signed
from p2pinfer.wire.schema import Between, Count, Exactly, Size, registered

__all__ = [
    "ANSWER_SIZE_BYTES_MAX",
    "DIGEST_COUNT_MAX",
    "FILTER_PEERS_COUNT_MAX",
    "KEPT_COUNT_MAX",
    "LIFETIME_MS_MAX",
    "NAME_SIZE_BYTES_MAX",
    "PAYLOAD_SIZE_BYTES_MAX",
    "RECENT_COUNT_MAX",
    "Broadcast",
    "BroadcastDigest",
    "HeardUpTo",
    "Query",
    "QueryFilter",
    "QueryReply",
    "UserEvent",
]

NAME_SIZE_BYTES_MAX = 64
PAYLOAD_SIZE_BYTES_MAX = 512
"""Of an event or a query: with key, name and signature it fits the smallest datagram. serf has 512."""
ANSWER_SIZE_BYTES_MAX = 1024
"""Of an answer, as in serf; the datagram that carries it may leave less."""
RECENT_COUNT_MAX = 63
KEPT_COUNT_MAX = 511
FILTER_PEERS_COUNT_MAX = 16
LIFETIME_MS_MAX = 600_000
DIGEST_COUNT_MAX = 16
"""Senders in a digest, at 45 bytes each."""


@registered
@dataclass(frozen=True, slots=True, kw_only=True)
class UserEvent(Signed):
    """A member tells its application's news to the applications of all members. Not answered.

    Void a minute after `time_us`, whoever passes it on.
    """

    TAG: ClassVar[int] = 40

    public_key: Annotated[bytes, Exactly(32)]
    sequence: int
    """Of the sender's broadcasts: each has one more than the one before. The first has the clock's
    milliseconds, so that a sender that was started again goes on above its earlier self."""
    time_us: int
    """Lamport time: the sender's clock in microseconds since the Unix epoch, or more where it has heard a
    broadcast with a later one. What was said in knowledge of another broadcast has the higher time."""
    recent: Annotated[int, Between(0, RECENT_COUNT_MAX)]
    """How many of the sender's broadcasts just before this may still be on their way: a newcomer waits for
    these, and for none before."""
    kept: Annotated[int, Between(0, KEPT_COUNT_MAX)]
    """How many of them others still keep: who has been there for longer waits for these."""
    name: Annotated[str, Size(NAME_SIZE_BYTES_MAX)]
    """The kind of event, as applications agreed among themselves."""
    payload: Annotated[bytes, Size(PAYLOAD_SIZE_BYTES_MAX)]
    signature: Annotated[bytes, Size(64)] = b""


@registered
@dataclass(frozen=True, slots=True, kw_only=True)
class QueryFilter(Message):
    """Whom a query is for: every member of which all holds that is said here; nothing said means all."""

    TAG: ClassVar[int] = 41

    peers: Annotated[tuple[PeerId, ...], Count(FILTER_PEERS_COUNT_MAX)] = ()
    """These and no others."""
    name_prefix: Annotated[str, Size(63)] = ""
    """Peers whose name begins like that."""
    model: Annotated[str, Size(128)] = ""
    """Peers that hold layers of the model of this name and tag."""

    def matches(self, peer: PeerId, record: PeerRecord) -> bool:
        """Whether the query is for `peer`, which says `record` of itself."""
        if self.peers and peer not in self.peers:
            return False
        holds = not self.model or (record.holding is not None and record.holding.model == self.model)
        return holds and record.name.startswith(self.name_prefix)


@registered
@dataclass(frozen=True, slots=True, kw_only=True)
class Query(Signed):
    """A member asks the applications of other members. Answered by QueryReply, straight to the asker.

    All members pass it on, whomever it is for. The fields that an event has as well mean the same here.
    """

    TAG: ClassVar[int] = 42

    public_key: Annotated[bytes, Exactly(32)]
    sequence: int
    """With the asker it names the query."""
    time_us: int
    recent: Annotated[int, Between(0, RECENT_COUNT_MAX)]
    kept: Annotated[int, Between(0, KEPT_COUNT_MAX)]
    name: Annotated[str, Size(NAME_SIZE_BYTES_MAX)]
    payload: Annotated[bytes, Size(PAYLOAD_SIZE_BYTES_MAX)]
    to: QueryFilter
    lifetime_ms: Annotated[int, Between(1, LIFETIME_MS_MAX)]
    """How long an answer is wanted, counted by everybody from when it heard the query: clocks may differ
    by more than that."""
    wants_ack: bool = False
    """Whoever is asked says so at once, before its application has an answer."""
    signature: Annotated[bytes, Size(64)] = b""


@registered
@dataclass(frozen=True, slots=True, kw_only=True)
class QueryReply(Message):
    """Who was asked to the asker: its answer, or that it was asked. Not answered; the first one counts."""

    TAG: ClassVar[int] = 43
    PLANE: ClassVar[Plane] = Plane.DATAGRAM

    sequence: int
    """Of the query; its asker is whom this is sent to."""
    payload: Annotated[bytes, Size(ANSWER_SIZE_BYTES_MAX)] = b""
    is_ack: bool = False


@registered
@dataclass(frozen=True, slots=True, kw_only=True)
class HeardUpTo(Message):
    """Of this sender all broadcasts below `next` were heard, or are not wanted any more."""

    TAG: ClassVar[int] = 44

    peer: PeerId
    next: int


@registered
@dataclass(frozen=True, slots=True, kw_only=True)
class BroadcastDigest(Message):
    """Any member to another: what I heard lately. Answered by what I lack and, if you do, by your digest."""

    TAG: ClassVar[int] = 45
    PLANE: ClassVar[Plane] = Plane.DATAGRAM

    heard: Annotated[tuple[HeardUpTo, ...], Count(DIGEST_COUNT_MAX)]
    window_ms: Annotated[int, Between(0, LIFETIME_MS_MAX)]
    """Send me what you have heard for the first time within so long: I have not been here for longer."""
    is_whole: bool
    """Of senders that are not listed nothing was heard lately; else there was no room for them."""
    is_answer: bool = False
    """Do not answer with a digest again."""


Broadcast = UserEvent | Query
"""What travels with gossip for applications."""
