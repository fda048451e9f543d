"""The contacts that answer, arranged for one question: how far from a key does this peer stand among them?

A contact that shares exactly p leading bits with this peer is nearer to a key than this peer if, and only if,
the key differs from this peer's id at bit p: that is where the two distances first differ. So the contacts
nearer to a key are counted by adding up whole buckets, without comparing any distance.

Source: Kademlia, section 2.1 (the XOR metric); the rest follows from it and is held against a dumb twin.
"""

from __future__ import annotations

from collections.abc import Container, Iterator

from p2pinfer.dht.keyspace import KEY_SIZE_BITS
from p2pinfer.ids import Contact, PeerId

__all__ = ["Neighbours"]


class Neighbours:
    """Contacts of one peer by shared prefix.

    Invariant: at most `per_bucket_count_max` stand in a bucket, of which there are 256 at most.
    """

    def __init__(self, own: PeerId, per_bucket_count_max: int) -> None:
        self._own = int.from_bytes(own, "big")
        self._per_bucket_count_max = per_bucket_count_max
        self._buckets: dict[int, dict[PeerId, Contact]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._buckets.values()))

    def __iter__(self) -> Iterator[PeerId]:
        for bucket in self._buckets.values():
            yield from bucket

    def __getitem__(self, peer: PeerId) -> Contact | None:
        bucket = self._buckets.get(self.prefix(peer))
        return bucket.get(peer) if bucket else None

    def prefix(self, peer: bytes) -> int:
        """Leading bits that an id or a key shares with this peer."""
        return KEY_SIZE_BITS - self.distance(peer).bit_length()

    def distance(self, key: bytes) -> int:
        """From this peer to a key or an id."""
        return int.from_bytes(key, "big") ^ self._own

    def add(self, contact: Contact) -> bool:
        """Take a contact, or its new address; say whether it is a new one that has room."""
        peer = contact.peer
        prefix = KEY_SIZE_BITS if peer is None else self.prefix(peer)
        if peer is None or prefix == KEY_SIZE_BITS:  # nobody, or this peer itself
            return False
        bucket = self._buckets.setdefault(prefix, {})
        is_new = peer not in bucket
        if is_new and len(bucket) >= self._per_bucket_count_max:
            return False
        bucket[peer] = contact
        return is_new

    def remove(self, peer: PeerId) -> bool:
        """Let go of a contact; say whether it was here."""
        prefix = self.prefix(peer)
        bucket = self._buckets.get(prefix, {})
        if bucket.pop(peer, None) is None:
            return False
        if not bucket:
            del self._buckets[prefix]
        return True

    def nearer_count(self, key: bytes) -> int:
        """How many contacts are nearer to a key than this peer."""
        distance = self.distance(key)
        return sum(len(bucket) for prefix, bucket in self._buckets.items() if _differs(distance, prefix))

    def deeper_count(self, prefix: int) -> int:
        """How many contacts share more than `prefix` leading bits with this peer."""
        return sum(len(bucket) for other, bucket in self._buckets.items() if other > prefix)

    def has_others(self, prefix: int, but: Container[PeerId]) -> bool:
        """Whether anybody shares exactly `prefix` leading bits with this peer, some left out."""
        return any(peer not in but for peer in self._buckets.get(prefix, ()))

    def bits_taken(self, but: Container[PeerId] = ()) -> int:
        """A number with a bit for each bucket that has anybody, some peers left out.

        This peer is the nearest of all to a key whose distance from it has none of these bits.
        """
        bits = 0
        for prefix in self._buckets:
            if self.has_others(prefix, but):
                bits |= 1 << (KEY_SIZE_BITS - 1 - prefix)
        return bits

    def nearest(self, key: bytes, count: int) -> list[Contact]:
        """The contacts nearest to a key, nearest first, exactly.

        Buckets come in the order of their distance: those nearer than this peer, the ones that share least
        with it first; then the others, the ones that share most first. Only the last one may be cut.
        """
        distance, target = self.distance(key), int.from_bytes(key, "big")
        nearer = sorted(prefix for prefix in self._buckets if _differs(distance, prefix))
        farther = sorted((prefix for prefix in self._buckets if not _differs(distance, prefix)), reverse=True)
        found: list[Contact] = []
        for prefix in (*nearer, *farther):
            if len(found) >= count:
                break
            bucket = self._buckets[prefix]
            places = sorted((int.from_bytes(peer, "big") ^ target, peer) for peer in bucket)
            found += [bucket[peer] for _, peer in places]
        return found[:count]


def _differs(distance: int, prefix: int) -> bool:
    return bool(distance >> (KEY_SIZE_BITS - 1 - prefix) & 1)
