"""The asking half of the DHT: questions go out, answers are matched to them and sifted, silence is noticed.

Rules:

1. An answer counts only from the peer that was asked, under the number that it was asked with; it also proves
   that the peer receives what is sent to that endpoint.
2. How long to wait follows from the peer's measured round trips, then from everybody's.
3. What an answer tells is filtered here: no more contacts than were asked for, none that this peer has no
   use for, no records of other keys.
"""

from __future__ import annotations

import enum
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from p2pinfer.dht.addresses import plausible, reach
from p2pinfer.dht.answers import KEYS_SHARE_MAX
from p2pinfer.dht.config import DhtConfig
from p2pinfer.dht.handover import Handover
from p2pinfer.dht.news import LookupId
from p2pinfer.dht.packing import question_padding
from p2pinfer.dht.queries import Queries, Query, QueryKind
from p2pinfer.dht.roundtrip import RoundTrip
from p2pinfer.dht.table import RoutingTable
from p2pinfer.dht.tokens import HeldTokens
from p2pinfer.effects import Effect, Misbehaved, Send
from p2pinfer.ids import Contact, PeerId
from p2pinfer.wire.messages.dht import (
    DhtPing,
    DhtRecord,
    FindNodes,
    FoundNodes,
    Stored,
    StoreRecords,
)

__all__ = ["Asker", "Extent", "Page", "Silence", "Silent"]


_TOKEN_PADDING_SIZE_BYTES = 100
"""Zeros in a question that wants a token alone: room for an answer without contacts."""


@dataclass(frozen=True, slots=True)
class Page:
    """What one page of an answer tells, as far as it may be believed."""

    query: Query
    peer: PeerId
    contacts: tuple[Contact, ...]
    records: tuple[DhtRecord, ...]
    is_last: bool
    """Whether the answer is complete with it."""
    has_all_records: bool
    """Whether, complete, it told of every record that the peer holds under the keys."""


class Extent(enum.Enum):
    """How much an answer should tell."""

    BRIEF = enum.auto()
    """The k nearest and no more; or records, and the contacts that fit beside them."""
    FULL = enum.auto()
    WIDE = enum.auto()
    """Twice as many contacts as else, where many do not answer."""


class Silence(enum.Enum):
    """What became of a question that was not answered in time."""

    SLOW = enum.auto()
    """It was asked again."""
    PARTIAL = enum.auto()
    """Some of its pages are missing, and will be."""
    FAILED = enum.auto()


Silent = tuple[Query, Silence]


