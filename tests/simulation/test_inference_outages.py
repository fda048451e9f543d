"""Cut ways, stalled and slow peers, wrong clocks, false alarms: each ends in the right tokens or by name."""

from __future__ import annotations

import itertools
import random
from functools import partial

import pytest

from p2pinfer.errors import NoChain
from p2pinfer.ids import PeerId, Span
from p2pinfer.inference.news import Sampled
from p2pinfer.testing.host import Host
from tests.inference.swarm import SPANS, Swarm, unbroken
from tests.simulation.inference_faults import (
    check_nothing_left,
    check_run,
    check_tokens,
    end_of,
)


def false_alarm(host: Host, peer: PeerId | None) -> None:
    host.call(lambda core, now: core.entry.member_dead(peer, now))


FIRST_CHAIN = ("me", "a0", "b0", "c0")
PAIRS = list(itertools.permutations(FIRST_CHAIN, 2))


@pytest.mark.parametrize(("source", "target"), PAIRS)
def test_a_way_that_is_cut_in_one_direction(source: str, target: str) -> None:
    for seed, (healed_s, tokens) in enumerate(itertools.product((0.4, 3.0, 12.0, None), (0, 7))):
        swarm = Swarm(seed)
        session = swarm.ask()
        swarm.run_to_token(session, tokens)
        cut = swarm.world.network.partition(source, target, one_way=True)
        if healed_s is not None:
            swarm.world.at(swarm.world.now + healed_s, partial(swarm.world.network.heal, cut))
        assert check_run(swarm, session, within_s=60.0) is None, (healed_s, tokens)


@pytest.mark.parametrize(("source", "target"), PAIRS)
def test_a_short_cut_where_nobody_could_take_over(source: str, target: str) -> None:
    for seed, one_way in enumerate((True, False)):
        swarm = Swarm(seed, copies=1)
        session = swarm.ask()
        swarm.run_to_token(session, 7)
        cut = swarm.world.network.partition(source, target, one_way=one_way)
        swarm.world.at(swarm.world.now + 1.5, partial(swarm.world.network.heal, cut))
        assert check_run(swarm, session) is None


@pytest.mark.parametrize("who", FIRST_CHAIN)
@pytest.mark.parametrize("pause_s", [0.3, 0.9, 1.5, 2.5, 4.5, 7.0, 20.0, 130.0])
def test_a_stalled_process_at_any_moment(who: str, pause_s: float) -> None:
    for seed, begun_s in enumerate((0.0005, 0.003, 0.005, 0.02, 0.1, 0.3)):
        swarm = Swarm(seed)
        session = swarm.ask()
        swarm.world.at(begun_s, swarm.host(who).pause)
        swarm.world.at(begun_s + pause_s, swarm.host(who).resume)
        assert check_run(swarm, session, within_s=pause_s + 30.0) is None, begun_s


@pytest.mark.parametrize("pause_s", [0.9, 2.2, 7.0, 14.0])
def test_an_entry_peer_that_stalled_itself_blames_nobody(pause_s: float) -> None:
    for seed, begun_s in enumerate((0.0005, 0.003, 0.005, 0.02, 0.1, 0.3)):
        swarm = Swarm(seed, copies=1)
        session = swarm.ask()
        swarm.world.at(begun_s, swarm.me.pause)
        swarm.world.at(begun_s + pause_s, swarm.me.resume)
        assert check_run(swarm, session) is None, begun_s
        assert swarm.me.core.statistics().get("replaced", 0) == 0, begun_s


@pytest.mark.parametrize("speed", [30.0, 700.0, 3000.0])
def test_the_only_holder_is_slow_and_never_blamed(speed: float) -> None:
    swarm = Swarm(1, copies=1)
    session = swarm.ask(prompt=6, answer=3)
    swarm.engines["b0"].speed = speed
    assert check_run(swarm, session, prompt=6, answer=3, within_s=400.0) is None
    assert swarm.me.core.statistics().get("replaced", 0) == 0


@pytest.mark.parametrize("copies", [1, 2])
def test_an_engine_that_hangs_is_given_up_in_time(copies: int) -> None:
    swarm = Swarm(2, copies=copies)
    session = swarm.ask()
    swarm.run_to_token(session, 5)
    swarm.engines["b0"].speed = 1e9
    error = end_of(swarm, session, within_s=600.0)
    check_tokens(swarm, session, error, unbroken())
    assert (error is None) == (copies == 2)


@pytest.mark.parametrize("who", FIRST_CHAIN)
@pytest.mark.parametrize("offset_s", [0.7, 30.0, 500.0, -20.0])
def test_a_clock_that_jumps(who: str, offset_s: float) -> None:
    for seed, at in enumerate((0.004, 0.2)):
        swarm = Swarm(seed)
        session = swarm.ask()
        swarm.world.at(at, partial(swarm.host(who).skew, offset_s))
        assert check_run(swarm, session) is None
        assert swarm.tokens(session) == unbroken()


