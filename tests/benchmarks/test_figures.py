"""What the benchmarks compute from their samples, without any process."""

from __future__ import annotations

import importlib.util
import math
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from benchmarks import decode, dht
from benchmarks.perplexity import perplexity_of
from benchmarks.shared import even_spans, percentile
from p2pinfer.engine.api import EngineInput
from p2pinfer.ids import SessionId


def test_the_percentile_is_the_nearest_rank() -> None:
    values = [float(n) for n in range(100, 0, -1)]
    assert percentile(values, 0.95) == 95
    assert percentile(values, 0.5) == 50
    assert percentile([7.0], 0.95) == 7
    assert percentile([], 0.95) is None


@given(st.integers(1, 100).flatmap(lambda n: st.tuples(st.just(n), st.integers(1, n))))
def test_even_spans_cover_the_model_with_lengths_that_differ_by_one(counts: tuple[int, int]) -> None:
    layer_count, part_count = counts
    spans = even_spans(layer_count, part_count)
    assert [layer for span in spans for layer in range(span.start, span.end)] == list(range(layer_count))
    assert len(spans) == part_count
    assert max(map(len, spans)) - min(map(len, spans)) <= 1


class CountingEngine:
    """Knows that token n is followed by n + 1, and gives that a known probability among four tokens."""

    def __init__(self, probability: float) -> None:
        self.probability = probability
        self.fed: list[tuple[int, tuple[int, ...]]] = []
        self.open: set[SessionId] = set()

    def open_cache(self, session: SessionId, positions_max: int) -> None:
        self.open.add(session)

    def drop_cache(self, session: SessionId) -> None:
        self.open.remove(session)

    def logits(self, step: EngineInput) -> NDArray[np.float32]:
        assert step.session in self.open
        self.fed.append((step.base, step.tokens))
        scores = np.full(4, math.log((1 - self.probability) / 3), np.float32)
        scores[(step.tokens[-1] + 1) % 4] = math.log(self.probability)
        return scores + np.float32(1000)  # which changes no probability


@pytest.mark.parametrize("probability", [0.25, 0.5, 0.9])
def test_the_perplexity_is_the_inverse_of_what_each_token_was_given(probability: float) -> None:
    engine = CountingEngine(probability)
    assert perplexity_of(engine, [0, 1, 2, 3, 0]) == pytest.approx(1 / probability, rel=1e-4)
    assert engine.fed == [(0, (0,)), (1, (1,)), (2, (2,)), (3, (3,))]
    assert not engine.open


def test_the_prompts_are_the_same_in_every_run() -> None:
    questions = decode.draw_questions(10)
    assert questions == decode.draw_questions(10)
    assert len(questions.long) == 512
    assert len(set(questions.together)) == 16


def test_a_missing_wheel_is_one_line_with_the_remedy(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "xllamacpp" else real(name))
    monkeypatch.setattr(sys, "argv", ["decode"])
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    assert decode.main() == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "pip install 'p2pinfer[bench]'" in said


def test_the_dhts_ratios_are_above_one_where_ours_takes_less_time() -> None:
    ours = [
        {"puts_ms": [4.0, 5.0, 6.0], "gets_ms": [1.0], "put_cpu_ms": 7.0, "get_cpu_ms": 2.0, "failures": 1}
    ]
    theirs = [
        {"puts_ms": [ms], "gets_ms": [ms / 5], "put_cpu_ms": 9.0, "get_cpu_ms": 1.0, "failures": 0}
        for ms in (1.0, 10.0, 1000.0)
    ]
    figures = dht.figures(ours, theirs, ours)
    assert figures["put_p50_ms"] == 5.0
    assert figures["put_p99_ms"] == 6.0
    assert figures["kademlia_put_p50_ms"] == 10.0
    assert figures["put_ratio"] == 2.0
    assert figures["get_ratio"] == 2.0
    assert (figures["failures"], figures["kademlia_failures"]) == (2, 0)