class Asker:
    """Asks, and tells what came of it."""

    def __init__(
        self,
        own: PeerId,
        table: RoutingTable,
        handover: Handover,
        config: DhtConfig,
        rng: random.Random,
    ) -> None:
        self.table = table
        self._handover = handover
        self._owed: dict[int, list[DhtRecord]] = {}
        self._own = own
        self._config = config
        self._queries = Queries(rng)
        self._tokens = HeldTokens(config.answer.token_interval_s)
        self._round_trip = RoundTrip()
        self.counters: Counter[str] = Counter()

    # Questions

    def ask_nodes(
        self,
        contact: Contact,
        keys: Sequence[bytes],
        now: float,
        *,
        lookup: LookupId | None,
        records: bool = False,
        extent: Extent = Extent.FULL,
    ) -> list[Effect]:
        """Ask who is nearest to these keys, and with `records` for what is stored under them."""
        token = self._tokens.token_for(contact.peer, now)
        size_bytes_max = self._config.answer.body_size_bytes_max
        message = FindNodes(
            query=self._queries.choose_id(),
            keys=tuple(keys),
            records=records,
            token=token,
            padding=b"" if token else question_padding(size_bytes_max, len(keys)),
            brief=extent is Extent.BRIEF,
            wide=extent is Extent.WIDE,
        )
        kind = QueryKind.BOOTSTRAP if lookup is None else QueryKind.FIND
        query = self._query(kind, contact, message, now)
        query.keys, query.lookup = message.keys, lookup
        return self._send(query, now)

    def ping(self, contact: Contact, now: float) -> list[Effect]:
        """Ask whether a contact is there."""
        message = DhtPing(self._queries.choose_id())
        return self._send(self._query(QueryKind.CHECK, contact, message, now), now)

    def store(
        self,
        contact: Contact,
        records: Sequence[DhtRecord],
        now: float,
        *,
        lookup: LookupId | None = None,
        expected: int = -1,
    ) -> tuple[Query | None, list[Effect]]:
        """Ask a peer to keep records; nothing happens where it gave no token lately."""
        token = self._tokens.token_for(contact.peer, now)
        if not token:
            return None, []
        message = StoreRecords(
            query=self._queries.choose_id(), token=token, records=tuple(records), expected=expected
        )
        query = self._query(QueryKind.STORE, contact, message, now)
        query.keys, query.lookup = tuple(record.key for record in records), lookup
        return query, self._send(query, now)

    def hand_over(self, now: float) -> list[Effect]:
        """Store what is due at new neighbours, at once or as soon as they have given us a token."""
        effects: list[Effect] = []
        for contact, records in self._handover.due(now):
            query, sends = self.store(contact, records, now)
            effects += sends
            if query is None:
                padding = bytes(_TOKEN_PADDING_SIZE_BYTES)
                message = FindNodes(query=self._queries.choose_id(), keys=(self._own,), padding=padding)
                query = self._query(QueryKind.FIND, contact, message, now)
                query.keys = message.keys
                self._owed[query.id] = records
                effects += self._send(query, now)
        return effects

    # Answers

    def on_pong(self, sender: Contact, query_id: int, now: float) -> None:
        """A contact is there."""
        query = self._expected(sender, query_id, QueryKind.CHECK)
        if query is not None:
            self._queries.close(query)
            self._note_answer(query, sender, now)

    def on_found_nodes(
        self, sender: Contact, message: FoundNodes, now: float
    ) -> tuple[Page | None, list[Effect]]:
        """Take one page; None where it answers nothing that was asked."""
        query = self._expected(sender, message.query, QueryKind.FIND, QueryKind.BOOTSTRAP)
        peer = sender.peer
        if query is None or peer is None:
            return None, []
        if message.page >= message.page_count:
            self.counters["answers_malformed"] += 1
            return None, [Misbehaved(peer, f"page {message.page} of {message.page_count} pages")]
        if message.page in query.pages:
            return None, []
        self._tokens.keep(peer, message.token, now)
        if not query.pages:
            self._note_answer(query, sender, now)
        query.pages.add(message.page)
        wanted = tuple(record for record in message.records if record.key in query.keys)
        query.told.update(record.key for record in wanted)
        effects: list[Effect] = self._introduce(query, message) if len(query.pages) == 1 else []
        if len(wanted) < len(message.records):
            effects.append(Misbehaved(peer, "answered with records of another key"))
        is_renewed = message.again and not query.is_renewed
        is_last = not is_renewed and len(query.pages) >= message.page_count
        if is_renewed or is_last:
            self._queries.close(query)
        if is_renewed:
            self._owed.pop(query.id, None)
            effects += self._ask_again(query, message.token, now)
        owed = self._owed.pop(query.id, None) if is_last else None
        if owed is not None:
            effects += self.store(query.to, owed, now)[1]
        page = Page(
            query=query,
            peer=peer,
            contacts=self._sift(query, message),
            records=wanted,
            is_last=is_last,
            has_all_records=is_last and query.told.total() >= message.records_count,
        )
        return page, effects

    def on_stored(self, sender: Contact, message: Stored, now: float) -> Query | None:
        """Take the answer to a store; None where it answers nothing that was asked."""
        query = self._expected(sender, message.query, QueryKind.STORE)
        if query is None:
            return None
        self._queries.close(query)
        self._note_answer(query, sender, now)
        if "token" in message.codes and sender.peer is not None:
            self._tokens.forget(sender.peer)
        return query

    # Time

    def overdue(self, now: float) -> Iterator[tuple[Silent, list[Effect]]]:
        """Say of each question whose time is up what becomes of it."""
        for query in self._queries.due(now):
            if self._queries.is_open(query):
                yield self._on_timeout(query, now)

    def give_up_on(self, peer: PeerId, now: float) -> list[Query]:
        """Stop waiting for a peer that is dead; return what it was asked."""
        self._handover.gone(peer, now)
        self._tokens.forget(peer)
        queries = self._queries.to_peer(peer)
        for query in queries:
            self._close(query)
            self.counters["queries_failed"] += 1
        return queries

    @property
    def deadline(self) -> float | None:
        """When the next question has waited long enough, or the next record is to be handed over."""
        times = (self._queries.deadline, self._handover.deadline)
        return min((at for at in times if at is not None), default=None)

    @property
    def open_count(self) -> int:
        """Questions that wait."""
        return len(self._queries)

    @property
    def round_trip_s(self) -> float | None:
        """The smoothed round trip of all contacts together."""
        return self._round_trip.mean_s

    # Inside

    def _query(
        self, kind: QueryKind, contact: Contact, message: DhtPing | FindNodes | StoreRecords, now: float
    ) -> Query:
        config = self._config.query
        known = self.table[contact.peer] if contact.peer is not None else None
        timeout_s = (
            (known.round_trip.timeout_s(config) if known else None)
            or self._round_trip.timeout_s(config)
            or config.timeout_initial_s
        )
        return Query(message.query, kind, contact, message, now, timeout_s)

    def _send(self, query: Query, now: float) -> list[Effect]:
        self._queries.open(query, now)
        self.counters["queries"] += 1
        return [Send(query.to, query.message)]

    def _expected(self, sender: Contact, query_id: int, *kinds: QueryKind) -> Query | None:
        """The open question that this message answers, if it comes from whom we asked."""
        query = self._queries.get(query_id)
        if query is None or query.kind not in kinds or query.to.peer not in (None, sender.peer):
            self.counters["answers_unasked"] += 1  # most are late, or repeated by the network
            return None
        return query

    def _note_answer(self, query: Query, sender: Contact, now: float) -> None:
        """Believe that the peer is where we asked it."""
        contact = query.to if query.to.peer is not None else sender
        round_trip_s = now - query.asked_at
        self._round_trip.add(round_trip_s)
        self.table.confirm(contact, round_trip_s, now)
        self.counters["answers"] += 1
        if contact.peer is not None and contact.peer in self.table:
            self._handover.came(contact, now)

    def _introduce(self, query: Query, message: FoundNodes) -> list[Effect]:
        """Show a peer that asked for no proof yet that we are where its answer went.

        Only then does it take us for a contact: it need not ask an address that may be forged.
        """
        asked = query.message
        if not isinstance(asked, FindNodes) or asked.token:
            return []
        return [Send(query.to, DhtPing(self._queries.choose_id(), message.token))]

    def _sift(self, query: Query, message: FoundNodes) -> tuple[Contact, ...]:
        """The contacts of a page that may be used."""
        count_max = self._config.answer.contacts_count * min(len(query.keys), KEYS_SHARE_MAX)
        count_max *= 2 if isinstance(query.message, FindNodes) and query.message.wide else 1
        told = message.contacts[: max(0, count_max - query.contacts_count)]
        query.contacts_count += len(told)
        teller_reach, difficulty = reach(query.to.endpoint.host), self._config.id_difficulty
        usable = []
        for contact in told:
            known = self.table.good_contact(contact.peer)
            if known is not None:
                usable.append(known)  # where it answers, whatever others say
            elif plausible(contact, teller_reach, self._own, difficulty):
                usable.append(contact)
        self.counters["contacts_refused"] += len(message.contacts) - len(usable)
        return tuple(usable)

    def _close(self, query: Query) -> None:
        self._queries.close(query)
        self._owed.pop(query.id, None)

    def _ask_again(self, query: Query, token: bytes, now: float) -> list[Effect]:
        """Ask once more with the token just received: there is more, for those who have one."""
        old = query.message
        if not isinstance(old, FindNodes):
            return []
        message = FindNodes(query=self._queries.choose_id(), keys=old.keys, records=old.records, token=token)
        renewed = Query(message.query, query.kind, query.to, message, now, query.timeout_s)
        renewed.keys, renewed.lookup = query.keys, query.lookup
        renewed.is_renewed = True
        renewed.has_progress = query.has_progress
        self._queries.open(renewed, now)
        self.counters["queries_renewed"] += 1
        return [Send(query.to, message)]

    def _on_timeout(self, query: Query, now: float) -> tuple[Silent, list[Effect]]:
        if query.pages:
            self._close(query)
            self.counters["answers_partial"] += 1
            return (query, Silence.PARTIAL), []
        if query.attempts >= self._config.query.attempts_max:
            self._close(query)
            self.counters["queries_failed"] += 1
            self.table.fail(query.to, now)
            if query.to.peer is not None:
                known = self.table[query.to.peer]
                if known is None or known.failures >= self._config.table.failures_replace_count:
                    self._handover.gone(query.to.peer, now)
            return (query, Silence.FAILED), []
        query.attempts += 1
        self._queries.open(query, now)
        self.counters["queries_repeated"] += 1
        return (query, Silence.SLOW), [Send(query.to, query.message)]
