"""Generations that survive what happens to their hops, and always with the tokens of the unbroken run."""

from __future__ import annotations

import random

import pytest

from p2pinfer.errors import NoChain, Overloaded
from p2pinfer.ids import Span
from p2pinfer.testing import World, run_seeds
from tests.inference.swarm import Swarm, unbroken

EXPECTED = unbroken()


def test_three_hops_give_the_tokens_of_one_peer() -> None:
    swarm = Swarm(1)
    session = swarm.ask()
    assert swarm.run(session) == EXPECTED
    swarm.world.run_for(1.0)
    for host in swarm.world.hosts.values():
        assert host.core.statistics()["sessions"] == 0
        assert host.core.statistics()["reserved_bytes"] == host.core.statistics()["parked_bytes"]
    swarm.world.run_for(700.0)
    assert all(host.core.statistics()["reserved_bytes"] == 0 for host in swarm.world.hosts.values())
    assert all(not engine.caches for engine in swarm.engines.values())


@pytest.mark.parametrize("hop", [0, 1, 2])
@pytest.mark.parametrize("after", [0, 1, 13, 29])
def test_a_killed_hop_is_replaced(hop: int, after: int) -> None:
    swarm = Swarm(hop * 100 + after)
    session = swarm.ask()
    swarm.run_to_token(session, after)
    swarm.host(swarm.chain_names(session)[hop]).crash()
    assert swarm.run(session) == EXPECTED
    (recovery,) = swarm.recoveries(session)
    assert len(recovery.lost) == 1
    assert recovery.stall_s < 1.0


def test_the_healthy_hops_compute_nothing_twice() -> None:
    swarm = Swarm(5)
    session = swarm.ask()
    swarm.run_to_token(session, 12)
    first, middle, last = swarm.chain_names(session)
    swarm.host(middle).crash()
    assert swarm.run(session) == EXPECTED
    rows = 10 + 30 - 1
    assert swarm.engines[first].computed_rows == rows
    assert swarm.engines[last].computed_rows == rows


def test_two_neighbours_die_at_once() -> None:
    swarm = Swarm(6)
    session = swarm.ask()
    swarm.run_to_token(session, 9)
    for name in swarm.chain_names(session)[:2]:
        swarm.host(name).crash()
    assert swarm.run(session) == EXPECTED
    assert len(swarm.recoveries(session)[0].lost) == 2


def test_all_hops_die_at_once() -> None:
    swarm = Swarm(7)
    session = swarm.ask()
    swarm.run_to_token(session, 9)
    for name in swarm.chain_names(session):
        swarm.host(name).crash()
    assert swarm.run(session) == EXPECTED


def test_a_stopped_process_is_replaced_and_its_late_word_is_ignored() -> None:
    swarm = Swarm(8)
    session = swarm.ask()
    swarm.run_to_token(session, 9)
    stopped = swarm.host(swarm.chain_names(session)[1])
    stopped.pause()
    swarm.run_to_token(session, 20)
    stopped.resume()
    assert swarm.run(session) == EXPECTED
    assert swarm.recoveries(session)[0].stall_s < 2.5


def test_a_restarted_hop_without_its_caches_is_noticed() -> None:
    swarm = Swarm(9, copies=1)
    session = swarm.ask()
    swarm.run_to_token(session, 9)
    swarm.host("b0").restart()
    assert swarm.run(session) == EXPECTED


def test_a_broken_connection_between_live_hops_blames_nobody() -> None:
    swarm = Swarm(10, copies=1)
    session = swarm.ask()
    swarm.run_to_token(session, 9)
    a, b = swarm.host("a0"), swarm.host("b0")
    assert b.contact.peer is not None
    a.world.network.streams.disconnect(a, b.contact.peer)
    assert swarm.run(session) == EXPECTED


def test_nobody_holds_the_layers_any_more() -> None:
    swarm = Swarm(11, copies=1)
    session = swarm.ask()
    swarm.run_to_token(session, 5)
    swarm.host("b0").crash()
    assert swarm.run(session) == EXPECTED[: len(swarm.tokens(session))]
    failure = swarm.failure(session)
    assert failure is not None
    assert isinstance(failure.error, NoChain)
    assert failure.error.missing == (Span(4, 8),)


def test_no_holder_at_the_start_is_told_at_once() -> None:
    swarm = Swarm(12, copies=0)
    swarm.add("a0", Span(0, 4))
    with pytest.raises(NoChain, match=r"\[4,12\)"):
        swarm.ask()


