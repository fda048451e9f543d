"""Questions: those that this peer asked, with whom it waits for, and those that it was asked.

Rules:

1. A query ends when everybody who was asked and lives has answered, or at its deadline, whichever is first;
   then its asker is told once who stayed silent.
2. The first answer of a peer counts. An answer to no open query, or from a peer that was not asked, is
   ignored: whoever is no such member cannot make up a majority.
3. Answers are handed on as they come and not kept, so a query costs an id for each member and no more; open
   questions of others have a quota for each asker, where the newest wins.

Departure from serf (`serf/query.go`): there a query always lasts until its deadline, and answers of anybody
count.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass, field

from p2pinfer.ids import PeerId
from p2pinfer.swim.news import QueryAcked, QueryAnswered, QueryEnded, QueryId
from p2pinfer.wire.messages.events import QueryFilter, QueryReply

__all__ = ["ASKED_COUNT_MAX", "OWED_COUNT_MAX", "OWED_PER_ASKER_COUNT_MAX", "AnswerBook", "QueryBook"]

ASKED_COUNT_MAX = 64
"""Queries of this peer open at a time."""
OWED_COUNT_MAX = 512
"""Questions of others that wait for an answer here."""
OWED_PER_ASKER_COUNT_MAX = 32
"""Of these, by one asker: as many as it may ask at once."""


@dataclass(slots=True)
class _Asked:
    query: QueryId
    to: QueryFilter
    ends_at: float
    look_at: float
    """When to leave out those that died meanwhile."""
    awaited: set[PeerId]
    is_to_unknown: bool
    """Nobody was known for whom the filter holds: it lasts to its deadline, for some may yet turn up."""
    answered: set[PeerId] = field(default_factory=set)
    acked: set[PeerId] = field(default_factory=set)

    @property
    def deadline(self) -> float:
        return min(self.ends_at, self.look_at)


class QueryBook:
    """The open queries of this peer, by their sequence."""

    __slots__ = ("_look_interval_s", "_open", "counters")

    def __init__(self, look_interval_s: float) -> None:
        self._look_interval_s = look_interval_s
        self._open: dict[int, _Asked] = {}
        self.counters: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._open)

    @property
    def is_full(self) -> bool:
        """Whether as many queries are open as may be."""
        return len(self._open) >= ASKED_COUNT_MAX

    @property
    def deadline(self) -> float:
        """When the next query ends, or its silent peers are looked at; infinite where none is open."""
        return min((each.deadline for each in self._open.values()), default=math.inf)

    def open(
        self, query: QueryId, to: QueryFilter, awaited: Collection[PeerId], now: float, ends_at: float
    ) -> None:
        """Wait for answers of these peers, and of others for whom `to` turns out to hold."""
        self._open[query.sequence] = _Asked(
            query, to, ends_at, now + self._look_interval_s, set(awaited), not awaited
        )

    def filter_of(self, sequence: int) -> QueryFilter | None:
        """Whom an open query is for; None if no such query is open."""
        asked = self._open.get(sequence)
        return asked.to if asked is not None else None

    def hear(
        self, peer: PeerId, reply: QueryReply, *, is_meant: bool
    ) -> list[QueryAcked | QueryAnswered | QueryEnded]:
        """Take a reply; `is_meant` says that its sender is a live member for which the filter holds now."""
        asked = self._open.get(reply.sequence)
        if asked is None:
            self.counters["answers_late"] += 1
            return []
        if peer in asked.answered or (reply.is_ack and peer in asked.acked):
            self.counters["answers_repeated"] += 1
            return []
        if not is_meant and peer not in asked.awaited:
            self.counters["answers_unasked"] += 1
            return []
        if reply.is_ack:
            asked.acked.add(peer)
            return [QueryAcked(asked.query, peer)]
        asked.answered.add(peer)
        asked.awaited.discard(peer)
        return [QueryAnswered(asked.query, peer, reply.payload), *self._maybe_end(asked)]

    def expire(self, now: float, is_alive: Callable[[PeerId], bool]) -> list[QueryEnded]:
        """End what has reached its deadline, or waits for nobody alive any more."""
        ended: list[QueryEnded] = []
        for asked in [each for each in self._open.values() if each.deadline <= now]:
            if asked.ends_at <= now:
                ended.append(self._end(asked))
            else:
                asked.look_at = now + self._look_interval_s
                asked.awaited = {peer for peer in asked.awaited if is_alive(peer)}
                ended += self._maybe_end(asked)
        return ended

    def _maybe_end(self, asked: _Asked) -> list[QueryEnded]:
        return [] if asked.awaited or asked.is_to_unknown else [self._end(asked)]

    def _end(self, asked: _Asked) -> QueryEnded:
        del self._open[asked.query.sequence]
        return QueryEnded(asked.query, tuple(sorted(asked.awaited)))


class AnswerBook:
    """The questions of others that the application here has not answered yet.

    Invariant: no asker has more than its quota, and no asker is there with nothing.
    """

    __slots__ = ("_by_asker", "_count", "counters")

    def __init__(self) -> None:
        self._by_asker: dict[PeerId, dict[int, float]] = {}
        self._count = 0
        self.counters: Counter[str] = Counter()

    def __len__(self) -> int:
        return self._count

    def open(self, query: QueryId, now: float, ends_at: float) -> bool:
        """Note a question; False if there is no room for it."""
        if self._count >= OWED_COUNT_MAX:
            self._drop_over(now)
        own = self._by_asker.get(query.asker, {})
        if query.sequence in own:
            return False
        if len(own) >= OWED_PER_ASKER_COUNT_MAX:
            self._take(QueryId(query.asker, next(iter(own))))
            self.counters["questions_pushed_out"] += 1
        elif self._count >= OWED_COUNT_MAX:
            self.counters["questions_refused"] += 1
            return False
        self._by_asker.setdefault(query.asker, {})[query.sequence] = ends_at
        self._count += 1
        return True

    def close(self, query: QueryId, now: float) -> bool:
        """Take a question off for its answer; False if it is answered, over or unknown."""
        ends_at = self._take(query)
        if ends_at is None or ends_at <= now:
            self.counters["answers_too_late"] += 1
            return False
        return True

    def _take(self, query: QueryId) -> float | None:
        own = self._by_asker.get(query.asker)
        ends_at = own.pop(query.sequence, None) if own is not None else None
        if own is None or ends_at is None:
            return None
        self._count -= 1
        if not own:
            del self._by_asker[query.asker]
        return ends_at

    def _drop_over(self, now: float) -> None:
        over = [
            QueryId(asker, sequence)
            for asker, own in self._by_asker.items()
            for sequence, ends_at in own.items()
            if ends_at <= now
        ]
        for query in over:
            self._take(query)
