"""Sampling against a dumb twin in plain Python, its distribution, and what it refuses."""

from __future__ import annotations

import hashlib
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pinfer.engine.api import SampleRequest
from p2pinfer.engine.sampling import choose_token, uniform
from p2pinfer.engine.step_input import StepRefused
from p2pinfer.wire.messages.inference import Sampling

STEADY = settings(deadline=None, derandomize=True, max_examples=150)

LOGITS = st.lists(
    st.one_of(st.sampled_from([-1.0, 0.0, 1.0, 2.5]), st.floats(-30, 30, width=32)), min_size=1, max_size=40
)
SAMPLINGS = st.builds(
    Sampling,
    temperature=st.sampled_from([0.0, 0.3, 1.0, 2.0]),
    top_k=st.integers(0, 45),
    top_p=st.sampled_from([0.0, 0.4, 0.9, 1.0]),
    min_p=st.sampled_from([0.0, 0.05, 0.5, 1.0]),
    repeat_penalty=st.sampled_from([0.5, 1.0, 1.3]),
    repeat_last_n=st.integers(0, 6),
    seed=st.integers(0, (1 << 63) - 1),
)


def array(*logits: float) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    return np.array(logits, np.float32)


def dumb_choice(logits: list[float], request: SampleRequest) -> tuple[int, float]:
    """Return the token, and how near the drawn number came to the boundary of another."""
    s = request.sampling
    scores = [float(np.float32(logit)) for logit in logits]
    recent = list(request.recent)
    while len(recent) > s.repeat_last_n:
        recent.pop(0)
    for token in set(recent):
        scores[token] = (
            scores[token] / s.repeat_penalty if scores[token] > 0 else scores[token] * s.repeat_penalty
        )
    order = sorted(range(len(scores)), key=lambda token: (-scores[token], token))
    if s.temperature == 0:
        return order[0], 1.0
    order = order[: s.top_k or len(order)]
    best, near = scores[order[0]], 1.0
    chances = [math.exp(scores[token] - best) for token in order]
    if s.top_p < 1:
        total, reached, kept = sum(chances), 0.0, []
        for token, chance in zip(order, chances, strict=True):
            kept.append(token)
            reached += chance
            near = min(near, abs(reached - s.top_p * total))
            if reached >= s.top_p * total:
                break
        order = kept
    if s.min_p > 0:
        near = min([near, *(abs(chance - s.min_p) or 1.0 for chance in chances)])
        order = [token for token in order if math.exp(scores[token] - best) >= s.min_p]
    chances = [math.exp((scores[token] - best) / s.temperature) for token in order]
    drawn, reached = uniform(s.seed, request.position) * sum(chances), 0.0
    for token, chance in zip(order, chances, strict=True):
        reached += chance
        near = min(near, abs(reached - drawn))
        if drawn < reached:
            return token, near
    return order[-1], near


@STEADY
@given(LOGITS, SAMPLINGS, st.integers(0, 1 << 20), st.data())
def test_it_chooses_what_the_dumb_twin_chooses(
    logits: list[float], sampling: Sampling, position: int, data: st.DataObject
) -> None:
    recent = tuple(data.draw(st.lists(st.integers(0, len(logits) - 1), max_size=10)))
    request = SampleRequest(sampling, position, recent)
    expected, near = dumb_choice(logits, request)
    if near > 1e-12:
        assert choose_token(array(*logits), request) == expected


@STEADY
@given(LOGITS, SAMPLINGS, st.integers(0, 1 << 20))
def test_the_chosen_token_exists_and_the_logits_stay(
    logits: list[float], sampling: Sampling, position: int
) -> None:
    given_logits = array(*logits)
    token = choose_token(given_logits, SampleRequest(sampling, position))
    assert 0 <= token < len(logits)
    assert given_logits.tobytes() == array(*logits).tobytes()


def test_temperature_0_takes_the_lowest_of_equal_ids() -> None:
    assert choose_token(array(1, 3, 3, 2, 3), SampleRequest(Sampling(), 5)) == 1


def test_top_k_takes_the_lowest_of_equal_ids() -> None:
    sampling = Sampling(temperature=1.0, top_k=2)
    seen = {choose_token(array(3, 5, 3, 3, 1), SampleRequest(sampling, position)) for position in range(200)}
    assert seen == {0, 1}


