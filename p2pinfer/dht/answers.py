"""The answering half of the DHT: what others may ask of this peer, and what they may not.

Rules:

1. To an address that proved nothing we send no more bytes than came from it, so nobody can turn us against
   the owner of an address (BEP-5's token; the padding is QUIC's, RFC 9000, section 8.1).
2. A record is kept only for somebody who proved its address, if its namespace allows it, and only within the
   quotas. Whoever brought one that was refused because of another is shown that one.
3. Each peer's questions are limited; above that they are dropped unanswered, and it will ask again.
"""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Sequence

from p2pinfer.dht.config import DhtConfig
from p2pinfer.dht.limits import RateLimit
from p2pinfer.dht.neighbours import Neighbours
from p2pinfer.dht.news import ForkFound
from p2pinfer.dht.packing import frame_size_bytes, pack
from p2pinfer.dht.records import Fork
from p2pinfer.dht.store import RecordStore
from p2pinfer.dht.table import RoutingTable
from p2pinfer.dht.tokens import TokenIssuer
from p2pinfer.effects import Effect, Message, Misbehaved, Notify, Send
from p2pinfer.ids import Contact, PeerId
from p2pinfer.wire.codec import encoded_size
from p2pinfer.wire.messages.dht import DhtPing, DhtPong, FindNodes, FoundNodes, Stored, StoreRecords

__all__ = ["KEYS_SHARE_MAX", "Answers", "fork_effects"]

_CODES_WITH_HELD = ("old", "fork", "cas")

KEYS_SHARE_MAX = 4
"""An answer about many keys has at most this many times the contacts of one about a single key."""
_NEAREST_TOLD_COUNT = 9
"""The nearest contacts that every answer has, half of a page: a lookup comes nearer by them. Each of the 21
others is missing in twenty answers with a probability of (13/21)^20, one in 14,000."""


class Answers:
    """Answers questions out of a table and a store."""

    def __init__(
        self,
        table: RoutingTable,
        store: RecordStore,
        neighbours: Neighbours,
        config: DhtConfig,
        rng: random.Random,
        now: float,
    ) -> None:
        self._table = table
        self._store = store
        self._neighbours = neighbours
        self._config = config
        self._rng = rng
        self._issuer = TokenIssuer(config.answer.token_interval_s, rng, now)
        self._limit = RateLimit(config.answer)
        self.counters: Counter[str] = Counter()

    def is_proved(self, sender: Contact, message: Message, now: float) -> bool:
        """Whether a question shows that its sender receives what is sent to its address."""
        token = getattr(message, "token", b"")
        return bool(token) and self._issuer.is_good(token, sender, now)

    def receive(self, sender: Contact, peer: PeerId, message: Message, now: float) -> list[Effect]:
        """Answer one question."""
        if not self._limit.allows(sender, now):
            self.counters["questions_over_rate"] += 1
            return []
        self.counters["questions"] += 1
        match message:
            case DhtPing(token=token):
                return [Send(sender, DhtPong(message.query))] if not token else []
            case FindNodes():
                return self._on_find_nodes(sender, peer, message, now)
            case StoreRecords():
                return self._on_store_records(sender, message, now)
            case _:
                return []

    def _on_find_nodes(self, sender: Contact, peer: PeerId, message: FindNodes, now: float) -> list[Effect]:
        limits = self._config.answer
        is_proved = self._issuer.is_good(message.token, sender, now)
        records = [each for key in message.keys for each in self._store.get(key, now) if message.records]
        contacts = self._nearest(message.keys, peer, self._contacts_count(message, bool(records)))
        # Where not all fit, each answer has others, so that all holders together tell of all records.
        self._rng.shuffle(records)
        size_bytes_max = limits.body_size_bytes_max
        if not is_proved:
            size_bytes_max = min(size_bytes_max, encoded_size(message))
            contacts = self._vary(contacts)
        frame = frame_size_bytes(sender.endpoint)
        if frame > size_bytes_max:
            self.counters["questions_too_small"] += 1
            return []
        is_short = not is_proved or (message.brief and bool(records))
        pages_count_max = 1 if is_short else limits.pages_count_max
        pages, is_cut = pack(
            contacts, records, size_bytes_max - frame, pages_count_max, records_first=message.brief
        )
        is_bad_token = bool(message.token) and not is_proved
        self.counters["bad_tokens"] += is_bad_token
        has_more = is_cut and is_short and (is_bad_token or len(pages[0].records) < len(records))
        token = self._issuer.issue(sender, now)
        return [
            Send(
                sender,
                FoundNodes(
                    query=message.query,
                    page=index,
                    page_count=len(pages),
                    token=token,
                    seen=sender.endpoint,
                    records_count=len(records),
                    again=has_more,
                    contacts=tuple(page.contacts),
                    records=tuple(page.records),
                ),
            )
            for index, page in enumerate(pages)
        ]

    def _contacts_count(self, message: FindNodes, has_records: bool) -> int:
        """How many contacts to tell of for each key."""
        if not message.brief:
            return self._config.answer.contacts_count * (2 if message.wide else 1)
        # Who finds records here needs a few more holders at most.
        return 2 * self._config.alpha if has_records else self._config.k

    def _nearest(self, keys: Sequence[bytes], asker: PeerId, count: int) -> list[Contact]:
        """The contacts nearest to each key, the nearest of all keys first; each once."""
        if len(keys) == 1:
            return self._table.nearest(keys[0], count, but=asker)
        ranks = itertools.zip_longest(*(self._table.nearest(key, count, but=asker) for key in set(keys)))
        found = dict.fromkeys(contact for rank in ranks for contact in rank if contact is not None)
        return list(found)[: count * KEYS_SHARE_MAX]

    def _vary(self, contacts: list[Contact]) -> list[Contact]:
        """Leave the nearest where they are and shuffle the rest, of which one page has room for a part.

        With the nearest alone, all who are near a key tell of the same 17, and nobody of the 18th to 20th.
        """
        rest = contacts[_NEAREST_TOLD_COUNT:]
        self._rng.shuffle(rest)
        return contacts[:_NEAREST_TOLD_COUNT] + rest

    def _on_store_records(self, sender: Contact, message: StoreRecords, now: float) -> list[Effect]:
        if not self._issuer.is_good(message.token, sender, now):
            self.counters["bad_tokens"] += 1
            return [Send(sender, Stored(message.query, ("token",) * len(message.records)))]
        placed = []
        for index, record in enumerate(message.records):
            expected = message.expected if index == 0 else -1
            nearer_count = self._neighbours.nearer_count(record.key)
            placed.append(self._store.put(record, sender, now, expected=expected, nearer_count=nearer_count))
        in_the_way = next((each.held for each in placed if each.code in _CODES_WITH_HELD), None)
        held = () if in_the_way is None else (in_the_way,)
        codes = tuple(each.code for each in placed)
        effects: list[Effect] = [Send(sender, Stored(message.query, codes, held))]
        for each in placed:
            if each.fork is not None:
                effects += fork_effects(each.fork)
        return effects


def fork_effects(fork: Fork) -> list[Effect]:
    """Report a contradiction: to the application, with the evidence, and as misbehaviour of its owner."""
    found = ForkFound(fork.first, fork.second)
    return [Notify(found), Misbehaved(fork.owner, "signed two values under one sequence")]
