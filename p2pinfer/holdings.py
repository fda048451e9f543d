"""What the DHT is told of a peer's layers, and asked of others' where SWIM knows no holder.

A part of `peer_core`; pure like it. Its means is the DHT's core, and what it finds are hints for SWIM.

Rules:

1. The DHT has one record of the span that is served now. When it changes or ends, an empty value with a
   higher sequence takes its place and stays as long as the old one could live: whoever finds both knows which
   is later, and no copy that missed the change brings the old one back.
2. Nothing found is believed. A holder in the DHT is somebody to ask; it counts once SWIM has its own word.
3. A model is asked about once in a while, several models in one question, and of an answer only so many
   holders are asked, one after another: no record can make this peer flood anybody.
"""

from __future__ import annotations

from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import chain, zip_longest

from p2pinfer.dht.core import DhtCore
from p2pinfer.dht.keyspace import key_of
from p2pinfer.dht.news import LookupDone, LookupId
from p2pinfer.dht.put import Put
from p2pinfer.effects import Effect, Notify
from p2pinfer.errors import DecodeError, LocalProtocolError, Overloaded
from p2pinfer.ids import Contact, Endpoint, PeerId
from p2pinfer.wire.codec import decode, encode
from p2pinfer.wire.messages.dht import KEYS_COUNT_MAX, DhtRecord
from p2pinfer.wire.messages.dht_use import HeldSpan
from p2pinfer.wire.messages.records import Holding

__all__ = ["HOLDERS", "HoldersFound", "Holdings", "held_span", "holders_key"]

HOLDERS = "holders"
"""The namespace of these records."""
TTL_S = 600.0
"""How long a record lives without being put again, seconds: what a crashed holder leaves is gone then."""
RETRY_S = 1.0
"""After the DHT had no room for a put or a question, or nobody but this peer to keep a record: doubles."""
RETRY_S_MAX = 60.0
SEEK_INTERVAL_S = 10.0
"""The shortest time between two questions about one model."""
MODELS_COUNT_MAX = 64
"""Models whose last question is remembered."""
HINT_INTERVAL_S = 0.1
"""Between two holders that are asked: SWIM's answer to one may make the others known."""
FOUND_COUNT_MAX = 64
"""Holders of an answer that wait to be asked."""
AWAITED_S = 2.0
"""How long a holder that is asked may take until SWIM knows it: a ping, or a state exchange."""
PER_ENDPOINT_COUNT_MAX = 2
"""Of them at one address: owners cost nothing to make up, and an address may be a stranger's."""

_Place = tuple[bytes, bytes]


@dataclass(slots=True)
class _Sought:
    """A model that the DHT was asked about."""

    not_before: float
    """When it may be asked about again."""
    due_at: float | None
    """When the question is to go out; None once it has."""
    awaited_until: float = 0.0
    """Until then SWIM may come to know what was found."""


@dataclass(frozen=True, slots=True)
class HoldersFound:
    """A question about the holders of models has its answer; what it brings to SWIM comes a moment later."""

    digests: tuple[bytes, ...]
    holder_count: int
    """Holders that were not known to serve and are asked now."""


def holders_key(digest: bytes) -> bytes:
    """The key under which the holders of a model are found; the digest is the SHA-256 of its file."""
    return key_of(HOLDERS, digest)


def held_span(record: DhtRecord) -> HeldSpan | None:
    """Read a holder's record; None where it says nothing, or nothing sound."""
    if record.namespace != HOLDERS or not record.value:
        return None
    try:
        held = decode(record.value)
    except DecodeError:
        return None
    if not isinstance(held, HeldSpan) or not held.is_plausible or held.subkey != record.subkey:
        return None
    return held


