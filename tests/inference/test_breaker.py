"""The circuit breaker: its table, its windows and waits, and what each outcome means to it."""

from __future__ import annotations

import itertools
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pinfer.errors import ConfigError
from p2pinfer.inference.breaker import (
    TRANSITIONS,
    Breaker,
    BreakerConfig,
    BreakerEvent,
    BreakerState,
    Outcome,
    Permit,
)

CLOSED, OPEN, HALF_OPEN = BreakerState.CLOSED, BreakerState.OPEN, BreakerState.HALF_OPEN
STEADY = BreakerConfig(jitter=0.0)
"""Waits of 1, 2, 4 ... 60 s; 3 failures within 10 s; 2 trials."""


def breaker(config: BreakerConfig = STEADY, seed: int = 1) -> Breaker:
    return Breaker(config, random.Random(seed))


def ask(it: Breaker, outcome: Outcome, now: float, times: int = 1) -> None:
    for _ in range(times):
        it.finished(it.started(now), outcome, now)


def test_the_table_is_the_whole_of_it() -> None:
    assert TRANSITIONS == {
        (CLOSED, BreakerEvent.TRIPPED): OPEN,
        (OPEN, BreakerEvent.WAITED): HALF_OPEN,
        (HALF_OPEN, BreakerEvent.TRIALS_PASSED): CLOSED,
        (HALF_OPEN, BreakerEvent.TRIAL_FAILED): OPEN,
    }


def test_failures_within_the_window_open_it() -> None:
    it = breaker()
    ask(it, Outcome.FAILURE, 0.0, 2)
    assert it.allows(0.0)
    ask(it, Outcome.FAILURE, 9.0)
    assert it.state(9.0) is OPEN
    assert not it.allows(9.0)


def test_failures_outside_the_window_are_forgotten() -> None:
    it = breaker()
    for now in range(0, 100, 6):
        ask(it, Outcome.FAILURE, float(now))
    assert it.state(100.0) is CLOSED


def test_few_failures_among_many_successes_open_nothing() -> None:
    it = breaker()
    for now in range(50):
        ask(it, Outcome.SUCCESS, now * 0.1, 3)
        ask(it, Outcome.FAILURE, now * 0.1, 2)
    assert it.state(5.0) is CLOSED, "40 % of failures where 50 % are too many"
    ask(it, Outcome.FAILURE, 5.0, 50)
    assert it.state(5.0) is OPEN


def test_refusals_and_cancelled_requests_open_nothing_and_hide_nothing() -> None:
    it = breaker()
    ask(it, Outcome.REFUSAL, 0.0, 1000)
    ask(it, Outcome.CANCELLED, 0.0, 1000)
    assert it.state(0.0) is CLOSED
    ask(it, Outcome.FAILURE, 0.0, 3)
    assert it.state(0.0) is OPEN


def opened(config: BreakerConfig = STEADY, seed: int = 1) -> Breaker:
    it = breaker(config, seed)
    ask(it, Outcome.FAILURE, 0.0, config.failure_count_min)
    return it


def test_half_open_admits_a_bounded_number_of_trials_and_closes_when_they_pass() -> None:
    it = opened()
    assert not it.allows(0.99)
    assert it.allows(1.0)
    permits = [it.started(1.0), it.started(1.0)]
    assert not it.allows(1.0)
    it.finished(permits[0], Outcome.SUCCESS, 1.1)
    assert not it.allows(1.1), "one passed and one under way are two"
    assert it.state(1.1) is HALF_OPEN
    it.finished(permits[1], Outcome.SUCCESS, 1.2)
    assert it.state(1.2) is CLOSED
    ask(it, Outcome.FAILURE, 1.3, 2)
    assert it.state(1.3) is CLOSED, "the old failures are forgotten"


def test_a_failed_trial_opens_it_again_whatever_the_others_said() -> None:
    it = opened()
    first, second = it.started(1.0), it.started(1.0)
    it.finished(first, Outcome.SUCCESS, 1.1)
    it.finished(second, Outcome.FAILURE, 1.2)
    assert it.state(1.2) is OPEN
    assert not it.allows(3.1)
    assert it.allows(3.2)


def test_a_refused_or_cancelled_trial_gives_its_place_back_and_decides_nothing() -> None:
    it = opened()
    for number in range(100):
        ask(it, (Outcome.REFUSAL, Outcome.CANCELLED)[number % 2], 1.0 + number)
        assert it.state(1.0 + number) is HALF_OPEN
    ask(it, Outcome.SUCCESS, 101.0, 2)
    assert it.state(101.0) is CLOSED


def test_trials_that_never_end_count_as_failed() -> None:
    it = opened()
    it.started(1.0)
    it.started(4.0)
    assert it.state(13.9) is HALF_OPEN
    assert not it.allows(13.9)
    assert it.state(14.0) is OPEN
    assert it.allows(16.0)


