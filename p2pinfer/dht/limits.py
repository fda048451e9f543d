"""A limit on the questions of each peer, so that one cannot take this peer's time from the others."""

from __future__ import annotations

from collections import OrderedDict

from p2pinfer.dht.config import AnswerConfig
from p2pinfer.ids import PeerId

__all__ = ["RateLimit"]


class RateLimit:
    """A bucket of permits for each peer, which fills at a steady rate.

    Invariant: at most `rate_peers_count_max` peers are remembered.
    """

    def __init__(self, config: AnswerConfig) -> None:
        self._config = config
        self._permits: OrderedDict[PeerId, tuple[float, float]] = OrderedDict()

    def allows(self, peer: PeerId, now: float) -> bool:
        """Whether another question of this peer may be answered; counts it if so."""
        config = self._config
        permits, since = self._permits.pop(peer, (float(config.rate_burst_count), now))
        permits = min(permits + max(0.0, now - since) * config.rate_per_s, float(config.rate_burst_count))
        is_allowed = permits >= 1.0
        self._permits[peer] = (permits - 1.0 if is_allowed else permits, now)
        if len(self._permits) > config.rate_peers_count_max:
            self._permits.popitem(last=False)
        return is_allowed
