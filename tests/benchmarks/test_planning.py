"""The benchmark of decisions runs and measures each of them."""

from __future__ import annotations

from benchmarks.planning import measure


def test_every_decision_is_measured() -> None:
    figures = measure(round_count=1)
    assert set(figures) == {
        "round_robin_pick_us",
        "chain_1000_holders_ms",
        "chain_1000_placed_ms",
        "places_1000_ms",
        "partition_8x80_us",
        "partition_exact_8x80_ms",
        "placement_1000_ms",
    }
    assert all(value > 0 for value in figures.values())
