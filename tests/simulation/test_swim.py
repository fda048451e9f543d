"""Swarms of real SWIM cores under faults: what a user is promised, over many seeds."""

from __future__ import annotations

import dataclasses
from functools import partial

import pytest

from p2pinfer.effects import Effect
from p2pinfer.swim.config import SwimConfig
from p2pinfer.swim.core import SwimCore
from p2pinfer.swim.member import MemberState
from p2pinfer.swim.news import DatagramsLost, MemberDead, MemberJoined, MemberLeft, MemberSuspected
from p2pinfer.swim.suspicion import suspicion_s_min
from p2pinfer.testing import Link, World, run_seeds
from p2pinfer.wire.codec import encoded_size
from tests.swim.swarm import FAST, Swarm, holding, key, peer_id, run_until

HERE = "tests.simulation.test_swim"
DISSEMINATION_S = 2.0
"""Ten gossip rounds: far more than log3 of any size here."""


def longest_death_s(count: int) -> float:
    """From silence to the last word of it: 2n - 1 periods, one to conclude, the longest suspicion."""
    suspicion_s = suspicion_s_min(FAST, count) * FAST.suspicion_max_factor
    return (2 * count + 1) * FAST.probe_interval_s + suspicion_s + DISSEMINATION_S


@pytest.mark.parametrize(("count", "within_s"), [(2, 0.5), (6, 1.0), (50, 5.0)])
def test_all_find_all_through_one_bootstrap_address(count: int, within_s: float) -> None:
    swarm = Swarm(World(count), count)
    assert swarm.settle() <= within_s
    assert swarm.news_of(MemberSuspected) == []


def test_everything_fits_the_wire() -> None:
    world = World(3, wire=True)
    world.network.envelope_size_bytes = 400  # key, signature, certificate, seal
    swarm = Swarm(world, 12)
    for index, host in enumerate(swarm.hosts):
        host.call(partial(_hold, index))
    swarm.settle()
    world.run_for(5.0)
    assert world.network.counts["oversize"] == 0
    held = {each.holding for each in swarm.hosts[11].core.alive()}
    assert held == {holding(index, index + 1) for index in range(12)}
    assert encoded_size(swarm.hosts[0].core.record) < 300


def _hold(index: int, core: SwimCore, now: float) -> list[Effect]:
    return core.set_holding(holding(index, index + 1), now)


def killed(world: World) -> None:
    swarm = Swarm(world, 6)
    swarm.settle()
    world.run_for(world.rng("when").uniform(0, 3))
    swarm.hosts[4].crash()
    rest = [0, 1, 2, 3, 5]
    died = world.now
    # Streams to it break, so it is probed at once: one period, the shortest suspicion, and a few rounds.
    within_s = 2 * FAST.probe_interval_s + suspicion_s_min(FAST, 6) + DISSEMINATION_S
    assert run_until(world, lambda: all(_dead(swarm, each, 4) for each in rest), within_s)
    assert swarm.all_see(rest)
    assert {item.peer for _, _, item in swarm.news_of(MemberDead, since=died)} == {peer_id(4)}


def test_a_killed_member_is_noticed_by_all_in_seconds() -> None:
    run_seeds(killed, range(20), f"{HERE}:killed")


def silent(world: World) -> None:
    swarm = Swarm(world, 8)
    swarm.settle()
    world.run_for(world.rng("when").uniform(0, 3))
    swarm.hosts[4].pause()  # no stream breaks: only probes can tell
    rest = [0, 1, 2, 3, 5, 6, 7]
    assert run_until(world, lambda: all(_dead(swarm, each, 4) for each in rest), longest_death_s(8))
    assert {item.peer for _, _, item in swarm.news_of(MemberDead)} == {peer_id(4)}
    swarm.hosts[4].resume()
    assert run_until(world, lambda: swarm.all_see(range(8)), 3.0), "it refutes and is back"
    back = world.now
    world.run_for(10.0)
    assert swarm.news_of(MemberDead, since=back) == []
    assert swarm.all_see(range(8))