def test_half_open_without_trials_waits_for_one() -> None:
    it = opened()
    assert it.allows(1.0)
    assert it.allows(10_000.0)
    ask(it, Outcome.SUCCESS, 10_000.0, 2)
    assert it.state(10_000.0) is CLOSED


def test_what_was_begun_in_an_earlier_state_says_nothing_of_this_one() -> None:
    it = breaker()
    early = [it.started(0.0) for _ in range(10)]
    for permit in early[:3]:
        it.finished(permit, Outcome.FAILURE, 0.5)
    assert it.state(1.5) is HALF_OPEN
    it.finished(early[3], Outcome.FAILURE, 1.5)
    it.finished(early[4], Outcome.SUCCESS, 1.5)
    it.finished(early[5], Outcome.SUCCESS, 1.5)
    assert it.state(1.5) is HALF_OPEN
    assert it.allows(1.5)


def test_whoever_asks_an_open_breaker_all_the_same_is_not_counted() -> None:
    it = opened()
    permit = it.started(0.5)
    it.finished(permit, Outcome.FAILURE, 1.5)
    assert it.state(1.5) is HALF_OPEN
    trials = [it.started(1.5) for _ in range(5)]
    for trial in trials[2:]:
        it.finished(trial, Outcome.FAILURE, 1.6)
    assert it.state(1.6) is HALF_OPEN


def waits(it: Breaker, now: float, count: int) -> list[float]:
    """How long it stays open each time when every trial fails."""
    found = []
    for _ in range(count):
        began = now
        while not it.allows(now):
            now += 0.01
        found.append(now - began)
        ask(it, Outcome.FAILURE, now)
    return found


def test_waits_double_to_their_cap() -> None:
    assert waits(opened(), 0.0, 8) == pytest.approx([1, 2, 4, 8, 16, 32, 60, 60], abs=0.02)


def test_jitter_shortens_waits_and_differs_between_peers(sim_seed: int) -> None:
    config = BreakerConfig(jitter=0.3)
    found = waits(opened(config, sim_seed), 0.0, 8)
    for wait_s, full_s in zip(found, [1, 2, 4, 8, 16, 32, 60, 60], strict=True):
        assert 0.7 * full_s - 0.01 <= wait_s <= full_s + 0.02
    assert found != waits(opened(config, sim_seed + 100), 0.0, 8)


def test_a_relapse_doubles_the_wait_and_a_long_good_time_forgives() -> None:
    it = opened()
    ask(it, Outcome.SUCCESS, 1.0, 2)
    ask(it, Outcome.FAILURE, 20.0, 3)
    assert not it.allows(21.9)
    assert it.allows(22.0)
    ask(it, Outcome.SUCCESS, 22.0, 2)
    ask(it, Outcome.FAILURE, 82.1, 3)
    assert not it.allows(83.0)
    assert it.allows(83.1)


@settings(deadline=None, derandomize=True, max_examples=200)
@given(
    st.lists(
        st.tuples(
            st.floats(0, 5), st.sampled_from(Outcome), st.booleans(), st.integers(0, 5), st.integers(0, 99)
        ),
        max_size=80,
    )
)
def test_whatever_happens_it_never_gets_stuck_and_bounds_its_trials(
    steps: list[tuple[float, Outcome, bool, int, int]],
) -> None:
    config = BreakerConfig(wait_s_max=8.0)
    it, now = Breaker(config, random.Random(2)), 0.0
    under_way: list[tuple[Permit, BreakerState]] = []
    for pause_s, outcome, is_start, count, choice in steps:
        now += pause_s
        if is_start:
            for _ in range(count):
                if it.allows(now):
                    under_way.append((it.started(now), it.state(now)))
        elif under_way:
            permit, _ = under_way.pop(choice % len(under_way))
            it.finished(permit, outcome, now)
        trials = [p for p, state in under_way if state is HALF_OPEN]
        newest = max((p.change_count for p in trials), default=0)
        assert sum(p.change_count == newest for p in trials) <= config.trial_count_max
    later = now + config.trial_timeout_s + config.wait_s_max
    assert it.allows(later), "within its waits somebody may always ask again"


@pytest.mark.parametrize(
    ("field", "value"),
    [("wait_s_max", 0.5), ("jitter", 1.5), ("failure_count_min", 0), ("failure_ratio", 0.0), ("window_s", 0)],
)
def test_settings_name_what_is_wrong(field: str, value: float) -> None:
    with pytest.raises(ConfigError, match=rf"{field} is {value}, but must lie in"):
        BreakerConfig(**{field: value})  # type: ignore[arg-type]


def test_every_state_has_a_way_out() -> None:
    for state in BreakerState:
        assert any(came is state for came, _ in TRANSITIONS)
        assert any(goes is state for goes in TRANSITIONS.values())
    assert not any(TRANSITIONS[pair] is pair[0] for pair in TRANSITIONS)
    assert len(set(itertools.chain(*TRANSITIONS))) == len(BreakerState) + len(BreakerEvent)
