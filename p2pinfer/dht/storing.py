"""Where the copies of a put go, and when its application hears of it.

Rules:

1. The k nearest keep a copy, this peer among them if it is one; where a key is surrounded, its whole region.
2. Who is among the k nearest by all likelihood is given its copy before the lookup is over, and the
   application is told when three quarters of the copies are kept (Optimistic Provide, INFOCOM 2024).
3. A compare-and-swap waits for all: one that others refuse must not stand anywhere because it came first.
"""

from __future__ import annotations

from collections.abc import Sequence

from p2pinfer.dht.asking import Asker
from p2pinfer.dht.config import DhtConfig
from p2pinfer.dht.copies import Copies
from p2pinfer.dht.keyspace import distance
from p2pinfer.dht.network_size import NetworkSize
from p2pinfer.dht.packing import record_groups
from p2pinfer.dht.records import is_immutable
from p2pinfer.dht.running import Purpose, Running
from p2pinfer.dht.search import is_in_region
from p2pinfer.dht.store import RecordStore
from p2pinfer.effects import Deliver, Effect
from p2pinfer.ids import Contact, PeerId
from p2pinfer.wire.messages.dht import DhtRecord

__all__ = ["Storing"]

_REGION_PEERS = 4
"""A region's records go to at most this many times k peers."""


class Storing:
    """Sends copies of records, for the searches of one peer."""

    def __init__(
        self, own: PeerId, asker: Asker, store: RecordStore, config: DhtConfig, size: NetworkSize
    ) -> None:
        self._own = own
        self._asker = asker
        self._store = store
        self._config = config
        self._size = size

    def send_all(self, running: Running, copies: Copies, now: float) -> list[Effect]:
        """The lookups are over: ask everybody to keep the records who was not asked before."""
        wanted: dict[Contact, list[DhtRecord]] = {}
        if copies.expected < 0:  # a swap that others refuse must not stand here and win by its sequence
            self.keep_own(running, copies, now)
        for key in running.keys:
            for contact in self._holders_of(running, key):
                if contact.peer is not None:
                    wanted.setdefault(contact, []).extend(copies.give(contact.peer, key))
        effects: list[Effect] = []
        for contact, records in wanted.items():
            effects += self._send_records(running, copies, contact, records, now)
        return effects

    def keep_own(self, running: Running, copies: Copies, now: float) -> None:
        """Keep what this peer is itself one of the k nearest for."""
        for key in running.keys:
            for record in copies.give(self._own, key) if self._keeps_itself(running, key) else ():
                copies.placed(record, self._store.put(record, None, now, expected=copies.expected))

    def _keeps_itself(self, running: Running, key: bytes) -> bool:
        """Whether this peer is one of the k nearest."""
        nearest = running.search.lookups[key].nearest
        own_distance = distance(self._own, key)
        nearer = sum(distance(contact.peer or b"", key) < own_distance for contact in nearest)
        return nearer < self._config.k

    def _holders_of(self, running: Running, key: bytes) -> list[Contact]:
        """Who else is to keep the records of a key."""
        nearest = list(running.search.lookups[key].nearest)
        if self._keeps_itself(running, key):
            nearest = nearest[: self._config.k - 1]
        bits = running.regions.get(key)
        if bits is None:
            return nearest
        found = {each: None for lookup in running.search.lookups.values() for each in lookup.nearest}
        around = [each for each in found if each.peer is not None and is_in_region(each.peer, key, bits)]
        around.sort(key=lambda each: distance(each.peer or b"", key))
        # Those ground to the key come first in this order; the others are the ones that matter.
        return list(dict.fromkeys([*nearest, *around]))[: _REGION_PEERS * self._config.k]

    def is_likely_holder(self, peer: PeerId, key: bytes) -> bool:
        """Whether a peer is one of the k nearest to a key by all likelihood."""
        likelihood = self._size.likelihood_among_nearest(distance(peer, key))
        return likelihood >= self._config.query.early_store_likelihood

    def send_early(self, running: Running, copies: Copies, contact: Contact, now: float) -> list[Effect]:
        """Store at a peer that is one of the k nearest by all likelihood, without waiting for the others."""
        if contact.peer is None or copies.expected >= 0:
            return []
        records: list[DhtRecord] = []
        for key in running.keys:
            if self.is_likely_holder(contact.peer, key):
                records += copies.give(contact.peer, key)
        return self._send_records(running, copies, contact, records, now)

    def _send_records(
        self, running: Running, copies: Copies, to: Contact, records: Sequence[DhtRecord], now: float
    ) -> list[Effect]:
        effects: list[Effect] = []
        for group in record_groups(records, self._config.answer.body_size_bytes_max):
            query, sends = self._asker.store(to, group, now, lookup=running.id, expected=copies.expected)
            if query is not None:
                copies.sent(query.id, group)
                effects += sends
        return effects

    def maybe_tell(self, running: Running) -> list[Effect]:
        """Tell the application as soon as most copies are kept."""
        copies, size = running.copies, self._size.estimate
        if running.purpose is not Purpose.PUT or running.is_told or copies is None or copies.expected >= 0:
            return []
        if size is None or size < self._config.k:
            return []
        if copies.count < self._config.query.return_share * self._config.k:
            return []
        running.is_told = True
        return [Deliver(running.done())]

    def leave_on_path(self, running: Running, now: float) -> list[Effect]:
        """Leave what never changes at the nearest peer that lacked it (Kademlia, section 2.3).

        What may change, or has many owners, is not left: a copy on the path would go on telling the past.
        """
        effects: list[Effect] = []
        gathering = running.gathering
        if gathering is None:
            return effects
        for key, contacts in gathering.without.items():
            found = list(gathering.values.get(key, {}).values())
            if len(found) == 1 and is_immutable(found[0]):
                place = int.from_bytes(key, "big")
                nearest = min(contacts, key=lambda each: int.from_bytes(each.peer or b"", "big") ^ place)
                effects += self._asker.store(nearest, found, now)[1]
        return effects
