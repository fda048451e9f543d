"""What still has to be told, and how often each statement was told already.

Rules:

1. A statement is sent `retransmit_limit` times, whoever to: enough for an epidemic to reach everybody with a
   probability that grows with the factor (SWIM 4.1).
2. Least often sent goes first, then the newest: fresh news overtakes old news that most have heard.
3. A newer statement about a member takes the place of those that it supersedes, so the queue never holds
   more than a record and a few accusations for each member.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from p2pinfer.ids import PeerId
from p2pinfer.wire.codec import encoded_size
from p2pinfer.wire.messages.records import PeerRecord
from p2pinfer.wire.messages.swim import Accusation, Gossip

__all__ = ["GOSSIP_ROOM_BYTES", "Dissemination", "retransmit_limit"]

GOSSIP_ROOM_BYTES = 128
"""What the message around the statements may take: tags, list headers, a sequence number, a coordinate."""
_STATEMENT_BYTES_MIN = 120
"""Nothing signed is smaller: when less room than this is left, the search for what fits ends."""

Statement = PeerRecord | Accusation
_Key = tuple[PeerId, PeerId]
"""Whom a statement is about, and who makes it."""


def retransmit_limit(factor: int, member_count: int) -> int:
    """How often each statement is sent in a swarm of that size.

    Source: SWIM 4.1, lambda * log(n); in decimal logarithms as in memberlist.
    """
    return factor * math.ceil(math.log10(member_count + 1))


@dataclass(slots=True)
class _Queued:
    key: _Key
    statement: Statement
    size_bytes: int
    sent_count: int = 0


class Dissemination:
    """The queue of statements to tell."""

    __slots__ = ("_about", "_tiers")

    def __init__(self) -> None:
        self._about: dict[PeerId, dict[PeerId, _Queued]] = {}
        self._tiers: dict[int, dict[_Key, _Queued]] = {}

    def __len__(self) -> int:
        return sum(len(tier) for tier in self._tiers.values())

    def __bool__(self) -> bool:
        return bool(self._about)

    def add_record(self, owner: PeerId, record: PeerRecord) -> None:
        """Tell a record; it supersedes everything queued about its owner."""
        self.drop(owner)
        self._add((owner, owner), record)

    def add_accusation(self, accuser: PeerId, accusation: Accusation) -> None:
        """Tell an accusation; word of a death supersedes suspicions, but not the record it speaks of."""
        accused = accusation.accused
        if accusation.dead:
            for other in [key for key in self._about.get(accused, ()) if key != accused]:
                self._remove(self._about[accused][other])
        elif (old := self._about.get(accused, {}).get(accuser)) is not None:
            self._remove(old)
        self._add((accused, accuser), accusation)

    def clear(self) -> None:
        """Tell nothing more at all."""
        self._about.clear()
        self._tiers.clear()

    def drop(self, peer: PeerId) -> None:
        """Tell nothing more about a peer."""
        for queued in list(self._about.get(peer, {}).values()):
            self._remove(queued)

    def pack(
        self, size_bytes_max: int, limit: int, to: PeerId | None, *, first: Sequence[Statement]
    ) -> Gossip:
        """Fill one message: `first` whatever was sent before, then from the queue what fits.

        Each statement taken from the queue counts as sent once and is dropped when it reaches `limit`.
        Nobody is told a record of its own.
        """
        room = size_bytes_max - GOSSIP_ROOM_BYTES
        chosen: list[Statement] = list(first)
        room -= sum(encoded_size(statement) for statement in first)
        taken: list[_Queued] = []
        for queued in self._in_order():
            if room < _STATEMENT_BYTES_MIN:
                break
            if queued.size_bytes > room or queued.key == (to, to) or queued.statement in first:
                continue
            room -= queued.size_bytes
            chosen.append(queued.statement)
            taken.append(queued)
        for queued in reversed(taken):  # reversed, so that the newest stays the newest of its tier
            self._sent(queued, limit)
        return Gossip(
            records=tuple(each for each in chosen if isinstance(each, PeerRecord)),
            accusations=tuple(each for each in chosen if isinstance(each, Accusation)),
        )

    def _in_order(self) -> Iterator[_Queued]:
        for sent_count in sorted(self._tiers):
            yield from reversed(self._tiers[sent_count].values())

    def _add(self, key: _Key, statement: Statement) -> None:
        queued = _Queued(key, statement, encoded_size(statement))
        self._about.setdefault(key[0], {})[key[1]] = queued
        self._tiers.setdefault(0, {})[key] = queued

    def _remove(self, queued: _Queued) -> None:
        self._leave_tier(queued)
        about = self._about[queued.key[0]]
        del about[queued.key[1]]
        if not about:
            del self._about[queued.key[0]]

    def _leave_tier(self, queued: _Queued) -> None:
        tier = self._tiers[queued.sent_count]
        del tier[queued.key]
        if not tier:
            del self._tiers[queued.sent_count]

    def _sent(self, queued: _Queued, limit: int) -> None:
        if queued.sent_count + 1 >= limit:
            self._remove(queued)
            return
        self._leave_tier(queued)
        queued.sent_count += 1
        self._tiers.setdefault(queued.sent_count, {})[queued.key] = queued
