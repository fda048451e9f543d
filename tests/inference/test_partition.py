"""Each strategy against all ways to divide, tried one by one, and the rules of its rounding."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pinfer.errors import ConfigError
from p2pinfer.ids import PeerId, Span
from p2pinfer.inference.partition import (
    Share,
    Strategy,
    Worker,
    Workload,
    data,
    iteration_count,
    largest_remainder,
    layerwise,
    layerwise_quick,
    pipeline,
    pipeline_s,
    tensor,
)


def worker(number: int, layer_s: float = 1.0, hop_s: float = 0.0, fits: int = 1024) -> Worker:
    return Worker(peer=PeerId(bytes([number]) * 32), layer_s=layer_s, hop_s=hop_s, layer_count_max=fits)


def slowest(shares: Sequence[Share], workers: Sequence[Worker], weights: Sequence[float]) -> float:
    by_peer = {w.peer: w for w in workers}
    return max(
        by_peer[s.peer].hop_s + by_peer[s.peer].layer_s * sum(weights[s.layers.start : s.layers.end])
        for s in shares
    )


def all_counts(workers: Sequence[Worker], total: int) -> Iterator[list[int]]:
    for counts in itertools.product(*(range(min(total, w.layer_count_max) + 1) for w in workers)):
        if sum(counts) == total:
            yield list(counts)


def best_of_all(workers: Sequence[Worker], weights: Sequence[float]) -> float:
    best = float("inf")
    for counts in all_counts(workers, len(weights)):
        start, times = 0, []
        for w, count in zip(workers, counts, strict=True):
            if count:
                times.append(w.hop_s + w.layer_s * sum(weights[start : start + count]))
            start += count
        best = min(best, max(times))
    return best


def assert_divides(shares: Sequence[Share], workers: Sequence[Worker], layer_count: int) -> None:
    fits = {w.peer: w.layer_count_max for w in workers}
    assert len({share.peer for share in shares}) == len(shares)
    assert shares[0].layers.start == 0
    assert shares[-1].layers.end == layer_count
    assert all(a.layers.end == b.layers.start for a, b in itertools.pairwise(shares))
    assert all(len(share.layers) <= fits[share.peer] for share in shares)


times = st.sampled_from([0.5, 1.0, 1.5, 2.0, 7.0, 0.3])
groups = st.lists(
    st.tuples(times, st.sampled_from([0.0, 0.5, 3.0, 20.0]), st.sampled_from([0, 1, 2, 4, 99])),
    min_size=1,
    max_size=4,
).map(lambda rows: [worker(i, *row) for i, row in enumerate(rows)])


@settings(deadline=None, derandomize=True, max_examples=200)
@given(groups, st.lists(st.sampled_from([0.5, 1.0, 4.0]), min_size=1, max_size=8), st.booleans())
def test_a_division_by_layers_is_the_best_of_all(
    workers: list[Worker], weights: list[float], is_even: bool
) -> None:
    weights = [1.0] * len(weights) if is_even else weights
    workload = Workload(layer_count=len(weights), layer_weights=() if is_even else tuple(weights))
    strategies: list[Strategy] = [layerwise, layerwise_quick] if is_even else [layerwise]
    for strategy in strategies:
        if sum(w.layer_count_max for w in workers) < len(weights):
            with pytest.raises(ConfigError, match="add a peer"):
                strategy(workers, workload)
            continue
        shares = strategy(workers, workload)
        assert_divides(shares, workers, len(weights))
        assert slowest(shares, workers, weights) == pytest.approx(best_of_all(workers, weights))


@settings(deadline=None, derandomize=True, max_examples=100)
@given(
    st.lists(
        st.tuples(st.floats(0.001, 10), st.floats(0, 30), st.integers(0, 60)), min_size=1, max_size=8
    ).map(lambda rows: [worker(i, *row) for i, row in enumerate(rows)])
)
def test_the_quick_way_is_as_good_as_the_exact_one_at_full_size(workers: list[Worker]) -> None:
    if sum(w.layer_count_max for w in workers) < 80:
        return
    workload = Workload(layer_count=80)
    quick, exact = layerwise_quick(workers, workload), layerwise(workers, workload)
    assert_divides(quick, workers, 80)
    one = [1.0] * 80
    assert slowest(quick, workers, one) == pytest.approx(slowest(exact, workers, one))


def test_a_faster_peer_gets_more_layers_and_a_far_one_none() -> None:
    workers = [worker(1, 1.0), worker(2, 0.5), worker(3, 1.0, hop_s=100.0)]
    shares = layerwise(workers, Workload(layer_count=30))
    assert [(s.peer[0], s.layers) for s in shares] == [(1, Span(0, 10)), (2, Span(10, 30))]


def test_the_output_matrix_counts_as_layers_of_the_last() -> None:
    workload = Workload(layer_count=10, layer_weights=(1.0,) * 9 + (5.0,))
    assert [len(s.layers) for s in layerwise([worker(1), worker(2)], workload)] == [7, 3]


def test_the_last_chunk_leaves_after_the_chain_was_filled() -> None:
    """Played through: a stage takes a chunk when the one before gave it and its own last is done."""
    for chunk_count, stage_count in itertools.product((1, 2, 5), (1, 3, 4)):
        done = [[0] * chunk_count for _ in range(stage_count)]
        for stage, chunk in itertools.product(range(stage_count), range(chunk_count)):
            before = done[stage - 1][chunk] if stage else 0
            own = done[stage][chunk - 1] if chunk else 0
            done[stage][chunk] = 1 + max(before, own)
        assert done[-1][-1] == iteration_count(chunk_count, stage_count)


@settings(deadline=None, derandomize=True, max_examples=60)
@given(st.integers(1, 90), st.integers(1, 5), st.sampled_from([0.0, 0.1, 3.0, 50.0]))
def test_a_pipeline_takes_the_chunks_that_are_soonest_done(positions: int, count: int, hop_s: float) -> None:
    workers = [worker(n, 1.0, hop_s) for n in range(count)]
    workload = Workload(layer_count=8, position_count=positions)
    shares = pipeline(workers, workload)
    chosen = shares[0].chunk_positions
    assert chosen is not None
    assert all(share.chunk_positions == chosen for share in shares)
    every = [pipeline_s(shares, workers, workload, size) for size in range(1, positions + 1)]
    assert pipeline_s(shares, workers, workload, chosen) == min(every)


def test_far_peers_get_larger_chunks() -> None:
    workload = Workload(layer_count=8, position_count=512)
    near = pipeline([worker(n, 0.001, 0.0) for n in range(4)], workload)
    far = pipeline([worker(n, 0.001, 0.1) for n in range(4)], workload)
    assert (near[0].chunk_positions or 0) < (far[0].chunk_positions or 0)


def test_replicas_take_requests_by_speed_and_need_room_for_everything() -> None:
    workers = [worker(1, 1.0), worker(2, 0.5, fits=9), worker(3, 0.25)]
    shares = data(workers, Workload(layer_count=10))
    assert [(s.peer[0], s.layers) for s in shares] == [(1, Span(0, 10)), (3, Span(0, 10))]
    assert [s.request_share for s in shares] == pytest.approx([0.2, 0.8])
    with pytest.raises(ConfigError, match="no peer holds all 10 layers"):
        data([worker(2, fits=9)], Workload(layer_count=10))


@settings(deadline=None, derandomize=True, max_examples=200)
@given(st.lists(times, min_size=1, max_size=6), st.integers(1, 12), st.integers(1, 300), st.integers(1, 64))
def test_heads_and_columns_are_divided_without_a_rest(
    layer_times: list[float], heads: int, columns: int, block: int
) -> None:
    workers = [worker(n, layer_s) for n, layer_s in enumerate(layer_times)]
    workload = Workload(layer_count=4, kv_head_count=heads, ffn_column_count=columns, ffn_block_size=block)
    shares = tensor(workers, workload)
    for spans, total in (
        ([s.kv_heads for s in shares], heads),
        ([s.ffn_columns for s in shares], columns),
    ):
        covered = [n for span in spans if span for n in range(span.start, span.end)]
        assert covered == list(range(total))
        assert all(spans)
    assert all(s.ffn_columns.start % block == 0 for s in shares if s.ffn_columns)
    left_out = {w.peer for w in workers} - {s.peer for s in shares}
    speeds = {w.peer: 1 / w.layer_s for w in workers}
    assert all(speeds[out] <= speeds[s.peer] for out in left_out for s in shares)


@settings(deadline=None, derandomize=True, max_examples=200)
@given(st.lists(st.floats(0.001, 1000), min_size=1, max_size=9), st.integers(0, 500))
def test_largest_remainder_keeps_every_quota(weights: list[float], total: int) -> None:
    counts = largest_remainder(weights, total)
    assert sum(counts) == total
    for weight, count in zip(weights, counts, strict=True):
        assert abs(count - weight * total / sum(weights)) < 1 + 1e-6


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ConfigError):
        Workload(layer_count=0)
    with pytest.raises(ConfigError, match="one above 0 for each of 2 layers"):
        Workload(layer_count=2, layer_weights=(1.0,))
    with pytest.raises(ConfigError):
        Workload(layer_count=1, ffn_block_size=0)
    with pytest.raises(ConfigError):
        worker(1, layer_s=0.0)
    with pytest.raises(ConfigError):
        tensor([], Workload(layer_count=1))
