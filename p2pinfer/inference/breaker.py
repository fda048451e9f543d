"""Circuit breaker: whether a peer that failed is asked again, and when.

Rules:

1. The state changes by the table `TRANSITIONS` alone; an event that the table lacks for a state is a bug.
2. Closed: all may ask, and failures are counted over a sliding window. Open: nobody asks until a wait is
   over, which doubles from one opening to the next. Half-open: a bounded number of trials may ask; as many
   successes close the breaker, one failure opens it again.
3. A refusal ("overloaded") is an answer of a peer that lives: it neither trips the breaker nor closes it.
4. What was begun in an earlier state says nothing of this one: each request carries the `Permit` that it got.

Sources: Nygard, Release It!, 2nd edition, section 5.2; the transition table in the manner of h11's
`_state.py`; jitter: Brooker, Exponential Backoff And Jitter, 2015.
"""

from __future__ import annotations

import enum
import random
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from p2pinfer.errors import ConfigError
from p2pinfer.inference.sliding import SlidingCounts

__all__ = ["TRANSITIONS", "Breaker", "BreakerConfig", "BreakerEvent", "BreakerState", "Outcome", "Permit"]


class Outcome(enum.Enum):
    """How a request to a peer ended."""

    SUCCESS = "success"
    FAILURE = "failure"
    """No answer, a broken connection, an error or nonsense."""
    REFUSAL = "refusal"
    """The peer said that it has no room: it lives and is busy."""
    CANCELLED = "cancelled"
    """We did not wait for the end: nothing is known."""


class BreakerState(enum.Enum):
    """Who may ask the peer."""

    CLOSED = "closed"
    """Everybody."""
    OPEN = "open"
    """Nobody."""
    HALF_OPEN = "half_open"
    """A few, to find out."""


class BreakerEvent(enum.Enum):
    """What changes the state."""

    TRIPPED = "tripped"
    """Too many failures within the window."""
    WAITED = "waited"
    """The wait of the open breaker is over."""
    TRIALS_PASSED = "trials_passed"
    TRIAL_FAILED = "trial_failed"
    """A trial failed, or did not end within its time."""


