"""When a second holder is asked to open a session, and which answer counts."""

from __future__ import annotations

import pytest

from p2pinfer.errors import ConfigError
from p2pinfer.ids import PeerId
from p2pinfer.inference.breaker import Outcome
from p2pinfer.inference.hedging import HedgeConfig, HedgedOpening, OpeningTimes
from p2pinfer.inference.retry_budget import RetryBudget, RetryBudgetConfig
from tests.inference.balancing_tools import peers

A, B, C = peers(3)


def budget(count: int = 10) -> RetryBudget:
    return RetryBudget(RetryBudgetConfig(ratio=0.0, count_per_s_min=count / 10))


def times(*latencies_s: float, config: HedgeConfig | None = None) -> OpeningTimes:
    openings = OpeningTimes(config or HedgeConfig())
    for latency_s in latencies_s:
        openings.add(latency_s, 0.0)
    return openings


def said(opening: HedgedOpening) -> tuple[PeerId | None, bool, float | None]:
    """Who won, whether all is lost, and when a second may be asked."""
    return opening.winner, opening.is_failed, opening.deadline


def test_the_delay_is_the_95th_percentile_of_recent_openings() -> None:
    assert times(*[0.1 * n for n in range(100, 0, -1)]).delay_s(0.0) == pytest.approx(9.5)
    assert times(*[0.1] * 94, *[5.0] * 6).delay_s(0.0) == 5.0
    assert times(*[0.1] * 95, *[5.0] * 5).delay_s(0.0) == 0.1


def test_nothing_is_hedged_before_enough_is_known_or_when_it_is_old() -> None:
    assert times(*[0.1] * 19).delay_s(0.0) is None
    openings = times(*[0.1] * 20)
    assert openings.delay_s(300.0) == 0.1
    assert openings.delay_s(300.1) is None


def test_only_recent_openings_count_and_no_delay_is_too_short() -> None:
    openings = times(*[1.0] * 200, *[0.5] * 200)
    assert openings.delay_s(0.0) == 0.5
    assert times(*[0.001] * 50).delay_s(0.0) == 0.02


def test_a_second_is_asked_once_after_the_delay_and_the_first_ready_wins() -> None:
    opening, left = HedgedOpening(A, 10.0, 0.5), budget()
    assert said(opening) == (None, False, 10.5)
    assert not opening.ask_second(B, 10.4, left)
    assert opening.ask_second(B, 10.5, left)
    assert not opening.ask_second(C, 11.0, left)
    assert said(opening) == (None, False, None)
    assert opening.answered(B, Outcome.SUCCESS, 10.6) == (A,)
    assert opening.answered(A, Outcome.SUCCESS, 10.7) == ()
    assert said(opening) == (B, False, None)
    assert left.balance(11.0) == 9


def test_the_first_may_still_win_and_the_second_is_told_to_forget() -> None:
    opening = HedgedOpening(A, 0.0, 0.5)
    opening.ask_second(B, 0.5, budget())
    assert opening.answered(A, Outcome.SUCCESS, 0.6) == (B,)
    assert opening.answered(B, Outcome.REFUSAL, 0.7) == ()
    assert (opening.winner, opening.is_failed) == (A, False)


def test_who_is_ready_in_time_has_nobody_beside_it() -> None:
    opening, left = HedgedOpening(A, 0.0, 0.5), budget()
    assert opening.answered(A, Outcome.SUCCESS, 0.1) == ()
    assert opening.deadline is None
    assert not opening.ask_second(B, 0.5, left)
    assert left.balance(0.5) == 10


@pytest.mark.parametrize("outcome", [Outcome.REFUSAL, Outcome.FAILURE])
def test_where_the_first_says_no_the_second_is_asked_at_once(outcome: Outcome) -> None:
    opening = HedgedOpening(A, 0.0, None)
    assert said(opening) == (None, False, None)
    assert opening.answered(A, outcome, 0.1) == ()
    assert said(opening) == (None, False, 0.1)
    assert opening.ask_second(B, 0.1, budget())
    assert said(opening) == (None, False, None)
    opening.answered(B, outcome, 0.2)
    assert said(opening) == (None, True, None)


def test_one_no_leaves_the_other_its_chance() -> None:
    opening = HedgedOpening(A, 0.0, 0.5)
    opening.ask_second(B, 0.5, budget())
    opening.answered(A, Outcome.FAILURE, 0.6)
    assert not opening.is_failed
    assert opening.answered(B, Outcome.SUCCESS, 0.7) == ()
    assert opening.winner == B


def test_slowness_may_take_a_quarter_of_the_budget_and_a_failure_all_of_it() -> None:
    left = budget(40)
    slow = [HedgedOpening(A, 0.0, 0.5) for _ in range(60)]
    assert sum(opening.ask_second(B, 0.5, left) for opening in slow) == 10
    failed = [HedgedOpening(A, 0.0, 0.5) for _ in range(60)]
    for opening in failed:
        opening.answered(A, Outcome.REFUSAL, 0.5)
    assert sum(opening.ask_second(B, 0.5, left) for opening in failed) == 30


def test_without_budget_or_without_another_the_first_stays_alone() -> None:
    for second, left in ((B, budget(0)), (None, budget()), (A, budget())):
        opening = HedgedOpening(A, 0.0, 0.5)
        before = left.balance(0.5)
        assert not opening.ask_second(second, 0.5, left)
        assert left.balance(0.5) == before
        assert said(opening) == (None, False, None)
        opening.answered(A, Outcome.FAILURE, 0.6)
        assert said(opening) == (None, True, None)


def test_a_stranger_or_a_second_answer_changes_nothing() -> None:
    opening = HedgedOpening(A, 0.0, 0.5)
    assert opening.answered(C, Outcome.SUCCESS, 0.1) == ()
    assert opening.winner is None
    opening.answered(A, Outcome.FAILURE, 0.2)
    assert opening.answered(A, Outcome.SUCCESS, 0.3) == ()
    assert opening.winner is None


@pytest.mark.parametrize(("field", "value"), [("percentile", 0.2), ("opening_count_max", 3)])
def test_settings_name_what_is_wrong(field: str, value: float) -> None:
    with pytest.raises(ConfigError, match=rf"{field} is {value}, but must lie in"):
        HedgeConfig(**{field: value})  # type: ignore[arg-type]
