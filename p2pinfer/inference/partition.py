"""Partitions: how a group of peers divides one model's work, by strategies behind one type.

    layerwise        contiguous spans of layers; exact for layers of different weight, in the peers' order
    layerwise_quick  the same for layers of equal weight, some hundred times faster and exact there as well
    pipeline         layerwise, and the prompt cut in chunks that overlap along the chain
    data             each peer holds the whole model and takes its part of the requests
    tensor           each peer computes some heads and columns of every layer

The time of a stage is `hop_s + layer_s * weight of its layers`; what is made small is the slowest stage's
time, which bounds how many tokens leave the chain a second. A single token passes through all stages in turn,
so its time is their sum, and there the fewest hops win: that is the planner's matter, not a partition's.

Departs from exo (layers in proportion to memory, whatever the speed) and Parallax (in proportion to FLOPS by
water-filling with rounding; the way between peers counts nothing). Plain functions over frozen values.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from p2pinfer.errors import ConfigError
from p2pinfer.ids import PeerId, Span

__all__ = [
    "Share",
    "Strategy",
    "Worker",
    "Workload",
    "data",
    "iteration_count",
    "largest_remainder",
    "layerwise",
    "layerwise_quick",
    "pipeline",
    "pipeline_s",
    "tensor",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Worker:
    """A peer as a partition sees it."""

    peer: PeerId
    layer_s: float
    """Time of one position through one layer of weight 1. Above 0."""
    hop_s: float = 0.0
    """Time that each pass through it costs besides: the way there, and waking up."""
    layer_count_max: int = 1024
    """Layers that fit into its memory."""

    def __post_init__(self) -> None:
        if not self.layer_s > 0 or not self.hop_s >= 0 or self.layer_count_max < 0:
            raise ConfigError(
                f"layer_s is {self.layer_s}, hop_s {self.hop_s} and layer_count_max {self.layer_count_max}, "
                "but layer_s must be above 0 and the others not below"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """What is divided."""

    layer_count: int
    layer_weights: tuple[float, ...] = ()
    """Cost of each layer relative to the common one, where they differ: the last carries the output matrix.
    Empty means that all are 1. Each above 0."""
    position_count: int = 512
    """Positions of a prompt, for the strategy that cuts it."""
    kv_head_count: int = 1
    """KV heads of a layer; query heads follow theirs."""
    ffn_column_count: int = 1
    ffn_block_size: int = 1
    """Columns that cannot be parted, because they are quantised together: 32 or 256 in GGUF."""

    def __post_init__(self) -> None:
        counts = (self.layer_count, self.position_count, self.kv_head_count, self.ffn_column_count)
        if min(*counts, self.ffn_block_size) < 1:
            raise ConfigError(
                f"layer, position, head, column counts and block size are at least 1, not {self}"
            )
        if self.layer_weights and (
            len(self.layer_weights) != self.layer_count or not min(self.layer_weights) > 0
        ):
            raise ConfigError(
                f"layer_weights has {len(self.layer_weights)} values, but must have one above 0 for each of "
                f"{self.layer_count} layers"
            )


@dataclass(frozen=True, slots=True)
class Share:
    """What one peer computes; the defaults stand for all of it."""

    peer: PeerId
    layers: Span
    request_share: float = 1.0
    """The part of all requests that it takes."""
    chunk_positions: int | None = None
    """Positions of one micro-batch; None takes a prompt at once."""
    kv_heads: Span | None = None
    ffn_columns: Span | None = None


Strategy = Callable[[Sequence[Worker], Workload], tuple[Share, ...]]
"""Divides a workload. Peers that get nothing are left out. Raises ConfigError where it does not fit."""


def layerwise(workers: Sequence[Worker], workload: Workload) -> tuple[Share, ...]:
    """Cut the layers in contiguous spans, in the order of `workers`, so that the slowest stage is fastest.

    Dynamic programming over (peers so far, layers so far). The best for the peers before falls as they take
    fewer layers while the next one's own time rises, so the best cut lies where the two cross, and the
    crossing only moves forward: O(peers * layers).

    Raises:
        ConfigError: The layers do not fit into the memory of all together.
    """
    _check_memory(workers, workload)
    count = workload.layer_count
    ends = list(itertools.accumulate(workload.layer_weights or (1.0,) * count, initial=0.0))
    infinite = float("inf")
    best = [0.0] + [infinite] * count
    cuts: list[list[int]] = []
    for worker in workers:
        layer_s, hop_s, fits = worker.layer_s, worker.hop_s, worker.layer_count_max
        improved, starts = best.copy(), list(range(count + 1))
        start = 0
        for end in range(1, count + 1):
            start = max(start, end - fits)
            limit = ends[end] * layer_s + hop_s
            while start < end and best[start] < limit - ends[start] * layer_s:
                start += 1
            # Here, or one before: where the two cross.
            for cut in (start - 1, start):
                if max(0, end - fits) <= cut < end:
                    slowest = max(best[cut], limit - ends[cut] * layer_s)
                    if slowest < improved[end]:
                        improved[end], starts[end] = slowest, cut
        best = improved
        cuts.append(starts)
    counts, end = [], count
    for starts in reversed(cuts):
        counts.append(end - starts[end])
        end = starts[end]
    return _in_order(workers, counts[::-1])


def layerwise_quick(workers: Sequence[Worker], workload: Workload) -> tuple[Share, ...]:
    """Like `layerwise` for layers that all weigh the same; `layer_weights` are not looked at.

    Each peer is given what it can do within a common time, which is found as if layers could be parted
    (water-filling); what rounding leaves goes one by one to where it costs least. The slowest stage then is
    the `layer_count`-th smallest of all times that a stage of some peer can take: none can be faster.

    Raises:
        ConfigError: The layers do not fit into the memory of all together.
    """
    _check_memory(workers, workload)
    rows = [(w.layer_s, w.hop_s, w.layer_count_max) for w in workers]
    level = _level(rows, workload.layer_count)
    counts = [max(0, min(fits, int((level - hop_s) / layer_s))) for layer_s, hop_s, fits in rows]
    _settle(workers, counts, workload.layer_count)
    return _in_order(workers, counts)


def pipeline(workers: Sequence[Worker], workload: Workload) -> tuple[Share, ...]:
    """Divide by layers, and cut the prompt in the chunks that make the whole prompt's time smallest.

    Small chunks fill the chain sooner, but each costs the way between peers once more. Of the sizes that give
    one number of chunks the smallest is the fastest.

    Raises:
        ConfigError: The layers do not fit into the memory of all together.
    """
    shares = layerwise(workers, workload)
    positions = workload.position_count
    sizes = {-(-positions // chunk_count) for chunk_count in range(1, positions + 1)}
    best = min(sizes, key=lambda size: (pipeline_s(shares, workers, workload, size), -size))
    return tuple(replace(share, chunk_positions=best) for share in shares)


def pipeline_s(
    shares: Sequence[Share], workers: Sequence[Worker], workload: Workload, chunk_positions: int
) -> float:
    """Expected time of a prompt in chunks of this size: iterations times the slowest stage's time of one."""
    by_peer = {worker.peer: worker for worker in workers}
    weights = workload.layer_weights or (1.0,) * workload.layer_count
    slowest_s = max(
        by_peer[share.peer].hop_s
        + chunk_positions * by_peer[share.peer].layer_s * sum(weights[share.layers.start : share.layers.end])
        for share in shares
    )
    chunk_count = -(-workload.position_count // chunk_positions)
    return iteration_count(chunk_count, len(shares)) * slowest_s


def iteration_count(chunk_count: int, stage_count: int) -> int:
    """Iterations until the last chunk leaves the last stage: the chain fills while the first ones pass.

    Source: GPipe (Huang et al., 2019), section 2.3: the idle part is (K - 1) / (M + K - 1).
    """
    return chunk_count + stage_count - 1


def data(workers: Sequence[Worker], workload: Workload) -> tuple[Share, ...]:
    """Give the whole model to everyone who has room for it, and requests in proportion to speed.

    Raises:
        ConfigError: Nobody has room for all layers.
    """
    able = [worker for worker in workers if worker.layer_count_max >= workload.layer_count]
    if not able:
        raise ConfigError(f"no peer holds all {workload.layer_count} layers: divide by layers instead")
    weight = sum(workload.layer_weights) or workload.layer_count
    speeds = [1 / (worker.hop_s + weight * worker.layer_s) for worker in able]
    whole = Span(0, workload.layer_count)
    return tuple(
        Share(worker.peer, whole, request_share=speed / sum(speeds))
        for worker, speed in zip(able, speeds, strict=True)
    )


def tensor(workers: Sequence[Worker], workload: Workload) -> tuple[Share, ...]:
    """Divide the KV heads and the FFN columns of every layer in proportion to speed, by largest remainder.

    Who would get no head or no column is left out, the slowest first: it would only be waited for. Each peer
    holds a part of every layer, so `layer_count_max` is in proportion to its part.

    Raises:
        ConfigError: There is no peer.
    """
    if not workers:
        raise ConfigError("a layer is divided among at least one peer, not 0")
    blocks = -(-workload.ffn_column_count // workload.ffn_block_size)
    chosen = list(workers)
    while True:
        speeds = [1 / worker.layer_s for worker in chosen]
        heads, columns = largest_remainder(speeds, workload.kv_head_count), largest_remainder(speeds, blocks)
        if len(chosen) == 1 or min(*heads, *columns) > 0:
            break
        chosen.remove(max(chosen, key=lambda worker: (worker.layer_s, worker.peer)))
    whole = Span(0, workload.layer_count)
    shares, head, block = [], 0, 0
    for worker, head_count, block_count in zip(chosen, heads, columns, strict=True):
        size = workload.ffn_block_size
        kv_heads = Span(head, head + head_count)
        ffn_columns = Span(block * size, min((block + block_count) * size, workload.ffn_column_count))
        shares.append(Share(worker.peer, whole, kv_heads=kv_heads, ffn_columns=ffn_columns))
        head, block = head + head_count, block + block_count
    return tuple(shares)


def largest_remainder(weights: Sequence[float], total: int) -> list[int]:
    """Divide `total` in proportion to the weights; each gets its quota rounded down, or one more.

    Source: Hamilton's method of apportionment. Among equal remainders the earlier one is preferred.
    """
    quotas = [weight * total / sum(weights) for weight in weights]
    counts = [int(quota) for quota in quotas]
    by_remainder = sorted(range(len(quotas)), key=lambda i: (counts[i] - quotas[i], i))
    for index in by_remainder[: total - sum(counts)]:
        counts[index] += 1
    return counts


def _check_memory(workers: Sequence[Worker], workload: Workload) -> None:
    room = sum([worker.layer_count_max for worker in workers])
    if room < workload.layer_count:
        raise ConfigError(
            f"the peers hold {room} layers together, but the model has {workload.layer_count}: add a peer"
        )


def _level(rows: Sequence[tuple[float, float, int]], layer_count: int) -> float:
    """Return a time within which the peers would do about `layer_count` layers, could layers be parted.

    Found without whoever is full, or too far to be of use, until the others stay the same.
    """
    level = 0.0
    while rows:
        speed = sum([1 / layer_s for layer_s, _, _ in rows])
        level = (layer_count + sum([hop_s / layer_s for layer_s, hop_s, _ in rows])) / speed
        still = [row for row in rows if row[1] < level < row[1] + row[2] * row[0]]
        if len(still) == len(rows):
            break
        layer_count -= sum([fits for layer_s, hop_s, fits in rows if level >= hop_s + fits * layer_s])
        rows = still
    return level


def _settle(workers: Sequence[Worker], counts: list[int], total: int) -> None:
    """Give the layers that rounding left over to whoever computes them soonest, or take back the latest."""
    rows = [(w.hop_s, w.layer_s, i) for i, w in enumerate(workers)]
    for _ in range(total - sum(counts)):
        _, index = min(
            [
                (hop_s + (counts[i] + 1) * layer_s, i)
                for hop_s, layer_s, i in rows
                if counts[i] < workers[i].layer_count_max
            ]
        )
        counts[index] += 1
    for _ in range(sum(counts) - total):
        _, index = max([(hop_s + counts[i] * layer_s, i) for hop_s, layer_s, i in rows if counts[i]])
        counts[index] -= 1


def _in_order(workers: Sequence[Worker], counts: Sequence[int]) -> tuple[Share, ...]:
    shares, start = [], 0
    for worker, count in zip(workers, counts, strict=True):
        if count:
            shares.append(Share(worker.peer, Span(start, start + count)))
            start += count
    return tuple(shares)
