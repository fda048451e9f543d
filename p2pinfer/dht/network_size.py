"""How many peers the network has, from how near to a key the nearest of them stand.

Ids are hashes, so peers are spread evenly: in a network of n the i-th nearest to any key stands, on the
average, at i / (n + 1) of the key space. Each lookup that found k peers gives an estimate, the least-squares
slope of that line; the median of the last ones is taken, so that a lookup which liars led astray counts for
nothing as long as it is one of few. It is never less than the peers that we have heard of: while a network
grows, the past tells too little.

Source: Optimistic Provide (Trautwein et al., INFOCOM 2024) and go-libp2p-kad-dht's `netsize`.
"""

from __future__ import annotations

import math
import statistics
from collections import OrderedDict
from collections.abc import Callable, Sequence

from p2pinfer.dht.keyspace import KEY_SIZE_BITS, distance
from p2pinfer.ids import Contact

__all__ = ["NetworkSize"]

_SPACE = 2.0**KEY_SIZE_BITS
_WINDOW_COUNT = 15
"""Lookups of different keys that count."""
_READY_COUNT = 5
"""Fewer say nothing: an estimate from one key has a standard deviation of a fifth."""


class NetworkSize:
    """A running estimate of the number of peers, this one included.

    Args:
        k: Peers that a lookup finds.
        known: Says how many others this peer has heard of.
    """

    def __init__(self, k: int, known: Callable[[], int]) -> None:
        self._k = k
        self._known = known
        self._estimates: OrderedDict[bytes, float] = OrderedDict()
        self._median = 0.0

    @property
    def estimate(self) -> float | None:
        """Peers in the network; None while too few lookups have ended."""
        if len(self._estimates) < _READY_COUNT:
            return None
        return max(1.0 + self._known(), self._median)

    def found(self, key: bytes, nearest: Sequence[Contact]) -> None:
        """Take the result of a lookup: who is nearest to a key, nearest first."""
        if len(nearest) < self._k:
            # Fewer than k answered: that is all there are, and no slope says more.
            self._keep(key, 1.0 + len(nearest))
            return
        places = [distance(each.peer or b"", key) / _SPACE for each in nearest[: self._k]]
        weighted = math.fsum(rank * place for rank, place in enumerate(places, 1))
        squares = sum(rank * rank for rank in range(1, self._k + 1))
        self._keep(key, squares / weighted - 1.0 if weighted > 0 else 0.0)

    def distance_of(self, rank: int) -> float | None:
        """How far off the peer of that rank (1 is the nearest) should stand; None while nothing is known."""
        size = self.estimate
        return None if size is None else rank / (size + 1.0) * _SPACE

    def likelihood_among_nearest(self, distance_to_key: int) -> float:
        """How likely a peer at that distance is one of the k nearest to the key; 0 while nothing is known."""
        size = self.estimate
        if size is None:
            return 0.0
        return _poisson_below(self._k, (size - 1.0) * distance_to_key / _SPACE)

    def likelihood_so_near(self, nearest: Sequence[Contact], key: bytes) -> float:
        """How likely k honest peers stand as near to the key as these do; 1 while nothing is known.

        Next to nothing means that ids were ground to surround the key.
        """
        if self.estimate is None or len(nearest) < self._k or nearest[self._k - 1].peer is None:
            return 1.0
        # The largest of late: where a network grows, older estimates would take every key for surrounded.
        size = max(1.0 + self._known(), *self._estimates.values())
        farthest = distance(nearest[self._k - 1].peer or b"", key)
        return 1.0 - _poisson_below(self._k, (size - 1.0) * farthest / _SPACE)

    def _keep(self, key: bytes, estimate: float) -> None:
        self._estimates[key] = estimate
        self._estimates.move_to_end(key)
        if len(self._estimates) > _WINDOW_COUNT:
            self._estimates.popitem(last=False)
        self._median = statistics.median(self._estimates.values())


def _poisson_below(count: int, mean: float) -> float:
    """The probability of fewer than `count` events where `mean` are expected."""
    if mean > 700.0:
        return 0.0  # far beyond any k, and exp would vanish
    term = total = math.exp(-mean)
    for index in range(1, count):
        term *= mean / index
        total += term
    return min(1.0, total)
