"""What an entry peer makes of how holders treated it."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from p2pinfer.errors import ConfigError
from p2pinfer.ids import PeerId, SessionId
from p2pinfer.inference.balancing import BALANCERS
from p2pinfer.inference.breaker import Outcome
from p2pinfer.inference.standing import StandingConfig, Standings

ONE, TWO, THREE = (PeerId(bytes([n]) * 32) for n in range(1, 4))


def session(number: int) -> SessionId:
    return SessionId(bytes([number]) * 16)


def standings(balancer: str = "least_connections") -> Standings:
    return Standings(StandingConfig(balancer=balancer), random.Random(1))


def test_a_new_set_of_equals_knows_what_runs_already() -> None:
    known = standings()
    for number in range(12):
        known.asked(session(number), (ONE, TWO)[number % 2], 0.0)
        known.answered(session(number), (ONE, TWO)[number % 2], 0.1)
    picks = []
    for number in range(20, 26):
        peer = known.pick((ONE, TWO, THREE), b"", 1.0)
        assert peer is not None
        picks.append(peer)
        known.asked(session(number), peer, 1.0)
    for number in range(12):
        known.ended(session(number), 2.0)
    assert picks == [THREE] * 6
    assert [known.in_flight(peer) for peer in (ONE, TWO, THREE)] == [0, 0, 6]
    assert known.pick((ONE, TWO, THREE), b"", 3.0) != THREE


def test_latency_is_that_of_the_opening_and_not_of_the_answer() -> None:
    known = standings("least_latency")
    for number in range(10):
        peer, took_s, lasted_s = ((ONE, 0.01, 3.0), (TWO, 0.2, 1.0))[number % 2]
        known.pick((ONE, TWO), b"", float(number))
        known.asked(session(number), peer, float(number))
        known.answered(session(number), peer, number + took_s)
        known.left(session(number), peer, Outcome.SUCCESS, number + lasted_s)
    assert {known.pick((ONE, TWO), b"", 12.0) for _ in range(5)} == {ONE}


def test_who_fails_is_shunned_until_its_wait_is_over_and_a_dead_one_is_forgotten() -> None:
    known = standings()
    for number in range(3):
        known.asked(session(number), ONE, 1.0)
        known.left(session(number), ONE, Outcome.FAILURE, 1.1)
    assert known.shunned((ONE, TWO), 1.2) == {ONE}
    assert known.statistics(1.2)["breakers"] == {ONE.short: "open"}
    assert known.shunned((ONE, TWO), 3.0) == set()
    known.forget(ONE)
    assert known.statistics(1.2)["breakers"] == {}


def test_a_refusal_and_a_cancelled_session_trip_nothing() -> None:
    known = standings()
    for number in range(20):
        known.asked(session(number), ONE, 1.0)
        known.left(session(number), ONE, (Outcome.REFUSAL, Outcome.CANCELLED)[number % 2], 1.1)
    assert known.shunned((ONE,), 1.2) == set()
    assert known.in_flight(ONE) == 0


def test_an_unknown_balancer_is_named() -> None:
    with pytest.raises(ConfigError, match=r"balancer is 'best', but must be one of .*round_robin"):
        StandingConfig(balancer="best")


def asked_in_turn(known: Standings, first: int, count: int, begin: float, pause_s: float) -> Counter[PeerId]:
    """Who takes sessions that come one after the other, each over before the next, all of them well."""
    taken: Counter[PeerId] = Counter()
    for number in range(first, first + count):
        now = begin + (number - first) * pause_s
        peer = known.pick((ONE, TWO), b"%d" % number, now)
        assert peer is not None
        taken[peer] += 1
        known.asked(session(number), peer, now)
        known.answered(session(number), peer, now + 0.01)
        known.ended(session(number), now + 1.0)
    return taken


@pytest.mark.parametrize("balancer", BALANCERS)
def test_two_equals_that_are_asked_seldom_share_the_sessions(balancer: str) -> None:
    known = standings(balancer)
    taken = asked_in_turn(known, 0, 30, 0.0, 20.0)
    assert min(taken[ONE], taken[TWO]) >= 10, taken


def test_a_failure_keeps_an_idle_holder_out_for_a_minute_and_not_for_an_hour() -> None:
    known = standings("power_of_two")
    known.asked(session(0), ONE, 0.0)
    known.left(session(0), ONE, Outcome.FAILURE, 0.1)
    assert asked_in_turn(known, 1, 20, 1.0, 1.5)[ONE] == 0
    assert asked_in_turn(known, 21, 40, 60.0, 1.5)[ONE] >= 10


def test_who_was_there_from_the_start_or_was_never_asked_has_its_whole_share() -> None:
    known = standings("weighted_round_robin")
    known.came(ONE, 0.0)
    known.came(TWO, 5.0)
    assert asked_in_turn(known, 0, 20, 5.0, 0.5) == {ONE: 10, TWO: 10}


def test_who_comes_back_gets_little_at_first_and_its_share_later() -> None:
    known = standings("weighted_round_robin")
    for peer in (ONE, TWO):
        known.came(peer, 0.0)
    asked_in_turn(known, 0, 10, 1.0, 1.0)
    known.forget(TWO)
    known.came(TWO, 20.0)
    assert 1 <= asked_in_turn(known, 10, 20, 20.0, 0.1)[TWO] <= 3
    assert 4 <= asked_in_turn(known, 30, 30, 30.0, 0.3)[TWO] <= 11
    assert asked_in_turn(known, 60, 20, 51.0, 0.5) == {ONE: 10, TWO: 10}


def test_a_newcomer_starts_slowly_too() -> None:
    known = standings("weighted_round_robin")
    known.came(ONE, 0.0)
    known.came(TWO, 100.0)
    assert 1 <= asked_in_turn(known, 0, 20, 100.0, 0.1)[TWO] <= 3
    assert asked_in_turn(known, 20, 20, 130.0, 0.5) == {ONE: 10, TWO: 10}


@pytest.mark.parametrize("balancer", ["least_latency", "peak_latency", "adaptive"])
def test_who_loses_a_session_without_blame_is_not_taken_for_slow(balancer: str) -> None:
    known = standings(balancer)
    for number in range(10):
        for index, peer in enumerate((ONE, TWO)):
            known.pick((ONE, TWO), b"", float(number))
            known.asked(session(2 * number + index), peer, float(number))
            known.answered(session(2 * number + index), peer, number + (0.1, 0.2)[index])
            outcome = Outcome.SUCCESS if number < 5 or peer == TWO else Outcome.CANCELLED
            known.left(session(2 * number + index), peer, outcome, number + 0.5)
    assert [known.in_flight(peer) for peer in (ONE, TWO)] == [0, 0]
    taken = Counter(known.pick((ONE, TWO), b"", 10.0) for _ in range(30))
    assert taken[ONE] > taken[TWO]
