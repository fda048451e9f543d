"""The searches under way: who is asked next, what is done with what they find, when they end.

Rules:

1. A search ends by its own rule, by its number of questions, or by its time, whatever anybody answers.
2. A get ends early when enough holders told all they have. Who withholds records counts as nobody.
3. A put stores at the k nearest. It begins with those that are among them by all likelihood before the
   lookup is over, and tells the application when three quarters of the copies are kept (Optimistic Provide,
   INFOCOM 2024); the rest follows.
4. A key whose nearest peers stand closer than chance allows is surrounded: its whole region is searched, and
   everybody there is asked and given a copy. Found too few, the search starts again elsewhere (`lookup.py`).
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence

from p2pinfer.dht.answers import fork_effects
from p2pinfer.dht.asking import Asker, Page, Silence, Silent
from p2pinfer.dht.config import DhtConfig
from p2pinfer.dht.copies import Copies
from p2pinfer.dht.gathering import Gathering
from p2pinfer.dht.keyspace import distance
from p2pinfer.dht.lookup import Lookup
from p2pinfer.dht.network_size import NetworkSize
from p2pinfer.dht.news import LookupId
from p2pinfer.dht.packing import record_groups
from p2pinfer.dht.queries import Query, QueryKind
from p2pinfer.dht.records import is_immutable, is_timely
from p2pinfer.dht.running import Purpose, Running
from p2pinfer.dht.search import Search, is_in_region, region_bits, region_points
from p2pinfer.dht.store import RecordStore
from p2pinfer.effects import Deliver, Effect
from p2pinfer.errors import Overloaded
from p2pinfer.ids import Contact, PeerId
from p2pinfer.wire.messages.dht import DhtRecord, Stored

__all__ = ["OnUpkeep", "Searches"]

OnUpkeep = Callable[[bytes, bool, float], None]
"""Told that a search of upkeep has ended: its key, whether it found anybody, and when."""

_REGION_PEERS = 4
"""A region's records go to at most this many times k peers."""


