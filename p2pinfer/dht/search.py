"""The lookups of one command, which share their questions: many keys are one walk where they can be.

Rules:

1. Whoever is asked about one key is asked about every other key in the same question for which it is among
   the k nearest known, up to what a question holds. In a swarm of k peers any number of keys costs k
   questions for each sixteen of them; in a large network the keys part ways as they near their places.
2. Each key's lookup decides for itself whom it wants and when it is done.
3. A region is searched where a key is surrounded by peers that stand nearer than chance allows: the key space
   around it, wide enough for some k honest peers, is walked from several points, and everybody found there
   counts (SR-DHT-Store, arXiv 2505.01139). Ids ground to one key cannot fill a region.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from p2pinfer.dht.config import DhtConfig
from p2pinfer.dht.keyspace import KEY_SIZE_BITS, prefix_length
from p2pinfer.dht.lookup import Lookup
from p2pinfer.ids import Contact, PeerId
from p2pinfer.wire.messages.dht import KEYS_COUNT_MAX

__all__ = ["Question", "Search", "is_in_region", "region_bits", "region_points"]

_REGION_POINTS_BITS = 2
"""A region is walked from 2 to this power points, each in a part of its own."""

_IN_FLIGHT_COUNT_MAX = 64
"""Questions of one search in flight: a burst of more would not fit the buffer of a socket."""

Question = tuple[Contact, tuple[bytes, ...]]
"""Whom to ask about which keys."""


class Search:
    """Lookups for several keys.

    Invariant: a peer is asked about a key once at most, and about `KEYS_COUNT_MAX` keys in one question.
    """

    def __init__(self, keys: Sequence[bytes], own: PeerId, config: DhtConfig) -> None:
        self.lookups = {key: Lookup(key, own, config) for key in keys}
        self.queries = 0
        """Questions asked, repetitions not counted."""
        self.failed_count = 0
        """Peers that did not answer."""
        self._in_flight: set[tuple[bytes, bytes]] = set()

    @property
    def is_done(self) -> bool:
        """Whether every lookup is."""
        return all(lookup.is_done for lookup in self.lookups.values())

    def choose_next(self) -> list[Question]:
        """Return whom to ask now about what."""
        questions: list[Question] = []
        for key, lookup in self.lookups.items():
            room = _IN_FLIGHT_COUNT_MAX - len(self._in_flight)
            if room <= 0:
                break
            for contact in lookup.choose_next(room):
                questions.append((contact, self._keys_for(contact, key)))
                self._in_flight.add((contact.peer or b"", key))
        self.queries += len(questions)
        return questions

    def add(self, keys: Sequence[bytes], contacts: Sequence[Contact], teller: PeerId) -> bool:
        """Take contacts out of an answer about these keys; say whether one brings any lookup nearer."""
        has_progress = False
        for key in keys:
            if key in self.lookups:
                has_progress |= self.lookups[key].add(contacts, teller)
        return has_progress

    def answered(self, keys: Sequence[bytes], peer: PeerId, *, has_progress: bool) -> None:
        """A peer's answer about these keys is complete."""
        self._in_flight.discard((peer, keys[0]))
        for key in keys:
            if key in self.lookups:
                self.lookups[key].answered(peer, has_progress=has_progress)

    def slow(self, keys: Sequence[bytes], peer: PeerId) -> None:
        """A peer takes longer than usual."""
        self._in_flight.discard((peer, keys[0]))
        for key in keys:
            if key in self.lookups:
                self.lookups[key].slow(peer)

    def failed(self, keys: Sequence[bytes], peer: PeerId) -> None:
        """A peer did not answer about these keys: no lookup waits for it, nor will ask it."""
        self._in_flight.discard((peer, keys[0]))
        self.failed_count += 1
        for lookup in self.lookups.values():
            lookup.failed(peer)

    def _keys_for(self, contact: Contact, first: bytes) -> tuple[bytes, ...]:
        if len(self.lookups) == 1:
            return (first,)
        keys = [first]
        for key, lookup in self.lookups.items():
            if len(keys) == KEYS_COUNT_MAX:
                break
            if key != first and contact.peer is not None and lookup.wants(contact.peer):
                keys.append(key)
        return tuple(keys)


def region_bits(size: float, k: int) -> int:
    """The leading bits that a region's peers share, for a region of k to 2 k in a network of `size`."""
    return max(0, min(int(size / k).bit_length() - 1, KEY_SIZE_BITS - 8))


def region_points(key: bytes, bits: int, rng: random.Random) -> list[bytes]:
    """Draw a point in each part of the region of all keys that share `bits` leading bits with `key`."""
    free_bits = KEY_SIZE_BITS - bits - _REGION_POINTS_BITS
    start = int.from_bytes(key, "big") >> (KEY_SIZE_BITS - bits)
    points = []
    for part in range(1 << _REGION_POINTS_BITS):
        prefix = start << _REGION_POINTS_BITS | part
        points.append((prefix << free_bits | rng.getrandbits(free_bits)).to_bytes(KEY_SIZE_BITS // 8, "big"))
    return points


def is_in_region(peer: PeerId, key: bytes, bits: int) -> bool:
    """Whether a peer stands in the region around a key."""
    return prefix_length(peer, key) >= bits
