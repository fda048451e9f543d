"""The benchmark beside llama.cpp with a tiny model: all of it runs, and its figures fit together."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from benchmarks.chain_speed import Setup, measure_chain, measure_token_ms
from benchmarks.decode import Bench
from benchmarks.llama_cpp import Questions
from benchmarks.perplexity import run_perplexity
from p2pinfer.ids import Span
from p2pinfer.models.store import ModelStore
from tests.e2e.conftest import TINY, TINY_LAYER_COUNT

pytestmark = pytest.mark.e2e

NUMPY = {"engine": "numpy", "threads": 1}
QUESTIONS = Questions(
    short=(70, 71, 72), long=tuple(range(60, 200)), together=((80, 81), (82, 83), (84, 85)), token_count=12
)
SPANS = [Span(0, 3), Span(3, TINY_LAYER_COUNT)]
NAMES = ("decode", "prefill_512", "sessions_16")


async def test_a_chain_is_measured(tiny_cache: Path) -> None:
    setup = Setup(model=TINY, cache_dir=tiny_cache, settings=NUMPY)
    figures = await measure_chain(setup, SPANS, QUESTIONS)
    assert figures.speeds.decode == pytest.approx(1000 / figures.token_ms, rel=0.9)
    assert figures.speeds.prefill > 0
    assert figures.speeds.sessions > 0
    assert await measure_token_ms(setup, [Span(0, TINY_LAYER_COUNT)], QUESTIONS) > 0


@pytest.mark.skipif(importlib.util.find_spec("xllamacpp") is None, reason="needs the extra bench")
async def test_both_sides_are_measured_and_the_ratios_are_theirs(tiny_cache: Path) -> None:
    setups = {"float32": Setup(model=TINY, cache_dir=tiny_cache, settings=NUMPY)}
    path = ModelStore(tiny_cache / "models").path_of(TINY)
    result = await Bench(path, SPANS, QUESTIONS, setups).run(1)
    assert result["accuracy"] == "float32"
    assert result["perplexity_ratio"] == 1
    for name in NAMES:
        block = result[name]
        for number, threads in ((1, "1_thread"), (2, "2_threads")):
            ratio = block["ours_tok_s"] / block[f"llama_cpp_{threads}_tok_s"]
            assert block[f"ratio_{number}"] == pytest.approx(ratio, rel=0.05, abs=0.002)


async def test_the_perplexity_of_a_tiny_model_is_measured(tiny_cache: Path) -> None:
    path = ModelStore(tiny_cache / "models").path_of(TINY)
    assert await run_perplexity(path, NUMPY) > 50, "random weights know nothing"
