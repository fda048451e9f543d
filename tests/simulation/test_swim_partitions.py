"""Swarms that fall apart and come together: who must find whom again, and within how long."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from p2pinfer.effects import Effect
from p2pinfer.ids import Contact
from p2pinfer.swim.config import SwimConfig
from p2pinfer.swim.core import SwimCore, _Timer
from p2pinfer.swim.news import MemberDead, MemberSuspected
from p2pinfer.testing import World, run_seeds
from tests.swim.swarm import FAST, Swarm, contact, endpoint, key, peer_id, run_until, sign

HERE = "tests.simulation.test_swim_partitions"
TEN_MINUTES_S = 600.0
HEALED_WITHIN_S = 60.0
"""Two announce intervals of `lan()`, in each of which every member pings two of its dead."""


def halves(world: World, count: int = 8, config: SwimConfig | None = None) -> bool:
    """Part a swarm in halves for ten minutes; whether it is one again in time."""
    swarm = Swarm(world, count, config or SwimConfig.lan())
    swarm.settle()
    left, right = range(count // 2), range(count // 2, count)
    cut = world.network.partition(swarm.names(left), swarm.names(right))
    world.run_for(TEN_MINUTES_S)
    assert swarm.all_see(left)
    assert swarm.all_see(right)
    world.network.heal(cut)
    healed = world.now
    merged = run_until(world, lambda: swarm.all_see(range(count)), HEALED_WITHIN_S, 0.5)
    if merged:
        world.run_for(15.0)
        assert swarm.news_of(MemberDead, since=healed) == [], "what was believed of the others kills nobody"
    return merged


def halves_heal(world: World) -> None:
    assert halves(world)


def many_halves_heal(world: World) -> None:
    assert halves(world, 40)


def test_a_partition_of_ten_minutes_heals_in_one() -> None:
    run_seeds(halves_heal, range(2), f"{HERE}:halves_heal")


@pytest.mark.soak
def test_fifty_partitions_of_ten_minutes_heal() -> None:
    run_seeds(halves_heal, range(50), f"{HERE}:halves_heal")


@pytest.mark.soak
def test_large_partitions_heal() -> None:
    run_seeds(many_halves_heal, range(3), f"{HERE}:many_halves_heal")


def test_without_pings_to_the_dead_no_partition_heals(monkeypatch: pytest.MonkeyPatch) -> None:
    def announce_nothing(core: SwimCore, now: float) -> list[Effect]:
        core._timers[_Timer.ANNOUNCE] = now + 30.0
        return []

    monkeypatch.setattr(SwimCore, "_announce", announce_nothing)
    assert not halves(World(1), config=SwimConfig.lan())


def one_way_links(world: World, helper_count: int = 3) -> int:
    """Cut some pairs in one direction for a minute; how many were suspected."""
    swarm = Swarm(world, 9, dataclasses.replace(FAST, helper_count=helper_count))
    swarm.settle()
    order = list(range(9))
    world.rng("links").shuffle(order)
    for source, target in zip(order[:4], order[4:8], strict=True):  # each has eight other ways
        world.network.partition(f"p{source}", f"p{target}", one_way=True)
    world.run_for(60.0)
    assert swarm.news_of(MemberDead) == []
    return len(swarm.news_of(MemberSuspected))


def bridged(world: World) -> None:
    assert one_way_links(world) == 0


def test_links_that_carry_one_way_only_are_bridged() -> None:
    run_seeds(bridged, range(10), f"{HERE}:bridged")


def test_without_helpers_one_way_links_make_suspects() -> None:
    assert one_way_links(World(1), helper_count=0) > 0


class Islands(Swarm):
    """Two swarms that never met: each member joins through the first of its own."""

    FIRST_OF_SECOND = 6

    def _factory(self, index: int) -> Callable[[Mapping[str, bytes], random.Random, float], Any]:
        bootstrap = endpoint(0 if index < self.FIRST_OF_SECOND else self.FIRST_OF_SECOND)

        def make(disk: Mapping[str, bytes], rng: random.Random, now: float) -> Any:
            here = endpoint(index)
            core = SwimCore(
                public_key=key(index), endpoint=here, config=self.config, rng=rng, sign=sign, now=now
            )
            return core, core.join([bootstrap], now)

        return make


def islands(world: World) -> None:
    swarm = Islands(world, 12)
    first, second = range(6), range(6, 12)
    assert run_until(world, lambda: swarm.all_see(first) and swarm.all_see(second), 10.0)
    world.run_for(60.0)
    assert swarm.all_see(first), "nothing joins them by itself"
    swarm.hosts[8].call(lambda core, now: core.merge_hint([contact(3)], now))
    assert run_until(world, lambda: swarm.all_see(range(12)), 10.0), "one contact is enough"
    world.run_for(10.0)
    assert swarm.news_of(MemberDead) == []


def test_two_swarms_merge_when_one_contact_appears() -> None:
    run_seeds(islands, range(10), f"{HERE}:islands")


def moved(world: World) -> None:
    """A member whose machine got another address: the same key answers elsewhere."""
    swarm = Swarm(world, 8)
    swarm.settle()
    world.run_for(world.rng("when").uniform(1, 4))
    swarm.hosts[3].crash()
    away_s = world.rng("away").choice([0.0, 2.0, 40.0])
    world.run_for(away_s)
    elsewhere = endpoint(90)

    def make(disk: Mapping[str, bytes], rng: random.Random, now: float) -> Any:
        core = SwimCore(public_key=key(3), endpoint=elsewhere, config=FAST, rng=rng, sign=sign, now=now)
        return core, core.join([endpoint(0)], now)

    world.add("p3 elsewhere", make, Contact(peer_id(3), elsewhere))

    def is_found(viewer: int) -> bool:
        held = {record.owner: record.endpoint for record in swarm.hosts[viewer].core.alive()}
        return held.get(peer_id(3)) == elsewhere

    rest = [0, 1, 2, 4, 5, 6, 7]
    assert run_until(world, lambda: all(is_found(viewer) for viewer in rest), 3.0)
    back = world.now
    world.run_for(20.0)
    assert swarm.news_of(MemberDead, since=back) == []


def test_a_member_at_a_new_address_is_believed_at_once() -> None:
    run_seeds(moved, range(10), f"{HERE}:moved")
