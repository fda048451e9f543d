"""The routing table: buckets by shared prefix, exact nearest contacts, hard to fill with strangers.

Rules:

1. Others are told of a contact only after it answered us, or showed a token that we sent to its address
   (discv5's liveness rule): a datagram from it proves its key, not its address.
2. A working contact is never pushed out by a new one: old contacts live longer (Kademlia, section 2.4). New
   ones wait in the bucket's replacement cache, where a good one goes for no doubtful one either. One lost
   datagram, or ten at once, cost nobody a place: only failures after a back-off add up.
3. The nearest contacts are exact: those of the whole table, not of the buckets around a key (`places.py`).

Departs from the paper: buckets stand by prefix length and never split, which is the same set of contacts.
"""

from __future__ import annotations

import heapq
import math
import random
from collections import Counter

from p2pinfer.dht.addresses import Reach, counted_group, reach
from p2pinfer.dht.config import DhtConfig
from p2pinfer.dht.contacts import Bucket, TableContact
from p2pinfer.dht.keyspace import choose_key_in_bucket, prefix_length
from p2pinfer.dht.places import Places
from p2pinfer.ids import Contact, PeerId
from p2pinfer.puzzle import fits

__all__ = ["CHECK_S_MAX", "RoutingTable"]

CHECK_S_MAX = 60.0
"""How long a check may take before the contact is due again, seconds: no question is repeated for longer."""
_PLANS_PER_CONTACT = 4
"""Plans of checks kept for each contact, outdated ones included, before they are made anew."""