def test_the_penalty_counts_a_token_once_and_looks_back_so_far() -> None:
    logits = array(1.0, 4.0, 3.0, -1.0)
    twice = SampleRequest(Sampling(repeat_penalty=1.3), 9, (1, 1, 1))
    assert choose_token(logits, twice) == 1, "4 / 1.3 is still above 3"
    once = SampleRequest(Sampling(repeat_penalty=1.5), 9, (1,))
    assert choose_token(logits, once) == 2
    before = SampleRequest(Sampling(repeat_penalty=1.5, repeat_last_n=2), 9, (1, 0, 0))
    assert choose_token(logits, before) == 1
    never = SampleRequest(Sampling(repeat_penalty=1.5, repeat_last_n=0), 9, (1,))
    assert choose_token(logits, never) == 1
    negative = SampleRequest(Sampling(repeat_penalty=2.0), 9, (0,))
    assert choose_token(array(-1.0, -1.5), negative) == 1


def test_the_order_is_llama_cpps() -> None:
    # top_p sees the distribution before the temperature: at temperature 100 it still keeps one token.
    sampling = Sampling(temperature=100.0, top_p=0.9)
    assert {choose_token(array(0, 5, 0, 0), SampleRequest(sampling, p)) for p in range(100)} == {1}


def test_the_random_number_is_a_hash_of_seed_and_position() -> None:
    digest = hashlib.blake2b(
        (3).to_bytes(8, "little") + (4).to_bytes(8, "little"), digest_size=8, person=b"p2pinfer token"
    ).digest()
    assert uniform(3, 4) == (int.from_bytes(digest, "little") >> 11) / 2**53
    assert uniform(3, 4) != uniform(4, 3)
    drawn = [uniform(1, position) for position in range(4000)]
    assert 0.0 <= min(drawn) < 0.001
    assert 0.999 < max(drawn) < 1.0
    assert abs(sum(drawn) / 4000 - 0.5) < 0.02


def test_known_draws_never_change() -> None:
    logits = np.linspace(-2, 3, 50, dtype=np.float32)
    sampling = Sampling(temperature=1.0, top_k=40, top_p=0.95, seed=42)
    drawn = [choose_token(logits, SampleRequest(sampling, position)) for position in range(12)]
    assert drawn == [40, 27, 37, 46, 47, 44, 45, 41, 42, 49, 44, 45]


@pytest.mark.parametrize("temperature", [0.5, 1.0, 1.7])
def test_the_draws_follow_the_distribution(temperature: float) -> None:
    logits = array(0.0, 1.0, -0.5, 2.0, 1.5, 0.3)
    count = 12_000
    sampling = Sampling(temperature=temperature, seed=11)
    drawn = [choose_token(logits, SampleRequest(sampling, position)) for position in range(count)]
    chances = np.exp(logits.astype(np.float64) / temperature)
    expected = count * chances / chances.sum()
    observed = np.bincount(drawn, minlength=len(logits))
    chi_square = float(((observed - expected) ** 2 / expected).sum())
    assert chi_square < 20.5, "5 degrees of freedom: exceeded once in a thousand seeds"


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize(
    "logits", [(1.0, math.nan, 0.0), (math.inf, 1.0), (-math.inf, -math.inf), (math.nan,), ()]
)
def test_logits_that_are_no_numbers_give_no_token(logits: tuple[float, ...], temperature: float) -> None:
    with pytest.raises(StepRefused, match="no numbers"):
        choose_token(array(*logits), SampleRequest(Sampling(temperature=temperature), 1))


@pytest.mark.parametrize("recent", [(3,), (-1,)])
def test_a_recent_token_outside_the_vocabulary_is_refused(recent: tuple[int, ...]) -> None:
    with pytest.raises(StepRefused, match="vocabulary of 3"):
        choose_token(array(1, 2, 3), SampleRequest(Sampling(repeat_penalty=1.1), 1, recent))


def test_a_masked_token_is_never_drawn() -> None:
    sampling = Sampling(temperature=50.0)
    logits = array(1.0, -math.inf, 1.0)
    assert {choose_token(logits, SampleRequest(sampling, p)) for p in range(200)} == {0, 2}
