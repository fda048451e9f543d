"""What balancing, breakers, retry budgets and hedging do to a whole swarm under load; seeds are printed."""

from __future__ import annotations

import random

import pytest

from p2pinfer.ids import PeerId
from p2pinfer.inference.health import HealthConfig, slow_start_part
from tests.simulation.balancing_swarm import Means, QueuedHolder, QueueingSwarm, Told

SERVICE_S = 0.04
HOLDER_COUNT = 4
CAPACITY_PER_S = HOLDER_COUNT / SERVICE_S
BASE_PER_S = 0.7 * CAPACITY_PER_S
OVERLOAD = (20, 30)


def peers(count: int) -> list[PeerId]:
    return [PeerId(number.to_bytes(32, "big")) for number in range(1, count + 1)]


def holders(count: int = HOLDER_COUNT) -> list[QueuedHolder]:
    return [QueuedHolder(peer, lambda now: SERVICE_S) for peer in peers(count)]


def overloaded(seed: int, means: Means, end_s: int = 120) -> Told:
    """70 % of what the holders can do, but twice as much for 10 s."""
    start, end = OVERLOAD
    swarm = QueueingSwarm(seed, holders(), means)
    told = swarm.run(lambda now: BASE_PER_S * (2 if start <= now < end else 1), end_s)
    for name, first, last in (("calm", 0, start), ("overloaded", start, end), ("at last", end_s - 30, end_s)):
        offered, served = told.amplification(first, last), told.part_served(first, last)
        print(f"seed {seed}: {name}: {offered:.2f} offered for each request, {served:.3f} served")
    assert told.part_served(0, start) > 0.99
    return told


def worst_amplification(told: Told, end_s: int = 120) -> float:
    return max(told.amplification(second, second + 10) for second in range(end_s - 10))


def test_without_a_budget_a_moment_of_overload_lasts_for_ever(sim_seed: int) -> None:
    told = overloaded(sim_seed, Means(), 80)
    assert told.amplification(*OVERLOAD) > 2
    assert told.amplification(50, 80) > 3, "its cause is long gone"
    assert told.part_served(50, 80) < 0.3


def test_with_a_budget_retries_never_multiply_it_and_it_ends(sim_seed: int) -> None:
    told = overloaded(sim_seed, Means(has_budget=True))
    assert worst_amplification(told) < 1.3
    assert told.part_served(90, 120) > 0.99


def test_with_breakers_as_well_it_ends_sooner(sim_seed: int) -> None:
    slow = overloaded(sim_seed, Means(has_budget=True))
    fast = overloaded(sim_seed, Means(has_budget=True, has_breakers=True))
    assert worst_amplification(fast) < 1.3
    assert fast.part_served(30, 60) > slow.part_served(30, 60) + 0.5
    assert fast.part_served(90, 120) > 0.99


LOAD_AWARE = ("least_connections", "power_of_two", "least_latency", "peak_latency", "adaptive")


def with_one_slow(seed: int, strategy: str) -> Told:
    """Five holders, one of which takes six times as long, at 60 % of what they can do together."""
    members = holders(4)
    slow = QueuedHolder(peers(5)[4], lambda now: 6 * SERVICE_S)
    capacity_per_s = 4 / SERVICE_S + 1 / (6 * SERVICE_S)
    swarm = QueueingSwarm(seed, [*members, slow], Means(strategy=strategy), entry_count=1)
    told = swarm.run(lambda now: 0.6 * capacity_per_s, 60.0)
    part = told.by_holder[slow.peer] / told.by_holder.total()
    print(f"seed {seed}: {strategy}: p95 {told.percentile_s(0.95):.3f} s, {part:.3f} at the slow one")
    return told


@pytest.mark.parametrize("strategy", LOAD_AWARE)
def test_who_looks_at_load_or_latency_spares_a_slow_holder(strategy: str) -> None:
    for seed in (1, 2):
        blind = with_one_slow(seed, "round_robin")
        told = with_one_slow(seed, strategy)
        assert told.percentile_s(0.95) < 0.5 * blind.percentile_s(0.95)
        assert told.part_served(0, 60) > 0.99


