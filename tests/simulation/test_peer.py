"""Whole peers in the simulator: they find each other, answer, and survive what happens to them."""

from __future__ import annotations

import random

import pytest

from p2pinfer.effects import Effect, Notify, Send
from p2pinfer.errors import NoChain
from p2pinfer.inference.news import GenerationFailed
from p2pinfer.peer_core import PeerCore
from p2pinfer.swim.news import MemberDead
from p2pinfer.testing import World, run_seeds
from p2pinfer.testing.trace import Trace
from p2pinfer.wire.messages.inference import StepFailed
from tests.inference.swarm import unbroken
from tests.simulation.peer_swarm import PeerSwarm

EXPECTED = unbroken()


def test_seven_peers_join_through_one_address_and_answer_a_prompt() -> None:
    swarm = PeerSwarm(1)
    assert swarm.settle()
    session = swarm.ask()
    assert swarm.run(session) == EXPECTED
    assert swarm.recoveries(session) == []


def test_everything_crosses_the_wire_as_real_bytes() -> None:
    swarm = PeerSwarm(2, wire=True)
    assert swarm.settle()
    session = swarm.ask()
    swarm.world.run_for(0.1)
    swarm.chain(session)[1].crash()
    assert swarm.run(session) == EXPECTED


def test_any_peer_is_an_entry_peer_even_one_that_is_a_hop_of_the_same_chain() -> None:
    swarm = PeerSwarm(3, copies=1)
    assert swarm.settle()
    for name in ("a0", "b0", "c0"):
        assert swarm.run(swarm.ask(at=name), at=name) == EXPECTED


@pytest.mark.parametrize("hop", [0, 1, 2])
def test_a_killed_hop_is_replaced_and_the_swarm_forgets_it(hop: int) -> None:
    swarm = PeerSwarm(4)
    assert swarm.settle()
    session = swarm.ask()
    swarm.world.run_for(0.2)
    killed = swarm.chain(session)[hop]
    killed.crash()
    assert swarm.run(session) == EXPECTED
    (recovery,) = swarm.recoveries(session)
    assert recovery.lost == (killed.contact.peer,)
    assert swarm.settle()
    later = swarm.ask(seed=9)
    assert swarm.run(later) == unbroken(seed=9)
    assert swarm.recoveries(later) == []


def test_a_killed_peer_that_comes_back_serves_again() -> None:
    swarm = PeerSwarm(5, copies=1)
    assert swarm.settle()
    host = swarm.world.hosts["b0"]
    host.crash()
    swarm.world.run_for(10.0)
    with pytest.raises(NoChain, match=r"\[4,8\)"):
        swarm.ask()
    host.restart(keep_disk=False)
    assert swarm.settle()
    assert swarm.run(swarm.ask()) == EXPECTED


def test_a_peer_that_comes_back_starts_slowly_and_the_others_are_warm() -> None:
    swarm = PeerSwarm(5)
    assert swarm.settle()
    host = swarm.world.hosts["b0"]

    def weights() -> set[float]:
        standings = swarm.me.core.entry._router.standings
        others = {h.contact.peer for h in swarm.world.hosts.values()} - {host.contact.peer}
        assert {standings._weight(peer, swarm.world.now) for peer in others} == {1.0}
        return {standings._weight(host.contact.peer, swarm.world.now)}

    assert weights() == {1.0}
    host.crash()
    swarm.world.run_for(10.0)
    host.restart(keep_disk=False)
    assert swarm.settle()
    assert max(weights()) < 0.3
    swarm.world.run_for(31.0)
    assert weights() == {1.0}


def test_when_the_last_holder_dies_the_answer_fails_and_names_the_layers() -> None:
    swarm = PeerSwarm(6, copies=1)
    assert swarm.settle()
    session = swarm.ask()
    swarm.world.run_for(0.2)
    swarm.world.hosts["c0"].crash()
    tokens = swarm.run(session)
    assert tokens == EXPECTED[: len(tokens)]
    (failed,) = swarm.of(session, GenerationFailed)
    assert isinstance(failed.error, NoChain)
    assert "[8,12)" in str(failed.error)


