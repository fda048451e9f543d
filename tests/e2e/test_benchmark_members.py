"""Six real members without layers for some seconds: who is killed is noticed, and all agree in the end."""

from __future__ import annotations

import pytest

from benchmarks.members import Plan, measure

pytestmark = pytest.mark.e2e


async def test_killed_members_are_noticed_and_come_back() -> None:
    result = await measure(Plan(nodes=6, duration_s=8, seed=3))
    assert result["passed"], result
    assert result["kills"] >= 2
    assert result["noticed"] >= 1
    assert result["detected_ms_p50"] < 10_000
    assert result["views_equal_after_s"] is not None
