"""The health score, part by part, and slow start."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pinfer.errors import ConfigError
from p2pinfer.inference.breaker import BreakerState, Outcome
from p2pinfer.inference.health import Health, HealthConfig, slow_start_part
from tests.inference.balancing_tools import made, peers, picked

CONFIG = HealthConfig()
CLOSED = BreakerState.CLOSED


def after(*outcomes: Outcome, now: float = 0.0) -> Health:
    health = Health(CONFIG, now)
    for outcome in outcomes:
        health.finished(outcome, now)
    return health


def test_a_newcomer_is_healthy() -> None:
    assert Health(CONFIG, 100.0).score(100.0, CLOSED, 0.1) == 1.0


def test_a_failure_costs_more_than_a_refusal_and_a_cancelled_request_nothing() -> None:
    good, busy, bad = (
        after(o).score(0.0, CLOSED) for o in (Outcome.SUCCESS, Outcome.REFUSAL, Outcome.FAILURE)
    )
    assert (good, busy, bad) == pytest.approx((1.0, 0.9, 0.8))
    assert after(Outcome.CANCELLED).score(0.0, CLOSED) == 1.0
    assert after(*[Outcome.FAILURE] * 20).score(0.0, CLOSED) < 0.02
    assert after(*[Outcome.REFUSAL] * 20).score(0.0, CLOSED) == pytest.approx(0.5, abs=0.01)


def test_successes_and_time_forgive() -> None:
    health = after(*[Outcome.FAILURE] * 10)
    low = health.score(0.0, CLOSED)
    assert health.score(30.0, CLOSED) == pytest.approx(1 - (1 - low) / 2.71828, rel=1e-4)
    for _ in range(10):
        health.finished(Outcome.SUCCESS, 30.0)
    assert health.score(30.0, CLOSED) > 0.9


def test_who_is_slower_than_usual_scores_in_proportion() -> None:
    health = Health(CONFIG, 0.0)
    health.finished(Outcome.SUCCESS, 0.0, 0.2)
    assert health.score(0.0, CLOSED, 0.1) == pytest.approx(0.5)
    assert health.score(0.0, CLOSED, 0.4) == 1.0
    assert health.score(0.0, CLOSED) == 1.0
    for _ in range(20):
        health.finished(Outcome.SUCCESS, 0.0, 0.1)
    assert health.score(0.0, CLOSED, 0.1) > 0.95


def test_the_breaker_halves_or_ends_it() -> None:
    health = Health(CONFIG, 0.0)
    assert health.score(0.0, BreakerState.HALF_OPEN) == 0.5
    assert health.score(0.0, BreakerState.OPEN) == 0.0


def test_silence_lowers_nothing() -> None:
    health = after(Outcome.SUCCESS)
    assert health.score(3600.0, CLOSED) == 1.0


@settings(deadline=None, derandomize=True, max_examples=100)
@given(
    st.lists(st.tuples(st.sampled_from(Outcome), st.floats(0, 20), st.floats(0, 10)), max_size=40),
    st.sampled_from(BreakerState),
    st.floats(0, 10),
)
def test_it_stays_within_0_and_1(
    events: list[tuple[Outcome, float, float]], breaker: BreakerState, usual_s: float
) -> None:
    health, now = Health(CONFIG, 0.0), 0.0
    for outcome, pause_s, latency_s in events:
        now += pause_s
        health.finished(outcome, now, latency_s)
        assert 0.0 <= health.score(now, breaker, usual_s) <= 1.0


def test_the_weight_of_a_returning_peer_grows_linearly() -> None:
    ages_s = (0.0, 1.0, 3.0, 6.0, 15.0, 29.0, 30.0, 1e9)
    parts = [slow_start_part(age_s, CONFIG) for age_s in ages_s]
    assert parts == pytest.approx([0.1, 0.1, 0.1, 0.2, 0.5, 29 / 30, 1.0, 1.0])
    assert slow_start_part(0.0, HealthConfig(slow_start_s=0.0)) == 1.0


def test_picks_follow_the_slow_start() -> None:
    a, b = peers(2)
    balancer = made("weighted_round_robin", [a])
    for age_s, part in ((0.0, 0.1), (15.0, 0.5), (30.0, 1.0)):
        balancer.join(b, slow_start_part(age_s, CONFIG))
        assert picked(balancer, 1100)[b] == pytest.approx(1100 * part / (1 + part), abs=2)


@pytest.mark.parametrize(("field", "value"), [("refusal_worth", 2.0), ("slow_start_part_min", 0.0)])
def test_settings_name_what_is_wrong(field: str, value: float) -> None:
    with pytest.raises(ConfigError, match=rf"{field} is {value}, but must lie in"):
        HealthConfig(**{field: value})
