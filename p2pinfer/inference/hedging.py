"""Hedged opening: a second holder is asked where the first takes longer than nearly all openings do.

Rules:

1. The second is asked once the 95th percentile of recent openings has passed, or at once when the first
   fails or refuses, and only where the retry budget has something left. For mere slowness a quarter of the
   budget is all there is: when a whole swarm is slow, every opening is, and hedging must not add to that.
2. The first that is ready wins. Whoever else is or becomes ready is told to forget the session.

Source: Dean and Barroso, The Tail at Scale, 2013, section "Hedged requests".
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass

from p2pinfer.errors import ConfigError
from p2pinfer.ids import PeerId
from p2pinfer.inference.breaker import Outcome
from p2pinfer.inference.retry_budget import RetryBudget

__all__ = ["HedgeConfig", "HedgedOpening", "OpeningTimes"]


_SLOWNESS_PART = 0.25
"""5 % of the openings where retries are 20 %, as in The Tail at Scale. With the whole 20 %, a swarm at 70 %
of its capacity swings: hedges fill the queues that call for hedges."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HedgeConfig:
    """When a second holder is asked."""

    percentile: float = 0.95
    """The part of recent openings that are left to themselves. 0.5 to 1. Source: The Tail at Scale."""
    opening_count_min: int = 20
    """Openings known below which nothing is hedged. 1 to 10000; 1 / (1 - percentile) tell of the tail."""
    opening_count_max: int = 200
    """Openings remembered. At least `opening_count_min`."""
    age_s_max: float = 300.0
    """An opening that is older is forgotten. 1 to 86400 s."""
    delay_s_min: float = 0.02
    """No second is asked before this. 0 to 10 s: a little above the time of an engine's step, where openings
    wait."""

    def __post_init__(self) -> None:
        ranges: dict[str, tuple[float, float]] = {
            "percentile": (0.5, 1),
            "opening_count_min": (1, 10_000),
            "opening_count_max": (self.opening_count_min, 100_000),
            "age_s_max": (1, 86_400),
            "delay_s_min": (0, 10),
        }
        for field, (low, high) in ranges.items():
            value = getattr(self, field)
            if not low <= value <= high:
                raise ConfigError(f"{field} is {value}, but must lie in {low:g} to {high:g}")


class OpeningTimes:
    """How long recent openings took, and so how long is long."""

    def __init__(self, config: HedgeConfig) -> None:
        self._config = config
        self._openings: deque[tuple[float, float]] = deque(maxlen=config.opening_count_max)

    def add(self, latency_s: float, now: float) -> None:
        """A holder was ready after so long, whether or not it was first."""
        self._openings.append((now, latency_s))

    def delay_s(self, now: float) -> float | None:
        """Return after which time a second holder is to be asked; None while too little is known."""
        while self._openings and self._openings[0][0] < now - self._config.age_s_max:
            self._openings.popleft()
        count = len(self._openings)
        if count < self._config.opening_count_min:
            return None
        ordered = sorted(latency_s for _, latency_s in self._openings)
        # Nearest rank: the least value that this part of all openings does not exceed.
        rank = max(1, math.ceil(self._config.percentile * count))
        return max(self._config.delay_s_min, ordered[rank - 1])


class HedgedOpening:
    """One place of a chain being opened, at one holder or at two."""

    def __init__(self, first: PeerId, now: float, delay_s: float | None) -> None:
        """The first holder is asked now; a delay of None is no hedging on time."""
        self._asked: dict[PeerId, Outcome | None] = {first: None}
        self._hedge_at = math.inf if delay_s is None else now + delay_s
        self._is_spent = False
        """Whether nobody else will be asked."""
        self.winner: PeerId | None = None

    @property
    def deadline(self) -> float | None:
        """When `ask_second` may say yes for the sake of time; None if never."""
        is_over = self._is_spent or self.winner is not None
        return None if is_over or self._hedge_at == math.inf else self._hedge_at

    @property
    def is_failed(self) -> bool:
        """Whether everybody who was asked failed or refused, and nobody else will be asked."""
        is_pending = any(outcome is None for outcome in self._asked.values())
        return self._is_spent and not is_pending and self.winner is None

    def ask_second(self, second: PeerId | None, now: float, budget: RetryBudget) -> bool:
        """Whether a second holder is to be asked now; says yes at most once, at the budget's cost.

        Args:
            second: Who would be asked; None where nobody else holds the layers.
            now: The time, in seconds.
            budget: Where it finds no retry left, the first stays alone.
        """
        if self._is_spent or self.winner is not None or now < self._hedge_at:
            return False
        self._is_spent = True
        is_alone = all(outcome is not None for outcome in self._asked.values())
        part = 1.0 if is_alone else _SLOWNESS_PART
        if second is None or second in self._asked or not budget.take(now, part):
            return False
        self._asked[second] = None
        return True

    def answered(self, peer: PeerId, outcome: Outcome, now: float) -> tuple[PeerId, ...]:
        """Take an answer, and return who is to be told to forget the session.

        Whoever has not answered when somebody wins is told at once, and what it says later changes nothing;
        so does a stranger's answer, or a second one.
        """
        if peer not in self._asked or self._asked[peer] is not None:
            return ()
        self._asked[peer] = outcome
        if outcome is not Outcome.SUCCESS:
            self._hedge_at = min(self._hedge_at, now)
            return ()
        self.winner = peer
        losers = tuple(other for other, said in self._asked.items() if said is None)
        self._asked.update(dict.fromkeys(losers, Outcome.CANCELLED))
        return losers
