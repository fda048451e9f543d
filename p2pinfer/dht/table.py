"""The routing table: buckets by shared prefix, exact nearest contacts, hard to fill with strangers.

Rules:

1. A contact enters as a candidate when it is heard from; others are told of it only after it answered a
   question of ours (discv5's liveness rule). A datagram from it proves its key, not its address.
2. A working contact is never pushed out by a new one: old contacts live longer (Kademlia, section 2.4). New
   ones wait in the bucket's replacement cache. One lost datagram costs nobody a place.
3. The nearest contacts are found by comparing all of them: with 256 buckets that is exact, and quick.

Departs from the paper: buckets stand by prefix length and never split, which is the same set of contacts.
"""

from __future__ import annotations

import heapq
import math
import random
from collections import Counter
from collections.abc import Iterator

from p2pinfer.dht.addresses import Reach, network_group, reach
from p2pinfer.dht.config import DhtConfig
from p2pinfer.dht.contacts import Bucket, TableContact
from p2pinfer.dht.keyspace import choose_key_in_bucket, prefix_length
from p2pinfer.ids import Contact, PeerId

__all__ = ["RoutingTable"]


class RoutingTable:
    """Contacts of one peer.

    Invariant: no bucket holds more than k contacts and 5 k waiting ones; group limits count both.
    """

    def __init__(self, own: PeerId, config: DhtConfig) -> None:
        self._own = own
        self._config = config
        self._buckets: dict[int, Bucket] = {}
        self._known: dict[PeerId, TableContact] = {}
        self._groups: Counter[str] = Counter()
        self._good: dict[int, Contact] | None = None
        """The good contacts by their place in the key space; None where that has to be gathered again."""

    def __len__(self) -> int:
        return sum(len(bucket) for bucket in self._buckets.values())

    def __contains__(self, peer: PeerId) -> bool:
        return peer in self._known

    def __getitem__(self, peer: PeerId) -> TableContact | None:
        return self._known.get(peer)

    @property
    def good_count(self) -> int:
        """Contacts that others may be told of."""
        return sum(contact.is_good for contact in self._contacts())

    @property
    def waiting_count(self) -> int:
        """Contacts in the replacement caches."""
        return len(self._known) - len(self)

    def offer(self, contact: Contact, now: float) -> bool:
        """Take a candidate: somebody was heard from, and may or may not be reachable there.

        Returns:
            Whether it is a new contact with a place, which should be checked.
        """
        peer = self._admissible(contact)
        if peer is None:
            return False
        known = self._known.get(peer)
        if known is not None and (known.is_good or known.contact == contact):
            return False  # a good contact keeps the address where it answers
        if known is not None:
            self._remove(known)
        return self._insert(TableContact(contact), now)

    def confirm(self, contact: Contact, round_trip_s: float, now: float) -> None:
        """A question of ours was answered by this peer, at this endpoint."""
        peer = self._admissible(contact)
        if peer is None:
            return
        known = self._known.get(peer)
        if known is None or known.contact != contact:
            if known is not None:
                self._remove(known)
            known = TableContact(contact)
            known.answered_at = now
            self._make_room(known)
            self._insert(known, now)
        if not known.is_good:
            self._good = None
        known.answered_at = now
        known.failures = 0
        known.retry_at = 0.0
        known.round_trip.add(round_trip_s)
        if known.peer in self._known:
            self._promote(known)

    def fail(self, peer: PeerId, now: float) -> None:
        """A question to this peer was not answered, however often it was repeated."""
        known = self._known.get(peer)
        if known is None:
            return
        limits = self._config.table
        self._good = None
        known.failures += 1
        known.retry_at = now + min(limits.backoff_s * 2.0 ** (known.failures - 1), limits.backoff_s_max)
        bucket = self._bucket(peer, now)
        if known.failures >= limits.failures_forget_count or (
            known.failures >= limits.failures_replace_count and bucket.replacement_nodes
        ):
            self._remove(known)

    def forget(self, peer: PeerId) -> None:
        """Drop a peer that is known to be dead."""
        known = self._known.get(peer)
        if known is not None:
            self._remove(known)

    def nearest(self, key: bytes, count: int, *, but: PeerId | None = None) -> list[Contact]:
        """The good contacts nearest to `key`, nearest first, exactly: what others are told.

        Those that wait for a place count as well: at a full bucket's border they are the true nearest.
        """
        if self._good is None:
            self._good = {known.long_id: known.contact for known in self._known.values() if known.is_good}
        good, target = self._good, int.from_bytes(key, "big")
        near = heapq.nsmallest(count + 1, [place ^ target for place in good])
        contacts = [good[each ^ target] for each in near]
        return [contact for contact in contacts if contact.peer != but][:count]

    def seeds(self, key: bytes, count: int, now: float) -> list[Contact]:
        """The contacts nearest to `key` that a lookup of our own starts from: unchecked ones as well.

        Those in back-off stand in only where there is nobody else: better a doubtful way than none.
        """
        everyone = list(self._known.values())
        usable = [known for known in everyone if known.retry_at <= now] or everyone
        target = int.from_bytes(key, "big")
        return [known.contact for known in sorted(usable, key=lambda known: known.long_id ^ target)[:count]]

    def next_to_check(self, now: float) -> Contact | None:
        """The contact most in need of a ping: never answered first, then the one silent for longest."""
        due = [contact for contact in self._contacts() if self._check_at(contact) <= now]
        return min(due, key=self._check_at).contact if due else None

    @property
    def check_at(self) -> float | None:
        """When the next contact is due to be checked; None for an empty table."""
        return min((self._check_at(contact) for contact in self._contacts()), default=None)

    def touch(self, key: bytes, now: float) -> None:
        """A lookup for `key` begins: its bucket needs no refresh for a while."""
        if key != self._own:
            self._bucket(key, now).touch(now)

    def choose_refresh_keys(self, updated_before: float, rng: random.Random, now: float) -> list[bytes]:
        """A key in every bucket without a lookup since then, out to the one of our nearest neighbour.

        Buckets beyond that are empty because the network has nobody there (Kademlia, section 2.3).
        """
        deepest = max((bucket.prefix for bucket in self._buckets.values() if len(bucket)), default=-1)
        keys = []
        for prefix in range(deepest + 1):
            bucket = self._buckets.get(prefix)
            if bucket is None or bucket.last_updated < updated_before:
                keys.append(choose_key_in_bucket(self._own, prefix, rng))
        return keys

    def _contacts(self) -> Iterator[TableContact]:
        for bucket in self._buckets.values():
            yield from bucket.nodes.values()

    def _check_at(self, contact: TableContact) -> float:
        if contact.failures:
            return contact.retry_at
        return 0.0 if contact.answered_at is None else contact.answered_at + self._config.table.fresh_s

    def _bucket(self, key: bytes, now: float) -> Bucket:
        prefix = prefix_length(self._own, key)
        bucket = self._buckets.get(prefix)
        if bucket is None:
            bucket = self._buckets[prefix] = Bucket(self._own, prefix, self._config.k, now)
            bucket.last_updated = -math.inf  # no lookup has passed through it yet
        return bucket

    def _admissible(self, contact: Contact) -> PeerId | None:
        """Who it is, if it may enter at all."""
        endpoint = contact.endpoint
        if contact.peer == self._own or endpoint.port <= 0 or reach(endpoint.host) is Reach.NOWHERE:
            return None
        return contact.peer

    def _group(self, contact: TableContact) -> str | None:
        host = contact.contact.endpoint.host
        if self._config.table.private_exempt and reach(host) is not Reach.GLOBAL:
            return None
        return network_group(host)

    def _has_room(self, contact: TableContact, bucket: Bucket) -> bool:
        group = self._group(contact)
        if group is None:
            return True
        limits = self._config.table
        in_bucket = sum(self._group(other) == group for other in bucket.everyone())
        return (
            in_bucket < limits.bucket_group_count_max and self._groups[group] < limits.table_group_count_max
        )

    def _make_room(self, contact: TableContact) -> None:
        """Let go of a doubtful contact of the same group where the group is full: a good one is better."""
        bucket = self._bucket(contact.peer, 0.0)
        if self._has_room(contact, bucket):
            return
        group = self._group(contact)
        in_bucket = [other for other in bucket.everyone() if self._group(other) == group]
        if len(in_bucket) < self._config.table.bucket_group_count_max:
            in_bucket = [other for other in self._known.values() if self._group(other) == group]
        doubtful = next((other for other in in_bucket if not other.is_good), None)
        if doubtful is not None:
            self._remove(doubtful)

    def _insert(self, contact: TableContact, now: float) -> bool:
        bucket = self._bucket(contact.peer, now)
        if not self._has_room(contact, bucket):
            return False
        waiting_before = set(bucket.replacement_nodes)
        has_place: bool = bucket.add_node(contact)
        self._known[contact.peer] = contact
        self._good = None
        self._count_group(contact, 1)
        for dropped in waiting_before - set(bucket.replacement_nodes):
            self._count_group(self._known.pop(dropped), -1)  # the replacement cache was full
        return has_place

    def _promote(self, contact: TableContact) -> None:
        """Move a contact that answered to the bucket's tail, or into the place of a doubtful one."""
        bucket = self._bucket(contact.peer, 0.0)
        if bucket.add_node(contact):
            return
        doubtful = next((other for other in bucket.nodes.values() if not other.is_good), None)
        if doubtful is not None:
            self._remove(doubtful)  # the bucket then takes the newest that waits: this contact

    def _remove(self, contact: TableContact) -> None:
        self._bucket(contact.peer, 0.0).remove_node(contact)
        del self._known[contact.peer]
        self._good = None
        self._count_group(contact, -1)

    def _count_group(self, contact: TableContact, change: int) -> None:
        group = self._group(contact)
        if group is not None:
            self._groups[group] += change
            if not self._groups[group]:
                del self._groups[group]
