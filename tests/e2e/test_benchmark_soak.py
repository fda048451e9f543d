"""The soak with a tiny model for some seconds: all of it runs, and nothing is lost or wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.soak import Plan, measure
from p2pinfer.models.store import ModelStore
from tests.e2e.conftest import TINY
from tests.models.tiny import write_tiny_llama

pytestmark = pytest.mark.e2e


async def test_some_seconds_of_trouble_lose_nothing(tmp_path: Path) -> None:
    # Two hundred words are a thousand tokens here: more than the context that the other tests share.
    path = write_tiny_llama(tmp_path / "tiny.gguf", layers=6, context_length=4096, seed=7)
    ModelStore(tmp_path / "models").import_file(path, TINY)
    plan = Plan(model=TINY, cache_dir=tmp_path, duration_s=12, holders=2, cases=8, token_count_max=40)
    result = await measure(plan)
    assert result["passed"], result
    assert result["answers"] > 0
    assert result["left_early"] > 0
    assert result["trouble"]["join"] >= 3
    assert sum(result["trouble"].values()) > 4
    assert len(result["memory"]) == 4
    assert all(row["mib_at_the_end"] > 10 for row in result["memory"])