def test_a_stalled_member_dies_to_others_and_comes_back_without_blaming_anybody() -> None:
    run_seeds(silent, range(20), f"{HERE}:silent")


def slow(world: World) -> None:
    swarm = Swarm(world, 6)
    swarm.settle()
    for _ in range(3):
        swarm.hosts[2].pause()
        world.run_for(2.5)
        swarm.hosts[2].resume()
        world.run_for(2.5)
    assert swarm.news_of(MemberDead) == []
    assert run_until(world, lambda: swarm.all_see(range(6)), 3.0)


def test_a_slow_member_refutes_in_time() -> None:
    run_seeds(slow, range(20), f"{HERE}:slow")


@pytest.mark.parametrize("keep_disk", [True, False])
@pytest.mark.parametrize("down_s", [0.5, 30.0])
def test_a_restarted_member_is_back_at_once(keep_disk: bool, down_s: float) -> None:
    world = World(11)
    swarm = Swarm(world, 7)
    swarm.settle()
    before = swarm.hosts[3].core.record.incarnation
    swarm.hosts[3].crash()
    world.run_for(down_s)
    assert swarm.all_see([0, 1, 2, 4, 5, 6]) is (down_s > 5)
    swarm.hosts[3].restart(keep_disk=keep_disk)
    assert swarm.settle() <= 3.0
    assert swarm.hosts[3].core.record.incarnation > before
    back = world.now
    world.run_for(20.0)
    assert swarm.news_of(MemberDead, since=back) == []


def test_the_bootstrap_peer_may_be_reborn_with_nothing() -> None:
    world = World(12)
    swarm = Swarm(world, 5)
    swarm.settle()
    swarm.hosts[0].crash()
    world.run_for(30.0)
    swarm.hosts[0].restart(keep_disk=False)  # it has nobody to ask: the others must find it
    assert swarm.settle() <= 20.0


def test_nobody_healthy_dies_in_two_minutes_of_ten_percent_loss() -> None:
    world = World(13)
    world.network.link = Link(loss=0.1)
    swarm = Swarm(world, 30, dataclasses.replace(FAST, stream_fraction=1.0))
    swarm.settle()
    world.run_for(120.0)
    assert swarm.news_of(MemberDead) == []
    assert swarm.news_of(MemberSuspected), "the test must have something to bear"


def test_with_a_stream_in_the_last_resort_nobody_is_even_suspected() -> None:
    world = World(13)
    world.network.link = Link(loss=0.1)
    swarm = Swarm(world, 30)
    swarm.settle()
    world.run_for(120.0)
    assert swarm.news_of(DatagramsLost), "the test must have something to bear"
    assert swarm.news_of(MemberSuspected) == []


def parted(world: World) -> None:
    swarm = Swarm(world, 6)
    swarm.settle()
    left, right = range(2), range(2, 6)
    cut = world.network.partition(swarm.names(left), swarm.names(right))
    world.run_for(60.0)
    assert swarm.all_see(left)
    assert swarm.all_see(right)
    world.network.heal(cut)
    assert run_until(world, lambda: swarm.all_see(range(6)), 15.0), "a partition heals by itself"
    healed = world.now
    world.run_for(10.0)
    assert swarm.news_of(MemberDead, since=healed) == []


def test_a_partition_of_a_minute_heals_by_itself() -> None:
    run_seeds(parted, range(12), f"{HERE}:parted")


