"""Placement: which layers a peer should hold, given what the others hold.

A layer's coverage is the sum of its holders' rates, in passes a second. Rules:

1. What is held worst comes first: a model that nobody can run whole is worth nothing, so gaps are filled
   before anything is doubled.
2. Who has its layers keeps them, since to move is to read weights again and to lose sessions. A move must be
   worth it: it closes a gap; or, where the weakest layers have less than `ENOUGH` of what an even division
   would give, it lifts some of them by more than `MARGIN`, and lets no layer fall below the weakest.
3. One peer moves at a time. Who and where follows from the present holdings alone, so peers with equal views
   name the same one, and only that one acts.

Every move makes (layers without holder, distance from these to layers with two) or (weakest coverage, layers
near it) strictly better in lexicographic order, so moves end, whatever the order: no oscillation. Gaps close
whenever there is room: while a layer has none and another has two holders, a peer beside the double layer can
be shifted towards the gap without a loss, and the double layer comes nearer until it fills the gap.

Departs from Petals (`block_selection.py`): there each server alone draws a time, simulates all others and
moves if the bottleneck gains a third, so several move at once, undo each other's moves, and start again.

Plain functions over frozen values.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, repeat

from p2pinfer.ids import PeerId, Span
from p2pinfer.inference.partition import Worker
from p2pinfer.inference.planner import missing_layers

__all__ = ["Handover", "Resident", "choose_move", "choose_span", "handover", "place"]

MARGIN = 0.25
"""How much more than the weakest a layer must have to count as weak no longer."""
ENOUGH = 0.5
"""The part of even coverage with which the weakest layer is left alone."""
_RATE_UNIT = 1e-6
"""Rates are counted in whole millionths, so that to take one away gives back what was before."""


@dataclass(frozen=True, slots=True)
class Resident:
    """A peer and the layers that it holds, or should hold."""

    peer: PeerId
    span: Span
    rate: float = 1.0
    """Passes through its whole span that it computes a second; any unit does if all use the same."""
    may_move: bool = True
    """False where a person said which layers it holds, and while it loads."""


@dataclass(frozen=True, slots=True)
class Handover:
    """What must happen before a peer that drains may stop serving."""

    takers: tuple[Resident, ...]
    """Who must load which span first, in this order."""
    orphaned: tuple[Span, ...]
    """Layers that nobody else has room for: with the peer they go."""


def choose_span(
    layer_count: int, capacity: int, held: Iterable[Span], rates: Iterable[float] = repeat(1.0)
) -> Span:
    """Return the window of layers that the swarm lacks most.

    Args:
        layer_count: Layers of the whole model.
        capacity: Layers that this peer can hold; at least 1.
        held: What the other live peers hold of the same model, one span for each.
        rates: The rates of these peers; equal if not given.

    The window holds the most of the weakest layers; among those, the least coverage; among those it is the
    lowest, so that peers that come one after another fill the model in order.
    """
    coverage = [0] * layer_count
    for span, rate in zip(held, rates, strict=False):
        _add(coverage, span, _units(rate))
    return _weakest_window(coverage, max(1, min(capacity, layer_count)))


def place(layer_count: int, workers: Iterable[Worker]) -> tuple[Resident, ...]:
    """Place a whole swarm at once, those with the most room first; ties by PeerId.

    The first ones lie end to end, so all layers have a holder if the room is enough.
    """
    coverage = [0] * layer_count
    residents = []
    for worker in sorted(workers, key=lambda w: (-w.layer_count_max, w.peer)):
        length = min(worker.layer_count_max, layer_count)
        if length:
            span = _weakest_window(coverage, length)
            rate = 1 / (worker.hop_s + length * worker.layer_s)
            _add(coverage, span, _units(rate))
            residents.append(Resident(worker.peer, span, rate))
    return tuple(residents)


def choose_move(layer_count: int, residents: Iterable[Resident]) -> Resident | None:
    """Return the one peer that should move now, with the span that it should hold then; None for nobody.

    A peer that is about to hold layers counts as if it did: announce a span before loading it. Leave out who
    drains: others must come to hold its layers.
    """
    swarm = sorted(residents, key=lambda r: r.peer)
    if not swarm:
        return None
    holders = [0] * layer_count
    for resident in swarm:
        _add(holders, resident.span, 1)
    movers = [r for r in swarm if r.may_move and r.span.end <= layer_count]
    if not min(holders):
        return _lifting_move([(r, 1) for r in movers], holders) or _shifting_move(movers, holders)
    coverage = [0] * layer_count
    for resident in swarm:
        _add(coverage, resident.span, _units(resident.rate))
    if min(coverage) >= ENOUGH * sum(coverage) / layer_count:
        return None
    return _lifting_move([(r, _units(r.rate)) for r in movers], coverage)


def handover(layer_count: int, residents: Iterable[Resident], leaving: PeerId) -> Handover:
    """Say who must take over which layers before a peer may stop serving.

    It may stop once every taker serves its span; at once where there is none. What is orphaned without it
    was so before, or there is not enough room: that is for a person to decide.
    """
    swarm = {resident.peer: resident for resident in residents if resident.peer != leaving}
    takers: dict[PeerId, Resident] = {}
    whole = Span(0, layer_count)
    while missing_layers((r.span for r in swarm.values()), whole):
        move = choose_move(layer_count, swarm.values())
        if move is None:
            break
        swarm[move.peer] = takers[move.peer] = move
    return Handover(tuple(takers.values()), missing_layers((r.span for r in swarm.values()), whole))


def _units(rate: float) -> int:
    return max(1, round(rate / _RATE_UNIT))


def _add(coverage: list[int], span: Span, units: int) -> None:
    """Add to every layer of a span; what is beyond the model is ignored."""
    start, end = span.start, span.end
    coverage[start:end] = [value + units for value in coverage[start:end]]


def _weakest_window(coverage: Sequence[int], length: int) -> Span:
    limit = min(coverage) * (1 + MARGIN)
    weak = [0, *accumulate([value <= limit for value in coverage])]
    total = [0, *accumulate(coverage)]
    keys = [
        (weak_start - weak_end, end - start)
        for weak_start, weak_end, start, end in zip(weak, weak[length:], total, total[length:], strict=False)
    ]
    start = keys.index(min(keys))
    return Span(start, start + length)


def _lifting_move(movers: Iterable[tuple[Resident, int]], coverage: Sequence[int]) -> Resident | None:
    """Return the move that leaves the fewest weak layers, if fewer than now; then, that reads the fewest new.

    `movers` come with their part in the coverage.
    """
    layer_count, worst = len(coverage), min(coverage)
    limit = worst * (1 + MARGIN)
    fewest, shortest = sum([value <= limit for value in coverage]), 0
    best: Resident | None = None
    for resident, units in movers:
        start, length = resident.span.start, len(resident.span)
        rest = list(coverage)
        _add(rest, resident.span, -units)
        weak_count = sum([value <= limit for value in rest])
        lifted = [0, *accumulate([limit - units < value <= limit for value in rest])]
        if weak_count - length > fewest:
            continue
        below = [layer for layer, value in enumerate(rest) if value < worst]
        low, high = (max(0, below[-1] + 1 - length), below[0]) if below else (0, layer_count - length)
        for to in range(low, min(high, layer_count - length) + 1):
            after = weak_count - lifted[to + length] + lifted[to]
            distance = min(length, abs(to - start))
            if after < fewest or (after == fewest and distance < shortest):
                fewest, shortest = after, distance
                best = replace(resident, span=Span(to, to + length))
    return best


def _shifting_move(movers: Iterable[Resident], holders: Sequence[int]) -> Resident | None:
    """Return the move that loses no layer and brings one with two holders nearest to one without any.

    Where no move fills a gap, everybody is the only holder of something, so the movers are few.
    """
    layer_count = len(holders)
    nearest, gap_count = _gap_distance(holders), holders.count(0)
    best: Resident | None = None
    for resident in movers:
        length = len(resident.span)
        rest = list(holders)
        _add(rest, resident.span, -1)
        for to in range(layer_count - length + 1):
            if rest.count(0) - rest[to : to + length].count(0) > gap_count:
                continue
            span = Span(to, to + length)
            moved = rest.copy()
            _add(moved, span, 1)
            distance = _gap_distance(moved)
            if distance < nearest:
                nearest, best = distance, replace(resident, span=span)
    return best


def _gap_distance(holders: Sequence[int]) -> int:
    """Return the least distance between a layer without holder and one with two; if none, more than any."""
    gaps = [layer for layer, count in enumerate(holders) if not count]
    doubles = [layer for layer, count in enumerate(holders) if count > 1]
    return min([abs(gap - double) for gap in gaps for double in doubles], default=len(holders))
