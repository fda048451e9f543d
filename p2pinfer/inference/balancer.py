"""What every balancer is, and those that only count: who takes the next session among equal holders.

Equal holders hold the same layers of the same model, so any of them can serve. A balancer knows its members
and their weights, is told what was begun there and how it ended, and picks.

Rules:

1. `pick` changes nothing but the balancer's own turn. Whoever follows a pick says `started` at once, and
   `finished` or `cancelled` once, whatever happens, so that the sessions under way are counted exactly.
2. Who must not be picked now (a breaker is open, it was asked already) is handed to each pick. Weight 0
   drains a member: it is never picked and keeps what it has.
3. Equal views and equal random numbers give equal picks: members are kept in the order of their PeerIds.

Sources: smooth weighted round robin of nginx (`ngx_http_upstream_round_robin.c`); Mitzenmacher, The Power of
Two Choices in Randomized Load Balancing, 2001.
"""

from __future__ import annotations

import bisect
import math
import random
from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from p2pinfer.errors import ConfigError
from p2pinfer.ids import PeerId

__all__ = [
    "Balancer",
    "BalancingConfig",
    "LeastConnections",
    "PowerOfTwo",
    "RoundRobin",
    "WeightedRoundRobin",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class BalancingConfig:
    """How the balancers weigh what they know. Each strategy reads its own part."""

    ring_points_count: int = 160
    """Points on the ring for a member of weight 1. 8 to 4096; a member's part of the keys strays from its
    due by about 1 / sqrt(points). Source: 160 in ketama."""
    load_bound: float = 1.25
    """How far above the mean load a member of the ring may come. 1.01 to 10; near 1 keys move often.
    Source: Mirrokni et al., 2016, whose 1 + epsilon it is; 1.25 at Vimeo (HAProxy, `hash-balance-factor`)."""
    decay_s: float = 10.0
    """Time in which what was measured loses all but 1/e of its weight. 0.1 to 600 s. Source: Finagle."""
    failure_latency_s: float = 5.0
    """What a failure counts as, so that whoever fails fast does not look fast. 0.01 to 60 s."""
    share_min: float = 0.05
    """The least part of its weight that a measured member keeps, so that it goes on being measured.
    0.001 to 1."""
    session_size_bytes: int = 64 << 20
    """Free memory below which a member has no room for a session. 0 to 1 TiB."""
    memory_plenty_bytes: int = 1 << 30
    """Free memory above which more does not matter. At least `session_size_bytes`."""
    report_age_s_max: float = 30.0
    """A report of resources that is older counts as none. 1 to 600 s."""

    def __post_init__(self) -> None:
        ranges = {
            "ring_points_count": (8, 4096),
            "load_bound": (1.01, 10),
            "decay_s": (0.1, 600),
            "failure_latency_s": (0.01, 60),
            "share_min": (0.001, 1),
            "session_size_bytes": (0, 1 << 40),
            "memory_plenty_bytes": (max(1, self.session_size_bytes), 1 << 50),
            "report_age_s_max": (1, 600),
        }
        for field, (low, high) in ranges.items():
            value = getattr(self, field)
            if not low <= value <= high:
                raise ConfigError(f"{field} is {value}, but must lie in {low:g} to {high:g}")


class Balancer(ABC):
    """Picks a peer among members that can serve alike."""

    def __init__(self) -> None:
        self._weights: dict[PeerId, float] = {}
        self._peers: list[PeerId] = []
        """Members of a weight above 0, in the order of their PeerIds."""
        self._in_flight: dict[PeerId, int] = {}

    @abstractmethod
    def pick(self, key: bytes, now: float, avoid: Collection[PeerId] = ()) -> PeerId | None:
        """Return who takes the next session; None where nobody may be picked.

        Args:
            key: What equal sessions share: a prefix's hash, a client's address. Only hashing looks at it.
            now: The time, in seconds.
            avoid: Who must not be picked, whatever its weight.
        """

    def join(self, peer: PeerId, weight: float = 1.0) -> None:
        """Take a member in, or give it a new weight; 0 drains it.

        Raises:
            ConfigError: The weight is negative or no number.
        """
        if not 0 <= weight < math.inf:
            raise ConfigError(f"weight is {weight}, but must be at least 0 and finite")
        if self._weights.get(peer) == weight:
            return
        self._weights[peer] = weight
        is_pickable = peer in self._peers
        if weight and not is_pickable:
            bisect.insort(self._peers, peer)
        elif not weight and is_pickable:
            self._peers.remove(peer)
        self._changed(peer)

    def leave(self, peer: PeerId) -> None:
        """Forget a member and what was measured of it; who is unknown is ignored.

        Its sessions under way go on being counted: they are still there if it comes back.
        """
        if self._weights.pop(peer, None):
            self._peers.remove(peer)
        self._changed(peer)

    def started(self, peer: PeerId, now: float) -> None:
        """A session was begun at a peer."""
        self._in_flight[peer] = self._in_flight.get(peer, 0) + 1

    def finished(self, peer: PeerId, now: float, latency_s: float | None) -> None:
        """A session ended that was begun at a peer.

        Args:
            peer: Where.
            now: The time, in seconds.
            latency_s: How long the peer took to do what is compared (an opening, a step); None if it failed
                or refused.
        """
        self.cancelled(peer)
        if peer in self._weights:
            self._measured(peer, now, latency_s)

    def cancelled(self, peer: PeerId) -> None:
        """A session that was begun at a peer ended in a way that says nothing of it: it was moved, say."""
        count = self._in_flight.get(peer, 0) - 1
        if count > 0:
            self._in_flight[peer] = count
        else:
            self._in_flight.pop(peer, None)

    def in_flight(self, peer: PeerId) -> int:
        """Sessions begun at a peer and not finished."""
        return self._in_flight.get(peer, 0)

    @property
    def members(self) -> tuple[PeerId, ...]:
        """All members, the drained ones too, in the order of their PeerIds."""
        return tuple(sorted(self._weights))

    def _usable(self, avoid: Collection[PeerId]) -> Sequence[PeerId]:
        return [peer for peer in self._peers if peer not in avoid] if avoid else self._peers

    def _load(self, peer: PeerId) -> float:
        """Sessions for each unit of weight, if the peer took one more."""
        return (self._in_flight.get(peer, 0) + 1) / self._weights[peer]

    def _changed(self, peer: PeerId) -> None:  # noqa: B027 - not every strategy derives something
        """A member joined, left or has another weight: what is derived from them follows."""

    def _measured(  # noqa: B027 - not every strategy measures
        self, peer: PeerId, now: float, latency_s: float | None
    ) -> None:
        """A member finished a session: whoever measures takes note."""


class RoundRobin(Balancer):
    """One after the other, whatever the weights: in n picks in a row each of n members comes once."""

    def __init__(self) -> None:
        super().__init__()
        self._index = 0
        self._last = b""

    def pick(self, key: bytes, now: float, avoid: Collection[PeerId] = ()) -> PeerId | None:
        peers = self._peers
        for _ in peers:
            index = self._index if self._index < len(peers) else 0
            self._index = index + 1
            self._last = peer = peers[index]
            if peer not in avoid:
                return peer
        return None

    def _changed(self, peer: PeerId) -> None:
        self._index = bisect.bisect_right(self._peers, self._last)


class WeightedRoundRobin(Balancer):
    """Smooth weighted round robin: each gets its part, and heavy members come in between the others.

    nginx's algorithm, counted in picks instead of weights, so that a changed weight leaves no debt behind: at
    every pick each member is owed its part of one pick, and whoever is owed most is picked and pays one.
    While nobody leaves the debts sum to 0: who is picked is owed more than 0, so nobody is ever a whole pick
    ahead of its part, and with whole weights that sum to W, every W picks hold each member exactly as its
    weight says.
    """

    def __init__(self) -> None:
        super().__init__()
        self._owed: dict[PeerId, float] = {}

    def pick(self, key: bytes, now: float, avoid: Collection[PeerId] = ()) -> PeerId | None:
        peers = self._usable(avoid)
        if not peers:
            return None
        shares = self._shares(peers, now)
        total = sum(shares)
        if not total:
            shares, total = [1.0] * len(peers), len(peers)
        owed = self._owed
        for peer, share in zip(peers, shares, strict=True):
            owed[peer] += share / total
        # Sums of fractions differ in their last bits, and these must not decide who is owed more.
        best = max(peers, key=lambda peer: round(owed[peer], 9))
        owed[best] -= 1
        return best

    def _shares(self, peers: Sequence[PeerId], now: float) -> list[float]:
        """What part of the picks each is due, in any unit; all 0 counts as all equal."""
        return [self._weights[peer] for peer in peers]

    def _changed(self, peer: PeerId) -> None:
        if peer in self._weights:
            self._owed.setdefault(peer, 0.0)
        else:
            self._owed.pop(peer, None)


class LeastConnections(Balancer):
    """Whoever has the fewest sessions under way for its weight; among equals, who waited longest for one."""

    def __init__(self) -> None:
        super().__init__()
        self._pick_count = 0
        self._picked_at: dict[PeerId, int] = {}
        """By member: the number of its last pick."""

    def pick(self, key: bytes, now: float, avoid: Collection[PeerId] = ()) -> PeerId | None:
        peers = self._usable(avoid)
        if not peers:
            return None
        best = min(peers, key=lambda peer: (self._load(peer), self._picked_at.get(peer, 0)))
        self._pick_count += 1
        self._picked_at[best] = self._pick_count
        return best

    def _changed(self, peer: PeerId) -> None:
        if peer not in self._weights:
            self._picked_at.pop(peer, None)


class PowerOfTwo(Balancer):
    """The less loaded of two drawn at random, at a cost that does not grow with the members.

    With n members and any number of sessions the fullest is ln ln n / ln 2 + O(1) above the mean, where one
    random draw grows away from it for ever. Source: Berenbrink et al., Balanced Allocations: The Heavily
    Loaded Case, 2000, theorem 3.
    """

    def __init__(self, rng: random.Random) -> None:
        super().__init__()
        self._rng = rng

    def pick(self, key: bytes, now: float, avoid: Collection[PeerId] = ()) -> PeerId | None:
        peers = self._usable(avoid)
        if not peers:
            return None
        count = len(peers)
        if count == 1:
            return peers[0]
        first = int(self._rng.random() * count)
        second = int(self._rng.random() * (count - 1))
        second += second >= first
        one, other = peers[first], peers[second]
        return one if self._load(one) <= self._load(other) else other
