"""The arithmetic against slow twins in float64 that follow the papers' formulas one number at a time."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from p2pinfer.engine.layers import QUERY_TILE_COUNT, attention, rms_norm, swiglu
from p2pinfer.engine.rope import RopeSettings, rotate, turns
from p2pinfer.errors import UnsupportedModel

F32 = NDArray[np.float32]


def random_array(seed: int, *shape: int) -> F32:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def slow_attention(query: F32, keys: F32, values: F32) -> NDArray[np.float64]:
    count, head_count, size = query.shape
    kv_count, length, _ = keys.shape
    result = np.zeros((count, head_count, size))
    for row in range(count):
        for head in range(head_count):
            shared = head // (head_count // kv_count)
            seen = length - count + row + 1
            scores = [
                float(np.dot(query[row, head].astype(float), keys[shared, at].astype(float)))
                / math.sqrt(size)
                for at in range(seen)
            ]
            weights = [math.exp(score - max(scores)) for score in scores]
            for at, weight in enumerate(weights):
                result[row, head] += weight / sum(weights) * values[shared, at].astype(float)
    return result.reshape(count, -1)


@settings(deadline=None, derandomize=True, max_examples=25)
@given(
    count=st.integers(1, 9),
    before=st.integers(0, 12),
    kv_count=st.integers(1, 3),
    group=st.integers(1, 3),
    seed=st.integers(0, 1 << 30),
)
def test_attention_is_the_formula(count: int, before: int, kv_count: int, group: int, seed: int) -> None:
    query = random_array(seed, count, kv_count * group, 4)
    keys, values = random_array(seed + 1, 2, kv_count, before + count, 4)
    np.testing.assert_allclose(
        attention(query, keys, values), slow_attention(query, keys, values), atol=2e-6, rtol=2e-5
    )


@pytest.mark.parametrize("count", [QUERY_TILE_COUNT, QUERY_TILE_COUNT + 1, 2 * QUERY_TILE_COUNT + 5])
def test_attention_is_the_formula_where_it_is_cut_into_tiles(count: int) -> None:
    query = random_array(1, count, 2, 4)
    keys, values = random_array(2, 2, 1, count + 3, 4)
    np.testing.assert_allclose(attention(query, keys, values), slow_attention(query, keys, values), atol=2e-6)


def test_attention_stands_scores_that_overflow_exp() -> None:
    query, keys = np.full((2, 1, 4), 30, np.float32), np.full((1, 2, 4), 30, np.float32)
    values = random_array(3, 1, 2, 4)
    result = attention(query, keys, values)
    np.testing.assert_allclose(result[0], values[0, 0])
    np.testing.assert_allclose(result[1], values[0].mean(axis=0), rtol=1e-6)


def test_rms_norm_is_the_formula() -> None:
    x, weight = random_array(4, 5, 7), random_array(5, 7)
    expected = [
        [v * w / math.sqrt(sum(u * u for u in row) / 7 + 1e-5) for v, w in zip(row, weight, strict=True)]
        for row in x.astype(float)
    ]
    result = rms_norm(x, weight, 1e-5)
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, expected, rtol=1e-5)


def test_swiglu_is_the_formula_and_stands_large_numbers() -> None:
    gate = np.array([[-200.0, -1.0, 0.0, 2.0, 200.0]], np.float32)
    up = np.array([[3.0, 2.0, 5.0, -1.0, 1.0]], np.float32)
    with np.errstate(over="ignore"):
        result = swiglu(np.concatenate([gate, up], axis=1))
    expected = [g / (1 + math.exp(-g)) * u for g, u in zip(gate[0].tolist(), up[0].tolist(), strict=True)]
    np.testing.assert_allclose(result[0], expected, rtol=1e-6, atol=1e-30)


def slow_rotation(head: F32, position: int, rope: RopeSettings) -> list[float]:
    result = [float(number) for number in head]
    for pair in range(rope.dimension_count // 2):
        factor = rope.factors[pair] if rope.factors else 1.0
        angle = position / rope.scale * rope.base ** (-2 * pair / rope.dimension_count) / factor
        a, b = result[2 * pair], result[2 * pair + 1]
        result[2 * pair] = a * math.cos(angle) - b * math.sin(angle)
        result[2 * pair + 1] = a * math.sin(angle) + b * math.cos(angle)
    return result


@pytest.mark.parametrize(
    "rope",
    [
        RopeSettings(dimension_count=8),
        RopeSettings(dimension_count=4, base=500.0),
        RopeSettings(dimension_count=8, scale=4.0),
        RopeSettings(dimension_count=8, factors=(1.0, 1.0, 2.5, 8.0)),
    ],
    ids=["plain", "partial", "linear", "llama3"],
)
@pytest.mark.parametrize("base", [0, 3, 8000])
def test_rotation_is_the_formula(rope: RopeSettings, base: int) -> None:
    given_heads = random_array(6, 3, 2, 10)[..., 1:9]  # a view whose rows do not touch
    heads = given_heads.copy()
    wide = np.zeros((3, 2, 10), np.float32)
    wide[..., 1:9] = heads
    rotate(wide[..., 1:9], turns(rope.frequencies(), base, 3))
    expected = [[slow_rotation(head, base + row, rope) for head in heads[row]] for row in range(3)]
    np.testing.assert_allclose(wide[..., 1:9], expected, atol=2e-6)
    assert not wide[..., 0].any()
    assert not wide[..., 9].any()


def test_a_position_turns_the_same_in_whatever_step_it_comes() -> None:
    frequencies = RopeSettings(dimension_count=64, base=100_000.0).frequencies()
    together = turns(frequencies, 0, 200)
    alone = np.concatenate([turns(frequencies, position, 1) for position in range(200)])
    assert together.tobytes() == alone.tobytes()


@pytest.mark.parametrize(
    "wrong",
    [
        {"dimension_count": 7},
        {"dimension_count": 0},
        {"base": 0.0},
        {"base": math.inf},
        {"base": math.nan},
        {"scale": -1.0},
        {"factors": (1.0,)},
        {"dimension_count": 2, "factors": (0.0,)},
    ],
)
def test_rope_settings_that_mean_nothing_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(UnsupportedModel):
        RopeSettings(**wrong)  # type: ignore[arg-type]