class Searches:
    """What one peer searches for.

    Invariant: at most `lookups_count_max` at one time, of which one place is for upkeep.
    """

    def __init__(
        self,
        own: PeerId,
        asker: Asker,
        store: RecordStore,
        config: DhtConfig,
        rng: random.Random,
        on_upkeep: OnUpkeep,
    ) -> None:
        self._own = own
        self._asker = asker
        self._table = asker.table
        self._store = store
        self._config = config
        self._rng = rng
        self._on_upkeep = on_upkeep
        self._running: dict[LookupId, Running] = {}
        self._next_id = 0
        table = asker.table
        self.size = NetworkSize(config.k, lambda: len(table) + table.waiting_count)
        self.counters: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._running)

    @property
    def has_room(self) -> bool:
        """Whether another may begin; one place is kept for upkeep, or the table would starve under load."""
        return len(self._running) < self._config.query.lookups_count_max - 1

    def check_room(self) -> None:
        """Refuse what is too much.

        Raises:
            Overloaded: Too many searches are running.
        """
        if not self.has_room:
            raise Overloaded(f"{len(self._running)} lookups run already: come back later", retry_after_s=1.0)

    def start(
        self,
        purpose: Purpose,
        keys: Sequence[bytes],
        now: float,
        *,
        copies: Copies | None = None,
        quorum: int | None = None,
    ) -> tuple[LookupId, list[Effect]]:
        """Begin a search for keys: to get what is there, from a quorum of holders, or to put copies there."""
        number = LookupId(self._next_id)
        self._next_id += 1
        keys = tuple(dict.fromkeys(keys))
        running = Running(
            id=number,
            purpose=purpose,
            keys=keys,
            search=Search(keys, self._own, self._config),
            give_up_at=now + self._config.query.lookup_s_max,
            gathering=self._gathering(quorum) if purpose is Purpose.GET else None,
            copies=copies,
        )
        self._running[number] = running
        self.counters["lookups"] += 1
        for key, lookup in running.search.lookups.items():
            lookup.start(self._table.seeds(key, self._seeds_count, now))
            self._table.touch(key, now)
            if running.gathering is not None:
                running.gathering.take(self._store.get(key, now))
        return number, self._advance(running, now)

    # What came of questions

    def on_page(self, page: Page, now: float) -> list[Effect]:
        """One page of an answer to a question of a search."""
        running = self._of(page.query)
        if running is None:
            return []
        query, peer = page.query, page.peer
        query.has_progress |= running.search.add(query.keys, page.contacts, peer)
        effects: list[Effect] = []
        gathering = running.gathering
        if gathering is not None:
            timely = [each for each in page.records if is_timely(each, self._config.record, now)]
            for fork in gathering.take(timely):
                self.counters["forks"] += 1
                effects += fork_effects(fork)
        if not page.is_last:
            return effects
        if gathering is not None:
            gathering.note(query.to, query.keys, query.told, is_whole=page.has_all_records)
            for key in query.keys:
                if key in running.keys and gathering.is_enough(key):
                    running.search.lookups[key].close()
        return effects + self._complete(running, query, now)

    def on_silence(self, silent: Silent, now: float) -> list[Effect]:
        """A question of a search was not answered in time."""
        query, silence = silent
        running, peer = self._of(query), query.to.peer
        if running is None:
            return []
        if query.kind is QueryKind.STORE:
            if silence is not Silence.SLOW and running.copies is not None:
                running.copies.lost(query.id)
            return self._advance(running, now)
        if silence is Silence.PARTIAL:
            return self._complete(running, query, now)
        if peer is not None and silence is Silence.SLOW:
            running.search.slow(query.keys, peer)
        elif peer is not None:
            running.search.failed(query.keys, peer)
        return self._advance(running, now)

    def on_stored(self, query: Query, message: Stored, now: float) -> list[Effect]:
        """A peer says which records of a search it keeps."""
        is_kept = all(code == "stored" for code in message.codes)
        self.counters[f"stores_{'kept' if is_kept else 'refused'}"] += 1
        running = self._of(query)
        if running is None:
            return []
        if running.copies is not None:
            running.copies.answered(query.id, message)
        return self._maybe_tell(running) + self._advance(running, now)

    def tick(self, now: float) -> list[Effect]:
        """End what had its time. A put stores at whoever answered so far."""
        effects: list[Effect] = []
        for running in list(self._running.values()):
            if running.give_up_at > now:
                continue
            if running.copies is not None and not running.is_storing:
                effects += self._store_copies(running, running.copies, now)
            else:
                effects += self._finish(running, now)
        return effects

    @property
    def deadline(self) -> float | None:
        """When the next search has had its time."""
        return min((running.give_up_at for running in self._running.values()), default=None)

    # The course of a search

    def _gathering(self, quorum: int | None) -> Gathering:
        return Gathering(quorum, self._config.query.quorum_count, self._config.namespaces)

    @property
    def _seeds_count(self) -> int:
        return self._config.k * self._config.disjoint

    def _of(self, query: Query) -> Running | None:
        return self._running.get(query.lookup) if query.lookup is not None else None

    def _advance(self, running: Running, now: float) -> list[Effect]:
        """Ask whoever is next, or go on to the end."""
        effects: list[Effect] = []
        if running.is_storing:
            is_waiting = running.copies is not None and running.copies.is_waiting
            return effects if is_waiting else self._finish(running, now)
        is_get = running.gathering is not None
        while True:
            for contact, keys in running.search.choose_next():
                if running.regions and is_get:
                    keys = tuple(dict.fromkeys((*keys, *running.regions)))
                effects += self._asker.ask_nodes(
                    contact, keys, now, lookup=running.id, records=is_get, brief=running.is_brief
                )
            if not running.search.is_done:
                return effects
            if not self._look_again(running, now):
                break
        if running.copies is not None:
            return effects + self._store_copies(running, running.copies, now)
        return effects + self._finish(running, now)

    def _complete(self, running: Running, query: Query, now: float) -> list[Effect]:
        """A question has its answer, whole or as much of it as came."""
        peer = query.to.peer
        effects: list[Effect] = []
        if peer is not None:
            running.search.answered(query.keys, peer, has_progress=query.has_progress)
            if running.copies is not None and not running.is_storing:
                effects = self._store_early(running, running.copies, query.to, now)
        return effects + self._advance(running, now)

    def _look_again(self, running: Running, now: float) -> bool:
        """Whether some key's result cannot be all there is, and there is somebody to ask about it."""
        if running.purpose is Purpose.UPKEEP:
            return False
        is_more = False
        for key in running.keys:
            lookup = running.search.lookups[key]
            if running.is_enough(key):
                continue
            is_more |= self._maybe_restart(running, lookup, now)
            is_more |= self._maybe_widen(running, lookup, now)
        return is_more

    def _maybe_restart(self, running: Running, lookup: Lookup, now: float) -> bool:
        """Look elsewhere where the nearest found stand too far apart: others were hidden from us."""
        expected = self.size.distance_of(self._config.k)
        if expected is None or running.restarts_count >= self._config.query.restarts_count_max:
            return False
        if not lookup.is_sparse(expected):
            return False
        running.restarts_count += 1
        self.counters["restarts"] += 1
        return lookup.restart(self._table.seeds(lookup.key, 4 * self._seeds_count, now))

    def _maybe_widen(self, running: Running, lookup: Lookup, now: float) -> bool:
        """Search the whole region of a key that is surrounded."""
        key, size = lookup.key, self.size.estimate
        if size is None or key in running.regions or not self._is_surrounded(lookup):
            return False
        bits = region_bits(size, self._config.k)
        running.regions[key] = bits
        self.counters["regions"] += 1
        found = lookup.nearest
        for point in region_points(key, bits, self._rng):
            added = running.search.lookups[point] = Lookup(point, self._own, self._config)
            added.start([*self._table.seeds(point, self._seeds_count, now), *found])
        return True

    def _is_surrounded(self, lookup: Lookup) -> bool:
        likelihood = self.size.likelihood_so_near(lookup.nearest, lookup.key)
        return likelihood < self._config.query.surrounded_likelihood

    def _finish(self, running: Running, now: float) -> list[Effect]:
        if self._running.pop(running.id, None) is None:
            return []
        self.counters["lookup_queries"] += running.search.queries
        if running.copies is not None:
            if running.copies.expected >= 0 and running.copies.is_clear:
                self._keep_copies(running, running.copies, now)
            running.copies.end(now)
        for key in running.keys:
            lookup = running.search.lookups[key]
            if not running.is_enough(key) and not running.restarts_count and key not in running.regions:
                self.size.found(key, lookup.nearest)
        if running.purpose is Purpose.UPKEEP:
            key = running.keys[0]
            self._on_upkeep(key, bool(running.search.lookups[key].nearest), now)
            return []  # the deadline is now, if another search of upkeep waits
        effects: list[Effect] = []
        if running.purpose.is_delivered and not running.is_told:
            effects.append(Deliver(running.done()))
        return effects + self._cache_on_path(running, now)

    # Storing

    def _store_copies(self, running: Running, copies: Copies, now: float) -> list[Effect]:
        """Ask the k nearest to keep the records; this peer is one of them if it is near enough."""
        running.is_storing = True
        running.give_up_at = now + self._config.query.lookup_s_max
        wanted: dict[Contact, list[DhtRecord]] = {}
        if copies.expected < 0:  # a swap that others refuse must not stand here and win by its sequence
            self._keep_copies(running, copies, now)
        for key in running.keys:
            for contact in self._holders_of(running, key):
                if contact.peer is not None:
                    wanted.setdefault(contact, []).extend(copies.give(contact.peer, key))
        effects: list[Effect] = []
        for contact, records in wanted.items():
            effects += self._send_records(running, copies, contact, records, now)
        return effects + self._maybe_tell(running) + self._advance(running, now)

    def _keep_copies(self, running: Running, copies: Copies, now: float) -> None:
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

    def _store_early(self, running: Running, copies: Copies, contact: Contact, now: float) -> list[Effect]:
        """Store at a peer that is one of the k nearest by all likelihood, without waiting for the others."""
        if contact.peer is None or copies.expected >= 0:
            return []
        records: list[DhtRecord] = []
        for key in running.keys:
            likelihood = self.size.likelihood_among_nearest(distance(contact.peer, key))
            if likelihood >= self._config.query.early_store_likelihood:
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

    def _maybe_tell(self, running: Running) -> list[Effect]:
        """Tell the application as soon as most copies are kept."""
        copies, size = running.copies, self.size.estimate
        if running.purpose is not Purpose.PUT or running.is_told or copies is None or copies.expected >= 0:
            return []
        if size is None or size < self._config.k:
            return []
        if copies.count < self._config.query.return_share * self._config.k:
            return []
        running.is_told = True
        return [Deliver(running.done())]

    def _cache_on_path(self, running: Running, now: float) -> list[Effect]:
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
