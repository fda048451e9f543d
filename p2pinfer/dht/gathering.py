"""What a get has gathered: records, who told all it has, who had none, who signed two things at once."""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass, field

from p2pinfer.dht.records import (
    Place,
    Standing,
    compare,
    has_one_owner,
    is_immutable,
    newest,
    place_of,
)
from p2pinfer.ids import Contact, PeerId
from p2pinfer.wire.messages.dht import DhtRecord

__all__ = ["Fork", "Gathering"]

_VALUES_COUNT_MAX = 4096
"""Records gathered by one search: eight times what one peer keeps under a key by default."""
_FORKS_COUNT_MAX = 16
"""Forks told of by one search: each is proof of a lie, and one of an owner is enough."""

Fork = tuple[DhtRecord, DhtRecord]
"""Two records of one place and sequence with different contents."""


@dataclass(slots=True)
class Gathering:
    """The finds of one get.

    Attributes:
        quorum: Holders of each key that must tell all they have; 0 for all. None where it depends: one tells
            enough of what cannot change, and some of what one owner alone can change, but of a key that many
            share each holder may lack somebody's record, so that all are asked.
        quorum_of_one: How many those some are.
    """

    quorum: int | None
    quorum_of_one: int
    values: dict[bytes, dict[Place, DhtRecord]] = field(default_factory=dict)
    """The newest of each place, by key."""
    holders: dict[bytes, set[PeerId]] = field(default_factory=dict)
    """Who told all of a key's records."""
    without: dict[bytes, list[Contact]] = field(default_factory=dict)
    """Who had none of a key's."""
    forks: list[Fork] = field(default_factory=list)

    def take(self, records: Iterable[DhtRecord]) -> list[Fork]:
        """Keep the newest record of each place, and no new places beyond the limit; return new forks."""
        forks_before = len(self.forks)
        for record in records:
            under_key = self.values.setdefault(record.key, {})
            known = under_key.get(place_of(record))
            if known is None:
                if sum(map(len, self.values.values())) < _VALUES_COUNT_MAX:
                    under_key[place_of(record)] = record
            elif compare(record, known) is Standing.FORK:
                if len(self.forks) < _FORKS_COUNT_MAX:
                    self.forks.append((known, record))
            else:
                newest(under_key, record)
        return self.forks[forks_before:]

    def note(self, holder: Contact, keys: Sequence[bytes], told: Container[bytes], *, is_whole: bool) -> None:
        """A holder's answer about these keys is complete, and it told of records under some.

        Args:
            holder: Who.
            keys: What it was asked about.
            told: Those that it had records of.
            is_whole: Whether it told all that it has.
        """
        for key in keys:
            if key not in told:
                self.without.setdefault(key, []).append(holder)
            elif is_whole and holder.peer is not None:
                self.holders.setdefault(key, set()).add(holder.peer)

    def is_enough(self, key: bytes) -> bool:
        """Whether as many holders as wanted told all they have of a key."""
        count = len(self.holders.get(key, ()))
        quorum = self.quorum if self.quorum is not None else self._quorum_by_kind(key)
        return bool(quorum) and count >= quorum

    def sorted(self) -> tuple[DhtRecord, ...]:
        """All records, by key, sub-key and owner."""
        return tuple(
            self.values[key][place] for key in sorted(self.values) for place in sorted(self.values[key])
        )

    def _quorum_by_kind(self, key: bytes) -> int:
        under_key = self.values.get(key, {})
        if len(under_key) != 1:
            return 0
        (record,) = under_key.values()
        if is_immutable(record):
            return 1
        return self.quorum_of_one if has_one_owner(record) else 0
