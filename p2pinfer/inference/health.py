"""Health of a peer, from 0 to 1, and the slow start of one that returns.

The score is a product of three parts of 0 to 1, so that each can only lower it: how requests ended, how fast
against the usual, and what the breaker says. It orders peers and scales weights; whether a peer may be asked
at all is the breaker's word alone, and whether it lives the swarm's: silence lowers nothing, since who is not
asked says nothing, and would never be asked again.

Source: Envoy, slow start mode and outlier detection.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from p2pinfer.errors import ConfigError
from p2pinfer.inference.breaker import BreakerState, Outcome

__all__ = ["Health", "HealthConfig", "slow_start_part"]

_BY_BREAKER: Mapping[BreakerState, float] = MappingProxyType(
    {BreakerState.CLOSED: 1.0, BreakerState.HALF_OPEN: 0.5, BreakerState.OPEN: 0.0}
)
_NEWS_WEIGHT = 0.2
"""What one request counts against those before it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthConfig:
    """How a peer's health follows what happens."""

    refusal_worth: float = 0.5
    """What a refusal counts as, between a failure, 0, and a success, 1. 0 to 1."""
    forgive_s: float = 30.0
    """Time in which all but 1/e of what went wrong is forgiven, where nothing new is known. 1 to 3600 s."""
    slow_start_s: float = 30.0
    """Time in which the weight of a peer that came or returned grows to its whole. 0 to 3600 s; 0 is no slow
    start. Source: Envoy, `slow_start_window`."""
    slow_start_part_min: float = 0.1
    """The part of its weight that it begins with. 0.01 to 1. Source: Envoy, `min_weight_percent`, 10 %."""

    def __post_init__(self) -> None:
        ranges: Mapping[str, tuple[float, float]] = {
            "refusal_worth": (0, 1),
            "forgive_s": (1, 3600),
            "slow_start_s": (0, 3600),
            "slow_start_part_min": (0.01, 1),
        }
        for field, (low, high) in ranges.items():
            value = getattr(self, field)
            if not low <= value <= high:
                raise ConfigError(f"{field} is {value}, but must lie in {low:g} to {high:g}")


class Health:
    """What is known of one peer's health."""

    def __init__(self, config: HealthConfig, now: float) -> None:
        self._config = config
        self._worth = 1.0
        self._worth_at = now
        self._latency_s: float | None = None

    def finished(self, outcome: Outcome, now: float, latency_s: float | None = None) -> None:
        """A request ended; the latency is given where one was measured."""
        if outcome is Outcome.CANCELLED:
            return
        worths = {Outcome.SUCCESS: 1.0, Outcome.REFUSAL: self._config.refusal_worth, Outcome.FAILURE: 0.0}
        worth = self._worth_now(now)
        self._worth = worth + (worths[outcome] - worth) * _NEWS_WEIGHT
        self._worth_at = now
        if latency_s is not None:
            before_s = latency_s if self._latency_s is None else self._latency_s
            self._latency_s = before_s + (latency_s - before_s) * _NEWS_WEIGHT

    def score(self, now: float, breaker: BreakerState, usual_latency_s: float | None = None) -> float:
        """Return the health.

        Args:
            now: The time, in seconds.
            breaker: The state of the peer's breaker.
            usual_latency_s: What peers of the same work usually take, such as the median; None if unknown.
        """
        return self._worth_now(now) * self._speed(usual_latency_s) * _BY_BREAKER[breaker]

    def _worth_now(self, now: float) -> float:
        kept = math.exp(min(0.0, self._worth_at - now) / self._config.forgive_s)
        return 1 - (1 - self._worth) * kept

    def _speed(self, usual_latency_s: float | None) -> float:
        if not self._latency_s or usual_latency_s is None:
            return 1.0
        return min(1.0, usual_latency_s / self._latency_s)


def slow_start_part(age_s: float, config: HealthConfig) -> float:
    """Return the part of its weight that a peer has `age_s` after it came or returned: it grows linearly."""
    if age_s >= config.slow_start_s:
        return 1.0
    return max(config.slow_start_part_min, age_s / config.slow_start_s)
