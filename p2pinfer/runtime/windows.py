"""Counting over the last seconds: rates and distributions that forget.

Time is cut into slices of equal length; a slice is forgotten as a whole when it leaves the window. Memory is
therefore bounded by the window, however much happens. Times are handed in, as to every core, and never go
backwards.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Hashable
from typing import Generic, TypeVar

__all__ = ["SlidingCounts"]

K = TypeVar("K", bound=Hashable)


class SlidingCounts(Generic[K]):
    """How much of each kind happened in the last `length_s` seconds.

    Args:
        now: When the counting begins.
        length_s: How far back it can be asked.
        slice_s: How finely: a window is exact to one slice.
    """

    def __init__(self, now: float, *, length_s: float = 60.0, slice_s: float = 1.0) -> None:
        self._began_at = now
        self._length_s = length_s
        self._slice_s = slice_s
        self._slices: deque[tuple[int, Counter[K]]] = deque()

    def add(self, kind: K, now: float, amount: int = 1) -> None:
        """Count something."""
        number = self._number(now)
        if not self._slices or self._slices[-1][0] != number:
            self._forget(number)
            self._slices.append((number, Counter()))
        self._slices[-1][1][kind] += amount

    def counts(self, now: float, last_s: float) -> Counter[K]:
        """What happened in the last `last_s` seconds, by kind; a copy."""
        first = self._first(self._number(now), last_s)
        total: Counter[K] = Counter()
        for number, counts in self._slices:
            if number >= first:
                total.update(counts)
        return total

    def rate(self, kind: K, now: float, last_s: float) -> float:
        """How much of a kind happened in a second, over the last `last_s` or since the counting began."""
        first = self._first(self._number(now), last_s)
        began_at = max(first * self._slice_s, self._began_at)
        # The first slice is short; a rate over a thousandth of it would be noise.
        duration_s = max(now - began_at, self._slice_s)
        return self.counts(now, last_s)[kind] / duration_s

    def _number(self, now: float) -> int:
        return int(now // self._slice_s)

    def _first(self, number: int, last_s: float) -> int:
        """The oldest slice of a window that ends with slice `number`."""
        return number - max(1, round(min(last_s, self._length_s) / self._slice_s)) + 1

    def _forget(self, number: int) -> None:
        while self._slices and self._slices[0][0] < self._first(number, self._length_s):
            self._slices.popleft()
