"""What an entry peer makes of how holders treated it."""

from __future__ import annotations

import random

import pytest

from p2pinfer.errors import ConfigError
from p2pinfer.ids import PeerId, SessionId
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
