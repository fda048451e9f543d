"""Handing records over when the neighbourhood changes: to whoever is new among the k nearest of their key.

Rules:

1. Of all peers that hold a record, the one nearest to its key hands it over, so that a newcomer receives it
   once (Kademlia, section 2.5). When that one dies, the next one does what it may have left undone since it
   was heard last. A death lets somebody move up among the k nearest, who receives the record as well.
2. Records are handed to contacts alone that answered this peer, within a budget of bytes a second, and each
   record once in the time in which its owner stores it again anyhow: neither a forged address nor a peer
   that comes and goes makes this peer send much.
3. What concerns no key here costs nothing. A newcomer that k others are nearer than, whichever of these keys
   is meant, is dismissed by counting; keys are looked at only for the rest, and for several of them at once.

Departs from Kademlia: the holder does not have to be the nearest of all, only of those that were here before;
newcomers of the last minute cannot have the record yet, unless this peer gave it to them.

How the core uses it: `came` whenever a contact has answered, `gone` when it is no good contact any longer or
is dead, `due` from `tick` and `deadline` beside its own. What `due` returns fits one StoreRecords each; where
no token is held, one FindNodes comes first. Lost ones are not repeated beyond what any question is: the
owner's next store mends that.
"""

from __future__ import annotations

import math
from collections import Counter, OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, field

from p2pinfer.dht.config import RECORD_SIZE_BYTES_MAX, DhtConfig, RecordConfig
from p2pinfer.dht.neighbours import Neighbours
from p2pinfer.dht.records import Place, record_size_bytes
from p2pinfer.dht.store import RecordStore
from p2pinfer.ids import Contact, PeerId
from p2pinfer.wire.messages.dht import RECORDS_COUNT_MAX, DhtRecord

__all__ = ["Handover"]

_FRAME_SIZE_BYTES = 48
"""An upper bound on the encoding of a StoreRecords without its records."""
_YOUNG_S = 60.0
"""So long after something was planned for a newcomer it does not count as a holder yet, seconds."""
_LOST_COUNT_MAX = 64
"""Lost peers looked at together; of more, somebody who moved up is left to the owner."""
_KEYS_AT_ONCE_COUNT = 64
"""Keys looked at in one call: a tenth of a millisecond each."""
_TICK_S = 0.001
"""The shortest wait for the budget, seconds."""
_PAUSE_S = 0.05
"""Between two such calls, seconds."""


@dataclass(slots=True)
class _Change:
    """What changed in the neighbourhood, to be looked at together."""

    newcomers: dict[PeerId, float] = field(default_factory=dict)
    """When each came."""
    lost: dict[PeerId, float] = field(default_factory=dict)
    """When each was heard last."""
    keys: deque[bytes] = field(default_factory=deque)
    """For which this peer speaks, and which are still to be looked at."""