def test_a_clock_that_jumps_at_a_hop_that_asks_itself() -> None:
    for seed, (name, offset_s) in enumerate(itertools.product(("a0", "b0", "c0"), (30.0, 130.0, 500.0))):
        swarm = Swarm(seed)
        session = swarm.ask(at=name)
        swarm.world.at(0.1, partial(swarm.host(name).skew, offset_s))
        error = end_of(swarm, session, at=name)
        assert error is None
        check_tokens(swarm, session, error, unbroken(), name)
        check_nothing_left(swarm)


@pytest.mark.parametrize("at", [0.001, 0.02, 0.2])
def test_the_hops_of_an_entry_peer_that_died_forget_its_sessions(at: float) -> None:
    swarm = Swarm(3)
    for seed in range(4):
        swarm.ask(seed=seed)
    swarm.world.run_for(at)
    swarm.me.crash()
    swarm.world.run_for(20.0)
    assert [h.core.statistics()["sessions"] for h in swarm.world.hosts.values() if h.up] == [0] * 6
    check_nothing_left(swarm)


def test_a_hop_whose_close_was_lost_stops_at_the_next_token() -> None:
    swarm = Swarm(4)
    session = swarm.ask(answer=2000)
    swarm.run_to_token(session, 5)
    swarm.me.restart()
    swarm.world.run_for(0.05)
    last = swarm.host("c0")
    assert last.core.statistics()["sessions"] == 0


def test_the_last_hop_and_the_one_before_fail_together() -> None:
    for number in range(12):
        swarm = Swarm(number)
        session = swarm.ask()
        swarm.run_to_token(session, 9)
        names = swarm.chain_names(session)
        swarm.host(names[2]).crash()
        swarm.world.at(swarm.world.now + number * 0.0005, swarm.host(names[1]).crash)
        assert check_run(swarm, session) is None


def test_a_false_alarm_of_the_swarm_costs_no_token() -> None:
    for copies, number in itertools.product((1, 2), range(10)):
        swarm = Swarm(number, copies=copies)
        session = swarm.ask()
        swarm.world.run_for(0.03 * number)
        peer = swarm.host("b0").contact.peer
        if not swarm.ended(session):
            false_alarm(swarm.me, peer)
        error = check_run(swarm, session)
        assert isinstance(error, NoChain) if error else True
        assert error is None or copies == 1


def test_a_returned_last_hop_knows_what_another_sampled_meanwhile() -> None:
    swarm = Swarm(5)
    session = swarm.ask(answer=150)
    names = swarm.chain_names(session)
    swarm.engines[names[0]].speed = 20.0
    swarm.run_to_token(session, 9)
    old, new = swarm.host(names[2]), swarm.host({"c0": "c1", "c1": "c0"}[names[2]])
    cut = swarm.world.network.isolate(old.name)
    swarm.world.run_for(8.0)
    swarm.world.network.heal(cut)
    assert not swarm.ended(session)
    assert old.core.statistics()["sessions"] == 1, "the scenario wants a cache that was left behind"
    new.crash()
    assert check_run(swarm, session, answer=150) is None
    assert swarm.tokens(session) == unbroken(answer=150)


@pytest.mark.parametrize("at", [0.0, 0.004, 0.1])
def test_holders_come_and_go_in_mid_generation(at: float) -> None:
    for seed in range(6):
        swarm = Swarm(seed, copies=1)
        rng = random.Random(seed)
        session = swarm.ask(answer=100)
        swarm.world.run_for(at)
        for number in range(6):
            span = SPANS[rng.randrange(3)] if number % 2 else Span(rng.randrange(4), 4 + rng.randrange(8))
            swarm.add(f"n{number}", span)
            swarm.world.run_for(0.05)
            if not swarm.ended(session):
                leaving = swarm.host(rng.choice(swarm.chain_names(session)))
                swarm.holders = [h for h in swarm.holders if h.contact != leaving.contact]
                swarm.tell_holders()
                leaving.call(lambda core, now: core.hop.close(now))
        error = check_run(swarm, session, answer=100)
        assert error is None or isinstance(error, NoChain), seed


def test_many_sessions_at_overloaded_hops() -> None:
    swarm = Swarm(6, memory=5 * 40 * 8)
    sessions = [swarm.ask(seed=n) for n in range(20)]
    errors = [end_of(swarm, session) for session in sessions]
    for n, (session, error) in enumerate(zip(sessions, errors, strict=True)):
        check_tokens(swarm, session, error, unbroken(seed=n))
    assert errors.count(None) >= 5
    assert {type(error).__name__ for error in errors if error} == {"Overloaded"}
    check_nothing_left(swarm)


def test_an_answer_is_opened_once_even_where_the_first_chain_fails() -> None:
    swarm = Swarm(7)
    swarm.host("b0").crash()
    session = swarm.ask()
    assert check_run(swarm, session) is None
    kinds = [type(item).__name__ for item in swarm.me.delivered]
    assert kinds[0] == "SessionOpened"
    assert kinds.count("SessionOpened") == 1
    assert isinstance(swarm.me.delivered[-1], Sampled)
