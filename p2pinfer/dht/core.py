"""The Kademlia core: finds peers by key, keeps signed records at the peers nearest to theirs.

Source: Kademlia, Maymounkov and Mazieres 2002, sections 2.1 to 2.5 and 4.1; S/Kademlia, Baumgart and Mies
2007, for disjoint paths; records as in BEP-44.

Rules:

1. The table believes only answers: who asks us becomes a candidate, who answers us becomes a contact.
2. A record is republished by its owner alone, and dies when its owner said it would.
3. Whatever a peer answers, a search ends: by its own rule, by its number of questions, or by its time.

Departs from the paper: lookups run without rounds; a get does not stop at the first holder, because many
owners share a key. The answering half is in `answers.py`, the asking half in `asking.py` and `searches.py`,
what is kept in `store.py`, what new neighbours are given in `handover.py`.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from p2pinfer.dht.answers import Answers
from p2pinfer.dht.asking import Asker, Silence
from p2pinfer.dht.config import DhtConfig
from p2pinfer.dht.copies import Copies
from p2pinfer.dht.handover import Handover
from p2pinfer.dht.keyspace import check_key
from p2pinfer.dht.neighbours import Neighbours
from p2pinfer.dht.news import AddressSeen, LookupId
from p2pinfer.dht.observed import ObservedAddress
from p2pinfer.dht.publisher import Publisher
from p2pinfer.dht.put import Put
from p2pinfer.dht.queries import QueryKind
from p2pinfer.dht.records import check_put
from p2pinfer.dht.remembered import CONTACTS_KEY
from p2pinfer.dht.running import Purpose
from p2pinfer.dht.searches import Searches
from p2pinfer.dht.store import RecordStore
from p2pinfer.dht.table import RoutingTable
from p2pinfer.dht.upkeep import Upkeep
from p2pinfer.effects import Effect, Message, Notify, Persist
from p2pinfer.errors import LocalProtocolError
from p2pinfer.ids import Contact, Endpoint, PeerId
from p2pinfer.wire.messages.dht import DhtPing, DhtPong, FindNodes, FoundNodes, Stored, StoreRecords
from p2pinfer.wire.messages.records import Sign

__all__ = ["DhtCore"]


class DhtCore:
    """One peer's part of the DHT.

    Effects: `Send` on the datagram plane, `Deliver(LookupDone)`, `Notify`, `Misbehaved`, and `Persist` of
    contacts to come back through: a peer that restarts needs no bootstrap contact that lives. Its own puts
    are put again.
    """

    def __init__(
        self,
        *,
        public_key: bytes,
        endpoint: Endpoint,
        config: DhtConfig,
        rng: random.Random,
        sign: Sign,
        now: float,
    ) -> None:
        self._own = PeerId.from_public_key(public_key)
        self.contact = Contact(self._own, endpoint)
        self._config = config
        self._table = RoutingTable(self._own, config)
        self._store = RecordStore(self._own, config)
        neighbours = Neighbours(self._own, 6 * config.k)  # what the table has in a bucket, at most
        self._answers = Answers(self._table, self._store, neighbours, config, rng, now)
        self._publisher = Publisher(public_key, sign, config, rng)
        self._upkeep = Upkeep(self._table, config, rng)
        self._observed = ObservedAddress(endpoint, config.observed)
        self._handover = Handover(self._store, neighbours, config, now)
        self._asker = Asker(self._own, self._table, self._handover, config, rng)
        self._searches = Searches(self._own, self._asker, self._store, config, rng, self._upkeep.finished)
        self._counters: Counter[str] = Counter()

    # Commands

    def bootstrap(self, contacts: Sequence[Contact], now: float) -> list[Effect]:
        """Join through these contacts; their peers need not be known. They are asked until one answers."""
        self._upkeep.set_bootstrap([contact for contact in contacts if contact.peer != self._own], now)
        return self.tick(now)

    def restore(self, saved: bytes, now: float) -> list[Effect]:
        """Come back through the contacts that were on disk under `CONTACTS_KEY`; each is asked before use."""
        for contact in self._upkeep.restore(saved, now):
            self.heard(contact, now)
        return []

    def set_endpoint(self, endpoint: Endpoint, now: float) -> list[Effect]:
        """This peer is elsewhere from now on."""
        self.contact = Contact(self._own, endpoint)
        self._observed.set_told(endpoint)
        return []

    def disk_failed(self, key: str, now: float) -> list[Effect]:
        """Go on without the copy on disk: a later save has more anyway."""
        self._counters["saves_failed"] += key == CONTACTS_KEY
        return []

    def heard(self, contact: Contact, now: float) -> list[Effect]:
        """Take a candidate: another plane has authenticated this peer at this endpoint."""
        if self._table.offer(contact, now):
            self._upkeep.hurry_check(now)
        return []

    def forget(self, peer: PeerId, now: float) -> list[Effect]:
        """Drop a peer that is dead; searches that wait for it go on without it."""
        self._table.forget(peer)
        effects: list[Effect] = []
        for query in self._asker.give_up_on(peer, now):
            effects += self._searches.on_silence((query, Silence.FAILED), now)
        return effects

    def put(self, wanted: Put, now: float) -> tuple[LookupId, list[Effect]]:
        """Store a value at the k peers nearest to its key, and keep it there until `unput`.

        Raises:
            LocalProtocolError: Key, value, sub-key or lifetime is out of bounds, or there are too many puts.
            Overloaded: Too many lookups are running.
        """
        key = wanted.key
        check_key(key)
        check_put(wanted.value, wanted.subkey, wanted.ttl_s, self._config.record)
        self._searches.check_room()
        self._publisher.put(wanted)
        record = self._publisher.make_record(key, wanted.subkey, now)
        copies = Copies((record,), -1 if wanted.expected is None else wanted.expected, self._on_copies)
        return self._searches.start(Purpose.PUT, [key], now, copies=copies)

    def unput(self, key: bytes, subkey: bytes, now: float) -> list[Effect]:
        """Stop keeping a value alive: it vanishes when its last record expires. Unknown ones are ignored."""
        self._publisher.unput(key, subkey)
        return []

    def get(
        self, keys: Sequence[bytes], now: float, *, quorum: int | None = None
    ) -> tuple[LookupId, list[Effect]]:
        """Look for the records under keys, of all owners; many keys are one walk where they can be.

        Args:
            keys: At least one; made with `key_of`.
            now: The time.
            quorum: Holders of each key that must have told all they have; 0 asks all of the k nearest, None
                goes by what is found (`gathering.py`).

        Raises:
            LocalProtocolError: One is no key, or there are none or too many.
            Overloaded: Too many lookups are running.
        """
        count_max = self._config.query.keys_count_max
        if not 1 <= len(keys) <= count_max:
            raise LocalProtocolError(f"a get has 1 to {count_max} keys, not {len(keys)}")
        for key in keys:
            check_key(key)
        self._searches.check_room()
        return self._searches.start(Purpose.GET, keys, now, quorum=quorum)

    def find_nodes(self, key: bytes, now: float) -> tuple[LookupId, list[Effect]]:
        """Look for the k peers nearest to `key`.

        Raises:
            LocalProtocolError: It is no key.
            Overloaded: Too many lookups are running.
        """
        check_key(key)
        self._searches.check_room()
        return self._searches.start(Purpose.FIND, [key], now)

    # The core's contract

    def receive(self, sender: Contact, message: Message, now: float) -> list[Effect]:
        """Take one message from an authenticated sender."""
        peer = sender.peer
        if peer is None or peer == self._own:
            self._counters["ignored"] += 1
            return []
        match message:
            case FoundNodes():
                return self._on_found_nodes(sender, message, now)
            case DhtPong():
                self._asker.on_pong(sender, message.query, now)
                return []
            case Stored():
                query = self._asker.on_stored(sender, message, now)
                return self._searches.on_stored(query, message, now) if query is not None else []
            case DhtPing() | FindNodes() | StoreRecords():
                if self._answers.is_proved(sender, message, now):
                    self._introduced(sender, peer, now)
                return self._answers.receive(sender, peer, message, now)
            case _:
                self._counters["ignored"] += 1
                return []

    def tick(self, now: float) -> list[Effect]:
        """Do what is due at `now`; nothing if it is early."""
        effects: list[Effect] = []
        for silent, sends in self._asker.overdue(now):
            effects += sends
            if silent[1] is Silence.FAILED:
                self._upkeep.hurry_check(now)
            effects += self._searches.on_silence(silent, now)
        effects += self._searches.tick(now)
        effects += self._do_upkeep(now)
        count_max = self._config.query.keys_count_max if self._searches.has_room else 0
        records = self._publisher.due(now, count_max)
        if records:
            keys = [record.key for record in records]
            copies = Copies(tuple(records), on_end=self._on_copies)
            effects += self._searches.start(Purpose.REPUBLISH, keys, now, copies=copies)[1]
        if self._store.maybe_sweep(now):
            self._handover.keep_only(self._table.__contains__, now)
        effects += self._asker.hand_over(now)
        saved = self._upkeep.remembered.save_due(now)
        if saved is not None:
            effects.append(Persist(CONTACTS_KEY, saved))  # last: nothing waits for the disk
        return effects

    @property
    def deadline(self) -> float | None:
        """When `tick` wants to be called next."""
        times = [each.deadline for each in (self._asker, self._upkeep, self._searches, self._store)]
        if self._searches.has_room:
            times.append(self._publisher.deadline)
        return min((at for at in times if at is not None), default=None)

    def statistics(self) -> Mapping[str, Any]:
        """Counters and gauges by name; a copy."""
        gauges: dict[str, Any] = {
            "buckets": self._table.bucket_count,
            "contacts": len(self._table),
            "contacts_good": self._table.good_count,
            "contacts_waiting": self._table.known_count - len(self._table),
            "is_joined": self._upkeep.is_joined,
            "lookups_running": len(self._searches),
            "nat": self._observed.nat,
            "network_size": self._searches.size.estimate,
            "own_puts": len(self._publisher),
            "queries_open": self._asker.open_count,
            "handovers_waiting": self._handover.waiting_count,
            "records": len(self._store),
            "records_bytes": self._store.size_bytes,
            "records_cached": self._store.cached_count,
            "forks_kept": len(self._store.forks),
            "round_trip_s": self._asker.round_trip_s,
            "seen": None if self._observed.seen is None else str(self._observed.seen),
        }
        records = {f"records_{code}": count for code, count in self._store.counters.items()}
        parts = (
            self._asker,
            self._searches,
            self._answers,
            self._handover,
            self._observed,
            self._upkeep.remembered,
        )
        counters = (self._counters, *(part.counters for part in parts))
        return {**gauges, **{name: count for each in counters for name, count in each.items()}, **records}

    # Inside

    def _introduced(self, sender: Contact, peer: PeerId, now: float) -> None:
        """A peer showed a token that went to its address: as good as an answer. Without one it is nobody.

        We do not ask it ourselves: who forges an address would have us send to it.
        """
        known = self._table[peer]
        if known is None or not known.is_good:
            self._table.confirm(sender, None, now)
            self._handover.came(sender, now)
            self._upkeep.hurry_check(now)

    def _on_copies(self, copies: Copies, now: float) -> None:
        """Keep a compare-and-swap alive if it has won, and say again what a later record of ours hides."""
        if copies.expected >= 0:
            if copies.has_won:
                self._publisher.confirm(copies.records[0])
            else:
                self._publisher.refused(copies.records[0], copies.conflict)
        elif copies.conflict is not None:
            self._publisher.outrun(copies.conflict, now)
        for record in copies.unmet:
            self._publisher.unmet(record, now)

    def _on_found_nodes(self, sender: Contact, message: FoundNodes, now: float) -> list[Effect]:
        page, effects = self._asker.on_found_nodes(sender, message, now)
        if page is None:
            return effects
        if len(page.query.pages) == 1:  # one vote for each answer
            changed = self._observed.vote(Contact(page.peer, page.query.to.endpoint), message.seen, now)
            effects += [Notify(AddressSeen(changed))] if changed is not None else []
        if page.query.kind is QueryKind.BOOTSTRAP:
            self._upkeep.answered_bootstrap(now)
            return effects
        return effects + self._searches.on_page(page, now)

    def _do_upkeep(self, now: float) -> list[Effect]:
        effects: list[Effect] = []
        for contact in self._upkeep.bootstrap_due(now):
            effects += self._asker.ask_nodes(contact, [self._own], now, records=False, lookup=None)
        while (key := self._upkeep.key_due(now)) is not None:
            effects += self._searches.start(Purpose.UPKEEP, [key], now)[1]
        contact_to_check = self._upkeep.check_due(now)
        if contact_to_check is not None:
            effects += self._asker.ping(contact_to_check, now)
        return effects
