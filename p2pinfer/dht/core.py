"""The Kademlia core: finds peers by key, keeps signed records at the peers nearest to theirs.

Source: Kademlia, Maymounkov and Mazieres 2002, sections 2.1 to 2.5 and 4.1; records as in BEP-44.

Rules:

1. The table believes only answers: who asks us becomes a candidate, who answers us becomes a contact.
2. A record is republished by its owner alone, and dies when its owner said it would.
3. Whatever a peer answers, a lookup ends: by its own rule, by its number of questions, or by its time.

Departs from the paper: lookups run without rounds; a lookup for a value does not stop at the first holder,
because many owners share a key; nothing is cached on the path. The answering half is in `answers.py`.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from p2pinfer.dht.addresses import plausible, reach
from p2pinfer.dht.answers import Answers
from p2pinfer.dht.config import DhtConfig
from p2pinfer.dht.keyspace import check_key, distance
from p2pinfer.dht.lookup import Lookup
from p2pinfer.dht.news import LookupId
from p2pinfer.dht.packing import question_padding
from p2pinfer.dht.publisher import Publisher
from p2pinfer.dht.queries import Queries, Query, QueryKind
from p2pinfer.dht.records import check_put, is_timely
from p2pinfer.dht.roundtrip import RoundTrip
from p2pinfer.dht.running import Purpose, RunningLookup
from p2pinfer.dht.store import RecordStore
from p2pinfer.dht.table import RoutingTable
from p2pinfer.dht.tokens import HeldTokens
from p2pinfer.dht.upkeep import Upkeep
from p2pinfer.effects import Deliver, Effect, Message, Misbehaved, Send
from p2pinfer.errors import Overloaded
from p2pinfer.ids import Contact, Endpoint, PeerId
from p2pinfer.wire.messages.dht import (
    DhtPing,
    DhtPong,
    DhtRecord,
    FindNodes,
    FoundNodes,
    Stored,
    StoreRecords,
)
from p2pinfer.wire.messages.records import Sign

__all__ = ["DhtCore"]


class DhtCore:
    """One peer's part of the DHT.

    Effects: `Send` on the datagram plane, `Deliver(LookupDone)`, `Misbehaved`. Nothing is persisted yet: a
    peer that restarts joins again through its bootstrap contacts, and its own puts are put again.
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
        self.contact = Contact(PeerId.from_public_key(public_key), endpoint)
        self._own = PeerId.from_public_key(public_key)
        self._config = config
        self._table = RoutingTable(self._own, config)
        self._store = RecordStore(config.record)
        self._answers = Answers(self._table, self._store, config, rng, now)
        self._publisher = Publisher(public_key, sign, config.record, rng)
        self._upkeep = Upkeep(self._own, self._table, config.table, rng)
        self._queries = Queries(rng)
        self._tokens = HeldTokens(config.answer.token_interval_s)
        self._round_trip = RoundTrip()
        self._running: dict[LookupId, RunningLookup] = {}
        self._next_lookup = 0
        self._sweep_at = now + config.record.sweep_interval_s
        self._counters: Counter[str] = Counter()

    # Commands

    def bootstrap(self, contacts: Sequence[Contact], now: float) -> list[Effect]:
        """Join through these contacts; their peers need not be known. They are asked until one answers."""
        self._upkeep.set_bootstrap([contact for contact in contacts if contact.peer != self._own], now)
        return self.tick(now)

    def heard(self, contact: Contact, now: float) -> list[Effect]:
        """Take a candidate: another plane has authenticated this peer at this endpoint."""
        if self._table.offer(contact, now):
            self._upkeep.hurry_check(now)
        return []

    def forget(self, peer: PeerId, now: float) -> list[Effect]:
        """Drop a peer that is dead; lookups that wait for it go on without it."""
        self._table.forget(peer)
        self._tokens.forget(peer)
        effects: list[Effect] = []
        for query in self._queries.to_peer(peer):
            effects += self._give_up(query, now)
        return effects

    def put(
        self, key: bytes, value: bytes, *, subkey: bytes, ttl_s: float, now: float
    ) -> tuple[LookupId, list[Effect]]:
        """Store a value at the k peers nearest to `key`, and keep it there until `unput`.

        Raises:
            LocalProtocolError: Key, value, sub-key or lifetime is out of bounds, or there are too many puts.
            Overloaded: Too many lookups are running.
        """
        check_key(key)
        check_put(value, subkey, ttl_s, self._config.record)
        self._check_load()
        self._publisher.put(key, subkey, value, ttl_s)
        record = self._publisher.make_record(key, subkey, now)
        return self._start(Purpose.PUT, key, now, record)

    def unput(self, key: bytes, subkey: bytes, now: float) -> list[Effect]:
        """Stop keeping a value alive: it vanishes when its last record expires. Unknown ones are ignored."""
        self._publisher.unput(key, subkey)
        return []

    def get(self, key: bytes, now: float) -> tuple[LookupId, list[Effect]]:
        """Look for the records under `key`, of all owners.

        Raises:
            LocalProtocolError: It is no key.
            Overloaded: Too many lookups are running.
        """
        check_key(key)
        self._check_load()
        return self._start(Purpose.GET, key, now)

    def find_nodes(self, key: bytes, now: float) -> tuple[LookupId, list[Effect]]:
        """Look for the k peers nearest to `key`.

        Raises:
            LocalProtocolError: It is no key.
            Overloaded: Too many lookups are running.
        """
        check_key(key)
        self._check_load()
        return self._start(Purpose.FIND, key, now)

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
                query = self._expected(sender, message.query, QueryKind.CHECK)
                return self._answered(query, sender, now) if query else []
            case Stored():
                return self._on_stored(sender, message, now)
            case DhtPing() | FindNodes() | StoreRecords():
                self.heard(sender, now)
                return self._answers.receive(sender, peer, message, now)
            case _:
                self._counters["ignored"] += 1
                return []

    def tick(self, now: float) -> list[Effect]:
        """Do what is due at `now`; nothing if it is early."""
        effects: list[Effect] = []
        for query in self._queries.due(now):
            if self._queries.is_open(query):
                effects += self._on_timeout(query, now)
        for running in list(self._running.values()):
            if running.give_up_at <= now:
                effects += self._on_time_up(running, now)
        effects += self._do_upkeep(now)
        for key, subkey in self._publisher.due(now):
            if len(self._running) >= self._config.query.lookups_count_max - 1:
                break
            record = self._publisher.make_record(key, subkey, now)
            effects += self._start(Purpose.REPUBLISH, key, now, record)[1]
        if now >= self._sweep_at:
            self._store.sweep(now)
            self._sweep_at = now + self._config.record.sweep_interval_s
        return effects

    @property
    def deadline(self) -> float | None:
        """When `tick` wants to be called next."""
        times = [self._queries.deadline, self._upkeep.deadline]
        times += [running.give_up_at for running in self._running.values()]
        if len(self._running) < self._config.query.lookups_count_max - 1:
            times.append(self._publisher.deadline)
        if len(self._store):
            times.append(self._sweep_at)
        return min((at for at in times if at is not None), default=None)

    def statistics(self) -> Mapping[str, Any]:
        """Counters and gauges by name; a copy."""
        gauges: dict[str, Any] = {
            "contacts": len(self._table),
            "contacts_good": self._table.good_count,
            "contacts_waiting": self._table.waiting_count,
            "is_joined": self._upkeep.is_joined,
            "lookups_running": len(self._running),
            "own_puts": len(self._publisher),
            "queries_open": len(self._queries),
            "records": len(self._store),
            "round_trip_s": self._round_trip.mean_s,
        }
        records = {f"records_{code}": count for code, count in self._store.counters.items()}
        return {**gauges, **self._counters, **self._answers.counters, **records}

    # Lookups

    def _check_load(self) -> None:
        # One place is kept for the lookup of upkeep, without which the table would starve under load.
        if len(self._running) >= self._config.query.lookups_count_max - 1:
            raise Overloaded(f"{len(self._running)} lookups run already: come back later", retry_after_s=1.0)

    def _start(
        self, purpose: Purpose, key: bytes, now: float, record: DhtRecord | None = None
    ) -> tuple[LookupId, list[Effect]]:
        lookup_id = LookupId(self._next_lookup)
        self._next_lookup += 1
        lookup = Lookup(key, self._own, self._config)
        give_up_at = now + self._config.query.lookup_s_max
        running = RunningLookup(lookup_id, purpose, lookup, give_up_at, record)
        self._running[lookup_id] = running
        self._counters["lookups"] += 1
        lookup.add(self._table.seeds(key, self._config.k, now))
        self._table.touch(key, now)
        if purpose is Purpose.GET:
            running.gather(self._store.get(key, now))
        return lookup_id, self._advance(running, now)

    def _advance(self, running: RunningLookup, now: float) -> list[Effect]:
        """Ask whoever is next, or go on to the end."""
        effects: list[Effect] = []
        if running.is_storing:
            return effects if running.storing else self._finish(running, now)
        for contact in running.lookup.choose_next():
            wants_records = running.purpose is Purpose.GET
            effects += self._ask_nodes(contact, running.key, now, records=wants_records, lookup=running.id)
        if not running.lookup.is_done:
            return effects
        if running.record is not None:
            return effects + self._store_copies(running, running.record, now)
        return effects + self._finish(running, now)

    def _store_copies(self, running: RunningLookup, record: DhtRecord, now: float) -> list[Effect]:
        """Ask the k nearest to keep the record; this peer is one of them if it is near enough."""
        running.is_storing = True
        running.give_up_at = now + self._config.query.lookup_s_max
        nearest = list(running.lookup.nearest)
        own_distance = distance(self._own, running.key)
        nearer = sum(distance(contact.peer or b"", running.key) < own_distance for contact in nearest)
        if nearer < self._config.k:
            nearest = nearest[: self._config.k - 1]
            running.stored_at += self._store.put(record, now) == "stored"
        effects: list[Effect] = []
        for contact in nearest:
            token = self._tokens.token_for(contact.peer, now)
            if token:  # always, except where the peer answered long ago
                message = StoreRecords(query=self._queries.choose_id(), token=token, records=(record,))
                effects += self._ask(QueryKind.STORE, contact, message, now, running.id)
                running.storing.add(message.query)
        return effects + self._advance(running, now)

    def _on_time_up(self, running: RunningLookup, now: float) -> list[Effect]:
        """Go on with what there is: a put stores at whoever answered so far."""
        if running.record is not None and not running.is_storing:
            return self._store_copies(running, running.record, now)
        return self._finish(running, now)

    def _finish(self, running: RunningLookup, now: float) -> list[Effect]:
        if self._running.pop(running.id, None) is None:
            return []
        nearest = running.lookup.nearest
        self._counters["lookup_queries"] += running.lookup.queries
        if running.purpose is Purpose.UPKEEP:
            self._upkeep.finished(running.key, bool(nearest), now)
            return []  # the deadline is now, if another lookup of upkeep waits
        return [Deliver(running.done(nearest))] if running.purpose.is_delivered else []

    # Questions of ours

    def _ask_nodes(
        self, contact: Contact, key: bytes, now: float, *, records: bool, lookup: LookupId | None
    ) -> list[Effect]:
        token = self._tokens.token_for(contact.peer, now)
        padding = b"" if token else question_padding(self._config.answer.body_size_bytes_max, 1)
        message = FindNodes(
            query=self._queries.choose_id(), keys=(key,), records=records, token=token, padding=padding
        )
        kind = QueryKind.BOOTSTRAP if lookup is None else QueryKind.FIND
        return self._ask(kind, contact, message, now, lookup)

    def _ask(
        self,
        kind: QueryKind,
        contact: Contact,
        message: DhtPing | FindNodes | StoreRecords,
        now: float,
        lookup: LookupId | None = None,
    ) -> list[Effect]:
        config = self._config.query
        known = self._table[contact.peer] if contact.peer is not None else None
        timeout_s = (
            (known.round_trip.timeout_s(config) if known else None)
            or self._round_trip.timeout_s(config)
            or config.timeout_initial_s
        )
        query = Query(message.query, kind, contact, message, now, timeout_s, lookup)
        self._queries.open(query, now)
        self._counters["queries"] += 1
        return [Send(contact, message)]

    def _expected(self, sender: Contact, query_id: int, *kinds: QueryKind) -> Query | None:
        """The open question that this message answers, if it comes from whom we asked."""
        query = self._queries.get(query_id)
        if query is None or query.kind not in kinds or query.to.peer not in (None, sender.peer):
            self._counters["answers_unasked"] += 1  # most are late, or repeated by the network
            return None
        return query

    def _answered(self, query: Query, sender: Contact, now: float) -> list[Effect]:
        """Believe that the peer is where we asked it."""
        self._queries.close(query)
        self._note_answer(query, sender, now)
        return []

    def _note_answer(self, query: Query, sender: Contact, now: float) -> Contact:
        contact = query.to if query.to.peer is not None else sender
        round_trip_s = now - query.asked_at
        self._round_trip.add(round_trip_s)
        self._table.confirm(contact, round_trip_s, now)
        self._counters["answers"] += 1
        return contact

    def _on_found_nodes(self, sender: Contact, message: FoundNodes, now: float) -> list[Effect]:
        query = self._expected(sender, message.query, QueryKind.FIND, QueryKind.BOOTSTRAP)
        peer = sender.peer
        if query is None or peer is None:
            return []
        if message.page >= message.page_count:
            self._counters["answers_malformed"] += 1
            return [Misbehaved(peer, f"page {message.page} of {message.page_count} pages")]
        if message.page in query.pages:
            return []
        self._tokens.keep(peer, message.token, now)
        if not query.pages:
            self._note_answer(query, sender, now)
        query.pages.add(message.page)
        effects = self._take_answer(query, sender, message, now)
        if message.again and not query.is_renewed:
            return effects + self._ask_again(query, message.token, now)
        if len(query.pages) >= message.page_count:
            effects += self._complete(query, now)
        return effects

    def _take_answer(self, query: Query, sender: Contact, message: FoundNodes, now: float) -> list[Effect]:
        """Give what one page tells to the lookup that asked."""
        if query.kind is QueryKind.BOOTSTRAP:
            self._upkeep.answered_bootstrap(now)
            return []
        running = self._running.get(query.lookup) if query.lookup is not None else None
        if running is None:
            return []
        told = message.contacts[: max(0, self._config.answer.contacts_count - query.contacts_count)]
        query.contacts_count += len(told)
        teller_reach = reach(query.to.endpoint.host)
        usable = [contact for contact in told if plausible(contact, teller_reach, self._own)]
        self._counters["contacts_refused"] += len(message.contacts) - len(usable)
        query.has_progress |= running.lookup.add(usable)
        wanted = [record for record in message.records if record.key == running.key]
        if running.purpose is Purpose.GET:
            running.gather(record for record in wanted if is_timely(record, self._config.record, now))
        if len(wanted) < len(message.records) and sender.peer is not None:
            return [Misbehaved(sender.peer, "answered with records of another key")]
        return []

    def _ask_again(self, query: Query, token: bytes, now: float) -> list[Effect]:
        """Ask once more with the token just received: there is more, for those who have one."""
        self._queries.close(query)
        old = query.message
        if not isinstance(old, FindNodes):
            return []
        message = FindNodes(query=self._queries.choose_id(), keys=old.keys, records=old.records, token=token)
        renewed = Query(message.query, query.kind, query.to, message, now, query.timeout_s, query.lookup)
        renewed.is_renewed = True
        renewed.has_progress = query.has_progress
        self._queries.open(renewed, now)
        self._counters["queries_renewed"] += 1
        return [Send(query.to, message)]

    def _complete(self, query: Query, now: float) -> list[Effect]:
        """A question has its answer, whole or as much of it as came."""
        self._queries.close(query)
        running = self._running.get(query.lookup) if query.lookup is not None else None
        if running is None:
            return []
        if query.to.peer is not None:
            running.lookup.answered(query.to.peer, has_progress=query.has_progress)
        return self._advance(running, now)

    def _on_stored(self, sender: Contact, message: Stored, now: float) -> list[Effect]:
        query = self._expected(sender, message.query, QueryKind.STORE)
        if query is None:
            return []
        self._answered(query, sender, now)
        is_kept = message.codes == ("stored",)
        self._counters[f"stores_{'kept' if is_kept else 'refused'}"] += 1
        if "token" in message.codes and sender.peer is not None:
            self._tokens.forget(sender.peer)
        running = self._running.get(query.lookup) if query.lookup is not None else None
        if running is None:
            return []
        running.storing.discard(query.id)
        running.stored_at += is_kept
        return self._advance(running, now)

    def _on_timeout(self, query: Query, now: float) -> list[Effect]:
        """No answer in time: ask again, or give up."""
        if query.pages:
            self._counters["answers_partial"] += 1
            return self._complete(query, now)
        if query.attempts >= self._config.query.attempts_max:
            return self._give_up(query, now)
        query.attempts += 1
        self._queries.open(query, now)
        self._counters["queries_repeated"] += 1
        effects: list[Effect] = [Send(query.to, query.message)]
        running = self._running.get(query.lookup) if query.lookup is not None else None
        if running is not None and query.kind is QueryKind.FIND and query.to.peer is not None:
            running.lookup.slow(query.to.peer)
            effects += self._advance(running, now)
        return effects

    def _give_up(self, query: Query, now: float) -> list[Effect]:
        self._queries.close(query)
        self._counters["queries_failed"] += 1
        if query.to.peer is not None:
            self._table.fail(query.to.peer, now)
            self._upkeep.hurry_check(now)
        running = self._running.get(query.lookup) if query.lookup is not None else None
        if running is None:
            return []
        if query.kind is QueryKind.STORE:
            running.storing.discard(query.id)
        elif query.to.peer is not None:
            running.lookup.failed(query.to.peer)
        return self._advance(running, now)

    # Upkeep

    def _do_upkeep(self, now: float) -> list[Effect]:
        effects: list[Effect] = []
        for contact in self._upkeep.bootstrap_due(now):
            effects += self._ask_nodes(contact, self._own, now, records=False, lookup=None)
        while (key := self._upkeep.key_due(now)) is not None:
            effects += self._start(Purpose.UPKEEP, key, now)[1]
        contact_to_check = self._upkeep.check_due(now)
        if contact_to_check is not None:
            ping = DhtPing(self._queries.choose_id())
            effects += self._ask(QueryKind.CHECK, contact_to_check, ping, now)
        return effects