def one_way(world: World) -> None:
    swarm = Swarm(world, 7)
    swarm.settle()
    cut = world.network.partition("p3", swarm.names([0, 1, 2, 4, 5, 6]), one_way=True)
    world.run_for(45.0)
    rest = [0, 1, 2, 4, 5, 6]
    assert swarm.all_see(rest), "who is heard by nobody is dead to all"
    world.network.heal(cut)
    healed = world.now
    assert run_until(world, lambda: swarm.all_see(range(7)), 15.0)
    world.run_for(10.0)
    assert swarm.all_see(range(7))
    killed_by_others = {name for _, name, _ in swarm.news_of(MemberDead, since=healed)} - {"p3"}
    assert killed_by_others == set(), "what it believed while it was deaf killed nobody"


def test_a_one_way_partition_kills_only_the_mute() -> None:
    run_seeds(one_way, range(10), f"{HERE}:one_way")


def test_one_broken_link_is_bridged_by_helpers() -> None:
    world = World(14)
    swarm = Swarm(world, 8)
    swarm.settle()
    world.network.partition("p3", "p5")
    world.run_for(60.0)
    assert swarm.news_of(MemberSuspected) == []


def left(world: World) -> None:
    swarm = Swarm(world, 7)
    swarm.settle()
    leaver = swarm.hosts[3]
    leaver.call(lambda core, now: core.leave(now))
    assert run_until(world, lambda: bool(leaver.core.has_left), 2.0)
    leaver.crash()
    world.run_for(30.0)
    assert swarm.all_see([0, 1, 2, 4, 5, 6])
    assert len(swarm.news_of(MemberLeft)) == 6
    assert swarm.news_of(MemberDead) == swarm.news_of(MemberSuspected) == []


def test_leaving_is_told_from_death() -> None:
    run_seeds(left, range(20), f"{HERE}:left")


def storm(world: World) -> None:
    """Any faults in any order; when they end, all that are up see all that are up."""
    rng = world.rng("storm")
    world.network.link = Link(loss=0.05, duplicate=0.05, reorder=0.1)
    swarm = Swarm(world, 8)
    swarm.settle()
    for _ in range(12):
        host = rng.choice(swarm.hosts)
        match rng.randrange(6):
            case 0:
                host.crash()
            case 1:
                host.restart(keep_disk=rng.random() < 0.5)
            case 2:
                host.pause()
            case 3:
                host.resume()
            case 4:
                side = rng.sample(range(8), rng.randint(1, 4))
                others = [each for each in range(8) if each not in side]
                names, rest = swarm.names(side), swarm.names(others)
                world.network.partition(names, rest, one_way=rng.random() < 0.5)
            case _:
                world.network.heal()
        world.run_for(rng.uniform(0, 8))
    world.network.heal()
    world.network.link = Link()
    for host in swarm.hosts:
        host.resume()
        if not host.up:
            host.restart()
    swarm.settle(timeout_s=90.0)
    calm = world.now
    world.run_for(15.0)
    assert swarm.news_of(MemberDead, since=calm + 5) == []
    assert swarm.all_see(range(8))


def test_after_any_storm_all_see_all() -> None:
    run_seeds(storm, range(20), f"{HERE}:storm")


def test_the_same_seed_gives_the_same_run() -> None:
    def run() -> list[tuple[float, str, object]]:
        world = World(15)
        world.network.link = Link(loss=0.2)
        swarm = Swarm(world, 6)
        world.run_for(20.0)
        return swarm.news_of(object)

    assert run() == run()


def test_quick_settings_notice_a_death_in_two_seconds() -> None:
    world = World(16)
    swarm = Swarm(world, 6, SwimConfig.local())
    swarm.settle()
    swarm.hosts[5].crash()
    assert run_until(world, lambda: all(_dead(swarm, each, 5) for each in range(5)), 2.0)
    swarm.hosts[5].restart()
    swarm.settle(2.0)
    assert len(swarm.news_of(MemberJoined)) == 6 * 5 + 5 + 5


def _dead(swarm: Swarm, viewer: int, index: int) -> bool:
    views = swarm.hosts[viewer].core.members()
    return any(view.state is MemberState.DEAD and view.record.public_key == key(index) for view in views)
