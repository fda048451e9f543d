"""Counts of what happened within the last seconds, in a bounded memory."""

from __future__ import annotations

from collections import Counter, deque
from typing import Generic, TypeVar

__all__ = ["SlidingCounts"]

K = TypeVar("K")

_SLICE_COUNT = 10
"""Slices that a window is kept in: what is counted is at most a tenth of the window too old or too young."""


class SlidingCounts(Generic[K]):
    """How often each kind of event happened within the last `window_s`, to a slice of a tenth of it."""

    def __init__(self, window_s: float) -> None:
        self._slice_s = window_s / _SLICE_COUNT
        self._slices: deque[tuple[int, Counter[K]]] = deque()
        self._totals: Counter[K] = Counter()

    def add(self, kind: K, now: float) -> None:
        """Count one event."""
        self._forget(now)
        number = int(now // self._slice_s)
        if not self._slices or self._slices[-1][0] < number:
            self._slices.append((number, Counter()))
        self._slices[-1][1][kind] += 1
        self._totals[kind] += 1

    def count(self, kind: K, now: float) -> int:
        """Return how many events of a kind lie within the window that ends now."""
        self._forget(now)
        return self._totals[kind]

    def clear(self) -> None:
        """Forget everything."""
        self._slices.clear()
        self._totals.clear()

    def _forget(self, now: float) -> None:
        oldest = int(now // self._slice_s) - _SLICE_COUNT
        while self._slices and self._slices[0][0] <= oldest:
            self._totals.subtract(self._slices.popleft()[1])