class Handover:
    """The plan of what one peer hands over.

    Invariant: at most `handover_waiting_count_max` records wait, and the peers remembered are contacts.

    Args:
        store: Where the records are.
        neighbours: The good contacts; changed by `came` and `gone` alone.
        config: Of the DHT.
        now: Seconds since the Unix epoch.
    """

    def __init__(self, store: RecordStore, neighbours: Neighbours, config: DhtConfig, now: float) -> None:
        self.counters: Counter[str] = Counter()
        self._store = store
        self._neighbours = neighbours
        self._k = config.k
        self._config = config.record
        self._room_bytes = config.answer.body_size_bytes_max - _FRAME_SIZE_BYTES
        self._budget = _Budget(config.record, now)
        self._came_at: dict[PeerId, float] = {}
        self._heard_at: dict[PeerId, float] = {}
        self._next = _Change()
        self._now = _Change()
        self._look_at: float | None = None
        self._young: dict[PeerId, float] = {}
        self._told: OrderedDict[tuple[PeerId, bytes], float] = OrderedDict()
        self._waiting: OrderedDict[PeerId, deque[tuple[bytes, Place]]] = OrderedDict()

    @property
    def waiting_count(self) -> int:
        """Records that wait to be handed over."""
        return sum(map(len, self._waiting.values()))

    def came(self, contact: Contact, now: float) -> None:
        """A contact has answered a question of ours: for the first time, or again."""
        peer = contact.peer
        if peer is None:
            return
        is_new = self._neighbours.add(contact)
        if self._is_near(peer):
            self._heard_at[peer] = now
        if peer in self._next.lost:
            del self._next.lost[peer]  # it was away for a moment
        elif is_new and self._is_close(peer):
            self._came_at[peer] = self._next.newcomers[peer] = now
            self._plan_look(now)

    def keep_only(self, is_contact: Callable[[PeerId], bool], now: float) -> None:
        """Let go of peers that are no contacts any more, as if each were `gone`: now and then, to be sure."""
        for peer in [peer for peer in self._neighbours if not is_contact(peer)]:
            self.gone(peer, now)

    def gone(self, peer: PeerId, now: float) -> None:
        """A contact is dead, or does not answer any more; unknown ones are ignored."""
        if not self._neighbours.remove(peer):
            return
        heard_at = self._heard_at.pop(peer, now)
        self._came_at.pop(peer, None)
        self._now.newcomers.pop(peer, None)
        is_unknown = self._next.newcomers.pop(peer, None) is not None  # nobody was counted out for it yet
        self._young.pop(peer, None)
        for key, _ in self._waiting.pop(peer, ()):
            self._told.pop((peer, key), None)
        if not is_unknown and self._is_close(peer) and len(self._next.lost) < _LOST_COUNT_MAX:
            self._next.lost[peer] = heard_at
            self._plan_look(now)

    def due(self, now: float) -> list[tuple[Contact, list[DhtRecord]]]:
        """What to send now: to whom, and the records of one message, which then count as handed over."""
        if self._look_at is not None and now >= self._look_at:
            self._look(now)
        self._budget.refill(now)
        messages = []
        while self._waiting:
            peer, queue = next(iter(self._waiting.items()))
            contact = self._neighbours[peer]
            records = self._take(queue, now) if contact is not None else []
            if contact is not None and records:
                messages.append((contact, records))
            if not queue or contact is None:
                del self._waiting[peer]
            elif records:
                self._waiting.move_to_end(peer)  # so that no newcomer waits for all of another's
            else:
                break  # the budget is used up
        return messages

    @property
    def deadline(self) -> float | None:
        """When `due` wants to be called next."""
        times = [] if self._look_at is None else [self._look_at]
        if self._waiting:
            times.append(self._budget.ready_at(RECORD_SIZE_BYTES_MAX))
        return min(times, default=None)

    def _is_close(self, peer: PeerId) -> bool:
        """Whether a peer that came or went can be among the k nearest of any key for which this peer speaks.

        If anybody else is in its bucket, keys nearer to that bucket than to this peer are that one's. To the
        others this peer, and whoever shares more bits with it, is nearer than anybody in the bucket.
        """
        if self._is_near(peer):
            return True
        unready = {peer, *self._next.newcomers, *self._now.newcomers, *self._young}
        return not self._neighbours.has_others(self._neighbours.prefix(peer), unready)

    def _is_near(self, peer: PeerId) -> bool:
        return self._neighbours.deeper_count(self._neighbours.prefix(peer)) + 1 < self._k

    def _plan_look(self, now: float) -> None:
        if self._look_at is None:
            self._look_at = now + self._config.handover_delay_s

    def _look(self, now: float) -> None:
        """Find out what the newcomers and the losses since the last time mean for the keys here."""
        if not self._now.keys:
            self._begin(now)
        for _ in range(min(_KEYS_AT_ONCE_COUNT, len(self._now.keys))):
            self._plan(self._now.keys.popleft(), now)
        if self._now.keys:
            self._look_at = now + _PAUSE_S
            return
        self._now = _Change()
        is_over = not self._next.newcomers and not self._next.lost
        self._look_at = None if is_over else now + self._config.handover_delay_s

    def _begin(self, now: float) -> None:
        """Take what changed, forget what is too old to matter, and choose the keys to look at."""
        self._now, self._next = self._next, _Change()
        newcomers = self._now.newcomers
        oldest = now - self._config.republish_interval_s
        self._came_at = {peer: at for peer, at in self._came_at.items() if at >= oldest or peer in newcomers}
        self._young = {peer: at for peer, at in self._young.items() if at > now - _YOUNG_S}
        while self._told and next(iter(self._told.values())) < oldest:
            self._told.popitem(last=False)
        others_bits = self._neighbours.bits_taken(but={*newcomers, *self._young})
        distance = self._neighbours.distance
        self._now.keys.extend(key for key in self._store.keys if not distance(key) & others_bits)

    def _plan(self, key: bytes, now: float) -> None:
        """Plan what to hand over of one key."""
        kept = self._store.kept_under(key, now)
        if not kept:
            return
        for peer, came_at in self._targets(key).items():
            places = [(key, each.place) for each in kept if each.since <= came_at]
            if not places or (peer, key) in self._told:
                continue
            if self.waiting_count + len(places) > self._config.handover_waiting_count_max:
                self.counters["handovers_dropped"] += len(places)
                continue
            self._waiting.setdefault(peer, deque()).extend(places)
            self._told[peer, key] = now
            self._young[peer] = now
            if len(self._told) > self._config.handover_told_count_max:
                self._told.popitem(last=False)

    def _targets(self, key: bytes) -> dict[PeerId, float]:
        """Who should receive a key's records, and up to when stored."""
        distance = self._neighbours.distance
        count = self._k - (self._neighbours.nearer_count(key) < self._k)  # this peer is one of the k nearest
        near = [each.peer for each in self._neighbours.nearest(key, count) if each.peer is not None]
        # What came here after a newcomer did, whoever brought it will have brought to that one as well.
        newcomers, lost = self._now.newcomers, self._now.lost
        targets = {peer: newcomers[peer] for peer in near if peer in newcomers}
        if lost and near and len(near) == count:
            farthest = _distance(near[-1], key)
            moved_up = sum(_distance(peer, key) < farthest for peer in lost)
            targets.update((peer, math.inf) for peer in near[max(0, count - moved_up) :])
        spoke = [at for peer, at in lost.items() if _distance(peer, key) < distance(key)]
        if spoke:
            # Whoever spoke for the key owed it to those that came since it was heard last, or just before.
            since = min(spoke) - _YOUNG_S
            owed = [peer for peer in near if self._came_at.get(peer, -math.inf) >= since]
            targets.update((peer, self._came_at[peer]) for peer in owed if peer not in targets)
        return targets

    def _take(self, queue: deque[tuple[bytes, Place]], now: float) -> list[DhtRecord]:
        """Take the records of one message from a queue, as many as the budget allows."""
        records: list[DhtRecord] = []
        room_bytes = self._room_bytes
        while queue and len(records) < RECORDS_COUNT_MAX:
            record = self._store.kept_at(*queue[0], now)
            if record is not None:
                size_bytes = record_size_bytes(record)
                if size_bytes > room_bytes or not self._budget.spend(size_bytes):
                    break
                room_bytes -= size_bytes
                self.counters["handovers"] += 1
                self.counters["handover_bytes"] += size_bytes
                records.append(record)
            queue.popleft()
        return records


class _Budget:
    """Bytes that may be sent now; they come at a steady rate, up to a bound."""

    def __init__(self, config: RecordConfig, now: float) -> None:
        self._config = config
        self._bytes = float(config.handover_burst_bytes)
        self._filled_at = now

    def refill(self, now: float) -> None:
        passed_s = max(0.0, now - self._filled_at)
        self._filled_at = max(self._filled_at, now)
        filled = self._bytes + passed_s * self._config.handover_bytes_per_s
        self._bytes = min(filled, float(self._config.handover_burst_bytes))

    def spend(self, size_bytes: int) -> bool:
        """Take as many bytes, if they are there; one may be missing, as a clock's steps are coarser."""
        if size_bytes > self._bytes + 1.0:
            return False
        self._bytes -= size_bytes
        return True

    def ready_at(self, size_bytes: int) -> float:
        """When so many bytes will be there; never so soon that a clock could not tell it from now."""
        missing_bytes = size_bytes - self._bytes
        if missing_bytes <= 0:
            return self._filled_at
        return self._filled_at + max(missing_bytes / self._config.handover_bytes_per_s, _TICK_S)


def _distance(peer: bytes, key: bytes) -> int:
    return int.from_bytes(peer, "big") ^ int.from_bytes(key, "big")
