"""Version vectors: which of two versions was edited in knowledge of the other, if either was.

Rules:

1. Every peer counts its own edits and nobody else's. A version's vector says, for each peer, how many of its
   edits are in it.
2. One vector is at or before another if no count in it is higher: a partial order. Where neither is, the two
   versions were edited without knowledge of each other, and somebody must decide; no clock of a wall can.
3. Merging takes the higher count of each peer: the least vector that both are at or before.

Source: Parker et al., "Detection of Mutual Inconsistency in Distributed Systems", 1983.
"""

from __future__ import annotations

import enum
import itertools
from collections.abc import Iterable
from dataclasses import dataclass

from p2pinfer.ids import PeerId
from p2pinfer.wire.messages.metadata_values import VectorCount

__all__ = ["Order", "VersionVector"]


class Order(enum.Enum):
    """How one vector stands to another."""

    EQUAL = "equal"
    BEFORE = "before"
    AFTER = "after"
    CONCURRENT = "concurrent"


@dataclass(frozen=True, slots=True)
class VersionVector:
    """Counts by peer, sorted by peer; a peer without edits is not there."""

    counts: tuple[tuple[PeerId, int], ...] = ()

    @classmethod
    def of(cls, parts: Iterable[VectorCount]) -> VersionVector:
        """Read a vector from its form in a message.

        Raises:
            ValueError: It is not sorted by peer, or names one twice.
        """
        counts = tuple((part.actor, part.count) for part in parts)
        if any(one[0] >= other[0] for one, other in itertools.pairwise(counts)):
            raise ValueError("a version vector is sorted by peer and names each once")
        return cls(counts)

    @property
    def parts(self) -> tuple[VectorCount, ...]:
        """The vector in the form of a message."""
        return tuple(VectorCount(actor, count) for actor, count in self.counts)

    def count_of(self, actor: PeerId) -> int:
        """How many edits of this peer are known."""
        return dict(self.counts).get(actor, 0)

    def advance(self, actor: PeerId, last: int = 0) -> VersionVector:
        """Return the vector of the next edit that this peer makes in knowledge of this vector.

        Args:
            actor: The peer.
            last: Its last count on this model, where that is higher than what the vector knows.
        """
        counts = dict(self.counts)
        counts[actor] = max(counts.get(actor, 0), last) + 1
        return VersionVector(tuple(sorted(counts.items())))

    def merge(self, other: VersionVector) -> VersionVector:
        """Return the least vector that this and the other are both at or before."""
        counts = dict(self.counts)
        for actor, count in other.counts:
            counts[actor] = max(counts.get(actor, 0), count)
        return VersionVector(tuple(sorted(counts.items())))

    def is_within(self, other: VersionVector) -> bool:
        """Whether every edit in this vector is in the other as well."""
        theirs = dict(other.counts)
        return all(count <= theirs.get(actor, 0) for actor, count in self.counts)

    def compare(self, other: VersionVector) -> Order:
        """Say how this vector stands to the other."""
        within, around = self.is_within(other), other.is_within(self)
        if within and around:
            return Order.EQUAL
        if within:
            return Order.BEFORE
        return Order.AFTER if around else Order.CONCURRENT
