"""The benchmark of kills and stops with a tiny model: it runs, and what it counts is what was done."""

from __future__ import annotations

import random
import signal
from pathlib import Path

import pytest

from benchmarks.kills import Plan, Question, measure
from tests.e2e.conftest import TINY

pytestmark = pytest.mark.e2e

QUESTIONS = (
    Question(prompt="hello", token_count=200),
    Question(prompt="a longer prompt " * 4, token_count=150, sampling={"temperature": 0.9, "seed": 3}),
)


async def test_kills_and_stops_change_no_text(tiny_cache: Path) -> None:
    plan = Plan(model=TINY, cache_dir=tiny_cache, kills=2, stops=1, holders=2, questions=QUESTIONS)
    result = await measure(plan)
    assert result["failures"] == result["equal"] == 3
    assert result["killed"]["count"] == sum(result["killed"]["by_place_in_the_chain"].values()) == 2
    assert result["stopped"]["count"] == 1
    # A process that is stopped leaves its connections open: only a deadline finds it.
    assert result["stopped"]["pause_ms_max"] is None or result["stopped"]["pause_ms_max"] > 500


def test_the_failures_are_drawn_from_the_seed(tmp_path: Path) -> None:
    plan = Plan(model=TINY, cache_dir=tmp_path, kills=6, stops=4)
    drawn = plan.signals(random.Random(1))
    assert sorted(drawn) == [signal.SIGKILL] * 6 + [signal.SIGSTOP] * 4
    assert drawn == plan.signals(random.Random(1)) != plan.signals(random.Random(2))