def with_a_black_hole(seed: int, means: Means) -> float:
    """One of four holders fails at once: it always has the fewest sessions. Return its part of the load."""
    members = holders(3)
    hole = QueuedHolder(peers(4)[3], lambda now: None)
    told = QueueingSwarm(seed, [*members, hole], means).run(lambda now: BASE_PER_S * 0.6, 60.0)
    part = told.by_holder[hole.peer] / told.by_holder.total()
    print(f"seed {seed}: {part:.3f} of the load at the hole; {told.part_served(0, 60):.3f} served")
    return part


def test_a_breaker_closes_a_black_hole(sim_seed: int) -> None:
    assert with_a_black_hole(sim_seed, Means(strategy="least_connections")) > 0.25
    means = Means(strategy="least_connections", has_breakers=True)
    assert with_a_black_hole(sim_seed, means) < 0.05


def with_a_cold_holder(seed: int, slow_start_s: float) -> float:
    """A holder returns at 20 s and needs 10 s to become fast. Return the retries for each request."""
    members = holders(4)
    cold = QueuedHolder(peers(5)[4], lambda now: SERVICE_S * max(1.0, 15 * (30 - now) / 10))
    config = HealthConfig(slow_start_s=slow_start_s, slow_start_part_min=0.02)
    swarm = QueueingSwarm(seed, [*members, cold], Means(strategy="weighted_round_robin"))

    def weigh(now: float) -> None:
        part = slow_start_part(now - 20, config) if now >= 20 else 0.0
        for entry in swarm.entries:
            entry.balancer.join(cold.peer, part)
        if now < 60:
            swarm.at(now + 0.5, weigh)

    swarm.at(0.0, weigh)
    told = swarm.run(lambda now: 0.7 * CAPACITY_PER_S, 60.0)
    print(
        f"seed {seed}: slow start of {slow_start_s} s: {told.part_served(20, 30):.3f} served at the first try"
    )
    return told.amplification(20, 40) - 1


def test_slow_start_spares_a_returning_peer_and_those_who_ask_it(sim_seed: int) -> None:
    assert with_a_cold_holder(sim_seed, 30.0) < 0.1 * with_a_cold_holder(sim_seed, 0.0)


def with_stalls(seed: int, means: Means) -> Told:
    """Each holder stalls for 0.8 s with 2 % of its openings, without holding up the others."""
    rng = random.Random(seed)
    members = [
        QueuedHolder(peer, lambda now: 0.01, stall_s=lambda: 0.8 * (rng.random() < 0.02))
        for peer in peers(HOLDER_COUNT)
    ]
    told = QueueingSwarm(seed, members, means).run(lambda now: 80.0, 60.0)
    print(
        f"seed {seed}: hedging {means.hedges}: p50 {told.percentile_s(0.5):.3f}, "
        f"p99 {told.percentile_s(0.99):.3f} s, {told.amplification(0, 60):.3f} openings for each"
    )
    return told


def test_hedging_cuts_the_tail_for_a_few_percent_of_load(sim_seed: int) -> None:
    alone = with_stalls(sim_seed, Means(has_budget=True))
    hedged = with_stalls(sim_seed, Means(has_budget=True, hedges=True))
    assert alone.percentile_s(0.99) > 0.8
    assert hedged.percentile_s(0.99) < 0.2
    assert hedged.amplification(0, 60) < 1.08


def test_hedging_adds_its_quarter_of_the_budget_to_an_overload_and_no_swing(sim_seed: int) -> None:
    told = overloaded(sim_seed, Means(has_budget=True, hedges=True))
    assert worst_amplification(told) < 1.1
    assert all(told.part_served(second, second + 10) > 0.99 for second in range(60, 111, 10))
