"""What a get has gathered: records, who told all it has, who had none, who signed two things at once."""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass, field

from p2pinfer.dht.namespaces import Namespaces
from p2pinfer.dht.records import Fork, Place, fork_of, has_one_owner, is_immutable, newest, place_of
from p2pinfer.ids import Contact, PeerId
from p2pinfer.wire.messages.dht import DhtRecord

__all__ = ["Gathering"]

_VALUES_COUNT_MAX = 4096
"""Records gathered by one search: eight times what one peer keeps under a key by default."""
_FORKS_COUNT_MAX = 16
"""Forks told of by one search: each is proof of a lie, and one of an owner is enough."""


@dataclass(slots=True)
class Gathering:
    """The finds of one get.

    Attributes:
        quorum: Holders of each key that must tell all they have; 0 for all. None where it depends: one tells
            enough of what cannot change, and some of what one owner alone can change, but of a key that many
            share each holder may lack somebody's record, so that all are asked.
        quorum_of_one: How many those some are.
        namespaces: What may stand under a key; the rest is not taken.
    """

    quorum: int | None
    quorum_of_one: int
    namespaces: Namespaces = field(default_factory=Namespaces)
    values: dict[bytes, dict[Place, DhtRecord]] = field(default_factory=dict)
    """The newest of each place, by key."""
    holders: dict[bytes, set[PeerId]] = field(default_factory=dict)
    """Who told all of a key's records."""
    without: dict[bytes, list[Contact]] = field(default_factory=dict)
    """Who had none of a key's."""
    forks: dict[tuple[bytes, Place], Fork] = field(default_factory=dict)
    """The first of each place."""

    def take(self, records: Iterable[DhtRecord]) -> list[Fork]:
        """Keep the newest record of each place, and no new places beyond the limit; return new forks."""
        new_forks = []
        for record in records:
            if self.namespaces.check(record) or not self._may_stand(record):
                continue
            under_key = self.values.setdefault(record.key, {})
            place = place_of(record)
            known = under_key.get(place)
            fork = fork_of(record, known) if known is not None else None
            if fork is not None and len(self.forks) < _FORKS_COUNT_MAX:
                is_new = self.forks.setdefault((record.key, place), fork) is fork
                new_forks += [fork] if is_new else []
            if known is not None or sum(map(len, self.values.values())) < _VALUES_COUNT_MAX:
                newest(under_key, record)
        return new_forks

    def _may_stand(self, record: DhtRecord) -> bool:
        """As in a store: nothing stands beside a record that the key belongs to."""
        under_key = self.values.get(record.key)
        if not under_key:
            return True
        is_bound = self.namespaces.is_bound(record)
        if self.namespaces.is_bound(next(iter(under_key.values()))) == is_bound:
            return True
        if is_bound:
            under_key.clear()
        return is_bound

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
