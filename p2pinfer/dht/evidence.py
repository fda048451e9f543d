"""What a store remembers of records beyond those that it keeps: contradictions, and how far owners have come.

Rules:

1. Of a fork both records stay until both have expired, a bounded number in all and of each owner. They are
   reported once for each place: more would prove nothing more.
2. Where a record ends before one that it replaced, its sequence is remembered as long as the old one could
   live: nobody brings that back by repeating it.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterator

from p2pinfer.dht.config import RecordConfig
from p2pinfer.dht.records import Fork, Place, Standing, compare, digest_of, place_of
from p2pinfer.ids import PeerId
from p2pinfer.wire.messages.dht import DhtRecord

__all__ = ["Evidence", "Floors"]

_Where = tuple[bytes, Place]

_FLOORS_COUNT_MAX = 1024
"""Places whose last sequence is remembered: records that shorten a life are rare."""


class Evidence:
    """The forks that were seen, by place.

    Invariant: at most `forks_count_max` in all and `forks_per_owner_count_max` of one owner.
    """

    def __init__(self, config: RecordConfig) -> None:
        self._config = config
        self._forks: OrderedDict[_Where, Fork] = OrderedDict()
        self._counts: Counter[PeerId] = Counter()

    def __len__(self) -> int:
        return len(self._forks)

    def __iter__(self) -> Iterator[Fork]:
        return iter(self._forks.values())

    def add(self, fork: Fork) -> bool:
        """Keep a fork; of more than two records the two with the smallest digests, in whatever order.

        Returns:
            Whether it is news: the first one at its place, of an owner without many of them.
        """
        where = _where(fork.first)
        known = self._forks.get(where)
        if known is not None:
            self._forks[where] = _merged(known, fork)
            return False
        limits = self._config
        if self._counts[fork.owner] >= limits.forks_per_owner_count_max:
            return False
        if len(self._forks) >= limits.forks_count_max:
            self._remove(next(iter(self._forks)))
        self._forks[where] = fork
        self._counts[fork.owner] += 1
        return True

    def other(self, record: DhtRecord) -> DhtRecord | None:
        """The record that contradicts this one, if it is remembered."""
        fork = self._forks.get(_where(record)) if self._forks else None
        if fork is None or fork.first.sequence != record.sequence:
            return None
        return fork.second if compare(record, fork.first) is Standing.SAME else fork.first

    def sweep(self, now_ms: float) -> None:
        """Let go of forks of which both records have expired."""
        for where, fork in list(self._forks.items()):
            if max(fork.first.expires_ms, fork.second.expires_ms) <= now_ms:
                self._remove(where)

    def _remove(self, where: _Where) -> None:
        owner = self._forks.pop(where).owner
        self._counts[owner] -= 1
        if not self._counts[owner]:
            del self._counts[owner]


class Floors:
    """Sequences below which nothing is taken any more, although no record stands there."""

    def __init__(self) -> None:
        self._floors: OrderedDict[_Where, tuple[int, int]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._floors)

    def replaced(self, old: DhtRecord, new: DhtRecord) -> None:
        """A record took another's place."""
        where = _where(new)
        until_ms = max(old.expires_ms, self._floors.pop(where, (0, 0))[1])
        if until_ms > new.expires_ms:
            self._floors[where] = (new.sequence, until_ms)
            if len(self._floors) > _FLOORS_COUNT_MAX:
                self._floors.popitem(last=False)

    def allows(self, record: DhtRecord, now_ms: float) -> bool:
        """Whether a record may take an empty place."""
        sequence, until_ms = self._floors.get(_where(record), (0, 0)) if self._floors else (0, 0)
        return record.sequence >= sequence or until_ms <= now_ms

    def sweep(self, now_ms: float) -> None:
        """Forget what nobody could bring back any more."""
        for where in [where for where, (_, until_ms) in self._floors.items() if until_ms <= now_ms]:
            del self._floors[where]


def _where(record: DhtRecord) -> _Where:
    return record.key, place_of(record)


def _merged(known: Fork, fork: Fork) -> Fork:
    """The later of two forks of one place; of one sequence, the two smallest of all their records."""
    if known.first.sequence != fork.first.sequence:
        return known if known.first.sequence > fork.first.sequence else fork
    by_digest = {digest_of(each): each for each in (known.first, known.second, fork.first, fork.second)}
    first, second = (by_digest[digest] for digest in sorted(by_digest)[:2])
    return Fork(first, second)
