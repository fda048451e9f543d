"""Counting over the last seconds, held against a list of everything that happened."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pinfer.runtime.windows import SlidingCounts

EVENTS = st.lists(st.tuples(st.floats(0, 5), st.sampled_from("abc"), st.integers(1, 9)), max_size=60)


@given(EVENTS, st.integers(1, 60))
def test_a_window_counts_what_a_list_counts(events: list[tuple[float, str, int]], last_s: int) -> None:
    window: SlidingCounts[str] = SlidingCounts(100.0)
    now = 100.0
    happened = []
    for pause_s, kind, amount in events:
        now += pause_s
        window.add(kind, now, amount)
        happened.append((now, kind, amount))
    expected: Counter[str] = Counter()
    for at, kind, amount in happened:
        if int(at) > int(now) - last_s:
            expected[kind] += amount
    assert window.counts(now, last_s) == expected


def test_what_is_old_is_forgotten_and_takes_no_room() -> None:
    window: SlidingCounts[str] = SlidingCounts(0.0, length_s=10)
    for second in range(10_000):
        window.add("a", second)
    assert window.counts(9_999, 1e9) == {"a": 10}
    assert len(window._slices) <= 11
    assert window.counts(20_000, 10) == {}


def test_a_rate_is_for_the_window_or_for_the_time_since_the_beginning() -> None:
    window: SlidingCounts[str] = SlidingCounts(0.0)
    for tenth in range(1, 301):
        window.add("a", tenth / 10, 2)
    assert window.rate("a", 30.0, 10) == pytest.approx(20, rel=0.12)
    assert window.rate("a", 30.0, 60) == pytest.approx(20, rel=0.01)
    assert window.rate("b", 30.0, 10) == 0
    assert window.rate("a", 45.0, 10) == 0


def test_a_rate_is_never_taken_over_less_than_a_slice() -> None:
    window: SlidingCounts[str] = SlidingCounts(5.0)
    window.add("a", 5.001, 3)
    assert window.rate("a", 5.001, 10) == 3.0


def test_a_copy_is_given() -> None:
    window: SlidingCounts[str] = SlidingCounts(0.0)
    window.add("a", 0.5)
    window.counts(0.5, 10)["a"] += 5
    assert window.counts(0.5, 10) == {"a": 1}
