"""What the measurements share: where the models lie, how a model is cut, and figures of samples."""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Sequence
from pathlib import Path

import platformdirs

from p2pinfer.ids import Span

__all__ = ["cache_directory", "even_spans", "percentile"]


def cache_directory() -> Path:
    """Where pulled models lie: the user's cache directory, or what P2PINFER_CACHE names."""
    named = os.environ.get("P2PINFER_CACHE")
    return Path(named or platformdirs.user_cache_dir("p2pinfer", appauthor=False))


def even_spans(layer_count: int, part_count: int) -> list[Span]:
    """Cut a model's layers into parts whose lengths differ by one at most."""
    cuts = [round(layer_count * n / part_count) for n in range(part_count + 1)]
    return [Span(a, b) for a, b in itertools.pairwise(cuts)]


def percentile(values: Sequence[float], share: float) -> float | None:
    """Return the smallest value that so large a share of them does not exceed; None of none.

    Source: nearest-rank definition, NIST/SEMATECH e-Handbook, section 7.2.6.2.
    """
    ordered = sorted(values)
    return round(ordered[max(0, math.ceil(share * len(ordered)) - 1)], 1) if ordered else None