def test_a_peer_that_came_later_takes_over() -> None:
    swarm = Swarm(13, copies=1)
    session = swarm.ask()
    swarm.run_to_token(session, 5)
    swarm.add("late", Span(2, 9))
    swarm.host("b0").crash()
    assert swarm.run(session) == EXPECTED


def test_an_overloaded_swarm_says_when_to_come_back() -> None:
    swarm = Swarm(14, memory=40 * 8)
    one = swarm.ask(answer=20)
    two = swarm.ask(answer=20)
    three = swarm.ask(answer=20)
    swarm.run(one)
    swarm.run(two)
    swarm.run(three)
    assert swarm.tokens(one) == swarm.tokens(two) == unbroken(answer=20)
    failure = swarm.failure(three)
    assert failure is not None
    assert isinstance(failure.error, Overloaded)
    assert failure.error.retry_after_s == 2.0
    swarm.world.run_for(3.0)
    assert swarm.run(swarm.ask(answer=20)) == unbroken(answer=20)


def test_an_engine_that_fails_is_left_for_another() -> None:
    swarm = Swarm(15)
    session = swarm.ask()
    swarm.run_to_token(session, 5)
    swarm.engines[swarm.chain_names(session)[1]].fails = True
    assert swarm.run(session) == EXPECTED


def test_many_sessions_and_entry_peers_at_once() -> None:
    swarm = Swarm(16)
    asked = [(name, n) for n, name in enumerate(["me", "a0", "b1", "c0", "me", "c1"])]
    sessions = [(swarm.ask(seed=n, at=name), name, n) for name, n in asked]
    swarm.world.run_for(0.15)
    swarm.host("a1").crash()
    for session, name, n in sessions:
        assert swarm.run(session, at=name) == unbroken(seed=n)


def test_a_slow_hop_is_not_taken_for_a_dead_one() -> None:
    swarm = Swarm(17, copies=1)
    session = swarm.ask(prompt=40)
    swarm.engines["b0"].speed = 500.0
    assert swarm.run(session, timeout_s=400.0) == unbroken(prompt=40)


def test_random_faults_never_change_a_token(sim_seed: int) -> None:
    four = range(4 * sim_seed, 4 * sim_seed + 4)  # a run takes milliseconds
    run_seeds(random_faults, four, replay=f"{__name__}:random_faults")


def random_faults(world: World) -> None:
    """Safety under any fault; and, as each layer keeps a live holder, the whole answer comes."""
    swarm = Swarm(world, copies=3)
    rng = random.Random(world.seed)
    session = swarm.ask()
    for letter in "abc":
        for name in rng.sample([f"{letter}{n}" for n in range(3)], 2):
            at = rng.uniform(0.0, 1.0)
            host = swarm.host(name)
            what = rng.choice(["crash", "restart", "pause", "blink"])
            match what:
                case "crash":
                    swarm.world.at(at, host.crash)
                case "restart":
                    swarm.world.at(at, host.restart)
                case "pause":
                    swarm.world.at(at, host.pause)
                    swarm.world.at(at + rng.uniform(0.1, 5.0), host.resume)
                case "blink":
                    swarm.world.at(at, host.pause)
                    swarm.world.at(at + 0.05, host.resume)
    assert swarm.run(session) == EXPECTED
    swarm.world.run_for(200.0)
    for host in swarm.world.hosts.values():
        assert not host.up or host.core.statistics()["sessions"] == 0


@pytest.mark.parametrize("hop", [0, 1, 2])
def test_a_hop_that_became_slow_is_replaced_by_a_fast_one(hop: int) -> None:
    swarm = Swarm(60 + hop)
    session = swarm.ask()
    swarm.run_to_token(session, 9)
    name = swarm.chain_names(session)[hop]
    swarm.engines[name].speed = 400.0  # 1.6 s a step, for ever
    started = swarm.world.now
    assert swarm.run(session) == EXPECTED
    assert swarm.host(name).contact.peer in {p for r in swarm.recoveries(session) for p in r.lost}
    assert swarm.world.now - started < 10.0


def test_a_slow_hop_that_is_the_only_one_is_waited_for() -> None:
    swarm = Swarm(63, copies=1)
    session = swarm.ask()
    swarm.run_to_token(session, 9)
    swarm.engines["b0"].speed = 400.0
    assert swarm.run(session) == EXPECTED
    assert not swarm.recoveries(session)
