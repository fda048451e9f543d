"""What an entry peer has learned of the holders that it asks: who fails, who is slow, whom it loads already.

Gossip says what holders say of themselves, seconds late. This is the other half: how they treated us. A
breaker keeps those that fail from being asked, a score and a slow start scale how much they get, sessions of
our own count at once, and one retry budget bounds what all our repetitions add to an overload.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from p2pinfer.errors import ConfigError
from p2pinfer.ids import PeerId, SessionId
from p2pinfer.inference.balancer import Balancer, BalancingConfig
from p2pinfer.inference.balancing import BALANCERS, make_balancer
from p2pinfer.inference.breaker import Breaker, BreakerConfig, BreakerState, Outcome, Permit
from p2pinfer.inference.health import Health, HealthConfig, slow_start_part
from p2pinfer.inference.hedging import HedgeConfig, OpeningTimes
from p2pinfer.inference.retry_budget import RetryBudget, RetryBudgetConfig

__all__ = ["StandingConfig", "Standings"]

_GROUP_COUNT_MAX = 256
"""Sets of equal holders whose turns are remembered."""
_WEIGHT_MIN = 0.01
"""Whoever may be asked at all keeps this part, so that it is asked now and then."""
_WEIGHT_DIGITS = 1
"""Weights are rounded to so many: of two idle holders the heavier takes every session, and what is left of a
failure that is nearly forgiven must not decide."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StandingConfig:
    """How holders are chosen among equals, and what is made of how they behave."""

    balancer: str = "power_of_two"
    """Who of equal holders takes a session: a key of `BALANCERS`. The default needs no view of the whole, and
    does not send all entry peers to the same holder at once."""
    balancing: BalancingConfig = field(default_factory=BalancingConfig)
    breaker: BreakerConfig = field(default_factory=BreakerConfig)
    health: HealthConfig = field(default_factory=HealthConfig)
    hedging: HedgeConfig = field(default_factory=HedgeConfig)
    retries: RetryBudgetConfig = field(default_factory=RetryBudgetConfig)

    def __post_init__(self) -> None:
        if self.balancer not in BALANCERS:
            raise ConfigError(f"balancer is {self.balancer!r}, but must be one of {', '.join(BALANCERS)}")


@dataclass(slots=True)
class _Standing:
    """What is known of one holder."""

    breaker: Breaker
    health: Health


@dataclass(slots=True)
class _Asking:
    """A session's business with one holder."""

    permit: Permit
    asked_at: float
    is_answered: bool = False
    latency_s: float | None = None
    """How long the holder took to take its place: what balancers compare."""


