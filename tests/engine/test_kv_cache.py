"""A session's cache against a plain list, its growth, and what the table of caches admits."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from p2pinfer.engine.kv_cache import CAPACITY_COUNT_MIN, CacheShape, CacheTable, KVCache
from p2pinfer.engine.step_input import StepRefused
from p2pinfer.errors import LocalProtocolError, Overloaded
from p2pinfer.ids import SessionId, Span

SHAPE = CacheShape(Span(2, 4), kv_head_count=2, head_size=3)
ONE, TWO = SessionId(bytes(15) + b"1"), SessionId(bytes(15) + b"2")


def rows(start: int, count: int) -> NDArray[np.float32]:
    """Numbers that tell their place: (T, K, S)."""
    return np.arange(start * 6, (start + count) * 6, dtype=np.float32).reshape(count, 2, 3)


@settings(deadline=None, derandomize=True, max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 40), st.integers(1, 90)), min_size=1, max_size=12))
def test_it_holds_what_a_list_holds(steps: list[tuple[int, int]]) -> None:
    cache = KVCache(SHAPE, positions_max=600)
    plain: list[NDArray[np.float32]] = []
    fresh = 0
    for cut, count in steps:
        base = max(0, len(plain) - cut)
        if base + count > 600:
            break
        cache.begin(SHAPE.span, base, count)
        del plain[base:]
        new = rows(fresh, count)
        fresh += count
        plain += list(new)
        for layer in (2, 3):
            keys, values = cache.write(layer, cache.length, new + layer, -new)
            assert keys.shape == (2, len(plain), 3)
            np.testing.assert_array_equal(keys.transpose(1, 0, 2), np.array(plain) + layer)
            np.testing.assert_array_equal(values.transpose(1, 0, 2), -np.array(plain))
        cache.keep(count)
        assert cache.length == len(plain)
        assert cache.size_bytes <= SHAPE.size_bytes(600)


def filled(positions_max: int, count: int) -> KVCache:
    cache = KVCache(SHAPE, positions_max)
    cache.begin(SHAPE.span, 0, count)
    for layer in (2, 3):
        cache.write(layer, cache.length, rows(0, count), rows(0, count))
    cache.keep(count)
    return cache


def test_memory_is_taken_as_it_is_used_and_ends_at_the_promise() -> None:
    assert KVCache(SHAPE, 1000).size_bytes == 0
    assert filled(1000, 1).size_bytes == SHAPE.size_bytes(CAPACITY_COUNT_MIN)
    assert filled(10, 1).size_bytes == SHAPE.size_bytes(10)
    cache = filled(1000, CAPACITY_COUNT_MIN)
    cache.begin(SHAPE.span, CAPACITY_COUNT_MIN, 1)
    for layer in (2, 3):
        cache.write(layer, cache.length, rows(0, 1), rows(0, 1))
    assert cache.size_bytes == SHAPE.size_bytes(2 * CAPACITY_COUNT_MIN)
    assert filled(1000, 1000).size_bytes == SHAPE.size_bytes(1000) == 2 * 2 * 2 * 3 * 4 * 1000


def test_growing_never_copies_back() -> None:
    cache = filled(1000, 5)
    cache.begin(SHAPE.span, 5, 1)
    before, _ = cache.write(2, cache.length, rows(5, 1), rows(5, 1))
    cache.keep(1)
    cache.begin(SHAPE.span, 6, 1)
    after, _ = cache.write(2, cache.length, rows(6, 1), rows(6, 1))
    assert np.shares_memory(before, after)


@pytest.mark.parametrize(
    ("layers", "base", "count", "finding"),
    [
        (SHAPE.span, 6, 1, "base 6 is beyond the 5 positions kept"),
        (SHAPE.span, -1, 1, "base -1"),
        (SHAPE.span, 5, 4, "the cache is full: 9 of 8 positions"),
        (Span(2, 3), 5, 1, r"runs layers \[2,4\) here, not \[2,3\)"),
    ],
)
def test_a_step_that_does_not_fit_is_refused_and_changes_nothing(
    layers: Span, base: int, count: int, finding: str
) -> None:
    cache = filled(8, 5)
    with pytest.raises(StepRefused, match=finding):
        cache.begin(layers, base, count)
    assert cache.length == 5
    cache.begin(SHAPE.span, 5, 3)


def test_a_step_that_was_not_kept_is_forgotten() -> None:
    cache = filled(8, 5)
    cache.begin(SHAPE.span, 3, 2)
    cache.write(2, cache.length, rows(9, 2), rows(9, 2))
    assert cache.length == 3
    cache.begin(SHAPE.span, 3, 1)
    with pytest.raises(StepRefused):
        cache.begin(SHAPE.span, 4, 1)


def test_a_table_opens_what_fits_and_says_so_before() -> None:
    table = CacheTable(SHAPE, size_bytes_max=SHAPE.size_bytes(10))
    assert table.can_open(10)
    assert not table.can_open(11)
    table.open(ONE, 6)
    assert table.reserved_bytes == SHAPE.size_bytes(6)
    assert table.can_open(4)
    assert not table.can_open(5)
    with pytest.raises(Overloaded, match="5 positions"):
        table.open(TWO, 5)
    assert len(table) == 1
    table.drop(ONE)
    table.drop(ONE)
    table.open(TWO, 10)
    assert CacheTable(SHAPE).can_open(1 << 40)


def test_a_session_is_opened_once_and_known_until_dropped() -> None:
    table = CacheTable(SHAPE)
    table.open(ONE, 6)
    with pytest.raises(LocalProtocolError, match="has a cache already"):
        table.open(ONE, 6)
    with pytest.raises(LocalProtocolError, match="at least 1 position"):
        table.open(TWO, 0)
    assert table.get(ONE).length == 0
    with pytest.raises(StepRefused, match="has no cache here"):
        table.get(TWO)
    table.clear()
    assert len(table) == 0
    assert table.reserved_bytes == 0
    with pytest.raises(StepRefused, match="has no cache here"):
        table.get(ONE)


def test_a_session_is_extended_within_what_all_may_take_together() -> None:
    table = CacheTable(SHAPE, size_bytes_max=SHAPE.size_bytes(10))
    table.open(ONE, 6)
    cache = table.get(ONE)
    cache.begin(SHAPE.span, 0, 6)
    cache.keep(6)
    table.extend(ONE, 6)
    with pytest.raises(Overloaded, match="11 positions"):
        table.extend(ONE, 11)
    with pytest.raises(StepRefused, match="7 of 6"):
        cache.begin(SHAPE.span, 6, 1)
    table.extend(ONE, 10)
    assert table.reserved_bytes == SHAPE.size_bytes(10)
    cache.begin(SHAPE.span, 6, 4)
    with pytest.raises(LocalProtocolError, match="more than 9"):
        table.extend(ONE, 9)
    with pytest.raises(LocalProtocolError, match="no cache to extend"):
        table.extend(TWO, 20)