TRANSITIONS: Mapping[tuple[BreakerState, BreakerEvent], BreakerState] = MappingProxyType(
    {
        (BreakerState.CLOSED, BreakerEvent.TRIPPED): BreakerState.OPEN,
        (BreakerState.OPEN, BreakerEvent.WAITED): BreakerState.HALF_OPEN,
        (BreakerState.HALF_OPEN, BreakerEvent.TRIALS_PASSED): BreakerState.CLOSED,
        (BreakerState.HALF_OPEN, BreakerEvent.TRIAL_FAILED): BreakerState.OPEN,
    }
)
"""All there are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BreakerConfig:
    """When a breaker opens, and how it closes again."""

    window_s: float = 10.0
    """Over which failures and successes are counted. 1 to 600 s."""
    failure_count_min: int = 3
    """Failures within the window below which nothing is concluded. 1 to 1000."""
    failure_ratio: float = 0.5
    """The part of failures among successes and failures from which on the breaker opens. Above 0, up to 1.
    Source: resilience4j, `failureRateThreshold`."""
    wait_s_min: float = 1.0
    """The first wait of an open breaker. 0.05 to 60 s."""
    wait_s_max: float = 60.0
    """The longest wait. At least `wait_s_min`, up to 3600 s."""
    jitter: float = 0.3
    """The part of a wait that is left to chance, so that peers do not come back all at once. 0 to 1."""
    trial_count_max: int = 2
    """Trials at once while half-open, and successes that close the breaker. 1 to 100."""
    trial_timeout_s: float = 10.0
    """Trials that have not ended so long after the last began count as failed. 0.1 to 600 s; it should lie
    above what an opening may take."""

    def __post_init__(self) -> None:
        ranges: Mapping[str, tuple[float, float]] = {
            "window_s": (1, 600),
            "failure_count_min": (1, 1000),
            "failure_ratio": (0.001, 1),
            "wait_s_min": (0.05, 60),
            "wait_s_max": (self.wait_s_min, 3600),
            "jitter": (0, 1),
            "trial_count_max": (1, 100),
            "trial_timeout_s": (0.1, 600),
        }
        for field, (low, high) in ranges.items():
            value = getattr(self, field)
            if not low <= value <= high:
                raise ConfigError(f"{field} is {value}, but must lie in {low:g} to {high:g}")


@dataclass(frozen=True, slots=True)
class Permit:
    """Says in which state of the breaker a request was begun."""

    change_count: int


_UNCOUNTED = Permit(-1)
"""For whoever asked although the breaker said no."""


class Breaker:
    """The circuit breaker for one peer."""

    def __init__(self, config: BreakerConfig, rng: random.Random) -> None:
        self._config = config
        self._rng = rng
        self._state = BreakerState.CLOSED
        self._change_count = 0
        self._changed_at = 0.0
        self._counts: SlidingCounts[Outcome] = SlidingCounts(config.window_s)
        self._trial_count = 0
        """Trials under way."""
        self._passed_count = 0
        self._wait_s = 0.0
        """The wait before jitter of the last opening; 0 where it does not matter any more."""
        self._until = 0.0
        """Open: when the wait is over. Half-open with trials: when their silence counts as a failure."""

    def state(self, now: float) -> BreakerState:
        """Return the state at a time; waits that are over have taken effect."""
        if self._trial_count and now >= self._until:
            self._change(BreakerEvent.TRIAL_FAILED, self._until)
        if self._state is BreakerState.OPEN and now >= self._until:
            self._change(BreakerEvent.WAITED, now)
        return self._state

    def allows(self, now: float) -> bool:
        """Whether the peer may be asked now."""
        match self.state(now):
            case BreakerState.CLOSED:
                return True
            case BreakerState.OPEN:
                return False
            case BreakerState.HALF_OPEN:
                return self._trial_count + self._passed_count < self._config.trial_count_max

    def started(self, now: float) -> Permit:
        """The peer is asked; where it is not allowed (a session has nobody else) this changes nothing."""
        if self.allows(now) and self._state is BreakerState.HALF_OPEN:
            self._trial_count += 1
            self._until = now + self._config.trial_timeout_s
            return Permit(self._change_count)
        return Permit(self._change_count) if self._state is BreakerState.CLOSED else _UNCOUNTED

    def finished(self, permit: Permit, outcome: Outcome, now: float) -> None:
        """The peer answered, failed, or was not waited for; say it once for each permit."""
        state = self.state(now)
        if permit.change_count != self._change_count:
            return
        if state is BreakerState.CLOSED:
            self._counts.add(outcome, now)
            if self._is_failing(now):
                self._change(BreakerEvent.TRIPPED, now)
            return
        self._trial_count -= 1
        if outcome is Outcome.FAILURE:
            self._change(BreakerEvent.TRIAL_FAILED, now)
        elif outcome is Outcome.SUCCESS:
            self._passed_count += 1
            if self._passed_count >= self._config.trial_count_max:
                self._change(BreakerEvent.TRIALS_PASSED, now)

    def _is_failing(self, now: float) -> bool:
        failure_count = self._counts.count(Outcome.FAILURE, now)
        asked_count = failure_count + self._counts.count(Outcome.SUCCESS, now)
        return failure_count >= max(self._config.failure_count_min, self._config.failure_ratio * asked_count)

    def _change(self, event: BreakerEvent, now: float) -> None:
        config = self._config
        state = TRANSITIONS[self._state, event]
        self._trial_count = self._passed_count = 0
        if state is BreakerState.OPEN:
            # Who stayed closed for longer than the longest wait begins with the shortest again.
            is_relapse = event is BreakerEvent.TRIAL_FAILED or now - self._changed_at <= config.wait_s_max
            doubled_s = 2 * self._wait_s if is_relapse else 0.0
            self._wait_s = min(max(doubled_s, config.wait_s_min), config.wait_s_max)
            self._until = now + self._wait_s * (1 - config.jitter * self._rng.random())
        elif state is BreakerState.CLOSED:
            self._counts.clear()
        self._state = state
        self._changed_at = now
        self._change_count += 1
