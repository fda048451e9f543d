"""Retry budget: retries are a small part of the requests, so they never multiply an overload.

Where every failed request is tried again, a moment of overload makes more load than the moment before, and
the swarm stays down after its cause is gone: a metastable failure. A budget for the whole of a peer's
requests, not a number of tries for each, bounds what retries add. Openings asked of a second holder before
the first has failed draw on it as well.

Sources: `RetryBudget` of Finagle and of Linkerd (20 % and 10 a second, over 10 s); Bronson et al., Metastable
Failures in Distributed Systems, 2021, section 3.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from p2pinfer.errors import ConfigError
from p2pinfer.inference.sliding import SlidingCounts

__all__ = ["RetryBudget", "RetryBudgetConfig"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryBudgetConfig:
    """How many retries there may be."""

    ratio: float = 0.2
    """Retries for each request within the window. 0 to 1. Source: Finagle and Linkerd, 20 %."""
    count_per_s_min: float = 0.3
    """Retries a second that there may be with few requests. 0 to 1000. The load of a whole swarm grows by at
    most the ratio plus this for each request a second of one entry peer, so it is far below the 10 of
    Finagle, whose clients make thousands of requests a second."""
    window_s: float = 10.0
    """Over which requests and retries are counted. 1 to 600 s. Source: Finagle, 10 s."""

    def __post_init__(self) -> None:
        ranges = {"ratio": (0, 1), "count_per_s_min": (0, 1000), "window_s": (1, 600)}
        for field, (low, high) in ranges.items():
            value = getattr(self, field)
            if not low <= value <= high:
                raise ConfigError(f"{field} is {value}, but must lie in {low} to {high}")


class _Kind(enum.Enum):
    REQUEST = "request"
    RETRY = "retry"


class RetryBudget:
    """The retries of one peer, whatever they are for.

    Invariant: whenever a retry is taken, the window that ends then holds at most
    ratio * requests + count_per_s_min * window_s retries.
    """

    def __init__(self, config: RetryBudgetConfig) -> None:
        self._config = config
        self._counts: SlidingCounts[_Kind] = SlidingCounts(config.window_s)

    def requested(self, now: float) -> None:
        """A request was made for the first time."""
        self._counts.add(_Kind.REQUEST, now)

    def balance(self, now: float, part: float = 1.0) -> float:
        """Return how many retries there may be now, where all may take but this part of the budget."""
        earned = self._config.ratio * self._counts.count(_Kind.REQUEST, now)
        reserve = self._config.count_per_s_min * self._config.window_s
        return part * (earned + reserve) - self._counts.count(_Kind.RETRY, now)

    def take(self, now: float, part: float = 1.0) -> bool:
        """Take one retry if there is one left, and say whether.

        Args:
            now: The time, in seconds.
            part: What matters less than a retry stops at this part of the budget, and leaves the rest.
        """
        if self.balance(now, part) < 1:
            return False
        self._counts.add(_Kind.RETRY, now)
        return True
