"""A queueing model of entry peers and equal holders, to see what balancing does to a swarm under load.

A holder serves one request after the other and does not learn that somebody gave up waiting: what it computes
for nobody is the waste that an overload feeds on. An entry peer knows only what it began and saw itself.
"""

from __future__ import annotations

import heapq
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from p2pinfer.ids import PeerId
from p2pinfer.inference.balancing import make_balancer
from p2pinfer.inference.breaker import Breaker, BreakerConfig, Outcome
from p2pinfer.inference.hedging import HedgeConfig, HedgedOpening, OpeningTimes
from p2pinfer.inference.retry_budget import RetryBudget, RetryBudgetConfig

TIMEOUT_S = 1.0
TRY_COUNT_MAX = 5
WAY_S = 0.001


@dataclass
class QueuedHolder:
    """A holder with one queue."""

    peer: PeerId
    service_s: Callable[[float], float | None]
    """What a request takes that arrives at a time; None: it fails at once."""
    stall_s: Callable[[], float] = lambda: 0.0
    """What an answer takes longer, without holding up the others."""
    free_at: float = 0.0

    def answer_at(self, now: float) -> tuple[float, Outcome]:
        service_s = self.service_s(now)
        if service_s is None:
            return now, Outcome.FAILURE
        self.free_at = max(now, self.free_at) + service_s
        return self.free_at + self.stall_s(), Outcome.SUCCESS


@dataclass(frozen=True, kw_only=True)
class Means:
    """What the entry peers use."""

    strategy: str = "power_of_two"
    has_budget: bool = False
    has_breakers: bool = False
    hedges: bool = False


@dataclass
class Told:
    """What happened, by the second in which the request was made or the load was offered."""

    demanded: Counter[int] = field(default_factory=Counter)
    offered: Counter[int] = field(default_factory=Counter)
    served: Counter[int] = field(default_factory=Counter)
    by_holder: Counter[PeerId] = field(default_factory=Counter)
    latencies_s: list[float] = field(default_factory=list)

    def part_served(self, start: int, end: int) -> float:
        return self._sum(self.served, start, end) / self._sum(self.demanded, start, end)

    def amplification(self, start: int, end: int) -> float:
        return self._sum(self.offered, start, end) / self._sum(self.demanded, start, end)

    def percentile_s(self, part: float) -> float:
        return sorted(self.latencies_s)[int(part * len(self.latencies_s))]

    @staticmethod
    def _sum(counts: Counter[int], start: int, end: int) -> int:
        return sum(counts[second] for second in range(start, end))


class EntryPeer:
    """One asking peer: its own balancer, breakers, budget and memory of openings."""

    def __init__(self, swarm: QueueingSwarm, seed: int) -> None:
        rng = random.Random(seed)
        self.swarm = swarm
        self.means = swarm.means
        self.balancer = make_balancer(swarm.means.strategy, rng=rng)
        self.breakers = {peer: Breaker(BreakerConfig(), rng) for peer in swarm.holders}
        self.budget = RetryBudget(RetryBudgetConfig() if swarm.means.has_budget else UNBOUNDED)
        self.openings = OpeningTimes(HedgeConfig())
        for peer in swarm.holders:
            self.balancer.join(peer)

    def choose(self, now: float, avoid: set[PeerId]) -> PeerId | None:
        if self.means.has_breakers:
            avoid = avoid | {peer for peer, breaker in self.breakers.items() if not breaker.allows(now)}
        return self.balancer.pick(b"", now, avoid)

    def request(self, now: float) -> None:
        self.swarm.told.demanded[int(now)] += 1
        self.budget.requested(now)
        self._try(now, now, 1)

    def _try(self, now: float, began_at: float, number: int) -> None:
        first = self.choose(now, set())
        if first is None:
            return
        opening = HedgedOpening(first, now, self.openings.delay_s(now) if self.means.hedges else None)

        def ended(peer: PeerId, outcome: Outcome, at: float) -> None:
            is_won = opening.winner is not None
            opening.answered(peer, outcome, at)
            if opening.winner == peer and not is_won:
                self.openings.add(at - now, at)
                self.swarm.told.served[int(began_at)] += 1
                self.swarm.told.latencies_s.append(at - began_at)
            elif outcome is Outcome.FAILURE and not is_won:
                if self.means.hedges:
                    hedge(at)
                elif number < TRY_COUNT_MAX and self.budget.take(at):
                    self._try(at, began_at, number + 1)

        def hedge(at: float) -> None:
            second = self.choose(at, {first}) if opening.deadline is not None else None
            if opening.ask_second(second, at, self.budget) and second is not None:
                self._ask(second, at, ended)

        self._ask(first, now, ended)
        if opening.deadline is not None:
            self.swarm.at(opening.deadline, hedge)

    def _ask(self, peer: PeerId, now: float, ended: Callable[[PeerId, Outcome, float], None]) -> None:
        self.swarm.told.offered[int(now)] += 1
        self.swarm.told.by_holder[peer] += 1
        permit = self.breakers[peer].started(now)
        self.balancer.started(peer, now)
        answer_at, outcome = self.swarm.holders[peer].answer_at(now + WAY_S)
        answer_at += WAY_S
        if answer_at > now + TIMEOUT_S:
            answer_at, outcome = now + TIMEOUT_S, Outcome.FAILURE

        def answered(at: float) -> None:
            self.balancer.finished(peer, at, at - now if outcome is Outcome.SUCCESS else None)
            self.breakers[peer].finished(permit, outcome, at)
            ended(peer, outcome, at)

        self.swarm.at(answer_at, answered)


UNBOUNDED = RetryBudgetConfig(ratio=1.0, count_per_s_min=1000.0)


class QueueingSwarm:
    """Entry peers and holders on one heap of events."""

    def __init__(self, seed: int, holders: list[QueuedHolder], means: Means, *, entry_count: int = 4) -> None:
        self.rng = random.Random(seed)
        self.means = means
        self.holders = {holder.peer: holder for holder in holders}
        self.told = Told()
        self.entries = [EntryPeer(self, seed * 1000 + number) for number in range(entry_count)]
        self._events: list[tuple[float, int, Callable[[float], None]]] = []
        self._count = 0

    def at(self, when: float, act: Callable[[float], None]) -> None:
        self._count += 1
        heapq.heappush(self._events, (when, self._count, act))

    def run(self, demand_per_s: Callable[[float], float], end_s: float) -> Told:
        """Make requests at random times, at a rate that may change, and run everything to its end."""

        def arrive(now: float) -> None:
            if now < end_s:
                self.rng.choice(self.entries).request(now)
                self.at(now + self.rng.expovariate(demand_per_s(now)), arrive)

        self.at(0.0, arrive)
        while self._events:
            now, _, act = heapq.heappop(self._events)
            act(now)
        return self.told
