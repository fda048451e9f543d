"""Questions on their way: who was asked what, when to ask again, when to give up.

A question is known by its number, 63 random bits: whoever has not received it cannot answer it, so an answer
also proves the asked address. A repetition bears the same number, and a late answer to the first one counts.
"""

from __future__ import annotations

import enum
import heapq
import random
from collections import Counter
from dataclasses import dataclass, field

from p2pinfer.dht.news import LookupId
from p2pinfer.effects import Message
from p2pinfer.ids import Contact

__all__ = ["Queries", "Query", "QueryKind"]


class QueryKind(enum.Enum):
    """What a question is for."""

    CHECK = enum.auto()
    BOOTSTRAP = enum.auto()
    FIND = enum.auto()
    STORE = enum.auto()


@dataclass(slots=True)
class Query:
    """One question to one contact, with all its repetitions."""

    id: int
    kind: QueryKind
    to: Contact
    message: Message
    asked_at: float
    timeout_s: float
    keys: tuple[bytes, ...] = ()
    """What was asked about; of a store, the keys of its records."""
    lookup: LookupId | None = None
    attempts: int = 1
    deadline: float = 0.0
    pages: set[int] = field(default_factory=set)
    """Pages of the answer received so far."""
    contacts_count: int = 0
    """Contacts received so far, on all pages."""
    told: Counter[bytes] = field(default_factory=Counter)
    """Records received so far, on all pages, by key."""
    has_progress: bool = False
    """Whether one of them brought the lookup nearer."""
    is_renewed: bool = False
    """It was asked again with a fresh token."""


class Queries:
    """The open questions of one peer, by number and by deadline."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._open: dict[int, Query] = {}
        self._by_deadline: list[tuple[float, int]] = []

    def __len__(self) -> int:
        return len(self._open)

    def choose_id(self) -> int:
        """Draw a number for a new question."""
        return self._rng.getrandbits(63)

    def open(self, query: Query, now: float) -> None:
        """Wait for the answer to a question just sent, for the first time or again."""
        # Each repetition waits twice as long (RFC 6298, section 5.5).
        query.deadline = now + query.timeout_s * 2.0 ** (query.attempts - 1)
        self._open[query.id] = query
        heapq.heappush(self._by_deadline, (query.deadline, query.id))

    def close(self, query: Query) -> None:
        """Wait no longer."""
        self._open.pop(query.id, None)

    def get(self, query_id: int) -> Query | None:
        """The open question with that number."""
        return self._open.get(query_id)

    def to_peer(self, peer: bytes) -> list[Query]:
        """The open questions to one peer."""
        return [query for query in self._open.values() if query.to.peer == peer]

    def is_open(self, query: Query) -> bool:
        """Whether the question still waits."""
        return self._open.get(query.id) is query

    def due(self, now: float) -> list[Query]:
        """The open questions whose deadline has passed; each is named once for each deadline."""
        due = []
        while self._by_deadline and self._by_deadline[0][0] <= now:
            deadline, query_id = heapq.heappop(self._by_deadline)
            query = self._open.get(query_id)
            if query is not None and query.deadline == deadline:
                due.append(query)
        return due

    @property
    def deadline(self) -> float | None:
        """When the next question has waited long enough."""
        while self._by_deadline:
            deadline, query_id = self._by_deadline[0]
            query = self._open.get(query_id)
            if query is not None and query.deadline == deadline:
                return deadline
            heapq.heappop(self._by_deadline)
        return None
