"""Bad networks and mass deaths: what the swarm bears, and how soon it knows itself again."""

from __future__ import annotations

from functools import partial

from p2pinfer.swim.core import SwimCore
from p2pinfer.swim.member import MemberState
from p2pinfer.swim.news import MemberDead, MemberJoined, MemberSuspected
from p2pinfer.swim.suspicion import suspicion_s_min
from p2pinfer.testing import Link, World, run_seeds
from p2pinfer.wire.messages.swim import Accusation, Gossip, StateReply
from tests.swim.swarm import FAST, Swarm, contact, key, make_core, peer_id, record, run_until, sign

HERE = "tests.simulation.test_swim_outages"


def downpour(world: World) -> None:
    swarm = Swarm(world, 12)
    swarm.settle()
    world.network.link = Link(loss=0.8)
    world.run_for(30.0)
    assert swarm.news_of(MemberSuspected), "the test must have something to bear"
    world.network.link = Link()
    over = world.now
    assert run_until(world, lambda: swarm.all_see(range(12)), 15.0), "all are back soon"
    world.run_for(30.0)
    assert swarm.news_of(MemberDead, since=over + 15.0) == []
    assert swarm.all_see(range(12))


def test_half_a_minute_of_eighty_percent_loss_is_over_when_it_is_over() -> None:
    run_seeds(downpour, range(10), f"{HERE}:downpour")


def stuttering(world: World) -> None:
    world.network.link = Link(duplicate=0.5, reorder=0.5, reorder_s=0.2)
    swarm = Swarm(world, 10)
    swarm.settle()
    world.run_for(60.0)
    assert swarm.news_of(MemberSuspected) == []
    assert len(swarm.news_of(MemberJoined)) == 10 * 9, "nobody joins twice"


def test_doubled_and_reordered_datagrams_change_nothing() -> None:
    run_seeds(stuttering, range(10), f"{HERE}:stuttering")


def massacre(world: World, *, silent: bool) -> None:
    count = 20
    swarm = Swarm(world, count)
    swarm.settle()
    world.run_for(5.0)
    victims = set(world.rng("victims").sample(range(count), 6))
    rest = [index for index in range(count) if index not in victims]
    for index in victims:
        swarm.hosts[index].pause() if silent else swarm.hosts[index].crash()
    died = world.now
    # A silent one waits for its probe, of which most of the swarm makes one a second, and is confirmed late.
    within_s = 2 * suspicion_s_min(FAST, count) + 8.0 if silent else suspicion_s_min(FAST, count) + 5.0
    assert run_until(world, lambda: swarm.all_see(rest), within_s)
    world.run_for(15.0)
    assert {item.peer for _, _, item in swarm.news_of(MemberDead)} == {peer_id(each) for each in victims}
    assert all(at >= died for at, _, _ in swarm.news_of(MemberDead))


def killed_third(world: World) -> None:
    massacre(world, silent=False)


def unplugged_third(world: World) -> None:
    massacre(world, silent=True)


def test_a_third_that_crashes_at_once_is_noticed_and_nobody_else() -> None:
    run_seeds(killed_third, range(10), f"{HERE}:killed_third")


def test_a_third_that_loses_power_at_once_is_noticed_and_nobody_else() -> None:
    run_seeds(unplugged_third, range(10), f"{HERE}:unplugged_third")


def restarted(world: World, *, keep_disk: bool) -> None:
    """Everybody restarts within seconds, as in a roll-out (memberlist issue 311)."""
    swarm = Swarm(world, 12)
    swarm.settle()
    world.run_for(5.0)
    rng = world.rng("roll-out")
    for host in swarm.hosts:
        down_at = world.now + rng.uniform(0, 2)
        world.at(down_at, host.crash)
        world.at(down_at + rng.uniform(0.5, 5), partial(host.restart, keep_disk=keep_disk))
    world.run_for(7.0)
    swarm.settle(timeout_s=15.0)
    back = world.now
    world.run_for(30.0)
    assert swarm.news_of(MemberDead, since=back) == [], "nobody dies of its earlier life"
    assert swarm.all_see(range(12))


def restarted_with_disk(world: World) -> None:
    restarted(world, keep_disk=True)


def restarted_without_disk(world: World) -> None:
    restarted(world, keep_disk=False)


def test_a_swarm_that_restarts_as_a_whole_is_whole_again() -> None:
    run_seeds(restarted_with_disk, range(10), f"{HERE}:restarted_with_disk")


def test_a_swarm_that_restarts_as_a_whole_and_with_nothing_is_whole_again() -> None:
    run_seeds(restarted_without_disk, range(10), f"{HERE}:restarted_without_disk")


def returned(world: World) -> None:
    world.network.link = Link(loss=0.05)
    swarm = Swarm(world, 24)
    swarm.settle()
    swarm.hosts[7].crash()
    rest = [index for index in range(24) if index != 7]
    assert run_until(world, lambda: swarm.all_see(rest), 60.0)
    swarm.hosts[7].restart()
    assert run_until(world, lambda: swarm.all_see(range(24)), 5.0), "alive everywhere in five seconds"
    back = world.now
    world.run_for(20.0)
    assert peer_id(7) not in {item.peer for _, _, item in swarm.news_of(MemberDead, since=back)}


def test_who_was_dead_and_returns_is_alive_everywhere_in_seconds() -> None:
    run_seeds(returned, range(10), f"{HERE}:returned")


def test_a_death_that_was_not_seen_outlives_an_older_record() -> None:
    core = make_core(0)
    dead = sign(Accusation(public_key=key(1), accused=peer_id(2), incarnation=10, dead=True))
    state = StateReply(records=(record(1), record(2, 10)), accusations=(dead,))
    core.receive(contact(1), state, 1.0)
    assert _state_of(core, 2) is MemberState.DEAD
    core.receive(contact(1), Gossip(records=(record(2, 2),)), 2.0)
    assert _state_of(core, 2) is MemberState.DEAD
    core.receive(contact(1), Gossip(records=(record(2, 11),)), 3.0)
    assert _state_of(core, 2) is MemberState.ALIVE, "only its own newer word brings it back"


def _state_of(core: SwimCore, index: int) -> MemberState:
    views = {view.record.public_key: view.state for view in core.members()}
    return views[key(index)]
