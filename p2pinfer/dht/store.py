"""Records that this peer keeps for others: bounded, and gone when they expire.

Rules:

1. What is kept is the newest of each place, as `records.py` says, within the quotas of `quotas.py`. A put
   that comes twice, because its answer was lost, is answered as the first one was.
2. This peer's time only goes forward here: were its clock set back, nothing that has expired lives again.
3. A record that k known contacts are nearer to than this peer, brought by another than its owner, is a copy
   on the path of lookups. It lives half as long for each peer more between it and the key (Kademlia, section
   2.3; rust-libp2p's `record_received`), never past its owner's expiry, and goes first.

4. Where a record stands whose key follows from itself (`own`, `content`), none stands that does not.

Sub-keys with an expiry of their own follow hivemind's `dht/storage.py`, compare-and-swap is BEP-44's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from p2pinfer.dht.addresses import counted_group
from p2pinfer.dht.config import DhtConfig
from p2pinfer.dht.evidence import Evidence, Floors
from p2pinfer.dht.keyspace import distance
from p2pinfer.dht.quotas import Kept, Quotas
from p2pinfer.dht.records import Fork, Place, Standing, compare, fork_of, is_expected, is_timely, place_of
from p2pinfer.ids import Contact, PeerId
from p2pinfer.puzzle import fits
from p2pinfer.wire.messages.dht import DhtRecord

__all__ = ["Placed", "RecordStore"]

_BEYOND_COUNT_MAX = 40
"""Peers between this one and a key that still count: two to this power exceeds every lifetime."""


@dataclass(frozen=True, slots=True)
class Placed:
    """What became of a put."""

    code: str
    """One of the codes of `Stored`."""
    held: DhtRecord | None = None
    """The record that stood in the way, for `old`, `fork` and `cas`; None where there is none."""
    fork: Fork | None = None
    """Evidence that nobody was told of yet, for `ForkFound` and `Misbehaved`."""


class RecordStore:
    """Live records by key, and the forks that were seen.

    Args:
        own: This peer, whose id decides what is near.
        config: Of the DHT; its namespaces are asked before anything is kept.
    """

    def __init__(self, own: PeerId, config: DhtConfig) -> None:
        self.counters: Counter[str] = Counter()
        self._own = own
        self._k = config.k
        self._config = config.record
        self._namespaces = config.namespaces
        self._difficulty = config.id_difficulty
        self._quotas = Quotas(config.record)
        self._evidence = Evidence(config.record)
        self._floors = Floors()
        self._now = 0.0
        self._sweep_at = 0.0

    def __len__(self) -> int:
        return self._quotas.count

    def __iter__(self) -> Iterator[DhtRecord]:
        return (kept.record for kept in self._quotas)

    @property
    def size_bytes(self) -> int:
        """Bytes of all records kept, as they travel."""
        return self._quotas.size_bytes

    @property
    def cached_count(self) -> int:
        """Copies on the path among the records kept."""
        return sum(kept.is_cached for kept in self._quotas)

    @property
    def forks(self) -> tuple[Fork, ...]:
        """The evidence that is kept, the oldest first."""
        return tuple(self._evidence)

    @property
    def keys(self) -> tuple[bytes, ...]:
        """The keys under which something is kept."""
        return tuple(self._quotas.by_key)

    def put(
        self,
        record: DhtRecord,
        sender: Contact | None,
        now: float,
        *,
        expected: int = -1,
        nearer_count: int = 0,
    ) -> Placed:
        """Keep a record, or say why not.

        Args:
            record: What to keep; its signature has been checked.
            sender: Who brought it, at an address that it proved; None for this peer itself.
            now: Seconds since the Unix epoch.
            expected: The sequence that must be held, 0 for none at all, -1 for no condition.
            nearer_count: How many known contacts are nearer to the key than this peer.
        """
        if self.deadline is None:
            self._sweep_at = now + self._config.sweep_interval_s
        now = self._time(now)
        placed = self._put(record, sender, now, expected, nearer_count)
        self.counters[placed.code] += 1
        return placed

    def get(self, key: bytes, now: float) -> list[DhtRecord]:
        """The live records under a key, and beside the preferred record of a fork the other."""
        now_ms = self._time(now) * 1000
        found = [kept.record for kept in self._quotas.by_key.get(key, {}).values() if kept.until_ms > now_ms]
        if len(self._evidence):
            others = [self._evidence.other(record) for record in found]
            found += [other for other in others if other is not None and other.expires_ms > now_ms]
        return found

    def kept_at(self, key: bytes, place: Place, now: float) -> DhtRecord | None:
        """The live record at a place, unless it is a copy on the path."""
        kept = self._quotas.at(key, place)
        is_good = kept is not None and not kept.is_cached and kept.until_ms > self._time(now) * 1000
        return kept.record if kept is not None and is_good else None

    def kept_under(self, key: bytes, now: float) -> list[Kept]:
        """What is kept under a key and alive, without copies on the path: what others may rely on."""
        now_ms = self._time(now) * 1000
        under_key = self._quotas.by_key.get(key, {}).values()
        return [kept for kept in under_key if kept.until_ms > now_ms and not kept.is_cached]

    @property
    def deadline(self) -> float | None:
        """When `maybe_sweep` wants to be called next; None while nothing is kept."""
        return self._sweep_at if len(self) or len(self._evidence) else None

    def maybe_sweep(self, now: float) -> bool:
        """Sweep if that is due; say whether it was."""
        if self.deadline is None or now < self._sweep_at:
            return False
        self.sweep(now)
        return True

    def sweep(self, now: float) -> int:
        """Let go of what has expired; return how many records that were."""
        self._sweep_at = now + self._config.sweep_interval_s
        now = self._time(now)
        removed = self._sweep_records(now)
        self._evidence.sweep(now * 1000)
        self._floors.sweep(now * 1000)
        return removed

    def _time(self, now: float) -> float:
        self._now = max(self._now, now)
        return self._now

    def _sweep_records(self, now: float) -> int:
        removed = 0
        while (kept := self._quotas.pop_ended(now * 1000)) is not None:
            removed += 1
            other = self._evidence.other(kept.record)
            if other is not None and other.expires_ms > now * 1000 and not kept.is_cached:
                # Holders that never saw the expired one serve this, so this one does as well.
                self._keep(self._kept(other, kept.group, kept.since, False, other.expires_ms), None)
        self.counters["expired"] += removed
        return removed

    def _put(
        self, record: DhtRecord, sender: Contact | None, now: float, expected: int, nearer_count: int
    ) -> Placed:
        if not is_timely(record, self._config, now):
            return Placed("void")
        if self._namespaces.check(record) or not fits(record.owner, self._difficulty):
            return Placed("invalid")
        self._sweep_records(now)
        if not self._may_stand(record):
            return Placed("invalid")
        known = self._quotas.at(record.key, place_of(record))
        held = known.record if known is not None else None
        standing = Standing.NEWER if held is None else compare(record, held)
        if standing is not Standing.SAME and not is_expected(held, expected):
            return Placed("cas", held)
        if standing is Standing.OLDER or (held is None and not self._floors.allows(record, now * 1000)):
            return Placed("old", held)
        fork = fork_of(record, held) if held is not None and standing is Standing.FORK else None
        news = fork if fork is not None and self._evidence.add(fork) else None
        if fork is not None and fork.first is held:
            return Placed("fork", held, news)
        newcomer = self._newcomer(record, sender, now, nearer_count, known)
        if standing is Standing.SAME and known is not None:
            if newcomer.until_ms > known.until_ms or newcomer.group != known.group:
                self._keep(newcomer, known)
            return Placed("stored")
        is_worth_it = newcomer.until_ms >= (now + self._config.cached_s_min) * 1000 or not newcomer.is_cached
        is_kept = is_worth_it and self._keep(newcomer, known)
        if fork is not None:
            return Placed("fork", held, news)
        return Placed("stored" if is_kept else "full")

    def _may_stand(self, record: DhtRecord) -> bool:
        """Let nothing stand beside a record that the key belongs to: it was put there to be in the way.

        A bound record shows what its key is the hash of, so no other can belong there, whatever it says.
        """
        first = next(iter(self._quotas.by_key.get(record.key, {}).values()), None)
        if first is None:
            return True
        is_bound = self._namespaces.is_bound(record)
        if self._namespaces.is_bound(first.record) == is_bound:
            return True
        if is_bound:
            for kept in list(self._quotas.by_key[record.key].values()):
                self._quotas.remove(kept)
                self.counters["unseated"] += 1
        return is_bound

    def _keep(self, newcomer: Kept, replaced: Kept | None) -> bool:
        """Keep it, if it is worth what must go for that."""
        victims = self._quotas.victims(newcomer, replaced)
        if victims is None:
            return False
        if replaced is not None:
            self._quotas.remove(replaced)
            self._floors.replaced(replaced.record, newcomer.record)
        for victim in victims:
            self._quotas.remove(victim)
            self.counters["evicted"] += 1
        self._quotas.add(newcomer)
        return True

    def _newcomer(
        self, record: DhtRecord, sender: Contact | None, now: float, nearer_count: int, known: Kept | None
    ) -> Kept:
        """What the record would be here."""
        group, since = self._group(sender), now
        is_from_owner = sender is None or sender.peer == record.owner
        # An owner stores beyond the k nearest on purpose: where its key is surrounded by liars.
        is_cached = nearer_count >= self._k and not is_from_owner
        if known is not None:
            # Who passes a record on does not take it over from its owner's address.
            group = group if is_from_owner else known.group
            is_cached = is_cached and known.is_cached
            since = known.since if known.record.sequence == record.sequence else now
        until_ms = record.expires_ms
        if is_cached:
            halvings = min(nearer_count - self._k + 1, _BEYOND_COUNT_MAX)
            life_s = min((record.expires_ms / 1000 - now) / 2.0**halvings, self._config.cached_s_max)
            until_ms = min(until_ms, int((now + life_s) * 1000))
        return self._kept(record, group, since, is_cached, until_ms)

    def _kept(
        self, record: DhtRecord, group: str | None, since: float, is_cached: bool, until_ms: int
    ) -> Kept:
        """The record with what it is worth to this peer."""
        nearness = -distance(self._own, record.key)
        worth = (not is_cached, nearness, until_ms, place_of(record))
        return Kept(record, group, is_cached, since, until_ms, worth)

    def _group(self, sender: Contact | None) -> str | None:
        if sender is None or sender.peer == self._own:
            return None
        return counted_group(sender.endpoint.host, private_exempt=self._config.private_exempt)