class Standings:
    """The standing of every holder that was asked, as one entry peer sees it."""

    def __init__(self, config: StandingConfig, rng: random.Random) -> None:
        self._config = config
        self._rng = rng
        self._known: dict[PeerId, _Standing] = {}
        self._came_at: dict[PeerId, float] = {}
        """By holder of which the swarm told: when its slow start began; long ago for those that are warm."""
        self._is_late_from: float | None = None
        self._sessions: dict[SessionId, dict[PeerId, _Asking]] = {}
        self._in_flight: Counter[PeerId] = Counter()
        self._balancers: dict[frozenset[PeerId], Balancer] = {}
        self.budget = RetryBudget(config.retries)
        self.openings = OpeningTimes(config.hedging)

    def in_flight(self, peer: PeerId) -> int:
        """Sessions of our own that run through a holder."""
        return self._in_flight[peer]

    def shunned(self, peers: Iterable[PeerId], now: float) -> set[PeerId]:
        """Return those whose breaker says no."""
        known = self._known
        return {peer for peer in peers if peer in known and not known[peer].breaker.allows(now)}

    def pick(self, peers: Collection[PeerId], key: bytes, now: float) -> PeerId | None:
        """Return who of equal holders takes the next session, by the balancer of the settings."""
        group = frozenset(peers)
        balancer = self._balancers.pop(group, None)
        if balancer is None:
            balancer = make_balancer(self._config.balancer, rng=self._rng, config=self._config.balancing)
            for peer in sorted(group):
                for _ in range(self._in_flight[peer]):
                    balancer.started(peer, now)  # what runs there already will be said to have ended
        self._balancers[group] = balancer  # the one used last stands last
        if len(self._balancers) > _GROUP_COUNT_MAX:
            del self._balancers[next(iter(self._balancers))]
        for peer in sorted(group):
            balancer.join(peer, self._weight(peer, now))
        return balancer.pick(key, now)

    def asked(self, session: SessionId, peer: PeerId, now: float) -> None:
        """A holder is asked to take a place in a session; asking again changes nothing."""
        askings = self._sessions.setdefault(session, {})
        if peer in askings:
            return
        known = self._known.get(peer)
        if known is None:
            breaker = Breaker(self._config.breaker, self._rng)
            known = self._known[peer] = _Standing(breaker, Health(self._config.health, now))
        askings[peer] = _Asking(known.breaker.started(now), now)
        self._in_flight[peer] += 1
        for group, balancer in self._balancers.items():
            if peer in group:
                balancer.started(peer, now)

    def answered(self, session: SessionId, peer: PeerId, now: float) -> None:
        """A holder has taken its place; what it says later does not count again."""
        asking = self._sessions.get(session, {}).get(peer)
        if asking is not None and not asking.is_answered:
            latency_s = now - asking.asked_at
            self.openings.add(latency_s, now)
            self._finish(peer, asking, Outcome.SUCCESS, now, latency_s)

    def left(self, session: SessionId, peer: PeerId, outcome: Outcome, now: float) -> None:
        """A session goes on without a holder, or is over: a success then, if it had answered."""
        askings = self._sessions.get(session, {})
        asking = askings.pop(peer, None)
        if asking is None:
            return
        if not askings:
            del self._sessions[session]
        self._in_flight[peer] -= 1
        if not self._in_flight[peer]:
            del self._in_flight[peer]
        latency_s = asking.latency_s if outcome is Outcome.SUCCESS else None
        for group, balancer in self._balancers.items():
            if peer in group and outcome is Outcome.CANCELLED:
                balancer.cancelled(peer)
            elif peer in group:
                balancer.finished(peer, now, latency_s)
        known = self._known.get(peer)
        if known is not None and asking.is_answered and outcome is not Outcome.SUCCESS:
            asking = _Asking(known.breaker.started(now), now)  # it had answered, and failed later
        if not asking.is_answered:
            self._finish(peer, asking, outcome, now, None)

    def ended(self, session: SessionId, now: float) -> None:
        """A session is over, well or not: nobody is to blame who was not named before."""
        for peer, asking in list(self._sessions.get(session, {}).items()):
            outcome = Outcome.SUCCESS if asking.is_answered else Outcome.CANCELLED
            self.left(session, peer, outcome, now)

    def came(self, peer: PeerId, now: float) -> None:
        """The swarm says that a holder serves now which did not before: it starts slowly.

        Unless it comes within the time of a slow start after the first: these were there before this peer,
        which only now hears of them, and are as warm as each other.
        """
        if self._is_late_from is None:
            self._is_late_from = now + self._config.health.slow_start_s
        self._came_at[peer] = now if now >= self._is_late_from else -math.inf

    def forget(self, peer: PeerId) -> None:
        """A holder is dead or gone: if it comes back it starts slowly, and without a past."""
        self._known.pop(peer, None)
        if self._came_at.pop(peer, None) is not None:
            self._is_late_from = -math.inf  # whoever comes from now on was not there from the start

    def statistics(self, now: float) -> Mapping[str, Any]:
        """For people: whose breaker is not closed, and how much of the retry budget is left."""
        states = {peer: known.breaker.state(now) for peer, known in self._known.items()}
        return {
            "breakers": {
                peer.short: state.value for peer, state in states.items() if state is not BreakerState.CLOSED
            },
            "retries_left": round(self.budget.balance(now), 1),
        }

    def _weight(self, peer: PeerId, now: float) -> float:
        known = self._known.get(peer)
        # Without the usual latency: how fast a holder is the planner knows, and openings of milliseconds
        # differ by what else a machine does, which would leave the slower of two idle ones without a session.
        score = 1.0 if known is None else known.health.score(now, known.breaker.state(now))
        part = slow_start_part(now - self._came_at.get(peer, -math.inf), self._config.health)
        return max(_WEIGHT_MIN, round(score * part, _WEIGHT_DIGITS))

    def _finish(
        self, peer: PeerId, asking: _Asking, outcome: Outcome, now: float, latency_s: float | None
    ) -> None:
        asking.is_answered, asking.latency_s = True, latency_s
        known = self._known.get(peer)
        if known is not None:
            known.breaker.finished(asking.permit, outcome, now)
            known.health.finished(outcome, now, latency_s)
