"""Limits on the questions taken, by source, so that one cannot take this peer's time from the others.

Rules:

1. Two limits hold at once: of the peer, and of the /24 or /48 that it stands in, where ids cost little. So a
   thousand ids of one block get no more than the block.
2. A question counts against both limits or against neither: one peer that asks too much does not use up what
   its neighbours may ask, and a block that asks too much does not fill the memory with its ids.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Generic, TypeVar

from p2pinfer.dht.addresses import counted_group
from p2pinfer.dht.config import AnswerConfig
from p2pinfer.ids import Contact, PeerId

__all__ = ["RateLimit"]

K = TypeVar("K")


class RateLimit:
    """What each peer and each block may still ask.

    Invariant: at most `rate_peers_count_max` peers are remembered, and as many blocks.
    """

    def __init__(self, config: AnswerConfig) -> None:
        count_max = config.rate_peers_count_max
        self._config = config
        self._peers: _Permits[PeerId] = _Permits(config.rate_per_s, config.rate_burst_count, count_max)
        self._groups: _Permits[str] = _Permits(
            config.rate_group_per_s, config.rate_group_burst_count, count_max
        )

    def allows(self, sender: Contact, now: float) -> bool:
        """Whether another question of this peer may be answered; counts it if so."""
        if sender.peer is None:
            return False
        group = counted_group(sender.endpoint.host, private_exempt=self._config.rate_private_exempt)
        if group and not self._groups.has_one(group, now):
            return False
        if not self._peers.has_one(sender.peer, now):
            return False
        self._peers.take(sender.peer, now)
        if group:
            self._groups.take(group, now)
        return True


class _Permits(Generic[K]):
    """A bucket of permits for each source, which fills at a steady rate; new ones are full."""

    def __init__(self, per_s: float, burst_count: int, count_max: int) -> None:
        self._per_s = per_s
        self._burst = float(burst_count)
        self._count_max = count_max
        self._left: OrderedDict[K, tuple[float, float]] = OrderedDict()

    def has_one(self, source: K, now: float) -> bool:
        """Whether a permit is left."""
        return self._now_left(source, now) >= 1.0

    def take(self, source: K, now: float) -> None:
        """Use one up; whoever asked nothing for longest is forgotten first."""
        self._left[source] = (self._now_left(source, now) - 1.0, now)
        self._left.move_to_end(source)
        if len(self._left) > self._count_max:
            self._left.popitem(last=False)

    def _now_left(self, source: K, now: float) -> float:
        left, since = self._left.get(source, (self._burst, now))
        return min(left + max(0.0, now - since) * self._per_s, self._burst)
