"""The table of all other members, and the order in which they are probed.

Rules:

1. Probing walks a shuffled ring and shuffles it anew after each pass; a new member is put in at a random
   place. So no two probes of one member are more than 2n - 1 periods apart (SWIM 4.3).
2. The table is bounded. When it is full, whoever has been dead or gone longest makes room, else the new one
   is refused.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

from p2pinfer.ids import PeerId
from p2pinfer.swim.member import Member, MemberState

__all__ = ["MemberTable"]


class MemberTable:
    """Members by id, without this peer itself.

    Invariant: the ring holds exactly the active members, each once.
    """

    __slots__ = ("_count_max", "_cursor", "_members", "_ring", "_rng")

    def __init__(self, count_max: int, rng: random.Random) -> None:
        self._count_max = count_max
        self._rng = rng
        self._members: dict[PeerId, Member] = {}
        self._ring: list[PeerId] = []
        self._cursor = 0

    def __len__(self) -> int:
        return len(self._members)

    def __iter__(self) -> Iterator[tuple[PeerId, Member]]:
        return iter(self._members.items())

    def get(self, peer: PeerId) -> Member | None:
        """The member, or None if it is unknown."""
        return self._members.get(peer)

    def active(self, peer: PeerId | None) -> Member | None:
        """The member if it is alive or suspect, else None."""
        member = self._members.get(peer) if peer is not None else None
        return member if member is not None and member.state.is_active else None

    @property
    def active_count(self) -> int:
        """Alive and suspect members."""
        return len(self._ring)

    def add(self, peer: PeerId, member: Member) -> bool:
        """Take in a new member; False if there is no room for it."""
        if len(self._members) >= self._count_max and not self._evict():
            return False
        self._members[peer] = member
        if member.state.is_active:
            self._enter_ring(peer)
        return True

    def set_state(self, peer: PeerId, member: Member, state: MemberState, now: float) -> None:
        """Move a member of this table to another state, and in or out of the ring with it."""
        was_active, member.state, member.since = member.state.is_active, state, now
        if state.is_active and not was_active:
            self._enter_ring(peer)
        elif was_active and not state.is_active:
            self._leave_ring(peer)

    def forget(self, is_over: Callable[[Member], bool]) -> int:
        """Drop every member that is not active and of which `is_over` holds; return how many."""
        over = [peer for peer, member in self if not member.state.is_active and is_over(member)]
        for peer in over:
            del self._members[peer]
        return len(over)

    def next_to_probe(self) -> PeerId | None:
        """The next member of the ring; None while there are no active members."""
        if not self._ring:
            return None
        if self._cursor >= len(self._ring):
            self._rng.shuffle(self._ring)
            self._cursor = 0
        self._cursor += 1
        return self._ring[self._cursor - 1]

    def choose_active(self, count: int, *, but: PeerId | None = None) -> list[PeerId]:
        """Draw up to `count` different active members, never `but`."""
        drawn = self._rng.sample(self._ring, min(len(self._ring), count + 1))
        return [peer for peer in drawn if peer != but][:count]

    def choose_dead(self, count: int) -> list[PeerId]:
        """Draw up to `count` different dead members; who left on purpose is not among them."""
        dead = [peer for peer, member in self if member.state is MemberState.DEAD]
        return self._rng.sample(dead, min(len(dead), count))

    def _enter_ring(self, peer: PeerId) -> None:
        place = self._rng.randint(0, len(self._ring))
        self._ring.insert(place, peer)
        if place < self._cursor:  # the pass under way must not meet anybody twice
            self._cursor += 1

    def _leave_ring(self, peer: PeerId) -> None:
        place = self._ring.index(peer)
        del self._ring[place]
        if place < self._cursor:
            self._cursor -= 1

    def _evict(self) -> bool:
        gone = [(member.since, peer) for peer, member in self if not member.state.is_active]
        if not gone:
            return False
        del self._members[min(gone)[1]]
        return True
