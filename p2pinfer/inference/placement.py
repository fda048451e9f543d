"""Placement: which layers a peer that may choose should hold, given what the others hold.

Plain functions. What is held worst comes first: a model that nobody can run whole is worth nothing, so gaps
are filled before anything is doubled. Source: `block_selection.py` of Petals, which also chooses the window
whose sorted coverage is smallest.
"""

from __future__ import annotations

from collections.abc import Iterable

from p2pinfer.ids import Span

__all__ = ["choose_span"]


def choose_span(layer_count: int, capacity: int, held: Iterable[Span]) -> Span:
    """Return the window of layers that the swarm lacks most.

    Args:
        layer_count: Layers of the whole model.
        capacity: Layers that this peer can hold; at least 1.
        held: What the other live peers hold of the same model, one span for each.

    The lowest window wins among equals, so that peers that come one after another fill the model in order.
    """
    length = max(1, min(capacity, layer_count))
    coverage = [0] * layer_count
    for span in held:
        for layer in range(span.start, min(span.end, layer_count)):
            coverage[layer] += 1
    starts = range(layer_count - length + 1)
    start = min(starts, key=lambda s: (sorted(coverage[s : s + length]), s))
    return Span(start, start + length)
