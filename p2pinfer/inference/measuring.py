"""Balancers that measure: latency, resources, and weights that follow what a member does.

Latencies are averaged with weights that fall with time, e to the minus age over `decay_s`, and what is known
fades when nothing new comes: a member that was slow is tried again. A failure counts as a long latency, or
whoever fails at once would look like the fastest and draw all sessions.

Sources: `PeakEwma` of Finagle and Linkerd; nginx and Envoy for round robin with weights that change.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from p2pinfer.errors import ConfigError
from p2pinfer.ids import PeerId
from p2pinfer.inference.balancer import Balancer, BalancingConfig, WeightedRoundRobin

__all__ = ["Adaptive", "LeastLatency", "ResourceAware", "Resources"]

_NEWS_WEIGHT_MIN = 0.1
"""What one session counts at least in `Adaptive`, however quickly they follow each other."""


@dataclass(slots=True)
class _Average:
    """An average that forgets: its value, and when it was last told something."""

    value: float
    at: float


class LeastLatency(Balancer):
    """Whoever is expected to answer first: its average latency times the sessions it would then have.

    A member that was never measured is tried at once, with one session until that has ended.
    """

    def __init__(self, config: BalancingConfig, *, is_peak: bool) -> None:
        """Make one.

        Args:
            config: `decay_s` and `failure_latency_s` are read.
            is_peak: Whether a latency above the average replaces it at once (peak EWMA), so that a member
                that stalls is left after one slow answer and trusted again only with time.
        """
        super().__init__()
        self._config = config
        self._is_peak = is_peak
        self._latencies: dict[PeerId, _Average] = {}

    def pick(self, key: bytes, now: float, avoid: Collection[PeerId] = ()) -> PeerId | None:
        return min(self._usable(avoid), key=lambda peer: self._cost_s(peer, now), default=None)

    def _cost_s(self, peer: PeerId, now: float) -> float:
        average = self._latencies.get(peer)
        if average is None:
            return self._config.failure_latency_s * self._load(peer) if self.in_flight(peer) else 0.0
        return self._faded_s(average, now) * self._load(peer)

    def _faded_s(self, average: _Average, now: float) -> float:
        return average.value * math.exp(min(0.0, average.at - now) / self._config.decay_s)

    def _measured(self, peer: PeerId, now: float, latency_s: float | None) -> None:
        average = self._latencies.get(peer)
        is_peak = self._is_peak or latency_s is None
        if latency_s is None:
            latency_s = self._config.failure_latency_s
        if average is None:
            self._latencies[peer] = _Average(latency_s, now)
        elif is_peak and latency_s > self._faded_s(average, now):
            average.value, average.at = latency_s, now
        else:
            kept = math.exp(min(0.0, average.at - now) / self._config.decay_s)
            average.value = average.value * kept + latency_s * (1 - kept)
            average.at = max(now, average.at)

    def _changed(self, peer: PeerId) -> None:
        if peer not in self._weights:
            self._latencies.pop(peer, None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Resources:
    """What a member says of the device that computes: of its GPU where it has one, else of the machine."""

    memory_free_bytes: int
    """What its caches may still take."""
    load: float
    """The part of its time that the device computes: 0 idle, 1 busy all the time."""
    speed: float = 1.0
    """Layers a second when idle, in any unit that all members share: this is where a GPU counts."""

    def __post_init__(self) -> None:
        if not (self.memory_free_bytes >= 0 and 0 <= self.load < math.inf and 0 < self.speed < math.inf):
            raise ConfigError(f"{self} is out of range: memory and load are at least 0, speed above 0")


class ResourceAware(WeightedRoundRobin):
    """In proportion to what members have to give: speed, idle time and free memory, times their weight.

    Who has no room for a session gets none while another has; who is full or says nothing keeps `share_min`
    of its weight.
    """

    def __init__(self, config: BalancingConfig) -> None:
        super().__init__()
        self._config = config
        self._reports: dict[PeerId, tuple[Resources, float]] = {}

    def report(self, peer: PeerId, resources: Resources, now: float) -> None:
        """Take a member's word of its resources; who is unknown is ignored."""
        if peer in self._weights:
            self._reports[peer] = (resources, now)

    def _shares(self, peers: Sequence[PeerId], now: float) -> list[float]:
        fastest = max((resources.speed for resources, _ in self._reports.values()), default=1.0)
        return [self._weights[peer] * self._part(peer, fastest, now) for peer in peers]

    def _part(self, peer: PeerId, fastest: float, now: float) -> float:
        config = self._config
        resources, at = self._reports.get(peer, (None, now))
        if resources is None or now - at > config.report_age_s_max:
            return config.share_min
        if resources.memory_free_bytes < config.session_size_bytes:
            return 0.0
        memory = min(1.0, resources.memory_free_bytes / config.memory_plenty_bytes)
        idle = max(0.0, 1 - resources.load)
        return max(config.share_min, resources.speed / fastest * idle * memory)

    def _changed(self, peer: PeerId) -> None:
        super()._changed(peer)
        if peer not in self._weights:
            self._reports.pop(peer, None)


class Adaptive(WeightedRoundRobin):
    """Weights that follow what is measured: in proportion to speed, and to the square of the success rate.

    The fastest has its whole weight, another its part of the fastest's speed, nobody less than `share_min`;
    who was never measured counts as the fastest. The square makes errors count more than slowness: a member
    that fails every second time gets a quarter.
    """

    def __init__(self, config: BalancingConfig) -> None:
        super().__init__()
        self._config = config
        self._latencies: dict[PeerId, _Average] = {}
        self._successes: dict[PeerId, _Average] = {}

    def _shares(self, peers: Sequence[PeerId], now: float) -> list[float]:
        fastest_s = min((average.value for average in self._latencies.values()), default=0.0)
        return [self._weights[peer] * self._part(peer, fastest_s) for peer in peers]

    def _part(self, peer: PeerId, fastest_s: float) -> float:
        latency, success = self._latencies.get(peer), self._successes.get(peer)
        speed = fastest_s / latency.value if latency and latency.value else 1.0
        return max(self._config.share_min, speed * (success.value**2 if success else 1.0))

    def _measured(self, peer: PeerId, now: float, latency_s: float | None) -> None:
        # It begins as good: one failure alone does not take a newcomer's place.
        self._note(self._successes.setdefault(peer, _Average(1.0, now)), float(latency_s is not None), now)
        if latency_s is not None:
            self._note(self._latencies.setdefault(peer, _Average(latency_s, now)), latency_s, now)

    def _note(self, average: _Average, value: float, now: float) -> None:
        age_s = max(0.0, now - average.at)
        weight = max(_NEWS_WEIGHT_MIN, 1 - math.exp(-age_s / self._config.decay_s))
        average.value += (value - average.value) * weight
        average.at = now

    def _changed(self, peer: PeerId) -> None:
        super()._changed(peer)
        if peer not in self._weights:
            self._latencies.pop(peer, None)
            self._successes.pop(peer, None)
