"""One member as this peer sees it, and the one rule that says which of two claims about it stands.

Rules:

1. Claims about a member are ordered by incarnation first, then by state: alive < suspect < dead < left. Any
   two claims can be compared, so members that heard the same statements in whatever order believe the same.
2. Only the member itself raises its incarnation, by signing a record. An accusation speaks of the incarnation
   that its accuser saw and never runs ahead of a record.

Departures from SWIM (4.2): there "dead" overrides every incarnation, for ever. Here a higher incarnation is
proof of life after that death, so a healed partition and a restart need no new identity (as in memberlist).
"""

from __future__ import annotations

import enum
import hashlib
from dataclasses import dataclass
from typing import NamedTuple

from p2pinfer.ids import Contact, PeerId
from p2pinfer.wire.messages.records import PeerRecord
from p2pinfer.wire.messages.swim import Accusation

__all__ = [
    "MARK_BITS",
    "PREFIX_BITS",
    "Claim",
    "Held",
    "Mark",
    "Member",
    "MemberState",
    "MemberView",
    "Warning",
    "mark_of",
    "supersedes",
]

PREFIX_BITS = 16
MARK_BITS = 62


class MemberState(enum.IntEnum):
    """What is thought of a member; of two claims about one incarnation the greater state stands."""

    ALIVE = 0
    SUSPECT = 1
    DEAD = 2
    LEFT = 3

    @property
    def is_active(self) -> bool:
        """Whether such a member is probed, gossiped to and counted: a suspect is, until it is dead."""
        return self <= MemberState.SUSPECT


class Claim(NamedTuple):
    """A member is said to have been in this state in this incarnation."""

    incarnation: int
    state: MemberState


def supersedes(new: Claim, held: Claim) -> bool:
    """Whether `new` replaces `held`: total, and never true both ways.

    Source: SWIM 4.2, with the departure named above.
    """
    return new > held


class Mark(NamedTuple):
    """A claim about one member as a number, and the first bits of the member's id."""

    prefix: int
    """Of `PREFIX_BITS` bits."""
    number: int
    """Of `MARK_BITS` bits; different claims have different ones, but for chances that do not matter."""


def mark_of(peer: PeerId, claim: Claim) -> Mark:
    """Return what stands for a claim about a member."""
    data = peer + claim.incarnation.to_bytes(8, "big") + bytes((claim.state,))
    digest = hashlib.blake2b(data, digest_size=8).digest()
    return Mark(int.from_bytes(peer[:2], "big"), int.from_bytes(digest, "big") >> (64 - MARK_BITS))


@dataclass(slots=True)
class Member:
    """What is held of one other member.

    Invariant: `accusation` is there exactly where the state is SUSPECT or DEAD, and speaks of the record's
    incarnation.
    """

    record: PeerRecord
    state: MemberState
    since: float
    """When the member came to this state here."""
    accusation: Accusation | None = None
    _marked: tuple[PeerRecord, MemberState, Mark] | None = None

    @property
    def claim(self) -> Claim:
        """The claim that another has to supersede."""
        return Claim(self.record.incarnation, self.state)

    def mark(self, peer: PeerId) -> Mark:
        """What stands for the claim in a state exchange; kept until that changes, for a hash costs more.

        Args:
            peer: The record's owner, which the table knows without hashing a key.
        """
        marked = self._marked
        if marked is None or marked[0] is not self.record or marked[1] is not self.state:
            marked = self._marked = (self.record, self.state, mark_of(peer, self.claim))
        return marked[2]


@dataclass(frozen=True, slots=True)
class MemberView:
    """One member, for whoever asks: a copy that does not change."""

    record: PeerRecord
    state: MemberState


@dataclass(frozen=True, slots=True)
class Held:
    """What is held of one member, this peer included."""

    peer: PeerId
    claim: Claim
    record: PeerRecord
    accusation: Accusation | None = None


@dataclass(frozen=True, slots=True)
class Warning:
    """Somebody is to be told that it is thought suspect or dead."""

    contact: Contact
    word: Accusation
