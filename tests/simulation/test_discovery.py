"""What a found contact does: two halves of one swarm that never met become one, by a single hint."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from p2pinfer.ids import Contact
from p2pinfer.swim.news import MemberSuspected
from p2pinfer.testing import World, run_seeds
from tests.swim.swarm import FAST, Swarm, contact, endpoint, make_core, run_until

HERE = "tests.simulation.test_discovery"
SIZE = 4
WITHIN_S = 2 * 1.25 * FAST.sync_interval_s
"""A second as a rule; where gossip misses a member, the next state exchange or the one after brings it."""


class Islands(Swarm):
    """Hosts 0 to 3 know host 0 alone, and hosts 4 to 7 host 4."""

    def __init__(self, world: World) -> None:
        super().__init__(world, 2 * SIZE)

    def _factory(self, index: int) -> Callable[[Mapping[str, bytes], random.Random, float], Any]:
        def make(disk: Mapping[str, bytes], rng: random.Random, now: float) -> Any:
            core = make_core(index, config=self.config, now=now, seed=rng.getrandbits(16))
            return core, core.join([endpoint(index - index % SIZE)], now)

        return make

    def are_apart(self) -> bool:
        one, other = range(SIZE), range(SIZE, 2 * SIZE)
        return self.all_see(one) and self.all_see(other)


def hinted(world: World, hint: Contact) -> None:
    islands = Islands(world)
    assert run_until(world, islands.are_apart, 20.0)
    world.run_for(60.0)
    assert islands.are_apart(), "they never heard of each other"
    finder = world.rng("finder").randrange(SIZE)
    islands.hosts[finder].call(lambda core, now: core.merge_hint([hint], now))
    assert run_until(world, lambda: islands.all_see(range(2 * SIZE)), WITHIN_S)
    assert islands.news_of(MemberSuspected) == []


def named(world: World) -> None:
    """As a cache and an announcement give it: who is there."""
    hinted(world, contact(SIZE + world.rng("hint").randrange(SIZE)))


def nameless(world: World) -> None:
    """As a name and an address given give it."""
    hinted(world, replace(contact(SIZE + world.rng("hint").randrange(SIZE)), peer=None))


def dead_first(world: World) -> None:
    """A hint that leads nowhere costs nothing, and the next one is as good."""
    islands = Islands(world)
    assert run_until(world, islands.are_apart, 20.0)
    islands.hosts[0].call(lambda core, now: core.merge_hint([contact(200)], now))
    islands.hosts[0].call(lambda core, now: core.merge_hint([replace(contact(201), peer=None)], now))
    world.run_for(10.0)
    assert islands.are_apart()
    assert islands.news_of(MemberSuspected) == []
    islands.hosts[0].call(lambda core, now: core.merge_hint([contact(SIZE)], now))
    assert run_until(world, lambda: islands.all_see(range(2 * SIZE)), WITHIN_S)


def test_islands_merge_by_one_contact(sim_seed: int) -> None:
    run_seeds(named, [sim_seed], f"{HERE}:named")


def test_islands_merge_by_one_address(sim_seed: int) -> None:
    run_seeds(nameless, [sim_seed], f"{HERE}:nameless")


def test_a_dead_hint_harms_nobody(sim_seed: int) -> None:
    run_seeds(dead_first, [sim_seed], f"{HERE}:dead_first")