class Holdings:
    """One peer's word in the DHT about its layers, and its questions about those of others.

    Args:
        dht: The peer's.
        me: The peer.
        serves: Whether SWIM says already that a peer serves layers of a model.
    """

    def __init__(self, dht: DhtCore, me: Contact, serves: Callable[[bytes, PeerId], bool]) -> None:
        self._dht = dht
        self._me = me
        self._serves = serves
        self._wanted: tuple[bytes, HeldSpan] | None = None
        self._told: tuple[bytes, HeldSpan] | None = None
        self._tell_at: float | None = None
        self._retry_s = RETRY_S
        self._withdrawn: dict[_Place, float] = {}
        self._putting: set[LookupId] = set()
        self._asking: dict[LookupId, tuple[bytes, ...]] = {}
        self._sought: OrderedDict[bytes, _Sought] = OrderedDict()
        self._found: deque[tuple[bytes, Contact]] = deque()
        self._hint_at = 0.0
        self._counts: Counter[str] = Counter()

    # --- this peer's own layers -----------------------------------------------------------------

    def tell(self, held: Holding | None, now: float) -> list[Effect]:
        """Say in the DHT what this peer serves now; who loads or drains is not to be found."""
        wanted = _wanted(held, self._me.endpoint)
        if wanted == self._wanted:
            return []
        self._wanted = wanted
        self._retry_s = RETRY_S
        return self._publish(now)

    def set_endpoint(self, endpoint: Endpoint, now: float) -> list[Effect]:
        """This peer is elsewhere from now on: its record says so."""
        self._me = Contact(self._me.peer, endpoint)
        if self._wanted is None:
            return []
        key, held = self._wanted
        self._wanted = key, replace(held, endpoint=endpoint)
        return self._publish(now)

    @property
    def is_settled(self) -> bool:
        """Whether all that was to be told is told, as far as the DHT took it."""
        return self._tell_at is None and not self._putting

    def _publish(self, now: float) -> list[Effect]:
        effects: list[Effect] = []
        self._tell_at = None
        try:
            if self._told is not None and _place(self._told) != _place(self._wanted):
                key, held = self._told
                effects += self._put(key, held.subkey, b"", now)
                self._withdrawn[key, held.subkey] = now + TTL_S / 2
                self._told = None
            if self._wanted is not None and self._wanted != self._told:
                key, held = self._wanted
                effects += self._put(key, held.subkey, encode(held), now)
                self._withdrawn.pop((key, held.subkey), None)
                self._told = self._wanted
        except Overloaded:
            self._tell_at = now + RETRY_S
        except LocalProtocolError:  # an application has put all that others keep of one owner
            self._counts["untold"] += 1
            self._tell_at = now + TTL_S
        return effects

    def _put(self, key: bytes, subkey: bytes, value: bytes, now: float) -> list[Effect]:
        wanted = Put(key=key, value=value, subkey=subkey, ttl_s=TTL_S, namespace=HOLDERS)
        lookup, effects = self._dht.put(wanted, now)
        self._putting.add(lookup)
        self._counts["told"] += 1
        return effects

    # --- the layers of others -------------------------------------------------------------------

    def seek(self, digest: bytes, now: float) -> None:
        """Ask the DHT who holds layers of a model, unless that was done a short while ago."""
        sought = self._sought.get(digest)
        if sought is not None and now < sought.not_before:
            return
        self._sought[digest] = _Sought(now + SEEK_INTERVAL_S, now)
        self._sought.move_to_end(digest)
        if len(self._sought) > MODELS_COUNT_MAX:
            self._sought.popitem(last=False)

    def is_seeking(self, digest: bytes, now: float) -> bool:
        """Whether a question about a model is open, or holders that were found may yet be known to SWIM."""
        sought = self._sought.get(digest)
        is_asked = any(digest in digests for digests in self._asking.values())
        return is_asked or (sought is not None and (sought.due_at is not None or now < sought.awaited_until))

    def take_found(self, now: float) -> Contact | None:
        """Return the next holder to ask, if one is due."""
        while self._found and now >= self._hint_at:
            digest, contact = self._found.popleft()
            if contact.peer is not None and not self._serves(digest, contact.peer):
                self._hint_at = now + HINT_INTERVAL_S
                self._counts["asked"] += 1
                return contact
        return None

    def finished(self, done: LookupDone, now: float) -> list[Effect] | None:
        """Take the end of a lookup; None where it is somebody else's."""
        if done.id in self._putting:
            self._putting.discard(done.id)
            if done.stored_at <= 1 and self._wanted is not None and self._tell_at is None:
                # Nobody was there to keep it: this peer has just come, and the others are still to be met.
                self._told, self._tell_at = None, now + self._retry_s
                self._retry_s = min(2 * self._retry_s, RETRY_S_MAX)
            return []
        digests = self._asking.pop(done.id, None)
        if digests is None:
            return None
        found = self._chosen(done.values, digests)
        self._found.extend(found)
        self._counts["found"] += len(found)
        for digest in {digest for digest, _ in found} & self._sought.keys():
            self._sought[digest].awaited_until = now + AWAITED_S
        return [Notify(HoldersFound(digests, len(found)))]

    def _chosen(
        self, records: Iterable[DhtRecord], digests: tuple[bytes, ...]
    ) -> list[tuple[bytes, Contact]]:
        """The holders to ask: those of different spans take turns, so that the first few cover much."""
        digest_of = {holders_key(digest): digest for digest in digests}
        by_span: dict[_Place, list[tuple[bytes, Contact]]] = {}
        at_endpoint: Counter[Endpoint] = Counter()
        for record in records:
            held, digest = held_span(record), digest_of.get(record.key)
            if held is None or digest is None:
                self._counts["unsound"] += bool(record.value)
                continue
            owner = record.owner
            if owner == self._me.peer or self._serves(digest, owner):
                continue
            at_endpoint[held.endpoint] += 1
            if at_endpoint[held.endpoint] <= PER_ENDPOINT_COUNT_MAX:
                span = by_span.setdefault((record.key, record.subkey), [])
                span.append((digest, Contact(owner, held.endpoint)))
        turns = chain.from_iterable(zip_longest(*by_span.values()))
        room = FOUND_COUNT_MAX - len(self._found)
        return [each for each in turns if each is not None][: max(0, room)]

    # --- the core's contract --------------------------------------------------------------------

    def tick(self, now: float) -> list[Effect]:
        """Do what is due at `now`, but for `take_found`."""
        effects: list[Effect] = []
        if self._tell_at is not None and now >= self._tell_at:
            effects += self._publish(now)
        for place in [place for place, until in self._withdrawn.items() if now >= until]:
            del self._withdrawn[place]
            effects += self._dht.unput(*place, now)
        due = [
            each
            for each, sought in self._sought.items()
            if sought.due_at is not None and now >= sought.due_at
        ]
        if due:
            effects += self._ask(tuple(due[:KEYS_COUNT_MAX]), now)
        return effects

    @property
    def deadline(self) -> float | None:
        """When `tick` or `take_found` wants to be called next."""
        times = [sought.due_at for sought in self._sought.values() if sought.due_at is not None]
        times += self._withdrawn.values()
        if self._tell_at is not None:
            times.append(self._tell_at)
        if self._found:
            times.append(self._hint_at)
        return min(times, default=None)

    def statistics(self) -> Mapping[str, int]:
        """Counters by name; a copy."""
        return {**self._counts, "waiting": len(self._found)}

    def _ask(self, digests: tuple[bytes, ...], now: float) -> list[Effect]:
        try:
            lookup, effects = self._dht.get([holders_key(digest) for digest in digests], now)
        except Overloaded:
            for digest in digests:
                self._sought[digest].due_at = now + RETRY_S
            return []
        for digest in digests:
            self._sought[digest].due_at = None
        self._asking[lookup] = digests
        self._counts["questions"] += 1
        return effects


def _wanted(held: Holding | None, endpoint: Endpoint) -> tuple[bytes, HeldSpan] | None:
    if held is None or held.loading or held.draining:
        return None
    span = HeldSpan(
        endpoint=endpoint, model=held.model, layer_count=held.layer_count, start=held.start, end=held.end
    )
    return holders_key(held.digest), span


def _place(told: tuple[bytes, HeldSpan] | None) -> _Place | None:
    return None if told is None else (told[0], told[1].subkey)
