"""Balancers that hash: equal keys go to the same member, as long as it may be.

A session with the key of an earlier one finds the cache that was left there; a client finds its member
again. Hashes are BLAKE2b of the bytes, so every peer that knows the same members picks the same one.

Sources: Karger et al., Consistent Hashing and Random Trees, 1997; Mirrokni, Thorup and Zadimoghaddam,
Consistent Hashing with Bounded Loads, 2016; Thaler and Ravishankar, Using Name-Based Mappings to Increase Hit
Rates, 1998 (rendezvous); Schindelhauer and Schomaker, Weighted Distributed Hash Tables, 2005, section 4.
"""

from __future__ import annotations

import bisect
import hashlib
import math
from collections.abc import Collection

from p2pinfer.ids import PeerId
from p2pinfer.inference.balancer import Balancer, BalancingConfig

__all__ = ["ConsistentHash", "Rendezvous"]

_HASH_BITS = 64
_DIGEST_POINTS = 8
"""Points of 64 bits in one BLAKE2b digest."""


class ConsistentHash(Balancer):
    """A ring of points, in proportion to weight; who is full passes the key on to the next on the ring.

    Where one member of n joins or leaves, about 1/n of the keys move: those it takes, or had. No pick takes a
    member above `load_bound` times its part of the sessions under way, rounded up. The parts so rounded are
    more than all sessions together, so there is always room.
    """

    def __init__(self, config: BalancingConfig) -> None:
        super().__init__()
        self._config = config
        self._ring: list[tuple[int, PeerId]] = []
        self._point_counts: dict[PeerId, int] = {}

    def pick(self, key: bytes, now: float, avoid: Collection[PeerId] = ()) -> PeerId | None:
        peers = self._usable(avoid)
        if not peers:
            return None
        weight_sum = sum(self._weights[peer] for peer in peers)
        session_count = sum(self.in_flight(peer) for peer in peers) + 1
        room = self._config.load_bound * session_count / weight_sum
        place = bisect.bisect(self._ring, (_hash(key),))
        while True:
            peer = self._ring[place % len(self._ring)][1]
            if peer not in avoid and self.in_flight(peer) + 1 <= math.ceil(room * self._weights[peer]):
                return peer
            place += 1

    def _changed(self, peer: PeerId) -> None:
        weight = self._weights.get(peer, 0.0)
        count = max(1, round(weight * self._config.ring_points_count)) if weight else 0
        if count == self._point_counts.get(peer, 0):
            return
        self._point_counts[peer] = count
        self._ring = [point for point in self._ring if point[1] != peer]
        self._ring += [(point, peer) for point in _points(peer, count)]
        self._ring.sort()
        if not count:
            del self._point_counts[peer]


class Rendezvous(Balancer):
    """Highest random weight: each member bids for the key, and the best bid wins.

    Only the keys of who leaves move, and a newcomer takes exactly its part, without points to choose. The key
    is the client's address where a client is to keep its member.
    """

    def pick(self, key: bytes, now: float, avoid: Collection[PeerId] = ()) -> PeerId | None:
        return min(self._usable(avoid), key=lambda peer: self._bid(peer, key), default=None)

    def _bid(self, peer: PeerId, key: bytes) -> float:
        """Draw from an exponential distribution of rate `weight`: the least is the peer's by its part."""
        draw = (_hash(key, peer) + 0.5) / 2**_HASH_BITS
        return -math.log(draw) / self._weights[peer]


def _hash(data: bytes, key: bytes = b"") -> int:
    return int.from_bytes(hashlib.blake2b(data, digest_size=_HASH_BITS // 8, key=key).digest(), "big")


def _points(peer: PeerId, count: int) -> list[int]:
    """Return the first `count` places of a peer on the ring; more keep the fewer."""
    size = _HASH_BITS // 8
    points: list[int] = []
    for block in range(-(-count // _DIGEST_POINTS)):
        digest = hashlib.blake2b(block.to_bytes(4, "big"), key=peer).digest()
        points += [int.from_bytes(digest[i : i + size], "big") for i in range(0, len(digest), size)]
    return points[:count]
