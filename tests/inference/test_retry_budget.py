"""Sliding counts, and the retry budget that they carry."""

from __future__ import annotations

import random

import pytest

from p2pinfer.errors import ConfigError
from p2pinfer.inference.retry_budget import RetryBudget, RetryBudgetConfig
from p2pinfer.inference.sliding import SlidingCounts


def test_counts_slide_to_a_tenth_of_the_window(sim_seed: int) -> None:
    rng = random.Random(sim_seed)
    counts: SlidingCounts[str] = SlidingCounts(10.0)
    events: list[tuple[float, str]] = []
    now = 0.0
    for _ in range(2000):
        now += rng.expovariate(rng.choice([0.1, 5.0, 50.0]))
        kind = rng.choice("ab")
        counts.add(kind, now)
        events.append((now, kind))
        for asked in "ab":
            surely = sum(1 for at, k in events if k == asked and at > now - 9.0)
            perhaps = sum(1 for at, k in events if k == asked and at > now - 10.0)
            assert surely <= counts.count(asked, now) <= perhaps
    assert counts.count("a", now + 10.0) == 0
    counts.add("a", now)
    counts.clear()
    assert counts.count("a", now) == 0


def spent(budget: RetryBudget, now: float) -> int:
    count = 0
    while budget.take(now):
        count += 1
    return count


def test_a_fifth_of_the_requests_and_a_reserve_may_be_tried_again() -> None:
    budget = RetryBudget(RetryBudgetConfig())
    for _ in range(100):
        budget.requested(0.0)
    assert budget.balance(0.0) == 23
    assert spent(budget, 0.0) == 23
    assert not budget.take(5.0)
    assert spent(budget, 10.0) == 3, "the requests are too old, so is what was taken: the reserve is left"


def test_whoever_makes_few_requests_has_the_reserve() -> None:
    budget = RetryBudget(RetryBudgetConfig(count_per_s_min=1.0))
    assert spent(budget, 0.0) == 10
    taken = sum(spent(budget, now * 0.1) for now in range(1, 1001))
    assert taken == pytest.approx(100, abs=10), "one a second for 100 s"


def test_without_a_reserve_only_requests_earn_retries() -> None:
    budget = RetryBudget(RetryBudgetConfig(count_per_s_min=0.0))
    assert spent(budget, 0.0) == 0
    for _ in range(5):
        budget.requested(0.0)
    assert spent(budget, 0.0) == 1


def test_however_many_fail_retries_stay_below_their_part(sim_seed: int) -> None:
    rng = random.Random(sim_seed)
    config = RetryBudgetConfig()
    budget = RetryBudget(config)
    requests = retries = 0
    now = 0.0
    while now < 300.0:
        now += rng.expovariate(20.0)
        budget.requested(now)
        requests += 1
        retries += sum(budget.take(now) for _ in range(5))
    assert retries <= config.ratio * requests + config.count_per_s_min * (now + config.window_s)
    assert retries >= 0.9 * config.ratio * requests


@pytest.mark.parametrize(("field", "value"), [("ratio", 1.5), ("count_per_s_min", -1), ("window_s", 0)])
def test_settings_name_what_is_wrong(field: str, value: float) -> None:
    with pytest.raises(ConfigError, match=rf"{field} is {value}, but must lie in"):
        RetryBudgetConfig(**{field: value})