def test_a_peer_that_leaves_hands_its_sessions_over() -> None:
    swarm = PeerSwarm(7)
    assert swarm.settle()
    session = swarm.ask()
    swarm.world.run_for(0.2)
    leaving = swarm.chain(session)[1]
    told: list[tuple[object, str]] = []

    def leave(core: PeerCore, now: float) -> list[Effect]:
        effects = core.leave(now)
        sent = [e for e in effects if isinstance(e, Send) and isinstance(e.message, StepFailed)]
        told.extend((e.to, e.message.code) for e in sent if isinstance(e.message, StepFailed))
        return effects

    leaving.call(leave)
    assert told == [(swarm.me.contact, "closing")]
    assert swarm.run(session) == EXPECTED
    assert swarm.recoveries(session)[0].stall_s < 1.0


def test_the_swarms_word_of_a_death_reaches_the_sessions_at_once() -> None:
    swarm = PeerSwarm(12)
    assert swarm.settle()
    session = swarm.ask()
    swarm.world.run_for(0.1)
    dead = swarm.chain(session)[1].contact.peer
    assert dead is not None
    swarm.me.call(lambda core, now: core._carry([Notify(MemberDead(dead))], now))
    assert swarm.run(session) == EXPECTED
    (recovery,) = swarm.recoveries(session)
    assert recovery.lost == (dead,)


@pytest.mark.parametrize("name", ["a0", "b0", "c0"])
def test_a_peer_that_asks_itself_survives_a_jump_of_its_clock(name: str) -> None:
    swarm = PeerSwarm(9)
    assert swarm.settle()
    session = swarm.ask(at=name)
    swarm.world.run_for(0.1)
    swarm.world.hosts[name].skew(200.0)
    assert swarm.run(session, at=name) == EXPECTED


def test_an_engine_that_fails_is_not_laid_at_the_door_of_the_entry_peers_own_hop() -> None:
    swarm = PeerSwarm(10)
    assert swarm.settle()
    session = swarm.ask(at="a0")
    swarm.world.run_for(0.1)
    failing = swarm.chain(session, at="a0")[1]
    assert failing.worker is not None
    failing.worker.engine.fails = True  # type: ignore[attr-defined]
    assert swarm.run(session, at="a0") == EXPECTED
    (recovery,) = swarm.recoveries(session, at="a0")
    assert recovery.lost == (failing.contact.peer,)


def _trace_of(seed: int) -> str:
    trace = Trace()
    swarm = PeerSwarm(seed, trace=trace)
    swarm.settle()
    session = swarm.ask()
    swarm.world.run_for(0.2)
    swarm.chain(session)[0].crash()
    swarm.run(session)
    return trace.hash


def test_the_same_seed_gives_the_same_run() -> None:
    assert _trace_of(3) == _trace_of(3)
    assert _trace_of(3) != _trace_of(4)


def test_random_kills_never_change_a_token(sim_seed: int) -> None:
    run_seeds(random_kills, [sim_seed], replay=f"{__name__}:random_kills")


def random_kills(world: World) -> None:
    swarm = PeerSwarm(world, copies=3)
    assert swarm.settle()
    rng = random.Random(world.seed)
    sessions = [(n, swarm.ask(seed=n)) for n in range(3)]
    for letter in "abc":
        for name in rng.sample([f"{letter}{n}" for n in range(3)], 2):
            world.at(world.now + rng.uniform(0, 1.0), world.hosts[name].crash)
    for n, session in sessions:
        assert swarm.run(session) == unbroken(seed=n)


def test_everybody_learns_what_a_peer_is_called() -> None:
    swarm = PeerSwarm(9)
    swarm.world.hosts["a0"].call(lambda core, now: core.set_name("kitchen", now))
    assert swarm.settle()
    swarm.world.run_for(3.0)
    for host in swarm.world.hosts.values():
        assert [r.name for r in host.core.swim.alive() if r.name] == ["kitchen"]
