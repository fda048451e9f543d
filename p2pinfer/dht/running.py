"""A search on behalf of somebody: what it is for, what it has found, and how it ends."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

from p2pinfer.dht.copies import Copies
from p2pinfer.dht.gathering import Gathering
from p2pinfer.dht.news import LookupDone, LookupId
from p2pinfer.dht.search import Search

__all__ = ["Purpose", "Running"]


class Purpose(enum.Enum):
    """Whom a search serves."""

    GET = enum.auto()
    FIND = enum.auto()
    PUT = enum.auto()
    REPUBLISH = enum.auto()
    UPKEEP = enum.auto()

    @property
    def is_delivered(self) -> bool:
        """Whether the application waits for its end."""
        return self in (Purpose.GET, Purpose.FIND, Purpose.PUT)


@dataclass(slots=True)
class Running:
    """A search and what belongs to it. A put goes on after its lookups, until its copies are stored."""

    id: LookupId
    purpose: Purpose
    keys: tuple[bytes, ...]
    search: Search
    give_up_at: float
    gathering: Gathering | None = None
    """Of a get."""
    copies: Copies | None = None
    """Of a put."""
    is_storing: bool = False
    """Whether a put's lookups are over."""
    is_told: bool = False
    """Whether the application knows the result already, while the last copies are stored."""
    regions: dict[bytes, int] = field(default_factory=dict)
    """Keys that are surrounded, with the leading bits that their region shares."""
    restarts_count: int = 0

    @property
    def is_brief(self) -> bool:
        """Whether answers may be short: as long as all live, their k nearest bring the search home.

        They then fit a datagram each. Who was given a count of holders wants their records alone.
        """
        if self.purpose is Purpose.UPKEEP or len(self.search.lookups) > 1 or self.search.failed_count:
            return False
        return self.gathering is None or bool(self.gathering.quorum)

    def is_enough(self, key: bytes) -> bool:
        """Whether a key's records are all found, as far as was wanted."""
        return self.gathering is not None and self.gathering.is_enough(key)

    def done(self) -> LookupDone:
        """How it ended, for the application."""
        return LookupDone(
            id=self.id,
            keys=self.keys,
            values=self.gathering.sorted() if self.gathering else (),
            nearest=self.search.lookups[self.keys[0]].nearest,
            stored_at=self.copies.count if self.copies else 0,
            queries=self.search.queries,
            conflict=self.copies.conflict if self.copies else None,
        )
