"""A lookup on behalf of somebody: what it is for, what it has gathered, and how it ends."""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import dataclass, field

from p2pinfer.dht.lookup import Lookup
from p2pinfer.dht.news import LookupDone, LookupId
from p2pinfer.dht.records import Place, newest
from p2pinfer.ids import Contact
from p2pinfer.wire.messages.dht import DhtRecord

__all__ = ["Purpose", "RunningLookup"]

_VALUES_COUNT_MAX = 2048
"""Records gathered by one lookup: four times what one peer keeps under a key by default."""


class Purpose(enum.Enum):
    """Whom a lookup serves."""

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
class RunningLookup:
    """A lookup and what belongs to it. A put goes on after its lookup, until its copies are stored."""

    id: LookupId
    purpose: Purpose
    lookup: Lookup
    give_up_at: float
    record: DhtRecord | None = None
    """What a put stores."""
    values: dict[Place, DhtRecord] = field(default_factory=dict)
    is_storing: bool = False
    storing: set[int] = field(default_factory=set)
    """Numbers of the StoreRecords that are not answered yet."""
    stored_at: int = 0

    @property
    def key(self) -> bytes:
        """The key looked up."""
        return self.lookup.key

    def gather(self, records: Iterable[DhtRecord]) -> None:
        """Keep the newest record of each place; beyond the limit new places are let go."""
        for record in records:
            if len(self.values) < _VALUES_COUNT_MAX or (record.subkey, record.owner) in self.values:
                newest(self.values, record)

    def done(self, nearest: tuple[Contact, ...]) -> LookupDone:
        """How it ended, for the application."""
        return LookupDone(
            id=self.id,
            key=self.key,
            values=tuple(self.values[place] for place in sorted(self.values)),
            nearest=nearest,
            stored_at=self.stored_at,
            queries=self.lookup.queries,
        )