class RoutingTable:
    """Contacts of one peer.

    Invariant: no bucket holds more than k contacts and 5 k waiting ones; group limits count both. `_everyone`
    has all of `_known`, and `_good` the good ones among them.
    """

    def __init__(self, own: PeerId, config: DhtConfig) -> None:
        self.own = own
        self._config = config
        self._buckets: dict[int, Bucket] = {}
        self._known: dict[PeerId, TableContact] = {}
        self._groups: Counter[str] = Counter()
        self._everyone = Places()
        self._good = Places()
        self._failing: set[PeerId] = set()
        self._checks: list[tuple[float, int, TableContact]] = []
        self._checks_count = 0

    def __len__(self) -> int:
        return sum(map(len, self._buckets.values()))

    def __contains__(self, peer: PeerId) -> bool:
        return peer in self._known

    def __getitem__(self, peer: PeerId) -> TableContact | None:
        return self._known.get(peer)

    @property
    def good_count(self) -> int:
        """Contacts that others may be told of."""
        return len(self._good)

    @property
    def bucket_count(self) -> int:
        """Buckets that have contacts."""
        return sum(bool(len(bucket)) for bucket in self._buckets.values())

    @property
    def known_count(self) -> int:
        """Contacts, and those that wait for a place in the replacement caches."""
        return len(self._known)

    def offer(self, contact: Contact, now: float) -> bool:
        """Take a candidate: somebody was heard from, and may or may not be reachable there.

        Returns:
            Whether somebody should be checked for it soon.
        """
        known = None if contact.peer is None else self._known.get(contact.peer)
        if known is not None and known.contact == contact:
            return False
        if not self._is_admissible(contact):
            return False
        if known is not None and known.is_good:
            # A good contact keeps the address where it answers, until it has answered from the other.
            known.moved_to = contact
            self._plan(known)
            return True
        candidate = TableContact(contact, self._group_of(contact))
        if known is None:
            return self._insert(candidate, now)
        return self._move(known, candidate, now) and candidate.peer in self._bucket(candidate.peer, now).nodes

    def confirm(self, contact: Contact, round_trip_s: float | None, now: float) -> None:
        """A question of ours was answered by this peer, at this endpoint, after a time if that is known."""
        known = None if contact.peer is None else self._known.get(contact.peer)
        if known is None or known.contact != contact:
            if not self._is_admissible(contact):
                return
            fresh = TableContact(contact, self._group_of(contact))
            fresh.answered_at = now
            if known is None:
                self._make_room(fresh, now)
                self._insert(fresh, now)
            else:
                self._move(known, fresh, now)
            if self._known.get(fresh.peer) is not fresh:
                return  # no room; whoever has answered from elsewhere stays there
            known = fresh
        known.answered_at = now
        known.failures = 0
        known.moved_to = None
        known.retry_at = known.checked_until = 0.0
        known.is_stale = False
        if round_trip_s is not None:
            known.round_trip.add(round_trip_s)
        self._failing.discard(known.peer)
        self._good.put(known.long_id, known.contact)
        self._promote(known, now)
        self._plan(known)

    def fail(self, contact: Contact, now: float) -> None:
        """A question to this contact was not answered, however often it was repeated.

        While it is left alone nothing counts: questions that were on their way together fail together. Nor
        does it count elsewhere than where the table has it: else a liar who tells of good contacts at wrong
        addresses would push them out.
        """
        known = None if contact.peer is None else self._known.get(contact.peer)
        if known is None or now < known.retry_at or known.contact.endpoint != contact.endpoint:
            return
        peer = known.peer
        limits = self._config.table
        known.failures += 1
        known.retry_at = now + min(limits.backoff_s * 2.0 ** (known.failures - 1), limits.backoff_s_max)
        known.checked_until = 0.0
        self._failing.add(peer)
        self._good.remove(known.long_id)
        waiting = self._bucket(peer, now).replacement_nodes
        if known.failures >= limits.failures_forget_count or (
            known.failures >= limits.failures_replace_count
            and (peer in waiting or any(not each.failures for each in waiting.values()))
        ):
            self._remove(known)
        else:
            self._plan(known)

    def forget(self, peer: PeerId) -> None:
        """Drop a peer that is known to be dead."""
        known = self._known.get(peer)
        if known is not None:
            self._remove(known)

    def nearest(self, key: bytes, count: int, *, but: PeerId | None = None) -> list[Contact]:
        """The good contacts nearest to `key`, nearest first, exactly: what others are told.

        Those that wait for a place count as well: at a full bucket's border they are the true nearest.
        """
        contacts = self._good.nearest(key, count + 1 if but is not None else count)
        return [contact for contact in contacts if contact.peer != but][:count] if but else contacts

    def good_contact(self, peer: PeerId | None) -> Contact | None:
        """Where a peer answers, if that is known here: worth more than where somebody says that it is."""
        known = None if peer is None else self._known.get(peer)
        return known.contact if known is not None and known.is_good else None

    def seeds(self, key: bytes, count: int, now: float) -> list[Contact]:
        """The contacts nearest to `key` that a lookup of our own starts from: unchecked ones as well.

        Those in back-off stand in only where there is nobody else: better a doubtful way than none.
        """
        resting = {peer for peer in self._failing if self._known[peer].retry_at > now}
        if not resting or len(resting) == len(self._known):
            return self._everyone.nearest(key, count)
        contacts = self._everyone.nearest(key, count + len(resting))
        return [contact for contact in contacts if contact.peer not in resting][:count]

    def next_to_check(self, now: float) -> Contact | None:
        """The contact most in need of a ping: never answered first, then the one silent for longest.

        It is not named again until its answer or failure is known. Those that wait for a place are not
        pinged: after the same time of silence nobody is told of them any more.
        """
        while (contact := self._next_planned()) is not None and (contact.queued_at or 0.0) <= now:
            heapq.heappop(self._checks)
            contact.queued_at = None
            if contact.moved_to is not None or contact.peer in self._bucket(contact.peer, now).nodes:
                there = contact.moved_to or contact.contact
                contact.moved_to = None
                contact.checked_until = now + CHECK_S_MAX
                self._plan(contact)
                return there
            contact.is_stale = True
            self._good.remove(contact.long_id)
        return None

    @property
    def check_at(self) -> float | None:
        """When the next contact is due to be checked; None for an empty table."""
        contact = self._next_planned()
        return None if contact is None else contact.queued_at

    def touch(self, key: bytes, now: float) -> None:
        """A lookup for `key` begins: its bucket needs no refresh for a while."""
        if key != self.own:
            self._bucket(key, now).touch(now)

    def choose_refresh_keys(self, updated_before: float, rng: random.Random, now: float) -> list[bytes]:
        """A key in every bucket without a lookup since then, out to the one of our nearest neighbour.

        Buckets beyond that are empty because the network has nobody there (Kademlia, section 2.3).
        """
        neighbour = self._good.nearest(self.own, 1)
        deepest = prefix_length(self.own, neighbour[0].peer or b"") if neighbour else -1
        keys = []
        for prefix in range(deepest + 1):
            bucket = self._buckets.get(prefix)
            if bucket is None or bucket.last_updated < updated_before:
                keys.append(choose_key_in_bucket(self.own, prefix, rng))
        return keys

    def choose_to_save(self, count: int) -> list[Contact]:
        """The good contacts to come back through: the k nearest to this peer, then some of every bucket.

        The buckets take turns, so that the far half of the key space, which is one bucket, has its share.
        """
        chosen = self._good.nearest(self.own, min(count, self._config.k))
        taken = set(chosen)
        rows = []
        for prefix in sorted(self._buckets):
            good = [each for each in self._buckets[prefix].everyone() if each.is_good]
            good.sort(key=lambda each: -(each.answered_at or 0.0))
            rows.append([each.contact for each in good if each.contact not in taken])
        for turn in range(max(map(len, rows), default=0)):
            chosen += [row[turn] for row in rows if turn < len(row)]
        return chosen[:count]

    def _bucket(self, key: bytes, now: float) -> Bucket:
        prefix = prefix_length(self.own, key)
        bucket = self._buckets.get(prefix)
        if bucket is None:
            bucket = self._buckets[prefix] = Bucket(self.own, prefix, self._config.k, now)
            bucket.last_updated = -math.inf  # no lookup has passed through it yet
        return bucket

    def _is_admissible(self, contact: Contact) -> bool:
        """Whether it may enter at all."""
        peer, endpoint = contact.peer, contact.endpoint
        if peer is None or peer == self.own or not 1 <= endpoint.port <= 65535:
            return False
        return reach(endpoint.host) is not Reach.NOWHERE and fits(peer, self._config.id_difficulty)

    def _group_of(self, contact: Contact) -> str | None:
        return counted_group(contact.endpoint.host, private_exempt=self._config.table.private_exempt)

    def _has_room(self, group: str | None, bucket: Bucket) -> bool:
        limits = self._config.table
        return group is None or (
            bucket.groups[group] < limits.bucket_group_count_max
            and self._groups[group] < limits.table_group_count_max
        )

    def _gives_way(self, contact: TableContact) -> bool:
        """Whether a contact goes for one that has just answered."""
        has_failed = contact.failures >= self._config.table.failures_replace_count
        return contact.answered_at is None or contact.is_stale or has_failed

    def _make_room(self, contact: TableContact, now: float) -> None:
        """Let go of a doubtful contact of the same group where the group is full: a good one is better."""
        bucket = self._bucket(contact.peer, now)
        group = contact.group
        if group is None or self._has_room(group, bucket):
            return
        is_bucket_full = bucket.groups[group] >= self._config.table.bucket_group_count_max
        others = bucket.everyone() if is_bucket_full else self._known.values()
        doubtful = next((each for each in others if each.group == group and self._gives_way(each)), None)
        if doubtful is not None:
            self._remove(doubtful)

    def _insert(self, contact: TableContact, now: float) -> bool:
        """Take a new contact in, if the limits allow; returns whether it has a place."""
        bucket = self._bucket(contact.peer, now)
        if not self._has_room(contact.group, bucket):
            return False
        if bucket.is_full:
            leaver = bucket.choose_leaver(contact)
            if leaver is None:
                return False
            self._remove(leaver)
        has_place: bool = bucket.add_node(contact)
        self._know(contact, bucket)
        return has_place

    def _move(self, known: TableContact, moved: TableContact, now: float) -> bool:
        """Give a contact another address, in the place that it has, if the limits allow."""
        bucket = self._bucket(known.peer, now)
        self._count_group(known.group, bucket, -1)
        if not self._has_room(moved.group, bucket):
            self._count_group(known.group, bucket, 1)
            return False
        self._failing.discard(known.peer)
        self._good.remove(known.long_id)
        bucket.replace(moved)
        self._know(moved, bucket)
        return True

    def _know(self, contact: TableContact, bucket: Bucket) -> None:
        self._known[contact.peer] = contact
        self._everyone.put(contact.long_id, contact.contact)
        self._count_group(contact.group, bucket, 1)
        self._plan(contact)

    def _promote(self, contact: TableContact, now: float) -> None:
        """Move a contact that answered to the bucket's tail, or into the place of a doubtful one."""
        bucket = self._bucket(contact.peer, now)
        if bucket.add_node(contact):
            return
        doubtful = next((each for each in bucket.nodes.values() if self._gives_way(each)), None)
        if doubtful is not None:
            self._remove(doubtful)  # the bucket then takes the one that answered last: this contact

    def _remove(self, contact: TableContact) -> None:
        bucket = self._buckets[prefix_length(self.own, contact.peer)]
        heir = bucket.remove_node(contact)
        del self._known[contact.peer]
        self._failing.discard(contact.peer)
        self._everyone.remove(contact.long_id)
        self._good.remove(contact.long_id)
        self._count_group(contact.group, bucket, -1)
        if heir is not None:
            self._plan(heir)

    def _count_group(self, group: str | None, bucket: Bucket, change: int) -> None:
        if group is None:
            return
        for counts in (self._groups, bucket.groups):
            counts[group] += change
            if not counts[group]:
                del counts[group]

    # When to look at whom. A contact has one plan that counts; it may be for too early, never for too late.

    def _due_at(self, contact: TableContact) -> float | None:
        if contact.moved_to is not None:
            return contact.checked_until
        if contact.failures:
            due_at = contact.retry_at
        elif contact.answered_at is not None:
            due_at = contact.answered_at + self._config.table.fresh_s
        else:
            due_at = 0.0
        if contact.peer in self._buckets[prefix_length(self.own, contact.peer)].nodes:
            return max(due_at, contact.checked_until)
        return due_at if contact.is_good else None

    def _plan(self, contact: TableContact) -> None:
        due_at = self._due_at(contact)
        if due_at is None or (contact.queued_at is not None and contact.queued_at <= due_at):
            return
        contact.queued_at = due_at
        self._checks_count += 1
        heapq.heappush(self._checks, (due_at, self._checks_count, contact))
        if len(self._checks) > _PLANS_PER_CONTACT * (len(self._known) + 8):
            self._checks = [plan for plan in self._checks if self._counts(plan)]
            heapq.heapify(self._checks)

    def _counts(self, plan: tuple[float, int, TableContact]) -> bool:
        at, _, contact = plan
        return contact.queued_at == at and self._known.get(contact.peer) is contact

    def _next_planned(self) -> TableContact | None:
        """Whose plan is the earliest that is true."""
        while self._checks:
            plan = self._checks[0]
            if not self._counts(plan):
                heapq.heappop(self._checks)
                continue
            contact = plan[2]
            due_at = self._due_at(contact)
            if due_at == plan[0]:
                return contact
            heapq.heappop(self._checks)
            contact.queued_at = None
            self._plan(contact)
        return None
